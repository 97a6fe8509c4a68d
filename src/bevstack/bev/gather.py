"""The lift at run time: copies feature rows into a reused volume. Compiled, no allocation, interpreter lock released.

The volume is (V, T, C) with voxels in (x, y, z) order. Read as (X * Y, Z * T * C) it already has the published channel order
(height outermost, then time, then feature), so nothing is transposed between the image network and the BEV network.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numba
import numpy as np
from numpy.typing import NDArray

from .tables import Table

Floats = NDArray[np.float32]


@numba.njit(cache=True, nogil=True)
def _copy_rows(
    features: Floats, table: Table, volume: Floats, time: int, first: int, last: int
) -> None:  # pragma: no cover  (compiled)
    cells, channels = features.shape
    for voxel in range(first, last):
        cell = table[voxel]
        if 0 <= cell < cells:
            for c in range(channels):
                volume[voxel, time, c] = features[cell, c]
        else:
            for c in range(channels):
                volume[voxel, time, c] = 0.0


class Gather:
    """Lifts T instants into one buffer that is made once.

    Args:
        voxels, times, channels: shape of the volume.
        threads: how many threads share the voxels; 1 works in the caller's thread.
    """

    def __init__(self, voxels: int, times: int, channels: int, threads: int = 1) -> None:
        self.volume: Floats = np.zeros((voxels, times, channels), np.float32)
        self._threads = max(1, threads)
        self._pool = ThreadPoolExecutor(self._threads, "lift") if self._threads > 1 else None

    def __call__(self, features: Sequence[Floats], tables: NDArray[np.int32]) -> Floats:
        """Fills the volume from T feature maps, each (cells, C) rows, and tables (T, V). Entries outside the rows give zeros.

        Returns:
            (V, T, C) the buffer itself, overwritten by the next call.

        Raises:
            ValueError: if a shape does not fit the buffer.
        """
        voxels, times, channels = self.volume.shape
        if len(features) != times or tables.shape != (times, voxels):
            raise ValueError(f"{len(features)} instants and tables {tables.shape} given; the volume is {self.volume.shape}")
        for t, rows in enumerate(features):
            if rows.ndim != 2 or rows.shape[1] != channels or rows.dtype != np.float32:
                raise ValueError(f"features of instant {t} are {rows.dtype} {rows.shape}; float32 (cells, {channels}) expected")
            if self._pool is None:
                _copy_rows(rows, tables[t], self.volume, t, 0, voxels)
        if self._pool is not None:
            edges = np.linspace(0, voxels, self._threads + 1).astype(int)
            jobs = [
                self._pool.submit(_copy_rows, rows, tables[t], self.volume, t, a, b)
                for t, rows in enumerate(features)
                for a, b in pairwise(edges.tolist())
            ]
            for job in jobs:
                job.result()
        return self.volume

    def close(self) -> None:
        """Ends the threads, if any."""
        if self._pool is not None:
            self._pool.shutdown()
