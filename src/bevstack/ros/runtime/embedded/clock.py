"""Time and clocks: system, steady and ROS time, the latter driven by `/clock` when simulated time is in use."""

from __future__ import annotations

import threading
import time as _time
import weakref
from collections.abc import Callable
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from ..duration import Duration
from .exceptions import NotInitializedException

if TYPE_CHECKING:
    from .context import Context

CONVERSION_CONSTANT = 10**9


class ClockType(IntEnum):
    """What a clock, and a time read from it, counts."""

    UNINITIALIZED = 0
    ROS_TIME = 1
    SYSTEM_TIME = 2
    STEADY_TIME = 3


class Time:
    """A point in time, in nanoseconds since the epoch of its clock. Compares only with times of the same clock type."""

    __slots__ = ("_clock_type", "_nanoseconds")

    def __init__(
        self, *, seconds: int | float = 0, nanoseconds: int = 0, clock_type: ClockType = ClockType.SYSTEM_TIME
    ) -> None:
        if not isinstance(clock_type, ClockType):
            raise TypeError("Clock type must be a ClockType enum")
        if seconds < 0:
            raise ValueError("Seconds value must not be negative")
        if nanoseconds < 0:
            raise ValueError("Nanoseconds value must not be negative")
        total = int(seconds * CONVERSION_CONSTANT) + int(nanoseconds)
        if total >= 2**63:
            raise OverflowError("Total nanoseconds value is too large to store in C time point.")
        self._nanoseconds = total
        self._clock_type = clock_type

    @property
    def nanoseconds(self) -> int:
        """Nanoseconds since the epoch."""
        return self._nanoseconds

    @property
    def clock_type(self) -> ClockType:
        """Type of the clock that this time belongs to."""
        return self._clock_type

    def seconds_nanoseconds(self) -> tuple[int, int]:
        """Whole seconds and the nanoseconds that remain."""
        return divmod(self._nanoseconds, CONVERSION_CONSTANT)

    def to_msg(self) -> Any:
        """The same time as builtin_interfaces/msg/Time."""
        from builtin_interfaces.msg import Time as TimeMsg

        seconds, nanoseconds = self.seconds_nanoseconds()
        return TimeMsg(sec=seconds, nanosec=nanoseconds)

    @classmethod
    def from_msg(cls, msg: Any, clock_type: ClockType = ClockType.ROS_TIME) -> Time:
        """Time of a builtin_interfaces/msg/Time."""
        return cls(seconds=msg.sec, nanoseconds=msg.nanosec, clock_type=clock_type)

    def __repr__(self) -> str:
        return f"Time(nanoseconds={self._nanoseconds}, clock_type={self._clock_type.name})"

    def __add__(self, other: Any) -> Time:
        if isinstance(other, Duration):
            total = self._nanoseconds + other.nanoseconds
            if total < 0 or total >= 2**63:
                raise OverflowError("Addition leads to overflow in C storage.")
            return Time(nanoseconds=total, clock_type=self._clock_type)
        return NotImplemented

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        if isinstance(other, Time):
            if self._clock_type != other._clock_type:
                raise TypeError("Can't subtract times with different clock types")
            return Duration(nanoseconds=self._nanoseconds - other._nanoseconds)
        if isinstance(other, Duration):
            total = self._nanoseconds - other.nanoseconds
            if total < 0 or total >= 2**63:
                raise ValueError("Subtraction leads to negative time.")
            return Time(nanoseconds=total, clock_type=self._clock_type)
        return NotImplemented

    def _other(self, other: Any) -> int | None:
        if not isinstance(other, Time):
            return None
        if self._clock_type != other._clock_type:
            raise TypeError("Can't compare times with different clock types")
        return other._nanoseconds

    def __eq__(self, other: object) -> bool:
        value = self._other(other)
        return NotImplemented if value is None else self._nanoseconds == value

    def __lt__(self, other: Any) -> bool:
        value = self._other(other)
        return NotImplemented if value is None else self._nanoseconds < value

    def __le__(self, other: Any) -> bool:
        value = self._other(other)
        return NotImplemented if value is None else self._nanoseconds <= value

    def __gt__(self, other: Any) -> bool:
        value = self._other(other)
        return NotImplemented if value is None else self._nanoseconds > value

    def __ge__(self, other: Any) -> bool:
        value = self._other(other)
        return NotImplemented if value is None else self._nanoseconds >= value

    __hash__ = None  # type: ignore[assignment]  # as in rclpy: comparing may raise, so times are no dictionary keys


