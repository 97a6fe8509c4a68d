"""Threads with queues of one: the newest item wins, and nothing that puts an item ever waits."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class NewestWins(Generic[Item]):
    """Calls ``work`` on a thread of its own with the newest item put.

    Args:
        name: the thread's name.
        work: must not raise; it is given one item at a time.
    """

    def __init__(self, name: str, work: Callable[[Item], None]) -> None:
        self._work = work
        self._condition = threading.Condition()
        self._slot: list[Item] = []
        self._closed = False
        self._working = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, item: Item) -> Item | None:
        """Queue an item; returns the one that it replaced (or itself, once closed), None if none was."""
        with self._condition:
            if self._closed:
                return item
            replaced = self._slot.pop() if self._slot else None
            self._slot.append(item)
            self._condition.notify()
            return replaced

    @property
    def busy(self) -> bool:
        """True while an item waits or is being worked on."""
        with self._condition:
            return bool(self._slot) or self._working

    def close(self, timeout: float = 10.0) -> bool:
        """Forget what waits, finish what is being worked on; False if that takes longer than ``timeout`` seconds."""
        with self._condition:
            self._closed = True
            self._slot.clear()
            self._condition.notify()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._slot and not self._closed:
                    self._condition.wait()
                if self._closed:
                    return
                item = self._slot.pop()
                self._working = True
            try:
                self._work(item)
            finally:
                with self._condition:
                    self._working = False


class NewestOfEach(Generic[Item]):
    """Calls ``work`` on one thread with the newest item of each key, the keys in turn: a fast one cannot starve the others.

    Args:
        name: the thread's name.
        work: given a key and its item; must not raise.
    """

    def __init__(self, name: str, work: Callable[[str, Item], None]) -> None:
        self._work = work
        self._condition = threading.Condition()
        self._waiting: dict[str, Item] = {}  # in the order in which the keys are served
        self._closed = False
        self._working = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, key: str, item: Item) -> Item | None:
        """Queue an item; returns the one of the same key that it replaced (or itself, once closed), None if none was."""
        with self._condition:
            if self._closed:
                return item
            replaced = self._waiting.get(key)
            self._waiting[key] = item
            self._condition.notify()
            return replaced

    @property
    def busy(self) -> bool:
        """True while an item waits or is being worked on."""
        with self._condition:
            return bool(self._waiting) or self._working

    def close(self, timeout: float = 10.0) -> bool:
        """Forget what waits, finish what is being worked on; False if that takes longer than ``timeout`` seconds."""
        with self._condition:
            self._closed = True
            self._waiting.clear()
            self._condition.notify()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._waiting and not self._closed:
                    self._condition.wait()
                if self._closed:
                    return
                key = next(iter(self._waiting))
                item = self._waiting.pop(key)  # when it comes again, it goes to the end of the line
                self._working = True
            try:
                self._work(key, item)
            finally:
                with self._condition:
                    self._working = False
