"""Training samples from simulated drives, rendered on the fly at the network's own input size.

A batch holds one instant of each of ``batch`` drives that advance side by side in steps of the history's spacing (0.5 s). So
the features of the previous step are the history of this one, exactly as at inference, and a sample costs six images
whatever the number of instants lifted. Everything is a pure function of the options and the batch number: a run can stop and
continue anywhere.

Seeds below ``RESERVED_SEEDS`` belong to evaluation and are never trained on.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from bevstack.bev.config import FastBEVConfig
from bevstack.bev.conventions import rows_from_boxes
from bevstack.bev.preprocess import image_transform
from bevstack.bev.tables import rig_table
from bevstack.errors import BevstackError
from bevstack.frames.sim import SimulatedDrive
from bevstack.frames.sim.rig import STAGGER_MS
from bevstack.geometry import Camera

from .assignment import SampleTargets, assign
from .perspective import PerspectiveTargets, paint
from .stop import ignore_interrupts

RESERVED_SEEDS = 10_000
_AHEAD = 4  # batches prepared in advance


@dataclass(frozen=True)
class StreamOptions:
    """How training data is drawn.

    Attributes:
        batch: instants per batch. ``drives``: how many drives advance in turn, a multiple of ``batch``: neighbouring batches
            share none, so that the network is not pulled towards four streets at a time.
        clip: instants in a row; ``clips``: rows per world, at random times.
        span: seconds of motion that a world is prepared for.
        density, rare: more objects than in an evaluation drive, and more of the rare classes still.
        forget: share of samples whose past is taken away, as at the start of a drive.
        first_drive: smallest world seed used.
        workers: processes that render; 0 renders in the caller's.
    """

    batch: int = 4
    drives: int = 16
    clip: int = 10
    clips: int = 6
    span: float = 60.0
    density: float = 1.15
    rare: float = 1.6
    forget: float = 0.05
    seed: int = 0
    first_drive: int = RESERVED_SEEDS
    workers: int = 1
    image_width: int = 800


@dataclass(frozen=True)
class Sample:
    """One instant of one drive; see ``Batch``."""

    images: NDArray[np.uint8]
    tables: NDArray[np.int32]
    lookback: tuple[int, ...]
    targets: SampleTargets
    perspective: PerspectiveTargets
    rows: NDArray[np.float32]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """B instants.

    Attributes:
        slots: which drive each instant belongs to.
        images: (B, N, H, W, 3) uint8 RGB. ``tables``: (B, T, V) int32.
        lookback: per age after the current one, (B,) how many steps ago its features were computed; 0 repeats the current ones.
        targets, perspective, rows, labels: per sample.
    """

    slots: list[int]
    images: NDArray[np.uint8]
    tables: NDArray[np.int32]
    lookback: list[NDArray[np.int64]]
    targets: list[SampleTargets]
    perspective: list[PerspectiveTargets]
    rows: list[NDArray[np.float32]]
    labels: list[NDArray[np.int64]]

    @staticmethod
    def of(slots: list[int], samples: list[Sample]) -> Batch:
        ages = len(samples[0].lookback)
        return Batch(
            slots,
            np.stack([s.images for s in samples]),
            np.stack([s.tables for s in samples]),
            [np.array([s.lookback[a] for s in samples], np.int64) for a in range(ages)],
            [s.targets for s in samples],
            [s.perspective for s in samples],
            [s.rows for s in samples],
            [s.labels for s in samples],
        )

    def split(self, parts: int) -> list[Batch]:
        """Contiguous parts."""
        size = len(self.targets)
        edges = [size * i // parts for i in range(parts + 1)]
        return [
            Batch(
                self.slots[a:b],
                self.images[a:b],
                self.tables[a:b],
                [x[a:b] for x in self.lookback],
                self.targets[a:b],
                self.perspective[a:b],
                self.rows[a:b],
                self.labels[a:b],
            )
            for a, b in itertools.pairwise(edges)
        ]


def spacing(config: FastBEVConfig) -> float:
    """Seconds between the instants that a rung lifts (0.5 for one that has no past).

    Raises:
        BevstackError: if they are not evenly spaced.
    """
    if len(config.times) < 2:
        return 0.5
    step = config.times[1]
    if not np.allclose(config.times, step * np.arange(len(config.times))):
        raise BevstackError(f"{config.name} lifts instants at {config.times} s: training needs them evenly spaced")
    return step


def input_camera(camera: Camera, config: FastBEVConfig) -> Camera:
    """The camera as the network sees it: resized to the input's width, cropped to its height."""
    transform = image_transform(camera.width, camera.height, config)
    height, width = config.image_hw
    return camera.resized(*transform.resized).cropped(0, transform.top, width, height)


