"""A start that already compresses: the linear part of both transforms is set to the principal axes of the training crops.

With residual blocks that start as the identity, the fresh network is a two-level Karhunen-Loeve transform with matching gains
and coding tables. Training departs from there instead of from noise, which saves most of a small budget.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from bevstack.codec.config import PATCH, PIXEL_SCALE
from bevstack.codec.distribution import log_step
from bevstack.codec.model import CodecNet, to_network
from bevstack.codec.transform import ResidualDepthwiseAnalysis, ResidualDepthwiseSynthesis


def _axes(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(count, D) principal axes of (n, D) rows about zero, strongest first, and their standard deviations."""
    values, vectors = torch.linalg.eigh(rows.T.double() @ rows.double() / len(rows))
    order = torch.argsort(values, descending=True)[:count]
    return vectors[:, order].T.float(), values[order].clamp(min=1e-6).sqrt().float()


@torch.no_grad()
def principal_start(net: CodecNet, pixels: Tensor) -> None:
    """Sets the linear layers, gains and prior tables of a fresh network.

    Args:
        pixels: (N, 3, H, W) grey levels of training crops, sides multiples of 16.
    """
    analysis, synthesis = net.analysis, net.synthesis
    assert isinstance(analysis, ResidualDepthwiseAnalysis)
    assert isinstance(synthesis, ResidualDepthwiseSynthesis)
    channels, latent = net.config.transform.channels, net.config.latent
    patches = F.pixel_unshuffle(to_network(pixels), PATCH)
    axes, spread = _axes(patches.permute(0, 2, 3, 1).flatten(0, 2), channels)
    axes, spread = _widen(axes, spread, channels)
    root = spread.sqrt()
    analysis.patch.weight.copy_((axes / root[:, None])[..., None, None])
    synthesis.patch.weight.copy_((axes.T * root)[..., None, None])
    for conv in (analysis.patch, synthesis.patch, analysis.down, synthesis.up):
        assert conv.bias is not None
        conv.bias.zero_()
    trunk = F.pixel_unshuffle(F.conv2d(patches, axes[..., None, None]), 2)
    axes2, spread2 = _axes(trunk.permute(0, 2, 3, 1).flatten(0, 2), latent)
    root2, four = spread2.sqrt(), root.repeat_interleave(4)
    analysis.down.weight.copy_((axes2 / root2[:, None] * four)[..., None, None])
    synthesis.up.weight.copy_((axes2.T * root2 / four[:, None])[..., None, None])
    net.rate.log_gain.add_(root2.log())  # type: ignore[operator, union-attr]
    net.rate.log_inverse.sub_(root2.log())  # type: ignore[operator, union-attr]
    gained = (root2.log() + net.rate.log_gain).exp()  # type: ignore[operator, union-attr]
    index = (gained.clamp(min=0.11).log() - math.log(0.11)) / log_step(net.config.distribution)
    net.scales.prior_knots.copy_(index.clamp(0.0, 60.0))  # type: ignore[operator, union-attr]
    net.update()


@torch.no_grad()
def channel_worth(net: CodecNet) -> Tensor:
    """(M,) norm in grey levels of the pixels that one unit of a natural latent channel becomes, blocks left out.

    While the transforms are principal axes, the pixels' squared error is the latent's, weighted with its square.
    """
    synthesis = net.synthesis
    assert isinstance(synthesis, ResidualDepthwiseSynthesis)
    up = synthesis.up.weight[:, :, 0, 0]  # (4 C, M), sub-positions innermost
    patch = synthesis.patch.weight[:, :, 0, 0]  # (192, C)
    spread = torch.einsum("pc,csm->psm", patch, up.reshape(patch.shape[1], 4, -1))
    return PIXEL_SCALE * spread.square().sum((0, 1)).sqrt()


def _widen(axes: Tensor, spread: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """More channels than dimensions: the rest starts at random directions of small weight."""
    missing = channels - len(axes)
    if missing <= 0:
        return axes, spread
    extra = torch.zeros(missing, axes.shape[1])
    return torch.cat([axes, extra]), torch.cat([spread, torch.ones(missing)])
