"""The entropy coder in plain Python integers: slow, to be read beside docs/bitstream.md. Tests hold `rans` against it."""

from __future__ import annotations

from collections.abc import Sequence

from bevstack.errors import BitstreamError

from .tables import SYMBOL_MAX, SYMBOL_MIN, CdfTables

LOWEST = 1 << 32


class _Writer:
    """A state that grows; words that leave it are collected in the order in which they leave."""

    def __init__(self) -> None:
        self.state = LOWEST
        self.words: list[int] = []

    def push(self, low: int, frequency: int, precision: int) -> None:
        """Codes the interval [low, low + frequency) of 2^precision."""
        if self.state >= frequency << (48 - precision):
            self.words.append(self.state & 0xFFFF)
            self.state >>= 16
        quotient, rest = divmod(self.state, frequency)
        self.state = (quotient << precision) + low + rest


def encode(symbols: Sequence[int], cdf_index: Sequence[int], tables: CdfTables) -> bytes:
    """Same bytes as `rans.encode`.

    Raises:
        ValueError: if a symbol or an index is out of range or the lengths differ.
    """
    writer = _Writer()
    for symbol, table in reversed(list(zip(map(int, symbols), map(int, cdf_index), strict=True))):
        if table < tables.skip_below:
            continue
        if table >= len(tables) or not SYMBOL_MIN <= symbol <= SYMBOL_MAX:
            raise ValueError(f"symbol {symbol} with table {table} is out of range")
        size = int(tables.sizes[table])
        slot = symbol - int(tables.offsets[table])
        if not 0 <= slot < size:
            excess = -slot if slot < 0 else slot - size + 1
            count = excess.bit_length() - 1
            writer.push(excess - (1 << count), 1, count)
            writer.push(count, 1, 4)
            writer.push(int(slot < 0), 1, 1)
            slot = size
        row = tables.row(table)
        writer.push(int(row[slot]), int(row[slot + 1]) - int(row[slot]), 16)
    if not writer.words and writer.state == LOWEST:
        return b""
    state = [writer.state >> 32, writer.state >> 16 & 0xFFFF, writer.state & 0xFFFF]
    return b"".join(word.to_bytes(2, "little") for word in [*state, *reversed(writer.words)])


class _Reader:
    def __init__(self, data: bytes) -> None:
        if len(data) % 2 or 0 < len(data) < 6:
            raise BitstreamError(f"coded segment: {len(data)} bytes cannot be a segment")
        words = [int.from_bytes(data[k : k + 2], "little") for k in range(0, len(data), 2)]
        self.state = words[0] << 32 | words[1] << 16 | words[2] if words else LOWEST
        self.words = words[3:]
        self.at = 0

    def _check(self) -> None:
        if self.state < LOWEST:
            raise BitstreamError("coded segment: the words end too early")

    def slot(self, row: Sequence[int]) -> int:
        self._check()
        position = self.state & 0xFFFF
        slot = 0
        while row[slot + 1] <= position:
            slot += 1
        self._advance((row[slot + 1] - row[slot]) * (self.state >> 16) + position - row[slot])
        return slot

    def bits(self, count: int) -> int:
        self._check()
        value = self.state & ((1 << count) - 1)
        self._advance(self.state >> count)
        return value

    def _advance(self, state: int) -> None:
        if state < LOWEST and self.at < len(self.words):
            state = state << 16 | self.words[self.at]
            self.at += 1
        self.state = state


def decode(data: bytes, cdf_index: Sequence[int], tables: CdfTables) -> list[int]:
    """Same symbols, and errors for the same bytes, as `rans.decode`.

    Raises:
        BitstreamError: if the bytes are not what `encode` writes for these indices.
    """
    reader = _Reader(data)
    symbols = []
    for table in map(int, cdf_index):
        if table < tables.skip_below:
            symbols.append(0)
            continue
        size = int(tables.sizes[table])
        slot = reader.slot([int(value) for value in tables.row(table)])
        if slot == size:
            negative = reader.bits(1)
            count = reader.bits(4)
            excess = (1 << count) + reader.bits(count)
            slot = -excess if negative else size - 1 + excess
        symbol = int(tables.offsets[table]) + slot
        if not SYMBOL_MIN <= symbol <= SYMBOL_MAX:
            raise BitstreamError(f"coded segment: symbol {symbol} is outside {SYMBOL_MIN}..{SYMBOL_MAX}")
        symbols.append(symbol)
    if reader.state != LOWEST or reader.at != len(reader.words):
        raise BitstreamError("coded segment: the last state is not the encoder's first, or words are left over")
    return symbols
