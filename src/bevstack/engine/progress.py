"""Words from work that takes minutes before the first result: seen by whoever waits, and not too many."""

from __future__ import annotations

import time
from collections.abc import Callable


class Seldom:
    """Hands a line on if the last one is at least ``every`` seconds old; what comes sooner is left out.

    Engines say where they are as warnings: no other lines of theirs are shown by default, and minutes of silence look like a
    fault.
    """

    def __init__(self, say: Callable[[str], None], every: float = 10.0) -> None:
        self._say, self._every = say, every
        self._said = time.monotonic()

    def __call__(self, line: str) -> None:
        now = time.monotonic()
        if now - self._said >= self._every:
            self._said = now
            self._say(line)
