"""2D boxes of one image and the 3D boxes that its camera sees: which belong together, and where they disagree.

A 3D box covers the rectangle around its projected edges. Pairs are made by overlap, the best first, each box once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .boxes import Boxes2D, Boxes3D
from .camera import Camera
from .overlay import Outline, box_outlines
from .palette import class_name

_KINDS = (
    {"car", "truck", "trailer", "bus", "construction_vehicle", "train"},
    {"bicycle", "motorcycle"},
    {"pedestrian", "person"},
    {"traffic_cone"},
    {"barrier"},
)


@dataclass(frozen=True)
class AssociationConfig:
    """What counts as a pair, and what may be missed without a flag.

    Attributes:
        overlap: least intersection over union of a pair.
        least_height: boxes lower than this share of the image's height may be missed by either side.
        farthest: metres beyond which a 3D box may be missed.
        hidden: 3D boxes covered by one nearer box to more than this share may be missed.
        edge: boxes that touch the image's left or right side (within this share of its width) may be missed: what is half
            outside has no reliable rectangle.
    """

    overlap: float = 0.3
    least_height: float = 0.03
    farthest: float = 45.0
    hidden: float = 0.5
    edge: float = 0.004


@dataclass(frozen=True)
class Association:
    """One image's boxes of both kinds.

    Attributes:
        pairs: (K, 2) int64 index of the 2D and of the 3D box. ``overlap``: (K,) intersection over union.
        visible: (M,) int64 indices of the 3D boxes that the camera sees. ``rectangles``: (M, 4) theirs, pixels, cut at the
            image's sides.
        only_2d, only_3d: indices of boxes that the other side misses although it should have seen them.
        conflicts: rows of ``pairs`` whose classes contradict each other.
    """

    pairs: NDArray[np.int64]
    overlap: NDArray[np.float64]
    visible: NDArray[np.int64]
    rectangles: NDArray[np.float64]
    only_2d: NDArray[np.int64]
    only_3d: NDArray[np.int64]
    conflicts: NDArray[np.int64]

    @property
    def disagreements(self) -> int:
        """How many boxes one side has and the other lacks, or calls something else."""
        return len(self.only_2d) + len(self.only_3d) + len(self.conflicts)


def rectangle(outline: Outline, camera: Camera) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of an outline in pixels (the top left pixel spans 0 to 1), cut at the image's sides."""
    points = np.clip(np.concatenate(outline.lines), 0.0, 1.0) * (camera.width, camera.height)
    (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
    return float(x0), float(y0), float(x1), float(y1)


def overlaps(a: NDArray[np.floating], b: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(N, M) intersection over union, and intersection over the area of ``a``, of boxes (N, 4) and (M, 4)."""
    a, b = np.asarray(a, np.float64).reshape(-1, 4), np.asarray(b, np.float64).reshape(-1, 4)
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0.0, None), axis=2)
    area_a, area_b = np.prod(a[:, 2:] - a[:, :2], axis=1)[:, None], np.prod(b[:, 2:] - b[:, :2], axis=1)[None]
    return shared / np.maximum(area_a + area_b - shared, 1e-9), shared / np.maximum(area_a, 1e-9)


def associate(
    camera: Camera,
    boxes2d: Boxes2D,
    boxes3d: Boxes3D,
    outlines: Sequence[Outline] | None = None,
    config: AssociationConfig | None = None,
) -> Association:
    """Pairs and disagreements of one camera.

    Args:
        camera: calibration of the image that ``boxes2d`` are in.
        boxes2d: pixels of the original image.
        boxes3d: ego frame, same moment.
        outlines: ``box_outlines(camera, boxes3d)``, where they are known already.
    """
    config = config or AssociationConfig()
    seen = box_outlines(camera, boxes3d) if outlines is None else outlines
    visible = np.array([o.index for o in seen], np.int64)
    depth = np.array([o.depth for o in seen], np.float64)
    rects = np.array([rectangle(o, camera) for o in seen], np.float64).reshape(-1, 4)
    iou, _ = overlaps(boxes2d.xyxy, rects)
    candidates = np.argwhere(iou >= config.overlap)
    order = np.argsort(-iou[tuple(candidates.T)], kind="stable")
    used2d, used3d = np.zeros(len(boxes2d), np.bool_), np.zeros(len(rects), np.bool_)
    pairs, shares = [], []
    for i, j in candidates[order]:
        if used2d[i] or used3d[j]:
            continue
        used2d[i] = used3d[j] = True
        pairs.append((i, visible[j]))
        shares.append(iou[i, j])
    pair_rows = np.array(pairs, np.int64).reshape(-1, 2)
    names2d = boxes2d.names()
    conflicts = [k for k, (i, n) in enumerate(pair_rows) if _contradict(names2d[i], class_name(int(boxes3d.label[n])))]
    least = config.least_height * camera.height

    _, covered = overlaps(rects, rects)
    nearer = depth[None, :] < depth[:, None]
    hidden = np.where(nearer, covered, 0.0).max(axis=1, initial=0.0) > config.hidden
    low3d = rects[:, 3] - rects[:, 1] < least
    missed3d = ~used3d & ~hidden & ~low3d & (depth < config.farthest) & ~_at_edge(rects, camera, config)

    xyxy = np.asarray(boxes2d.xyxy, np.float64)
    # A 2D box inside a 3D box's rectangle that has a partner may be a part of it: a cab, a trailer, the person on a bicycle.
    _, inside = overlaps(xyxy, rects)
    part = inside.max(axis=1, initial=0.0) > 0.7
    known = np.array([_kind(name) is not None for name in names2d], np.bool_)
    tall = xyxy[:, 3] - xyxy[:, 1] >= least
    missed2d = ~used2d & tall & known & ~part & ~_at_edge(xyxy, camera, config)
    return Association(
        pair_rows,
        np.array(shares, np.float64),
        visible,
        rects,
        np.flatnonzero(missed2d),
        visible[missed3d],
        np.array(conflicts, np.int64),
    )


def _at_edge(xyxy: NDArray[np.float64], camera: Camera, config: AssociationConfig) -> NDArray[np.bool_]:
    margin = config.edge * camera.width
    return np.asarray((xyxy[:, 0] <= margin) | (xyxy[:, 2] >= camera.width - margin), np.bool_)


def _kind(name: str) -> int | None:
    return next((n for n, names in enumerate(_KINDS) if name in names), None)


def _contradict(first: str, second: str) -> bool:
    a, b = _kind(first), _kind(second)
    return a is not None and b is not None and a != b
