"""The container: round trips, the second decoder, limits, damage, lost bytes, golden streams, 100,000 bad streams."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bevstack.codec import latents, rans
from bevstack.codec.bitstream import Capture, Header, Limits, Stream, quality_shape, read, read_layout, write
from bevstack.codec.crc import crc32c
from bevstack.codec.tables import CdfTables, scale_levels
from bevstack.errors import BitstreamError

from . import independent_decoder
from .corruption import corrupt

FAMILY = CdfTables.gaussian(scale_levels(16, "0.11", "20"), skip_below=3)
PLAIN_TABLES = [([int(v) for v in FAMILY.row(t)], int(FAMILY.offsets[t])) for t in range(len(FAMILY))]
CHANNELS, HYPER = 6, 4
GOLDEN = Path(__file__).parent / "golden_streams.json"


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), strategy)


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    width, height = draw(st.integers(1, 700)), draw(st.integers(1, 700))
    cell = draw(st.integers(3, 12))
    shape = quality_shape(width, height, cell)
    quality = None
    if draw(st.booleans()):
        rng = np.random.default_rng(draw(st.integers(0, 99)))
        quality = np.kron(rng.integers(-128, 128, (-(-shape[0] // 4), -(-shape[1] // 4))), np.ones((4, 4), int))
        quality = quality[: shape[0], : shape[1]].astype(np.int8)
    header = Header(
        width,
        height,
        draw(st.binary(min_size=8, max_size=8)),
        draw(st.integers(0, 65535)),
        draw(maybe(st.integers(0, 2**32 - 1))),
        draw(maybe(st.builds(Capture, st.integers(0, 255), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)))),
        draw(st.integers(0, 12)),
        draw(maybe(st.lists(st.booleans(), min_size=1, max_size=50).map(lambda bits: np.array(bits)))),
        quality,
        cell if quality is not None else 6,
        draw(maybe(st.integers(0, 2**32 - 1))),
        draw(maybe(st.integers(0, 255))),
        draw(st.dictionaries(st.integers(0, 255), st.binary(max_size=200), max_size=3)),
    )
    segment = st.binary(max_size=30)
    hyper = draw(st.lists(segment, max_size=3))
    layers = [[draw(segment) for _ in range(len(header.grid))] for _ in range(draw(st.integers(1, 3)))]
    return Stream(header, list(hyper), [list(layer) for layer in layers])


def fields(header: Header) -> dict[str, Any]:
    """A header in the second decoder's words."""
    found: dict[str, Any] = {"model_id": header.model_id, "width": header.width, "height": header.height, "rate": header.rate}
    found["reconstruction_id"] = header.reconstruction_id
    capture = header.capture
    found["capture"] = (capture.camera, capture.frame, capture.timestamp_us) if capture else None
    found["tile_size"] = header.tile_size or None
    found["channels"] = header.channels.tolist() if header.channels is not None else None
    found["quality"] = header.quality.tolist() if header.quality is not None else None
    found["quality_cell"] = header.quality_cell if header.quality is not None else None
    found["reference"], found["skip_below"] = header.reference, header.skip_below
    found["extensions"] = dict(header.extensions) or None
    return {key: value for key, value in found.items() if value is not None}


@given(streams())
@settings(max_examples=60, deadline=None)
def test_round_trip_and_the_second_decoder(stream: Stream) -> None:
    data = write(stream)
    back = read(data + b"tail")
    assert back.size == len(data)
    assert back.damage == ()
    assert (back.hyper, back.layers) == (stream.hyper, stream.layers)
    assert fields(back.header) == fields(stream.header)
    assert write(back) == data
    parsed = independent_decoder.parse(data)
    assert (parsed.pop("hyper"), parsed.pop("layers")) == (stream.hyper, stream.layers)
    assert parsed == fields(stream.header)


def small_stream(seed: int = 0, tile: int = 1, layers: int = 1) -> tuple[Stream, np.ndarray, np.ndarray, np.ndarray]:
    """A stream with real segments: (stream, z, tables, symbols)."""
    rng = np.random.default_rng(seed)
    quality = np.zeros((3, 4), np.int8)
    quality[1:, 1:3] = 7
    mask = np.array([True, True, False, True, True, True])
    header = Header(250, 170, b"testing!", 300, 5, Capture(1, 2, 3), tile, mask, quality, extensions={9: b"abc"})
    shape = (CHANNELS, *header.grid.latent_shape)
    tables = rng.integers(0, 16, shape).astype(np.uint8)
    symbols = np.where((tables < 3) | ~mask[:, None, None], 0, np.rint(rng.normal(size=shape) * 3)).astype(np.int32)
    z = rng.integers(-4, 5, (HYPER, 3, 4)).astype(np.int32)
    hyper = rans.encode(z, np.full(z.shape, 11), FAMILY)
    segments = latents.encode_latent(symbols, tables, header.grid, FAMILY, mask, layers=layers)
    return Stream(header, [hyper], [list(layer) for layer in segments]), z, tables, symbols


