"""From latent arrays to segments and back: quantising, the order of symbols on the wire, tiles, channel mask. Compiled loops.

Order within a tile's segment: pass, channel, row, column. With two passes the first holds the positions whose row + column (of
the whole latent, not of the tile) is even, the second the others. Positions that are skipped by scale and channels that the
mask leaves out take no place.
"""

from __future__ import annotations

from typing import TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

from . import rans
from .tables import SYMBOL_MAX, SYMBOL_MIN, CdfTables
from .tiles import TileGrid

Symbols = NDArray[np.int32]
Floats = NDArray[np.float32]
Scalar = TypeVar("Scalar", bound=np.generic)

EVERYWHERE, ANCHORS, OTHERS = -1, 0, 1  # which positions: all, row + column even, odd


@numba.njit(cache=True, nogil=True)
def _gather(  # type: ignore[no-untyped-def]  # pragma: no cover
    symbols, indices, windows, channels, passes, skip_below, flat, tables, bounds
):
    n = 0
    for tile in range(len(windows)):
        bounds[tile] = n
        y0, y1, x0, x1 = windows[tile, 0], windows[tile, 1], windows[tile, 2], windows[tile, 3]
        for parity in range(passes):
            for c in channels:
                for y in range(y0, y1):
                    first = x0 if passes == 1 else x0 + ((x0 + y + parity) & 1)
                    for x in range(first, x1, passes):
                        table = indices[c, y, x]
                        # Written always, kept if coded: no branch to mispredict.
                        flat[n] = symbols[c, y, x]
                        tables[n] = table
                        n += np.int64(table >= skip_below)
    bounds[len(windows)] = n


@numba.njit(cache=True, nogil=True)
def _gather_tables(  # type: ignore[no-untyped-def]  # pragma: no cover
    indices, windows, channels, passes, skip_below, tables, bounds
):
    n = 0
    for tile in range(len(windows)):
        bounds[tile] = n
        y0, y1, x0, x1 = windows[tile, 0], windows[tile, 1], windows[tile, 2], windows[tile, 3]
        for parity in range(passes):
            for c in channels:
                for y in range(y0, y1):
                    first = x0 if passes == 1 else x0 + ((x0 + y + parity) & 1)
                    for x in range(first, x1, passes):
                        table = indices[c, y, x]
                        tables[n] = table
                        n += np.int64(table >= skip_below)
    bounds[len(windows)] = n


@numba.njit(cache=True, nogil=True)
def _scatter(flat, indices, windows, channels, passes, skip_below, symbols):  # type: ignore[no-untyped-def]  # pragma: no cover
    n = 0
    for tile in range(len(windows)):
        y0, y1, x0, x1 = windows[tile, 0], windows[tile, 1], windows[tile, 2], windows[tile, 3]
        for parity in range(passes):
            for c in channels:
                for y in range(y0, y1):
                    first = x0 if passes == 1 else x0 + ((x0 + y + parity) & 1)
                    for x in range(first, x1, passes):
                        coded = np.int64(indices[c, y, x] >= skip_below)
                        symbols[c, y, x] = flat[n] * coded
                        n += coded


@numba.njit(cache=True, nogil=True)
def _quantise(latent, mean, indices, parity, skip_below, symbols, decoded):  # type: ignore[no-untyped-def]  # pragma: no cover
    step = 1 if parity < 0 else 2
    half = np.float32(0.5)
    low, high = np.float32(-32768.0), np.float32(32767.0)
    for c in range(latent.shape[0]):
        for y in range(latent.shape[1]):
            first = 0 if parity < 0 else (y + parity) & 1
            for x in range(first, latent.shape[2], step):
                residual = np.floor(latent[c, y, x] - mean[c, y, x] + half)
                if indices[c, y, x] < skip_below or residual != residual:
                    residual = np.float32(0.0)
                residual = min(max(residual, low), high)
                symbols[c, y, x] = np.int32(residual)
                decoded[c, y, x] = mean[c, y, x] + residual


@numba.njit(cache=True, nogil=True)
def _reconstruct(symbols, mean, parity, decoded):  # type: ignore[no-untyped-def]  # pragma: no cover
    step = 1 if parity < 0 else 2
    for c in range(mean.shape[0]):
        for y in range(mean.shape[1]):
            first = 0 if parity < 0 else (y + parity) & 1
            for x in range(first, mean.shape[2], step):
                decoded[c, y, x] = mean[c, y, x] + np.float32(symbols[c, y, x])


@numba.njit(cache=True, nogil=True)
def _zero_channels(symbols, indices, skip_below, used):  # type: ignore[no-untyped-def]  # pragma: no cover
    for c in range(symbols.shape[0]):
        found = False
        for y in range(symbols.shape[1]):
            for x in range(symbols.shape[2]):
                found |= (symbols[c, y, x] != 0) & (indices[c, y, x] >= skip_below)
        used[c] = found


def quantise(
    latent: Floats,
    mean: Floats,
    indices: NDArray[np.uint8],
    skip_below: int,
    symbols: Symbols,
    decoded: Floats,
    parity: int = EVERYWHERE,
) -> None:
    """symbol = floor(latent - mean + 1/2), decoded = mean + symbol; the symbol is 0 where its table is skipped.

    Args:
        latent, mean: (C, h, w) gained latent and its mean.
        indices: (C, h, w) coding tables.
        symbols, decoded: (C, h, w) contiguous int32 and float32, written at the positions of ``parity`` only.
        parity: `EVERYWHERE`, `ANCHORS` or `OTHERS`.
    """
    _same_shape(latent, mean, indices, symbols, decoded)
    _quantise(plain(latent), plain(mean), plain(indices), parity, skip_below, symbols, decoded)