class ClockChange(IntEnum):
    """How the source of a ROS clock changed in a jump."""

    ROS_TIME_NO_CHANGE = 1
    ROS_TIME_ACTIVATED = 2
    ROS_TIME_DEACTIVATED = 3
    SYSTEM_TIME_NO_CHANGE = 4


class JumpThreshold:
    """Which jumps of a clock are worth a callback."""

    def __init__(self, *, min_forward: Duration | None, min_backward: Duration | None, on_clock_change: bool = True) -> None:
        if min_forward is not None and min_forward.nanoseconds <= 0:
            raise ValueError("min_forward must be a positive non-zero duration")
        if min_backward is not None and min_backward.nanoseconds >= 0:
            raise ValueError("min_backward must be a negative non-zero duration")
        if min_forward is None and min_backward is None and not on_clock_change:
            raise ValueError("At least one jump threshold must be enabled")
        self.min_forward = min_forward
        self.min_backward = min_backward
        self.on_clock_change = on_clock_change


class TimeJump:
    """A jump of a clock: by how much, and whether its source changed."""

    def __init__(self, clock_change: ClockChange, delta: Duration) -> None:
        if not isinstance(clock_change, ClockChange):
            raise TypeError("clock_change must be an instance of rclpy.clock.ClockChange")
        self._clock_change = clock_change
        self._delta = delta

    @property
    def clock_change(self) -> ClockChange:
        """How the source changed."""
        return self._clock_change

    @property
    def delta(self) -> Duration:
        """New time minus old time."""
        return self._delta


class JumpHandle:
    """A registered jump callback; `unregister()` ends it, and so does leaving a `with` block."""

    def __init__(
        self,
        *,
        clock: Clock,
        threshold: JumpThreshold,
        pre_callback: Callable[[], None] | None,
        post_callback: Callable[[Any], None] | None,
    ) -> None:
        if pre_callback is None and post_callback is None:
            raise ValueError("One of pre_callback or post_callback must be callable")
        if pre_callback is not None and not callable(pre_callback):
            raise ValueError("pre_callback must be callable if given")
        if post_callback is not None and not callable(post_callback):
            raise ValueError("post_callback must be callable if given")
        self._clock: Clock | None = clock
        self._threshold = threshold
        self._pre_callback = pre_callback
        self._post_callback = post_callback
        with clock._lock:
            clock._jump_handles.append(self)

    def unregister(self) -> None:
        """No more callbacks from here on."""
        clock, self._clock = self._clock, None
        if clock is not None:
            with clock._lock:
                clock._jump_handles.remove(self)

    def __enter__(self) -> JumpHandle:
        return self

    def __exit__(self, *unused: object) -> None:
        self.unregister()

    def _concerns(self, change: ClockChange, delta: int) -> bool:
        limits = self._threshold
        if change in (ClockChange.ROS_TIME_ACTIVATED, ClockChange.ROS_TIME_DEACTIVATED):
            return limits.on_clock_change
        if limits.min_forward is not None and delta > 0 and delta >= limits.min_forward.nanoseconds:
            return True
        return limits.min_backward is not None and delta < 0 and delta <= limits.min_backward.nanoseconds


