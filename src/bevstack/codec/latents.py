"""From latent arrays to segments and back: quantising, the order of symbols on the wire, tiles, channel mask. Compiled loops.

Order within a tile's segment: pass, channel, row, column. With two passes the first holds the positions whose row + column (of
the whole latent, not of the tile) is even, the second the others. With two layers each pass has segments of its own: those of
all tiles for the first pass, then those for the second. Positions that are skipped by scale and channels that the mask leaves
out take no place.
"""

from __future__ import annotations

from typing import TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

from . import dependent, rans
from .dependent import Machine
from .tables import CdfTables
from .tiles import TileGrid

Symbols = NDArray[np.int32]
Floats = NDArray[np.float32]
Tables = NDArray[np.uint8]
Scalar = TypeVar("Scalar", bound=np.generic)

EVERYWHERE, ANCHORS, OTHERS = -1, 0, 1  # which positions: all, row + column even, odd


@numba.njit(cache=True, nogil=True)
def _gather(  # type: ignore[no-untyped-def]  # pragma: no cover
    symbols, tables, windows, channels, passes, layers, skip_below, flat, flat_tables, bounds
):
    """Walks the wire order; with no ``symbols`` (size 0) only the tables are collected."""
    with_symbols = symbols.size > 0
    n = 0
    segment = 0
    step = 2 if passes == 2 else 1
    for layer in range(layers):
        for tile in range(len(windows)):
            bounds[segment] = n
            segment += 1
            y0, y1, x0, x1 = windows[tile, 0], windows[tile, 1], windows[tile, 2], windows[tile, 3]
            for part in range(passes if layers == 1 else 1):
                parity = part + layer
                for c in channels:
                    for y in range(y0, y1):
                        first = x0 if step == 1 else x0 + ((x0 + y + parity) & 1)
                        # Written always, kept if coded: no branch to mispredict.
                        if with_symbols:
                            for x in range(first, x1, step):
                                table = tables[c, y, x]
                                flat[n] = symbols[c, y, x]
                                flat_tables[n] = table
                                n += np.int64(table >= skip_below)
                        else:
                            for x in range(first, x1, step):
                                table = tables[c, y, x]
                                flat_tables[n] = table
                                n += np.int64(table >= skip_below)
    bounds[segment] = n


@numba.njit(cache=True, nogil=True)
def _scatter(  # type: ignore[no-untyped-def]  # pragma: no cover
    flat, tables, windows, channels, passes, layers, skip_below, symbols
):
    n = 0
    step = 2 if passes == 2 else 1
    for layer in range(layers):
        for tile in range(len(windows)):
            y0, y1, x0, x1 = windows[tile, 0], windows[tile, 1], windows[tile, 2], windows[tile, 3]
            for part in range(passes if layers == 1 else 1):
                parity = part + layer
                for c in channels:
                    for y in range(y0, y1):
                        first = x0 if step == 1 else x0 + ((x0 + y + parity) & 1)
                        for x in range(first, x1, step):
                            coded = np.int64(tables[c, y, x] >= skip_below)
                            symbols[c, y, x] = flat[n] * coded
                            n += coded


@numba.njit(cache=True, nogil=True)
def _quantise(  # type: ignore[no-untyped-def]  # pragma: no cover
    gained, gain, inverse, mean, tables, parity, skip_below, symbols, natural
):
    """Rows without branches, so that the compiler may use vectors: every position is computed, those of ``parity`` are kept."""
    half, zero = np.float32(0.5), np.float32(0.0)
    low, high = np.float32(-32768.0), np.float32(32767.0)
    channels, rows, columns = gained.shape
    gain_rows, gain_columns = gain.shape[1], gain.shape[2]
    gain_row, inverse_row = np.empty(columns, np.float32), np.empty(columns, np.float32)
    for c in range(channels):
        for y in range(rows):
            if y < gain_rows:
                for x in range(columns):
                    gain_row[x] = gain[c, y, min(x, gain_columns - 1)]
                    inverse_row[x] = inverse[c, y, min(x, gain_columns - 1)]
            for x in range(columns):
                middle = mean[c, y, x] * gain_row[x]
                rounded = np.floor(gained[c, y, x] - middle + half)
                coded = (tables[c, y, x] >= skip_below) & (rounded == rounded)
                rounded = rounded if rounded > low else low
                rounded = rounded if rounded < high else high
                rounded = rounded if coded else zero
                here = (parity < 0) | (((x + y) & 1) == parity)
                other = zero if parity == 0 else natural[c, y, x]
                symbols[c, y, x] = np.int32(rounded) if here else symbols[c, y, x]
                natural[c, y, x] = (rounded + middle) * inverse_row[x] if here else other


