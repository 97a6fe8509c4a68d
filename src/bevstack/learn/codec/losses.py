"""MS-SSIM as a differentiable loss (Wang, Simoncelli, Bovik 2003), for crops of at least 176 pixels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from bevstack.errors import BevstackError

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WINDOW, SIGMA = 11, 1.5
SMALLEST = (WINDOW - 1) * 2 ** (len(WEIGHTS) - 1) + 1


def _blur(x: Tensor) -> Tensor:
    """Separable Gaussian window, no padding."""
    channels = x.shape[1]
    taps = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    kernel = torch.exp(-taps.square() / (2 * SIGMA**2))
    kernel = (kernel / kernel.sum()).expand(channels, 1, WINDOW)
    x = F.conv2d(x, kernel[..., None], groups=channels)
    return F.conv2d(x, kernel[:, :, None], groups=channels)


def ms_ssim(a: Tensor, b: Tensor, peak: float = 255.0) -> Tensor:
    """(N,) MS-SSIM of two (N, C, H, W) batches, mean over channels and positions; 5 scales, K = 0.01 and 0.03.

    Raises:
        BevstackError: pictures too small for five scales.
    """
    if min(a.shape[-2:]) < SMALLEST:
        raise BevstackError(
            f"MS-SSIM needs pictures of at least {SMALLEST} pixels, got {min(a.shape[-2:])}: use a larger --crop"
        )
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    result = torch.ones(a.shape[0], dtype=a.dtype, device=a.device)
    for scale, weight in enumerate(WEIGHTS):
        if scale:
            odd = (a.shape[-2] % 2, a.shape[-1] % 2)
            a, b = (F.avg_pool2d(x, 2, padding=odd) for x in (a, b))
        mean_a, mean_b = _blur(a), _blur(b)
        var_a, var_b = _blur(a * a) - mean_a.square(), _blur(b * b) - mean_b.square()
        cov = _blur(a * b) - mean_a * mean_b
        contrast = (2 * cov + c2) / (var_a + var_b + c2)
        if scale == len(WEIGHTS) - 1:
            contrast = contrast * (2 * mean_a * mean_b + c1) / (mean_a.square() + mean_b.square() + c1)
        # Negative structure has no real power: count it as none.
        result = result * contrast.mean((1, 2, 3)).clamp(min=1e-6) ** weight
    return result