class Clock:
    """A clock. `Clock(clock_type=ClockType.ROS_TIME)` gives a `ROSClock`."""

    _clock_type: ClockType

    def __new__(cls, *, clock_type: ClockType = ClockType.SYSTEM_TIME) -> Any:
        if not isinstance(clock_type, ClockType):
            raise TypeError("Clock type must be a ClockType enum")
        if clock_type is ClockType.ROS_TIME or cls is ROSClock:
            self: Clock = super().__new__(ROSClock)
            clock_type = ClockType.ROS_TIME
        else:
            self = super().__new__(cls)
        self._clock_type = clock_type
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._jump_handles = []
        self._wake_on_change = weakref.WeakSet()
        self._override = None
        return self

    _lock: Any  # a re-entrant lock: jump callbacks may read the clock
    _changed: threading.Condition
    _jump_handles: list[JumpHandle]
    _wake_on_change: weakref.WeakSet[Any]  # timers that must be looked at again after a jump
    _override: int | None  # nanoseconds of simulated time while it is active

    @property
    def clock_type(self) -> ClockType:
        """What this clock counts."""
        return self._clock_type

    @property
    def handle(self) -> Clock:
        """The clock itself: the embedded runtime has no lower layer."""
        return self

    def __repr__(self) -> str:
        return f"Clock(clock_type={self._clock_type.name})"

    def _now_ns(self) -> int:
        if self._clock_type is ClockType.STEADY_TIME:
            return _time.monotonic_ns()
        override = self._override
        return _time.time_ns() if override is None else override

    def now(self) -> Time:
        """The current time of this clock."""
        return Time(nanoseconds=self._now_ns(), clock_type=self._clock_type)

    def create_jump_callback(
        self,
        threshold: JumpThreshold,
        *,
        pre_callback: Callable[[], None] | None = None,
        post_callback: Callable[[TimeJump], None] | None = None,
    ) -> JumpHandle:
        """Call back before and after jumps of at least `threshold`. Raises ValueError without any callback."""
        return JumpHandle(clock=self, threshold=threshold, pre_callback=pre_callback, post_callback=post_callback)

    def sleep_until(self, until: Time, context: Context | None = None) -> bool:
        """Sleep until `until`; False if the context was shut down or the source of the clock changed meanwhile.

        Raises ValueError for a time of another clock type, `NotInitializedException` without a running context.
        """
        from .context import get_default_context

        context = context or get_default_context()
        if not context.ok():
            raise NotInitializedException
        if until.clock_type != self._clock_type:
            raise ValueError("until's clock type does not match this clock's type")
        changed = threading.Event()

        def notify() -> None:
            with self._lock:
                self._changed.notify_all()

        handle = None
        if self._clock_type is ClockType.ROS_TIME:
            handle = self.create_jump_callback(
                JumpThreshold(min_forward=None, min_backward=None, on_clock_change=True),
                post_callback=lambda _: changed.set(),
            )
        context._add_wake(notify)
        try:
            with self._lock:
                while context.ok() and not changed.is_set():
                    left = until.nanoseconds - self._now_ns()
                    if left <= 0:
                        return True
                    self._changed.wait(None if self._override is not None else min(left / 1e9, 3600.0))
            return False
        finally:
            context._remove_wake(notify)
            if handle is not None:
                handle.unregister()

    def sleep_for(self, rel_time: Duration, context: Context | None = None) -> bool:
        """Sleep for `rel_time` on this clock; see `sleep_until`."""
        return self.sleep_until(self.now() + rel_time, context)


class ROSClock(Clock):
    """System time, or simulated time while it is active."""

    def __new__(cls) -> Any:
        return super().__new__(cls, clock_type=ClockType.ROS_TIME)

    @property
    def ros_time_is_active(self) -> bool:
        """True while time is simulated."""
        return self._override is not None

    def _set_ros_time_is_active(self, enabled: bool) -> None:
        if enabled == self.ros_time_is_active:
            return
        change = ClockChange.ROS_TIME_ACTIVATED if enabled else ClockChange.ROS_TIME_DEACTIVATED
        self._jump(0 if enabled else None, change)

    def set_ros_time_override(self, time: Time) -> None:
        """Set simulated time. Raises TypeError for anything but a `Time`."""
        if not isinstance(time, Time):
            raise TypeError(f"Time must be specified as rclpy.time.Time. Received type: {type(time)}")
        if self._override is None:
            self._pending_override = time.nanoseconds
            return
        self._jump(time.nanoseconds, ClockChange.ROS_TIME_NO_CHANGE)

    _pending_override: int | None = None

    def _jump(self, override: int | None, change: ClockChange) -> None:
        if change is ClockChange.ROS_TIME_ACTIVATED and self._pending_override is not None:
            override, self._pending_override = self._pending_override, None
        with self._lock:
            before = self._now_ns()
            after = _time.time_ns() if override is None else override
            handles = [handle for handle in self._jump_handles if handle._concerns(change, after - before)]
        for handle in handles:
            if handle._pre_callback is not None:
                handle._pre_callback()
        with self._lock:
            self._override = override
            timers = list(self._wake_on_change)
            self._changed.notify_all()
        jump = TimeJump(change, Duration(nanoseconds=after - before))
        for handle in handles:
            if handle._post_callback is not None:
                handle._post_callback(jump)
        for timer in timers:
            timer._clock_jumped(change, after - before)
