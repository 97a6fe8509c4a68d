"""Labelled images in COCO's format: reading, writing, and what an image's labels say.

Beyond COCO: an image may list categories that are not exhaustively annotated in it ("not_exhaustive_category_ids", as in
LVIS): where no box of such a category stands, nothing is known, so nothing is learned. Crowd regions (``iscrowd``) and
annotations with ``"ignore": 1`` are regions in which a missing box is no error.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bevstack.errors import SourceError


@dataclass(frozen=True)
class Labels:
    """What is known about one image.

    Attributes:
        xyxy: (N, 4) float32 pixels. ``label``: (N,) int64 class indices. ``ignore``: (N,) bool, regions to leave out.
        unknown: (K,) bool or empty: classes that are not exhaustively annotated.
    """

    xyxy: NDArray[np.float32]
    label: NDArray[np.int64]
    ignore: NDArray[np.bool_]
    unknown: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))

    def __len__(self) -> int:
        return len(self.xyxy)


@dataclass(frozen=True)
class CocoImage:
    """One entry: its ``id`` in the file, the image's path, (width, height), labels."""

    id: int
    path: Path
    size: tuple[int, int]
    labels: Labels


@dataclass(frozen=True)
class CocoData:
    """Labelled images; class k of ``classes`` is category ``category_ids[k]`` of the file."""

    images: list[CocoImage]
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    file: Path


# Other names of our classes: COCO's, and those of YOLO lists.
SYNONYMS: dict[str, str] = {
    "person": "pedestrian",
    "motorbike": "motorcycle",
    "cyclist": "bicycle",
    "traffic cone": "traffic_cone",
    "construction vehicle": "construction_vehicle",
    "aeroplane": "airplane",
    "sofa": "couch",
    "pottedplant": "potted plant",
    "diningtable": "dining table",
    "tvmonitor": "tv",
}


def class_mapping(names: Sequence[str], classes: Sequence[str]) -> dict[int, int]:
    """Which of ``names`` (by position) is which of ``classes``: by name, or by ``SYNONYMS`` in either direction."""
    known = {name: n for n, name in enumerate(classes)}
    for name, other in SYNONYMS.items():
        if other in known:
            known.setdefault(name, known[other])
        elif name in known:
            known.setdefault(other, known[name])
    return {n: known[name] for n, name in enumerate(names) if name in known}


def _require(condition: bool, file: Path, what: str) -> None:
    if not condition:
        raise SourceError(f"{file} is no COCO file: {what}")


def check_folder(images: Path | None) -> None:
    """
    Raises:
        SourceError: the folder of the images is missing.
    """
    if images is not None and not images.is_dir():
        raise SourceError(f"image folder {images} does not exist: give the folder that the file names of the set start from")


