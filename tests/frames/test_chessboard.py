"""Chessboard calibration: recovers known lenses from rendered boards, and straightens real photographs."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from bevstack.errors import CalibrationError
from bevstack.frames.calibration import load_camera_info
from bevstack.frames.chessboard import bend, calibrate, find_corners, main, straightened
from bevstack.frames.decode import decode
from bevstack.geometry import Camera, pose, rotation_rpy

CORNERS = (9, 6)
K = np.array([[420.0, 0, 322.0], [0, 415.0, 236.0], [0, 0, 1]])
PINHOLE = Camera("p", 640, 480, K, np.eye(4), np.array([-0.25, 0.08, 0.0005, -0.0004, 0.0]))
FISHEYE = Camera(
    "f",
    640,
    480,
    0.75 * K + np.diag([0, 0, 0.25]) + [[0, 0, 80], [0, 0, 59], [0, 0, 0]],
    np.eye(4),
    np.array([0.03, -0.01, 0.003, 0.0]),
    "fisheye",
)
TILTS = [
    (0.0, 0.0, 0.0, 0, 0, 9), (0.4, 0.1, 0.1, -2.5, -1, 9), (-0.4, 0.2, -0.1, 1.2, 0.5, 10), (0.1, 0.5, 0.0, -2, 1.5, 9),
    (0.1, -0.5, 0.2, 1, -0.7, 10), (0.5, 0.4, -0.2, 0, 0, 8), (-0.3, -0.4, 0.3, 0, 1.5, 10), (0.3, -0.3, 1.4, 0, 0, 11),
]  # fmt: skip


def photograph(camera: Camera, tilt: tuple[float, ...]) -> np.ndarray:
    """A board of unit squares, seen by the camera: each pixel's ray is met with the board's plane."""
    T = pose(rotation_rpy(*tilt[:3]), tilt[3:])
    u, v = np.meshgrid(np.arange(camera.width, dtype=np.float64), np.arange(camera.height, dtype=np.float64))
    pixels = np.stack([u.ravel(), v.ravel()], axis=1)
    flat = straightened(camera, pixels)
    rays = np.concatenate([flat, np.ones((len(flat), 1))], axis=1) @ np.linalg.inv(camera.K).T
    normal, origin = T[:3, 2], T[:3, 3]
    points = rays * (normal @ origin / (rays @ normal))[:, None]
    x, y = ((points - origin) @ T[:3, :2] + [5.0, 3.5]).T  # the board's centre is the middle of its 10 x 7 squares
    inside = (x > 0) & (x < 10) & (y > 0) & (y < 7)
    dark = inside & ((np.floor(x) + np.floor(y)) % 2 == 0)
    image = np.where(dark, 30, 225).astype(np.uint8).reshape(camera.height, camera.width)
    return np.repeat(cv2.GaussianBlur(image, (3, 3), 0)[..., None], 3, axis=2)


@pytest.mark.parametrize("camera", [PINHOLE, FISHEYE], ids=["plumb_bob", "equidistant"])
def test_a_known_lens_is_recovered(camera: Camera) -> None:
    pictures = [(f"{i}", photograph(camera, tilt)) for i, tilt in enumerate(TILTS)]
    pictures.append(("empty", np.full((480, 640, 3), 200, np.uint8)))
    pictures.append(("small", np.ascontiguousarray(pictures[0][1][20:460])))
    result = calibrate(pictures, CORNERS, name="eye", model="equidistant" if camera.model == "fisheye" else "plumb_bob")
    assert result.rejected == {"empty": "not all 9x6 corners are seen", "small": "its size is 640x440, the others' 640x480"}
    assert len(result.errors) >= 7
    assert result.rms < 0.35
    assert result.bend_after < 0.25 * result.bend_before
    found = result.camera
    assert (found.name, found.width, found.height, found.model) == ("eye", 640, 480, camera.model)
    assert np.allclose(found.K, camera.K, atol=4.0)
    # What counts is where points are seen.
    points = np.array([[x, y, 5.0] for x in (-2.5, 0, 2.5) for y in (-1.8, 0, 1.8)])
    assert np.abs(found.project_camera(points)[0] - camera.project_camera(points)[0]).max() < 2.5


def test_real_photographs_become_straight(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shared / "data/udacity_camera_cal"
    chosen = [str(folder / f"calibration{i}.jpg") for i in (2, 3, 6, 8, 11, 12, 13, 16, 17, 1)]
    assert main([*chosen, "--output", str(tmp_path / "cam.yaml"), "--name", "udacity"]) == 0
    out = capsys.readouterr().out
    assert "rejected calibration1.jpg: not all 9x6 corners are seen" in out
    camera = load_camera_info(tmp_path / "cam.yaml")
    assert (camera.name, camera.width, camera.height) == ("udacity", 1280, 720)
    assert camera.K[0, 0] == pytest.approx(1155, rel=0.03)
    assert -0.35 < camera.distortion[0] < -0.15
    # A photograph that the calibration has not seen becomes straighter as well.
    where = find_corners(decode((folder / "calibration18.jpg").read_bytes()), CORNERS)
    assert where is not None
    assert bend([straightened(camera, where)], CORNERS) < 0.6 * bend([where], CORNERS)


def test_useless_photographs_are_said_plainly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blank = np.full((480, 640, 3), 200, np.uint8)
    with pytest.raises(CalibrationError, match="no photograph shows all 9x6 inner corners"):
        calibrate([("a", blank)])
    with pytest.raises(CalibrationError, match="1 of 2 photographs are usable, 5 are needed"):
        calibrate([("a", blank), ("b", photograph(PINHOLE, TILTS[0]))])
    assert main([str(tmp_path / "none.jpg")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
