"""A decoder written from docs/bitstream.md alone reads our streams to the same symbols, through the integer network too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bevstack.codec.bitstream import read_layout
from bevstack.codec.codec import ImageCodec
from bevstack.codec.weights import find_weights
from bevstack.errors import CheckpointError

from .independent_decoder import Model, Rejected
from .tiny import photograph


@pytest.fixture(scope="module")
def second(tiny_codec: ImageCodec) -> Model:
    return Model(tiny_codec.path)


def test_the_self_test_of_the_weights_file(second: Model) -> None:
    assert second.self_test() == second.meta["self_test"]


@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((64, 64), {"quality": 0}),
        ((1, 1), {"quality": 70}),
        ((70, 150), {"quality": 55}),
        ((200, 90), {"quality": 97, "tile": 64}),
        ((150, 210), {"quality": 30, "tile": 128, "regions": True}),
    ],
)
def test_same_symbols(tiny_codec: ImageCodec, second: Model, size: tuple[int, int], options: dict) -> None:  # type: ignore[type-arg]
    rgb = photograph(*size, seed=3)
    if options.pop("regions", False):
        options["roi"] = np.ones(size, np.float32)
        options["roi"][40:100, 100:180] = 12.0
    data = tiny_codec.encode(rgb, **options).data
    parsed = tiny_codec.parse(data)
    z, symbols = second.symbols(data)
    assert np.array_equal(z, parsed.z)
    assert np.array_equal(symbols, parsed.symbols)
    assert size == (1, 1) or np.abs(symbols).max() > 0


def test_same_symbols_of_a_damaged_stream(tiny_codec: ImageCodec, second: Model) -> None:
    data = bytearray(tiny_codec.encode(photograph(150, 210, seed=1), quality=80, tile=64).data)
    layout = read_layout(bytes(data))
    at = layout.start + sum(entry.length for entry in layout.entries[:3])
    data[at + 2] ^= 4
    parsed = tiny_codec.parse(bytes(data))
    assert len(parsed.damage) == 1
    assert np.array_equal(second.symbols(bytes(data))[1], parsed.symbols)
    data[layout.start] ^= 1
    with pytest.raises(Rejected):
        second.symbols(bytes(data))


def test_the_shipped_codec() -> None:
    try:
        path: Path = find_weights("codec-nano")
    except CheckpointError as error:
        pytest.skip(str(error))
    codec, second = ImageCodec(path, "onnx"), Model(path)
    assert second.self_test() == second.meta["self_test"]
    data = codec.encode(photograph(100, 130), quality=40).data
    z, symbols = second.symbols(data)
    parsed = codec.parse(data)
    assert np.array_equal(z, parsed.z)
    assert np.array_equal(symbols, parsed.symbols)
