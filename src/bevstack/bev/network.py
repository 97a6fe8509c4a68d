"""Fast-BEV in torch (arXiv 2301.12511; brief fast-bev section 1), one class for every rung.

State-dict names of the released rungs equal the official checkpoints'. Shapes below: B batch, N cameras, T instants.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from bevstack.nn.fpn import FPN, TopDownSum
from bevstack.nn.layers import ConvBN, ResidualBlock
from bevstack.nn.resnet import ResNet
from bevstack.nn.searched import SearchedBackbone
from bevstack.nn.superblocks import SuperBlockConfig

from .config import EncoderConfig, FastBEVConfig, VoxelGrid
from .lift import fold_height, fold_levels, lift_levels, lift_rows


class M2BevEncoder(nn.Module):
    """(B, inputs, X, Y) -> (B, channels, X/2, Y/2): 1x1 fusion, then blocks numbered as in the checkpoint (brief 1.5)."""

    def __init__(self, inputs: int, config: EncoderConfig) -> None:
        super().__init__()
        self.fuse = nn.Conv2d(inputs, config.fuse, 1)
        blocks: list[nn.Module] = [ResidualBlock(config.fuse), ConvBN(config.fuse, config.channels, stride=2)]
        for _ in range(config.layers):
            blocks += [ResidualBlock(config.channels), ConvBN(config.channels, config.channels)]
        self.model = nn.Sequential(*blocks)
        self.outputs = config.channels

    def after_fuse(self, x: Tensor) -> Tensor:
        y: Tensor = self.model(x)
        return y

    def forward(self, volume: Tensor) -> Tensor:
        return self.after_fuse(self.fuse(volume))


RANGE_STEPS = 16  # hat functions over the distance of a cell


def cell_positions(grid: VoxelGrid) -> Tensor:
    """(1, 6 + RANGE_STEPS, X, Y) where each BEV cell lies: x, y, distance, log distance, direction, soft distance bins."""
    (x0, y0, _), (sx, sy, _) = grid.first, grid.size
    x = (x0 + torch.arange(grid.n[0], dtype=torch.float32) * sx)[:, None].expand(grid.n[0], grid.n[1])
    y = (y0 + torch.arange(grid.n[1], dtype=torch.float32) * sy)[None, :].expand(grid.n[0], grid.n[1])
    distance = torch.sqrt(x * x + y * y)
    log = torch.log1p(distance)
    reach = -grid.first[0]
    plain = [x / reach, y / reach, distance / reach, log - 3.0, x / distance.clamp(min=1.0), y / distance.clamp(min=1.0)]
    first, last = 1.0, math.log1p(1.42 * reach)
    bins = torch.linspace(first, last, RANGE_STEPS)
    hats = (1 - torch.abs(log[None] - bins[:, None, None]) / ((last - first) / (RANGE_STEPS - 1))).clamp(min=0)
    return torch.cat([torch.stack(plain), hats])[None]


class PyramidEncoder(nn.Module):
    """(B, inputs, X, Y) -> (B, outputs, X, Y): context at half and quarter resolution, positions at full (fastbev-nano).

    The lift gives every voxel of a ray the same feature, and convolutions do not know where they are. A fixed map of positions
    is therefore added to the fused volume: a feature that says "car, 23 m away" can be compared with the cell's own distance.
    """

    where: Tensor

    def __init__(self, inputs: int, config: EncoderConfig, grid: VoxelGrid) -> None:
        super().__init__()
        self.fuse = nn.Conv2d(inputs, config.fuse, 1)
        self.register_buffer("where", cell_positions(grid), persistent=False)
        self.position = nn.Conv2d(self.where.shape[1], config.fuse, 1, bias=False)
        self.at_full = nn.Sequential(nn.BatchNorm2d(config.fuse), nn.ReLU(), ConvBN(config.fuse, config.fuse))
        self.at_half = nn.Sequential(ConvBN(config.fuse, config.channels, stride=2), ResidualBlock(config.channels))
        self.at_quarter = nn.Sequential(ConvBN(config.channels, config.deep, stride=2), ResidualBlock(config.deep))
        self.half_from_quarter = ConvBN(config.deep, config.channels, 1, relu=False)
        self.full_from_half = ConvBN(config.channels, config.fuse, 1, relu=False)
        self.out = ConvBN(config.fuse, config.outputs)
        self.outputs = config.outputs

    def after_fuse(self, x: Tensor) -> Tensor:
        full: Tensor = self.at_full(x + self.position(self.where))
        half: Tensor = self.at_half(full)
        quarter: Tensor = self.half_from_quarter(self.at_quarter(half))
        half = (half + interpolate(quarter, size=(half.shape[2], half.shape[3]), mode="nearest")).relu()
        coarse: Tensor = self.full_from_half(half)
        coarse = interpolate(coarse, size=(full.shape[2], full.shape[3]), mode="bilinear", align_corners=False)
        y: Tensor = self.out((full + coarse).relu())
        return y

    def forward(self, volume: Tensor) -> Tensor:
        return self.after_fuse(self.fuse(volume))


class AnchorHead(nn.Module):
    """Three parallel 1x1 convolutions. The only place where the BEV axes are swapped: (B, C, X, Y) in, (B, K, Y, X) out."""

    def __init__(self, inputs: int, config: FastBEVConfig) -> None:
        super().__init__()
        per_cell = config.anchors.per_cell
        self.conv_cls = nn.Conv2d(inputs, per_cell * len(config.classes), 1)
        self.conv_reg = nn.Conv2d(inputs, per_cell * config.anchors.code_size, 1)
        self.conv_dir_cls = nn.Conv2d(inputs, per_cell * 2, 1)
        for conv in (self.conv_cls, self.conv_reg, self.conv_dir_cls):
            nn.init.normal_(conv.weight, std=0.01)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)
        assert self.conv_cls.bias is not None
        nn.init.constant_(self.conv_cls.bias, -math.log(99.0))  # every anchor starts at probability 0.01

    def forward(self, bev: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return (
            self.conv_cls(bev).transpose(2, 3),
            self.conv_reg(bev).transpose(2, 3),
            self.conv_dir_cls(bev).transpose(2, 3),
        )


class FastBEVNet(nn.Module):
    """Images and tables to raw head maps. Anchors, decoding and NMS live in ``bevstack.bev.decode``.

    Training: ``features = [net.image_features(images_t) for each time]``; ``volume = net.lift(features, tables)``;
    ``cls, reg, direction = net.head_maps(volume)``. Every step is differentiable.
    """

    def __init__(self, config: FastBEVConfig) -> None:
        super().__init__()
        self.config = config
        b = config.backbone
        self.backbone: ResNet | SearchedBackbone
        if isinstance(b, SuperBlockConfig):
            self.backbone = SearchedBackbone(b)
        else:
            self.backbone = ResNet(b.block, b.stem, b.widths, b.depths)
        channels = config.neck_channels
        if config.neck == "fpn_concat":
            self.neck: nn.Module = FPN(self.backbone.outputs, channels)
            for k in range(len(config.levels)):
                inputs = channels * (len(self.backbone.outputs) - k)
                self.add_module(f"neck_fuse_{k}", nn.Conv2d(inputs, channels, 3, padding=1))
        else:
            self.neck = TopDownSum(self.backbone.outputs, channels)
        self.neck_3d: M2BevEncoder | PyramidEncoder = (
            M2BevEncoder(config.volume_channels, config.encoder)
            if config.encoder.kind == "m2bev"
            else PyramidEncoder(config.volume_channels, config.encoder, config.grid)
        )
        self.bbox_head = AnchorHead(self.neck_3d.outputs, config)

    def fuse_levels(self, levels: Sequence[Tensor], scale: int = 0) -> Tensor:
        """P2..P5 to a lifted map: bilinear (align_corners False) to the size of the scale's own level, concatenation with those
        above it, 3x3 with bias."""
        levels = levels[scale:]
        size = (levels[0].shape[2], levels[0].shape[3])
        grown = [levels[0]] + [interpolate(p, size=size, mode="bilinear", align_corners=False) for p in levels[1:]]
        fused: Tensor = self.get_submodule(f"neck_fuse_{scale}")(torch.cat(grown, dim=1))
        return fused

    def feature_maps(self, images: Tensor) -> Tensor:
        """(M, 3, H, W) normalised RGB -> (M, C, Hf, Wf), the finest lifted map."""
        return self.feature_levels(images)[0]

    def feature_levels(self, images: Tensor) -> list[Tensor]:
        """(M, 3, H, W) normalised RGB -> per lifted scale (M, C, Hf, Wf), finest first."""
        pyramid = self.neck(self.backbone(images))
        if self.config.neck != "fpn_concat":
            return [pyramid]
        return [self.fuse_levels(pyramid, scale) for scale in range(len(self.config.levels))]

    def image_features(self, images: Tensor) -> Tensor:
        """(B*N, 3, H, W) normalised RGB, cameras fastest -> (B, N, C, Hf, Wf).

        Raises:
            ValueError: a network that lifts several scales has no such single map: use ``forward``.
        """
        if self.config.coarse:
            raise ValueError(f"{self.config.name} lifts several scales: its features are no single map")
        maps = self.feature_maps(images)
        return maps.reshape(-1, self.config.cameras, *maps.shape[1:])

    def lift(self, features: Sequence[Tensor], tables: Tensor) -> Tensor:
        """T maps of (B, N, C, Hf, Wf), current first, and tables (B, T, V) -> (B, Z*T*C, X, Y)."""
        volumes = [lift_rows(maps, tables[:, t]) for t, maps in enumerate(features)]
        return fold_height(volumes, self.config.grid.n)

    def head_maps(self, volume: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, Z*T*C, X, Y) lifted volume -> raw cls (B, A*K, Y, X), reg (B, A*9, Y, X), dir (B, A*2, Y, X)."""
        return self.bbox_head(self.neck_3d(volume))

    def forward(self, images: Tensor, tables: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T*N, 3, H, W) time-major images (all instants recomputed) and tables (B, T, V) -> raw head maps."""
        batch, cameras = images.shape[0], self.config.cameras
        if self.config.coarse:
            return self.head_maps(fold_levels(lift_levels(self.feature_levels(images.flatten(0, 1)), tables), self.config))
        maps = self.feature_maps(images.flatten(0, 1))
        maps = maps.reshape(batch, -1, cameras, *maps.shape[1:])
        return self.head_maps(self.lift([maps[:, t] for t in range(maps.shape[1])], tables))
