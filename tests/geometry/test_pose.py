"""Poses: group laws, quaternions, interpolation, against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from bevstack.geometry import (
    interpolate,
    invert,
    pose,
    quaternion_from_rotation,
    rotation_from_quaternion,
    rotation_rpy,
    rotation_z,
    transform_points,
    yaw_of,
)

angles = st.floats(-np.pi, np.pi)
vectors = st.lists(st.floats(-100, 100), min_size=3, max_size=3)
rotvecs = st.lists(st.floats(-np.pi, np.pi), min_size=3, max_size=3)


@given(rotvecs, vectors, vectors)
def test_inverse_undoes_the_pose(rotvec: list[float], translation: list[float], point: list[float]) -> None:
    T = pose(Rotation.from_rotvec(rotvec).as_matrix(), translation)
    assert np.allclose(invert(T) @ T, np.eye(4), atol=1e-9)
    assert np.allclose(transform_points(invert(T), transform_points(T, point)), point, atol=1e-9)


def test_invert_takes_a_stack() -> None:
    stack = np.stack([pose(rotation_z(a), [a, 1, 2]) for a in (0.1, 0.7, 3.0)])
    assert np.allclose(invert(stack) @ stack, np.eye(4))


@given(rotvecs)
def test_quaternions_equal_scipys(rotvec: list[float]) -> None:
    rotation = Rotation.from_rotvec(rotvec)
    q = quaternion_from_rotation(rotation.as_matrix())
    assert q[3] >= 0
    assert abs(abs(q @ rotation.as_quat()) - 1) < 1e-9
    assert np.allclose(rotation_from_quaternion(q), rotation.as_matrix(), atol=1e-9)
    assert np.allclose(rotation_from_quaternion(-3.0 * q), rotation.as_matrix(), atol=1e-9)


@given(angles, st.floats(-1.5, 1.5), angles)
def test_rpy_equals_scipys_fixed_axes(roll: float, pitch: float, yaw: float) -> None:
    assert np.allclose(rotation_rpy(roll, pitch, yaw), Rotation.from_euler("xyz", [roll, pitch, yaw]).as_matrix(), atol=1e-12)


@given(angles)
def test_yaw_is_anticlockwise_from_x(yaw: float) -> None:
    assert np.allclose(rotation_z(yaw) @ [1, 0, 0], [np.cos(yaw), np.sin(yaw), 0])
    assert np.cos(yaw_of(pose(rotation_z(yaw))) - yaw) == pytest.approx(1.0)


@given(rotvecs, rotvecs, vectors, vectors)
def test_interpolation_meets_both_ends(a: list[float], b: list[float], p: list[float], q: list[float]) -> None:
    first, second = pose(Rotation.from_rotvec(a).as_matrix(), p), pose(Rotation.from_rotvec(b).as_matrix(), q)
    assert np.allclose(interpolate(first, second, 0.0), first, atol=1e-7)
    assert np.allclose(interpolate(first, second, 1.0), second, atol=1e-7)


@given(st.floats(-3, 3), st.floats(-0.5, 1.5))
def test_interpolation_turns_evenly(turn: float, fraction: float) -> None:
    found = interpolate(pose(), pose(rotation_z(turn), [2, 0, 0]), fraction)
    assert np.allclose(found[:3, :3], rotation_z(fraction * turn), atol=1e-3)
    assert found[0, 3] == pytest.approx(2 * fraction)


@pytest.mark.parametrize("q", [[0, 0, 0, 0], [0, 0, np.nan, 1], [np.inf, 0, 0, 0]])
def test_a_quaternion_without_direction_is_refused(q: list[float]) -> None:
    with pytest.raises(ValueError, match="has no direction"):
        rotation_from_quaternion(q)
