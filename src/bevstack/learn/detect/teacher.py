"""Pseudo-labels: any ONNX detector labels images that nobody has labelled."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from bevstack.detect.config import COCO_CLASSES, PostConfig, rival_groups
from bevstack.detect.nms import class_nms
from bevstack.engine.onnx import OnnxEngine
from bevstack.errors import EngineError, SourceError
from bevstack.geometry import DETECTION_CLASSES, Boxes2D

from .coco import CocoWriter, Labels, class_mapping

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")


class Teacher(Protocol):
    """A detector that labels: image (H, W, 3) uint8 RGB -> boxes of its own ``classes``."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of its labels."""

    def __call__(self, image: NDArray[np.uint8]) -> Boxes2D:
        """Boxes in pixels of the image, best first."""


class YoloxTeacher:
    """An ONNX graph of the YOLOX layout: input (1, 3, H, W), output (1, A, 5 + K): centre, size, objectness, classes.

    Boxes may be given in pixels (decoded) or as offsets and logarithms of each cell (raw): raw centres are small numbers.
    Images are BGR on 0..255, kept in proportion, padded right and below with 114, as YOLOX does since 0.2.
    """

    def __init__(
        self, model: str | Path, classes: Sequence[str] = COCO_CLASSES, *, threads: int | None = None, threshold: float = 0.05
    ) -> None:
        self.classes = tuple(classes)
        self._engine = OnnxEngine(model, threads)
        self._threshold = threshold
        shapes = list(self._engine.inputs.items())
        shape = shapes[0][1][0]
        if len(shapes) != 1 or len(shape) != 4 or not all(isinstance(n, int) for n in shape[2:]):
            raise EngineError(f"{model}: a YOLOX graph has one input of (1, 3, H, W); this has {shapes}")
        self._name, self._hw = shapes[0][0], (int(shape[2]), int(shape[3]))
        cells, strides = [], []
        for stride in (8, 16, 32):
            y, x = np.meshgrid(np.arange(self._hw[0] // stride), np.arange(self._hw[1] // stride), indexing="ij")
            cells.append(np.stack([x, y], -1).reshape(-1, 2))
            strides.append(np.full((x.size, 1), stride))
        self._cells = np.concatenate(cells).astype(np.float32)
        self._strides = np.concatenate(strides).astype(np.float32)

    @property
    def canvas(self) -> tuple[int, int]:
        """(height, width) of the graph's input, pixels."""
        return self._hw

    def __call__(self, image: NDArray[np.uint8]) -> Boxes2D:
        """See ``Teacher``.

        Raises:
            EngineError: the graph's output is not of the YOLOX layout.
        """
        height, width = self._hw
        scale = min(height / image.shape[0], width / image.shape[1])
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        canvas = np.full((height, width, 3), 114, np.float32)
        canvas[: size[1], : size[0]] = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)[..., ::-1]
        out = next(iter(self._engine.run({self._name: canvas.transpose(2, 0, 1)[None]}).values()))
        if out.shape != (1, len(self._cells), 5 + len(self.classes)):
            raise EngineError(
                f"teacher output {out.shape}: the YOLOX layout for {width}x{height} and {len(self.classes)} classes is "
                f"{(1, len(self._cells), 5 + len(self.classes))}"
            )
        rows = np.asarray(out[0], np.float32)
        centre, extent = rows[:, :2], rows[:, 2:4]
        if float(np.abs(centre).max()) < 30.0:  # offsets inside the grid, not pixels
            centre = (centre + self._cells) * self._strides
            extent = np.exp(np.clip(extent, -20.0, 20.0)) * self._strides
        scores = rows[:, 5:] * rows[:, 4:5]
        cell, label = np.nonzero(scores > self._threshold)
        score = scores[cell, label]
        xyxy = np.concatenate([centre - extent / 2, centre + extent / 2], 1)[cell] / scale
        limit = np.array([image.shape[1], image.shape[0]] * 2, np.float32)
        xyxy = np.clip(xyxy, 0, limit).astype(np.float32)
        kept = class_nms(xyxy, score, label.astype(np.int64), 0.65, 300)
        return Boxes2D(xyxy[kept], score[kept], label[kept], self.classes)


class DetectorTeacher:
    """One of our own rungs as teacher."""

    def __init__(self, model: str | Path, *, threads: int | None = None) -> None:
        from bevstack.detect import Detector

        self._detector = Detector(model, "onnx", threads)
        self.classes = self._detector.classes

    def __call__(self, image: NDArray[np.uint8]) -> Boxes2D:
        return self._detector([image])[0]


def open_teacher(model: str | Path, classes: Sequence[str] | None = None, *, threads: int | None = None) -> Teacher:
    """A teacher from an ONNX file (ours, or of the YOLOX layout) or from the name of one of our rungs.

    Args:
        classes: of a YOLOX graph; None: COCO's.

    Raises:
        EngineError: an unknown layout. CheckpointError: no such file or rung.
    """
    from bevstack.detect.export import FORMAT

    if Path(model).suffix != ".onnx":
        return DetectorTeacher(model, threads=threads)
    if not Path(model).is_file():
        raise EngineError(f"teacher {model} does not exist: give an ONNX file or the name of a rung")
    if OnnxEngine(model, 1).metadata.get("format") == FORMAT:
        return DetectorTeacher(model, threads=threads)
    return YoloxTeacher(model, classes or COCO_CLASSES, threads=threads)


def tiled(teacher: Teacher, image: NDArray[np.uint8], tile: int = 640) -> Boxes2D:
    """The teacher's boxes on the whole image, on its mirror image and on overlapping tiles, merged.

    A small teacher misses small objects; tiles show them larger. Boxes that touch a tile's inner border are cut objects and are
    left to the tiles that see them whole.
    """
    height, width = image.shape[:2]
    found: list[tuple[Boxes2D, NDArray[np.float32]]] = []

    def add(boxes: Boxes2D, left: int, top: int, w: int, h: int) -> None:
        x0, y0, x1, y1 = boxes.xyxy.T
        whole = ((x0 > 3) | (left == 0)) & ((y0 > 3) | (top == 0))
        whole &= ((x1 < w - 3) | (left + w >= width)) & ((y1 < h - 3) | (top + h >= height))
        part = boxes[whole]
        found.append((part, part.xyxy + np.array([left, top, left, top], np.float32)))

    add(teacher(image), 0, 0, width, height)
    mirrored = teacher(np.ascontiguousarray(image[:, ::-1]))
    swapped = mirrored.xyxy[:, [2, 1, 0, 3]] * np.array([-1, 1, -1, 1], np.float32) + np.array([width, 0, width, 0], np.float32)
    found.append((mirrored, swapped.astype(np.float32)))
    if max(width, height) > 1.25 * tile:
        columns, rows = (max(1, -(-(n - tile // 4) // (tile - tile // 4))) for n in (width, height))
        for row in range(rows):
            for column in range(columns):
                left = round(column * max(0, width - tile) / max(1, columns - 1))
                top = round(row * max(0, height - tile) / max(1, rows - 1))
                part = np.ascontiguousarray(image[top : top + tile, left : left + tile])
                add(teacher(part), left, top, part.shape[1], part.shape[0])
    xyxy = np.concatenate([f[1] for f in found])
    score, label = np.concatenate([f[0].score for f in found]), np.concatenate([f[0].label for f in found])
    kept = class_nms(xyxy, score, label, 0.6, 300)
    return Boxes2D(xyxy[kept], score[kept], label[kept], teacher.classes)


@dataclass(frozen=True)
class PseudoLabelOptions:
    """``sure``: boxes from this score on are learned; from ``doubtful`` on they are regions to leave out.

    ``classes``: the label space. ``tile``: see ``tiled``; 0: the whole image only. ``absent``: classes that the teacher does
    not know but that these images do not show. All others that it does not know are unknown: a network that learns them
    elsewhere (on simulated drives) then never learns where they are not, and may see them everywhere in images like these.
    ``keep_bonnet``: the teacher's boxes around the bonnet of the camera's own car are labels, too; see ``bonnets``.
    """

    sure: float = 0.4
    doubtful: float = 0.12
    classes: tuple[str, ...] = DETECTION_CLASSES
    tile: int = 640
    absent: tuple[str, ...] = ()
    keep_bonnet: bool = False


VEHICLES = ("car", "truck", "bus", "boat", "train")  # what a detector may call a bonnet


def bonnets(boxes: Boxes2D, width: int, height: int) -> NDArray[np.bool_]:
    """(N,) vehicles that fill the image's lower part from side to side: the bonnet or dashboard of the camera's own car.

    Detectors call it a car, and whoever learns that finds cars in empty asphalt. At least 0.8 of the image's width, down to its
    lowest twentieth, not above its upper third (a bus just ahead reaches higher).
    """
    x0, y0, x1, y1 = boxes.xyxy.T / np.array([[width], [height], [width], [height]], np.float32)
    vehicle = np.isin(boxes.label, [k for k, name in enumerate(boxes.classes) if name in VEHICLES])
    return np.asarray(vehicle & (x1 - x0 >= 0.8) & (y1 >= 0.95) & (y0 >= 0.33))


def labels_of(boxes: Boxes2D, options: PseudoLabelOptions) -> tuple[Labels, NDArray[np.float32]]:
    """A teacher's boxes as labels in another label space, and their scores; classes it does not know are unknown.

    Of boxes of rival classes on one object (a truck that is also called a car) the best is kept. Lesser vehicles inside a
    better one are left out: parts of it, or others behind it.

    Raises:
        SourceError: a class of ``absent`` is not in the label space.
    """
    mapping = class_mapping(boxes.classes, options.classes)
    unknown = np.ones(len(options.classes), np.bool_)
    unknown[list(mapping.values())] = False
    for name in options.absent:
        if name not in options.classes:
            raise SourceError(f"class {name!r} is to be taken as absent, but there are only {', '.join(options.classes)}")
        unknown[options.classes.index(name)] = False
    chosen = np.array([int(k) in mapping for k in boxes.label], np.bool_) & (boxes.score >= options.doubtful)
    part = boxes[chosen]
    label = np.array([mapping[int(k)] for k in part.label], np.int64)
    group, post = np.asarray(rival_groups(options.classes), np.int64)[label], PostConfig()
    alone = np.sort(class_nms(part.xyxy, part.score, label, 1.0, len(label), group, post.rival_iou))
    part, label, group = part[alone], label[alone], group[alone]
    whole = class_nms(part.xyxy, part.score, label, 1.0, len(label), group, 1.0, post.inside)
    ignore = part.score < options.sure
    ignore[np.setdiff1d(np.arange(len(label)), whole)] = True
    return Labels(part.xyxy, label, ignore, unknown), part.score


def image_files(folder: Path) -> list[Path]:
    """Images below ``folder``, sorted by name.

    Raises:
        SourceError: there are none.
    """
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not found:
        raise SourceError(f"no images in {folder}: give a folder with {', '.join(SUFFIXES)} files")
    return found


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB.

    Raises:
        SourceError: no readable image.
    """
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        raise SourceError(f"image {path} cannot be read: {error.strerror}; give the folder that holds it") from error
    image = cv2.imdecode(content, cv2.IMREAD_COLOR) if len(content) else None
    if image is None:
        raise SourceError(f"{path} is no readable image: remove it or write it again")
    return np.ascontiguousarray(np.asarray(image)[..., ::-1])


def write_pseudo_labels(
    files: Sequence[Path],
    folder: Path,
    teacher: Teacher,
    options: PseudoLabelOptions | None = None,
    *,
    report: Callable[[str], None] | None = None,
) -> Path:
    """Labels ``files`` and writes ``coco.json`` into ``folder``; images stay where they are (relative paths).

    Returns:
        The JSON's path.
    """
    options = options or PseudoLabelOptions()
    writer = CocoWriter(folder, options.classes, "pseudo-labels of a teacher detector")
    folder.mkdir(parents=True, exist_ok=True)
    for n, file in enumerate(files, start=1):
        image = read_rgb(file)
        boxes = tiled(teacher, image, options.tile) if options.tile else teacher(image)
        if not options.keep_bonnet:
            boxes = boxes[~bonnets(boxes, image.shape[1], image.shape[0])]
        labels, scores = labels_of(boxes, options)
        writer.add(os.path.relpath(file, folder), None, image.shape[:2], labels, scores.tolist())
        if report is not None and n % 20 == 0:
            report(f"{n} of {len(files)} images, {writer.boxes} boxes")
    return writer.save()
