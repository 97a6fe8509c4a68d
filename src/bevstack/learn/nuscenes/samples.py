"""Training samples of whole instants: the current images and those of every age, with tables and boxes.

Sample ``n`` of a run is a pure function of the options and of ``n``, whoever makes it and in whatever order: a run continues
anywhere, and several processes share a batch by its numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bevstack.bev.config import CAMERA_ORDER, FastBEVConfig
from bevstack.bev.conventions import rows_from_boxes
from bevstack.bev.tables import rig_table
from bevstack.errors import BevstackError
from bevstack.frames import Frame, FrameSet
from bevstack.frames.decode import decode_frame
from bevstack.frames.nuscenes import NuScenesSource
from bevstack.frames.sim import SimulatedDrive
from bevstack.geometry import DETECTION_CLASSES, Boxes3D, Camera, Matrix, invert

from ..simulated import RESERVED_SEEDS
from .augment import draw_image, draw_view, move_boxes


@dataclass(frozen=True)
class Views:
    """An instant with its true boxes, and per age after the current one the images of then (None: there are none)."""

    now: FrameSet
    past: list[Mapping[str, Frame] | None]


@dataclass(frozen=True)
class TrainingSample:
    """What the network trains on.

    Attributes:
        images: (T * N, H, W, 3) uint8 RGB, time-major, current first.
        tables: (T, V) int32.
        rows: (G, 9) float32 true boxes in the model's convention, ``labels`` (G,) int64.
    """

    images: NDArray[np.uint8]
    tables: NDArray[np.int32]
    rows: NDArray[np.float32]
    labels: NDArray[np.int64]


class Pool(Protocol):
    """Something that samples come from."""

    def views(self, number: int, config: FastBEVConfig) -> Views:
        """Instant ``number`` of an endless sequence."""


def make_sample(views: Views, config: FastBEVConfig, rng: np.random.Generator | None) -> TrainingSample:
    """Images, tables and boxes of an instant; augmented as published if there is a ``rng``.

    An age without images repeats the current ones (with their own augmentation), as a vehicle does at the start of a drive; the
    published code takes images of the future there.
    """
    view = draw_view(rng)
    T_lidar_grid = np.linalg.inv(view)
    images, tables = [], []
    for age, frames in enumerate([views.now.frames, *views.past]):
        current = age == 0 or frames is None
        shown = views.now.frames if frames is None else frames
        cameras: list[Camera | None] = [None] * config.cameras
        matrices: list[Matrix | None] = [None] * config.cameras
        poses = np.tile(np.asarray(views.now.T_world_ego, np.float64), (config.cameras, 1, 1))
        stack = np.zeros((config.cameras, *config.image_hw, 3), np.uint8)
        for name, slot in _slots(shown, config).items():
            decoded = decode_frame(shown[name])
            camera = decoded.camera
            assert decoded.image is not None
            draw = draw_image((camera.width, camera.height), config, rng)
            stack[slot] = draw.apply(decoded.image, config)
            cameras[slot], matrices[slot] = camera, draw.matrix
            if decoded.T_world_ego is not None:
                poses[slot] = decoded.T_world_ego
        images.append(stack)
        tables.append(
            rig_table(
                cameras,
                config,
                image_matrices=matrices,
                T_world_ego_now=views.now.T_world_ego,
                # As at inference: the table of the current images is static, whatever their own exposure times.
                T_world_ego_images=None if current else list(poses),
                rectified=False,
                T_lidar_grid=T_lidar_grid,
            )
        )
    truth = views.now.truth if views.now.truth is not None else Boxes3D.empty()
    moved = move_boxes(truth.transformed(invert(config.ego_from_lidar)), view)
    rows = rows_from_boxes(moved, np.eye(4)).astype(np.float32)
    inside = (np.abs(rows[:, :2]) < config.anchors.range_xy).all(1)
    return TrainingSample(np.concatenate(images), np.stack(tables), rows[inside], moved.label[inside])


def _slots(frames: Mapping[str, Frame], config: FastBEVConfig) -> dict[str, int]:
    known = {name: slot for slot, name in enumerate(CAMERA_ORDER[: config.cameras])}
    unknown = sorted(set(frames) - set(known))
    if unknown:
        raise BevstackError(f"camera {unknown[0]!r} is not in the rig that is trained ({', '.join(known)}): leave it out")
    return {name: known[name] for name in frames}


def balanced(classes: Sequence[set[int]], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Class-balanced sampling (CBGS, arXiv 1908.09492) as published: positions of samples, drawn so that every one of ``count``
    classes has the same share; a sample is counted for each class in it.

    Args:
        classes: labels in each sample.
    """
    members = [np.array([i for i, found in enumerate(classes) if label in found], np.int64) for label in range(count)]
    present = [m for m in members if len(m)]
    if not present:
        return np.arange(len(classes), dtype=np.int64)
    total = sum(len(m) for m in members)
    share = total / count
    return np.concatenate([rng.choice(m, max(1, int(share))) for m in present])


