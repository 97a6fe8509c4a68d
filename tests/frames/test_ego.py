"""Ego poses between, beyond and without odometry."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation, Slerp

from bevstack.frames.ego import PoseBuffer, PoseUnavailableError
from bevstack.geometry import pose, rotation_z

MS = 1_000_000


def turning(seconds: float) -> np.ndarray:
    """A car on a circle: 0.3 rad/s, 10 m/s."""
    return pose(rotation_z(0.3 * seconds), [10 / 0.3 * np.sin(0.3 * seconds), 10 / 0.3 * (1 - np.cos(0.3 * seconds)), 0.0])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-3, 3), min_size=12, max_size=12), st.floats(0, 1))
def test_interpolation_equals_scipy_slerp(numbers: list[float], fraction: float) -> None:
    first, second = Rotation.from_rotvec(numbers[0:3]), Rotation.from_rotvec(numbers[3:6])
    buffer = PoseBuffer()
    buffer.add(1000 * MS, pose(first.as_matrix(), numbers[6:9]))
    buffer.add(1100 * MS, pose(second.as_matrix(), numbers[9:12]))
    stamp = 1000 * MS + round(fraction * 100 * MS)
    found = buffer.at(stamp)
    share = (stamp - 1000 * MS) / (100 * MS)
    if (first.inv() * second).magnitude() < 3.13:  # half a turn has two shortest ways
        expected = Slerp([0, 1], Rotation.concatenate([first, second]))(share).as_matrix()
        assert np.allclose(found[:3, :3], expected, atol=2e-6)
    assert np.allclose(found[:3, 3], (1 - share) * np.array(numbers[6:9]) + share * np.array(numbers[9:12]))
    assert np.allclose(found[:3, :3] @ found[:3, :3].T, np.eye(3))


@given(st.permutations(range(8)))
def test_order_of_arrival_does_not_matter(order: list[int]) -> None:
    buffer = PoseBuffer()
    for i in order:
        buffer.add(i * 50 * MS, turning(i * 0.05))
    for ms in (0, 25, 77, 350):
        assert np.allclose(buffer.at(ms * MS), turning(ms / 1000), atol=0.01)


def test_a_stamp_that_is_known_gives_that_pose_exactly() -> None:
    buffer = PoseBuffer()
    for i in range(5):
        buffer.add(i * 100 * MS, turning(i / 10))
    assert np.array_equal(buffer.at(200 * MS), turning(0.2))


def test_a_second_pose_for_a_stamp_replaces_the_first() -> None:
    buffer = PoseBuffer()
    buffer.add(0, turning(0))
    buffer.add(0, turning(1))
    assert len(buffer) == 1
    assert np.array_equal(buffer.at(0), turning(1))


def test_extrapolation_goes_on_with_the_motion_and_is_limited() -> None:
    buffer = PoseBuffer(max_extrapolation_ns=150 * MS)
    buffer.add(0, turning(0.0))
    buffer.add(100 * MS, turning(0.1))
    assert np.allclose(buffer.at(200 * MS)[:3, 3], turning(0.2)[:3, 3], atol=0.05)
    assert np.array_equal(buffer.at(-100 * MS), turning(0.0))
    with pytest.raises(PoseUnavailableError, match="is 160 ms after the last known one, more than 150 ms"):
        buffer.at(260 * MS)
    with pytest.raises(PoseUnavailableError, match="is 151 ms before the first known one"):
        buffer.at(-151 * MS)


def test_one_pose_alone_is_held() -> None:
    buffer = PoseBuffer()
    buffer.add(0, turning(3.0))
    assert np.array_equal(buffer.at(40 * MS), turning(3.0))


def test_gaps_are_not_bridged() -> None:
    buffer = PoseBuffer()
    buffer.add(0, turning(0))
    buffer.add(900 * MS, turning(0.9))
    with pytest.raises(PoseUnavailableError, match="900 ms apart, more than 500 ms: odometry has a gap"):
        buffer.at(300 * MS, 500 * MS)
    assert buffer.at(300 * MS, 1000 * MS).shape == (4, 4)
    # A gap says nothing about the motion beyond its end either: the last pose is held.
    assert np.array_equal(buffer.at(1000 * MS, 500 * MS), turning(0.9))


def test_no_odometry_is_said_plainly() -> None:
    with pytest.raises(PoseUnavailableError, match="no odometry has arrived"):
        PoseBuffer().at(5)
    with pytest.raises(PoseUnavailableError, match="not finite"):
        PoseBuffer().add(0, np.full((4, 4), np.nan))
    with pytest.raises(ValueError, match="cannot interpolate"):
        PoseBuffer(1)


def test_memory_is_bounded_and_the_newest_stay() -> None:
    buffer = PoseBuffer(64)
    for i in range(10_000):
        buffer.add(i * 10 * MS, turning(i / 100))
        assert len(buffer) <= 64
    span = buffer.span()
    assert span is not None
    assert span[1] == 9_999 * 10 * MS


def test_a_clock_that_jumps_back_forgets_the_future() -> None:
    buffer = PoseBuffer()
    buffer.add(60_000 * MS, turning(60))
    buffer.add(0, turning(0))
    assert buffer.span() == (0, 0)
