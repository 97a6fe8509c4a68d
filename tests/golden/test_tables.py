"""Table of the lift against the published one (golden README 5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bevstack.bev.config import CONFIGS, VoxelGrid
from bevstack.bev.gather import Gather
from bevstack.bev.preprocess import image_transform
from bevstack.bev.tables import build_table, rig_table
from bevstack.geometry import Camera

Arrays = Mapping[str, NDArray[Any]]
CONFIG = CONFIGS["fastbev-m0"]
FRAMES = [("frame0", 0), ("frame2", 2)]


@pytest.fixture(scope="module")
def lut(golden: Path) -> Arrays:
    return np.load(golden / "m0_lut.npz")


def published(lut: Arrays, frame: str) -> NDArray[np.int64]:
    cam, u, v = (lut[f"{frame}.{k}"].astype(np.int64).reshape(-1) for k in ("cam", "u", "v"))
    rows, columns = CONFIG.feature_hw
    return np.where(cam < 0, CONFIG.cells, (cam * rows + v) * columns + u)


def check(lut: Arrays, frame: str, table: NDArray[np.int32]) -> None:
    """Every voxel that is not within rounding of a boundary reads the published cell."""
    ambiguous = np.unpackbits(lut[f"{frame}.ambiguous"])[: table.size].astype(bool)
    wrong = int(np.count_nonzero((table != published(lut, frame)) & ~ambiguous))
    assert wrong == 0, f"{frame}: {wrong} voxels read another cell"


def given(lut: Arrays, t: int) -> NDArray[np.float64]:
    matrices = lut["lidar2img"].astype(np.float64).reshape(-1, 6, 4, 4)[t, :, :3]
    return matrices / np.array([CONFIG.lift_stride, CONFIG.lift_stride, 1.0])[:, None]


def own_rig(lut: Arrays) -> tuple[list[Camera], Any]:
    """The calibration as our own types: lidar2ego is the rung's T_ego_lidar, cam2ego goes into the cameras."""
    lidar = lut["lidar2ego"].astype(np.float64)
    poses = [lidar @ m for m in lut["cam2lidar"].astype(np.float64)]
    cameras = [Camera(str(n), 1600, 900, k, p) for n, k, p in zip(lut["cameras"], lut["K"], poses)]
    return cameras, replace(CONFIG, T_ego_lidar=tuple(map(tuple, lidar.tolist())))


@pytest.mark.parametrize(("frame", "t"), FRAMES)
def test_table_from_the_published_matrices(lut: Arrays, frame: str, t: int) -> None:
    check(lut, frame, build_table(given(lut, t), CONFIG.grid, CONFIG.feature_hw))


@pytest.mark.parametrize(("frame", "t"), FRAMES)
def test_table_from_cameras_and_ego_poses(lut: Arrays, frame: str, t: int) -> None:
    cameras, config = own_rig(lut)
    now = lut["ego2global_cur"].astype(np.float64)
    past = now if t == 0 else lut["ego2global_prev"][t - 1].astype(np.float64)
    check(lut, frame, rig_table(cameras, config, T_world_ego_now=now, T_world_ego_images=[past] * 6))


def test_image_transform(lut: Arrays) -> None:
    np.testing.assert_allclose(image_transform(1600, 900, CONFIG).matrix, lut["image_A"], atol=1e-12)


@pytest.mark.parametrize(("frame", "t"), FRAMES)
def test_summary(lut: Arrays, frame: str, t: int) -> None:
    _, covered, several, differ, cells = (int(v) for v in lut[f"{frame}.summary"])
    last = build_table(given(lut, t), CONFIG.grid, CONFIG.feature_hw)
    first = build_table(given(lut, t), CONFIG.grid, CONFIG.feature_hw, overlap="first")
    assert abs(int(np.count_nonzero(last != CONFIG.cells)) - covered) <= 5
    assert abs(int(np.count_nonzero(first != last)) - differ) <= 5
    assert len(np.setdiff1d(np.unique(last), [CONFIG.cells])) == pytest.approx(cells, abs=5)
    alone = [
        build_table(np.where(np.arange(6)[:, None, None] == c, given(lut, t), 0), CONFIG.grid, CONFIG.feature_hw)
        for c in range(6)
    ]
    seen = np.sum([table != CONFIG.cells for table in alone], axis=0)
    assert abs(int(np.count_nonzero(seen >= 2)) - several) <= 5


def test_gather_copies_the_published_cells(lut: Arrays) -> None:
    table = published(lut, "frame0").astype(np.int32)
    features = np.random.default_rng(0).standard_normal((CONFIG.cells, 8)).astype(np.float32)
    volume = Gather(CONFIG.grid.voxels, 1, 8)([features], table[None])[:, 0]
    np.testing.assert_array_equal(volume, np.vstack([features, np.zeros((1, 8), np.float32)])[table])


@pytest.mark.parametrize("what", ["floor", "voxel centres", "first camera wins", "static table for history", "wrong crop"])
def test_a_wrong_table_is_noticed(lut: Arrays, what: str) -> None:
    matrices, grid = given(lut, 2), CONFIG.grid
    overlap: Any = "last"
    if what == "floor":
        matrices = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]]) @ matrices
    elif what == "voxel centres":
        moved = tuple(a + s / 2 for a, s in zip(grid.center, grid.size))
        grid = VoxelGrid(grid.n, grid.size, moved)  # type: ignore[arg-type]
    elif what == "first camera wins":
        overlap = "first"
    elif what == "static table for history":
        matrices = given(lut, 0)
    else:
        matrices = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 1]]) @ matrices
    with pytest.raises(AssertionError, match="another cell"):
        check(lut, "frame2", build_table(matrices, grid, CONFIG.feature_hw, overlap))
