"""Parameters and multiply-accumulates of a rung, counted on tensors without content: D29 takes no longer than nano."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .config import GiraffeDetConfig
from .network import GiraffeDetNet
from .postprocess import level_cells


@dataclass(frozen=True)
class Complexity:
    """``parameters``; convolution MACs of one image: ``backbone``, ``neck``, ``head``.

    ``biases``: additions of the head's biases, which the published table counts among its FLOPs, as it does activations
    and poolings (190.67 here + 0.004 biases + 0.095 others = its 190.77 G for D7 at 1280x768).
    """

    parameters: int
    backbone: int
    neck: int
    head: int
    biases: int

    @property
    def macs(self) -> int:
        return self.backbone + self.neck + self.head


def complexity(config: GiraffeDetConfig, canvas: tuple[int, int] | None = None) -> Complexity:
    """Counts ``config`` at ``canvas`` (height, width), by default its own.

    The backbone is run on tensors without content; in the neck and the head every convolution keeps its level's size.
    """
    size = canvas or config.canvas
    cells = level_cells(size)
    with torch.device("meta"), torch.no_grad():
        net = GiraffeDetNet(config).eval()
        backbone = _run_and_count(net.backbone, size)
    neck = sum(_weights(part) * cells[node.level] for node, part in zip(net.neck.graph, net.neck.cell.giraffeNeck.fnode))
    head = _weights(net.bbox_head) * sum(cells)
    biases = sum(m.out_channels for m in _convolutions(net.bbox_head) if m.bias is not None) * sum(cells)
    return Complexity(sum(p.numel() for p in net.parameters()), backbone, neck, head, biases)


def _convolutions(part: nn.Module) -> list[nn.Conv2d]:
    return [m for m in part.modules() if isinstance(m, nn.Conv2d)]


def _weights(part: nn.Module) -> int:
    """MACs per cell."""
    return sum(m.weight.numel() for m in _convolutions(part))


def _run_and_count(part: nn.Module, size: tuple[int, int]) -> int:
    macs = [0]

    def count(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        macs[0] += output.numel() * (module.in_channels // module.groups) * math.prod(module.kernel_size)

    for module in _convolutions(part):
        module.register_forward_hook(count)
    part(torch.zeros(1, 3, *size))
    return macs[0]


if __name__ == "__main__":
    from bevstack.pipe import end_with_reader

    from .config import DETECTORS

    end_with_reader()
    print(f"{'rung':20} {'params M':>9} {'backbone':>9} {'neck':>9} {'head':>9} {'GMAC 1280x768':>14} {'GMAC 640x384':>13}")
    for name, entry in DETECTORS.items():
        c, small = complexity(entry, (768, 1280)), complexity(entry, (384, 640))
        parts = " ".join(f"{v / 1e9:9.2f}" for v in (c.backbone, c.neck, c.head))
        print(f"{name:20} {c.parameters / 1e6:9.2f} {parts} {c.macs / 1e9:14.2f} {small.macs / 1e9:13.2f}")
