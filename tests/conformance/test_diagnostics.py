"""The diagnostic updater."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from sensor_msgs.msg import CompressedImage

from bevstack.ros import runtime as ros
from bevstack.ros.runtime import diagnostic_updater as du

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


def test_status_wrapper() -> None:
    status = du.DiagnosticStatusWrapper()
    status.summary(WARN, "warm")
    status.mergeSummary(ERROR, "hot")
    assert (status.level, status.message) == (ERROR, "warm; hot")
    status.summary(OK, "fine")
    status.mergeSummary(WARN, "warm")
    assert (status.level, status.message) == (WARN, "warm")
    status.mergeSummary(OK, "ignored")
    assert (status.level, status.message) == (WARN, "warm")
    status.add("drops", 3)
    assert (status.values[0].key, status.values[0].value) == ("drops", "3")
    status.clearSummary()
    assert (status.level, status.message) == (OK, "")


@pytest.fixture
def updater(make_node: Callable[..., Any]) -> Any:
    updater = du.Updater(make_node("bev", namespace="/car"), period=0.02)
    updater.setHardwareID("chip")
    return updater


@pytest.fixture
def arrays(make_node: Callable[..., Any]) -> list[Any]:
    got: list[Any] = []
    make_node("watching").create_subscription(DiagnosticArray, "/diagnostics", got.append, 100)
    return got


def test_updater_publishes_periodically(updater: Any, arrays: list[Any], spinner: Any) -> None:
    def model(status: Any) -> Any:
        status.summary(WARN, "slow")
        status.add("ms", 12.5)
        return status

    updater.add("model", model)

    def states() -> list[Any]:
        return [status for array in arrays for status in array.status if status.message == "slow"]

    assert spinner.until(lambda: len(states()) >= 2)
    state = states()[0]
    assert (state.name, state.hardware_id, state.level) == ("bev: model", "chip", WARN)
    assert (state.values[0].key, state.values[0].value) == ("ms", "12.5")
    assert arrays[0].header.stamp.sec > 0
    assert updater.removeByName("model")
    assert not updater.removeByName("model")


def test_a_task_that_fails_is_an_error_not_a_crash(updater: Any, arrays: list[Any]) -> None:
    if ros.RUNTIME != "embedded":
        pytest.skip("diagnostic_updater lets the exception through")

    def broken(status: Any) -> Any:
        raise KeyError("sensor")

    updater.add("broken", broken)
    published: list[Any] = []
    updater.publisher.publish = published.append
    updater.update()
    assert published[0].status[0].level == ERROR
    assert "sensor" in published[0].status[0].message


def _run(task: Any) -> Any:
    return task.run(du.DiagnosticStatusWrapper())


class _Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def now(self) -> Any:
        return ros.Time(nanoseconds=round(self.seconds * 1e9), clock_type=ros.ClockType.ROS_TIME)


embedded_only = pytest.mark.skipif(ros.RUNTIME != "embedded", reason="the package's clock cannot be exchanged")


@embedded_only
@pytest.mark.parametrize(
    ("count", "level", "text"),
    [
        (0, ERROR, "No events recorded."),
        (5, WARN, "Frequency too low."),
        (10, OK, "Desired frequency met"),
        (20, WARN, "Frequency too high."),
    ],
)
def test_frequency(count: int, level: bytes, text: str) -> None:
    clock = _Clock()
    task = du.FrequencyStatus(du.FrequencyStatusParam({"min": 10.0, "max": 10.0}, 0.1, 5))
    task.clock = clock
    task.clear()
    for _ in range(count):
        task.tick()
    clock.seconds += 1.0
    status = _run(task)
    assert (status.level, status.message) == (level, text)
    assert ("Events in window", str(count)) in [(value.key, value.value) for value in status.values]


@embedded_only
@pytest.mark.parametrize(
    ("age", "level", "text"),
    [(0.1, OK, "reasonable"), (9.0, ERROR, "too far in past"), (-3.0, ERROR, "too far in future")],
)
def test_stamp_age(age: float, level: bytes, text: str) -> None:
    clock = _Clock()
    task = du.TimeStampStatus(du.TimeStampStatusParam(-1, 5))
    task.clock = clock
    task.tick(clock.seconds - age)
    status = _run(task)
    assert status.level == level
    assert text in status.message
    assert _run(task).message == "No data since last update."
    task.tick(0)
    assert "Zero timestamp seen." in _run(task).message


def test_diagnosed_publisher(updater: Any, make_node: Callable[..., Any], spinner: Any) -> None:
    node = make_node("source")
    got: list[Any] = []
    node.create_subscription(CompressedImage, "image", got.append, 5)
    publisher = du.DiagnosedPublisher(
        node.create_publisher(CompressedImage, "image", 5),
        updater,
        du.FrequencyStatusParam({"min": 0.0, "max": 1e9}),
        du.TimeStampStatusParam(),
    )
    message = CompressedImage()
    message.header.stamp = node.get_clock().now().to_msg()
    publisher.publish(message)
    assert spinner.until(lambda: len(got) == 1)
    status = _run(publisher)
    assert status.level == OK
    assert "Events in window" in [value.key for value in status.values]
    assert "Latest timestamp delay" in "".join(value.key for value in status.values)


def test_heartbeat() -> None:
    assert _run(du.Heartbeat()).message == "Alive"


def test_broadcast_and_period(updater: Any, arrays: list[Any], spinner: Any) -> None:
    updater.add("a", lambda status: status)
    updater.add(du.FunctionDiagnosticTask("b", lambda status: status))
    updater.broadcast(ERROR, "going down")

    def down() -> set[str]:
        return {status.name for array in arrays for status in array.status if status.message == "going down"}

    assert spinner.until(lambda: down() == {"bev: a", "bev: b"})
    updater.period = 0.5
    assert updater.period == 0.5


def test_composite_merges() -> None:
    def task(level: bytes, text: str) -> Any:
        def run(status: Any) -> Any:
            status.summary(level, text)
            status.add(text, "1")
            return status

        return du.FunctionDiagnosticTask(text, run)

    both = du.CompositeDiagnosticTask("both")
    both.addTask(task(WARN, "warm"))
    both.addTask(task(ERROR, "hot"))
    status = _run(both)
    assert (status.level, status.message) == (ERROR, "warm; hot")
    assert [value.key for value in status.values] == ["warm", "hot"]
