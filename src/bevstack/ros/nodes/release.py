"""Results let out at one offset after capture: flat timing, whatever size of model runs."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from .parameters import Spec

RELEASE_AFTER = Spec(
    "release_after",
    0.0,
    "seconds after exposure at which results are published, those of fast models no earlier than those of slow ones; "
    "0: when they are there",
    live=True,
    low=0.0,
    high=10.0,
)

Item = TypeVar("Item")


class Release(Generic[Item]):
    """Hands items on when they are due, in the order in which they came, on a thread of its own.

    An item that is due already goes at once. None is lost: ``close`` hands on what still waits, without waiting.

    Args:
        let_out: given one item at a time; must not raise.
        clock: monotonic seconds, those of ``due``.
    """

    def __init__(self, let_out: Callable[[Item], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._let_out, self._clock = let_out, clock
        self._condition = threading.Condition()
        self._waiting: deque[tuple[float, Item]] = deque()
        self._closed = False
        self._busy = False
        self._thread = threading.Thread(target=self._run, name="release", daemon=True)
        self._thread.start()

    def put(self, due: float, item: Item) -> None:
        """Queue an item that is to go at ``due``, seconds of the clock; after ``close`` it goes at once."""
        with self._condition:
            if not self._closed:
                self._waiting.append((due, item))
                self._condition.notify()
                return
        self._let_out(item)

    @property
    def waiting(self) -> bool:
        """True while an item has not been handed on, or is being so."""
        with self._condition:
            return bool(self._waiting) or self._busy

    def close(self, timeout: float = 10.0) -> bool:
        """Hand on what waits and end the thread; False if that takes longer than ``timeout`` seconds."""
        with self._condition:
            self._closed = True
            self._condition.notify()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._closed and (not self._waiting or self._waiting[0][0] > self._clock()):
                    self._condition.wait(self._waiting[0][0] - self._clock() if self._waiting else None)
                if not self._waiting:
                    return
                _, item = self._waiting.popleft()
                self._busy = True
            try:
                self._let_out(item)
            finally:
                with self._condition:
                    self._busy = False
