"""True boxes of real data, drawn through our geometry and through an independent computation: the same pixels in six images.

The independent way shares no code with ours: corners come from a quaternion product per corner, the lens is cv2.projectPoints.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from bevstack.frames.decode import decode
from bevstack.frames.source import open_source
from bevstack.frames.types import FrameSet
from bevstack.geometry import BOX_EDGES, DETECTION_CLASSES, Boxes3D, Camera


@pytest.fixture(scope="module")
def folder(shared: Path) -> Path:
    path = shared / "data/nuscenes/scene0061_sample"
    if not path.is_dir():
        pytest.skip(f"{path} is absent: this test needs the nuScenes sample")
    return path


@pytest.fixture(scope="module")
def content(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "sample.json").read_text())


@pytest.fixture(scope="module")
def instant(folder: Path) -> FrameSet:
    with open_source(str(folder)) as source:
        (only,) = list(source)
    return only


def rotate(q: tuple[float, float, float, float], v: tuple[float, float, float]) -> tuple[float, float, float]:
    """v turned by q = (w, x, y, z), by the product q v q*, written out."""
    w, x, y, z = q
    tx, ty, tz = 2 * (y * v[2] - z * v[1]), 2 * (z * v[0] - x * v[2]), 2 * (x * v[1] - y * v[0])
    return (
        v[0] + w * tx + y * tz - z * ty,
        v[1] + w * ty + z * tx - x * tz,
        v[2] + w * tz + x * ty - y * tx,
    )


def corners_by_quaternion(box: dict[str, Any]) -> np.ndarray:
    """(8, 3) in the ego frame: floor front-left, rear-left, rear-right, front-right, then the roof, as BOX_EDGES counts."""
    q = (np.cos(box["yaw"] / 2), 0.0, 0.0, np.sin(box["yaw"] / 2))
    length, width, height = box["size_lwh"]
    corners = []
    for up in (-0.5, 0.5):
        for ahead, left in ((0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5), (0.5, -0.5)):
            x, y, z = rotate(q, (ahead * length, left * width, up * height))
            corners.append((x + box["center"][0], y + box["center"][1], z + box["center"][2]))
    return np.array(corners)


def project_by_opencv(camera: dict[str, Any], points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, 2) and depths (N,) of ego points, through cv2.projectPoints and a matrix inverse."""
    ego_to_camera = np.linalg.inv(np.array(camera["cam2ego"]))
    rotation, _ = cv2.Rodrigues(ego_to_camera[:3, :3])
    pixels, _ = cv2.projectPoints(points, rotation, ego_to_camera[:3, 3], np.array(camera["K"]), None)
    homogeneous = np.concatenate([points, np.ones((len(points), 1))], axis=1)
    return pixels[:, 0], (homogeneous @ ego_to_camera.T)[:, 2]


def all_boxes(content: dict[str, Any], yaw_error: float = 0.0) -> Boxes3D:
    """Every box of the file, those with the label ``ignore`` too."""
    rows = content["boxes_ego"]
    return Boxes3D(
        np.array([b["center"] for b in rows]),
        np.array([b["size_lwh"] for b in rows]),
        np.array([b["yaw"] for b in rows]) + yaw_error,
    )


def draw(shape: tuple[int, int], pixels: np.ndarray, depths: np.ndarray) -> np.ndarray:
    """(H, W) mask of the edges of boxes (N, 8, 2) that lie wholly in front of the camera."""
    mask = np.zeros(shape, np.uint8)
    for corners, z in zip(pixels, depths, strict=True):
        if (z > 0.5).all():
            for a, b in BOX_EDGES:
                start, end = (tuple(int(v) for v in np.round(16 * corners[i])) for i in (a, b))
                cv2.line(mask, start, end, 255, 2, cv2.LINE_8, 4)
    return mask


def ours(camera: Camera, boxes: Boxes3D) -> tuple[np.ndarray, np.ndarray]:
    pixels, depths = camera.project(boxes.corners().reshape(-1, 3))
    return pixels.reshape(-1, 8, 2), depths.reshape(-1, 8)


def independent(content: dict[str, Any], name: str) -> tuple[np.ndarray, np.ndarray]:
    corners = np.concatenate([corners_by_quaternion(box) for box in content["boxes_ego"]])
    pixels, depths = project_by_opencv(content["cameras"][name.upper()], corners)
    return pixels.reshape(-1, 8, 2), depths.reshape(-1, 8)


