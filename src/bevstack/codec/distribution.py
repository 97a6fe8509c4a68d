"""From table index to bits, differentiably: what training sees of the entropy coder."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .config import DistributionConfig

_FLOOR = 1e-9


def log_step(config: DistributionConfig) -> float:
    """Logarithm of the ratio of neighbouring scales."""
    return math.log(float(config.highest) / float(config.lowest)) / (config.count - 1)


def scale_of_index(index: Tensor, config: DistributionConfig) -> Tensor:
    """Standard deviation of the table at ``index``; differentiable in it."""
    return torch.exp(index * log_step(config) + math.log(float(config.lowest)))


def gaussian_bits(value: Tensor, scale: Tensor) -> Tensor:
    """-log2 of the mass of [value - 1/2, value + 1/2] under a zero-mean Gaussian, elementwise.

    Beyond 5.5 standard deviations, where the coder would write an escape, the cost grows linearly so that gradients do not die.
    """
    size = value.abs()
    unit = scale * math.sqrt(2.0)
    mass = 0.5 * (torch.erfc((size - 0.5) / unit) - torch.erfc((size + 0.5) / unit))
    return -torch.log2(mass.clamp(min=_FLOOR)) + 0.5 * ((size - 0.5) / scale - 5.5).clamp(min=0.0)
