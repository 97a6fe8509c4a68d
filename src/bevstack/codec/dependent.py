"""Dependent quantisation: which values a symbol can stand for depends on the parities of the symbols before it.

Two quantisers share the levels ``j * step``: the first has the even ones (``j = 2 k``), the second the odd ones and 0
(``j = 2 k - sign(k)``); k is the symbol on the wire. A machine of eight states, moved by each symbol's parity, says which
one is next, so that all levels can be reached while each symbol chooses among half of them. The encoder finds the sequence
with the least ``weight * error^2 + bits`` (Viterbi). Trellis coded quantisation (Marcellin and Fischer 1990, with the
eight-state trellis of Ungerboeck 1982) in the form that VVC gave it (Schwarz et al. 2019): the second quantiser has a 0, too.
docs/bitstream.md holds the definition.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from bevstack.errors import CheckpointError

from .config import QuantiserConfig
from .tables import CdfTables

# Next state by (state, parity of the symbol), and which quantiser each state uses.
_NEXT = ((0, 1), (2, 3), (5, 4), (7, 6), (1, 0), (3, 2), (4, 5), (6, 7))
_USES = (0, 1, 0, 1, 0, 1, 0, 1)


@dataclass(frozen=True)
class Machine:
    """States of a dependent quantiser.

    Attributes:
        following: (S, 2) next state by state and parity.
        uses: (S,) quantiser of each state, 0 or 1.
        rows: (S,) what a state adds to the index of a coding table.
        step: distance of two levels in units of the gained latent.
        weight: bits that a squared error of 1 is worth to the encoder.
    """

    following: NDArray[np.int64]
    uses: NDArray[np.int64]
    rows: NDArray[np.int64]
    step: float
    weight: float


def machine_of(config: QuantiserConfig, tables: int) -> Machine | None:
    """The machine that a config asks for; None: scalar.

    Args:
        tables: scales of the distribution. The coding tables then are one set for the hyper latent, one for the first
            quantiser, one for the second.

    Raises:
        CheckpointError: a kind that this version does not have.
    """
    if config.kind == "scalar":
        return None
    if config.kind != "dependent":
        raise CheckpointError(f"codec config asks for an unknown quantiser {config.kind!r}: this version has none")
    uses = np.array(_USES, np.int64)
    return Machine(np.array(_NEXT, np.int64), uses, (1 + uses) * tables, float(config.step), float(config.weight))


@numba.njit(inline="always")
def _level(uses, symbol):  # type: ignore[no-untyped-def]  # pragma: no cover
    return 2 * symbol - (uses if symbol > 0 else -uses if symbol < 0 else 0)


@numba.njit(inline="always")
def _symbol(uses, level):  # type: ignore[no-untyped-def]  # pragma: no cover
    return (level + (uses if level > 0 else -uses if level < 0 else 0)) // 2


@numba.njit(cache=True, nogil=True)
def _to_symbols(flat, tables, bounds, following, uses, rows):  # type: ignore[no-untyped-def]  # pragma: no cover
    for segment in range(len(bounds) - 1):
        state = 0
        for i in range(bounds[segment], bounds[segment + 1]):
            symbol = _symbol(uses[state], np.int64(flat[i]))
            flat[i] = symbol
            tables[i] += rows[state]
            state = following[state, symbol & 1]


@numba.njit(cache=True, nogil=True)
def _to_levels(flat, bounds, following, uses):  # type: ignore[no-untyped-def]  # pragma: no cover
    for segment in range(len(bounds) - 1):
        state = 0
        for i in range(bounds[segment], bounds[segment + 1]):
            symbol = np.int64(flat[i])
            flat[i] = _level(uses[state], symbol)
            state = following[state, symbol & 1]


def to_symbols(flat: NDArray[np.int32], tables: NDArray[np.uint16], bounds: NDArray[np.int64], machine: Machine) -> None:
    """Levels to symbols, in place, and each one's coding table; segment k is ``flat[bounds[k]:bounds[k + 1]]``."""
    _to_symbols(flat, tables, bounds, machine.following, machine.uses, machine.rows)


def to_levels(flat: NDArray[np.int32], bounds: NDArray[np.int64], machine: Machine) -> None:
    """Inverse of ``to_symbols`` for the symbols; a segment of zeros gives zeros."""
    _to_levels(flat, bounds, machine.following, machine.uses)


@numba.njit(inline="always")
def _cost(symbol, row, costs, starts, sizes, offsets):  # type: ignore[no-untyped-def]  # pragma: no cover
    slot = symbol - np.int64(offsets[row])
    size = np.int64(sizes[row])
    if slot >= 0 and slot < size:
        return np.float64(costs[np.int64(starts[row]) + slot])
    excess = -slot if slot < 0 else slot - size + 1
    return np.float64(costs[np.int64(starts[row]) + size]) + 5.0 + np.floor(np.log2(np.float64(excess)))


