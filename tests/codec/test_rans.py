"""The entropy coder: round trips, the twin in plain Python, sizes near the ideal, and bytes that nobody coded."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bevstack.codec import rans, rans_reference
from bevstack.codec.tables import CdfTables, scale_levels
from bevstack.errors import BitstreamError

GOLDEN_SEGMENT = "a2fed4ace5402a17a6ae229b3202d0aebe4cdc6081ad0b93db70d78c1164ff10"

LEVELS = scale_levels(16, "0.11", "20")
GAUSSIAN = CdfTables.gaussian(LEVELS, skip_below=2)
SMALL = CdfTables.from_rows([[0, 8192, 57344, 65528, 65536], [0, 65535, 65536], [0, 1, 65536]], [-1, 0, 300])
EXTREME = CdfTables.from_rows([[*range(8193), 65536], [0, 1, 2, 65536]], [-32768, 32766])


def sample(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    index = rng.integers(0, len(LEVELS), n).astype(np.uint8)
    symbols = np.rint(rng.normal(size=n) * np.array(LEVELS)[index] / 65536).astype(np.int32)
    return symbols, index


def expected(symbols: np.ndarray, index: np.ndarray, tables: CdfTables) -> np.ndarray:
    return np.where(index < tables.skip_below, 0, symbols)


families = st.sampled_from([GAUSSIAN, SMALL, EXTREME])
values = st.one_of(st.integers(-3, 3), st.integers(-400, 400), st.integers(-32768, 32767))


@given(tables=families, pairs=st.lists(st.tuples(values, st.integers(0, 15)), max_size=60))
@settings(max_examples=80, deadline=None)
def test_round_trip_and_same_bytes_as_the_twin(tables: CdfTables, pairs: list[tuple[int, int]]) -> None:
    symbols = np.array([s for s, _ in pairs], np.int32)
    index = np.array([t % len(tables) for _, t in pairs], np.uint8)
    data = rans.encode(symbols, index, tables)
    assert data == rans_reference.encode(list(symbols), list(index), tables)
    assert np.array_equal(rans.decode(data, index, tables), expected(symbols, index, tables))
    assert rans_reference.decode(data, list(index), tables) == list(expected(symbols, index, tables))


@given(
    tables=families,
    index=st.lists(st.integers(0, 1), max_size=40),
    data=st.binary(max_size=80),
)
@settings(max_examples=120, deadline=None)
def test_foreign_bytes_end_like_the_twin(tables: CdfTables, index: list[int], data: bytes) -> None:
    """Any bytes give symbols or BitstreamError, the same from both."""

    def outcome(decode):
        try:
            return [int(s) for s in decode()]
        except BitstreamError:
            return None

    indices = np.array(index, np.uint8)
    assert outcome(lambda: rans.decode(data, indices, tables)) == outcome(lambda: rans_reference.decode(data, index, tables))


def test_long_segment_of_all_tables() -> None:
    symbols, index = sample(200_000)
    data = rans.encode(symbols, index, GAUSSIAN)
    assert np.array_equal(rans.decode(data, index, GAUSSIAN), expected(symbols, index, GAUSSIAN))
    assert 0 <= len(data) * 8 - GAUSSIAN.bits(symbols, index) < 64


def test_size_is_within_half_a_percent_of_the_ideal() -> None:
    """The ideal: -log2 of the Gaussian's own mass of each symbol, in floating point; no skipping."""
    tables = CdfTables.gaussian(LEVELS)
    rng = np.random.default_rng(1)
    index = np.clip(rng.normal(5, 3, 300_000), 0, 15).astype(np.uint8)  # most scales are small, as in a real latent
    scale = np.array(LEVELS)[index] / 65536
    symbols = np.rint(rng.normal(size=len(index)) * scale).astype(np.int32)
    low, high = (np.abs(symbols) - 0.5) / scale, (np.abs(symbols) + 0.5) / scale
    erfc = np.vectorize(math.erfc)
    ideal = -np.log2(0.5 * (erfc(low / math.sqrt(2)) - erfc(high / math.sqrt(2)))).sum() / 8
    assert abs(len(rans.encode(symbols, index, tables)) - ideal) < 0.005 * ideal


def test_index_kinds_and_layouts_do_not_matter() -> None:
    symbols, index = sample(3000)
    data = rans.encode(symbols, index, GAUSSIAN)
    frozen = symbols.copy()
    frozen.setflags(write=False)
    assert rans.encode(frozen, index.astype(np.int64), GAUSSIAN) == data
    assert rans.encode(symbols.astype(np.int16), index.astype(np.uint16), GAUSSIAN) == data
    assert rans.encode(np.repeat(symbols, 2)[::2], index.reshape(3, -1), GAUSSIAN) == data
    assert np.array_equal(rans.decode(data, index.astype(np.uint16), GAUSSIAN), rans.decode(data, index, GAUSSIAN))


