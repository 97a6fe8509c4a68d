"""What the governor tells, for the page: temperatures, forecasts, rungs and decisions, now and over the last half hour."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

SPAN_S = 1800.0
STEP_S = 2.0
"""Seconds between two samples of the history; a decision makes one at once."""
_DECISIONS = 100


@dataclass(frozen=True)
class ZoneHeat:
    """One zone (stack_msgs/GovernorState). Degrees Celsius; NaN where not known."""

    name: str
    celsius: float = math.nan
    health: str = "ok"
    control: bool = True
    ceiling: float = math.nan
    predicted: float = math.nan
    innovation: float = math.nan


@dataclass(frozen=True)
class ModelHeat:
    """One governed model. ``quality``: of its rung, relative to the best one's; latencies in milliseconds."""

    model: str
    node: str
    alive: bool
    rung: str
    running: str = ""
    rate: float = 1.0
    quality: float = 1.0
    latency: float = math.nan
    expected: float = math.nan


@dataclass(frozen=True)
class HeatState:
    """One period of the governor. ``time_to_throttle`` in seconds, NaN: not in sight."""

    mode: str
    condition: str
    zones: Sequence[ZoneHeat] = ()
    models: Sequence[ModelHeat] = ()
    time_to_throttle: float = math.nan
    headroom: float = math.nan
    decisions: Sequence[str] = ()
    decision_count: int = 0
    model_check: str = ""


class Heat:
    """Keeps the newest state and a history of bounded size; every method may be called from any thread.

    Args:
        changed: called after every change.
        clock: monotonic seconds (for tests).
    """

    def __init__(self, changed: Callable[[], None] = lambda: None, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()
        self._changed, self._clock = changed, clock
        self._began = clock()
        self._state: HeatState | None = None
        self._arrival = 0.0
        self._samples: deque[tuple[int, dict[str, Any]]] = deque(maxlen=int(2 * SPAN_S / STEP_S))
        self._decisions: deque[tuple[int, dict[str, Any]]] = deque(maxlen=_DECISIONS)
        self._count = 0

    def set_state(self, state: HeatState) -> None:
        """The governor has finished a period."""
        now = self._clock()
        at = round(now - self._began, 2)
        with self._lock:
            self._state, self._arrival = state, now
            for text in state.decisions:
                self._count += 1
                self._decisions.append((self._count, {"at": at, "text": text}))
            if state.decisions or not self._samples or at - self._samples[-1][1]["at"] >= STEP_S:
                self._count += 1
                self._samples.append((self._count, _sample(at, state)))
            while self._samples and at - self._samples[0][1]["at"] > SPAN_S:
                self._samples.popleft()
        self._changed()

    def json(self, after: int = 0) -> dict[str, Any] | None:
        """What the page draws; None before the governor has said anything.

        Args:
            after: an earlier answer's ``count``: only what is newer comes.
        """
        now = self._clock()
        with self._lock:
            state = self._state
            if state is None:
                return None
            return {
                "age": round(now - self._arrival, 2),
                "at": round(now - self._began, 2),
                "mode": state.mode,
                "condition": state.condition,
                "time_to_throttle": _number(state.time_to_throttle, 0),
                "headroom": _number(state.headroom, 3),
                "decision_count": state.decision_count,
                "model_check": state.model_check,
                "zones": [_zone(zone) for zone in state.zones],
                "models": [_model(model) for model in state.models],
                "samples": [sample for number, sample in self._samples if number > after],
                "decisions": [decision for number, decision in self._decisions if number > after],
                "count": self._count,
            }


def _sample(at: float, state: HeatState) -> dict[str, Any]:
    return {
        "at": at,
        "zones": {zone.name: [_number(zone.celsius), _number(zone.predicted)] for zone in state.zones if zone.control},
        "models": {model.model: [model.rung, _number(model.quality * model.rate, 4)] for model in state.models if model.alive},
    }


def _zone(zone: ZoneHeat) -> dict[str, Any]:
    numbers = {name: _number(getattr(zone, name)) for name in ("celsius", "ceiling", "predicted", "innovation")}
    return {"name": zone.name, "health": zone.health, "control": zone.control, **numbers}


def _model(model: ModelHeat) -> dict[str, Any]:
    numbers = {name: _number(getattr(model, name), 3) for name in ("rate", "quality", "latency", "expected")}
    return {
        "model": model.model,
        "node": model.node,
        "alive": model.alive,
        "rung": model.rung,
        "running": model.running,
        **numbers,
    }


def _number(value: float, digits: int = 2) -> float | None:
    """JSON knows no NaN."""
    return round(value, digits) if math.isfinite(value) else None
