"""Latency as a thermometer: measured against expected busy time shows throttling that no file admits."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from .rungs import LadderInfo

_WINDOW = 20
_LEARN = 20
_RECENT_S = 30.0


def _median(recent: deque[tuple[float, float]]) -> float:
    return median(value for _, value in recent)


@dataclass
class LatencyWatch:
    """Median of a model's last items (20, and none older than 30 s) over what its rung takes at full clocks.

    Measured rungs bring their expectation; for declared ones the first items at a rung, while nothing is hot, are the
    expectation.
    """

    ladders: Sequence[LadderInfo]
    limit: float = 1.15
    hold_s: float = 2.0
    expected: dict[tuple[str, str], float] = field(default_factory=dict)
    _recent: dict[str, deque[tuple[float, float]]] = field(default_factory=dict)  # seconds, busy ms
    _rung: dict[str, str] = field(default_factory=dict)
    _learning: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    _slow_since: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for ladder in self.ladders:
            for rung in ladder.rungs:
                if rung.measured and rung.latency_ms > 0:
                    self.expected[ladder.model, rung.name] = rung.latency_ms

    def step(self, latencies: Mapping[str, Sequence[float]], rungs: Mapping[str, str], now: float, cool: bool) -> None:
        """New items.

        Args:
            latencies: model to busy times, ms.
            rungs: model to the rung that it runs.
            now: seconds.
            cool: no zone is near its ceiling, so what is measured now is full speed.
        """
        for ladder in self.ladders:
            model, rung = ladder.model, rungs[ladder.model]
            if self._rung.get(model) != rung:
                # The first items after a swap may still be the old rung's.
                self._rung[model] = rung
                self._recent[model] = deque(maxlen=_WINDOW)
                self._slow_since.pop(model, None)
                continue
            recent = self._recent[model]
            recent.extend((now, value) for value in latencies.get(model, ()) if value > 0)
            while recent and now - recent[0][0] > _RECENT_S:
                recent.popleft()
            key = (model, rung)
            if key not in self.expected:
                if cool:
                    learning = self._learning.setdefault(key, [])
                    learning.extend(latencies.get(model, ()))
                    if len(learning) >= _LEARN:
                        self.expected[key] = median(learning)
                continue
            if len(recent) >= 5 and _median(recent) > self.limit * self.expected[key]:
                self._slow_since.setdefault(model, now)
            else:
                self._slow_since.pop(model, None)

    def ratio(self, model: str) -> float | None:
        """Measured over expected; None before either is known."""
        recent = self._recent.get(model)
        expected = self.expected.get((model, self._rung.get(model, "")))
        return _median(recent) / expected if recent and expected else None

    def slowed(self, now: float) -> list[str]:
        """Models that have been slower than they should be for `hold_s`."""
        return [model for model, since in self._slow_since.items() if now - since >= self.hold_s]
