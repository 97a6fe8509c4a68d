"""Tables of the lift: against plain projection, for any rig, lens and motion."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bevstack.bev.config import CONFIGS, FastBEVConfig
from bevstack.bev.preprocess import image_transform
from bevstack.bev.tables import build_table, calibration_id, camera_projection, grid_points, lidar_to_camera, rig_table
from bevstack.errors import CalibrationError
from bevstack.frames.rectify import undistorted
from bevstack.frames.sim.rig import nuscenes_rig
from bevstack.geometry import Camera, pose, rotation_rpy, rotation_z, transform_points

NANO = CONFIGS["fastbev-micro"]


def rig(width: int = 1600) -> list[Camera]:
    return list(nuscenes_rig(width).values())


def slow_table(cameras: list[Camera | None], config: FastBEVConfig, now: np.ndarray, images: list[np.ndarray]) -> np.ndarray:
    """Voxel by camera, through the world and ``Camera.project``: no shared code with the table's builder."""
    world = transform_points(now @ config.ego_from_lidar, grid_points(config.grid))
    rows, columns = config.feature_hw
    table = np.full(config.grid.voxels, config.cells, np.int64)
    order = range(len(cameras)) if config.overlap == "last" else range(len(cameras) - 1, -1, -1)
    for slot in order:
        camera = cameras[slot]
        if camera is None:
            continue
        ego = transform_points(np.linalg.inv(images[slot]), world)
        pixels, depth = camera.project(ego)
        scale = config.image_hw[1] / camera.width
        top = (int(camera.height * scale + 1e-6) - config.image_hw[0]) // 2
        with np.errstate(invalid="ignore"):
            cell = np.rint((pixels * scale - [0, top]) / config.lift_stride)
            seen = (depth > 0) & (cell[:, 0] >= 0) & (cell[:, 0] < columns) & (cell[:, 1] >= 0) & (cell[:, 1] < rows)
        inside = cell[seen].astype(np.int64)
        table[seen] = (slot * rows + inside[:, 1]) * columns + inside[:, 0]
    return table


def mostly_equal(first: np.ndarray, second: np.ndarray, allowed: int = 4) -> bool:
    """Equal but for points on a rounding boundary."""
    return int(np.count_nonzero(first != second)) <= allowed


@settings(max_examples=12, deadline=None)
@given(
    overlap=st.sampled_from(["last", "first"]),
    yaw=st.floats(-3, 3),
    step=st.tuples(st.floats(-8, 8), st.floats(-3, 3), st.floats(-0.3, 0.3)),
    missing=st.sets(st.integers(0, 5), max_size=5),
)
def test_table_equals_projection_through_the_world(
    overlap: str, yaw: float, step: tuple[float, float, float], missing: set[int]
) -> None:
    config = replace(NANO, overlap=overlap)
    now = pose(rotation_z(yaw), [100.0, -40.0, 1.0])
    past = now @ pose(rotation_z(0.1), step)
    cameras = [None if i in missing else c for i, c in enumerate(rig())]
    images = [past @ pose(None, [0.05 * i, 0, 0]) for i in range(6)]
    table = rig_table(cameras, config, T_world_ego_now=now, T_world_ego_images=images)
    assert mostly_equal(table, slow_table(cameras, config, now, images))


def test_no_motion_is_the_static_table_wherever_the_vehicle_is() -> None:
    here = pose(rotation_z(1.0), [500.0, 300.0, 0.0])
    moving = rig_table(rig(), NANO, T_world_ego_now=here, T_world_ego_images=[here] * 6)
    assert mostly_equal(moving, rig_table(rig(), NANO), 30)


