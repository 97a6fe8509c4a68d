"""Compiled loops of the entropy coder. `rans` is the interface, `rans_reference` the slow twin, docs/bitstream.md the rule.

State x in [2^32, 2^48), words of 16 bits. The quotient of the encoder is taken by a double multiplication: x < 2^48 and the
reciprocal is rounded up by a few units of 2^-52, so the error of the quotient is below 2^-17 while its distance to the next
integer is at least 2^-16: the truncated result is exact.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

LOWEST = 1 << 32  # of the state; also where the encoder starts and the decoder must end
BUCKET_BITS = 8  # of the decoder's first guess

OK, TRUNCATED, BAD_STATE, BAD_SYMBOL, BAD_INDEX = 0, 1, 2, 3, 4

Words = NDArray[np.uint16]
Symbols = NDArray[np.int32]

_LOW = np.uint64(LOWEST)
_S16 = np.uint64(16)
_S32 = np.uint64(32)
_M16 = np.uint64(0xFFFF)
_TOTAL = np.uint64(1 << 16)


@numba.njit(inline="always")
def _push_bits(x, words, at, value, count):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Codes ``count`` equally likely bits."""
    if x >= np.uint64(1) << np.uint64(48 - count):
        at -= 1
        words[at] = np.uint16(x & _M16)
        x >>= _S16
    return (x << np.uint64(count)) | np.uint64(value), at


@numba.njit(cache=True, nogil=True)
def encode(  # type: ignore[no-untyped-def]  # pragma: no cover
    symbols, indices, first, last, cumulative, reciprocals, starts, sizes, offsets, skip_below, words
):
    """Codes symbols[first:last] backwards into the end of ``words``.

    Returns:
        Where the result begins in ``words``, or -1 - i if symbol i or its index is out of range. No word is used if all are
        skipped.
    """
    x = _LOW
    at = len(words)
    coded = False
    tables = len(sizes)
    for i in range(last - 1, first - 1, -1):
        table = np.int64(indices[i])
        if table < skip_below:
            continue
        value = np.int64(symbols[i])
        if table >= tables or value < -32768 or value > 32767:
            return -1 - i
        coded = True
        slot = value - np.int64(offsets[table])
        size = np.int64(sizes[table])
        if slot < 0 or slot >= size:
            if slot < 0:
                excess = -slot
                sign = 1
            else:
                excess = slot - size + 1
                sign = 0
            count = 0
            while (excess >> (count + 1)) != 0:
                count += 1
            if count:
                x, at = _push_bits(x, words, at, excess - (1 << count), count)
            x, at = _push_bits(x, words, at, count, 4)
            x, at = _push_bits(x, words, at, sign, 1)
            slot = size
        entry = np.int64(starts[table]) + slot
        low = np.uint64(cumulative[entry])
        frequency = np.uint64(cumulative[entry + 1]) - low
        # Written always, kept if the state is full: nobody can predict that branch.
        words[at - 1] = np.uint16(x & _M16)
        full = np.int64(x >= frequency << _S32)
        at -= full
        x >>= np.uint64(full << 4)
        quotient = np.uint64(np.int64(np.float64(np.int64(x)) * reciprocals[entry]))
        x = x + low + quotient * (_TOTAL - frequency)
    if coded:
        words[at - 1] = np.uint16(x & _M16)
        words[at - 2] = np.uint16((x >> _S16) & _M16)
        words[at - 3] = np.uint16((x >> _S32) & _M16)
        at -= 3
    return at


@numba.njit(inline="always")
def _pop_bits(x, words, at, last, count):  # type: ignore[no-untyped-def]  # pragma: no cover
    value = np.int64(x & ((np.uint64(1) << np.uint64(count)) - np.uint64(1)))
    x >>= np.uint64(count)
    if x < _LOW and at < last:
        x = (x << _S16) | np.uint64(words[at])
        at += 1
    return x, at, value


@numba.njit(cache=True, nogil=True)
def decode(  # type: ignore[no-untyped-def]  # pragma: no cover
    words, at, last, x, indices, symbols, first, end, cumulative, buckets, starts, sizes, offsets, skip_below, following, rows
):
    """Decodes symbols[first:end] from words[at:last] and state ``x``. A missing word is noticed: the state stays too low.

    With a machine (``following``, ``rows``: `dependent.Machine`; None without, which compiles to a loop of its own) every table
    index is shifted by the machine's state.

    Returns:
        (status, at, x): OK, or why it stopped.
    """
    tables = len(sizes)
    state = 0
    for i in range(first, end):
        table = np.int64(indices[i])
        if table < skip_below:
            symbols[i] = 0
            continue
        if following is not None:
            table += rows[state]
        if table >= tables:
            return BAD_INDEX, at, x
        if x < _LOW:
            return TRUNCATED, at, x
        position = x & _M16
        start = np.int64(starts[table])
        entry = start + np.int64(buckets[table, np.int64(position >> np.uint64(16 - BUCKET_BITS))])
        while np.uint64(cumulative[entry + 1]) <= position:
            entry += 1
        low = np.uint64(cumulative[entry])
        x = (np.uint64(cumulative[entry + 1]) - low) * (x >> _S16) + position - low
        if x < _LOW and at < last:
            x = (x << _S16) | np.uint64(words[at])
            at += 1
        slot = entry - start
        size = np.int64(sizes[table])
        if slot == size:
            if x < _LOW:
                return TRUNCATED, at, x
            x, at, sign = _pop_bits(x, words, at, last, 1)
            x, at, count = _pop_bits(x, words, at, last, 4)
            excess = np.int64(1) << count
            if count:
                if x < _LOW:
                    return TRUNCATED, at, x
                x, at, rest = _pop_bits(x, words, at, last, count)
                excess += rest
            slot = -excess if sign else size - 1 + excess
        value = np.int64(offsets[table]) + slot
        if value < -32768 or value > 32767:
            return BAD_SYMBOL, at, x
        symbols[i] = value
        if following is not None:
            state = following[state, value & 1]
    if x < _LOW:
        return TRUNCATED, at, x
    return OK, at, x


@numba.njit(cache=True, nogil=True)
def table_bits(  # type: ignore[no-untyped-def]  # pragma: no cover
    symbols, indices, costs, starts, sizes, offsets, skip_below
):
    """Cost of the symbols by their tables, in bits; ``costs`` holds that of each slot."""
    bits = 0.0
    for i in range(len(symbols)):
        table = np.int64(indices[i])
        if table < skip_below:
            continue
        slot = np.int64(symbols[i]) - np.int64(offsets[table])
        size = np.int64(sizes[table])
        if slot < 0 or slot >= size:
            excess = -slot if slot < 0 else slot - size + 1
            bits += 5.0 + np.floor(np.log2(np.float64(excess)))  # sign, length, rest
            slot = size
        bits += np.float64(costs[np.int64(starts[table]) + slot])
    return bits