def decode_all(data: bytes, tables: np.ndarray, limits: Limits | None = None) -> tuple[np.ndarray, np.ndarray, int]:
    """What a codec does with a frame: z, symbols, number of damaged segments. The tables stand for the scale net's answer."""
    stream = read(data, limits)
    grid = stream.header.grid
    if len(stream.hyper) != 1 or stream.hyper[0] is None or len(stream.layers) > 2:
        raise BitstreamError("no hyper latent, or not this model's layers")
    a, b = (-(-side // 4) for side in grid.latent_shape)
    z = rans.decode(stream.hyper[0], np.full(HYPER * a * b, 11, np.uint8), FAMILY)
    mask = stream.header.channels
    if mask is not None and len(mask) != CHANNELS:
        raise BitstreamError("not this model's channels")
    h, w = grid.latent_shape
    if (h, w) != tables.shape[1:]:
        tables = np.resize(tables, (CHANNELS, h, w))
    symbols, problems = latents.decode_latent(stream.layers, tables, grid, FAMILY, mask)
    return z, symbols, sum(p is not None for layer in problems for p in layer)


def test_the_second_decoder_reads_everything() -> None:
    stream, z, tables, symbols = small_stream()
    frame = independent_decoder.parse(write(stream))
    assert independent_decoder.decode_segment(frame["hyper"][0], [11] * z.size, PLAIN_TABLES, 3) == z.reshape(-1).tolist()
    channels = [k for k, coded in enumerate(frame["channels"]) if coded]
    found = np.zeros_like(symbols)
    for window, segment in zip(independent_decoder.tile_windows(frame), frame["layers"][0], strict=True):
        positions = [p for parity in (0, 1) for p in independent_decoder.tile_positions(window, channels, parity)]
        for p, s in zip(
            positions, independent_decoder.decode_segment(segment, [tables[p] for p in positions], PLAIN_TABLES, 3)
        ):
            found[p] = s
    assert np.array_equal(found, symbols)


def test_overhead_of_a_plain_frame() -> None:
    """One tile: 39 bytes beside the coded segments."""
    assert len(write(Stream(Header(768, 512, bytes(8)), [bytes(100)], [[bytes(100)]]))) == 239


def test_damaged_segments_are_named_and_the_others_kept() -> None:
    stream, _, tables, symbols = small_stream()
    data = bytearray(write(stream))
    layout = read_layout(bytes(data))
    offsets = layout.start + np.cumsum([0] + [entry.length for entry in layout.entries])
    data[offsets[4] + 2] ^= 0x10
    back = read(bytes(data[: offsets[-1] - 3]))
    assert [(d.layer, d.index) for d in back.damage] == [(0, 3), (0, 11)]
    assert "check sum" in str(back.damage[0])
    assert "tile 11, layer 0: cut off" in str(back.damage[1])
    decoded, problems = latents.decode_latent(back.layers, tables, back.header.grid, FAMILY, back.header.channels)
    for tile, (y0, y1, x0, x1) in enumerate(back.header.grid.windows()):
        wanted = 0 if tile in (3, 11) else symbols[:, y0:y1, x0:x1]
        assert (decoded[:, y0:y1, x0:x1] == wanted).all()
    assert sum(p is not None for p in problems[0]) == 2
    data[layout.start] ^= 1
    lost = read(bytes(data))
    assert lost.hyper == [None]
    assert "hyper segment 0: check sum" in str(lost.damage[0])


@pytest.mark.parametrize("change", ["lost", "added"])
def test_segments_are_found_after_lost_or_added_bytes(change: str) -> None:
    stream, *_ = small_stream()
    data = write(stream)
    layout = read_layout(data)
    offsets = layout.start + np.cumsum([0] + [entry.length for entry in layout.entries])
    at = int(offsets[3]) + 2
    bad = data[:at] + data[at + 5 :] if change == "lost" else data[:at] + b"12345" + data[at:]
    back = read(bad)
    assert [(d.layer, d.index) for d in back.damage] == [(0, 2)]
    assert back.layers[0][3:] == stream.layers[0][3:]
    assert len(read(bad, Limits(search=0)).damage) == 10


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(bytes=100), "limit is 100"),
        (Limits(width=249), "250 x 170 pixels"),
        (Limits(height=169), "250 x 170 pixels"),
        (Limits(pixels=250 * 170 - 1), "250 x 170 pixels"),
        (Limits(segments=12), "13 segments"),
        (Limits(channels=5), "mask of 6 channels"),
        (Limits(quality_cells=11), "12 cells"),
    ],
)
def test_limits(limits: Limits, message: str) -> None:
    data = write(small_stream()[0])
    with pytest.raises(BitstreamError, match=message):
        read(data, limits)


