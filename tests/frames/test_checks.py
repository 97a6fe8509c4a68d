"""Calibration checks: each fault has its line, a good rig has none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bevstack.errors import CalibrationError
from bevstack.frames.calibration import intrinsics_from_fov, mounting
from bevstack.frames.checks import check_camera, check_rig, check_stamps, require_rig
from bevstack.geometry import Camera, pose, rotation_rpy

GOOD = Camera("cam_front", 1600, 900, intrinsics_from_fov(1600, 900, 65), mounting([1.7, 0, 1.5], [0, 2, 0]))


def turned(roll: float, pitch: float, yaw: float = 0.0) -> np.ndarray:
    return mounting([1.7, 0, 1.5], [roll, pitch, yaw])


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"K": np.zeros((3, 3))}, "cam_front: K is singular (fx 0, fy 0)"),
    ({"K": np.full((3, 3), np.nan)}, "cam_front: K is singular (fx nan"),
    ({"K": GOOD.K * [[2, 1, 2], [1, 2, 2], [1, 1, 1]]}, "principal point (1599, 899)"),
    (
        {"K": GOOD.K * [[1, 1, 1.2], [1, 1, 4], [1, 1, 1]]},
        "lies at the border or outside of its 1600x900 image: K belongs to another image size",
    ),
    ({"K": GOOD.K * [[3, 1, 1], [1, 1, 1], [1, 1, 1]]}, "differ by more than two"),
    ({"width": 0}, "image size 0x900 is empty"),
    ({"distortion": np.array([np.inf, 0, 0, 0])}, "distortion [inf, 0.0, 0.0, 0.0] is not finite"),
    ({"T_ego_camera": np.diag([2.0, 2.0, 2.0, 1.0])}, "its pose is not rigid (error 3, determinant 8)"),
    ({"T_ego_camera": np.diag([1.0, 1.0, -1.0, 1.0])}, "its pose is not rigid (error 0, determinant -1)"),
    ({"T_ego_camera": np.full((4, 4), np.nan)}, "its pose is not finite"),
    (
        {"T_ego_camera": pose(None, [1.7, 0, 1.5])},
        "looks at the sky (90 degrees up): its transform is probably that of the camera body",
    ),
    ({"T_ego_camera": turned(0, -75)}, "looks at the sky (75 degrees up)"),
    ({"T_ego_camera": turned(0, 80)}, "looks at the ground (80 degrees down)"),
    ({"T_ego_camera": turned(180, 0)}, "is mounted upside down"),
    ({"T_ego_camera": turned(90, 0)}, "is turned on its side"),
    ({"T_ego_camera": mounting([1.7, 0, -0.4])}, "sits 0.40 m below the ground"),
    ({"T_ego_camera": mounting([1700, 0, 1500])}, "translations are in metres"),
]


@pytest.mark.parametrize(("change", "line"), FAULTS, ids=[line[:40] for _, line in FAULTS])
def test_each_fault_has_one_line_that_names_it(change: dict[str, Any], line: str) -> None:
    problems = check_camera(replace(GOOD, **change))
    assert any(line in problem for problem in problems), problems
    assert all("\n" not in problem and problem.startswith("cam_front: ") for problem in problems)


def test_good_cameras_have_no_problem() -> None:
    assert check_camera(GOOD, (1600, 900)) == []
    for yaw in (0, 55, -110, 180):
        for pitch in (-20, 0, 15):
            assert check_camera(replace(GOOD, T_ego_camera=turned(3, pitch, yaw))) == []
    assert check_camera(replace(GOOD, model="fisheye", distortion=np.zeros(4), T_ego_camera=turned(0, 70))) == []


def test_wrong_image_size() -> None:
    (line,) = check_camera(GOOD, (800, 450))
    assert line == (
        "cam_front: sends 800x450 but its calibration is for 1600x900: give the camera_info that belongs to this image size"
    )


def test_the_nuscenes_rig_is_right_and_a_copy_in_it_is_found(shared: Any) -> None:
    from bevstack.frames.source import open_source

    with open_source(shared / "data/nuscenes/scene0061_sample") as source:
        rig = dict(source.cameras)
    assert check_rig(rig) == []
    rig["cam_back"] = replace(rig["cam_front"], name="cam_back")
    assert check_rig(rig) == ["cam_front and cam_back have the same pose and K: one calibration was given to two cameras"]
    # A stereo pair with one K in two places is no copy.
    rig["cam_back"] = replace(
        rig["cam_front"], name="cam_back", T_ego_camera=pose(None, [0, 0.1, 0]) @ rig["cam_front"].T_ego_camera
    )
    assert check_rig(rig) == []


def test_unusable_cameras_are_refused_and_odd_ones_reported() -> None:
    with pytest.raises(CalibrationError, match="cam_front: K is singular"):
        require_rig({"cam_front": replace(GOOD, K=np.zeros((3, 3)))})
    with pytest.raises(CalibrationError, match="no cameras"):
        require_rig({})
    upward = replace(GOOD, T_ego_camera=pose(rotation_rpy(0, 0, 0), [0, 0, 1]))
    assert len(require_rig({"cam_front": upward})) == 1


def test_stale_zero_and_future_stamps() -> None:
    now = 100_000_000_000
    stamps = {"a": now - 1_000_000, "b": now - 9_000_000_000, "c": 0, "d": now + 30_000_000_000}
    b, c, d = check_stamps(stamps, now)
    assert b.startswith("b: its newest image is 9.0 s old")
    assert c.startswith("c: its stamps are zero")
    assert d.startswith("d: its newest image is 30.0 s in the future")
