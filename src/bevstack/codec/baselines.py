"""Classical codecs to compare with, encoded in the same run: JPEG, WebP and AVIF through Pillow."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bevstack.errors import BevstackError

Image = NDArray[np.uint8]


class BaselineError(BevstackError):
    """A classical codec is missing in this Pillow, or cannot code a picture."""


@dataclass(frozen=True)
class Baseline:
    """One classical codec with fixed settings; only its quality varies.

    Attributes:
        name: for tables.
        format: Pillow's name of the format.
        qualities: operating points, coarse first, that span about 0.1 to 2.5 bits per pixel on photographs.
        options: passed to Pillow's encoder.
    """

    name: str
    format: str
    qualities: tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def available(self) -> bool:
        """This Pillow can write and read the format."""
        from PIL import features

        return self.format == "JPEG" or bool(features.check(self.format.lower()))

    def encode(self, rgb: Image, quality: float) -> tuple[bytes, float]:
        """(file, milliseconds) of a (H, W, 3) uint8 picture.

        Raises:
            BaselineError: the format is not available.
        """
        from PIL import Image as pil

        self._require()
        picture, target = pil.fromarray(rgb), io.BytesIO()
        start = time.perf_counter()
        picture.save(target, format=self.format, quality=round(quality), **self.options)
        return target.getvalue(), (time.perf_counter() - start) * 1e3

    def decode(self, data: bytes) -> tuple[Image, float]:
        """((H, W, 3) uint8 picture, milliseconds).

        Raises:
            BaselineError: not a file of this format.
        """
        from PIL import Image as pil

        self._require()
        start = time.perf_counter()
        try:
            with pil.open(io.BytesIO(data), formats=(self.format,)) as picture:
                rgb = np.array(picture.convert("RGB"))
        except (OSError, SyntaxError) as error:
            raise BaselineError(f"{len(data)} bytes are no {self.format} file: {error}") from None
        return rgb, (time.perf_counter() - start) * 1e3

    def _require(self) -> None:
        if not self.available:
            import PIL

            raise BaselineError(
                f"Pillow {PIL.__version__} was built without {self.format}: install a wheel of Pillow 11.3 or later"
            )


# JPEG with the picture's own Huffman tables and WebP at its full effort, so that a gain over them means something; AVIF at
# Pillow's default effort, 6 of 10: 4 takes some ten times as long.
BASELINES: Mapping[str, Baseline] = {
    baseline.name: baseline
    for baseline in (
        Baseline("jpeg-420", "JPEG", (5, 10, 20, 35, 50, 65, 80, 90), {"subsampling": "4:2:0", "optimize": True}),
        Baseline("jpeg-444", "JPEG", (5, 10, 20, 35, 50, 65, 80, 90), {"subsampling": "4:4:4", "optimize": True}),
        Baseline("webp", "WEBP", (1, 5, 15, 30, 50, 70, 82, 92), {"method": 6}),
        Baseline("avif-420", "AVIF", (12, 22, 33, 45, 57, 68, 78, 86), {"subsampling": "4:2:0", "speed": 6, "max_threads": 1}),
        Baseline("avif-444", "AVIF", (12, 22, 33, 45, 57, 68, 78, 86), {"subsampling": "4:4:4", "speed": 6, "max_threads": 1}),
    )
}
