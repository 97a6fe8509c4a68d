"""A folder that shows what a score means: table, precision over recall, and pictures of the best and worst instants."""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bevstack.errors import BevstackError
from bevstack.frames import FrameSet
from bevstack.geometry import Boxes3D

from .nuscenes_metrics import TP_NAMES, DetectionResult

MATCH = 2.0  # metres between centres, as nuScenes' true-positive errors
SHOWN = 0.3  # score from which a box counts here, as the node publishes it


def instant_score(boxes: Boxes3D, truth: Boxes3D) -> float:
    """F1 of one instant: boxes of at least ``SHOWN`` matched greedily with true boxes of their class within ``MATCH``; 1 where
    there is nothing to find and nothing was found."""
    mine = np.flatnonzero(boxes.score >= SHOWN)
    mine = mine[np.argsort(-boxes.score[mine], kind="stable")]
    free = np.ones(len(truth), bool)
    hits = 0
    for i in mine:
        candidates = np.flatnonzero(free & (truth.label == boxes.label[i]))
        if len(candidates):
            gaps = np.linalg.norm(truth.center[candidates, :2] - boxes.center[i, :2], axis=1)
            nearest = int(np.argmin(gaps))
            if gaps[nearest] < MATCH:
                free[candidates[nearest]] = False
                hits += 1
    total = len(mine) + len(truth)
    return 1.0 if total == 0 else 2.0 * hits / total


@dataclass(order=True)
class Moment:
    """One kept instant."""

    key: tuple[float, int]
    frame_set: FrameSet = field(compare=False)
    boxes: Boxes3D = field(compare=False)
    f1: float = field(compare=False)


class Gallery:
    """Keeps the ``count`` best and the ``count`` worst instants of a stream, and nothing else."""

    def __init__(self, count: int = 3) -> None:
        self._count, self._seen = count, 0
        self._best: list[Moment] = []
        self._worst: list[Moment] = []

    def __call__(self, frame_set: FrameSet, boxes: Boxes3D) -> None:
        if frame_set.truth is None or not len(frame_set.truth):
            return
        f1 = instant_score(boxes, frame_set.truth)
        self._seen += 1
        for heap, sign in ((self._best, 1.0), (self._worst, -1.0)):
            moment = Moment((sign * f1, -self._seen), frame_set, boxes, f1)
            if len(heap) < self._count:
                heapq.heappush(heap, moment)
            elif moment > heap[0]:
                heapq.heapreplace(heap, moment)

    def best(self) -> list[Moment]:
        """Best first."""
        return sorted(self._best, reverse=True)

    def worst(self) -> list[Moment]:
        """Worst first."""
        return sorted(self._worst, reverse=True)


def draw_curves(result: DetectionResult, path: Path) -> None:
    """Precision over recall per class, one line per match distance, as a PNG."""
    import matplotlib

    matplotlib.use("Agg", force=False)
    from matplotlib import pyplot

    rows = -(-len(result.classes) // 5)
    figure, axes = pyplot.subplots(rows, 5, figsize=(16, 3.2 * rows), sharex=True, sharey=True, squeeze=False)
    for axis, metrics in zip(axes.flat, result.classes):
        for distance, precision in metrics.precision.items():
            label = f"{distance:g} m: {metrics.ap_by_distance[distance]:.2f}"
            axis.plot(np.linspace(0, 1, len(precision)), precision, label=label)
        axis.set_title(f"{metrics.name}  AP {metrics.ap:.3f}", fontsize=10)
        axis.set_ylim(0, 1.02)
        axis.grid(alpha=0.3)
        if metrics.precision:
            axis.legend(fontsize=7, loc="upper right")
    for axis in axes[-1]:
        axis.set_xlabel("recall")
    for axis in axes[:, 0]:
        axis.set_ylabel("precision")
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


Picture = Callable[[FrameSet, Boxes3D, str], "NDArray[np.uint8]"]


def write_report(result: DetectionResult, folder: Path, gallery: Gallery, picture: Picture) -> Path:
    """``report.md``, ``scores.json``, ``curves.png`` and the gallery's pictures.

    Args:
        picture: draws (instant, boxes, title) as (H, W, 3) uint8 RGB.

    Returns:
        Path of the page.

    Raises:
        BevstackError: the folder cannot be written.
    """
    import cv2

    try:
        folder.mkdir(parents=True, exist_ok=True)
        result.save(folder / "scores.json")
        draw_curves(result, folder / "curves.png")
        shown: list[tuple[str, str]] = []
        for word, moments in (("best", gallery.best()), ("worst", gallery.worst())):
            for n, moment in enumerate(moments, start=1):
                name = f"{word}_{n}.png"
                title = f"{word} {n}   F1 {moment.f1:.2f} at {MATCH:g} m, score {SHOWN:g}   stamp {moment.frame_set.stamp} ns"
                cv2.imwrite(str(folder / name), picture(moment.frame_set, moment.boxes, title)[..., ::-1])
                shown.append((name, title))
        page = folder / "report.md"
        page.write_text(_page(result, shown), encoding="utf-8")
    except OSError as error:
        raise BevstackError(f"report {folder} cannot be written: {error.strerror or error}") from error
    return page


def _page(result: DetectionResult, pictures: list[tuple[str, str]]) -> str:
    details: dict[str, Any] = dict(result.details)
    rows = []
    for c in result.classes:
        values = [c.ap, *c.ap_by_distance.values(), *(c.errors[n] for n in TP_NAMES.values())]
        cells = " | ".join("-" if not np.isfinite(v) else f"{v:.3f}" for v in values)
        rows.append(f"| {c.name} | {cells} | {c.truths} | {c.predictions} |")
    errors = ", ".join(f"m{name} {value:.3f}" for name, value in result.errors.items())
    lines = [
        f"# {details.get('model', 'scores')} on {details.get('data', 'labelled instants')}",
        "",
        f"**mAP {result.mean_ap:.3f}, NDS {result.nds:.3f}**; {errors}; {result.instants} instants.",
        "",
        "| class | AP | AP@0.5m | AP@1m | AP@2m | AP@4m | ATE | ASE | AOE | AVE | AAE | true boxes | predictions |",
        "| --- " * 13 + "|",
        *rows,
        "",
        "nuScenes' own metrics (`detection_cvpr_2019`). Errors are those of matches within 2 m.",
        "",
        "![precision over recall](curves.png)",
        "",
        f"## Best and worst instants, by F1 of boxes from score {SHOWN:g} on within {MATCH:g} m",
        "",
        "White outlines in the bird's-eye views are the true boxes.",
        "",
    ]
    for name, title in pictures:
        lines += [title, "", f"![{title}]({name})", ""]
    lines += ["```json", json.dumps(details, indent=1), "```", ""]
    return "\n".join(lines)
