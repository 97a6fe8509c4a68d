"""Boxes: corners, moving them to other frames, choosing and refusing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bevstack.geometry import BOX_EDGES, Boxes3D, invert, pose, rotation_z, transform_points

boxes = st.lists(
    st.tuples(
        *[st.floats(-50, 50)] * 2,
        st.floats(-2, 3),
        *[st.floats(0.1, 12)] * 3,
        st.floats(-np.pi, np.pi),
        *[st.floats(-20, 20)] * 2,
    ),
    min_size=1,
    max_size=8,
)


def make(rows: list[tuple[float, ...]]) -> Boxes3D:
    a = np.array(rows)
    return Boxes3D(a[:, :3], a[:, 3:6], a[:, 6], a[:, 7:9])


@given(boxes)
def test_corners_span_the_box(rows: list[tuple[float, ...]]) -> None:
    these = make(rows)
    corners = these.corners()
    assert corners.shape == (len(these), 8, 3)
    assert np.allclose(corners.mean(axis=1), these.center, atol=1e-9)
    ahead = np.stack([np.cos(these.yaw), np.sin(these.yaw), np.zeros(len(these))], axis=1)
    length = corners[:, 0] - corners[:, 1]
    width = corners[:, 0] - corners[:, 3]
    height = corners[:, 4] - corners[:, 0]
    assert np.allclose(length, ahead * these.size[:, :1], atol=1e-9)
    assert np.allclose(np.linalg.norm(width, axis=1), these.size[:, 1])
    assert np.allclose(np.cross(length, width)[:, 2], these.size[:, 0] * these.size[:, 1], rtol=1e-6)  # corner 0 is left
    assert np.allclose(height, np.stack([0 * these.yaw, 0 * these.yaw, these.size[:, 2]], axis=1), atol=1e-9)


def test_edges_are_the_twelve_of_a_cuboid() -> None:
    corners = Boxes3D(np.zeros((1, 3)), np.array([[4.0, 2.0, 1.5]]), np.zeros(1)).corners()[0]
    lengths = sorted(float(np.linalg.norm(corners[a] - corners[b])) for a, b in BOX_EDGES)
    assert lengths == [1.5] * 4 + [2.0] * 4 + [4.0] * 4
    assert len({frozenset(edge) for edge in BOX_EDGES}) == 12


@given(boxes, st.floats(-np.pi, np.pi), st.lists(st.floats(-100, 100), min_size=3, max_size=3))
def test_moving_boxes_moves_their_corners(rows: list[tuple[float, ...]], turn: float, shift: list[float]) -> None:
    these = make(rows)
    T = pose(rotation_z(turn), shift)
    moved = these.transformed(T)
    assert np.allclose(moved.corners(), transform_points(T, these.corners()), atol=1e-6)
    assert np.allclose(np.linalg.norm(moved.velocity, axis=1), np.linalg.norm(these.velocity, axis=1))
    assert (np.abs(moved.yaw) <= np.pi).all()
    back = moved.transformed(invert(T))
    assert np.allclose(back.center, these.center, atol=1e-6)
    assert np.allclose(back.velocity, these.velocity, atol=1e-6)


def test_defaults_fill_what_is_not_given() -> None:
    one = Boxes3D(np.zeros((2, 3)), np.ones((2, 3)), np.zeros(2))
    assert one.velocity.shape == (2, 2)
    assert one.score.tolist() == [1, 1]
    assert one.id.tolist() == [-1, -1]
    assert len(Boxes3D.empty()) == 0
    assert Boxes3D.empty().corners().shape == (0, 8, 3)


def test_boxes_are_chosen_by_mask_index_and_slice() -> None:
    these = Boxes3D(np.arange(9.0).reshape(3, 3), np.ones((3, 3)), np.array([0.1, 0.2, 0.3]), label=np.array([4, 5, 6]))
    assert these[these.label > 4].yaw.tolist() == [0.2, 0.3]
    assert these[[2, 0]].label.tolist() == [6, 4]
    assert len(these[1:]) == 2
    assert len(these[np.zeros(3, bool)]) == 0


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Boxes3D.yaw has shape \(3,\)"):
        Boxes3D(np.zeros((2, 3)), np.ones((2, 3)), np.zeros(3))
