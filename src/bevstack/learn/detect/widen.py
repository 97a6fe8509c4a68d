"""A trained detector as the start of a wider one that computes the same (after Chen et al., arXiv 1511.05641).

Only the space-to-depth backbone grows: its old channels keep their weights and read nothing new; what reads the backbone gives
zero weight to new channels. So the wide network begins where the narrow one ended, at any image size; training uses the rest.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bevstack.detect import GiraffeDetConfig
from bevstack.detect.config import ImageBackboneConfig
from bevstack.detect.graph import LEVELS, giraffe_graph
from bevstack.detect.network import GiraffeDetNet


def can_widen(source: GiraffeDetConfig, target: GiraffeDetConfig) -> bool:
    """Whether ``target`` is ``source`` with a backbone of more channels: same neck, head, classes and activation."""
    a, b = source.backbone, target.backbone
    if not isinstance(a, ImageBackboneConfig) or not isinstance(b, ImageBackboneConfig):
        return False
    same = ("depth", "inner", "outputs", "link", "activation", "classes", "head")
    if a.kind != b.kind or any(getattr(source, name) != getattr(target, name) for name in same):
        return False
    widths = list(zip((*a.stem, *a.levels), (*b.stem, *b.levels)))
    return all(m <= n for m, n in widths) and any(m < n for m, n in widths)


@torch.no_grad()
def widen(net: GiraffeDetNet, source: GiraffeDetNet) -> None:
    """Sets ``net``'s weights so that it computes what ``source`` does; new channels keep their random weights.

    Precondition: ``can_widen(source.config, net.config)``.
    """
    own, other = net.state_dict(), source.state_dict()
    for name, value in other.items():
        mine = own[name]
        if mine.shape == value.shape:
            mine.copy_(value)
        elif name.startswith("backbone."):
            _grow(mine, value)
    # Nodes that read the backbone: each of their inputs has a stretch of the concatenated channels, in both networks.
    narrow, wide = list(source.backbone.outputs), list(net.backbone.outputs)
    config = net.config
    for position, node in enumerate(giraffe_graph(config.layers, config.link)):
        name = f"neck.cell.giraffeNeck.fnode.{position}.after_combine.conv1x1.weight"
        if own[name].shape == other[name].shape:
            continue
        own[name].zero_()
        at, start = 0, 0
        for read in node.inputs:
            old = narrow[read.node] if read.node < LEVELS else config.inner
            own[name][:, at : at + old] = other[name][:, start : start + old]
            start += old
            at += wide[read.node] if read.node < LEVELS else config.inner


def _grow(mine: Tensor, value: Tensor) -> None:
    """``value`` into the leading corner. Leading channels stay leading through space-to-depth (channel c * 4 + offset)."""
    mine[: len(value)] = 0.0
    mine[tuple(slice(0, n) for n in value.shape)] = value
