"""Timers, rates, clocks, simulated time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from rosgraph_msgs.msg import Clock as ClockMessage

from bevstack.ros import runtime as ros
from bevstack.ros.runtime import Clock, ClockType, Duration, JumpThreshold, Parameter, Time

_LONG = 20.0


def test_timer_fires_again_and_again(make_node: Callable[..., Any], spinner: Any) -> None:
    node = make_node()
    ticks: list[float] = []
    timer = node.create_timer(0.02, lambda: ticks.append(time.monotonic()))
    began = time.monotonic()
    assert spinner.until(lambda: len(ticks) >= 5)
    assert time.monotonic() - began >= 0.09
    assert timer.timer_period_ns == 20_000_000
    assert not timer.is_canceled()


def test_cancel_reset_and_autostart(make_node: Callable[..., Any], spinner: Any) -> None:
    node = make_node()
    ticks: list[int] = []
    timer = node.create_timer(0.01, lambda: ticks.append(1), autostart=False)
    assert timer.is_canceled()
    assert timer.time_until_next_call() is None
    spinner.executor.spin_once(timeout_sec=0.05)
    assert ticks == []
    timer.reset()
    assert not timer.is_canceled()
    assert spinner.until(lambda: bool(ticks))
    timer.cancel()
    count = len(ticks)
    spinner.executor.spin_once(timeout_sec=0.05)
    assert len(ticks) == count
    assert node.destroy_timer(timer)
    assert not node.destroy_timer(timer)


def test_missed_periods_are_left_out(make_node: Callable[..., Any], spinner: Any) -> None:
    node = make_node()
    ticks: list[int] = []
    timer = node.create_timer(0.05, lambda: ticks.append(1))
    time.sleep(0.18)
    assert timer.is_ready()
    spinner.drain()
    assert len(ticks) in (1, 2)  # a second one only where draining took a while
    assert timer.time_since_last_call() >= 0


def test_steady_clock_timer(make_node: Callable[..., Any], spinner: Any) -> None:
    node = make_node()
    ticks: list[int] = []
    node.create_timer(0.01, lambda: ticks.append(1), clock=Clock(clock_type=ClockType.STEADY_TIME))
    assert spinner.until(lambda: len(ticks) == 2)


def test_rate(make_node: Callable[..., Any], spinner: Any) -> None:
    node = make_node()
    rate = node.create_rate(50.0)
    stop = threading.Event()

    def spin() -> None:
        while not stop.is_set():
            spinner.executor.spin_once(timeout_sec=0.05)

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    began = time.monotonic()
    for _ in range(3):
        rate.sleep()
    assert time.monotonic() - began >= 0.03
    stop.set()
    thread.join(_LONG)
    assert node.destroy_rate(rate)
    with pytest.raises(RuntimeError):
        rate.sleep()
    with pytest.raises(ValueError):
        node.create_rate(0)


def test_rate_is_interrupted_by_shutdown(make_node: Callable[..., Any], context: Any) -> None:
    rate = make_node().create_rate(0.001)
    threading.Timer(0.05, context.shutdown).start()
    with pytest.raises(ros.exceptions.ROSInterruptException):
        rate.sleep()


# times ------------------------------------------------------------------------------------------------------------------------


def test_time_arithmetic() -> None:
    a = Time(seconds=10, nanoseconds=5)
    b = Time(nanoseconds=9_000_000_000)
    assert (a - b).nanoseconds == 1_000_000_005
    assert (a + Duration(seconds=1)).nanoseconds == 11_000_000_005
    assert (a - Duration(seconds=1)).nanoseconds == 9_000_000_005
    assert b < a
    assert a >= a
    assert a.seconds_nanoseconds() == (10, 5)
    assert Time.from_msg(a.to_msg(), ClockType.SYSTEM_TIME) == a
    with pytest.raises(TypeError):
        _ = a < Time(clock_type=ClockType.STEADY_TIME)
    with pytest.raises(TypeError):
        _ = a - Time(clock_type=ClockType.STEADY_TIME)
    with pytest.raises(ValueError):
        Time(seconds=-1)
    with pytest.raises(OverflowError):
        Time(nanoseconds=2**63)
    with pytest.raises(TypeError):
        Time(clock_type="system")  # type: ignore[arg-type]


def test_clocks() -> None:
    system = Clock()
    assert system.clock_type is ClockType.SYSTEM_TIME
    assert abs(system.now().nanoseconds - time.time_ns()) < 60 * 10**9
    steady = Clock(clock_type=ClockType.STEADY_TIME)
    assert steady.now() <= steady.now()
    assert isinstance(Clock(clock_type=ClockType.ROS_TIME), ros.ROSClock)
    with pytest.raises(TypeError):
        Clock(clock_type=3)  # type: ignore[arg-type]


def test_sleep_until(context: Any) -> None:
    clock = Clock(clock_type=ClockType.STEADY_TIME)
    before = clock.now()
    assert clock.sleep_for(Duration(seconds=0.02), context)
    assert (clock.now() - before).nanoseconds >= 20_000_000
    threading.Timer(0.05, context.shutdown).start()
    assert not clock.sleep_for(Duration(seconds=600), context)


# simulated time ---------------------------------------------------------------------------------------------------------------


def _message(seconds: float) -> Any:
    message = ClockMessage()
    message.clock.sec, message.clock.nanosec = divmod(int(seconds * 10**9), 10**9)
    return message


@pytest.fixture
def simulated(make_node: Callable[..., Any], spinner: Any) -> tuple[Any, Callable[[float], None]]:
    """A node in simulated time, and a function that sets the time."""
    node = make_node("simulated", parameter_overrides=[Parameter("use_sim_time", value=True)])
    publisher = make_node("player").create_publisher(ClockMessage, "/clock", 10)

    def set_time(seconds: float) -> None:
        assert spinner.until(lambda: publisher.get_subscription_count() >= 1)
        publisher.publish(_message(seconds))
        assert spinner.until(lambda: node.get_clock().now().nanoseconds == int(seconds * 10**9))

    return node, set_time


def test_clock_follows_the_clock_topic(simulated: Any) -> None:
    node, set_time = simulated
    assert node.get_clock().ros_time_is_active
    assert node.get_clock().now().nanoseconds == 0
    set_time(100.5)
    assert node.get_clock().now().nanoseconds == 100_500_000_000
    assert node.get_clock().now().clock_type is ClockType.ROS_TIME


def test_timers_run_on_simulated_time(simulated: Any, spinner: Any) -> None:
    node, set_time = simulated
    set_time(100)
    ticks: list[int] = []
    node.create_timer(1.0, lambda: ticks.append(node.get_clock().now().nanoseconds))
    spinner.executor.spin_once(timeout_sec=0.05)
    assert ticks == []
    for second in (100.5, 101, 101.5, 102.25, 103):
        set_time(second)
        spinner.drain()
    assert [tick / 1e9 for tick in ticks] == [101, 102.25, 103]


def test_time_that_jumps_back_does_not_stop_timers(simulated: Any, spinner: Any) -> None:
    node, set_time = simulated
    set_time(100)
    ticks: list[int] = []
    node.create_timer(1.0, lambda: ticks.append(1))
    set_time(105)
    assert spinner.until(lambda: len(ticks) == 1)
    set_time(10)
    spinner.drain()
    assert len(ticks) == 1
    set_time(11)
    assert spinner.until(lambda: len(ticks) == 2)


def test_sleeping_in_simulated_time(simulated: Any, context: Any) -> None:
    node, set_time = simulated
    set_time(50)
    result: list[bool] = []
    wanted = Time(seconds=51, clock_type=ClockType.ROS_TIME)
    thread = threading.Thread(target=lambda: result.append(node.get_clock().sleep_until(wanted, context)), daemon=True)
    thread.start()
    set_time(50.5)
    assert result == []
    set_time(51)
    thread.join(_LONG)
    assert result == [True]


def test_simulated_time_can_be_switched(make_node: Callable[..., Any], spinner: Any) -> None:
    node = make_node()
    assert not node.get_clock().ros_time_is_active
    assert not node.set_parameters([Parameter("use_sim_time", value=1)])[0].successful
    assert node.set_parameters([Parameter("use_sim_time", value=True)])[0].successful
    assert node.get_clock().ros_time_is_active
    assert node.count_subscribers("/clock") == 1
    assert node.set_parameters([Parameter("use_sim_time", value=False)])[0].successful
    assert not node.get_clock().ros_time_is_active
    assert node.count_subscribers("/clock") == 0
    assert node.get_clock().now().nanoseconds > 10**18


def test_jump_callbacks(simulated: Any) -> None:
    node, set_time = simulated
    set_time(10)
    jumps: list[Any] = []
    before: list[int] = []
    handle = node.get_clock().create_jump_callback(
        JumpThreshold(min_forward=Duration(seconds=5), min_backward=Duration(seconds=-1)),
        pre_callback=lambda: before.append(node.get_clock().now().nanoseconds),
        post_callback=jumps.append,
    )
    set_time(12)
    assert jumps == []
    set_time(20)
    set_time(19.5)
    set_time(15)

    def delta(jump: Any) -> int:
        value = jump["delta"] if isinstance(jump, dict) else jump.delta.nanoseconds
        return int(value)

    assert [delta(jump) for jump in jumps] == [8 * 10**9, -4_500_000_000]
    assert before == [12 * 10**9, 19_500_000_000]
    handle.unregister()
    set_time(100)
    assert len(jumps) == 2


def test_jump_thresholds_are_checked() -> None:
    with pytest.raises(ValueError):
        JumpThreshold(min_forward=Duration(seconds=-1), min_backward=None)
    with pytest.raises(ValueError):
        JumpThreshold(min_forward=None, min_backward=Duration(seconds=1))
    with pytest.raises(ValueError):
        JumpThreshold(min_forward=None, min_backward=None, on_clock_change=False)
    with pytest.raises(ValueError):
        Clock().create_jump_callback(JumpThreshold(min_forward=None, min_backward=None))
