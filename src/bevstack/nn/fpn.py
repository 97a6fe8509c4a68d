"""Feature pyramid necks (Lin et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import interpolate

from .layers import ConvBN


def _topdown(laterals: list[Tensor]) -> list[Tensor]:
    """Adds each coarser level, enlarged by nearest neighbour to the exact size of the finer one; coarsest first to finest."""
    for level in range(len(laterals) - 1, 0, -1):
        finer = laterals[level - 1]
        laterals[level - 1] = finer + interpolate(laterals[level], size=(finer.shape[2], finer.shape[3]), mode="nearest")
    return laterals


class FPN(nn.Module):
    """C2..C5 -> P2..P5 of ``channels`` each: 1x1 laterals, top-down sums, 3x3 outputs; batch norm, no activation."""

    def __init__(self, inputs: Sequence[int], channels: int) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(ConvBN(c, channels, 1, relu=False) for c in inputs)
        self.fpn_convs = nn.ModuleList(ConvBN(channels, channels, 3, relu=False) for _ in inputs)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        laterals = _topdown([lateral(m) for lateral, m in zip(self.lateral_convs, maps)])
        return [conv(m) for conv, m in zip(self.fpn_convs, laterals)]


class TopDownSum(nn.Module):
    """C2..C5 -> one map of ``channels`` at C2's size: 1x1 laterals, top-down sums, one 3x3; batch norm, no activation."""

    def __init__(self, inputs: Sequence[int], channels: int) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(ConvBN(c, channels, 1, relu=False) for c in inputs)
        self.out_conv = ConvBN(channels, channels, 3, relu=False)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        laterals = _topdown([lateral(m) for lateral, m in zip(self.lateral_convs, maps)])
        out: Tensor = self.out_conv(laterals[0])
        return out
