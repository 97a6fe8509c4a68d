"""Transforms: chains, interpolation, errors, waiting, broadcasters."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import TransformStamped
from hypothesis import given, settings
from hypothesis import strategies as st

from bevstack.ros import runtime as ros
from bevstack.ros.runtime import ClockType, Duration, Time, tf2


def transform(
    parent: str,
    child: str,
    stamp: float = 0.0,
    xyz: tuple[float, float, float] = (0.0, 0.0, 0.0),
    q: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 1.0),
) -> Any:
    result = TransformStamped()
    result.header.frame_id, result.child_frame_id = parent, child
    result.header.stamp.sec, result.header.stamp.nanosec = divmod(round(stamp * 10**9), 10**9)
    result.transform.translation.x, result.transform.translation.y, result.transform.translation.z = xyz
    result.transform.rotation.x, result.transform.rotation.y, result.transform.rotation.z, result.transform.rotation.w = q
    return result


def yaw(angle: float) -> tuple[float, float, float, float]:
    return (0.0, 0.0, math.sin(angle / 2), math.cos(angle / 2))


def at(seconds: float) -> Time:
    return Time(nanoseconds=round(seconds * 10**9), clock_type=ClockType.ROS_TIME)


def matrix(message: Any) -> Any:
    """4x4 matrix of a transform, by the textbook formula."""
    t, r = message.transform.translation, message.transform.rotation
    x, y, z, w = r.x, r.y, r.z, r.w
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w), t.x],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w), t.y],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y), t.z],
            [0, 0, 0, 1],
        ]
    )


@pytest.fixture
def buffer() -> Any:
    """map -> odom (static), odom -> base (moving, 10 to 12 s), base -> camera (static), base -> lidar (static)."""
    buffer = tf2.Buffer()
    buffer.set_transform_static(transform("map", "odom", xyz=(100.0, 0.0, 0.0)), "test")
    buffer.set_transform_static(transform("base", "camera", xyz=(1.0, 0.0, 2.0), q=yaw(math.pi / 2)), "test")
    buffer.set_transform_static(transform("base", "lidar", xyz=(0.0, 0.0, 3.0)), "test")
    for stamp, x, angle in ((10.0, 0.0, 0.0), (11.0, 10.0, 0.2), (12.0, 20.0, 0.4)):
        buffer.set_transform(transform("odom", "base", stamp, (x, 0.0, 0.0), yaw(angle)), "test")
    return buffer


def test_chain_through_static_and_moving_frames(buffer: Any) -> None:
    found = buffer.lookup_transform("map", "camera", at(11))
    expected = (
        matrix(transform("", "", xyz=(100.0, 0.0, 0.0)))
        @ matrix(transform("", "", xyz=(10.0, 0.0, 0.0), q=yaw(0.2)))
        @ matrix(transform("", "", xyz=(1.0, 0.0, 2.0), q=yaw(math.pi / 2)))
    )
    np.testing.assert_allclose(matrix(found), expected, atol=1e-12)
    assert (found.header.frame_id, found.child_frame_id) == ("map", "camera")
    assert (found.header.stamp.sec, found.header.stamp.nanosec) == (11, 0)
    back = buffer.lookup_transform("camera", "map", at(11))
    np.testing.assert_allclose(matrix(back) @ expected, np.eye(4), atol=1e-12)


def test_siblings_and_identity(buffer: Any) -> None:
    found = buffer.lookup_transform("lidar", "camera", Time())
    np.testing.assert_allclose([found.transform.translation.x, found.transform.translation.z], [1.0, -1.0], atol=1e-12)
    same = buffer.lookup_transform("base", "base", Time())
    np.testing.assert_allclose(matrix(same), np.eye(4))
    assert same.header.stamp.sec == 12


def test_interpolation(buffer: Any) -> None:
    found = buffer.lookup_transform("odom", "base", at(10.25))
    assert found.transform.translation.x == pytest.approx(2.5)
    assert 2 * math.atan2(found.transform.rotation.z, found.transform.rotation.w) == pytest.approx(0.05)


def test_interpolation_takes_the_short_way_round() -> None:
    buffer = tf2.Buffer()
    buffer.set_transform(transform("a", "b", 1.0, q=yaw(math.radians(170))), "test")
    q = yaw(math.radians(-170))
    buffer.set_transform(transform("a", "b", 2.0, q=(-q[0], -q[1], -q[2], -q[3])), "test")
    found = buffer.lookup_transform("a", "b", at(1.5)).transform.rotation
    assert abs(math.degrees(2 * math.atan2(found.z, found.w)) % 360) == pytest.approx(180)


def test_latest_common_time(buffer: Any) -> None:
    buffer.set_transform(transform("base", "arm", 11.5, (0.0, 1.0, 0.0)), "test")
    buffer.set_transform(transform("base", "arm", 10.5, (0.0, 0.0, 0.0)), "test")
    found = buffer.lookup_transform("odom", "arm", Time())
    assert found.header.stamp.sec + found.header.stamp.nanosec * 1e-9 == pytest.approx(11.5)
    assert found.transform.translation.x == pytest.approx(15.0 - math.sin(0.3))


def test_across_two_times(buffer: Any) -> None:
    """Where was the camera of second 10, seen from the base of second 12, the world standing still?"""
    found = buffer.lookup_transform_full("base", at(12), "base", at(10), "odom")
    expected = np.linalg.inv(matrix(transform("", "", xyz=(20.0, 0.0, 0.0), q=yaw(0.4))))
    np.testing.assert_allclose(matrix(found), expected, atol=1e-12)
    assert buffer.can_transform_full("base", at(12), "camera", at(10), "map")
    can, why = buffer.can_transform_full("base", at(12), "camera", at(9), "map", return_debug_tuple=True)
    assert not can
    assert "into the past" in why


def test_unknown_frames_are_named(buffer: Any) -> None:
    with pytest.raises(tf2.LookupException, match=r'"no_such_frame".*source_frame does not exist'):
        buffer.lookup_transform("base", "no_such_frame", Time())
    with pytest.raises(tf2.LookupException, match=r'"nowhere".*target_frame does not exist'):
        buffer.lookup_transform("nowhere", "base", Time())
    with pytest.raises(tf2.InvalidArgumentException):
        buffer.lookup_transform("", "base", Time())
    with pytest.raises(tf2.InvalidArgumentException):
        buffer.lookup_transform("/base", "map", Time())


def test_no_extrapolation(buffer: Any) -> None:
    with pytest.raises(tf2.ExtrapolationException, match=r"into the future.*13\.0.*12\.0.*frame \[base\] to frame \[map\]"):
        buffer.lookup_transform("map", "base", at(13))
    with pytest.raises(tf2.ExtrapolationException, match=r"into the past.*9\.0.*10\.0"):
        buffer.lookup_transform("map", "base", at(9))
    single = tf2.Buffer()
    single.set_transform(transform("a", "b", 5.0), "test")
    with pytest.raises(tf2.ExtrapolationException, match=r"only time 5\.0"):
        single.lookup_transform("a", "b", at(6))


def test_two_trees(buffer: Any) -> None:
    buffer.set_transform_static(transform("island", "palm"), "test")
    with pytest.raises(tf2.ConnectivityException, match=r"'map' and 'palm'.*not part of the same tree"):
        buffer.lookup_transform("map", "palm", Time())
    with pytest.raises(tf2.ConnectivityException):
        buffer.lookup_transform("map", "palm", at(11))


def test_a_loop_ends_in_an_error_not_in_a_hang() -> None:
    buffer = tf2.Buffer()
    for parent, child in (("a", "b"), ("b", "c"), ("c", "a")):
        buffer.set_transform_static(transform(parent, child), "test")
    buffer.set_transform_static(transform("x", "y"), "test")
    with pytest.raises(tf2.TransformException):
        buffer.lookup_transform("x", "a", Time())
    with pytest.raises(tf2.TransformException):
        buffer.lookup_transform("x", "a", at(1))


@pytest.mark.parametrize(
    "bad",
    [
        transform("", "b"),
        transform("a", ""),
        transform("a", "a"),
        transform("a", "b", xyz=(math.nan, 0.0, 0.0)),
        transform("a", "b", q=(0.0, 0.0, 0.0, 0.0)),
        transform("a", "b", q=(0.0, 0.0, 0.0, 2.0)),
    ],
)
def test_transforms_that_cannot_be_right_are_ignored(bad: Any) -> None:
    buffer = tf2.Buffer()
    buffer.set_transform(bad, "test")
    assert buffer.all_frames_as_string() == ""


def test_old_data_is_forgotten() -> None:
    buffer = tf2.Buffer(cache_time=Duration(seconds=2))
    for second in range(6):
        buffer.set_transform(transform("a", "b", float(second + 1)), "test")
    assert buffer.can_transform("a", "b", at(4))
    assert not buffer.can_transform("a", "b", at(3.9))
    buffer.set_transform(transform("a", "b", 1.0), "test")
    assert not buffer.can_transform("a", "b", at(3))
    assert "parent: 'a'" in buffer.all_frames_as_yaml()


def test_order_of_arrival_does_not_matter() -> None:
    buffer = tf2.Buffer()
    for second in (3.0, 1.0, 2.0):
        buffer.set_transform(transform("a", "b", second, (second, 0.0, 0.0)), "test")
    assert buffer.lookup_transform("a", "b", at(1.5)).transform.translation.x == pytest.approx(1.5)


def test_waiting_for_a_transform() -> None:
    buffer = tf2.Buffer()
    began = time.monotonic()
    assert not buffer.can_transform("a", "b", Time(), Duration(seconds=0.05))
    assert time.monotonic() - began >= 0.04
    threading.Timer(0.05, lambda: buffer.set_transform(transform("a", "b", 1.0), "test")).start()
    assert buffer.lookup_transform("a", "b", Time(), Duration(seconds=20)).header.frame_id == "a"


def test_waiting_as_a_future_and_as_a_coroutine(make_node: Callable[..., Any], spinner: Any) -> None:
    make_node()
    buffer = tf2.Buffer()
    future = buffer.wait_for_transform_async("a", "b", at(1.5))
    task = spinner.executor.create_task(buffer.lookup_transform_async, "a", "b", at(1.5))
    spinner.drain()
    buffer.set_transform(transform("a", "b", 1.0), "test")
    spinner.drain()
    assert not future.done()
    assert not task.done()
    buffer.set_transform(transform("a", "b", 2.0), "test")
    assert future.done()
    assert spinner.until(task.done)
    assert task.result().header.frame_id == "a"


def test_broadcasters_and_listener(make_node: Callable[..., Any], spinner: Any) -> None:
    sender = make_node("sender", namespace="/ns")
    static, moving = tf2.StaticTransformBroadcaster(sender), tf2.TransformBroadcaster(sender)
    static.sendTransform(transform("base", "cam_a", xyz=(1.0, 0.0, 0.0)))
    static.sendTransform([transform("base", "cam_b", xyz=(2.0, 0.0, 0.0))])
    # The listener comes late: it gets both static frames all the same.
    buffer = tf2.Buffer()
    listener = tf2.TransformListener(buffer, make_node("listener"))
    assert spinner.until(
        lambda: buffer.can_transform("base", "cam_a", Time()) and buffer.can_transform("base", "cam_b", Time())
    )
    moving.sendTransform(transform("odom", "base", 5.0, (7.0, 0.0, 0.0)))
    assert spinner.until(lambda: buffer.can_transform("odom", "cam_b", Time()))
    assert buffer.lookup_transform("odom", "cam_b", Time()).transform.translation.x == pytest.approx(9.0)
    listener.unregister()
    moving.sendTransform(transform("odom", "base", 6.0, (8.0, 0.0, 0.0)))
    spinner.drain()
    assert buffer.lookup_transform("odom", "base", Time()).header.stamp.sec == 5


def test_listener_with_its_own_thread(context: Any) -> None:
    node = ros.Node("alone", context=context)
    buffer = tf2.Buffer()
    listener = tf2.TransformListener(buffer, node, spin_thread=True)
    tf2.StaticTransformBroadcaster(node).sendTransform(transform("a", "b"))
    assert buffer.can_transform("a", "b", Time(), Duration(seconds=20))
    listener.unregister()
    node.destroy_node()


def test_time_that_jumps_back_clears_moving_frames(make_node: Callable[..., Any], spinner: Any) -> None:
    node = make_node("looping", parameter_overrides=[ros.Parameter("use_sim_time", value=True)])
    buffer = tf2.Buffer(node=node)
    buffer.set_transform_static(transform("base", "cam"), "test")
    buffer.set_transform(transform("odom", "base", 100.0), "test")
    clock = make_node("player").create_publisher(ros.messages("rosgraph_msgs/msg/Clock"), "/clock", 10)
    message = ros.messages("rosgraph_msgs/msg/Clock")
    for second in (100, 50):
        tick = message()
        tick.clock.sec = second
        clock.publish(tick)
        assert spinner.until(lambda second=second: node.get_clock().now().nanoseconds == second * 10**9)
    assert not buffer.can_transform("odom", "base", Time())
    assert buffer.can_transform("base", "cam", Time())


_angle = st.floats(-3.1, 3.1)
_coordinate = st.floats(-1000, 1000)


def _quaternion(axis: tuple[float, float, float], angle: float) -> tuple[float, float, float, float]:
    norm = math.sqrt(sum(value * value for value in axis)) or 1.0
    axis = (axis[0] / norm, axis[1] / norm, axis[2] / norm) if any(axis) else (1.0, 0.0, 0.0)
    s = math.sin(angle / 2)
    return (axis[0] * s, axis[1] * s, axis[2] * s, math.cos(angle / 2))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 100),
            st.tuples(_coordinate, _coordinate, _coordinate),
            st.tuples(st.floats(0.1, 1), _coordinate, st.floats(-1, 1)),
            _angle,
        ),
        min_size=1,
        max_size=8,
    ),
    st.integers(0, 100),
    st.integers(0, 100),
)
def test_any_tree_agrees_with_matrices(edges: Any, first: int, second: int) -> None:
    buffer = tf2.Buffer()
    in_root = [np.eye(4)]
    for index, (parent, xyz, axis, angle) in enumerate(edges):
        parent %= index + 1
        edge = transform(f"f{parent}", f"f{index + 1}", xyz=xyz, q=_quaternion(axis, angle))
        buffer.set_transform_static(edge, "test")
        in_root.append(in_root[parent] @ matrix(edge))
    a, b = first % len(in_root), second % len(in_root)
    found = matrix(buffer.lookup_transform(f"f{a}", f"f{b}", Time()))
    np.testing.assert_allclose(found, np.linalg.inv(in_root[a]) @ in_root[b], atol=1e-6)


def test_frames_as_a_service(make_node: Callable[..., Any], spinner: Any) -> None:
    node = make_node("frames")
    buffer = tf2.Buffer(node=node)
    buffer.set_transform_static(transform("base", "cam"), "test")
    graph = ros.messages("tf2_msgs/srv/FrameGraph")
    future = make_node("asking").create_client(graph, "tf2_frames").call_async(graph.Request())
    assert spinner.until(future.done)
    assert "parent: 'base'" in future.result().frame_yaml
