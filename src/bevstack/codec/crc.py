"""CRC-32C (Castagnoli, RFC 3720 appendix B.4): reflected polynomial 0x82F63B78, start and final XOR 0xFFFFFFFF."""

from __future__ import annotations

from functools import lru_cache

import numba
import numpy as np
from numpy.typing import NDArray

POLYNOMIAL = 0x82F63B78
STRIDE = 8  # bytes per step of the compiled loop


@lru_cache(maxsize=1)
def _tables() -> NDArray[np.uint32]:
    """(8, 256): row 0 is the usual byte table, row k advances it by k more zero bytes."""
    tables = np.zeros((STRIDE, 256), np.uint32)
    row = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        row = (row >> np.uint32(1)) ^ np.where(row & np.uint32(1), np.uint32(POLYNOMIAL), np.uint32(0))
    tables[0] = row
    for k in range(1, STRIDE):
        row = tables[0][row & np.uint32(0xFF)] ^ (row >> np.uint32(8))
        tables[k] = row
    return tables


@numba.njit(cache=True, nogil=True)
def _run(data, tables, crc):  # type: ignore[no-untyped-def]  # pragma: no cover
    at = 0
    while at + 8 <= len(data):
        crc ^= (
            np.uint32(data[at]) | np.uint32(data[at + 1]) << 8 | np.uint32(data[at + 2]) << 16 | np.uint32(data[at + 3]) << 24
        )
        crc = (
            tables[7, crc & 0xFF]
            ^ tables[6, (crc >> 8) & 0xFF]
            ^ tables[5, (crc >> 16) & 0xFF]
            ^ tables[4, (crc >> 24) & 0xFF]
            ^ tables[3, data[at + 4]]
            ^ tables[2, data[at + 5]]
            ^ tables[1, data[at + 6]]
            ^ tables[0, data[at + 7]]
        )
        at += 8
    while at < len(data):
        crc = tables[0, (crc ^ data[at]) & 0xFF] ^ (crc >> 8)
        at += 1
    return crc


@numba.njit(cache=True, nogil=True)
def _find(data, tables, leaving, blank, length, crc, first, last):  # type: ignore[no-untyped-def]  # pragma: no cover
    """First start in first..last of a window with this CRC, or -1. ``blank``: what the initial value becomes in a window."""
    wanted = crc ^ blank
    register = np.uint32(0)
    for at in range(first, first + length):
        register = tables[0, (register ^ data[at]) & 0xFF] ^ (register >> 8)
    start = first
    while register != wanted:
        if start == last:
            return -1
        register = tables[0, (register ^ data[start + length]) & 0xFF] ^ (register >> 8) ^ leaving[data[start]]
        start += 1
    return start


def crc32c(data: bytes | bytearray | memoryview) -> int:
    """The check value of ``data``: 0xE3069283 for b"123456789"."""
    octets = np.frombuffer(bytearray(data), np.uint8)  # a writeable copy: numba compiles a second time for read-only arrays
    return int(_run(octets, _tables(), np.uint32(0xFFFFFFFF))) ^ 0xFFFFFFFF


def find_window(data: bytes | bytearray | memoryview, length: int, check: int, first: int, last: int) -> int | None:
    """Where a window of ``length`` bytes with the CRC-32C ``check`` starts, from ``first`` to ``last``; None if nowhere.

    Slides in constant time per step: the register is linear in the bytes, so what a byte has added by the time it leaves the
    window can be taken out again.
    """
    last = min(last, len(data) - length)
    if length < 1 or first < 0 or last < first:
        return None
    octets = np.frombuffer(bytearray(data), np.uint8)
    tables = _tables()
    zeros = np.zeros(length, np.uint8)
    # A byte's trace after ``length`` more bytes, for the 8 single bits; the others follow by linearity.
    leaving = np.zeros(256, np.uint32)
    for bit in range(8):
        trace = _run(zeros, tables, tables[0, 1 << bit])
        leaving[1 << bit : 2 << bit] = leaving[: 1 << bit] ^ trace
    blank = _run(zeros, tables, np.uint32(0xFFFFFFFF))
    start = int(_find(octets, tables, leaving, blank, length, np.uint32(check ^ 0xFFFFFFFF), first, last))
    return None if start < 0 else start
