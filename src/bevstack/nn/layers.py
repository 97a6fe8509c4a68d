"""Convolution blocks. Sub-module names follow the field (torchvision's ResNet, mmcv's ConvModule): checkpoints load 1:1."""

from __future__ import annotations

from torch import Tensor, nn


class ConvBN(nn.Module):
    """Convolution without bias, batch norm, optionally ReLU: (N, in, H, W) -> (N, out, H / stride, W / stride)."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, relu: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-5)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.conv(x))
        return y.relu() if self.relu else y


class ResidualBlock(nn.Module):
    """relu(x + ConvBN(relu(ConvBN(x)))), both 3x3, width unchanged (brief fast-bev 1.5)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv0 = ConvBN(channels, channels)
        self.conv1 = ConvBN(channels, channels, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv1(self.conv0(x))
        return (x + y).relu()


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """ResNet's two-convolution block (He et al. 2016, figure 5 left)."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn1(self.conv1(x)).relu()
        y = self.bn2(self.conv2(y))
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


class Bottleneck(nn.Module):
    """ResNet's 1x1, 3x3, 1x1 block with the stride in the 3x3 (He et al. 2016, figure 5 right; "pytorch style")."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * 4, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * 4)
        self.downsample = _shortcut(inputs, width * 4, stride)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn1(self.conv1(x)).relu()
        y = self.bn2(self.conv2(y)).relu()
        y = self.bn3(self.conv3(y))
        return (y + (x if self.downsample is None else self.downsample(x))).relu()
