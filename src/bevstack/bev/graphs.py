"""The network cut for inference: image graph, BEV graph, or both with the gather inside. Batch of one instant.

``features`` are rows (cells, C): cell (camera, v, u) of every camera, features fastest, which is what the gather reads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, linear

from bevstack.nn.fold import fold_batch_norms

from .config import FastBEVConfig
from .network import FastBEVNet
from .preprocess import image_transform
from .resample import resize_matrix, rows_of_input


class Shrink(nn.Module):
    """(N, h, w, 3) float32 pictures of cameras of one size -> (N, 3, H, W) of the network's: resize and centred crop, values
    rounded to whole grey levels as pictures have them."""

    def __init__(self, config: FastBEVConfig, source: tuple[int, int]) -> None:
        super().__init__()
        transform = image_transform(*source, config)
        vertical = resize_matrix(source[1], transform.resized[1], config.resize_filter)
        vertical = rows_of_input(vertical, transform.top, config.image_hw[0])
        horizontal = resize_matrix(source[0], transform.resized[0], config.resize_filter)
        self.register_buffer("vertical", torch.from_numpy(vertical), persistent=False)
        self.register_buffer("horizontal", torch.from_numpy(horizontal.T.copy()), persistent=False)

    vertical: Tensor
    horizontal: Tensor

    def forward(self, pictures: Tensor) -> Tensor:
        cameras, height, width, _ = pictures.shape
        # Rows first: the crop then saves most of the second product.
        rows = torch.matmul(self.vertical, pictures.reshape(cameras, height, width * 3))
        planes = rows.reshape(cameras, -1, width, 3).permute(0, 3, 1, 2)
        return torch.matmul(planes, self.horizontal).round().clamp(0.0, 255.0)


class ImageGraph(nn.Module):
    """(N, H, W, 3) uint8 RGB, or normalised (N, 3, H, W) float32 if not ``raw`` -> features (cells, C).

    ``source``: (width, height) of the cameras; the images are then theirs, uint8 RGB, and are resized inside.
    """

    def __init__(self, net: FastBEVNet, raw: bool, source: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.net, self.raw = net, raw
        self.shrink = Shrink(net.config, source) if source is not None else None
        self.register_buffer("mean", torch.tensor(net.config.mean).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", 1.0 / torch.tensor(net.config.std).reshape(1, 3, 1, 1), persistent=False)

    mean: Tensor
    scale: Tensor

    def forward(self, images: Tensor) -> Tensor:
        if self.raw:
            # Cast first: TensorRT takes 8-bit images, but nothing except a cast may touch them.
            pixels = images.to(torch.float32)
            planes = pixels.permute(0, 3, 1, 2) if self.shrink is None else self.shrink(pixels)
            images = (planes - self.mean) * self.scale
        levels = self.net.feature_levels(images)
        channels = self.net.config.neck_channels
        rows = [maps.permute(0, 2, 3, 1).reshape(-1, channels) for maps in levels]
        return rows[0] if len(rows) == 1 else torch.cat(rows)


class BevGraph(nn.Module):
    """Lifted volume (V, T, C) -> raw head maps (A*K, Y, X), (A*9, Y, X), (A*2, Y, X)."""

    def __init__(self, net: FastBEVNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, volume: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        config, encoder = self.net.config, self.net.neck_3d
        fuse = encoder.fuse
        if config.coarse:
            return self._heads(self._fused(volume))
        # The 1x1 fusion as a product of rows: the wide volume is never transposed, only the narrow result is.
        rows = linear(volume.reshape(-1, config.volume_channels), fuse.weight.flatten(1), fuse.bias)
        return self._heads(rows.reshape(1, config.grid.n[0], config.grid.n[1], -1).permute(0, 3, 1, 2))

    def _heads(self, bev: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        cls, reg, direction = self.net.bbox_head(self.net.neck_3d.after_fuse(bev))
        return cls[0], reg[0], direction[0]

    def _fused(self, volume: Tensor) -> Tensor:
        """Several scales: each is fused in its own grid and then enlarged, which is the same the other way round (both are
        linear) and touches a sixth of the channels."""
        config, fuse = self.net.config, self.net.neck_3d.fuse
        assert fuse.bias is not None
        weight, size = fuse.weight.flatten(1), config.grid.n[:2]
        volume = volume.reshape(config.voxels, -1)
        fused = fuse.bias.reshape(1, -1, 1, 1)
        voxel = channel = 0
        for level in config.levels:
            x, y, z = level.grid.n
            width = z * len(config.times) * config.neck_channels
            rows = linear(volume[voxel : voxel + level.grid.voxels].reshape(x * y, width), weight[:, channel : channel + width])
            part = rows.reshape(1, x, y, -1).permute(0, 3, 1, 2)
            fused = fused + (part if (x, y) == size else interpolate(part, size=size, mode="bilinear", align_corners=False))
            voxel, channel = voxel + level.grid.voxels, channel + width
        return fused


class WholeGraph(nn.Module):
    """images, tables (T, V) int32, T - 1 cached features (cells, C) -> head maps and the current features.

    Rows are stacked: the current instant's cells, one row of zeros, the first cached instant's cells, one row of zeros, and so
    on. Tables hold row numbers of this stack (the pattern of brief section 6): a voxel that no camera sees reads zeros, and an
    instant that is missing reads the current instant's rows instead. ``runner.WholeRunner`` makes them.
    """

    def __init__(self, net: FastBEVNet, raw: bool, source: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.image, self.bev = ImageGraph(net, raw, source), BevGraph(net)

    def forward(self, images: Tensor, tables: Tensor, *history: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        features = self.image(images)
        blank = features.new_zeros(1, features.shape[1])
        rows = torch.cat([part for maps in (features, *history) for part in (maps, blank)], dim=0)
        volume = rows.index_select(0, tables.transpose(0, 1).reshape(-1))
        return (*self.bev(volume), features)


def history_names(times: int) -> list[str]:
    """Names of the cached features' inputs: "history1" is the first age after the current instant."""
    return [f"history{t}" for t in range(1, times)]


WHOLE_OUTPUTS = ("cls", "reg", "dir", "features")


def inference_net(net: FastBEVNet) -> FastBEVNet:
    """A folded, frozen copy, convolution weights channels-last."""
    folded = fold_batch_norms(net).requires_grad_(False)
    for parameter in folded.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return folded