@numba.njit(cache=True, nogil=True)
def _residuals(  # type: ignore[no-untyped-def]  # pragma: no cover
    gained, gain, mean, tables, windows, parity, skip_below, step, flat, flat_tables, bounds
):
    """Residuals in steps, in wire order, of the positions of ``parity`` that are coded."""
    n = 0
    one = np.float32(1.0)
    stride = 1 if parity < 0 else 2
    for tile in range(len(windows)):
        bounds[tile] = n
        y0, y1, x0, x1 = windows[tile, 0], windows[tile, 1], windows[tile, 2], windows[tile, 3]
        for c in range(len(gained)):
            for y in range(y0, y1):
                row = min(y, gain.shape[1] - 1)
                first = x0 if parity < 0 else x0 + ((x0 + y + parity) & 1)
                for x in range(first, x1, stride):
                    if tables[c, y, x] >= skip_below:
                        value = (gained[c, y, x] - mean[c, y, x] * gain[c, row, min(x, gain.shape[2] - 1)]) * (one / step)
                        value = value if value == value else np.float32(0.0)
                        flat[n] = min(max(value, np.float32(-65000.0)), np.float32(65000.0))
                        flat_tables[n] = tables[c, y, x]
                        n += 1
    bounds[len(windows)] = n


@numba.njit(cache=True, nogil=True)
def _place(flat, tables, windows, parity, skip_below, symbols):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Levels from wire order to their positions; what is skipped gets 0."""
    n = 0
    stride = 1 if parity < 0 else 2
    for tile in range(len(windows)):
        y0, y1, x0, x1 = windows[tile, 0], windows[tile, 1], windows[tile, 2], windows[tile, 3]
        for c in range(len(symbols)):
            for y in range(y0, y1):
                first = x0 if parity < 0 else x0 + ((x0 + y + parity) & 1)
                for x in range(first, x1, stride):
                    coded = tables[c, y, x] >= skip_below
                    symbols[c, y, x] = flat[n] if coded else 0
                    n += np.int64(coded)


@numba.njit(cache=True, nogil=True)
def _reconstruct(  # type: ignore[no-untyped-def]  # pragma: no cover
    symbols, gain, inverse, mean, step, parity, natural
):
    zero = np.float32(0.0)
    channels, rows, columns = symbols.shape
    gain_rows, gain_columns = gain.shape[1], gain.shape[2]
    gain_row, inverse_row = np.empty(columns, np.float32), np.empty(columns, np.float32)
    for c in range(channels):
        for y in range(rows):
            if y < gain_rows:
                for x in range(columns):
                    gain_row[x] = gain[c, y, min(x, gain_columns - 1)]
                    inverse_row[x] = inverse[c, y, min(x, gain_columns - 1)]
            for x in range(columns):
                value = (np.float32(symbols[c, y, x]) * step + mean[c, y, x] * gain_row[x]) * inverse_row[x]
                here = (parity < 0) | (((x + y) & 1) == parity)
                other = zero if parity == 0 else natural[c, y, x]
                natural[c, y, x] = value if here else other


@numba.njit(cache=True, nogil=True)
def _used_channels(symbols, tables, skip_below, used):  # type: ignore[no-untyped-def]  # pragma: no cover
    for c in range(symbols.shape[0]):
        found = False
        for y in range(symbols.shape[1]):
            for x in range(symbols.shape[2]):
                found |= (symbols[c, y, x] != 0) & (tables[c, y, x] >= skip_below)
        used[c] = found


def quantise(
    gained: Floats,
    gain: Floats,
    inverse: Floats,
    mean: Floats,
    tables: Tables,
    skip_below: int,
    symbols: Symbols,
    natural: Floats,
    parity: int = EVERYWHERE,
) -> None:
    """symbol = floor(gained - mean * gain + 1/2), natural = (symbol + mean * gain) * inverse.

    The symbol is 0 where its table is skipped or the latent is not a number.

    Args:
        gained: (C, h, w) latent times gain.
        gain, inverse: (C, h, w), or (C, 1, 1) for the whole picture.
        mean: (C, >= h, >= w) natural means; what lies beyond h and w is not looked at.
        tables: (C, h, w) coding tables.
        symbols, natural: (C, h, w), contiguous, written at the positions of ``parity``. After `ANCHORS` the others hold 0 in
            ``natural``: it is the context that the second pass wants.
    """
    _same_shape(gained, tables, symbols, natural)
    _check_factors(gained, gain, inverse, mean)
    _quantise(plain(gained), plain(gain), plain(inverse), plain(mean), plain(tables), parity, skip_below, symbols, natural)


def quantise_dependent(
    gained: Floats,
    gain: Floats,
    inverse: Floats,
    mean: Floats,
    tables: Tables,
    family: CdfTables,
    grid: TileGrid,
    machine: Machine,
    symbols: Symbols,
    natural: Floats,
    parity: int = EVERYWHERE,
) -> float:
    """As `quantise`, for a dependent quantiser: ``symbols`` get levels, natural = (level * step + mean * gain) * inverse.

    The search goes along the wire order, tile by tile: each tile's segment begins in state 0.

    Returns:
        The bits.
    """
    _same_shape(gained, tables, symbols, natural)
    _check_factors(gained, gain, inverse, mean)
    windows, tables, gain, mean = grid.windows(), plain(tables), plain(gain), plain(mean)
    flat, flat_tables = np.empty(tables.size, np.float32), np.empty(tables.size, np.uint16)
    bounds, step = np.empty(len(windows) + 1, np.int64), np.float32(machine.step)
    _residuals(plain(gained), gain, mean, tables, windows, parity, family.skip_below, step, flat, flat_tables, bounds)
    levels = np.empty(int(bounds[-1]) + 1, np.int32)
    bits = dependent.search(flat, flat_tables, bounds, family, machine, levels)
    _place(levels, tables, windows, parity, family.skip_below, symbols)
    _reconstruct(symbols, gain, plain(inverse), mean, step, parity, natural)
    return bits


def reconstruct(
    symbols: Symbols,
    gain: Floats,
    inverse: Floats,
    mean: Floats,
    natural: Floats,
    parity: int = EVERYWHERE,
    step: float = 1.0,
) -> None:
    """natural = (symbol * step + mean * gain) * inverse at the positions of ``parity``; arguments as for `quantise`."""
    _same_shape(symbols, natural)
    _check_factors(symbols, gain, inverse, mean)
    _reconstruct(plain(symbols), plain(gain), plain(inverse), plain(mean), np.float32(step), parity, natural)


def channel_mask(symbols: Symbols, tables: Tables, family: CdfTables) -> NDArray[np.bool_] | None:
    """(C,) which channels hold a symbol other than 0, or None where naming them costs more than it saves."""
    symbols, tables = plain(symbols), plain(tables)
    used = np.zeros(len(symbols), bool)
    _used_channels(symbols, tables, family.skip_below, used)
    if used.all():
        return None
    zeros = tables[~used].reshape(-1)
    saved = family.bits(np.zeros(zeros.shape, np.int32), zeros)
    return used if saved > 8 * (-(-len(used) // 8) + 2) else None


def encode_latent(
    symbols: Symbols,
    tables: Tables,
    grid: TileGrid,
    family: CdfTables,
    channels: NDArray[np.bool_] | None = None,
    passes: int = 2,
    layers: int = 1,
    machine: Machine | None = None,
) -> list[list[bytes]]:
    """Segments of every layer, one per tile.

    Args:
        symbols: (C, h, w) with (h, w) = ``grid.latent_shape``; what a skipped position or channel holds is not looked at.
        tables: (C, h, w) coding table of each symbol, out of ``family``.
        channels: (C,) which channels are coded; None for all.
        passes: 1, or 2 for the checkerboard.
        layers: 1, or 2 for a layer per pass.
        machine: of a dependent quantiser; ``symbols`` are its levels.

    Raises:
        ValueError: if shapes differ, or a symbol or a table is out of range.
    """
    flat, flat_tables, bounds = in_wire_order(symbols, tables, grid, family, channels, passes, layers, machine)
    segments = rans.encode_segments(flat, flat_tables, bounds, family)
    return [segments[k * len(grid) : (k + 1) * len(grid)] for k in range(layers)]


def in_wire_order(
    symbols: Symbols,
    tables: Tables,
    grid: TileGrid,
    family: CdfTables,
    channels: NDArray[np.bool_] | None = None,
    passes: int = 2,
    layers: int = 1,
    machine: Machine | None = None,
) -> tuple[Symbols, NDArray[np.uint16], NDArray[np.int64]]:
    """What the entropy coder gets: (n,) symbols, (n,) tables, and where each segment begins; arguments as `encode_latent`.

    Raises:
        ValueError: if shapes differ.
    """
    _check(tables, grid, channels, passes, layers)
    _same_shape(symbols, tables)
    flat = np.empty(tables.size + 1, np.int32)
    flat_tables, bounds = np.empty(tables.size + 1, np.uint16), np.empty(layers * len(grid) + 1, np.int64)
    chosen = _chosen(tables, channels)
    _gather(plain(symbols), plain(tables), grid.windows(), chosen, passes, layers, family.skip_below, flat, flat_tables, bounds)
    if machine is not None:
        dependent.to_symbols(flat, flat_tables, bounds, machine)
    count = int(bounds[-1])
    return flat[:count], flat_tables[:count], bounds


def decode_latent(
    segments: list[list[bytes | None]],
    tables: Tables,
    grid: TileGrid,
    family: CdfTables,
    channels: NDArray[np.bool_] | None = None,
    passes: int = 2,
    machine: Machine | None = None,
) -> tuple[Symbols, list[list[str | None]]]:
    """Inverse of `encode_latent`; the number of layers is that of ``segments``.

    Returns:
        (C, h, w) int32 symbols, zeros in damaged segments, skipped positions and channels that are not coded; and per layer and
        tile None or what is wrong with the segment.

    Raises:
        ValueError: if shapes differ or a table is beyond the family.
    """
    layers = len(segments)
    _check(tables, grid, channels, passes, layers)
    tables = plain(tables)
    flat_tables, bounds = np.empty(tables.size + 1, np.uint16), np.empty(layers * len(grid) + 1, np.int64)
    chosen, windows = _chosen(tables, channels), grid.windows()
    nothing = np.empty((0, 0, 0), np.int32)
    unused = np.empty(0, np.int32)
    _gather(nothing, tables, windows, chosen, passes, layers, family.skip_below, unused, flat_tables, bounds)
    count = int(bounds[-1])
    rows = [segment for layer in segments for segment in layer]
    flat, problems = rans.decode_segments(rows, flat_tables[:count], bounds, family, machine)
    if machine is not None:
        dependent.to_levels(flat, bounds, machine)
    symbols = np.zeros(tables.shape, np.int32)
    _scatter(np.append(flat, np.int32(0)), tables, windows, chosen, passes, layers, family.skip_below, symbols)
    return symbols, [problems[k * len(grid) : (k + 1) * len(grid)] for k in range(layers)]


def plain(array: NDArray[Scalar]) -> NDArray[Scalar]:
    """The array, or a copy that is contiguous and writeable: the loops are compiled anew for every other kind."""
    array = np.ascontiguousarray(array)
    return array if array.flags.writeable else array.copy()


def _chosen(tables: Tables, channels: NDArray[np.bool_] | None) -> NDArray[np.int64]:
    return np.arange(len(tables)) if channels is None else np.flatnonzero(channels).astype(np.int64)


def _same_shape(*arrays: NDArray[np.generic]) -> None:
    if len({array.shape for array in arrays}) != 1 or arrays[0].ndim != 3:
        raise ValueError(f"arrays of shapes {[array.shape for array in arrays]}: expected the same (C, h, w)")


def _check_factors(latent: NDArray[np.generic], gain: Floats, inverse: Floats, mean: Floats) -> None:
    channels, h, w = latent.shape
    if gain.shape != inverse.shape or gain.shape not in ((channels, h, w), (channels, 1, 1)):
        raise ValueError(
            f"gains are {gain.shape} and {inverse.shape}: expected {(channels, h, w)} or {(channels, 1, 1)} for both"
        )
    if mean.ndim != 3 or mean.shape[0] != channels or mean.shape[1] < h or mean.shape[2] < w:
        raise ValueError(f"means are {mean.shape}: expected at least {latent.shape}")


def _check(tables: Tables, grid: TileGrid, channels: NDArray[np.bool_] | None, passes: int, layers: int) -> None:
    if tables.ndim != 3 or tables.shape[1:] != grid.latent_shape or tables.dtype != np.uint8:
        raise ValueError(f"coding tables are {tables.dtype} {tables.shape}: expected uint8 (C, {grid.latent_shape})")
    if channels is not None and channels.shape != tables.shape[:1]:
        raise ValueError(f"a mask of {channels.shape} for {len(tables)} channels")
    if passes not in (1, 2) or layers not in (1, passes):
        raise ValueError(f"{passes} passes in {layers} layers: expected 1 or 2 passes, and 1 layer or one per pass")
