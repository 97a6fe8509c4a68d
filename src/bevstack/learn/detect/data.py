"""Training samples: an image of a labelled set, scaled, mirrored, cropped and recoloured by a seed of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from bevstack.detect.config import GiraffeDetConfig
from bevstack.detect.letterbox import letterbox
from bevstack.errors import SourceError

from .clutter import clutter
from .coco import CocoData, Labels, check_folder, read_coco
from .teacher import read_rgb


@dataclass(frozen=True)
class DataSpec:
    """One labelled set: COCO ``file``, folder of the ``images`` (None: the file's), its ``weight`` among all sets."""

    file: Path
    images: Path | None = None
    weight: float = 1.0

    @staticmethod
    def parse(text: str) -> DataSpec:
        """ "FILE", "FILE@WEIGHT", "IMAGES:FILE" or "IMAGES:FILE@WEIGHT".

        Raises:
            SourceError: the weight is no positive number.
        """
        path, _, weight = text.partition("@")
        images, colon, file = path.rpartition(":")
        try:
            value = float(weight) if weight else 1.0
        except ValueError:
            value = 0.0
        if not value > 0:
            raise SourceError(f"data {text!r}: the weight after @ must be a positive number")
        return DataSpec(Path(file), Path(images) if colon else None, value)


@dataclass(frozen=True)
class AugmentOptions:
    """How samples vary.

    Attributes:
        scale: range of factors on the size at which inference would show the image: on the rung's canvas, or on the training
            canvas where that one is larger (it then stands for inference at that size).
        centred: share of crops that are placed around one of the boxes.
        colour: strength of brightness, contrast, saturation and tint changes, 0 for none.
        keep: share of a box that must be left after cropping for it to be learned; below, it is a region to leave out.
        smallest: sides below this many pixels are left out, too.
        clutter: share of samples that get paint marks, specks and patches which are no objects; see `clutter`.
    """

    scale: tuple[float, float] = (0.55, 1.6)
    centred: float = 0.7
    colour: float = 1.0
    keep: float = 0.35
    smallest: float = 3.0
    clutter: float = 0.3


@dataclass(frozen=True)
class Sample:
    """``image`` (H, W, 3) uint8 on the training canvas with its labels, in the label space of the config."""

    image: NDArray[np.uint8]
    labels: Labels


class TrainingSet:
    """Labelled sets mixed by weight. Sample ``number`` depends on nothing but ``seed`` and its number.

    Raises:
        SourceError: a file cannot be read, a folder is missing, or there are no images at all.
    """

    def __init__(
        self, config: GiraffeDetConfig, specs: Sequence[DataSpec], seed: int, augment: AugmentOptions | None = None
    ) -> None:
        self.config, self.seed, self.augment = config, seed, augment or AugmentOptions()
        self.sets: list[CocoData] = []
        weights = []
        for spec in specs:
            check_folder(spec.images)
            data = read_coco(spec.file, spec.images, config.classes)
            if data.images:
                self.sets.append(data)
                weights.append(spec.weight)
        if not self.sets:
            raise SourceError("no training images: give at least one labelled set (--data FILE)")
        self._share = np.cumsum(weights) / np.sum(weights)

    def sample(self, number: int, canvas: tuple[int, int]) -> Sample:
        """One sample on a canvas (height, width).

        Raises:
            SourceError: its image cannot be read.
        """
        rng = np.random.default_rng((self.seed, number))
        data = self.sets[min(int(np.searchsorted(self._share, rng.random(), side="right")), len(self.sets) - 1)]
        entry = data.images[int(rng.integers(len(data.images)))]
        return vary(read_rgb(entry.path), entry.labels, canvas, self.config, self.augment, rng)


def vary(
    image: NDArray[np.uint8],
    labels: Labels,
    canvas: tuple[int, int],
    config: GiraffeDetConfig,
    options: AugmentOptions,
    rng: np.random.Generator,
) -> Sample:
    """Random scale, mirror, window and colours: an image becomes one of the training canvas's size."""
    height, width = image.shape[:2]
    larger = canvas[0] > config.canvas[0] and canvas[1] > config.canvas[1]
    base = letterbox(width, height, canvas if larger else config.canvas, None if larger else config.fit).scale[0]
    low, high = np.log(options.scale)
    scale = base * float(np.exp(rng.uniform(low, high)))
    rows, columns = canvas
    # The window in pixels of the original image, so that only what is needed is resized.
    w, h = columns / scale, rows / scale
    centred = rng.random() < options.centred and len(labels) > 0
    if centred:
        x0, y0, x1, y1 = labels.xyxy[int(rng.integers(len(labels)))]
        left = rng.uniform(x0 + 0.5 * (x1 - x0) - 0.9 * w, x0 + 0.5 * (x1 - x0) - 0.1 * w)
        top = rng.uniform(y0 + 0.5 * (y1 - y0) - 0.9 * h, y0 + 0.5 * (y1 - y0) - 0.1 * h)
    else:
        left, top = rng.uniform(0, max(0.0, width - w)), rng.uniform(0, max(0.0, height - h))
    left = float(np.clip(left, 0, max(0.0, width - w)))
    top = float(np.clip(top, 0, max(0.0, height - h)))
    mirror = rng.random() < 0.5
    out = _window(image, left, top, scale, canvas, config)
    boxes = (labels.xyxy - np.array([left, top, left, top], np.float32)) * scale
    if mirror:
        out = np.ascontiguousarray(out[:, ::-1])
        boxes = boxes[:, [2, 1, 0, 3]] * np.array([-1, 1, -1, 1], np.float32) + np.array([columns, 0, columns, 0], np.float32)
    cut = _cut(boxes.astype(np.float32), labels, canvas, options)
    if rng.random() < options.clutter:
        out = clutter(out, cut, rng)
    return Sample(_recolour(out, options.colour, rng), cut)


def _window(
    image: NDArray[np.uint8], left: float, top: float, scale: float, canvas: tuple[int, int], config: GiraffeDetConfig
) -> NDArray[np.uint8]:
    rows, columns = canvas
    fill = tuple(round(v) for v in config.mean)
    if scale < 1.0:  # shrink with an area filter first: the warp below takes single samples
        x0, y0 = int(left), int(top)
        x1, y1 = (
            min(image.shape[1], int(np.ceil(left + columns / scale))),
            min(image.shape[0], int(np.ceil(top + rows / scale))),
        )
        part = image[y0:y1, x0:x1]
        size = (max(1, round(part.shape[1] * scale)), max(1, round(part.shape[0] * scale)))
        small = np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA))
        out = np.empty((rows, columns, 3), np.uint8)
        out[:] = fill
        h, w = min(rows, small.shape[0]), min(columns, small.shape[1])
        out[:h, :w] = small[:h, :w]
        return out
    matrix = np.array([[scale, 0.0, -left * scale], [0.0, scale, -top * scale]])
    return np.asarray(cv2.warpAffine(image, matrix, (columns, rows), flags=cv2.INTER_LINEAR, borderValue=fill), np.uint8)


