"""The shipped weights on photographs: rate range, targets, regions of interest, golden bitstreams."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import itertools

from bevstack.codec.codec import ImageCodec
from bevstack.learn.codec.crops import read_rgb


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(65025 / np.mean((a.astype(float) - b) ** 2)))


@pytest.fixture(scope="module")
def pictures(shared: Path) -> list[np.ndarray]:
    """320 x 448 parts of photographs that no codec of ours was trained on."""
    files = sorted((shared / "data" / "kodak").glob("*.png"))
    if not files:
        pytest.skip("shared/data/kodak holds no pictures")
    return [np.ascontiguousarray(read_rgb(files[k])[96:416, 64:512]) for k in (2, 7, 18)]


def test_size_targets_are_met_in_three_encodes(nano: ImageCodec, pictures: list[np.ndarray]):
    for picture in pictures:
        low, high = (len(nano.encode(picture, quality=q).data) for q in (5, 90))
        for limit in np.geomspace(low, high, 3).astype(int):
            encoded = nano.encode(picture, max_bytes=int(limit))
            assert encoded.encodes <= 3
            assert 0.98 * limit <= len(encoded.data) <= limit


def test_psnr_targets_are_met_in_three_encodes(nano: ImageCodec, pictures: list[np.ndarray]):
    for picture in pictures:
        low, high = (psnr(nano.decode(nano.encode(picture, quality=q).data).rgb, picture) for q in (5, 90))
        for target in np.linspace(low, high, 3):
            encoded = nano.encode(picture, psnr=float(target))
            assert encoded.encodes <= 3
            assert -0.002 <= psnr(nano.decode(encoded.data).rgb, picture) - target <= 0.102


def test_rate_is_monotone_over_the_range(nano: ImageCodec, pictures: list[np.ndarray]):
    for picture in pictures[:2]:
        job = nano.job(picture)
        bits = [job.try_rate(r).bits for r in np.linspace(0, nano.config.rate.levels - 1, 80)]
        assert all(b > a for a, b in itertools.pairwise(bits))


def test_region_of_interest_gains_two_decibels_at_equal_rate(nano: ImageCodec, shared: Path):
    files = sorted((shared / "data" / "photos" / "driving").glob("gss_*.jpg"))
    if not files:
        pytest.skip("shared/data/photos/driving holds no frames")
    gains = []
    for file in files[:2]:
        picture = np.ascontiguousarray(read_rgb(file)[:640, :960])
        roi = np.ones(picture.shape[:2])
        inside = np.s_[256:448, 384:640]
        roi[inside] = 8.0
        limit = int(0.25 * picture[..., 0].size / 8)
        plain = nano.encode(picture, max_bytes=limit)
        region = nano.encode(picture, max_bytes=limit, roi=roi)
        assert abs(len(region.data) / len(plain.data) - 1) < 0.025
        a, b = (nano.decode(e.data).rgb[inside] for e in (plain, region))
        gains.append(psnr(b, picture[inside]) - psnr(a, picture[inside]))
    assert min(gains) > 2.0
