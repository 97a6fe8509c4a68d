"""A rig against the one that was trained with: angles, heights, scales, and what is said about them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bevstack.bev.config import CONFIGS
from bevstack.bev.rig_distance import RigView, camera_view, compare_rigs, rig_view
from bevstack.errors import CalibrationError
from bevstack.frames.sim import nuscenes_rig
from bevstack.geometry import Camera

CONFIG = CONFIGS["fastbev-micro"]
RIG = nuscenes_rig()


@pytest.fixture(scope="module")
def trained() -> RigView:
    return rig_view(RIG, CONFIG)


def said(cameras: dict[str, Camera], trained: RigView) -> dict[str, bool]:
    return {d.text: d.serious for d in compare_rigs(rig_view(cameras, CONFIG), trained)}


def test_published_shares_of_the_grid(trained: RigView) -> None:
    """Brief fast-bev, section 8, for M0's input, which shows the same angles: per camera, all, and twice."""
    m0 = rig_view(RIG, CONFIGS["fastbev-m0"])
    shares = [view.voxels for view in m0.cameras.values()]
    np.testing.assert_allclose(shares, [0.145, 0.179, 0.180, 0.235, 0.173, 0.168], atol=0.001)
    assert m0.covered == pytest.approx(0.9589, abs=5e-4)
    assert m0.overlap == pytest.approx(0.122, abs=1e-3)
    assert trained.covered == pytest.approx(m0.covered, abs=0.02)


def test_the_training_rig_differs_in_nothing(trained: RigView) -> None:
    assert said(RIG, trained) == {}
    assert said({name: camera.resized(800, 450) for name, camera in RIG.items()}, trained) == {}


@settings(max_examples=30, deadline=None)
@given(st.floats(-20, 20), st.floats(-20, 20), st.floats(-170, 170))
def test_angles_are_those_of_the_mounting(roll: float, pitch: float, yaw: float) -> None:
    level = replace(RIG["cam_front"])
    camera = level.turned(yaw=np.radians(yaw))
    ahead = camera.T_ego_camera[:3, 2]
    # Pitch about the camera's own right axis, then roll about its own view axis: what the two words mean for a camera.
    view = camera_view(turn_own(turn_own(camera, 0, -pitch), 2, roll), CONFIG, 0.0)
    assert view.yaw == pytest.approx(np.degrees(np.arctan2(ahead[1], ahead[0])), abs=1e-6)
    assert view.pitch == pytest.approx(pitch, abs=1e-6)
    assert view.roll == pytest.approx(roll, abs=1e-6)


def turn_own(camera: Camera, axis: int, degrees: float) -> Camera:
    """Turned about one of its own axes (0 right, 1 down, 2 ahead)."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = (axis + 1) % 3, (axis + 2) % 3
    R = np.eye(3)
    R[i, i] = R[j, j] = c
    R[i, j], R[j, i] = -s, s
    T = camera.T_ego_camera.copy()
    T[:3, :3] = T[:3, :3] @ R
    return replace(camera, T_ego_camera=T)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.turned(pitch=np.radians(3)), "cam_front: pitch +3.0 degrees, -0.0 in training"),
        (lambda c: c.turned(roll=np.radians(3)), "cam_front: roll +3.0 degrees, +0.0 in training"),
        (lambda c: c.turned(yaw=np.radians(25)), "cam_front looks 25 degrees past cam_front, its nearest in training"),
        (lambda c: c.carried(height=0.6), "cam_front is 2.09 m up, 1.49 m in training"),
        (
            lambda c: replace(c, K=np.diag([1.4, 1.4, 1.0]) @ c.K),
            "cam_front: objects look 1.40 x as large as in cam_front",
        ),
    ],
)
def test_each_kind_of_difference_is_named(change: object, words: str, trained: RigView) -> None:
    found = said({**RIG, "cam_front": change(RIG["cam_front"])}, trained)  # type: ignore[operator]
    match = [text for text in found if text.replace("-0.0", "+0.0") == words.replace("-0.0", "+0.0")]
    assert match, found
    assert found[match[0]], "serious"


def test_missing_cameras_leave_blind_places(trained: RigView) -> None:
    found = said({name: RIG[name] for name in ("cam_front", "cam_front_left", "cam_front_right")}, trained)
    assert any("of the grid is seen, " in text and serious for text, serious in found.items())


def test_rigs_that_cannot_be_looked_at() -> None:
    with pytest.raises(CalibrationError, match="0 cameras; fastbev-micro takes 1 to 6"):
        rig_view({}, CONFIG)
    with pytest.raises(CalibrationError, match="7 cameras"):
        rig_view({**RIG, "seventh": RIG["cam_back"]}, CONFIG)


@settings(max_examples=30, deadline=None)
@given(st.floats(-0.2, 0.2), st.floats(-0.2, 0.2), st.floats(-0.5, 0.5))
def test_a_leaning_body_carries_its_cameras(roll: float, pitch: float, height: float) -> None:
    """All cameras keep their places relative to each other; a camera that is turned keeps its own place."""
    a, b = RIG["cam_front"], RIG["cam_back_left"]
    before = np.linalg.inv(a.T_ego_camera) @ b.T_ego_camera
    after = np.linalg.inv(a.carried(roll, pitch, height).T_ego_camera) @ b.carried(roll, pitch, height).T_ego_camera
    np.testing.assert_allclose(after, before, atol=1e-9)
    np.testing.assert_array_equal(a.turned(roll, pitch).T_ego_camera[:3, 3], a.T_ego_camera[:3, 3])
    nose = a.carried(pitch=abs(pitch)).T_ego_camera[2, 3]
    assert nose <= a.T_ego_camera[2, 3] + 1e-9  # positive pitch lowers what is ahead of the axle