@dataclass
class NuScenesPool:
    """Key instants of a nuScenes folder, class-balanced, in a new order every epoch.

    Args:
        path: the data set's root or its ``v1.0-*`` folder.
        scenes: names; None: all. See ``split_scenes``.
        balance: class-balanced sampling; else every sample once per epoch.
    """

    path: Path
    version: str | None = None
    scenes: tuple[str, ...] | None = None
    balance: bool = True
    seed: int = 0
    _source: NuScenesSource | None = field(default=None, repr=False)
    _order: tuple[int, NDArray[np.int64]] | None = field(default=None, repr=False)
    _epoch_length: int = 0

    def _open(self) -> NuScenesSource:
        if self._source is None:
            self._source = NuScenesSource(self.path, version=self.version, scenes=self.scenes, sweeps=True)
            self._tokens = self._source.key_samples()
            if not self._tokens:
                raise BevstackError(f"{self.path} has no samples in these scenes: choose others")
            self._classes = [self._source.classes_in(token) for token in self._tokens]
            self._epoch_length = len(self._drawn(0))
        return self._source

    def __len__(self) -> int:
        """Samples in an epoch."""
        self._open()
        return self._epoch_length

    def _drawn(self, epoch: int) -> NDArray[np.int64]:
        rng = np.random.default_rng([self.seed, 11, epoch])
        chosen = balanced(self._classes, len(DETECTION_CLASSES), rng) if self.balance else np.arange(len(self._tokens))
        return rng.permutation(chosen)

    def token(self, number: int) -> str:
        """Which sample comes at place ``number`` of the endless sequence."""
        self._open()
        epoch, place = divmod(number, self._epoch_length)
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, self._drawn(epoch))
        return self._tokens[int(self._order[1][place])]

    def views(self, number: int, config: FastBEVConfig) -> Views:
        source, token = self._open(), self.token(number)
        return Views(source.key_instant(token, measured=True), [source.past(token, age) for age in config.times[1:]])


@dataclass
class DrivePool:
    """Instants of simulated drives, ``per_drive`` of each, two a second, with the history that they really have."""

    first_drive: int = RESERVED_SEEDS
    per_drive: int = 16
    image_width: int = 800
    _kept: tuple[int, list[FrameSet]] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.first_drive < RESERVED_SEEDS:
            raise BevstackError(
                f"first_drive is {self.first_drive}: give {RESERVED_SEEDS} or more, the others are kept for evaluation"
            )

    def _drive(self, seed: int) -> list[FrameSet]:
        if self._kept is None or self._kept[0] != seed:
            with SimulatedDrive(seed, rate=2.0, duration=self.per_drive / 2.0, image_width=self.image_width) as drive:
                self._kept = (seed, list(drive))
        return self._kept[1]

    def views(self, number: int, config: FastBEVConfig) -> Views:
        turn, place = divmod(number, self.per_drive)
        drive = self._drive(self.first_drive + turn)
        back = [round(2.0 * age) for age in config.times[1:]]
        return Views(drive[place], [drive[place - b].frames if b <= place else None for b in back])


@dataclass
class MixedPool:
    """Takes ``share`` of all samples from ``second``, evenly spread, the others from ``first``."""

    first: Pool
    second: Pool
    share: float

    def views(self, number: int, config: FastBEVConfig) -> Views:
        before = int(number * self.share + 1e-9)
        if int((number + 1) * self.share + 1e-9) > before:
            return self.second.views(before, config)
        return self.first.views(number - before, config)


@dataclass(frozen=True)
class SampleSet:
    """Sample ``n`` of a run; ``seed`` decides the augmentation."""

    pool: Pool
    config: FastBEVConfig
    seed: int = 0
    augment: bool = True

    def __getitem__(self, number: int) -> TrainingSample:
        rng = np.random.default_rng([self.seed, 13, number]) if self.augment else None
        return make_sample(self.pool.views(number, self.config), self.config, rng)


def split_scenes(name: str) -> tuple[str, ...] | None:
    """Scene names of an official split ("train", "val", "mini_train", "mini_val"); None for "all".

    Raises:
        BevstackError: unknown split, or nuscenes-devkit, which knows them, is missing.
    """
    if name == "all":
        return None
    try:
        from nuscenes.utils.splits import create_splits_scenes
    except ImportError as error:
        raise BevstackError(
            f"the official splits need {error.name}: pip install --no-deps nuscenes-devkit; or train on --split all"
        ) from error
    splits = create_splits_scenes()
    if name not in splits:
        raise BevstackError(f"there is no split {name!r}: choose one of {', '.join(splits)}, all")
    return tuple(splits[name])
