"""Resize and crop rule."""

from __future__ import annotations

import numpy as np
import pytest

from bevstack.bev.config import CONFIGS
from bevstack.bev.preprocess import fit, image_transform, normalise


@pytest.mark.parametrize(
    ("rung", "resized", "top"),
    [
        ("fastbev-m0", (704, 396), 70),
        ("fastbev-m4", (880, 495), 87),
        ("fastbev-m5", (1408, 792), 140),
        ("fastbev-micro", (352, 198), 35),
        ("fastbev-nano", (528, 297), 52),
    ],
)
def test_published_crops(rung: str, resized: tuple[int, int], top: int) -> None:
    transform = image_transform(1600, 900, CONFIGS[rung])
    assert (transform.resized, transform.top) == (resized, top)


@pytest.mark.parametrize(
    ("width", "height"), [(1600, 900), (1280, 720), (960, 540), (1920, 1200), (640, 480), (1600, 400), (352, 128)]
)
def test_any_camera_size_fills_the_input(width: int, height: int) -> None:
    config = CONFIGS["fastbev-micro"]
    transform = image_transform(width, height, config)
    assert transform.resized[0] == config.image_hw[1]
    image = np.full((height, width, 3), 200, np.uint8)
    out = np.full((*config.image_hw, 3), 7, np.uint8)
    fit(image, transform, config.resize_filter, out)
    covered = out[..., 0] == 200
    rows = min(transform.resized[1], config.image_hw[0])
    assert covered.sum() == rows * config.image_hw[1]
    assert not out[~covered].any()


def test_matrix_maps_pixels_to_the_input() -> None:
    config = CONFIGS["fastbev-m0"]
    point = image_transform(1600, 900, config).matrix @ [800.0, 450.0, 1.0]
    np.testing.assert_allclose(point, [352.0, 198.0 - 70.0, 1.0])


def test_an_image_decoded_smaller_lands_in_the_same_place() -> None:
    config = CONFIGS["fastbev-micro"]
    image = np.zeros((900, 1600, 3), np.uint8)
    image[400:500, 700:900] = 255
    transform = image_transform(1600, 900, config)
    full, half = (np.zeros((*config.image_hw, 3), np.uint8) for _ in range(2))
    fit(image, transform, "area", full)
    fit(np.ascontiguousarray(image[::2, ::2]), transform, "area", half)
    assert np.mean(np.abs(full.astype(int) - half.astype(int)) > 40) < 0.002


def test_normalise() -> None:
    config = CONFIGS["fastbev-micro"]
    image = np.zeros((1, 2, 2, 3), np.uint8)
    image[..., 0] = 255
    planes = normalise(image, config)
    assert planes.shape == (1, 3, 2, 2)
    np.testing.assert_allclose(planes[0, :, 0, 0], [(255 - 123.675) / 58.395, -116.28 / 57.12, -103.53 / 57.375], rtol=1e-5)
