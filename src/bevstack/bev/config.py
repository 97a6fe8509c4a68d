"""Every shape and convention of a Fast-BEV rung, stated once. Weights carry this config; engines and nodes read it.

Frames: the voxel grid, the anchors and the head live in the *virtual LiDAR* frame (x right, y forward, z up), placed in the
ego frame by ``T_ego_lidar`` (brief fast-bev, sections 0 and 7.8).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from bevstack.errors import CheckpointError
from bevstack.geometry import DETECTION_CLASSES, Matrix
from bevstack.nn.superblocks import SuperBlockConfig
from bevstack.nn.widths import scaled, with_width

# Rig order of the released weights and of the simulated drive; where cameras overlap, the order decides.
CAMERA_ORDER = ("cam_front", "cam_front_right", "cam_front_left", "cam_back", "cam_back_left", "cam_back_right")

Rows4 = tuple[tuple[float, ...], ...]

# LIDAR_TOP of the cars that nuScenes was recorded with: x right, y forward, 0.94 m ahead of the rear axle, 1.84 m up.
_T_EGO_LIDAR: Rows4 = (
    (0.0, 1.0, 0.0, 0.94),
    (-1.0, 0.0, 0.0, 0.0),
    (0.0, 0.0, 1.0, 1.84),
    (0.0, 0.0, 0.0, 1.0),
)


@dataclass(frozen=True)
class BackboneConfig:
    """Residual image backbone: one stem width = 7x7 + max pooling, two = two strided 3x3; see ``bevstack.nn.resnet``."""

    block: Literal["basic", "bottleneck"]
    stem: tuple[int, ...]
    widths: tuple[int, ...]
    depths: tuple[int, ...]


@dataclass(frozen=True)
class VoxelGrid:
    """Sample points of the lift, virtual LiDAR frame, metres.

    Index i of an axis lies at ``center + (i - n / 2) * size``: the lower corner of the cell, not its centre (brief 1.3).
    """

    n: tuple[int, int, int]
    size: tuple[float, float, float]
    center: tuple[float, float, float] = (0.0, 0.0, -1.0)

    @property
    def voxels(self) -> int:
        return self.n[0] * self.n[1] * self.n[2]

    @property
    def first(self) -> tuple[float, float, float]:
        """Point of index (0, 0, 0)."""
        x, y, z = (c - n / 2 * s for c, n, s in zip(self.center, self.n, self.size))
        return x, y, z


@dataclass(frozen=True)
class Level:
    """One lifted scale: feature cells of ``stride`` input pixels into ``grid``."""

    stride: int
    grid: VoxelGrid


@dataclass(frozen=True)
class EncoderConfig:
    """BEV encoder.

    "m2bev": the released one (brief 1.5): ``fuse`` wide at full, ``channels`` at half resolution, ``layers`` pairs of blocks.
    "pyramid": full, half and quarter resolution, brought back to full resolution and ``outputs`` channels.
    """

    kind: Literal["m2bev", "pyramid"]
    fuse: int
    channels: int
    layers: int = 0
    deep: int = 0
    outputs: int = 0


@dataclass(frozen=True)
class AnchorConfig:
    """Anchors of every BEV cell (brief 1.6): w (along x at yaw 0), l, h; z is the bottom; rotation is 1.57, not pi/2."""

    sizes: tuple[tuple[float, float, float], ...] = (
        (0.8660, 2.5981, 1.0),
        (0.5774, 1.7321, 1.0),
        (1.0, 1.0, 1.0),
        (0.4, 0.4, 1.0),
    )
    rotations: tuple[float, ...] = (0.0, 1.57)
    z: float = -1.8
    range_xy: float = 50.0
    direction_offset: float = 0.7854
    code_size: int = 9

    @property
    def per_cell(self) -> int:
        return len(self.sizes) * len(self.rotations)


@dataclass(frozen=True)
class PostConfig:
    """From head maps to boxes (brief 1.6). Lists are in class order; "scale" multiplies w and l for the overlap test only."""

    nms: Literal["scale", "normal"] = "scale"
    candidates: int = 1000
    score_threshold: float = 0.05
    max_boxes: int = 500
    kinds: tuple[Literal["rotate", "circle"], ...] = (*("rotate",) * 9, "circle")
    iou_thresholds: tuple[float, ...] = (0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.5, 0.5, 0.2)
    radius_thresholds: tuple[float, ...] = (4.0, 12.0, 10.0, 10.0, 12.0, 0.85, 0.85, 0.175, 0.175, 1.0)
    rescale: tuple[float, ...] = (1.0, 0.7, 0.55, 0.4, 0.7, 1.0, 1.0, 4.5, 9.0, 1.0)
    circle_cap: int = 83
    normal_iou_threshold: float = 0.2


@dataclass(frozen=True)
class FastBEVConfig:
    """One rung of the Fast-BEV ladder.

    Attributes:
        image_hw: network input per camera: an image is resized to this width, then cropped (vertically centred) to the height.
        lift_stride: input pixels per cell of the lifted feature map.
        backbone: a residual one, or a structure that `bevstack search backbone` found.
        neck: "fpn_concat" (released: FPN, bilinear concatenation, 3x3 fusion) or "topdown_sum".
        times: ages in seconds of the instants that are lifted, current first.
        overlap: which camera, in rig order, owns a voxel that several see. Released weights were trained with "last".
        cameras: how many cameras the feature table is laid out for; a rig may have fewer.
        reference_size: (width, height) of the cameras that the weights were trained with.
        coarse: further scales that are lifted, each into a coarser grid; their volumes are enlarged to the finest one's size
            and stand behind it (brief 1.5, "v4").
    """

    name: str
    image_hw: tuple[int, int]
    backbone: BackboneConfig | SuperBlockConfig
    neck: Literal["fpn_concat", "topdown_sum"]
    neck_channels: int
    grid: VoxelGrid
    times: tuple[float, ...]
    encoder: EncoderConfig
    lift_stride: int = 4
    cameras: int = 6
    reference_size: tuple[int, int] = (1600, 900)
    anchors: AnchorConfig = field(default_factory=AnchorConfig)
    post: PostConfig = field(default_factory=PostConfig)
    classes: tuple[str, ...] = DETECTION_CLASSES
    T_ego_lidar: Rows4 = _T_EGO_LIDAR
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    resize_filter: Literal["bicubic", "area"] = "bicubic"
    overlap: Literal["last", "first"] = "last"
    coarse: tuple[Level, ...] = ()

    @property
    def feature_hw(self) -> tuple[int, int]:
        """Rows and columns of one camera's lifted feature map (of the finest one, where several are lifted)."""
        return self.level_hw(self.levels[0])

    def level_hw(self, level: Level) -> tuple[int, int]:
        """Rows and columns of one camera's feature map of a scale."""
        return -(-self.image_hw[0] // level.stride), -(-self.image_hw[1] // level.stride)

    @property
    def levels(self) -> tuple[Level, ...]:
        """All lifted scales, finest first."""
        return (Level(self.lift_stride, self.grid), *self.coarse)

    @property
    def cells(self) -> int:
        """Feature cells of one instant, of all scales; also the table entry that means "no camera sees this voxel"."""
        return sum(self.cameras * rows * columns for rows, columns in map(self.level_hw, self.levels))

    @property
    def voxels(self) -> int:
        """Voxels of all scales: entries of a table."""
        return sum(level.grid.voxels for level in self.levels)

    @property
    def volume_channels(self) -> int:
        """Channels after the height axis has been folded in: Z * T * C, height outermost, then time, then feature; scale by
        scale."""
        return sum(level.grid.n[2] for level in self.levels) * len(self.times) * self.neck_channels

    @property
    def bev_hw(self) -> tuple[int, int]:
        """(Y, X) size of the head maps."""
        shrink = 2 if self.encoder.kind == "m2bev" else 1
        return -(-self.grid.n[1] // shrink), -(-self.grid.n[0] // shrink)

    @property
    def anchor_count(self) -> int:
        return self.bev_hw[0] * self.bev_hw[1] * self.anchors.per_cell

    @property
    def ego_from_lidar(self) -> Matrix:
        """(4, 4) float64 ``T_ego_lidar``."""
        return np.asarray(self.T_ego_lidar, dtype=np.float64)

    def to_json(self) -> str:
        """Canonical JSON: same config, same string."""
        values = dataclasses.asdict(self)
        if not self.coarse:  # as it was before there were several scales: weights and checkpoints carry this string
            del values["coarse"]
        return json.dumps(values, sort_keys=True, separators=(",", ":"))

    def digest(self) -> str:
        """First 16 hexadecimal digits of the config's SHA-256."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    @staticmethod
    def from_json(text: str) -> FastBEVConfig:
        """Inverse of ``to_json``.

        Raises:
            CheckpointError: if the text is no config of this version.
        """
        try:
            value = _build(FastBEVConfig, json.loads(text))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(f"model config inside the weights cannot be read ({error}): re-export the weights") from error
        assert isinstance(value, FastBEVConfig)
        return value


_NESTED: dict[str, type] = {
    "backbone": BackboneConfig,
    "grid": VoxelGrid,
    "encoder": EncoderConfig,
    "anchors": AnchorConfig,
    "post": PostConfig,
}


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _build(kind: type, values: dict[str, Any]) -> object:
    known = {f.name for f in dataclasses.fields(kind)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"unknown entries {unknown}")
    parts = {k: _part(k, v) for k, v in values.items()}
    return kind(**parts)


def _part(key: str, value: Any) -> Any:
    if key == "backbone" and "blocks" in value:
        return SuperBlockConfig.from_dict(value)
    if key == "coarse":
        return tuple(_build(Level, dict(level)) for level in value)
    return _build(_NESTED[key], dict(value)) if key in _NESTED else _tuples(value)


_R18 = BackboneConfig("basic", (64,), (64, 128, 256, 512), (2, 2, 2, 2))
_R34 = BackboneConfig("basic", (64,), (64, 128, 256, 512), (3, 4, 6, 3))
_R50 = BackboneConfig("bottleneck", (64,), (64, 128, 256, 512), (3, 4, 6, 3))
_R101 = BackboneConfig("bottleneck", (64,), (64, 128, 256, 512), (3, 4, 23, 3))
_TIMES = (0.0, 0.5, 1.0, 1.5)

_M0 = FastBEVConfig(
    name="fastbev-m0",
    image_hw=(256, 704),
    backbone=_R18,
    neck="fpn_concat",
    neck_channels=64,
    grid=VoxelGrid((200, 200, 4), (0.5, 0.5, 1.5)),
    times=_TIMES,
    encoder=EncoderConfig("m2bev", fuse=256, channels=192, layers=2),
)
_M4 = replace(
    _M0,
    name="fastbev-m4",
    image_hw=(320, 880),
    backbone=_R50,
    grid=VoxelGrid((250, 250, 6), (0.4, 0.4, 1.0)),
    encoder=EncoderConfig("m2bev", fuse=384, channels=256, layers=6),
)
# Made for CPUs: same contract and anchors; two instants, 1 m voxels, a pyramid in place of the wide encoder.
_NANO = FastBEVConfig(
    name="fastbev-nano",
    image_hw=(192, 528),
    backbone=BackboneConfig("basic", (16, 24), (24, 48, 96, 160), (1, 1, 2, 1)),
    neck="topdown_sum",
    neck_channels=32,
    grid=VoxelGrid((100, 100, 4), (1.0, 1.0, 1.5)),
    times=(0.0, 0.5),
    encoder=EncoderConfig("pyramid", fuse=48, channels=80, deep=128, outputs=64),
    resize_filter="area",
    # A small network places one object several times, up to metres apart, so that boxes do not overlap: most classes are
    # thinned out by distance instead. Squared radii in m2, chosen on simulated drives 9000 to 9005, which are neither
    # trained on nor reported.
    post=PostConfig(
        candidates=2000,
        kinds=(*("circle",) * 5, *("rotate",) * 2, *("circle",) * 3),
        radius_thresholds=(12.25, 25.0, 25.0, 16.0, 25.0, 0.85, 0.85, 2.56, 1.96, 12.25),
        circle_cap=500,
    ),
)


def single_frame(config: FastBEVConfig) -> FastBEVConfig:
    """The variant without history, "f1" in the deployments that use it: a quarter of the lifted channels, no speeds worth the
    name."""
    return replace(config, name=f"{config.name}-f1", times=(0.0,))


def narrow(config: FastBEVConfig, width: float) -> FastBEVConfig:
    """``config`` with an image backbone of a share of its channels; ``NAME@WIDTH``.

    The lifted features keep their channels, so that neither the BEV encoder nor cached features know the width.

    Raises:
        ValueError: a searched backbone; those have one width.
    """
    b = config.backbone
    if not isinstance(b, BackboneConfig):
        raise ValueError(f"{config.name} has a searched backbone: only residual ones come in several widths")
    thin = replace(b, stem=tuple(scaled(c, width) for c in b.stem), widths=tuple(scaled(c, width) for c in b.widths))
    return replace(config, name=with_width(config.name, width), backbone=thin)


SLIM = replace(_NANO, name="fastbev-slim")  # all widths in one weights file: bevstack.bev.slim
SLIM_WIDTHS = (0.5, 0.75, 1.0)

CONFIGS: dict[str, FastBEVConfig] = {
    c.name: c
    for c in (
        replace(_NANO, name="fastbev-micro", image_hw=(128, 352)),
        _NANO,
        *(narrow(SLIM, width) for width in SLIM_WIDTHS),
        _M0,
        replace(_M0, name="fastbev-m1", image_hw=(320, 880)),
        replace(_M0, name="fastbev-m2", backbone=_R34, encoder=EncoderConfig("m2bev", 256, 224, 4)),
        replace(
            _M0,
            name="fastbev-m3",
            backbone=_R34,
            grid=VoxelGrid((200, 200, 6), (0.5, 0.5, 1.0)),
            encoder=EncoderConfig("m2bev", 384, 256, 6),
        ),
        _M4,
        replace(_M4, name="fastbev-m5", image_hw=(512, 1408)),
        # Three scales, the published configuration "v4"; no weights were released.
        replace(
            _M0,
            name="fastbev-r50",
            backbone=_R50,
            grid=VoxelGrid((200, 200, 6), (0.5, 0.5, 1.0)),
            coarse=(
                Level(8, VoxelGrid((150, 150, 6), (2 / 3, 2 / 3, 1.0))),
                Level(16, VoxelGrid((100, 100, 6), (1.0, 1.0, 1.0))),
            ),
            encoder=EncoderConfig("m2bev", 256, 256, 6),
        ),
        # The paper's largest image encoder and input; its voxels and BEV encoder were never published: M4's are taken.
        replace(_M4, name="fastbev-r101", image_hw=(900, 1600), backbone=_R101),
        single_frame(_M0),
        single_frame(_M4),
    )
}
