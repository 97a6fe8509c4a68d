"""Photographs to train on, drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Smooth shapes with edges and texture."""
    import cv2

    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(4):
        random = np.random.default_rng(seed)
        y, x = np.mgrid[0:160, 0:224]
        picture = np.stack([100 + 70 * np.sin(x / 29 + seed + k) * np.cos(y / 41 - k) for k in range(3)], -1)
        picture[40:90, 60 + 20 * seed : 140] += 60
        picture[:, 112:] += random.normal(0, 12, (160, 112, 3))
        cv2.imwrite(str(folder / f"{seed}.png"), np.clip(picture, 0, 255).astype(np.uint8))
    return folder
