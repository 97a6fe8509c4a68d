"""One place where randomness is seeded."""

from __future__ import annotations

import random

import numpy as np


def seed_everything(seed: int) -> np.random.Generator:
    """Seeds Python, NumPy's legacy generator and torch; returns a NumPy generator of the same seed for new code."""
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  libraries still draw from the legacy generator
    torch.manual_seed(seed)
    return np.random.default_rng(seed)
