"""Model rows against boxes of the ego frame: every corner in the same place, whichever way it is computed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bevstack.bev.config import CONFIGS
from bevstack.bev.conventions import boxes_from_rows, rows_from_boxes
from bevstack.geometry import DETECTION_CLASSES, Boxes3D, transform_points

T = CONFIGS["fastbev-m0"].ego_from_lidar


def corners_of_rows(rows: np.ndarray) -> np.ndarray:
    """(N, 8, 3) corners in the LiDAR frame, straight from the published convention: clockwise yaw, w along x, bottom z."""
    out = []
    for x, y, z, w, length, h, yaw in rows[:, :7]:
        c, s = np.cos(yaw), np.sin(yaw)
        corners = []
        for dz in (0.0, h):
            for dx, dy in ((w / 2, length / 2), (w / 2, -length / 2), (-w / 2, -length / 2), (-w / 2, length / 2)):
                corners.append((x + c * dx + s * dy, y - s * dx + c * dy, z + dz))
        out.append(corners)
    return np.asarray(out)


def same_corners(first: np.ndarray, second: np.ndarray) -> bool:
    """Equal as sets of points, box by box."""
    distance = np.linalg.norm(first[:, :, None] - second[:, None, :], axis=-1)
    return bool((distance.min(axis=2) < 1e-6).all() and (distance.min(axis=1) < 1e-6).all())


def test_a_row_by_hand() -> None:
    """A car 10 m ahead of the LiDAR, driving ahead: the model says yaw = -pi (clockwise from -y)."""
    row = [[0.0, 10.0, -1.84, 2.0, 4.0, 1.5, -np.pi, 0.0, 5.0]]
    boxes = boxes_from_rows(row, [0.5], [0], T)
    np.testing.assert_allclose(boxes.center, [[10.94, 0.0, 0.75]], atol=1e-9)
    np.testing.assert_allclose(boxes.size, [[4.0, 2.0, 1.5]])
    np.testing.assert_allclose(boxes.yaw, [0.0], atol=1e-9)
    np.testing.assert_allclose(boxes.velocity, [[5.0, 0.0]], atol=1e-9)


numbers = st.floats(-40, 40, allow_nan=False)
sizes = st.floats(0.2, 12)
row = st.tuples(numbers, numbers, st.floats(-3, 2), sizes, sizes, sizes, st.floats(-3.1, 3.1), numbers, numbers)


@settings(max_examples=50, deadline=None)
@given(st.lists(row, min_size=1, max_size=6))
def test_round_trip_and_corners(rows: list[tuple[float, ...]]) -> None:
    values = np.asarray(rows)
    boxes = boxes_from_rows(values, np.ones(len(values)), np.zeros(len(values)), T)
    assert same_corners(transform_points(T, corners_of_rows(values)), boxes.corners())
    again = rows_from_boxes(boxes, T)
    turn = again[:, 6] - values[:, 6]
    np.testing.assert_allclose(np.abs(np.angle(np.exp(1j * turn))), 0, atol=1e-9)
    np.testing.assert_allclose(np.delete(again, 6, axis=1), np.delete(values, 6, axis=1), atol=1e-9)


def test_true_boxes_of_the_sample_both_ways(shared: Path) -> None:
    sample = json.loads((shared / "data" / "nuscenes" / "scene0061_sample" / "sample.json").read_text())
    lidar = np.asarray(sample["lidar2ego"])
    entries = [b for b in sample["boxes_ego"] if b["label"] in DETECTION_CLASSES]
    truth = Boxes3D(
        center=np.array([b["center"] for b in entries]),
        size=np.array([b["size_lwh"] for b in entries]),
        yaw=np.array([b["yaw"] for b in entries]),
        velocity=np.nan_to_num(np.array([[v or 0.0 for v in b["velocity"]] for b in entries], dtype=float)),
        label=np.array([DETECTION_CLASSES.index(b["label"]) for b in entries]),
    )
    rows = rows_from_boxes(truth, lidar)
    again = boxes_from_rows(rows, truth.score, truth.label, lidar)
    np.testing.assert_allclose(again.center, truth.center, atol=1e-5)
    np.testing.assert_allclose(np.exp(1j * again.yaw), np.exp(1j * truth.yaw), atol=1e-5)
    # The LiDAR is mounted with a slight tilt; upright boxes ignore it: a corner moves by less than its share of the height.
    drawn = transform_points(lidar, corners_of_rows(rows))
    distance = np.linalg.norm(drawn[:, :, None] - truth.corners()[:, None], axis=-1).min(axis=2)
    assert distance.max() < 0.25


def test_published_boxes_of_the_sample(golden_boxes: np.ndarray, shared: Path) -> None:
    """The rows that the published loading code made of the same boxes."""
    sample = json.loads((shared / "data" / "nuscenes" / "scene0061_sample" / "sample.json").read_text())
    entries = [b for b in sample["boxes_ego"] if b["label"] in DETECTION_CLASSES and b["num_lidar_pts"] > 0]
    truth = Boxes3D(
        center=np.array([b["center"] for b in entries]),
        size=np.array([b["size_lwh"] for b in entries]),
        yaw=np.array([b["yaw"] for b in entries]),
    )
    rows = rows_from_boxes(truth, sample["lidar2ego"])
    rows = rows[np.abs(rows[:, :2]).max(axis=1) < 50]
    assert len(rows) == len(golden_boxes)
    np.testing.assert_allclose(rows[:, :6], golden_boxes[:, :6], atol=2e-3)
    turn = np.angle(np.exp(1j * (rows[:, 6] - golden_boxes[:, 6])))
    assert np.abs(turn).max() < 2e-3


@pytest.fixture
def golden_boxes(shared: Path) -> np.ndarray:
    return np.load(shared / "golden" / "fastbev" / "losses_m0.npz")["gt_boxes"]
