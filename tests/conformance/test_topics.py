"""Publishing and subscribing: by reference, raw, info, queues, QoS, latched messages, events."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sensor_msgs.msg import Image
from std_msgs.msg import Int32, String

from bevstack.ros import runtime as ros
from bevstack.ros.runtime import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

embedded_only = pytest.mark.skipif(ros.RUNTIME != "embedded", reason="rclpy has no hand-over by reference")

RELIABLE = QoSProfile(depth=10)
BEST_EFFORT = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


@embedded_only
def test_a_message_of_the_same_process_is_the_same_object(make_node: Callable[..., Any], spinner: Any) -> None:
    sender, receiver = make_node("sender"), make_node("receiver")
    got: list[Any] = []
    receiver.create_subscription(Image, "image", got.append, ros.qos_profile_sensor_data)
    receiver.create_subscription(Image, "image", got.append, ros.qos_profile_sensor_data)
    image = Image(height=900, width=1600, encoding="rgb8", step=4800, data=np.zeros(900 * 4800, np.uint8))
    pixels = image.data
    sender.create_publisher(Image, "image", 5).publish(image)
    assert spinner.until(lambda: len(got) == 2)
    assert got[0] is image
    assert got[1] is image
    assert got[0].data is pixels


def test_order_and_content(make_node: Callable[..., Any], spinner: Any) -> None:
    node = make_node()
    got: list[int] = []
    node.create_subscription(Int32, "n", lambda message: got.append(message.data), QoSProfile(depth=100))
    publisher = node.create_publisher(Int32, "n", 100)
    assert spinner.until(lambda: publisher.get_subscription_count() == 1)
    for index in range(50):
        publisher.publish(Int32(data=index))
    assert spinner.until(lambda: len(got) == 50)
    assert got == list(range(50))


def test_raw_and_bytes(make_node: Callable[..., Any], spinner: Any) -> None:
    node = make_node()
    raw: list[bytes] = []
    plain: list[Any] = []
    node.create_subscription(String, "t", raw.append, 10, raw=True)
    node.create_subscription(String, "t", plain.append, 10)
    publisher = node.create_publisher(String, "t", 10)
    publisher.publish(String(data="object"))
    publisher.publish(ros.serialize_message(String(data="bytes")))
    assert spinner.until(lambda: len(raw) == 2 and len(plain) == 2)
    assert all(isinstance(item, bytes) for item in raw)
    assert [ros.deserialize_message(item, String).data for item in raw] == ["object", "bytes"]
    assert [message.data for message in plain] == ["object", "bytes"]


def test_wrong_type_is_refused(make_node: Callable[..., Any]) -> None:
    publisher = make_node().create_publisher(String, "t", 10)
    for wrong in (Int32(), "text", None, {"data": "x"}):
        with pytest.raises(TypeError):
            publisher.publish(wrong)


@embedded_only
def test_bytes_that_are_no_message_do_not_kill_the_node(make_node: Callable[..., Any], spinner: Any) -> None:
    node = make_node()
    got: list[Any] = []
    node.create_subscription(String, "t", got.append, 10)
    publisher = node.create_publisher(String, "t", 10)
    publisher.publish(b"\x00\x01\x00\x00\xff\xff\xff\x7f")
    publisher.publish(String(data="good"))
    assert spinner.until(lambda: len(got) == 1)
    assert got[0].data == "good"


def test_message_info(make_node: Callable[..., Any], spinner: Any) -> None:
    node = make_node()
    got: list[Any] = []
    node.create_subscription(String, "t", lambda message, info: got.append((message.data, info)), 10)
    publisher = node.create_publisher(String, "t", 10)
    publisher.publish(String(data="a"))
    publisher.publish(String(data="b"))
    assert spinner.until(lambda: len(got) == 2)
    assert {"source_timestamp", "received_timestamp"} <= set(got[0][1])
    assert got[0][1]["source_timestamp"] <= got[1][1]["source_timestamp"]
    assert got[0][1]["source_timestamp"] > 1_600_000_000 * 10**9


def test_callback_arity_is_checked(make_node: Callable[..., Any]) -> None:
    node = make_node()
    with pytest.raises(RuntimeError):
        node.create_subscription(String, "t", lambda: None, 10)
    with pytest.raises(RuntimeError):
        node.create_subscription(String, "t", lambda a, b, c: None, 10)


def test_slow_subscriber_keeps_the_newest(make_node: Callable[..., Any], spinner: Any) -> None:
    node = make_node()
    got: list[int] = []
    node.create_subscription(Int32, "n", lambda message: got.append(message.data), QoSProfile(depth=3))
    publisher = node.create_publisher(Int32, "n", 100)
    assert spinner.until(lambda: publisher.get_subscription_count() == 1)
    for index in range(10):
        publisher.publish(Int32(data=index))
    assert spinner.until(lambda: len(got) == 3)
    spinner.drain()
    assert got == [7, 8, 9]


def test_keep_all_keeps_all(make_node: Callable[..., Any], spinner: Any) -> None:
    node = make_node()
    got: list[int] = []
    everything = QoSProfile(history=HistoryPolicy.KEEP_ALL)
    node.create_subscription(Int32, "n", lambda message: got.append(message.data), everything)
    publisher = node.create_publisher(Int32, "n", everything)
    assert spinner.until(lambda: publisher.get_subscription_count() == 1)
    for index in range(200):
        publisher.publish(Int32(data=index))
    assert spinner.until(lambda: len(got) == 200)


@pytest.mark.parametrize(
    ("offered", "requested", "policy"),
    [
        (BEST_EFFORT, RELIABLE, "RELIABILITY"),
        (RELIABLE, LATCHED, "DURABILITY"),
        (RELIABLE, QoSProfile(depth=10, deadline=ros.Duration(seconds=1)), "DEADLINE"),
    ],
)
def test_incompatible_qos_is_reported_to_both_and_delivers_nothing(
    make_node: Callable[..., Any], spinner: Any, offered: QoSProfile, requested: QoSProfile, policy: str
) -> None:
    node = make_node()
    got: list[Any] = []
    seen: dict[str, Any] = {}
    node.create_subscription(
        String,
        "t",
        got.append,
        requested,
        event_callbacks=ros.SubscriptionEventCallbacks(incompatible_qos=lambda event: seen.update(sub=event)),
    )
    publisher = node.create_publisher(
        String,
        "t",
        offered,
        event_callbacks=ros.PublisherEventCallbacks(incompatible_qos=lambda event: seen.update(pub=event)),
    )
    assert spinner.until(lambda: {"sub", "pub"} <= set(seen))
    for event in seen.values():
        assert event.total_count == 1
        assert event.total_count_change == 1
        assert event.last_policy_kind == ros.QoSPolicyKind[policy]
    publisher.publish(String(data="lost"))
    spinner.drain()
    assert got == []
    assert publisher.get_subscription_count() == 0


@embedded_only
def test_default_warning_names_both_profiles(
    make_node: Callable[..., Any], spinner: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    node = make_node("warned")
    node.create_subscription(String, "t", lambda message: None, RELIABLE)
    node.create_publisher(String, "t", BEST_EFFORT)
    spinner.drain()
    text = capsys.readouterr().err
    assert text.count("incompatible QoS") == 2
    assert "RELIABILITY" in text
    assert "best_effort" in text
    assert "reliability=reliable" in text


@pytest.mark.parametrize("subscriber", [RELIABLE, BEST_EFFORT])
def test_reliable_publishers_serve_everybody(make_node: Callable[..., Any], spinner: Any, subscriber: QoSProfile) -> None:
    node = make_node()
    got: list[Any] = []
    node.create_subscription(String, "t", got.append, subscriber)
    node.create_publisher(String, "t", RELIABLE).publish(String())
    assert spinner.until(lambda: len(got) == 1)


def test_late_joiner_gets_what_was_latched(make_node: Callable[..., Any], spinner: Any) -> None:
    node = make_node()
    deep = QoSProfile(depth=3, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    publisher = node.create_publisher(Int32, "n", deep)
    for index in range(5):
        publisher.publish(Int32(data=index))
    late: list[int] = []
    volatile: list[int] = []
    node.create_subscription(Int32, "n", lambda message: late.append(message.data), deep)
    node.create_subscription(Int32, "n", lambda message: volatile.append(message.data), 10)
    assert spinner.until(lambda: len(late) == 3)
    publisher.publish(Int32(data=5))
    assert spinner.until(lambda: len(late) == 4 and len(volatile) == 1)
    assert late == [2, 3, 4, 5]
    assert volatile == [5]


def test_latched_messages_go_with_their_publisher(make_node: Callable[..., Any], spinner: Any) -> None:
    node = make_node()
    publisher = node.create_publisher(Int32, "n", LATCHED)
    publisher.publish(Int32(data=1))
    node.destroy_publisher(publisher)
    got: list[Any] = []
    node.create_subscription(Int32, "n", got.append, LATCHED)
    spinner.drain()
    assert got == []


def test_matched_events(make_node: Callable[..., Any], spinner: Any) -> None:
    node = make_node()
    events: list[Any] = []
    node.create_publisher(String, "t", 10, event_callbacks=ros.PublisherEventCallbacks(matched=events.append))
    subscription = node.create_subscription(String, "t", lambda message: None, 10)
    assert spinner.until(lambda: len(events) == 1)
    assert (events[0].current_count, events[0].current_count_change, events[0].total_count) == (1, 1, 1)
    node.destroy_subscription(subscription)
    assert spinner.until(lambda: len(events) == 2)
    assert (events[1].current_count, events[1].current_count_change, events[1].total_count) == (0, -1, 1)


@embedded_only
def test_another_type_on_the_topic_is_reported_and_not_delivered(make_node: Callable[..., Any], spinner: Any) -> None:
    node = make_node()
    got: list[Any] = []
    seen: list[Any] = []
    callbacks = ros.SubscriptionEventCallbacks(incompatible_type=seen.append)
    node.create_subscription(String, "t", got.append, 10, event_callbacks=callbacks)
    node.create_publisher(Int32, "t", 10).publish(Int32(data=1))
    assert spinner.until(lambda: len(seen) == 1)
    spinner.drain()
    assert got == []


def test_destroyed_subscription_gets_nothing_more(make_node: Callable[..., Any], spinner: Any) -> None:
    node = make_node()
    got: list[Any] = []
    subscription = node.create_subscription(String, "t", got.append, 10)
    publisher = node.create_publisher(String, "t", 10)
    publisher.publish(String())
    node.destroy_subscription(subscription)
    publisher.publish(String())
    spinner.drain()
    assert got == []


def test_subscription_may_destroy_itself_and_its_node_in_its_callback(make_node: Callable[..., Any], spinner: Any) -> None:
    node, sender = make_node("doomed"), make_node("sender")
    got: list[Any] = []

    def callback(message: Any) -> None:
        got.append(message)
        node.destroy_node()

    node.create_subscription(String, "t", callback, 10)
    publisher = sender.create_publisher(String, "t", 10)
    publisher.publish(String())
    publisher.publish(String())
    assert spinner.until(lambda: bool(got))
    spinner.drain()
    assert len(got) == 1


def test_callbacks_may_publish_and_make_endpoints(make_node: Callable[..., Any], spinner: Any) -> None:
    node = make_node()
    got: list[Any] = []

    def first(message: Any) -> None:
        node.create_subscription(String, "second", got.append, 10)
        node.create_publisher(String, "second", 10).publish(message)

    node.create_subscription(String, "first", first, 10)
    node.create_publisher(String, "first", 10).publish(String(data="x"))
    assert spinner.until(lambda: len(got) == 1)


def test_many_threads_publish_and_subscribe_at_once(make_node: Callable[..., Any], spinner: Any) -> None:
    node = make_node()
    got: list[int] = []
    node.create_subscription(Int32, "n", lambda message: got.append(message.data), QoSProfile(depth=10000))
    problems: list[BaseException] = []

    def work(index: int) -> None:
        try:
            publisher = node.create_publisher(Int32, "n", 1000)
            for _ in range(100):
                publisher.publish(Int32(data=index))
                other = node.create_subscription(Int32, f"other{index}", lambda message: None, 1)
                node.destroy_subscription(other)
        except BaseException as problem:  # noqa: BLE001 - reported by the test
            problems.append(problem)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    assert spinner.until(lambda: len(got) == 400, 60.0)
    for thread in threads:
        thread.join(20.0)
    assert problems == []
    assert sorted(got) == sorted([index for index in range(4) for _ in range(100)])


def test_acknowledgements_and_liveliness(make_node: Callable[..., Any]) -> None:
    node = make_node()
    publisher = node.create_publisher(String, "t", 10)
    node.create_subscription(String, "t", lambda message: None, 10)
    publisher.publish(String())
    publisher.assert_liveliness()
    assert publisher.wait_for_all_acked(ros.Duration(seconds=10))
    node.destroy_publisher(publisher)
    with pytest.raises(ros.InvalidHandle):
        publisher.assert_liveliness()


@embedded_only
def test_old_latched_messages_expire(make_node: Callable[..., Any], spinner: Any) -> None:
    node = make_node()
    brief = QoSProfile(depth=5, durability=DurabilityPolicy.TRANSIENT_LOCAL, lifespan=ros.Duration(nanoseconds=1))
    lasting = QoSProfile(depth=5, durability=DurabilityPolicy.TRANSIENT_LOCAL, lifespan=ros.Duration(seconds=1000))
    got: list[str] = []
    for topic, profile in (("brief", brief), ("lasting", lasting)):
        node.create_publisher(String, topic, profile).publish(String(data=topic))
        node.create_subscription(String, topic, lambda message: got.append(message.data), profile)
    assert spinner.until(lambda: bool(got))
    spinner.drain()
    assert got == ["lasting"]


@embedded_only
def test_default_warning_for_another_type(
    make_node: Callable[..., Any], spinner: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    node = make_node("typed")
    node.create_subscription(String, "t", lambda message: None, 10)
    node.create_publisher(Int32, "t", 10)
    spinner.drain()
    assert capsys.readouterr().err.count("Incompatible type on topic 't'") == 2


@embedded_only
def test_a_profile_that_is_changed_later_changes_nothing(make_node: Callable[..., Any], spinner: Any) -> None:
    node = make_node()
    profile = QoSProfile(depth=10)
    publisher = node.create_publisher(String, "t", profile)
    profile.reliability = ReliabilityPolicy.BEST_EFFORT
    got: list[Any] = []
    node.create_subscription(String, "t", got.append, RELIABLE)
    publisher.publish(String())
    assert spinner.until(lambda: len(got) == 1)
