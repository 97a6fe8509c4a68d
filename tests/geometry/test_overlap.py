"""Rotated overlap and suppression against shapely and plain rules."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bevstack.geometry.overlap import circle_nms, rotated_iou, rotated_nms

shapely = pytest.importorskip("shapely")

rectangle = st.tuples(st.floats(-3, 3), st.floats(-3, 3), st.floats(0.1, 6), st.floats(0.1, 6), st.floats(-7, 7))


def polygon(row: NDArray[np.float64]) -> object:
    x, y, w, h, yaw = row
    c, s = np.cos(yaw), np.sin(yaw)
    corners = [
        (x + c * a * w / 2 - s * b * h / 2, y + s * a * w / 2 + c * b * h / 2) for a, b in ((1, 1), (-1, 1), (-1, -1), (1, -1))
    ]
    return shapely.Polygon(corners)


def exact(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    p, q = polygon(a), polygon(b)
    return float(p.intersection(q).area / p.union(q).area)  # type: ignore[attr-defined]


@settings(max_examples=200, deadline=None)
@given(rectangle, rectangle)
def test_iou_equals_shapely(first: tuple[float, ...], second: tuple[float, ...]) -> None:
    a, b = np.asarray(first), np.asarray(second)
    mine = rotated_iou([a], [b])[0, 0]
    assert mine == pytest.approx(exact(a, b), abs=1e-6)
    assert mine == pytest.approx(rotated_iou([b], [a])[0, 0], abs=1e-9)


@pytest.mark.parametrize("yaw", [0.0, np.pi / 2, np.pi, 0.3, -2.0])
def test_iou_of_a_box_with_itself(yaw: float) -> None:
    box = [1.0, -2.0, 4.0, 2.0, yaw]
    assert rotated_iou([box], [box])[0, 0] == pytest.approx(1.0)
    assert rotated_iou([box], [[1.0, -2.0, 4.0, 2.0, yaw + np.pi]])[0, 0] == pytest.approx(1.0)
    assert rotated_iou([box], [[1.0, -2.0, 2.0, 4.0, yaw + np.pi / 2]])[0, 0] == pytest.approx(1.0)


def test_empty_and_flat_boxes() -> None:
    assert rotated_iou(np.zeros((0, 5)), np.zeros((3, 5))).shape == (0, 3)
    assert rotated_iou([[0, 0, 0, 0, 0]], [[0, 0, 0, 0, 0]])[0, 0] == 0.0
    assert rotated_nms(np.zeros((0, 5)), np.zeros(0), 0.2).tolist() == []
    assert circle_nms(np.zeros((0, 2)), np.zeros(0), 1.0, 10).tolist() == []


@settings(max_examples=60, deadline=None)
@given(st.lists(rectangle, min_size=1, max_size=25), st.floats(0.05, 0.9), st.integers(0, 1000))
def test_nms_is_greedy(rows: list[tuple[float, ...]], threshold: float, seed: int) -> None:
    boxes = np.asarray(rows)
    scores = np.random.default_rng(seed).permutation(len(boxes)) / len(boxes)
    iou = rotated_iou(boxes, boxes)
    kept: list[int] = []
    for i in np.argsort(-scores):
        if all(iou[i, j] <= threshold for j in kept):
            kept.append(int(i))
    assert rotated_nms(boxes, scores, threshold).tolist() == kept


def test_circle_threshold_is_on_the_squared_distance_and_counts_are_limited() -> None:
    centers = np.array([[0.0, 0], [1.9, 0], [2.1, 0], [10, 0]])
    scores = np.array([0.9, 0.8, 0.7, 0.6])
    assert circle_nms(centers, scores, 4.0, 10).tolist() == [0, 2, 3]
    assert circle_nms(centers, scores, 4.0, 2).tolist() == [0, 2]
    assert circle_nms(centers, scores[::-1], 4.0, 10).tolist() == [3, 2, 0]
