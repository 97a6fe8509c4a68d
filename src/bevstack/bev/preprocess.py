"""Camera image to network input: resize to the input's width, vertically centred crop (brief fast-bev 4, traps 14 to 16)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bevstack.frames.decode import resize
from bevstack.geometry import Matrix

from .config import FastBEVConfig


@dataclass(frozen=True)
class ImageTransform:
    """How one camera's image becomes the input: resize to ``resized`` (w, h), then rows from ``top`` on (negative: black)."""

    source: tuple[int, int]
    resized: tuple[int, int]
    top: int
    output_hw: tuple[int, int]

    @property
    def matrix(self) -> Matrix:
        """(3, 3) A: original pixels to input pixels, u' = s u."""
        sx, sy = self.resized[0] / self.source[0], self.resized[1] / self.source[1]
        return np.array([[sx, 0.0, 0.0], [0.0, sy, -float(self.top)], [0.0, 0.0, 1.0]])


@lru_cache(maxsize=64)
def _transform(width: int, height: int, hw: tuple[int, int]) -> ImageTransform:
    rows, columns = hw
    resized = (columns, max(1, int(height * columns / width + 1e-6)))
    return ImageTransform((width, height), resized, (resized[1] - rows) // 2, hw)


def image_transform(width: int, height: int, config: FastBEVConfig) -> ImageTransform:
    """The rule for cameras of ``width`` x ``height`` pixels: tall images lose rows above and below, flat ones gain black."""
    return _transform(width, height, config.image_hw)


def fit(image: NDArray[np.uint8], transform: ImageTransform, how: Literal["bicubic", "area"], out: NDArray[np.uint8]) -> None:
    """Writes ``image`` (any size of the transform's source, for example decoded smaller) into ``out`` (H, W, 3)."""
    small = resize(image, transform.resized, how)
    top, rows = transform.top, out.shape[0]
    if top >= 0:
        out[:] = small[top : top + rows]
        return
    out[:] = 0
    out[-top : -top + small.shape[0]] = small


def normalise(images: NDArray[np.uint8], config: FastBEVConfig) -> NDArray[np.float32]:
    """(N, H, W, 3) uint8 RGB -> (N, 3, H, W) float32, (x - mean) / std."""
    scale = 1.0 / np.asarray(config.std, np.float32)
    shift = -np.asarray(config.mean, np.float32) * scale
    planes = np.empty((images.shape[0], 3, *images.shape[1:3]), np.float32)
    for channel in range(3):
        np.multiply(images[..., channel], scale[channel], out=planes[:, channel])
        planes[:, channel] += shift[channel]
    return planes
