"""Whole frames under fire: the decoder with its networks, fed with damaged and forged streams."""

from __future__ import annotations

import warnings
from collections import Counter

import numpy as np
import pytest

from bevstack.codec.bitstream import Limits, read_layout
from bevstack.codec.codec import ImageCodec
from bevstack.errors import BitstreamError

from .corruption import corrupt
from .tiny import photograph


def fuzz(codec: ImageCodec, count: int, seed: int) -> Counter[str]:
    rgb = photograph(150, 200)
    roi = np.ones(rgb.shape[:2], np.float32)
    roi[40:90, 30:100] = 8.0
    streams = [codec.encode(rgb, quality=q, tile=t, roi=r).data for q in (5, 60, 95) for t in (0, 64) for r in (None, roi)]
    rng, outcomes = np.random.default_rng(seed), Counter[str]()
    for _ in range(count):
        bad = corrupt(streams[int(rng.integers(0, len(streams)))], rng)
        try:
            shown = codec.decode(bad, Limits(pixels=1 << 18, bytes=1 << 20))
        except BitstreamError:
            outcomes["rejected"] += 1
            continue
        assert shown.rgb.dtype == np.uint8
        assert shown.rgb.shape == (shown.header.height, shown.header.width, 3)
        outcomes["damaged" if shown.damage else "whole"] += 1
    return outcomes


def test_damaged_frames_end_in_a_picture_or_an_error(tiny_codec: ImageCodec) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # numbers that overflow on the way are a defect, too
        outcomes = fuzz(tiny_codec, 120, seed=0)
    assert outcomes["rejected"] > 10
    assert outcomes["damaged"] > 10


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_thousand_damaged_frames(tiny_codec: ImageCodec) -> None:
    """With both quantisers together."""
    assert fuzz(tiny_codec, 5_000, seed=1).total() == 5_000


def test_a_lost_tile_is_concealed_and_named(tiny_codec: ImageCodec) -> None:
    """What is shown in its place is the model's mean: worse than the tile, better than grey."""
    rgb = photograph(128, 192)
    data = tiny_codec.encode(rgb, quality=90, tile=64).data
    layout = read_layout(data)
    lengths = [entry.length for entry in layout.entries]
    at = layout.start + sum(lengths[:3])  # hyper, tile 0, tile 1; then tile 2: top right
    broken = bytearray(data)
    broken[at + lengths[3] // 2] ^= 0x10
    whole, shown = tiny_codec.decode(data), tiny_codec.decode(bytes(broken))
    assert [(d.layer, d.index) for d in shown.damage] == [(0, 2)]
    assert len(shown.report) == 1
    assert "tile 2" in shown.report[0]
    hit = np.s_[:64, 128:]
    far = np.s_[:, :96]
    assert np.array_equal(shown.rgb[far], whole.rgb[far]), "away from the tile nothing changes"

    def error(picture: np.ndarray) -> float:
        return float(np.square(picture[hit].astype(float) - rgb[hit]).mean())

    assert error(whole.rgb) < error(shown.rgb)
    assert error(shown.rgb) < 0.7 * error(np.full_like(rgb, 128))