def patched(data: bytes, offset: int, value: bytes) -> bytes:
    """Other header bytes under a valid check sum: an attacker knows how to compute one."""
    end = int.from_bytes(data[5:7], "little")
    head = bytearray(data[: end - 4])
    head[offset : offset + len(value)] = value
    return bytes(head) + crc32c(head).to_bytes(4, "little") + data[end:]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "too few"),
        (b"VTC1" + bytes(50), "version 0"),
        (b"JPEG" + bytes(50), "begins with"),
        (lambda d: d[:20], "too few"),
        (lambda d: d[:60], "does not fit 60"),
        (lambda d: d[:40] + b"\xff" + d[41:], "header is damaged"),
        (lambda d: patched(d, 7, b"\xff\xff"), "flags"),
        (lambda d: patched(d, 17, b"\0\0"), "0 x 170"),
        (lambda d: patched(d, 17, b"\xff\xff\xff\xff"), "65535 x 65535"),
        (lambda d: patched(d, 5, b"\x1a\0")[:26] + d[26:], "header of 26"),
        (lambda d: patched(d, 7, b"\0\0"), "ends where|left over|segments"),
        (lambda d: patched(d, 40, b"\0"), "tile size of 0"),
    ],
)
def test_bad_headers(data: Any, message: str) -> None:
    good = write(small_stream()[0])
    with pytest.raises(BitstreamError, match=message):
        read(data if isinstance(data, bytes) else data(good))


def test_huge_claims_allocate_nothing() -> None:
    """A header of a few bytes that promises 2^28 bytes of segments."""
    body = b"\x00\x01" + b"\xff\xff\xff\x7f" + bytes(4)
    head = b"VTC1\x01" + (23 + len(body) + 4).to_bytes(2, "little") + bytes(2) + bytes(8) + b"\x10\0\x10\0\0\0" + body
    with pytest.raises(BitstreamError, match="segments of 268435455 bytes"):
        read(head + crc32c(head).to_bytes(4, "little"))


@pytest.mark.parametrize(
    "change",
    [
        {"width": 0},
        {"height": 65536},
        {"model_id": b"short"},
        {"rate": 70000},
        {"reconstruction_id": -1},
        {"capture": Capture(256, 0, 0)},
        {"tile_size": 256},
        {"quality": np.zeros((2, 2), np.int8)},
        {"extensions": {300: b""}},
        {"extensions": {1: bytes(70000)}},
        {"tile_size": 2},
    ],
)
def test_what_does_not_fit_is_not_written(change: dict[str, Any]) -> None:
    given_fields = {"width": 250, "height": 170, "model_id": b"12345678"} | change
    with pytest.raises(ValueError):
        write(Stream(Header(**given_fields), [b"z"], [[b"y"]]))


def test_a_missing_segment_is_not_written() -> None:
    with pytest.raises(ValueError, match="missing"):
        write(Stream(Header(25, 17, b"12345678"), [None], [[b"y"]]))
    with pytest.raises(ValueError, match="layers"):
        write(Stream(Header(25, 17, b"12345678"), [], []))


def golden_streams() -> dict[str, bytes]:
    """Streams that must never change: every other byte order, table or rule would."""
    everything = small_stream(seed=3)[0]
    plain = Stream(Header(33, 17, b"golden01", 1234), [b"\x01\x02"], [[b""]])
    layered = small_stream(seed=4, tile=0, layers=2)[0]
    return {"everything": write(everything), "plain": write(plain), "layered": write(layered)}


def test_golden_streams() -> None:
    stored = json.loads(GOLDEN.read_text())
    made = {name: data.hex() for name, data in golden_streams().items()}
    assert made == stored["streams"]
    for name, data in golden_streams().items():
        parsed = independent_decoder.parse(data)
        assert parsed["width"] == stored["contents"][name]["width"]
        assert [s.hex() for layer in parsed["layers"] for s in layer] == stored["contents"][name]["segments"]


# Fuzzing: damage of every kind, also under valid check sums, must end in a result or in BitstreamError.


def fuzz(count: int, seed: int) -> dict[str, int]:
    limits = Limits(pixels=1 << 18, bytes=1 << 20)
    cases = [small_stream(seed=k, tile=k % 3, layers=1 + k % 2) for k in range(6)]
    originals = [(write(stream), tables) for stream, _, tables, _ in cases]
    rng = np.random.default_rng(seed)
    counts = {"rejected": 0, "damaged": 0, "whole": 0}
    for _ in range(count):
        data, tables = originals[int(rng.integers(0, len(originals)))]
        bad = corrupt(data, rng)
        try:
            z, found, damaged = decode_all(bad, tables, limits)
        except BitstreamError:
            counts["rejected"] += 1
            continue
        assert found.size <= CHANNELS * limits.pixels
        assert np.abs(z).max(initial=0) <= 1 << 15
        counts["damaged" if damaged else "whole"] += 1
    return counts


def test_bad_bytes_end_in_a_result_or_an_error() -> None:
    counts = fuzz(1500, seed=1)
    assert min(counts.values()) > 20, counts


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_hundred_thousand_bad_streams() -> None:
    fuzz(500, seed=0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    counts = fuzz(100_000, seed=2)
    assert sum(counts.values()) == 100_000
    assert min(counts.values()) > 1000, counts
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes
