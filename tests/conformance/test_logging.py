"""Loggers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bevstack.ros import runtime as ros
from bevstack.ros.runtime import LoggingSeverity, get_logger

embedded_only = pytest.mark.skipif(ros.RUNTIME != "embedded", reason="rclpy writes from C, past Python's stderr")


@embedded_only
def test_lines(capsys: pytest.CaptureFixture[str]) -> None:
    logger = get_logger("a.b")
    assert logger.info("braces {name} stay")
    assert not logger.debug("hidden")
    text = capsys.readouterr().err
    assert text.startswith("[INFO] [")
    assert text.endswith("] [a.b]: braces {name} stay\n")


@embedded_only
def test_format_from_the_environment(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RCUTILS_CONSOLE_OUTPUT_FORMAT", "{severity}|{name}|{function_name}|{message}")
    monkeypatch.setenv("RCUTILS_COLORIZED_OUTPUT", "0")
    get_logger("x").error("wrong")
    assert capsys.readouterr().err == "ERROR|x|test_format_from_the_environment|wrong\n"
    monkeypatch.setenv("RCUTILS_LOGGING_USE_STDOUT", "1")
    monkeypatch.setenv("RCUTILS_COLORIZED_OUTPUT", "1")
    get_logger("x").warning("warm")
    assert capsys.readouterr().out == "\033[33mWARN|x|test_format_from_the_environment|warm\033[0m\n"


def test_levels_are_inherited() -> None:
    parent = get_logger("levels_parent")
    child = parent.get_child("child")
    assert child.name == "levels_parent.child"
    parent.set_level(LoggingSeverity.DEBUG)
    assert child.get_effective_level() == LoggingSeverity.DEBUG
    assert child.is_enabled_for(LoggingSeverity.DEBUG)
    child.set_level(LoggingSeverity.FATAL)
    assert not child.error("x")
    assert parent.get_effective_level() == LoggingSeverity.DEBUG
    with pytest.raises(ValueError):
        get_logger("")
    with pytest.raises(ValueError):
        parent.get_child("")


def test_once_skip_first_throttle() -> None:
    logger = get_logger("options")
    assert [logger.info("once", once=True) for _ in range(3)] == [True, False, False]
    assert [logger.info("skip", skip_first=True) for _ in range(3)] == [False, True, True]
    assert [logger.info("slow", throttle_duration_sec=1000) for _ in range(3)] == [True, False, False]
    if ros.RUNTIME == "embedded":  # rclpy's memory is the logger object's
        assert [get_logger("fetched").info("anew", once=True) for _ in range(3)] == [True, False, False]
    # Two places in the code do not disturb each other.
    assert logger.info("a", once=True)
    assert logger.info("b", once=True)
    with pytest.raises(TypeError):
        logger.info("x", no_such_option=1)


@embedded_only
def test_throttle_on_a_clock() -> None:
    clock, logger, written = ros.ROSClock(), get_logger("clocked"), []
    clock._set_ros_time_is_active(True)
    for seconds in (10.0, 10.5, 11.1, 3.0, 3.5):
        clock.set_ros_time_override(ros.Time(nanoseconds=round(seconds * 1e9), clock_type=ros.ClockType.ROS_TIME))
        written.append(logger.info("x", throttle_duration_sec=1.0, throttle_time_source_type=clock))
    assert written == [True, False, True, True, False]  # a clock that goes back does not silence the line
    with pytest.raises(ValueError):
        logger.info("y", throttle_duration_sec=1.0, throttle_time_source_type="steady")
    with pytest.raises(TypeError):
        logger.info("z", throttle_time_source_type=clock)


def test_severity_may_not_change_in_one_place() -> None:
    logger = get_logger("changing")

    def write(severity: LoggingSeverity) -> bool:
        return logger.log("x", severity, once=True)

    assert write(LoggingSeverity.INFO)
    with pytest.raises(ValueError):
        write(LoggingSeverity.WARN)


def test_rosout(make_node: Callable[..., Any], spinner: Any) -> None:
    node = make_node("speaking", namespace="/car")
    got: list[Any] = []
    latched = ros.QoSProfile(depth=100, durability=ros.DurabilityPolicy.TRANSIENT_LOCAL)
    node.get_logger().warning("before anybody listens")
    make_node("listening").create_subscription(ros.messages("rcl_interfaces/msg/Log"), "/rosout", got.append, latched)
    node.get_logger().get_child("part").error("of a part")
    assert spinner.until(lambda: {entry.msg for entry in got} >= {"before anybody listens", "of a part"})
    entry = next(entry for entry in got if entry.msg == "of a part")
    assert (entry.name, entry.level, entry.function) == ("car.speaking.part", 40, "test_rosout")
    assert entry.file.endswith("test_logging.py")


def test_rosout_can_be_switched_off(make_node: Callable[..., Any]) -> None:
    quiet = make_node("quiet", enable_rosout=False)
    assert quiet.count_publishers("/rosout") == 0
    args = ["--ros-args", "--disable-rosout-logs"]
    also = make_node("also", cli_args=args)
    assert also.count_publishers("/rosout") == (0 if ros.RUNTIME == "embedded" else also.count_publishers("/rosout"))


def test_log_level_from_the_command_line() -> None:
    context = ros.Context()
    args = ["program", "--ros-args", "--log-level", "cmdline.logger:=debug"]
    ros.init(args=args, context=context)
    assert get_logger("cmdline.logger").get_effective_level() == LoggingSeverity.DEBUG
    assert get_logger("cmdline").get_effective_level() == LoggingSeverity.INFO
    context.shutdown()


def test_logger_services(make_node: Callable[..., Any], spinner: Any) -> None:
    make_node("served", enable_logger_service=True)
    get, put = ros.messages("rcl_interfaces/srv/GetLoggerLevels"), ros.messages("rcl_interfaces/srv/SetLoggerLevels")
    level = ros.messages("rcl_interfaces/msg/LoggerLevel")
    asking = make_node("asking")

    def call(service: Any, name: str, request: Any) -> Any:
        future = asking.create_client(service, f"/served/{name}").call_async(request)
        assert spinner.until(future.done)
        return future.result()

    result = call(
        put, "set_logger_levels", put.Request(levels=[level(name="served", level=10), level(name="served", level=11)])
    )
    assert [entry.successful for entry in result.results] == [True, False]
    assert call(get, "get_logger_levels", get.Request(names=["served"])).levels[0].level == 10
