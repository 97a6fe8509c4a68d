"""One decoding of a JPEG for all nodes of a process that want it at the same scale.

libjpeg decodes at n/8 of the size; which n a node needs follows from its network's input alone, so its images are the same
whether others listen or not. Where two nodes need the same n, the second takes what the first has decoded, or waits for it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import simplejpeg
from numpy.typing import NDArray

Image = NDArray[np.uint8]


def eighths(size: tuple[int, int], least: tuple[int, int]) -> int:
    """The smallest n of 1..8 for which n/8 of ``size`` (width, height; rounded up, as libjpeg does) is at least ``least``."""
    return next((n for n in range(1, 8) if -(-size[0] * n // 8) >= least[0] and -(-size[1] * n // 8) >= least[1]), 8)


def decode_jpeg(encoded: bytes | memoryview, size: tuple[int, int], n: int) -> Image:
    """(H, W, 3) uint8 RGB at n/8 of ``size`` (width, height), the size that the header states.

    Raises:
        ValueError, KeyError: damaged bytes.
    """
    least = {} if n == 8 else {"min_width": -(-size[0] * n // 8), "min_height": -(-size[1] * n // 8), "min_factor": 1}
    return np.asarray(simplejpeg.decode_jpeg(encoded, "RGB", strict=True, **least))


def _same(first: bytes | memoryview, second: bytes | memoryview) -> bool:
    """The same bytes: one message in two hands, or two copies."""
    a, b = memoryview(first), memoryview(second)
    return a.nbytes == b.nbytes and (a.obj is b.obj or bytes(a) == bytes(b))


@dataclass
class _Entry:
    encoded: bytes | memoryview
    future: Future[Image] = field(default_factory=Future)


class SharedDecodes:
    """The newest decoded images of a process, by camera, stamp and scale. Thread-safe.

    Args:
        per_camera: images kept of one camera.
    """

    def __init__(self, per_camera: int = 3) -> None:
        self._lock = threading.Lock()
        self._per_camera = per_camera
        self._users: dict[int, None] = {}
        self._entries: dict[str, OrderedDict[tuple[int, int], _Entry]] = {}
        self.decoded = 0
        """Images that were decoded here."""
        self.reused = 0
        """Images that somebody else had decoded."""

    def join(self, user: object) -> None:
        """Somebody who decodes. Nothing is kept for one alone."""
        with self._lock:
            self._users[id(user)] = None

    def leave(self, user: object) -> None:
        with self._lock:
            self._users.pop(id(user), None)
            if len(self._users) < 2:
                self._entries.clear()

    def jpeg(self, camera: str, stamp: int, encoded: bytes | memoryview, size: tuple[int, int], n: int) -> Image:
        """As ``decode_jpeg``. The array is shared: read it, do not write into it.

        Args:
            camera, stamp: which exposure; its bytes are compared too.
        """
        key = (stamp, n)
        with self._lock:
            if len(self._users) < 2:
                entry, mine = None, True
            else:
                kept = self._entries.setdefault(camera, OrderedDict())
                entry = kept.get(key)
                mine = entry is None or not _same(entry.encoded, encoded)
                if mine:
                    entry = kept[key] = _Entry(encoded)
                    while len(kept) > self._per_camera:
                        kept.popitem(last=False)
            self.decoded += mine
            self.reused += not mine
        if entry is None:
            return decode_jpeg(encoded, size, n)
        if not mine:
            return entry.future.result()
        try:
            image = decode_jpeg(encoded, size, n)
        except BaseException as error:
            entry.future.set_exception(error)
            raise
        entry.future.set_result(image)
        return image


PROCESS = SharedDecodes()
"""Of this process: nodes that run beside each other use it."""