def test_decoder_in_steps() -> None:
    symbols, index = sample(1000)
    data = rans.encode(symbols, index, GAUSSIAN)
    decoder = rans.Decoder(data, GAUSSIAN)
    parts = [decoder.decode(index[a:b]) for a, b in ((0, 1), (1, 400), (400, 400), (400, 1000))]
    decoder.finish()
    assert np.array_equal(np.concatenate(parts), expected(symbols, index, GAUSSIAN))
    early = rans.Decoder(data, GAUSSIAN)
    early.decode(index[:999])
    with pytest.raises(BitstreamError, match="left over"):
        early.finish()


def test_segments_stand_alone() -> None:
    symbols, index = sample(1000)
    bounds = np.array([0, 300, 300, 650, 1000])
    segments: list[bytes | None] = list(rans.encode_segments(symbols, index, bounds, GAUSSIAN))
    assert segments[1] == b""
    assert segments[2] == rans.encode(symbols[300:650], index[300:650], GAUSSIAN)
    segments[0] = None
    segments[2] = segments[2][:-2]  # type: ignore[index]
    decoded, problems = rans.decode_segments(segments, index, bounds, GAUSSIAN)
    assert problems[0] == "missing"
    assert problems[2] is not None
    assert problems[1] is problems[3] is None
    wanted = expected(symbols, index, GAUSSIAN)
    assert np.array_equal(decoded[650:], wanted[650:])
    assert not decoded[:650].any()


def test_nothing_coded_takes_nothing() -> None:
    assert rans.encode(np.arange(5), np.ones(5, np.uint8), GAUSSIAN) == b""
    assert not rans.decode(b"", np.ones(5, np.uint8), GAUSSIAN).any()
    assert rans.encode(np.array([], np.int32), np.array([], np.uint8), SMALL) == b""


def test_every_cut_and_every_flipped_bit_is_noticed_or_harmless() -> None:
    """A cut never passes; the last-state check catches all but few of the flipped bits (the segment's CRC catches those)."""
    symbols, index = sample(400)
    data = rans.encode(symbols, index, GAUSSIAN)
    for length in range(len(data)):
        with pytest.raises(BitstreamError):
            rans.decode(data[:length], index, GAUSSIAN)
    with pytest.raises(BitstreamError, match="left over"):
        rans.decode(data + b"\0\0", index, GAUSSIAN)
    passed = 0
    for bit in range(8 * len(data)):
        bad = bytearray(data)
        bad[bit // 8] ^= 1 << bit % 8
        try:
            rans.decode(bytes(bad), index, GAUSSIAN)
            passed += 1
        except BitstreamError:
            pass
    assert passed == 0


@pytest.mark.parametrize("data", [b"\0", b"\0\0", bytes(4), bytes(5), bytes(6), b"\0\0\xff\xff\xff\xff"])
def test_impossible_beginnings(data: bytes) -> None:
    with pytest.raises(BitstreamError, match=r"bytes|state"):
        rans.Decoder(data, SMALL)


def test_escape_beyond_the_symbols_is_refused() -> None:
    """A table at the end of the range, and an escape of 2^16 - 1 above it: written by hand."""
    writer = rans_reference._Writer()
    writer.push((1 << 15) - 1, 1, 15)
    writer.push(15, 1, 4)
    writer.push(0, 1, 1)
    writer.push(2, 65534, 16)
    state = [writer.state >> 32, writer.state >> 16 & 0xFFFF, writer.state & 0xFFFF]
    data = b"".join(word.to_bytes(2, "little") for word in [*state, *reversed(writer.words)])
    for decode in (rans.decode, rans_reference.decode):
        with pytest.raises(BitstreamError, match="outside"):
            decode(data, np.array([1], np.uint8), EXTREME)


def test_caller_errors_are_value_errors() -> None:
    one = np.zeros(1, np.uint8)
    for symbols, index in (
        (np.array([40000]), one),
        (np.array([40000], np.int32), one),
        (np.array([-32769], np.int32), one),
        (np.array([0]), one + 3),
        (np.array([0]), np.array([-1])),
        (np.array([0]), np.array([70000])),
        (np.array([0]), np.array([0.0])),
        (np.array([0.0]), one),
        (np.array([0, 0]), one),
    ):
        with pytest.raises(ValueError):
            rans.encode(symbols, index, SMALL)
    with pytest.raises(ValueError, match="beyond the 3 tables"):
        rans.decode(b"", one + 3, SMALL)
    with pytest.raises(ValueError, match="bounds"):
        rans.encode_segments(np.zeros(4, np.int32), np.zeros(4, np.uint8), np.array([0, 3, 2, 4]), SMALL)


def test_golden_segment() -> None:
    """The example of docs/bitstream.md, and a hash of a long segment."""
    symbols = np.array([0, 1, 0, -1, 5, 0], np.int32)
    assert rans.encode(symbols, np.zeros(6, np.uint8), SMALL).hex(" ") == "7d 09 79 a2 c8 4e 04 00"
    index = (np.arange(50_000) * 7919 % 16).astype(np.uint8)
    values = ((np.arange(50_000, dtype=np.int64) * 2654435761 >> 7) % 9 - 4).astype(np.int32)
    values[::997] *= 1000
    data = rans.encode(values, index, GAUSSIAN)
    assert hashlib.sha256(data).hexdigest() == GOLDEN_SEGMENT