def read_coco(file: Path, images: Path | None = None, classes: Sequence[str] | None = None) -> CocoData:
    """Reads labels; images are not opened.

    Args:
        images: folder of the images; None: the JSON file's own.
        classes: the label space to map categories to by name; None: the file's own categories, in the order of their ids.
            Categories that are not in it are left out.

    Raises:
        SourceError: the file cannot be read, is no COCO file, holds impossible boxes, or shares no class with ``classes``.
    """
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SourceError(f"{file} cannot be read: {error.strerror}; give a COCO annotation file") from error
    except ValueError as error:
        raise SourceError(f"{file} cannot be read as JSON ({error}): give a COCO annotation file") from error
    _require(isinstance(content, Mapping), file, "expected an object with images, annotations and categories")
    for key in ("images", "annotations", "categories"):
        _require(isinstance(content.get(key), list), file, f"it has no list {key!r}")
    try:
        categories = sorted(content["categories"], key=lambda c: int(c["id"]))
        names = [str(c["name"]) for c in categories]
        ids = [int(c["id"]) for c in categories]
        own = tuple(classes) if classes is not None else tuple(names)
        mapping = class_mapping(names, own)
        if not mapping:
            raise SourceError(f"{file}: none of its categories ({', '.join(names[:8])}) is among {', '.join(own[:10])}")
        label_of = {ids[n]: k for n, k in mapping.items()}
        entries = {int(i["id"]): i for i in content["images"]}
        boxes: dict[int, list[tuple[list[float], int, bool]]] = {i: [] for i in entries}
        for a in content["annotations"]:
            label, image = label_of.get(int(a["category_id"])), int(a["image_id"])
            _require(image in entries, file, f"annotation {a.get('id')} is of image {image}, which is not listed")
            x, y, w, h = (float(v) for v in a["bbox"])
            _require(all(math.isfinite(v) for v in (x, y, w, h)), file, f"annotation {a.get('id')} has box {a['bbox']}")
            if label is not None and w > 0 and h > 0:
                ignore = bool(a.get("iscrowd", 0)) or bool(a.get("ignore", 0))
                boxes[image].append(([x, y, x + w, y + h], label, ignore))
        absent = np.ones(len(own), np.bool_)
        absent[list(mapping.values())] = False
        root = images if images is not None else file.parent
        found = []
        for number, entry in entries.items():
            unknown = absent.copy()
            for category in entry.get("not_exhaustive_category_ids", []):
                if int(category) in label_of:
                    unknown[label_of[int(category)]] = True
            rows = boxes[number]
            labels = Labels(
                np.array([r[0] for r in rows], np.float32).reshape(-1, 4),
                np.array([r[1] for r in rows], np.int64),
                np.array([r[2] for r in rows], np.bool_),
                unknown,
            )
            size = (int(entry["width"]), int(entry["height"]))
            found.append(CocoImage(number, root / str(entry["file_name"]), size, labels))
    except (KeyError, TypeError, ValueError) as error:
        raise SourceError(f"{file} is no COCO file: {type(error).__name__} {error}") from error
    by_label = {k: ids[n] for n, k in reversed(mapping.items())}
    return CocoData(found, own, tuple(by_label.get(k, -1) for k in range(len(own))), file)


class CocoWriter:
    """Writes images and their labels into a folder. ``save`` may be called again and again."""

    def __init__(self, folder: Path, classes: Sequence[str], description: str) -> None:
        self.folder, self.classes = folder, tuple(classes)
        self._content: dict[str, Any] = {
            "info": {"description": description},
            "images": [],
            "annotations": [],
            "categories": [{"id": n, "name": name} for n, name in enumerate(self.classes, start=1)],
        }

    @property
    def images(self) -> int:
        """Images so far."""
        return len(self._content["images"])

    @property
    def boxes(self) -> int:
        """Boxes so far, ignored ones included."""
        return len(self._content["annotations"])

    def add(self, name: str, content: bytes | None, hw: Sequence[int], labels: Labels, scores: Sequence[float] = ()) -> None:
        """One image: ``content`` is written to ``name`` in the folder, None if it is there already.

        Args:
            hw: height and width. ``scores``: of the boxes, where a teacher made them.
        """
        if content is not None:
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        number = self.images + 1
        entry: dict[str, Any] = {"id": number, "file_name": name, "height": int(hw[0]), "width": int(hw[1])}
        unknown = (np.flatnonzero(labels.unknown) + 1).tolist()
        if unknown:
            entry["not_exhaustive_category_ids"] = unknown
        self._content["images"].append(entry)
        for n, (box, label, ignore) in enumerate(zip(labels.xyxy.tolist(), labels.label.tolist(), labels.ignore.tolist())):
            x0, y0, x1, y1 = (round(v, 2) for v in box)
            annotation = {
                "id": self.boxes + 1,
                "image_id": number,
                "category_id": label + 1,
                "bbox": [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)],
                "area": round((x1 - x0) * (y1 - y0), 2),
                "iscrowd": int(ignore),
            }
            if len(scores):
                annotation["score"] = round(float(scores[n]), 4)
            self._content["annotations"].append(annotation)

    def save(self) -> Path:
        """Writes ``coco.json``: whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "coco.json"
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(self._content), encoding="utf-8")
        os.replace(partial, path)
        return path
