"""PSNR and MS-SSIM against their definitions, written a second time, and against figures of another package."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bevstack.codec.metrics import MS_SSIM_WEIGHTS, MetricError, ms_ssim, mse, psnr, to_db


def picture(height: int, width: int) -> NDArray[np.uint8]:
    yy, xx = np.mgrid[:height, :width]
    planes = [128 + 90 * np.sin(xx / 7.0) * np.cos(yy / 11.0), (xx * 3 + yy * 5) % 256, 255.0 * ((xx // 16 + yy // 24) % 2)]
    return np.clip(np.stack(planes, -1), 0, 255).astype(np.uint8)


def noisy(original: NDArray[np.uint8], amplitude: float) -> NDArray[np.uint8]:
    noise = np.random.default_rng(5).normal(0, amplitude, original.shape)
    return np.clip(original.astype(float) + noise, 0, 255).astype(np.uint8)


def slow_ms_ssim(x: NDArray[np.uint8], y: NDArray[np.uint8]) -> float:
    """The definition with a dense 2-D window and explicit sums, sides divisible by 16."""
    window = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    kernel = np.outer(window, window) / window.sum() ** 2
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2

    def smooth(v: NDArray[np.float64]) -> NDArray[np.float64]:
        views = np.lib.stride_tricks.sliding_window_view(v, (11, 11))
        return np.einsum("ijkl,kl->ij", views, kernel)

    values = []
    for channel in range(3):
        a, b = x[..., channel].astype(float), y[..., channel].astype(float)
        product = 1.0
        for scale, weight in enumerate(MS_SSIM_WEIGHTS):
            ma, mb = smooth(a), smooth(b)
            cs = (2 * (smooth(a * b) - ma * mb) + c2) / (smooth(a * a) - ma**2 + smooth(b * b) - mb**2 + c2)
            term = cs * (2 * ma * mb + c1) / (ma**2 + mb**2 + c1) if scale == 4 else cs
            product *= max(float(term.mean()), 0.0) ** weight
            if scale < 4:
                a, b = (v.reshape(v.shape[0] // 2, 2, v.shape[1] // 2, 2).mean((1, 3)) for v in (a, b))
        values.append(product)
    return float(np.mean(values))


def test_psnr_of_a_known_error() -> None:
    a = np.full((8, 8, 3), 100, np.uint8)
    b = a.copy()
    b[0, 0, 0] = 116
    assert mse(a, b) == pytest.approx(256 / 192)
    assert psnr(a, b) == pytest.approx(10 * np.log10(255**2 * 192 / 256))
    assert psnr(a, a) == float("inf")
    assert psnr(np.zeros_like(a), np.full_like(a, 255)) == 0.0  # no wrap-around of uint8


# pytorch-msssim 1.0.0, ms_ssim(..., data_range=255) in float64, on the same two pictures. Its window is rounded to float32.
@pytest.mark.parametrize(
    ("height", "width", "amplitude", "expected"),
    [
        (192, 256, 20, 0.9511751574490943),
        (177, 203, 120, 0.6481971800181726),
        (161, 161, 3, 0.9982124031805482),
        (180, 320, 20, 0.9511453211351782),
    ],
)
def test_ms_ssim_of_another_package(height: int, width: int, amplitude: float, expected: float) -> None:
    a = picture(height, width)
    assert ms_ssim(a, noisy(a, amplitude)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("amplitude", [5, 40])
def test_ms_ssim_is_its_definition(amplitude: float) -> None:
    a = picture(176, 176)
    b = noisy(a, amplitude)
    assert ms_ssim(a, b) == pytest.approx(slow_ms_ssim(a, b), abs=1e-9)


def test_ms_ssim_extremes() -> None:
    a = picture(176, 192)
    assert ms_ssim(a, a) == pytest.approx(1.0)
    assert 0.0 <= ms_ssim(a, 255 - a) < 0.3
    assert to_db(1.0) == float("inf")
    assert to_db(0.99) == pytest.approx(20.0)


@settings(max_examples=5, deadline=None)
@given(st.integers(161, 200), st.integers(161, 200), st.integers(1, 60))
def test_more_noise_is_worse(height: int, width: int, amplitude: int) -> None:
    a = picture(height, width)
    assert ms_ssim(a, noisy(a, amplitude)) > ms_ssim(a, noisy(a, 2 * amplitude))
    assert psnr(a, noisy(a, amplitude)) > psnr(a, noisy(a, 2 * amplitude))


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (np.zeros((176, 177, 3), np.uint8), "176x176 pixels, the decoded picture 177x176"),
        (np.zeros((176, 176, 3), np.float32), "float32"),
        (np.zeros((176, 176), np.uint8), r"\(176, 176\)"),
    ],
)
def test_pictures_that_cannot_be_compared(other: NDArray[np.uint8], said: str) -> None:
    for metric in (psnr, ms_ssim):
        with pytest.raises(MetricError, match=said):
            metric(picture(176, 176), other)


def test_too_small_for_five_scales() -> None:
    a = picture(160, 400)
    with pytest.raises(MetricError, match="161 pixels; this picture has 400x160"):
        ms_ssim(a, a)
