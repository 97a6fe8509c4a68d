"""An image as the page's nodes receive it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bevstack.errors import BevstackError
from bevstack.frames.decode import image_size
from bevstack.frames.types import Frame
from bevstack.geometry import Camera


@dataclass(frozen=True)
class Picture:
    """One image of a camera as it came: compressed bytes, or (H, W, 3) uint8 RGB pixels. Never copied."""

    stamp: int
    data: bytes | memoryview | NDArray[np.uint8]

    @property
    def nbytes(self) -> int:
        return len(self.data) if isinstance(self.data, bytes) else self.data.nbytes

    @property
    def size(self) -> tuple[int, int] | None:
        """(width, height) of the image; None where its header says none."""
        if isinstance(self.data, np.ndarray) and self.data.ndim == 3:
            return self.data.shape[1], self.data.shape[0]
        try:
            data: Any = self.data
            return image_size(memoryview(data).cast("B"))
        except (BevstackError, ValueError, TypeError):
            return None

    def frame(self, camera: Camera) -> Frame:
        """The picture with its camera's calibration."""
        if isinstance(self.data, np.ndarray) and self.data.ndim == 3:
            return Frame(camera, self.stamp, image=self.data)
        encoded = np.ascontiguousarray(self.data).data if isinstance(self.data, np.ndarray) else self.data
        return Frame(camera, self.stamp, encoded=encoded)