def _cut(boxes: NDArray[np.float32], labels: Labels, canvas: tuple[int, int], options: AugmentOptions) -> Labels:
    limit = np.array([canvas[1], canvas[0]] * 2, np.float32)
    inside = np.clip(boxes, 0, limit)
    size, whole = inside[:, 2:] - inside[:, :2], boxes[:, 2:] - boxes[:, :2]
    left = size.prod(1) / np.maximum(whole.prod(1), 1e-6)
    present = (size > 0.5).all(1)
    ignore = labels.ignore | (left < options.keep) | (size.min(1, initial=np.inf) < options.smallest)
    return Labels(inside[present], labels.label[present], ignore[present], labels.unknown)


def _recolour(image: NDArray[np.uint8], strength: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Brightness, contrast, tint, saturation, gamma; sometimes blur or noise."""
    if strength <= 0:
        return image
    gain = (1.0 + strength * rng.uniform(-0.3, 0.3)) * (1.0 + strength * rng.uniform(-0.12, 0.12, 3))
    offset = strength * rng.uniform(-25, 25)
    gamma = float(np.exp(strength * rng.uniform(-0.35, 0.35)))
    levels = np.arange(256) / 255.0
    table = np.clip(255.0 * (levels**gamma)[:, None] * gain + offset, 0, 255).astype(np.uint8)
    out = np.asarray(cv2.LUT(image, table.reshape(256, 1, 3)), np.uint8)
    saturation = 1.0 + strength * rng.uniform(-0.5, 0.3)
    grey = cv2.cvtColor(cv2.cvtColor(out, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    out = np.asarray(cv2.addWeighted(out, saturation, grey, 1.0 - saturation, 0.0), np.uint8)
    if rng.random() < 0.15 * strength:
        out = np.asarray(cv2.GaussianBlur(out, (3, 3), float(rng.uniform(0.4, 1.0))), np.uint8)
    if rng.random() < 0.15 * strength:
        noise = rng.normal(0, rng.uniform(2, 8), out.shape).astype(np.int16)
        out = np.clip(out + noise, 0, 255).astype(np.uint8)
    return out


class BatchIndex:
    """Endless (canvas, sample numbers) of one process, from step ``start`` on: the sampler of a ``DataLoader``.

    The canvas changes from step to step where several are given, the same for all processes.
    """

    def __init__(
        self, batch: int, canvases: Sequence[tuple[int, int]], seed: int, start: int = 0, rank: int = 0, world: int = 1
    ) -> None:
        self.batch, self.canvases, self.seed, self.start, self.rank, self.world = (
            batch,
            list(canvases),
            seed,
            start,
            rank,
            world,
        )

    def at(self, step: int) -> list[tuple[int, tuple[int, int]]]:
        """Samples of a step: (number, canvas)."""
        pick = int(np.random.default_rng((self.seed, step, 7)).integers(len(self.canvases)))
        first = (step * self.world + self.rank) * self.batch
        return [(first + n, self.canvases[pick]) for n in range(self.batch)]

    def __iter__(self) -> Iterator[list[tuple[int, tuple[int, int]]]]:
        step = self.start
        while True:
            yield self.at(step)
            step += 1