@numba.njit(inline="always")
def _best(size, sign, quantiser, row, weight, costs, starts, sizes, offsets):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Prices and symbols of the best even and the best odd candidate: the two around the value, and the one before them."""
    outer = np.int64((size + quantiser) * 0.5) + 1
    error = size - (2 * outer - quantiser)
    last = weight * error * error + _cost(sign * outer, row, costs, starts, sizes, offsets)
    symbol = outer - 1
    error = size - (2 * symbol - (quantiser if symbol > 0 else 0))
    middle = weight * error * error + _cost(sign * symbol, row, costs, starts, sizes, offsets)
    if symbol > 0:
        symbol -= 1
        error = size - (2 * symbol - (quantiser if symbol > 0 else 0))
        first = weight * error * error + _cost(sign * symbol, row, costs, starts, sizes, offsets)
        if first < last:
            last, outer = first, symbol
        symbol += 1
    if symbol & 1:
        return last, middle, sign * outer, sign * symbol
    return middle, last, sign * symbol, sign * outer


@numba.njit(cache=True, nogil=True)
def _search(  # type: ignore[no-untyped-def]  # pragma: no cover
    values, tables, bounds, rows, weight, costs, starts, sizes, offsets, levels
):
    """Viterbi search, segment by segment. ``values`` are in steps, ``weight`` is per squared step; writes ``levels``.

    The trellis of ``_NEXT`` is written out: each state has two predecessors, four apart, and one bit says which was better.

    Returns:
        The bits.
    """
    longest = 0
    for segment in range(len(bounds) - 1):
        longest = max(longest, bounds[segment + 1] - bounds[segment])
    came = np.empty(longest, np.uint8)
    chosen = np.empty((longest, 4), np.int32)  # by 2 * quantiser + parity
    far = 1e300
    total = 0.0
    for segment in range(len(bounds) - 1):
        begin, count = bounds[segment], bounds[segment + 1] - bounds[segment]
        r0, r1, r2, r3, r4, r5, r6, r7 = 0.0, far, far, far, far, far, far, far
        for i in range(count):
            value = np.float64(values[begin + i])
            sign = np.int64(1) if value >= 0 else np.int64(-1)
            size = abs(value)
            row = np.int64(tables[begin + i])
            even0, odd0, chosen[i, 0], chosen[i, 1] = _best(size, sign, 0, row + rows[0], weight, costs, starts, sizes, offsets)
            even1, odd1, chosen[i, 2], chosen[i, 3] = _best(size, sign, 1, row + rows[1], weight, costs, starts, sizes, offsets)
            a0, b0 = r0 + even0, r4 + odd0
            a1, b1 = r0 + odd0, r4 + even0
            a2, b2 = r1 + even1, r5 + odd1
            a3, b3 = r1 + odd1, r5 + even1
            a4, b4 = r2 + odd0, r6 + even0
            a5, b5 = r2 + even0, r6 + odd0
            a6, b6 = r3 + odd1, r7 + even1
            a7, b7 = r3 + even1, r7 + odd1
            came[i] = (
                np.uint8(b0 < a0)
                | np.uint8(b1 < a1) << 1
                | np.uint8(b2 < a2) << 2
                | np.uint8(b3 < a3) << 3
                | np.uint8(b4 < a4) << 4
                | np.uint8(b5 < a5) << 5
                | np.uint8(b6 < a6) << 6
                | np.uint8(b7 < a7) << 7
            )
            r0, r1, r2, r3 = min(a0, b0), min(a1, b1), min(a2, b2), min(a3, b3)
            r4, r5, r6, r7 = min(a4, b4), min(a5, b5), min(a6, b6), min(a7, b7)
        state, least = 0, r0
        for other, reach in enumerate((r1, r2, r3, r4, r5, r6, r7)):
            if reach < least:
                state, least = other + 1, reach
        for i in range(count - 1, -1, -1):
            before = (state >> 1) + 4 * ((np.int64(came[i]) >> state) & 1)
            quantiser = before & 1
            # The parity that leads from there to here: even to the first of the pair, unless _NEXT crosses them.
            parity = (state & 1) ^ (before >> 2 & 1) ^ (state >> 2 & 1)
            symbol = np.int64(chosen[i, 2 * quantiser + parity])
            levels[begin + i] = _level(quantiser, symbol)
            total += _cost(symbol, np.int64(tables[begin + i]) + rows[before], costs, starts, sizes, offsets)
            state = before
    return total


def search(
    values: NDArray[np.float32],
    tables: NDArray[np.uint16],
    bounds: NDArray[np.int64],
    family: CdfTables,
    machine: Machine,
    levels: NDArray[np.int32],
) -> float:
    """Writes the levels with the least ``weight * error^2 + bits`` for each segment; see ``to_symbols`` for the bounds.

    Args:
        values: residuals in steps.
        tables: index of each one's scale.

    Returns:
        The bits of all segments.
    """
    look = family.lookup
    weight = machine.weight * machine.step**2
    bits = _search(
        values, tables, bounds, machine.rows, weight, look.costs, look.starts, look.sizes, look.offsets, levels
    )  # fmt: skip
    return float(bits)
