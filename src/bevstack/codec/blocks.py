"""Layers shared by the codec's networks."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

SLOPE = 0.1


class DepthwiseBlock(nn.Module):
    """x + project(act(depthwise 3x3(act(expand(x))))): (N, C, H, W) -> same.

    1x1 C -> inner, depthwise 3x3, 1x1 inner -> C (the residual block of the 1/8-resolution family, brief codec-common 2.2,
    without its feed-forward half). The last layer starts at zero, so that a fresh block is the identity.
    """

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels, inner, 1)
        self.depthwise = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.project = nn.Conv2d(inner, channels, 1)
        nn.init.zeros_(self.project.weight)
        assert self.project.bias is not None
        nn.init.zeros_(self.project.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.expand(x), SLOPE)
        y = F.leaky_relu(self.depthwise(y), SLOPE)
        result: Tensor = x + self.project(y)
        return result


def blocks(count: int, channels: int, inner: int) -> nn.ModuleList:
    """``count`` residual blocks, to be run one after the other."""
    return nn.ModuleList(DepthwiseBlock(channels, inner) for _ in range(count))
