"""Matching by stamp."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from sensor_msgs.msg import CameraInfo, CompressedImage
from std_msgs.msg import String

from bevstack.ros.runtime import ClockType, Time, message_filters


def image(stamp_ms: int, text: str = "") -> Any:
    message = CompressedImage(format=text)
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ms * 10**6, 10**9)
    return message


def milliseconds(message: Any) -> int:
    return int(message.header.stamp.sec * 1000 + message.header.stamp.nanosec // 10**6)


class Source(message_filters.SimpleFilter):
    pass


def _collect(synchroniser: Any) -> list[tuple[int, ...]]:
    got: list[tuple[int, ...]] = []
    synchroniser.registerCallback(lambda *messages: got.append(tuple(milliseconds(message) for message in messages)))
    return got


def test_exact() -> None:
    a, b = Source(), Source()
    got = _collect(message_filters.TimeSynchronizer([a, b], 2))
    a.signalMessage(image(1))
    a.signalMessage(image(2))
    b.signalMessage(image(2))
    b.signalMessage(image(1))
    a.signalMessage(image(3))
    a.signalMessage(image(4))
    a.signalMessage(image(5))  # pushes 3 out
    b.signalMessage(image(3))
    assert got == [(2, 2), (1, 1)]


def test_approximate_takes_the_nearest() -> None:
    a, b = Source(), Source()
    got = _collect(message_filters.ApproximateTimeSynchronizer([a, b], 10, 0.05))
    a.signalMessage(image(100))
    a.signalMessage(image(140))
    b.signalMessage(image(135))
    assert got == [(140, 135)]
    b.signalMessage(image(105))
    assert got == [(140, 135), (100, 105)]
    a.signalMessage(image(200))
    b.signalMessage(image(250))  # exactly the slop: no match
    assert len(got) == 2
    b.signalMessage(image(249))
    assert got[-1] == (200, 249)


def test_queue_drops_the_oldest() -> None:
    a, b = Source(), Source()
    got = _collect(message_filters.ApproximateTimeSynchronizer([a, b], 2, 0.01))
    for stamp in (100, 200, 300):
        a.signalMessage(image(stamp))
    b.signalMessage(image(100))
    assert got == []
    b.signalMessage(image(201))
    assert got == [(200, 201)]


def test_messages_without_header_are_refused_unless_allowed(capsys: Any) -> None:
    a, b = Source(), Source()
    got: list[Any] = []
    strict = message_filters.ApproximateTimeSynchronizer([a, b], 2, 10.0)
    strict.registerCallback(lambda *messages: got.append(messages))
    a.signalMessage(String())
    b.signalMessage(String())
    assert got == []
    c, d = Source(), Source()
    lax = message_filters.ApproximateTimeSynchronizer([c, d], 2, 10.0, allow_headerless=True)
    lax.registerCallback(lambda *messages: got.append(messages))
    c.signalMessage(String(data="c"))
    d.signalMessage(String(data="d"))
    assert [message.data for message in got[0]] == ["c", "d"]


def test_extra_callback_arguments() -> None:
    a = Source()
    got: list[Any] = []
    a.registerCallback(lambda message, extra: got.append((message, extra)), "extra")
    a.signalMessage("m")
    assert got == [("m", "extra")]


def test_subscribers(make_node: Callable[..., Any], spinner: Any) -> None:
    node = make_node("sync", namespace="/car")
    images = message_filters.Subscriber(node, CompressedImage, "image", qos_profile=5)
    infos = message_filters.Subscriber(node, CameraInfo, "info")
    assert images.getTopic() == "image"
    got: list[Any] = []
    message_filters.TimeSynchronizer([images, infos], 5).registerCallback(lambda *messages: got.append(messages))
    info = CameraInfo(width=4)
    info.header.stamp.sec = 7
    node.create_publisher(CompressedImage, "image", 5).publish(image(7000))
    node.create_publisher(CameraInfo, "info", 5).publish(info)
    assert spinner.until(lambda: len(got) == 1)
    assert got[0][1].width == 4


def test_cache() -> None:
    a = Source()
    cache = message_filters.Cache(a, 3)
    for stamp in (10, 20, 30, 40):
        a.signalMessage(image(stamp))

    def moment(stamp_ms: int) -> Time:
        return Time(nanoseconds=stamp_ms * 10**6, clock_type=ClockType.ROS_TIME)

    assert [milliseconds(message) for message in cache.getInterval(moment(0), moment(30))] == [20, 30]
    assert milliseconds(cache.getElemAfterTime(moment(25))) == 30
    assert milliseconds(cache.getElemBeforeTime(moment(25))) == 20
    assert cache.getElemBeforeTime(moment(5)) is None
    assert milliseconds(cache.getLast()) == 40


def _reference(count: int, events: list[tuple[int, int]], queue_size: int, slop_ns: int) -> list[tuple[int, ...]]:
    """The rule in its plainest form: all combinations, nearest first, the first one within the slop."""
    queues: list[dict[int, int]] = [{} for _ in range(count)]
    out = []
    for index, stamp_ms in events:
        stamp = stamp_ms * 10**6
        queues[index][stamp] = stamp_ms
        while len(queues[index]) > queue_size:
            del queues[index][min(queues[index])]
        choices = []
        for other, queue in enumerate(queues):
            near = (
                [stamp]
                if other == index
                else sorted((s for s in queue if abs(s - stamp) <= slop_ns), key=lambda s: abs(s - stamp))
            )
            choices.append(near)
        for combination in itertools.product(*choices):
            if max(combination) - min(combination) < slop_ns and all(s in q for s, q in zip(combination, queues)):
                out.append(tuple(queue.pop(s) for s, queue in zip(combination, queues)))
                break
    return out


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 300)), max_size=40), st.integers(1, 5))
def test_same_result_as_trying_everything(events: list[tuple[int, int]], queue_size: int) -> None:
    sources = [Source() for _ in range(3)]
    got = _collect(message_filters.ApproximateTimeSynchronizer(sources, queue_size, 0.05))
    for index, stamp in events:
        sources[index].signalMessage(image(stamp))
    assert got == _reference(3, events, queue_size, 50 * 10**6)
