"""A rung small enough to train in a test, and a labelled folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from bevstack.detect.config import DETECTORS, GiraffeDetConfig, HeadConfig, ImageBackboneConfig
from bevstack.learn.detect.coco import CocoWriter, Labels

CLASSES = ("car", "pedestrian")


@pytest.fixture(scope="session")
def tiny() -> GiraffeDetConfig:
    return replace(
        DETECTORS["giraffedet-nano"],
        name="tiny",
        classes=CLASSES,
        inner=8,
        outputs=32,
        backbone=ImageBackboneConfig("s2d", (8, 8), (8, 8, 8, 8, 8)),
        head=HeadConfig(convs=1, channels=32, quality=8),
        canvas=(128, 128),
    )


def labels(boxes: list[list[float]], label: list[int], ignore: list[bool] | None = None, unknown: int | None = None) -> Labels:
    hidden = np.zeros(len(CLASSES), np.bool_)
    if unknown is not None:
        hidden[unknown] = True
    flags = np.array(ignore if ignore is not None else [False] * len(boxes), np.bool_)
    return Labels(np.array(boxes, np.float32).reshape(-1, 4), np.array(label, np.int64), flags, hidden)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight images with one red square each (class 0), and one without."""
    path = tmp_path_factory.mktemp("labelled")
    writer = CocoWriter(path, CLASSES, "squares")
    rng = np.random.default_rng(0)
    for n in range(9):
        image = rng.integers(90, 130, (128, 128, 3), dtype=np.uint8)
        x, y = (int(v) for v in rng.integers(10, 60, 2))
        if n < 8:
            image[y : y + 40, x : x + 48] = (220, 30, 30)
        content = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
        known = labels([[x, y, x + 48, y + 40]], [0]) if n < 8 else labels([], [])
        writer.add(f"{n}.png", content, image.shape[:2], known)
    writer.save()
    return path
