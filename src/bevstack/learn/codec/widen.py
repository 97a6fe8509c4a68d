"""A trained codec as the start of a larger one that computes the same (after Chen et al., arXiv 1511.05641).

Old channels keep their weights and read nothing new; new channels read the old ones through fresh weights, and nobody reads
them yet; blocks that the smaller codec does not have begin as the identity; new channels of the hyper latent are always 0. So
the larger codec begins with the smaller one's pictures and bits, up to the order of sums, and training uses the rest.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence

import torch
from torch import Tensor

from bevstack.codec.config import CodecConfig
from bevstack.codec.model import CodecNet

_BLOCK = re.compile(r"(analysis|synthesis)\.(trunk|latent)\.(\d+)\.")
Segments = Sequence[tuple[int, int]]  # (old, new) sizes of stretches of channels that lie one after the other


def can_widen(source: CodecConfig, target: CodecConfig) -> bool:
    """Whether ``target`` is ``source`` with more channels inside or more blocks: same latent, rates, tables, kinds of parts."""
    if (source.latent, source.rate, source.distribution, source.coder) != (
        target.latent,
        target.rate,
        target.distribution,
        target.coder,
    ):
        return False
    pairs = [
        (getattr(getattr(source, part), field.name), getattr(getattr(target, part), field.name))
        for part in ("transform", "hyper", "mean")
        for field in dataclasses.fields(getattr(source, part))
    ]
    sizes = [(old, new) for old, new in pairs if isinstance(old, int)]
    kinds = all(old == new for old, new in pairs if not isinstance(old, int))
    return kinds and all(old <= new for old, new in sizes) and any(old < new for old, new in sizes)


@torch.no_grad()
def widen(net: CodecNet, source: CodecNet) -> None:
    """Sets ``net``'s weights so that it computes what ``source`` does; weights into new channels stay as they are.

    Precondition: ``can_widen(source.config, net.config)``, and ``net`` is fresh: its new blocks are the identity.
    """
    a, b = source.config, net.config
    joints: dict[str, Segments] = {
        "hyper.leave.weight": [(a.hyper.width, b.hyper.width), (1, 1)],
        "scales.enter.weight": [(a.hyper.channels, b.hyper.channels), (1, 1)],
        "means.features.enter.weight": [(a.hyper.channels, b.hyper.channels), (1, 1)],
        "means.others.0.weight": [(a.mean.features, b.mean.features), (a.mean.context, b.mean.context)],
    }
    own = net.state_dict()
    for name, value in source.state_dict().items():
        mine = own[name_in_larger(name, a, b)]
        if mine.shape == value.shape:
            mine.copy_(value)
        elif name.startswith(("rate.", "z_")) or value.dim() < 2:
            mine[..., : value.shape[-1]] = value
        else:
            _grow(mine, value, joints.get(name, [(value.shape[1], mine.shape[1])]))
    silent = slice(a.hyper.channels, b.hyper.channels)
    for part in ("weight", "bias"):
        own[f"hyper.leave.{part}"][silent] = 0.0
    own["scales.enter.weight"][:, silent] = 0.0
    own["z_log_scale"][:, silent] = math.log(float(b.distribution.lowest))  # a zero costs next to nothing
    own["z_table"][:, silent] = 1.0


def name_in_larger(name: str, old: CodecConfig, new: CodecConfig) -> str:
    """The name in the larger codec. Blocks after the synthesis' second conditioning stay behind it."""
    match = _BLOCK.match(name)
    if match is None or match[1] != "synthesis" or match[2] != "trunk":
        return name
    number, half = int(match[3]), old.transform.decoder_blocks // 2
    if number >= half:
        number += new.transform.decoder_blocks // 2 - half
    return f"synthesis.trunk.{number}.{name[match.end() :]}"


def _grow(mine: Tensor, value: Tensor, inputs: Segments) -> None:
    """``value`` (O, I, ...) into the first O rows of ``mine``, each stretch of inputs at its place; they read nothing else."""
    rows = len(value)
    mine[:rows] = 0.0
    start, at = 0, 0
    for old, new in inputs:
        mine[:rows, at : at + old] = value[:, start : start + old]
        start, at = start + old, at + new
