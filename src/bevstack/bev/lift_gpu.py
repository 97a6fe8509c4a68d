"""The lift on a GPU: a Triton kernel that copies feature rows into a reused volume, as ``bevstack.bev.gather`` does on a CPU.

Rows lie features-fastest, so a voxel is one contiguous read and one contiguous write: the kernel can only be as fast as memory.
Where Triton is missing, torch's own ``index_select`` does the same in two passes. The kernel has not been run on a GPU yet
(docs/export.md); `benchmarks/lift_gpu.py` compares it with torch and with a plain copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


@lru_cache(maxsize=1)
def _kernel() -> Any:
    """The compiled kernel, or None where there is no Triton."""
    try:
        import triton

        from .lift_kernel import gather_rows
    except ImportError:
        return None
    return triton, gather_rows


def has_kernel() -> bool:
    """Whether the Triton kernel can be used."""
    return torch.cuda.is_available() and _kernel() is not None


class GpuLift:
    """Lifts T instants into one buffer that is made once.

    Args:
        voxels, times, channels: shape of the volume. ``dtype``: of features and volume.
        device: a GPU; on the CPU (for tests) torch's own operators are used.
    """

    def __init__(
        self, voxels: int, times: int, channels: int, dtype: torch.dtype = torch.float16, device: str | torch.device = "cuda"
    ) -> None:
        self.volume = torch.zeros((voxels, times, channels), dtype=dtype, device=device)
        self._compiled = _kernel() if self.volume.is_cuda else None

    def __call__(self, features: Sequence[Tensor], tables: Tensor) -> Tensor:
        """Fills the volume from T feature maps (cells, C) and tables (T, V) int32. Entries outside the rows give zeros.

        Returns:
            (V, T, C) the buffer itself, overwritten by the next call.

        Raises:
            ValueError: if a shape or type does not fit the buffer.
        """
        voxels, times, channels = self.volume.shape
        if len(features) != times or tuple(tables.shape) != (times, voxels):
            raise ValueError(
                f"{len(features)} instants, tables {tuple(tables.shape)}; the volume is {tuple(self.volume.shape)}"
            )
        for t, rows in enumerate(features):
            if rows.ndim != 2 or rows.shape[1] != channels or rows.dtype != self.volume.dtype or not rows.is_contiguous():
                raise ValueError(f"features of instant {t} are {rows.dtype} {tuple(rows.shape)}; contiguous rows are expected")
            if self._compiled is None:
                self._plain(rows, tables[t], t)
                continue
            triton, kernel = self._compiled
            width = triton.next_power_of_2(channels)
            block = max(1, 4096 // width)
            grid = (triton.cdiv(voxels, block),)
            kernel[grid](rows, tables[t], self.volume, len(rows), voxels, times, t, C=channels, V=block, W=width)
        return self.volume

    def _plain(self, rows: Tensor, table: Tensor, time: int) -> None:
        seen = (table >= 0) & (table < len(rows))
        picked = rows.index_select(0, torch.where(seen, table, 0).long())
        self.volume[:, time] = picked.masked_fill_(~seen[:, None], 0.0)
