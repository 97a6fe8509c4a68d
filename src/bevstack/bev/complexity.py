"""Parameters and multiply-accumulates of a rung, counted by running it once on zeros."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .config import FastBEVConfig
from .network import FastBEVNet


@dataclass(frozen=True)
class Complexity:
    """``parameters``; convolution MACs of one instant: ``image`` (all cameras once), ``bev`` (encoder and head)."""

    parameters: int
    image: int
    bev: int

    @property
    def total(self) -> int:
        return self.image + self.bev


def complexity(config: FastBEVConfig) -> Complexity:
    """Counts one cached instant of ``config``. Meta tensors: nothing is computed, so M5 takes no longer than nano."""
    macs = [0]

    def count(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        per_output = module.in_channels // module.groups * math.prod(module.kernel_size)
        macs[0] += output.numel() * per_output

    with torch.device("meta"), torch.no_grad():
        net = FastBEVNet(config).eval()
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(count)
        net.feature_levels(torch.zeros(config.cameras, 3, *config.image_hw))
        image, macs[0] = macs[0], 0
        net.head_maps(torch.zeros(1, config.volume_channels, config.grid.n[0], config.grid.n[1]))
    return Complexity(sum(p.numel() for p in net.parameters()), image, macs[0])


if __name__ == "__main__":
    from bevstack.pipe import end_with_reader

    from .config import CONFIGS

    end_with_reader()
    print(f"{'rung':14} {'params M':>9} {'image GMAC':>11} {'bev GMAC':>9} {'total':>7}")
    for name, entry in CONFIGS.items():
        c = complexity(entry)
        print(f"{name:14} {c.parameters / 1e6:9.3f} {c.image / 1e9:11.2f} {c.bev / 1e9:9.2f} {c.total / 1e9:7.2f}")
