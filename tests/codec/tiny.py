"""A small codec with arbitrary but structured weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bevstack.codec.config import CODECS, CodecConfig, HyperConfig, MeanConfig, TransformConfig


def tiny_config(**changes: object) -> CodecConfig:
    """A codec of a few thousand parameters."""
    base = replace(
        CODECS["codec-nano"],
        name="codec-tiny",
        latent=48,
        transform=TransformConfig(
            channels=24,
            encoder_inner=12,
            decoder_inner=12,
            encoder_blocks=1,
            decoder_blocks=2,
            latent_inner=12,
            encoder_latent_blocks=1,
            decoder_latent_blocks=2,
        ),
        hyper=HyperConfig(channels=8, width=16, scale_width=16),
        mean=MeanConfig(features=16, hidden=24, context=8),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Something with edges, gradients and texture."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    base = np.stack([90 + 60 * np.sin(x / 37 + k) * np.cos(y / 53 - k) for k in range(3)], -1)
    base[height // 3 : height // 2, width // 4 : width // 2] += 50
    base += rng.normal(0, 6, base.shape) * (x > width // 2)[..., None]
    return np.clip(base, 0, 255).astype(np.uint8)


def make_net(config: CodecConfig, seed: int = 0, stir: bool = True):  # type: ignore[no-untyped-def]
    """A network at its principal start; ``stir``: every zero-initialised layer is disturbed so that all parts matter."""
    import torch

    from bevstack.codec.model import CodecNet
    from bevstack.learn.codec.initial import principal_start

    torch.manual_seed(seed)
    net = CodecNet(config)
    crops = np.stack([photograph(128, 128, s) for s in range(4)])
    principal_start(net, torch.from_numpy(crops).permute(0, 3, 1, 2).float())
    with torch.no_grad():
        for name, parameter in net.named_parameters() if stir else ():
            if "project.weight" in name or "neighbours" in name:
                parameter.normal_(0, 0.02)
            if name == "hyper.leave.weight":
                parameter.mul_(4)
            if name == "scales.leave.weight":
                parameter.normal_(0, 0.2)
    net.update()
    return net.eval()
