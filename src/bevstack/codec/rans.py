"""The entropy coder: range asymmetric numeral systems (Duda, arXiv 1311.2540) with integer tables, one state per segment.

``encode`` takes all symbols of a segment; ``decode`` gives them back. A `Decoder` is asked several times where later table
indices depend on earlier symbols. Bad bytes end in `BitstreamError`: every read is bounded, the last state must be the
encoder's first, and no word may be left over. The wire format is defined in docs/bitstream.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bevstack.errors import BitstreamError

from . import rans_kernels as kernels
from .tables import SYMBOL_MAX, SYMBOL_MIN, CdfTables

if TYPE_CHECKING:
    from .dependent import Machine

Symbols = NDArray[np.int32]
Indices = NDArray[np.uint16]

WORDS_PER_SYMBOL = 3  # at most: an escape is one table step and 20 bits
STATE_WORDS = 3
REASONS = {
    kernels.TRUNCATED: "the words end too early",
    kernels.BAD_STATE: "the last state is not the encoder's first, or words are left over",
    kernels.BAD_SYMBOL: f"a symbol is outside {SYMBOL_MIN}..{SYMBOL_MAX}",
    kernels.BAD_INDEX: "a table index is beyond the tables",
}


@dataclass(frozen=True)
class Lookup:
    """Arrays that the compiled loops read beside the tables themselves.

    Attributes:
        reciprocals: (S,) float64, a little more than 1 / frequency of each slot.
        buckets: (T, 2^BUCKET_BITS) uint16, the slot that holds the first position of each bucket.
        costs: (S,) float32, bits that each slot takes.
    """

    cumulative: NDArray[np.uint32]
    reciprocals: NDArray[np.float64]
    buckets: NDArray[np.uint16]
    starts: NDArray[np.int32]
    sizes: NDArray[np.int32]
    offsets: NDArray[np.int32]
    costs: NDArray[np.float32]

    @classmethod
    def build(cls, tables: CdfTables) -> Lookup:
        frequencies = np.diff(tables.cumulative.astype(np.float64), append=0.0)
        reciprocals = np.where(frequencies > 0, (1.0 + 2.0**-50) / np.maximum(frequencies, 1.0), 0.0)
        edges = np.arange(1 << kernels.BUCKET_BITS, dtype=np.uint32) << (16 - kernels.BUCKET_BITS)
        buckets = np.empty((len(tables), len(edges)), np.uint16)
        for table in range(len(tables)):
            buckets[table] = np.searchsorted(tables.row(table), edges, side="right") - 1
        # Copies: numba compiles a second time for read-only arrays.
        return cls(
            tables.cumulative.copy(),
            reciprocals,
            buckets,
            tables.starts.copy(),
            tables.sizes.copy(),
            tables.offsets.copy(),
            (16.0 - np.log2(np.maximum(frequencies, 1.0))).astype(np.float32),
        )


def as_indices(cdf_index: NDArray[np.integer]) -> Indices:
    """A flat, writeable uint16 array.

    Raises:
        ValueError: if the array is not of integers or holds a value that does not fit.
    """
    flat = np.ascontiguousarray(cdf_index).reshape(-1)
    if flat.dtype == np.uint16:
        return flat if flat.flags.writeable else flat.copy()
    if flat.dtype.kind not in "iu":
        raise ValueError(f"table indices are {flat.dtype}, expected unsigned integers")
    if flat.dtype != np.uint8 and len(flat) and (flat.min() < 0 or flat.max() > 0xFFFF):
        raise ValueError(f"table indices {flat.min()}..{flat.max()} do not fit uint16")
    return flat.astype(np.uint16)


def as_symbols(symbols: NDArray[np.integer]) -> Symbols:
    """A flat, writeable int32 array."""
    flat = np.ascontiguousarray(symbols).reshape(-1)
    if flat.dtype.kind not in "iu":
        raise ValueError(f"symbols are {flat.dtype}, expected integers: round first")
    if flat.dtype != np.int32:
        if len(flat) and (flat.min() < SYMBOL_MIN or flat.max() > SYMBOL_MAX):
            raise ValueError(f"symbols {flat.min()}..{flat.max()} are outside {SYMBOL_MIN}..{SYMBOL_MAX}")
        return flat.astype(np.int32)
    return flat if flat.flags.writeable else flat.copy()


def encode(symbols: NDArray[np.integer], cdf_index: NDArray[np.integer], tables: CdfTables) -> bytes:
    """Codes a segment.

    Args:
        symbols: (n,) integers -32768..32767 in decoding order; those beyond their table's range take the escape.
        cdf_index: (n,) which table each symbol uses; below ``tables.skip_below`` nothing is coded and the decoder gives 0.

    Returns:
        The segment: 16-bit words, little-endian; empty if nothing had to be coded.

    Raises:
        ValueError: if a symbol or an index is out of range or the lengths differ.
    """
    flat = as_symbols(symbols)
    return encode_segments(flat, cdf_index, np.array([0, len(flat)], np.int64), tables)[0]


def encode_segments(
    symbols: NDArray[np.integer], cdf_index: NDArray[np.integer], bounds: NDArray[np.integer], tables: CdfTables
) -> list[bytes]:
    """Codes several segments that lie one after the other: segment k is ``symbols[bounds[k]:bounds[k + 1]]``.

    Raises:
        ValueError: as `encode`, or if the bounds do not rise from 0 to n.
    """
    flat, indices = as_symbols(symbols), as_indices(cdf_index)
    edges = _check_bounds(bounds, len(flat), len(indices))
    look = tables.lookup
    longest = int(np.diff(edges).max(initial=0))
    words = np.empty(WORDS_PER_SYMBOL * longest + STATE_WORDS, np.uint16)
    segments = []
    for first, last in pairwise(edges):
        at = kernels.encode(
            flat,
            indices,
            first,
            last,
            look.cumulative,
            look.reciprocals,
            look.starts,
            look.sizes,
            look.offsets,
            tables.skip_below,
            words,
        )
        if at < 0:
            bad = -1 - at
            raise ValueError(
                f"symbol {bad} is {flat[bad]} with table {indices[bad]}: "
                f"expected {SYMBOL_MIN}..{SYMBOL_MAX} and a table below {len(tables)}"
            )
        segments.append(words[at:].astype("<u2").tobytes())
    return segments


def decode(data: bytes, cdf_index: NDArray[np.integer], tables: CdfTables, machine: Machine | None = None) -> Symbols:
    """Decodes a whole segment; ``machine``, if any, shifts the table indices from symbol to symbol.

    Returns:
        (n,) int32 symbols, zeros where the index says "not coded".

    Raises:
        BitstreamError: if the bytes are not what `encode` writes for these indices.
    """
    decoder = Decoder(data, tables)
    symbols = decoder.decode(cdf_index, machine=machine)
    decoder.finish()
    return symbols


class Decoder:
    """One segment that is decoded in several steps.

    Raises:
        BitstreamError: if the bytes cannot begin a segment.
    """

    def __init__(self, data: bytes, tables: CdfTables) -> None:
        if len(data) % 2 or 0 < len(data) < 2 * STATE_WORDS:
            raise BitstreamError(
                f"coded segment: {len(data)} bytes are not an even number of at least {2 * STATE_WORDS}, or none"
            )
        self._tables = tables
        self._words = np.frombuffer(data, "<u2").astype(np.uint16)
        self._at = 0
        self._state = np.uint64(kernels.LOWEST)
        if len(self._words):
            high, middle, low = (int(word) for word in self._words[:STATE_WORDS])
            self._state = np.uint64(high << 32 | middle << 16 | low)
            self._at = STATE_WORDS
            if self._state < kernels.LOWEST:
                raise BitstreamError("coded segment: its first state is below 2^32")

    def decode(
        self, cdf_index: NDArray[np.integer], tables: CdfTables | None = None, machine: Machine | None = None
    ) -> Symbols:
        """The next ``len(cdf_index)`` symbols, (n,) int32; ``tables`` replaces the constructor's for this step.

        A ``machine`` begins in its first state.

        Raises:
            BitstreamError: if the words end early or give an impossible symbol; the decoder is of no use afterwards.
            ValueError: if a table index is beyond the tables.
        """
        used = tables if tables is not None else self._tables
        indices = as_indices(cdf_index)
        symbols = np.empty(len(indices), np.int32)
        look = used.lookup
        status, at, state = kernels.decode(
            self._words, self._at, len(self._words), self._state, indices, symbols, 0, len(indices),
            look.cumulative, look.buckets, look.starts, look.sizes, look.offsets, used.skip_below,
            None if machine is None else machine.following, None if machine is None else machine.rows,
        )  # fmt: skip
        self._at, self._state = at, np.uint64(state)
        if status == kernels.BAD_INDEX:
            raise ValueError(f"a table index is beyond the {len(used)} tables")
        if status != kernels.OK:
            raise BitstreamError(f"coded segment: {REASONS[status]}")
        return symbols

    def finish(self) -> None:
        """Checks that the segment ends here.

        Raises:
            BitstreamError: if the state is not the encoder's first or words are left over.
        """
        if self._state != kernels.LOWEST or self._at != len(self._words):
            raise BitstreamError(f"coded segment: {REASONS[kernels.BAD_STATE]}")


def decode_segments(
    segments: list[bytes | None],
    cdf_index: NDArray[np.integer],
    bounds: NDArray[np.integer],
    tables: CdfTables,
    machine: Machine | None = None,
) -> tuple[Symbols, list[str | None]]:
    """Decodes several segments; a damaged one costs only its own symbols.

    Args:
        segments: bytes of each, None for one that is known to be lost.
        bounds: as for `encode_segments`.
        machine: of a dependent quantiser, in its first state at the beginning of each segment.

    Returns:
        (n,) int32 symbols, zeros throughout a damaged segment, and per segment None or what is wrong with it.

    Raises:
        ValueError: if the bounds do not rise from 0 to n, or an index is beyond the tables.
    """
    indices = as_indices(cdf_index)
    edges = _check_bounds(bounds, len(indices), len(indices))
    if len(segments) != len(edges) - 1:
        raise ValueError(f"{len(segments)} segments, but bounds for {len(edges) - 1}")
    symbols = np.zeros(len(indices), np.int32)
    problems: list[str | None] = []
    for data, first, last in zip(segments, edges[:-1], edges[1:], strict=True):
        if data is None:
            problems.append("missing")
            continue
        try:
            symbols[first:last] = decode(data, indices[first:last], tables, machine)
            problems.append(None)
        except BitstreamError as error:
            problems.append(str(error))
    return symbols, problems


def table_bits(symbols: NDArray[np.integer], cdf_index: NDArray[np.integer], tables: CdfTables) -> float:
    """See `CdfTables.bits`."""
    look = tables.lookup
    flat, indices = as_symbols(symbols), as_indices(cdf_index)
    return float(kernels.table_bits(flat, indices, look.costs, look.starts, look.sizes, look.offsets, tables.skip_below))


def _check_bounds(bounds: NDArray[np.integer], symbols: int, indices: int) -> NDArray[np.int64]:
    edges = np.asarray(bounds, np.int64)
    if symbols != indices:
        raise ValueError(f"{symbols} symbols, but {indices} table indices")
    if edges.ndim != 1 or len(edges) < 2 or edges[0] != 0 or edges[-1] != symbols or (np.diff(edges) < 0).any():
        raise ValueError(f"segment bounds must rise from 0 to {symbols}")
    return edges
