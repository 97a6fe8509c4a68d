"""Rig files and camera_info YAML: round trips, short forms, plain errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bevstack.errors import CalibrationError
from bevstack.frames.calibration import (
    camera_from_info,
    guess_camera,
    intrinsics_from_fov,
    lens,
    load_camera_info,
    load_rig,
    mounting,
    rig_order,
    save_camera_info,
    save_rig,
)
from bevstack.frames.checks import check_camera
from bevstack.geometry import Camera, pose, rotation_rpy

floats = st.floats(-3, 3)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(floats, min_size=6, max_size=6),
    st.sampled_from([0, 4, 5, 8, "fisheye"]),
    st.lists(st.floats(0.001, 0.3), min_size=8, max_size=8),
)
def test_rig_files_round_trip(tmp_path: Path, numbers: list[float], kind: int | str, d: list[float]) -> None:
    distortion = np.array(d[:4] if kind == "fisheye" else d[: int(kind)])
    T = pose(rotation_rpy(*numbers[:3]), numbers[3:])
    K = intrinsics_from_fov(1280, 720, 80)
    camera = Camera("eye", 1280, 720, K, T, distortion, "fisheye" if kind == "fisheye" else "pinhole")
    save_rig([camera], tmp_path / "rig.yaml", {"eye": "/eye/image_raw"})
    entry = load_rig(tmp_path / "rig.yaml")["eye"]
    assert entry.topic == "/eye/image_raw"
    back = entry.camera()
    assert back is not None
    assert (back.name, back.width, back.height, back.model) == ("eye", 1280, 720, camera.model)
    assert np.allclose(back.K, camera.K, atol=1e-9)
    assert np.allclose(back.T_ego_camera, T, atol=1e-9)
    assert np.allclose(back.distortion, distortion)


@pytest.mark.parametrize("kind", ["plumb_bob", "rational_polynomial", "equidistant"])
def test_camera_info_yaml_round_trips(tmp_path: Path, kind: str) -> None:
    count = {"plumb_bob": 5, "rational_polynomial": 8, "equidistant": 4}[kind]
    model, d = lens(kind, np.linspace(0.1, 0.2, count))
    camera = Camera("eye", 640, 480, intrinsics_from_fov(640, 480, 60), np.eye(4), d, model)
    save_camera_info(camera, tmp_path / "eye.yaml")
    assert yaml.safe_load((tmp_path / "eye.yaml").read_text())["distortion_model"] == kind
    back = load_camera_info(f"file://{tmp_path / 'eye.yaml'}", T_ego_camera=mounting([1, 2, 3]))
    assert np.allclose(back.K, camera.K)
    assert np.allclose(back.distortion, d)
    assert back.model == model
    assert back.T_ego_camera[2, 3] == 3


def test_a_rig_file_may_point_to_a_camera_info_file_and_list_cameras(tmp_path: Path) -> None:
    save_camera_info(
        Camera("x", 640, 480, intrinsics_from_fov(640, 480, 60), np.eye(4), np.array([0.1, 0, 0, 0])), tmp_path / "eye.yaml"
    )
    (tmp_path / "rig.yaml").write_text(
        "cameras:\n- {name: eye, camera_info_url: eye.yaml, xyz: [0, 0, 1]}\n- {name: other, topic: /b}\n"
    )
    rig = load_rig(tmp_path / "rig.yaml")
    eye = rig["eye"].camera()
    assert eye is not None
    assert eye.width == 640
    assert eye.distortion[0] == 0.1
    assert rig["other"].camera() is None


def test_the_rig_file_of_the_documentation_is_right(tmp_path: Path) -> None:
    page = Path(__file__).resolve().parents[2] / "docs/sources.md"
    text = page.read_text().split("```yaml\n")[1].split("```")[0]
    (tmp_path / "rig.yaml").write_text(text)
    save_camera_info(Camera("b", 640, 480, intrinsics_from_fov(640, 480, 60), np.eye(4)), tmp_path / "back.yaml")
    rig = load_rig(tmp_path / "rig.yaml")
    looks = {"cam_front": [1, 0, 0], "cam_left": [0.57, 0.82, 0], "cam_back": [-1, 0, 0]}
    assert set(rig) == set(looks)
    for name, direction in looks.items():
        camera = rig[name].camera((640, 480))
        assert camera is not None
        assert check_camera(camera) == []
        assert np.allclose(camera.T_ego_camera[:3, 2], direction, atol=0.04)


def test_short_forms(tmp_path: Path) -> None:
    (tmp_path / "rig.yaml").write_text(
        """cameras:
  a: {size: [640, 480], K: [500, 510, 320, 240], xyz: [1, 0, 1], rpy_deg: [0, 0, 90]}
  b: {fov: 90, xyz: [1, 0, 1]}
  c: /front/image_raw