def test_a_missing_camera_is_never_referenced() -> None:
    cameras: list[Camera | None] = list(rig())
    cameras[3] = None
    table = rig_table(cameras, NANO)
    per_camera = NANO.feature_hw[0] * NANO.feature_hw[1]
    owners = set((table[table < NANO.cells] // per_camera).tolist())
    assert owners == {0, 1, 2, 4, 5}
    assert set(rig_table(rig()[:2], NANO).tolist()) <= {*range(2 * per_camera), NANO.cells}


def test_other_image_sizes_of_the_same_lens_give_the_same_table() -> None:
    assert mostly_equal(rig_table(rig(800), NANO), rig_table(rig(1600), NANO), 10)


def test_taller_and_flatter_cameras_see_the_same_directions() -> None:
    camera = rig()[0]
    tall = replace(
        camera, height=1200, K=np.array([[1, 0, 0], [0, 1, 150.0], [0, 0, 1]]) @ camera.K
    )  # 150 rows more above, below
    assert mostly_equal(rig_table([tall], NANO), rig_table([camera], NANO), 10)
    flat = camera.cropped(0, 250, 1600, 400)  # flatter than the input: black rows are added
    assert image_transform(1600, 400, NANO).top < 0
    seen = rig_table([flat], NANO)
    assert np.count_nonzero(seen != NANO.cells) > 1000
    full = rig_table([camera], NANO)
    both = (seen != NANO.cells) & (full != NANO.cells)
    assert mostly_equal(seen[both] % NANO.feature_hw[1], full[both] % NANO.feature_hw[1], 10)


@pytest.mark.parametrize(
    ("model", "coefficients"), [("pinhole", [-0.32, 0.12, 0.001, -0.0005, -0.02]), ("fisheye", [0.05, -0.01, 0.002, 0.0])]
)
@pytest.mark.parametrize("overlap", ["last", "first"])
def test_distorted_lenses_are_projected_with_their_distortion(model: str, coefficients: list[float], overlap: str) -> None:
    config = replace(NANO, overlap=overlap)
    cameras: list[Camera] = rig()
    bent = [replace(c, model=model, distortion=np.asarray(coefficients)) if i % 2 else c for i, c in enumerate(cameras)]
    table = rig_table(bent, config, rectified=False)
    plain = rig_table(cameras, config)
    assert np.mean(table != plain) > 0.05
    if model == "fisheye":  # no polynomial folds back: Camera.project is right everywhere ahead
        assert mostly_equal(table, slow_table(list(bent), config, np.eye(4), [np.eye(4)] * 6))
    # The same lenses with rectified images are ideal ones again.
    assert np.array_equal(rig_table([undistorted(c) for c in bent], config, rectified=True), plain)


def test_a_lens_polynomial_that_folds_back_does_not_see_behind_itself() -> None:
    """With strong barrel distortion, r (1 + k1 r^2) falls again at the side: those points must not land in the image."""
    camera = replace(rig()[0], distortion=np.array([-0.4, 0.0, 0.0, 0.0]))
    table = rig_table([camera], NANO, rectified=False)
    points = transform_points(lidar_to_camera(camera, NANO), grid_points(NANO.grid))
    seen = table != NANO.cells
    tangent = np.hypot(points[seen, 0], points[seen, 1]) / points[seen, 2]
    assert tangent.max() < 1.0


def test_grid_starts_on_the_lower_corner() -> None:
    points = grid_points(CONFIGS["fastbev-m0"].grid)
    np.testing.assert_allclose(points[0], [-50, -50, -4.0])
    np.testing.assert_allclose(points[-1], [49.5, 49.5, 0.5])
    np.testing.assert_allclose(points[1] - points[0], [0, 0, 1.5])


def test_half_cells_round_to_even() -> None:
    """A projection that puts voxels exactly on u = 0.5, 1.5, 2.5: rounds to 0, 2, 2."""
    grid = replace(NANO.grid, n=(6, 1, 1), size=(1.0, 1.0, 1.0), center=(3.0, 0.5, 0.5))
    projection = np.array([[[1, 0, 0, 0.5], [0, 0, 0, 0], [0, 0, 0, 1.0]]], dtype=float)
    table = build_table(projection, grid, (1, 5))
    assert table.tolist() == [0, 2, 2, 4, 4, 5]  # u = 5.5 is outside: sentinel
    assert build_table(projection * [[[-1], [1], [1]]], grid, (1, 5))[0] == 0  # u = -0.5 rounds to -0, which is inside


def test_points_behind_or_on_the_camera_are_not_seen() -> None:
    grid = replace(NANO.grid, n=(4, 1, 1), size=(1.0, 1.0, 1.0), center=(1.0, 0.5, 0.5))  # x = -1, 0, 1, 2
    projection = np.array([[[0, 0, 0, 0], [0, 0, 0, 0], [1.0, 0, 0, 0]]])
    assert build_table(projection, grid, (2, 2)).tolist() == [4, 4, 0, 0]


def test_bad_values_are_refused() -> None:
    bad = np.full((6, 3, 4), np.nan)
    with pytest.raises(CalibrationError, match="not finite"):
        build_table(bad, NANO.grid, NANO.feature_hw)
    with pytest.raises(CalibrationError, match="laid out for 6"):
        rig_table(rig() + rig(), NANO)
    with pytest.raises(ValueError, match="table has shape"):
        build_table(np.zeros((6, 3, 4)), NANO.grid, NANO.feature_hw, out=np.zeros(5, np.int32))


def test_own_augmentation_matrices_enter_the_projection() -> None:
    camera = rig()[0]
    shift = np.array([[1, 0, 8.0], [0, 1, 0], [0, 0, 1]]) @ image_transform(1600, 900, NANO).matrix
    moved = rig_table([camera], NANO, image_matrices=[shift])
    plain = rig_table([camera], NANO)
    both = (moved != NANO.cells) & (plain != NANO.cells)
    assert set((moved[both] - plain[both]).tolist()) == {2}  # 8 pixels are two cells
    p = camera_projection(camera, shift, 4, lidar_to_camera(camera, NANO))
    assert p.shape == (3, 4)


def test_calibration_id_follows_every_number() -> None:
    cameras = rig()
    seen = {calibration_id(cameras), calibration_id(cameras, rectified=False), calibration_id([None, *cameras[1:]])}
    tilted = replace(cameras[0], T_ego_camera=cameras[0].T_ego_camera @ pose(rotation_rpy(0, 1e-4, 0)))
    seen |= {calibration_id([tilted, *cameras[1:]]), calibration_id([replace(cameras[0], width=1601), *cameras[1:]])}
    seen.add(calibration_id([replace(cameras[0], distortion=np.array([1e-6])), *cameras[1:]]))
    assert len(seen) == 6
    assert calibration_id(rig()) == calibration_id(cameras)
