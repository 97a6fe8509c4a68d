"""Augmentation: pictures, tables and boxes move together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from bevstack.bev.config import CONFIGS, VoxelGrid
from bevstack.bev.preprocess import fit, image_transform
from bevstack.bev.tables import grid_points
from bevstack.frames import Frame, FrameSet
from bevstack.frames.sim import nuscenes_rig
from bevstack.geometry import Boxes3D, transform_points
from bevstack.learn.nuscenes.augment import ImageRanges, ViewRanges, draw_image, draw_view, move_boxes
from bevstack.learn.nuscenes.samples import Views, make_sample

CONFIG = replace(CONFIGS["fastbev-micro"], grid=VoxelGrid((40, 40, 2), (2.0, 2.0, 1.5)))
WIDTH, HEIGHT = 800, 450


def coordinates() -> NDArray[np.uint8]:
    """A picture that says in its colours where each pixel lies: red along x, green along y; blue is full."""
    image = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    image[..., 0] = np.linspace(0, 255, WIDTH)[None, :]
    image[..., 1] = np.linspace(0, 255, HEIGHT)[:, None]
    return image


def views() -> Views:
    rig = nuscenes_rig(WIDTH)
    frames = {name: Frame(camera, 0, image=coordinates(), T_world_ego=np.eye(4)) for name, camera in rig.items()}
    boxes = Boxes3D(np.array([[12.0, 3.0, 0.8]]), np.array([[4.5, 1.9, 1.6]]), np.array([0.4]), np.array([[3.0, 1.0]]))
    moved = np.eye(4)
    moved[0, 3] = -4.0  # where the ego was half a second ago
    past = {name: replace(frame, T_world_ego=moved) for name, frame in frames.items()}
    return Views(FrameSet(0, frames, np.eye(4), boxes), [past])


@pytest.mark.parametrize("seed", range(4))
def test_a_voxel_reads_the_pixel_that_its_point_projects_to(seed: int) -> None:
    """Scale, crop, flip and turn of each picture; flips, turn, scale and shift of the view; the ego motion: all at once."""
    given = views()
    sample = make_sample(given, CONFIG, np.random.default_rng(seed))
    view = draw_view(np.random.default_rng(seed))
    points = transform_points(CONFIG.ego_from_lidar @ np.linalg.inv(view), grid_points(CONFIG.grid))
    rows, columns = CONFIG.feature_hw
    assert sample.images.shape == (12, *CONFIG.image_hw, 3)
    checked = 0
    for age, back in enumerate((0.0, 4.0)):
        table = sample.tables[age]
        seen = np.flatnonzero(table < CONFIG.cells)
        camera, cell = np.divmod(table[seen], rows * columns)
        v, u = np.divmod(cell, columns)
        for slot, lens in enumerate(nuscenes_rig(WIDTH).values()):
            mine = camera == slot
            wanted, _ = lens.project(points[seen[mine]] + [back, 0.0, 0.0])
            picture = sample.images[6 * age + slot]
            y, x = np.minimum(4 * v[mine], picture.shape[0] - 1), np.minimum(4 * u[mine], picture.shape[1] - 1)
            colours = picture[y, x].astype(float)
            lit = colours[:, 2] > 250  # not in the black border, nor on its edge
            found = colours[lit, :2] / 255.0 * [WIDTH - 1, HEIGHT - 1]
            # A cell is 4 input pixels, about 10 of the picture; one grey level is 3 of them.
            assert np.abs(found - wanted[lit]).max() < 14.0
            checked += int(lit.sum())
    assert checked > 1500


def test_boxes_move_with_the_view() -> None:
    boxes = Boxes3D(
        np.array([[10.0, -3.0, 1.0], [2.0, 20.0, 0.0]]),
        np.array([[4.5, 1.9, 1.6], [0.8, 0.7, 1.8]]),
        np.array([0.3, -2.0]),
        np.array([[5.0, 1.0], [0.0, -1.0]]),
    )
    for seed in range(6):
        view = draw_view(np.random.default_rng(seed))
        moved = move_boxes(boxes, view)
        for i in range(2):
            wanted = transform_points(view, boxes.corners()[i])
            distance = np.linalg.norm(wanted[:, None] - moved.corners()[i][None], axis=2)
            assert distance.min(0).max() < 1e-9  # the same eight corners; a mirror changes their order
            ahead = boxes.center[i] + np.array([np.cos(boxes.yaw[i]), np.sin(boxes.yaw[i]), 0.0])
            nose = transform_points(view, ahead[None])[0] - moved.center[i]
            assert np.arctan2(nose[1], nose[0]) == pytest.approx(moved.yaw[i])
        np.testing.assert_allclose(moved.velocity, boxes.velocity @ view[:2, :2].T)


def test_draws_stay_in_the_published_ranges_and_use_all_of_them() -> None:
    rng = np.random.default_rng(0)
    config, scales, mirrored, angles = CONFIGS["fastbev-m0"], [], [], []
    for _ in range(300):
        draw = draw_image((1600, 900), config, rng)
        scales.append(draw.resized[0] / 1600)
        mirrored.append(np.linalg.det(draw.warp[:2, :2]) < 0)
        angles.append(np.degrees(np.arctan2(-draw.warp[1, 0], draw.warp[1, 1])))
    assert 0.44 - 0.0605 < min(scales) < 0.39
    assert 0.54 < max(scales) < 0.44 + 0.1105
    assert 0.4 < np.mean(mirrored) < 0.6
    assert 5.0 < np.abs(angles).max() <= 5.4001
    views = np.array([draw_view(rng) for _ in range(300)])
    determinants = np.linalg.det(views[:, :2, :2])
    assert 0.4 < np.mean(determinants < 0) < 0.6  # one flip, not both
    assert 0.95**2 - 1e-9 < np.abs(determinants).min() < np.abs(determinants).max() < 1.05**2 + 1e-9
    assert np.abs(views[:, :3, 3]).mean() == pytest.approx(0.04, abs=0.006)  # of a normal variable with deviation 0.05


def test_without_chance_it_is_the_preprocessing_of_the_vehicle() -> None:
    config = CONFIGS["fastbev-micro"]
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    wanted = np.zeros((*config.image_hw, 3), np.uint8)
    transform = image_transform(WIDTH, HEIGHT, config)
    fit(image, transform, config.resize_filter, wanted)
    draw = draw_image((WIDTH, HEIGHT), config, None)
    np.testing.assert_array_equal(draw.apply(image, config), wanted)
    np.testing.assert_allclose(draw.matrix, transform.matrix)
    assert np.array_equal(draw_view(None), np.eye(4))
    still = ImageRanges(scale=(0, 0), crop=(0, 0), flip=0.0, turn=(0, 0))
    drawn = draw_image((WIDTH, HEIGHT), config, np.random.default_rng(1), still)
    assert np.abs(drawn.apply(image, config).astype(int) - wanted).max() == 0
    assert np.allclose(draw_view(np.random.default_rng(1), ViewRanges(0.0, 0.0, (0, 0), (1, 1), 0.0)), np.eye(4))
