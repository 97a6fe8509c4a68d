"""Timers and rates on any clock, simulated time included."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from .callback_groups import CallbackGroup
from .clock import Clock, ClockChange, ClockType
from .context import Context, get_default_context
from .entity import Call, Entity, Owner
from .exceptions import InvalidHandle, ROSInterruptException


class Timer(Entity):
    """Calls `callback()` every `timer_period_ns` nanoseconds of `clock`. Missed periods are left out, not made up for."""

    def __init__(
        self,
        callback: Callable[..., Any] | None,
        callback_group: CallbackGroup | None,
        timer_period_ns: int,
        clock: Clock,
        *,
        context: Context | None = None,
        autostart: bool = True,
    ) -> None:
        if timer_period_ns < 0:
            raise ValueError(f"timer period must not be negative, got {timer_period_ns} ns")
        self.callback = callback
        self.callback_group = callback_group
        self._context = get_default_context() if context is None else context
        self._owner = Owner()
        self._clock = clock
        self._period_ns = int(timer_period_ns)
        self._lock = threading.Lock()
        now = clock._now_ns()
        self._last_call_ns = now
        self._next_call_ns = now + self._period_ns
        self._canceled = not autostart
        self._destroyed = False
        clock._wake_on_change.add(self)

    @property
    def handle(self) -> Timer:
        """The timer itself: the embedded runtime has no lower layer."""
        return self

    @property
    def timer_period_ns(self) -> int:
        """Period in nanoseconds. A new value counts from the last call on."""
        return self._period_ns

    @timer_period_ns.setter
    def timer_period_ns(self, value: int) -> None:
        with self._lock:
            self._period_ns = int(value)
            self._next_call_ns = self._last_call_ns + self._period_ns
        self._look_again()

    @property
    def clock(self) -> Clock:
        """The clock that it counts."""
        return self._clock

    def is_ready(self) -> bool:
        """True if a call is due."""
        return self._pending()

    def is_canceled(self) -> bool:
        """True between `cancel()` and `reset()`."""
        return self._canceled

    def cancel(self) -> None:
        """No more calls until `reset()`."""
        self._check()
        self._canceled = True

    def reset(self) -> None:
        """Start anew: the next call is one period from now."""
        self._check()
        with self._lock:
            self._next_call_ns = self._clock._now_ns() + self._period_ns
            self._canceled = False
        self._look_again()

    def time_since_last_call(self) -> int:
        """Nanoseconds since the last call (or since the start)."""
        return self._clock._now_ns() - self._last_call_ns

    def time_until_next_call(self) -> int | None:
        """Nanoseconds until the next call, negative when it is overdue; None when canceled."""
        return None if self._canceled else self._next_call_ns - self._clock._now_ns()

    def destroy(self) -> None:
        """No more calls, ever."""
        self._destroyed = True
        self._canceled = True

    def _check(self) -> None:
        if self._destroyed:
            raise InvalidHandle("cannot use a destroyed timer")

    def _look_again(self) -> None:
        executor = self._owner.executor
        if executor is not None:
            executor.wake()

    def _pending(self) -> bool:
        return not self._canceled and self._clock._now_ns() >= self._next_call_ns

    def _seconds_left(self) -> float | None:
        """Real seconds until the next call, None when only a jump of the clock can bring it."""
        if self._canceled or self._clock._override is not None:
            return None
        return max((self._next_call_ns - self._clock._now_ns()) * 1e-9, 0.0)

    def _take(self) -> Call | None:
        with self._lock:
            now = self._clock._now_ns()
            if self._canceled or now < self._next_call_ns:
                return None
            self._last_call_ns = now
            if self._period_ns == 0:
                self._next_call_ns = now
            else:
                missed = (now - self._next_call_ns) // self._period_ns
                self._next_call_ns += (missed + 1) * self._period_ns
        return None if self.callback is None else (self.callback, ())

    def _clock_jumped(self, change: ClockChange, delta_ns: int) -> None:
        with self._lock:
            if change in (ClockChange.ROS_TIME_ACTIVATED, ClockChange.ROS_TIME_DEACTIVATED):
                # Another source: what was left of the period is still left.
                self._next_call_ns += delta_ns
                self._last_call_ns += delta_ns
            elif delta_ns < 0:
                now = self._clock._now_ns()
                if self._last_call_ns > now:
                    self._last_call_ns = now
                    self._next_call_ns = now + self._period_ns
        self._look_again()


class Rate:
    """Sleeps to keep a rate. Another thread must spin the node meanwhile."""

    def __init__(self, timer: Timer, *, context: Context) -> None:
        self._timer = timer
        self._cv = threading.Condition()
        self._ticked = False
        self._sleepers = 0
        self._context = context
        self._is_shutdown = False
        self._is_destroyed = False
        timer.callback = self._tick
        context._add_wake(self._interrupt)

    def _tick(self) -> None:
        with self._cv:
            self._ticked = True
            self._cv.notify_all()

    def _interrupt(self) -> None:
        with self._cv:
            self._is_shutdown = True
            self._cv.notify_all()

    def sleep(self) -> None:
        """Wait for the next tick; if one has passed since the last sleep, return at once.

        Raises `ROSInterruptException` when the context ends, RuntimeError if the rate was destroyed before.
        """
        with self._cv:
            if self._is_shutdown or not self._context.ok():
                raise ROSInterruptException
            if self._is_destroyed:
                raise RuntimeError("Rate cannot sleep because it has been destroyed")
            self._sleepers += 1
            try:
                self._cv.wait_for(lambda: self._ticked or self._is_shutdown or self._is_destroyed)
            finally:
                self._sleepers -= 1
                if self._sleepers == 0:
                    self._ticked = False
            if self._is_shutdown:
                raise ROSInterruptException

    def destroy(self) -> None:
        """End it; a thread that sleeps in it wakes up."""
        with self._cv:
            self._is_destroyed = True
            self._cv.notify_all()
        self._context._remove_wake(self._interrupt)
        self._timer.destroy()


__all__ = ["ClockType", "Rate", "Timer"]
