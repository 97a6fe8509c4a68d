"""Scores of 2D boxes with COCO's own metrics (pycocotools), on any labelled folder."""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bevstack.detect import PostConfig
from bevstack.detect.detector import Detector
from bevstack.engine.names import EngineName
from bevstack.errors import BevstackError
from bevstack.geometry import Boxes2D

from .coco import CocoData, check_folder, class_mapping, read_coco
from .teacher import read_rgb

if TYPE_CHECKING:
    from rich.table import Table

# What COCOeval.summarize gives, in order.
STATISTICS = (
    "AP",
    "AP50",
    "AP75",
    "AP_small",
    "AP_medium",
    "AP_large",
    "AR1",
    "AR10",
    "AR100",
    "AR_small",
    "AR_medium",
    "AR_large",
)


class MissingPycocotoolsError(BevstackError):
    """pycocotools is not installed."""


@dataclass(frozen=True)
class CocoResult:
    """Scores of one set.

    Attributes:
        statistics: by name, see ``STATISTICS``; None where no true box of that size exists.
        classes: by name: AP, AP50 and the number of true boxes (regions to ignore not counted).
        details: model, data, engine, milliseconds per image and the like.
    """

    statistics: dict[str, float | None]
    classes: dict[str, dict[str, float | int | None]]
    images: int
    details: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Writes JSON."""
        content = {**self.details, "images": self.images, **self.statistics, "classes": self.classes}
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def table(self, title: str) -> Table:
        """For a terminal."""
        from rich.table import Table

        out = Table(title=title)
        for name in ("class", "AP", "AP50", "true boxes"):
            out.add_column(name, justify="left" if name == "class" else "right")

        def cell(value: float | int | None) -> str:
            return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)

        for name, c in self.classes.items():
            out.add_row(name, cell(c["AP"]), cell(c["AP50"]), cell(c["truths"]))
        truths = sum(int(c["truths"] or 0) for c in self.classes.values())
        out.add_row("all", cell(self.statistics["AP"]), cell(self.statistics["AP50"]), str(truths), style="bold")
        sizes = ", ".join(f"{k} {cell(self.statistics['AP_' + k])}" for k in ("small", "medium", "large"))
        out.caption = f"AP75 {cell(self.statistics['AP75'])}; {sizes}; AR100 {cell(self.statistics['AR100'])}"
        return out


def _pycocotools() -> tuple[Any, Any]:
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise MissingPycocotoolsError("COCO metrics need the package pycocotools: pip install 'bevstack[eval]'") from error
    return COCO, COCOeval


def score_boxes(data: CocoData, boxes: Sequence[Boxes2D]) -> CocoResult:
    """Scores ``boxes[n]`` on ``data.images[n]``.

    Classes are matched by name. Classes that the detector or the file does not know are left out. A box of a class that is not
    exhaustively annotated in its image is dropped, as nothing says whether it is right.

    Raises:
        MissingPycocotoolsError: the package is missing.
        BevstackError: no class in common, or not one list of boxes per image.
    """
    coco_type, eval_type = _pycocotools()
    if len(boxes) != len(data.images):
        raise BevstackError(f"{len(data.images)} images with {len(boxes)} lists of boxes: give one for each image")
    known = boxes[0].classes if boxes else ()
    mapping = class_mapping(known, data.classes)
    chosen = sorted(set(mapping.values()))
    if boxes and not chosen:
        raise BevstackError(
            f"no class of the detector ({', '.join(known[:10])}) is in {data.file} ({', '.join(data.classes[:10])})"
        )
    annotations: list[dict[str, Any]] = []
    detections: list[dict[str, Any]] = []
    truths = dict.fromkeys(range(len(data.classes)), 0)
    for image, found in zip(data.images, boxes):
        for box, label, ignore in zip(image.labels.xyxy.tolist(), image.labels.label.tolist(), image.labels.ignore.tolist()):
            w, h = box[2] - box[0], box[3] - box[1]
            truths[label] += int(not ignore)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image.id,
                    "category_id": label,
                    "bbox": [box[0], box[1], w, h],
                    "area": w * h,
                    "iscrowd": int(ignore),
                }
            )
        for box, score, label in zip(found.xyxy.tolist(), found.score.tolist(), found.label.tolist()):
            k = mapping.get(label)
            if k is None or (len(image.labels.unknown) and bool(image.labels.unknown[k])):
                continue
            size = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            detections.append({"image_id": image.id, "category_id": k, "bbox": size, "score": score})
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports on stdout
        truth = coco_type()
        truth.dataset = {
            "info": {},
            "images": [{"id": i.id, "width": i.size[0], "height": i.size[1]} for i in data.images],
            "annotations": annotations,
            "categories": [{"id": n, "name": name} for n, name in enumerate(data.classes)],
        }
        truth.createIndex()
        if not detections:
            return _nothing(data, chosen, truths)
        evaluation = eval_type(truth, truth.loadRes(detections), "bbox")
        evaluation.params.catIds = chosen
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    statistics = {name: _number(v) for name, v in zip(STATISTICS, evaluation.stats)}
    precision = evaluation.eval["precision"]  # (IoU, recall, class, size, detections)
    classes: dict[str, dict[str, float | int | None]] = {}
    for position, k in enumerate(chosen):
        curve = precision[:, :, position, 0, 2]
        classes[data.classes[k]] = {"AP": _mean(curve), "AP50": _mean(curve[0]), "truths": truths[k]}
    return CocoResult(statistics, classes, len(data.images))


def _number(value: float) -> float | None:
    return float(value) if value > -1 else None


def _mean(curve: Any) -> float | None:
    valid = curve[curve > -1]
    return float(np.mean(valid)) if valid.size else None


def _nothing(data: CocoData, chosen: Sequence[int], truths: dict[int, int]) -> CocoResult:
    """No boxes were found: nothing is right, and where there is nothing to find, nothing can be said."""
    zero = {k: 0.0 if truths[k] else None for k in chosen}
    statistics: dict[str, float | None] = dict.fromkeys(STATISTICS, 0.0 if any(truths.values()) else None)
    classes: dict[str, dict[str, float | int | None]] = {
        data.classes[k]: {"AP": zero[k], "AP50": zero[k], "truths": truths[k]} for k in chosen
    }
    return CocoResult(statistics, classes, len(data.images))


def evaluate_coco(
    model: str | Path | Detector,
    file: Path,
    images: Path | None = None,
    engine: EngineName = "onnx",
    *,
    threads: int | None = None,
    canvas: tuple[int, int] | None = None,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CocoResult:
    """Runs a rung over a labelled folder and scores it; score threshold 0.001 unless a ``Detector`` is given, as is usual.

    Args:
        file: COCO annotations. ``images``: folder of the images; None: the file's own.
        canvas: (height, width) of the network's input instead of the rung's own.
        limit: only the first so many images.

    Raises:
        SourceError: labels or images that cannot be read.
        MissingPycocotoolsError: the package is missing. BevstackError: no class in common.
    """
    _pycocotools()  # before an hour of inference, not after it
    check_folder(images)
    data = read_coco(file, images)
    if limit is not None:
        data = CocoData(data.images[:limit], data.classes, data.category_ids, data.file)
    if not data.images:
        raise BevstackError(f"{file} lists no images: nothing to score")
    detector = model if isinstance(model, Detector) else _open(model, engine, threads, canvas)
    found, times = [], []
    started = time.monotonic()
    for n, entry in enumerate(data.images, start=1):
        found.append(detector([read_rgb(entry.path)])[0])
        times.append(detector.timings["total"])
        if progress is not None:
            progress(n, len(data.images))
    result = score_boxes(data, found)
    details = {
        "model": detector.rung,
        "weights_sha256": detector.weights_sha256,
        "engine": detector.engine,
        "canvas": list(detector.canvas),
        "score_threshold": detector.config.post.score_threshold,
        "data": file.name,
        "seconds": round(time.monotonic() - started, 2),
        "ms_per_image": round(float(np.median(times)), 2),
    }
    return CocoResult(result.statistics, result.classes, result.images, details)


def _open(model: str | Path, engine: EngineName, threads: int | None, canvas: tuple[int, int] | None) -> Detector:
    from dataclasses import replace

    detector = Detector(model, engine, threads, canvas=canvas)
    post: PostConfig = replace(detector.config.post, score_threshold=0.001, rival_iou=1.0, inside=1.0)
    detector.config = replace(detector.config, post=post)
    return detector
