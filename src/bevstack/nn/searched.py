"""The network of a ``SuperBlockConfig``. State-dict names are those of the released MAE-DET backbones (brief mae-det, 4)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from .superblocks import SuperBlock, SuperBlockConfig


class _ConvNorm(nn.Module):
    """Convolution without bias and batch norm, under the names ``conv1`` and ``bn1``."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn1(self.conv1(x))
        return y


class SearchedBlock(nn.Module):
    """relu(shortcut(x) + 1x1 -> kxk, strided -> 1x1), batch norms throughout (brief mae-det, section 3).

    The shortcut of a strided block averages 2x2 pixels; windows that reach over the edge count only what lies inside, so that
    odd sizes fit the strided convolution, which rounds up.
    """

    def __init__(self, inputs: int, spec: SuperBlock, first: bool) -> None:
        super().__init__()
        self.stride = spec.stride if first else 1
        self.conv1 = _ConvNorm(inputs, spec.bottleneck)
        self.conv2 = _ConvNorm(spec.bottleneck, spec.bottleneck, spec.kernel, self.stride)
        self.conv3 = _ConvNorm(spec.bottleneck, spec.out)
        self.residual_proj = _ConvNorm(inputs, spec.out) if first or inputs != spec.out else None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv3(self.conv2(self.conv1(x).relu()).relu())
        shortcut = avg_pool2d(x, 2, 2, ceil_mode=True, count_include_pad=False) if self.stride == 2 else x
        if self.residual_proj is not None:
            shortcut = self.residual_proj(shortcut)
        return (y + shortcut).relu()


class _SuperBlock(nn.Module):
    def __init__(self, inputs: int, spec: SuperBlock) -> None:
        super().__init__()
        self.block_list = nn.ModuleList(SearchedBlock(inputs if i == 0 else spec.out, spec, i == 0) for i in range(spec.layers))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block_list:
            x = block(x)
        return x


class SearchedBackbone(nn.Module):
    """(N, 3, H, W) -> four maps C2..C5 at strides 4, 8, 16, 32 (sizes rounded up); ``outputs`` are their channels."""

    def __init__(self, config: SuperBlockConfig) -> None:
        super().__init__()
        self.outputs = list(config.outputs)
        self._ends = {group[-1] for group in config.stages}
        parts: list[nn.Module] = [_ConvNorm(3, config.stem, 3, 2)]
        channels = config.stem
        for block in config.blocks:
            parts.append(_SuperBlock(channels, block))
            channels = block.out
        self.block_list = nn.ModuleList(parts)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.block_list[0](images).relu()
        maps = []
        for index, block in enumerate(list(self.block_list)[1:]):
            x = block(x)
            if index in self._ends:
                maps.append(x)
        return maps
