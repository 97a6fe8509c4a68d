"""The Triton kernel of ``lift_gpu``; importing this module needs Triton."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def gather_rows(
    rows: Any,
    table: Any,
    volume: Any,
    cells: Any,
    voxels: Any,
    times: Any,
    time: Any,
    C: tl.constexpr,
    V: tl.constexpr,
    W: tl.constexpr,
) -> None:
    """One instant: rows (cells, C), table (voxels,), volume (voxels, times, C). A program takes ``V`` voxels; ``W`` is the
    power of two that C fits in."""
    voxel = tl.program_id(0) * V + tl.arange(0, V)
    feature = tl.arange(0, W)
    inside = voxel < voxels
    cell = tl.load(table + voxel, mask=inside, other=-1)
    seen = inside & (cell >= 0) & (cell < cells)
    real = (feature < C)[None, :]
    source = rows + cell[:, None].to(tl.int64) * C + feature[None, :]
    values = tl.load(source, mask=seen[:, None] & real, other=0.0)
    target = volume + (voxel[:, None].to(tl.int64) * times + time) * C + feature[None, :]
    tl.store(target, values, mask=inside[:, None] & real)