"""
    )
    rig = load_rig(tmp_path / "rig.yaml")
    a = rig["a"].camera()
    assert a is not None
    assert a.K.tolist() == [[500, 0, 320], [0, 510, 240], [0, 0, 1]]
    assert np.allclose(a.T_ego_camera[:3, 2], [0, 1, 0], atol=1e-12)
    b = rig["b"].camera((100, 50))
    assert b is not None
    assert b.K[0, 0] == pytest.approx(50.0)
    assert rig["b"].camera() is None
    assert rig["c"].topic == "/front/image_raw"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "names no cameras"),
        ("cameras: {}", "names no cameras"),
        ("cameras: [1]", "needs a name"),
        ("cameras: {a: [1]}", "neither a topic nor a table"),
        ("cameras: {a: {k: 1}}", "camera a: unknown key 'k': use K, T, camera_info_url"),
        ("cameras: {a: {K: [1, 2]}}", "camera a: K has 2 numbers, it needs 9"),
        ("cameras: {a: {K: hello}}", "camera a: K 'hello' is not a list of numbers"),
        ("cameras: {a: {size: [640]}}", "camera a: size [640] is not [width, height]"),
        ("cameras: {a: {xyz: [1]}}", "camera a: xyz [1] is not three metres"),
        ("cameras: {a: {quaternion: [0, 0, 0, 0]}}", "is not x, y, z, w"),
        ("cameras: {a: {rpy_deg: 3}}", "is not roll, pitch, yaw in degrees"),
        ("cameras: {a: {model: spherical, distortion: [1]}}", "a: distortion model 'spherical' is unknown"),
        ("cameras: {a: {model: equidistant, distortion: [1]}}", "a: equidistant has 1 coefficients: it needs 4"),
        ("cameras: {a: {camera_info_url: nowhere.yaml}}", "cannot be read: No such file"),
        ("cameras: [", "is not valid YAML"),
    ],
)
def test_rig_errors_are_one_line(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "rig.yaml").write_text(text)
    with pytest.raises(CalibrationError) as caught:
        load_rig(tmp_path / "rig.yaml")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "lacks a field"), ("image_width: 3", "lacks a field"), ("a: [", "not valid YAML"), ("[1, 2]", "lacks a field")],
)
def test_camera_info_errors_are_one_line(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(CalibrationError) as caught:
        load_camera_info(tmp_path / "c.yaml")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"rig file .*none.yaml cannot be read: No such file"):
        load_rig(tmp_path / "none.yaml")


def test_thin_prism_terms_are_refused_unless_zero() -> None:
    assert lens("rational_polynomial", [0.1] * 8 + [0.0] * 4)[1].size == 8
    with pytest.raises(CalibrationError, match="thin prism and tilt terms are not supported"):
        lens("rational_polynomial", [0.1] * 12)


def test_an_uncalibrated_camera_is_said() -> None:
    with pytest.raises(CalibrationError, match=r"eye: its camera_info is empty \(K is zero\)"):
        camera_from_info("eye", 64, 48, "plumb_bob", [], np.zeros(9), np.zeros(12), np.eye(4))


def test_guessed_cameras_look_where_their_name_says_and_pass_the_checks() -> None:
    looks = {
        "cam_front": (1, 0), "cam_back": (-1, 0), "left": (0, 1), "cam_right": (0, -1), "rear_view": (-1, 0), "camera": (1, 0),
    }  # fmt: skip
    for name, direction in looks.items():
        camera = guess_camera(name, 640, 480)
        assert check_camera(camera) == []
        assert np.allclose(camera.T_ego_camera[:2, 2], direction, atol=1e-9)
    assert guess_camera("cam_front_left", 640, 480).T_ego_camera[1, 2] > 0.5
    assert guess_camera("cam_back_right", 640, 480).T_ego_camera[1, 2] < -0.5


def test_rig_order_is_fast_bevs_then_alphabetical() -> None:
    assert rig_order(["z", "cam_back", "a", "cam_front_left", "cam_front", "cam_front_right"]) == [
        "cam_front", "cam_front_right", "cam_front_left", "cam_back", "a", "z",
    ]  # fmt: skip


@pytest.mark.parametrize("fov", [0, 180, -3])
def test_impossible_fields_of_view_are_refused(fov: float) -> None:
    with pytest.raises(CalibrationError, match="not a pinhole's"):
        intrinsics_from_fov(640, 480, fov)
