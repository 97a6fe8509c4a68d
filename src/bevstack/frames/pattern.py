"""A test pattern from six cameras: costs nothing to make, so everything behind it can be measured at full size and rate."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from bevstack.errors import SourceError

from .sim.rig import nuscenes_rig
from .source import FrameSource
from .types import Frame

_PICTURES = 3


class PatternSource(FrameSource):
    """Frames of a few pictures made in advance, as pixels and as JPEG, with steady stamps and a slowly moving ego.

    Args:
        width: image width, pixels; the height is 9/16 of it.
        rate: instants per second.
        duration: seconds.
        cameras: how many of the six cameras.
        start_stamp: of the first instant, nanoseconds.
        quality: of the JPEGs.
    """

    def __init__(
        self,
        *,
        width: int = 1600,
        rate: float = 10.0,
        duration: float = 30.0,
        cameras: int = 6,
        start_stamp: int = 1_700_000_000_000_000_000,
        quality: int = 85,
    ) -> None:
        rig = nuscenes_rig(width)
        if not 1 <= cameras <= len(rig) or rate <= 0 or duration <= 0:
            raise SourceError(f"pattern of {cameras} cameras, {rate} per second, {duration} s: use 1 to {len(rig)} cameras")
        super().__init__(name="pattern", cameras=dict(list(rig.items())[:cameras]), rate=float(rate))
        self.duration, self._start = duration, start_stamp
        self._period = 1e9 / rate
        self._pictures = [_picture(width, round(width * 9 / 16), n) for n in range(_PICTURES)]
        self._encoded = [simplejpeg.encode_jpeg(picture, quality, "RGB") for picture in self._pictures]

    def frames(self) -> Iterator[Frame]:
        """All cameras at the same stamp, instant after instant."""
        for k in range(round(self.duration * 1e9 / self._period)):
            stamp = self._start + round(k * self._period)
            T = np.eye(4)
            T[0, 3] = 0.5 * k
            for n, camera in enumerate(self.cameras.values()):
                which = (k + n) % _PICTURES
                yield Frame(camera, stamp, self._pictures[which], self._encoded[which], T)


def _picture(width: int, height: int, seed: int) -> NDArray[np.uint8]:
    """Coloured ramps with coarse noise: compresses about as a street does."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    ramps = np.stack([x * 255 / width, y * 255 / height, (x + y) * 255 / (width + height)], axis=-1)
    noise = np.kron(rng.integers(-40, 40, (height // 4 + 1, width // 4 + 1)), np.ones((4, 4)))[:height, :width, None]
    return np.clip(ramps + noise, 0, 255).astype(np.uint8)
