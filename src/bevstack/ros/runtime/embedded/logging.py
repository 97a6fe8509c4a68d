"""Loggers with rclpy's names and options; lines go to stderr and, for nodes, to `/rosout`.

RCUTILS_CONSOLE_OUTPUT_FORMAT, RCUTILS_COLORIZED_OUTPUT and RCUTILS_LOGGING_USE_STDOUT are honoured.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..messages import message_class
from .clock import Clock
from .exceptions import InvalidHandle, RCLError

if TYPE_CHECKING:
    from .arguments import RosArguments
    from .publisher import Publisher


class LoggingSeverity(IntEnum):
    """Severity of a log line; UNSET takes the level of the parent logger."""

    UNSET = 0
    DEBUG = 10
    INFO = 20
    WARN = 30
    ERROR = 40
    FATAL = 50


_DEFAULT_FORMAT = "[{severity}] [{time}] [{name}]: {message}"
_COLOURS = {10: "\033[32m", 20: "\033[0m", 30: "\033[33m", 40: "\033[31m", 50: "\033[31m"}
_OPTIONS = ("once", "skip_first", "throttle_duration_sec", "throttle_time_source_type")

_lock = threading.Lock()
_levels: dict[str, LoggingSeverity] = {}
_default_level = LoggingSeverity.INFO
_outputs = {"rosout": True, "stdout": True}
_rosout: dict[str, Publisher] = {}
#: Called with (severity, logger name, message, nanoseconds) for every line that passes; for pages and tests.
_listeners: list[Callable[[int, str, str, int], None]] = []


def get_logging_severity_from_string(log_severity: str) -> LoggingSeverity:
    """Severity by name. Raises RuntimeError for an unknown one."""
    text = log_severity.upper()
    text = "WARN" if text == "WARNING" else text
    if text not in LoggingSeverity.__members__:
        raise RuntimeError(f"Failed to get severity from string '{log_severity}'")
    return LoggingSeverity[text]


def configure_logging(arguments: RosArguments) -> None:
    """Take log levels and outputs from a command line."""
    global _default_level
    with _lock:
        for name, level in arguments.log_levels.items():
            severity = get_logging_severity_from_string(level)
            if name:
                _levels[name] = severity
            else:
                _default_level = severity
        _outputs["rosout"] = arguments.outputs["rosout"]
        _outputs["stdout"] = arguments.outputs["stdout"]


def initialize() -> None:
    """Nothing to prepare."""


def shutdown() -> None:
    """Nothing is held."""


def clear_config() -> None:
    """Forget all levels."""
    global _default_level
    with _lock:
        _levels.clear()
        _default_level = LoggingSeverity.INFO


def set_logger_level(name: str, level: int | LoggingSeverity, detailed_error: bool = False) -> None:
    """Set the level of a logger ("" for the default). Raises ValueError for a level that does not exist."""
    global _default_level
    severity = LoggingSeverity(level)
    with _lock:
        if name:
            _levels[name] = severity
        else:
            _default_level = severity


def get_logger_level(name: str) -> LoggingSeverity:
    """The level set for a logger itself; UNSET if none was."""
    return _levels.get(name, LoggingSeverity.UNSET) if name else _default_level


def get_logger_effective_level(name: str) -> LoggingSeverity:
    """The level in force: its own, or that of the nearest parent that has one."""
    while name:
        level = _levels.get(name)
        if level:
            return level
        name = name.rpartition(".")[0]
    return _default_level


def get_logging_directory() -> Path:
    """Where log files would go: ROS_LOG_DIR, or ROS_HOME/log, or ~/.ros/log."""
    home = os.environ.get("ROS_HOME") or str(Path.home() / ".ros")
    return Path(os.environ.get("ROS_LOG_DIR") or str(Path(home) / "log")).expanduser()


class _CallSite:
    """What is remembered about one place in the code that logs with options."""

    __slots__ = ("calls", "last_ns", "severity")

    def __init__(self, severity: int) -> None:
        self.severity = severity
        self.calls = 0
        self.last_ns: int | None = None


#: By logger name and place, so that a logger that is fetched anew for each line is throttled too.
_sites: dict[tuple[Any, ...], _CallSite] = {}


class RcutilsLogger:
    """Writes log lines. Options: `throttle_duration_sec` (with `throttle_time_source_type`, a clock), `skip_first`, `once`."""

    def __init__(self, name: str = "") -> None:
        self.name = name

    def get_child(self, name: str) -> RcutilsLogger:
        """Logger `parent.name`. Raises ValueError for an empty name."""
        if not name:
            raise ValueError("Child logger name must not be empty.")
        return get_logger(f"{self.name}.{name}" if self.name else name)

    def set_level(self, level: int | LoggingSeverity) -> None:
        """Set the level of this logger."""
        set_logger_level(self.name, level)

    def get_effective_level(self) -> LoggingSeverity:
        """The level in force."""
        return get_logger_effective_level(self.name)

    def is_enabled_for(self, severity: int | LoggingSeverity) -> bool:
        """True if a line of that severity is written."""
        return severity >= get_logger_effective_level(self.name)

    def log(self, message: str, severity: int | LoggingSeverity, **kwargs: Any) -> bool:
        """Write a line; True if it was written. Raises TypeError for an unknown option, ValueError for a wrong value of one."""
        return self._log(message, int(severity), kwargs)

    def debug(self, message: str, **kwargs: Any) -> bool:
        """Write a debug line."""
        return self._log(message, 10, kwargs)

    def info(self, message: str, **kwargs: Any) -> bool:
        """Write a line of information."""
        return self._log(message, 20, kwargs)

    def warning(self, message: str, **kwargs: Any) -> bool:
        """Write a warning."""
        return self._log(message, 30, kwargs)

    def warn(self, message: str, **kwargs: Any) -> bool:
        """Write a warning."""
        return self._log(message, 30, kwargs)

    def error(self, message: str, **kwargs: Any) -> bool:
        """Write an error."""
        return self._log(message, 40, kwargs)

    def fatal(self, message: str, **kwargs: Any) -> bool:
        """Write a fatal error."""
        return self._log(message, 50, kwargs)

    def _log(self, message: str, severity: int, options: dict[str, Any]) -> bool:
        if severity < get_logger_effective_level(self.name):
            return False
        frame = sys._getframe(2)
        code = frame.f_code
        if options and not self._passes((code.co_filename, code.co_name, frame.f_lineno, frame.f_lasti), severity, options):
            return False
        _write(severity, self.name, str(message), code.co_filename, code.co_name, frame.f_lineno)
        return True

    def _passes(self, site_key: tuple[Any, ...], severity: int, options: dict[str, Any]) -> bool:
        for option in options:
            if option not in _OPTIONS:
                raise TypeError(f'parameter "{option}" is not one of the recognized logging options "{", ".join(_OPTIONS)}"')
        duration = options.get("throttle_duration_sec")
        clock = options.get("throttle_time_source_type")
        if clock is not None and not isinstance(clock, Clock):
            raise ValueError(f"throttle_time_source_type must be a clock, got {clock!r}")
        if "throttle_time_source_type" in options and duration is None:
            raise TypeError("logging with 'throttle_time_source_type' needs 'throttle_duration_sec' too")
        with _lock:
            site = _sites.setdefault((self.name, *site_key), _CallSite(severity))
            if site.severity != severity:
                raise ValueError("Logger severity cannot be changed between calls.")
            if duration is not None:
                now = time.monotonic_ns() if clock is None else clock.now().nanoseconds
                # A clock that went back (a bag was restarted) does not silence the line for ever.
                if site.last_ns is not None and 0 <= now - site.last_ns < duration * 1e9:
                    return False
                site.last_ns = now
            site.calls += 1
            if options.get("skip_first") and site.calls == 1:
                return False
            return not (options.get("once") and site.calls > (2 if options.get("skip_first") else 1))


def get_logger(name: str) -> RcutilsLogger:
    """Logger of that name. Raises ValueError for an empty one."""
    if not name:
        raise ValueError("Logger name must not be empty.")
    return RcutilsLogger(name)


def add_rosout(name: str, publisher: Publisher) -> None:
    """Lines of the logger `name` and of its children go to this publisher too."""
    with _lock:
        _rosout[name] = publisher


def remove_rosout(name: str, publisher: Publisher) -> None:
    """End what `add_rosout` began."""
    with _lock:
        if _rosout.get(name) is publisher:
            del _rosout[name]


def add_listener(listener: Callable[[int, str, str, int], None]) -> Callable[[], None]:
    """Call `listener(severity, name, message, nanoseconds)` for each line; returns a function that ends it."""
    _listeners.append(listener)
    return lambda: _listeners.remove(listener) if listener in _listeners else None


def _write(severity: int, name: str, message: str, file: str, function: str, line: int) -> None:
    now = time.time_ns()
    if _outputs["stdout"]:
        _print(severity, name, message, now, file, function, line)
    for listener in list(_listeners):
        listener(severity, name, message, now)
    if _outputs["rosout"] and _rosout:
        _publish(severity, name, message, now, file, function, line)


def _print(severity: int, name: str, message: str, now: int, file: str, function: str, line: int) -> None:
    stream = sys.stdout if os.environ.get("RCUTILS_LOGGING_USE_STDOUT") == "1" else sys.stderr
    if stream is None:
        return
    seconds, nanoseconds = divmod(now, 10**9)
    text = os.environ.get("RCUTILS_CONSOLE_OUTPUT_FORMAT") or _DEFAULT_FORMAT
    values = {
        "severity": LoggingSeverity(severity).name,
        "name": name,
        "time": f"{seconds}.{nanoseconds:09d}",
        "time_as_nanoseconds": str(now),
        "file_name": file,
        "function_name": function,
        "line_number": str(line),
        "message": message,  # last: a message may contain braces
    }
    for key, value in values.items():
        text = text.replace("{" + key + "}", value)
    coloured = os.environ.get("RCUTILS_COLORIZED_OUTPUT")
    if coloured == "1" or (coloured != "0" and getattr(stream, "isatty", lambda: False)()):
        text = f"{_COLOURS[severity]}{text}\033[0m"
    try:
        stream.write(text + "\n")
        stream.flush()
    except (OSError, ValueError):
        pass  # the terminal is gone: there is nowhere to say so


def _publish(severity: int, name: str, message: str, now: int, file: str, function: str, line: int) -> None:
    owner = name
    publisher = _rosout.get(owner)
    while publisher is None and owner:
        owner = owner.rpartition(".")[0]
        publisher = _rosout.get(owner)
    if publisher is None:
        return
    log = message_class("rcl_interfaces/msg/Log")
    seconds, nanoseconds = divmod(now, 10**9)
    stamp = message_class("builtin_interfaces/msg/Time")(sec=seconds, nanosec=nanoseconds)
    entry = log(stamp=stamp, level=severity, name=name, msg=message, file=file, function=function, line=line)
    try:
        publisher.publish(entry)
    except (InvalidHandle, RCLError):
        remove_rosout(owner, publisher)
