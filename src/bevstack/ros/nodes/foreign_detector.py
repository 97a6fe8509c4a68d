"""A detector that is not ours (an ONNX graph of the YOLOX layout) as ``detect_node``'s model."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bevstack.geometry import Boxes2D

if TYPE_CHECKING:
    from bevstack.learn.detect.teacher import YoloxTeacher


class ForeignDetector:
    """Images of a batch run one after the other: such graphs have room for one.

    Raises:
        EngineError: no graph of a known layout.
    """

    def __init__(self, model: str | Path, threads: int | None = None) -> None:
        from bevstack.learn.detect.teacher import YoloxTeacher

        self._net: YoloxTeacher = YoloxTeacher(model, threads=threads, threshold=0.05)
        self.rung = Path(model).stem
        self.timings: Mapping[str, float] = {}

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of its labels: COCO's."""
        return self._net.classes

    def decode_size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) to which images of this size are resized inside."""
        scale = min(self._net.canvas[0] / height, self._net.canvas[1] / width, 1.0)
        return max(1, round(width * scale)), max(1, round(height * scale))

    def __call__(self, images: Sequence[NDArray[np.uint8]], sizes: Sequence[tuple[int, int]] | None = None) -> list[Boxes2D]:
        """As ``detect.Detector``: boxes in pixels of the originals, whose (width, height) are ``sizes``."""
        started, found = time.perf_counter(), []
        for n, image in enumerate(images):
            rgb = np.repeat(image.reshape(*image.shape[:2], -1), 3, axis=2) if image.ndim == 2 else image
            boxes = self._net(rgb)
            width, height = sizes[n] if sizes is not None else (image.shape[1], image.shape[0])
            scale = np.array([width / image.shape[1], height / image.shape[0]] * 2, np.float32)
            found.append(replace(boxes, xyxy=boxes.xyxy * scale))
        self.timings = {"network": (time.perf_counter() - started) * 1e3}
        return found


def is_foreign(model: str, threads: int = 1) -> bool:
    """Whether ``model`` is an ONNX file that we did not export.

    Raises:
        EngineError: the file cannot be loaded.
    """
    if Path(model).suffix != ".onnx" or not Path(model).is_file():
        return False
    from bevstack.detect.export import FORMAT
    from bevstack.engine.onnx import OnnxEngine

    return OnnxEngine(model, threads).metadata.get("format") != FORMAT
