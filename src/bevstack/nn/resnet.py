"""Residual image backbones with four outputs, at strides 4, 8, 16 and 32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from .layers import BasicBlock, Bottleneck, ConvBN


class ResNet(nn.Module):
    """ResNet without its classifier: (N, 3, H, W) -> four maps C2..C5.

    Args:
        block: "basic" or "bottleneck" (outputs four times ``widths``).
        stem: one entry: 7x7 stride-2 convolution of that width and 3x3 stride-2 max pooling (names as in torchvision);
            two entries: two 3x3 stride-2 convolutions, cheaper for small inputs.
        widths, depths: per stage.
    """

    def __init__(
        self, block: Literal["basic", "bottleneck"], stem: Sequence[int], widths: Sequence[int], depths: Sequence[int]
    ) -> None:
        super().__init__()
        kind: type[BasicBlock] | type[Bottleneck] = BasicBlock if block == "basic" else Bottleneck
        self.light_stem = len(stem) == 2
        if self.light_stem:
            self.stem = nn.Sequential(ConvBN(3, stem[0], stride=2), ConvBN(stem[0], stem[1], stride=2))
        else:
            self.conv1 = nn.Conv2d(3, stem[0], 7, 2, 3, bias=False)
            self.bn1 = nn.BatchNorm2d(stem[0])
        channels, self.outputs = stem[-1], []
        for stage, (width, depth) in enumerate(zip(widths, depths), start=1):
            blocks = []
            for index in range(depth):
                blocks.append(kind(channels, width, 2 if stage > 1 and index == 0 else 1))
                channels = width * kind.expansion
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
            self.outputs.append(channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        if self.light_stem:
            x: Tensor = self.stem(images)
        else:
            x = nn.functional.max_pool2d(self.bn1(self.conv1(images)).relu(), 3, 2, 1)
        maps = []
        for stage in range(1, len(self.outputs) + 1):
            x = getattr(self, f"layer{stage}")(x)
            maps.append(x)
        return maps