def jitter(images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Mild photometric augmentation of one instant: gain, gamma and colour balance, the same for all its cameras."""
    gamma = rng.uniform(0.85, 1.18)
    gains = rng.uniform(0.9, 1.1) * rng.uniform(0.95, 1.05, 3)
    levels = (np.arange(256) / 255.0) ** gamma
    result = np.empty_like(images)
    for c in range(3):
        table = np.clip(255.0 * gains[c] * levels + rng.uniform(-4, 4), 0, 255).astype(np.uint8)
        result[..., c] = table[images[..., c]]
    return result


@dataclass
class SlotRenderer:
    """Makes the samples of single slots; keeps each slot's current world."""

    config: FastBEVConfig
    options: StreamOptions
    worlds: dict[int, tuple[int, SimulatedDrive]] = field(default_factory=dict)

    def seed_of(self, slot: int, world: int) -> int:
        return self.options.first_drive + 1_000_000 * self.options.seed + world * self.options.drives + slot

    def _drive(self, slot: int, seed: int) -> SimulatedDrive:
        kept = self.worlds.get(slot)
        if kept is None or kept[0] != seed:
            o = self.options
            rare = dict.fromkeys(("truck", "trailer", "bus", "construction_vehicle", "bicycle", "motorcycle"), o.rare)
            drive = SimulatedDrive(seed, duration=o.span, image_width=o.image_width, density=o.density, class_weights=rare)
            self.worlds[slot] = kept = (seed, drive)
        return kept[1]

    def sample(self, visit: int, slot: int) -> Sample:
        """What the drive in ``slot`` shows when it is visited for the ``visit``-th time."""
        o, config = self.options, self.config
        step = spacing(config)
        length = o.clip * o.clips
        at = visit + slot * length // o.drives  # slots change worlds one after the other
        world, within = divmod(at, length)
        seed = self.seed_of(slot, world)
        drive = self._drive(slot, seed)
        clip, position = divmod(within, o.clip)
        start = float(np.random.default_rng([seed, 1, clip]).uniform(0.0, o.span - o.clip * step))
        rng = np.random.default_rng([seed, 2, within])
        available = min(position, visit)
        if rng.random() < o.forget:
            available = 0
        lookback = tuple(min(round(age / step), available) for age in config.times[1:])
        now = start + position * step
        views = {n: input_camera(c, config) for n, c in drive.cameras.items()}
        pictures = drive.render_instant(now, views, stagger=True)
        images = jitter(np.stack(list(pictures.values())), rng)
        boxes = drive.truth(now)
        tables = np.stack([self._table(drive, now, 0.0), *(self._table(drive, now, back * step) for back in lookback)])
        rows = rows_from_boxes(boxes, config.ego_from_lidar).astype(np.float32)
        inside = (np.abs(rows[:, :2]) < config.anchors.range_xy).all(1)
        return Sample(
            images,
            tables,
            lookback,
            assign(rows, boxes.label, config),
            paint(boxes, list(views.values()), config),
            rows[inside],
            boxes.label[inside],
        )

    def _table(self, drive: SimulatedDrive, now: float, age: float) -> NDArray[np.int32]:
        """Table of the images taken ``age`` seconds ago, for the grid of now. As at inference (``bevstack.bev.FastBEV``),
        history uses the ego pose at every exposure, and the table of the current instant is static."""
        if age == 0.0:
            return rig_table(list(drive.cameras.values()), self.config)
        stamp = drive.start_stamp + round((now - age) * 1e9)
        poses = [drive.ego_pose(stamp + round(1e6 * STAGGER_MS.get(name, 0.0))) for name in drive.cameras]
        here = drive.ego_pose(drive.start_stamp + round(now * 1e9))
        return rig_table(list(drive.cameras.values()), self.config, T_world_ego_now=here, T_world_ego_images=poses)


_RENDERER: SlotRenderer | None = None


def _leave_with(parent: int) -> None:
    """Ends this worker when its parent has died without saying so (killed): nobody else would."""
    while os.getppid() == parent:
        time.sleep(2.0)
    os._exit(1)


def _start_worker(config: FastBEVConfig, options: StreamOptions) -> None:
    global _RENDERER
    ignore_interrupts()
    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    _RENDERER = SlotRenderer(config, options)


def _work(visit: int, slots: list[int]) -> list[Sample]:
    assert _RENDERER is not None
    return [_RENDERER.sample(visit, slot) for slot in slots]


class DriveStream:
    """Endless batches from ``start`` on, prepared in other processes. Use as a context manager.

    Raises:
        BevstackError: if ``first_drive`` lies in the seeds reserved for evaluation.
    """

    def __init__(self, config: FastBEVConfig, options: StreamOptions, start: int = 0) -> None:
        if options.first_drive < RESERVED_SEEDS:
            raise BevstackError(
                f"first_drive is {options.first_drive}: give {RESERVED_SEEDS} or more, the others are kept for evaluation"
            )
        if options.drives % options.batch:
            divisors = ", ".join(str(n) for n in range(1, options.drives + 1) if options.drives % n == 0)
            raise BevstackError(f"{options.drives} drives cannot take turns in batches of {options.batch}: choose {divisors}")
        self.config, self.options, self.start = config, options, start
        spacing(config)
        # A drive's world lives in one process: every process has its own share of each batch.
        self._pools = [
            ProcessPoolExecutor(1, get_context("spawn"), initializer=_start_worker, initargs=(config, options))
            for _ in range(min(options.workers, options.batch))
        ]
        self._local = SlotRenderer(config, options)

    @staticmethod
    def depth(config: FastBEVConfig) -> int:
        """How many past steps must be remembered."""
        return round(config.times[-1] / spacing(config)) if len(config.times) > 1 else 0

    def __enter__(self) -> DriveStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for pool in self._pools:
            pool.shutdown(wait=True, cancel_futures=True)

    def turn(self, number: int) -> tuple[int, list[int]]:
        """(visit, slots) of a batch."""
        o = self.options
        visit, group = divmod(number, o.drives // o.batch)
        return visit, list(range(group * o.batch, (group + 1) * o.batch))

    def batch(self, number: int) -> Batch:
        """One batch, made in this process."""
        visit, slots = self.turn(number)
        return Batch.of(slots, [self._local.sample(visit, slot) for slot in slots])

    def _submit(self, number: int) -> tuple[list[int], list[Future[list[Sample]]]]:
        visit, slots = self.turn(number)
        return slots, [pool.submit(_work, visit, slots[i :: len(self._pools)]) for i, pool in enumerate(self._pools)]

    def __iter__(self) -> Iterator[Batch]:
        number = self.start
        if not self._pools:
            while True:
                yield self.batch(number)
                number += 1
        ahead = deque(self._submit(number + i) for i in range(_AHEAD))
        number += _AHEAD
        while True:
            slots, futures = ahead.popleft()
            ahead.append(self._submit(number))
            number += 1
            samples: dict[int, Sample] = {}
            for i, future in enumerate(futures):
                samples.update(zip(slots[i :: len(futures)], future.result(), strict=True))
            yield Batch.of(slots, [samples[slot] for slot in slots])