def reconstruct(symbols: Symbols, mean: Floats, decoded: Floats, parity: int = EVERYWHERE) -> None:
    """decoded = mean + symbol at the positions of ``parity``; all (C, h, w)."""
    _same_shape(symbols, mean, decoded)
    _reconstruct(plain(symbols), plain(mean), parity, decoded)


def channel_mask(symbols: Symbols, indices: NDArray[np.uint8], tables: CdfTables) -> NDArray[np.bool_] | None:
    """(C,) which channels hold a symbol other than 0, or None where naming them costs more than it saves."""
    symbols, indices = plain(symbols), plain(indices)
    used = np.zeros(len(symbols), bool)
    _zero_channels(symbols, indices, tables.skip_below, used)
    if used.all():
        return None
    zeros = indices[~used].reshape(-1)
    saved = tables.bits(np.zeros(zeros.shape, np.int32), zeros)
    return used if saved > 8 * (-(-len(used) // 8) + 2) else None


def encode_tiles(
    symbols: Symbols,
    indices: NDArray[np.uint8],
    grid: TileGrid,
    tables: CdfTables,
    channels: NDArray[np.bool_] | None = None,
    passes: int = 2,
) -> list[bytes]:
    """One segment per tile.

    Args:
        symbols: (C, h, w) with (h, w) = ``grid.latent_shape``; what a skipped position or channel holds is not looked at.
        indices: (C, h, w) coding table of each symbol.
        channels: (C,) which channels are coded; None for all.
        passes: 1, or 2 for the checkerboard.

    Raises:
        ValueError: if shapes differ, or a symbol or an index is out of range.
    """
    _check(indices, grid, channels, passes)
    _same_shape(symbols, indices)
    symbols, indices = plain(symbols), plain(indices)
    flat = np.empty(indices.size + 1, np.int32)
    flat_tables = np.empty(indices.size + 1, np.uint16)
    bounds = np.empty(len(grid) + 1, np.int64)
    chosen = _chosen(indices, channels)
    _gather(symbols, indices, grid.windows(), chosen, passes, tables.skip_below, flat, flat_tables, bounds)
    count = int(bounds[-1])
    return rans.encode_segments(flat[:count], flat_tables[:count], bounds, tables)


def decode_tiles(
    segments: list[bytes | None],
    indices: NDArray[np.uint8],
    grid: TileGrid,
    tables: CdfTables,
    channels: NDArray[np.bool_] | None = None,
    passes: int = 2,
) -> tuple[Symbols, list[str | None]]:
    """Inverse of `encode_tiles`.

    Returns:
        (C, h, w) int32 symbols, zeros in damaged tiles, skipped positions and channels that are not coded; per tile None or
        what is wrong with it.

    Raises:
        ValueError: if shapes differ or an index is beyond the tables.
    """
    _check(indices, grid, channels, passes)
    indices = plain(indices)
    flat_tables = np.empty(indices.size + 1, np.uint16)
    bounds = np.empty(len(grid) + 1, np.int64)
    chosen, windows = _chosen(indices, channels), grid.windows()
    _gather_tables(indices, windows, chosen, passes, tables.skip_below, flat_tables, bounds)
    count = int(bounds[-1])
    flat, problems = rans.decode_segments(segments, flat_tables[:count], bounds, tables)
    symbols = np.zeros(indices.shape, np.int32)
    _scatter(np.append(flat, np.int32(0)), indices, windows, chosen, passes, tables.skip_below, symbols)
    return symbols, problems


def plain(array: NDArray[Scalar]) -> NDArray[Scalar]:
    """The array, or a copy that is contiguous and writeable: the loops are compiled anew for every other kind."""
    array = np.ascontiguousarray(array)
    return array if array.flags.writeable else array.copy()


def clip_symbols(symbols: NDArray[np.integer]) -> Symbols:
    """Symbols that the coder can write, int32."""
    return np.clip(symbols, SYMBOL_MIN, SYMBOL_MAX).astype(np.int32)


def _chosen(indices: NDArray[np.uint8], channels: NDArray[np.bool_] | None) -> NDArray[np.int64]:
    return np.arange(len(indices)) if channels is None else np.flatnonzero(channels).astype(np.int64)


def _same_shape(*arrays: NDArray[np.generic]) -> None:
    if len({array.shape for array in arrays}) != 1 or arrays[0].ndim != 3:
        raise ValueError(f"arrays of shapes {[array.shape for array in arrays]}: expected the same (C, h, w)")


def _check(indices: NDArray[np.uint8], grid: TileGrid, channels: NDArray[np.bool_] | None, passes: int) -> None:
    if indices.ndim != 3 or indices.shape[1:] != grid.latent_shape or indices.dtype != np.uint8:
        raise ValueError(f"table indices are {indices.dtype} {indices.shape}: expected uint8 (C, {grid.latent_shape})")
    if channels is not None and channels.shape != indices.shape[:1]:
        raise ValueError(f"a mask of {channels.shape} for {len(indices)} channels")
    if passes not in (1, 2):
        raise ValueError(f"{passes} passes: expected 1 or 2")
