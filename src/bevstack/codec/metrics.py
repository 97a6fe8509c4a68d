"""How far a decoded picture is from its original: PSNR and MS-SSIM, as published codec results define them."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from bevstack.errors import BevstackError

Image = NDArray[np.uint8]
Plane = NDArray[np.float64]

PEAK = 255.0
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the five scales, finest first (Wang, Simoncelli, Bovik 2003, section 3.2)."""
_TAPS, _SIGMA = 11, 1.5
_C1, _C2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
MS_SSIM_MIN_SIDE = (_TAPS - 1) * 2 ** (len(MS_SSIM_WEIGHTS) - 1) + 1
"""Shortest side, pixels, at which the window still fits into the coarsest scale."""


class MetricError(BevstackError):
    """Two pictures cannot be compared."""


def mse(original: Image, decoded: Image) -> float:
    """Mean squared error over all pixels and channels of two (H, W, 3) uint8 pictures.

    Raises:
        MetricError: other types or different shapes.
    """
    _require_pair(original, decoded)
    difference = original.astype(np.int32) - decoded.astype(np.int32)
    return float(np.mean(np.square(difference), dtype=np.float64))


def psnr(original: Image, decoded: Image) -> float:
    """PSNR-RGB in dB, peak 255, of two (H, W, 3) uint8 pictures; infinite for equal ones.

    A set's PSNR is the mean of its pictures' PSNR, as published Kodak results have it; the PSNR of the mean error is lower.

    Raises:
        MetricError: other types or different shapes.
    """
    error = mse(original, decoded)
    return float("inf") if error == 0.0 else float(10.0 * np.log10(PEAK**2 / error))


def ms_ssim(original: Image, decoded: Image) -> float:
    """Multi-scale SSIM, mean of the three channels of two (H, W, 3) uint8 pictures: 1 for equal ones.

    Five scales with ``MS_SSIM_WEIGHTS``, 11 x 11 Gaussian window of sigma 1.5 without padding, K = 0.01 and 0.03, 2 x 2 means
    between scales (an odd side is padded with one row or column of zeros, as pytorch-msssim does). Negative terms count as 0:
    powers of them are not defined.

    Raises:
        MetricError: other types, different shapes, or a side shorter than ``MS_SSIM_MIN_SIDE``.
    """
    _require_pair(original, decoded)
    if min(original.shape[:2]) < MS_SSIM_MIN_SIDE:
        raise MetricError(
            f"MS-SSIM needs both sides of at least {MS_SSIM_MIN_SIDE} pixels; this picture has "
            f"{original.shape[1]}x{original.shape[0]}"
        )
    x, y = original.astype(np.float64), decoded.astype(np.float64)
    product = np.ones(original.shape[2])
    last = len(MS_SSIM_WEIGHTS) - 1
    for scale, weight in enumerate(MS_SSIM_WEIGHTS):
        whole, contrast = _ssim(x, y)
        product *= np.maximum(whole if scale == last else contrast, 0.0) ** weight
        if scale < last:
            x, y = _half(x), _half(y)
    return float(product.mean())


def to_db(similarity: float) -> float:
    """MS-SSIM in dB, -10 log10(1 - v): the scale on which codecs are compared; infinite for 1."""
    return float("inf") if similarity >= 1.0 else float(-10.0 * np.log10(1.0 - similarity))


def _require_pair(original: Image, decoded: Image) -> None:
    for picture in (original, decoded):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
            raise MetricError(f"pictures are (H, W, 3) uint8; this one is {picture.shape} {picture.dtype}")
    if original.shape != decoded.shape:
        raise MetricError(
            f"the original has {original.shape[1]}x{original.shape[0]} pixels, the decoded picture "
            f"{decoded.shape[1]}x{decoded.shape[0]}: they must be of one size"
        )


def _window() -> Plane:
    offsets = np.arange(_TAPS) - _TAPS // 2
    weights = np.exp(-(offsets**2) / (2 * _SIGMA**2))
    return np.asarray(weights / weights.sum())


def _ssim(x: Plane, y: Plane) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Per channel, (SSIM, contrast-structure term), both averaged over the positions where the window fits."""
    window, edge = _window(), _TAPS // 2

    def smooth(values: Plane) -> Plane:
        full = cv2.sepFilter2D(values, cv2.CV_64F, window, window)
        return np.asarray(full[edge:-edge, edge:-edge])

    mean_x, mean_y = smooth(x), smooth(y)
    xx, yy, xy = smooth(x * x) - mean_x**2, smooth(y * y) - mean_y**2, smooth(x * y) - mean_x * mean_y
    contrast = (2 * xy + _C2) / (xx + yy + _C2)
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    return (luminance * contrast).mean(axis=(0, 1)), contrast.mean(axis=(0, 1))


def _half(values: Plane) -> Plane:
    """Means of 2 x 2 pixels; an odd side first gets one line of zeros in front."""
    height, width = values.shape[:2]
    padded = np.pad(values, ((height % 2, 0), (width % 2, 0), (0, 0)))
    return np.asarray(padded.reshape(padded.shape[0] // 2, 2, padded.shape[1] // 2, 2, -1).mean(axis=(1, 3)))