def test_boxes_are_drawn_at_the_same_pixels_in_all_six_images(content: dict[str, Any], instant: FrameSet) -> None:
    boxes = all_boxes(content)
    drawn = 0
    assert len(instant.frames) == 6
    for name, frame in instant.frames.items():
        pixels, depths = ours(frame.camera, boxes)
        expected, expected_depths = independent(content, name)
        ahead = expected_depths > 0.5
        # The file's matrices are orthonormal to 6e-8 only, so that transpose and inverse differ by micrometres.
        assert np.abs(depths - expected_depths).max() < 1e-5
        assert np.abs(pixels[ahead] - expected[ahead]).max() < 0.01
        mask, expected_mask = draw((900, 1600), pixels, depths), draw((900, 1600), expected, expected_depths)
        assert (mask != expected_mask).mean() < 1e-5
        drawn += int(mask.any())
    assert drawn == 6


def test_every_box_centre_falls_into_an_image(content: dict[str, Any], instant: FrameSet) -> None:
    centres = all_boxes(content).center
    seen = np.zeros(len(centres), bool)
    for frame in instant.frames.values():
        pixels, depths = frame.camera.project(centres)
        seen |= frame.camera.inside(pixels, depths)
    assert (int(seen.sum()), len(seen)) == (69, 69)


@pytest.mark.parametrize("fault", ["yaw", "half height", "mirrored", "length and width swapped"])
def test_the_comparison_notices_the_usual_mistakes(content: dict[str, Any], instant: FrameSet, fault: str) -> None:
    boxes = all_boxes(content, 0.02 if fault == "yaw" else 0.0)
    if fault == "half height":
        boxes = Boxes3D(boxes.center + boxes.size * [0, 0, 0.5], boxes.size, boxes.yaw)
    if fault == "mirrored":
        boxes = Boxes3D(boxes.center * [1, -1, 1], boxes.size, -boxes.yaw)
    if fault == "length and width swapped":
        boxes = Boxes3D(boxes.center, boxes.size[:, [1, 0, 2]], boxes.yaw)
    worst = 0.0
    for name, frame in instant.frames.items():
        pixels, _ = ours(frame.camera, boxes)
        expected, depths = independent(content, name)
        ahead = (depths > 1.0) & np.isfinite(pixels).all(axis=2)
        worst = max(worst, float(np.abs(pixels[ahead] - expected[ahead]).max()))
    assert worst > 1.0


@pytest.mark.parametrize("size", [(1600, 900), (704, 396), (400, 225)])
def test_boxes_keep_their_place_when_images_are_decoded_smaller(
    content: dict[str, Any], instant: FrameSet, size: tuple[int, int]
) -> None:
    """The resized camera draws where the resized full-size drawing lies."""
    for name, frame in instant.frames.items():
        assert frame.encoded is not None
        image = decode(frame.encoded, size)
        assert image.shape == (size[1], size[0], 3)
        pixels, _ = ours(frame.camera.resized(*size), all_boxes(content))
        expected, depths = independent(content, name)
        ahead = depths > 0.5
        assert np.abs(pixels[ahead] - expected[ahead] * [size[0] / 1600, size[1] / 900]).max() < 0.01


def test_truth_holds_the_detection_classes_only(content: dict[str, Any], instant: FrameSet) -> None:
    rows = [box for box in content["boxes_ego"] if box["label"] in DETECTION_CLASSES]
    assert instant.truth is not None
    assert [DETECTION_CLASSES[label] for label in instant.truth.label] == [box["label"] for box in rows]
    assert np.allclose(instant.truth.center, [box["center"] for box in rows])
    assert np.array_equal(instant.truth.velocity, np.nan_to_num(np.array([box["velocity"] for box in rows], dtype=float)))


@pytest.mark.parametrize("bag", ["scene0061_sample_mcap", "scene0061_sample_sqlite3"])
def test_the_bags_say_the_same_as_the_json(shared: Path, instant: FrameSet, bag: str) -> None:
    with open_source(shared / "data/bags" / bag) as source:
        (other,) = list(source)
        assert list(source.cameras) == list(instant.frames)
    assert abs(other.stamp - instant.stamp) < 1000  # the bag's stamps went through a double of seconds
    assert np.allclose(other.T_world_ego, instant.T_world_ego, atol=1e-5)
    for name, frame in instant.frames.items():
        twin = other.frames[name]
        assert abs(twin.stamp - frame.stamp) < 1000
        assert np.allclose(twin.camera.K, frame.camera.K)
        assert np.allclose(twin.camera.T_ego_camera, frame.camera.T_ego_camera, atol=1e-6)
        assert (twin.camera.width, twin.camera.height) == (1600, 900)
        assert not twin.camera.distorted
        assert twin.encoded is not None
        assert frame.encoded is not None
        assert bytes(twin.encoded) == bytes(frame.encoded)
