"""What a policy says: decisions that explain themselves, and its state for those who draw or record it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class Mode(Enum):
    """By which rule the policy is governing."""

    PREDICTIVE = "predictive"  # calibrated model, trusted
    BANDS = "bands"  # no model, or one that is not trusted
    BLIND = "blind"  # sensors lost, carried by the model with a growing margin
    STALE = "stale"  # sensors lost, no model: going small
    LATENCY = "latency"  # a machine without zones
    CALIBRATING = "calibrating"  # open loop, to measure the thermal model


@dataclass(frozen=True)
class Decision:
    """One model is to run another rung, or the same rung at another rate.

    Attributes:
        model: ladder's name.
        from_rung, to_rung: names of rungs; equal if only the rate changes.
        why: the reason in words, without the numbers that have fields of their own.
        predicted_with: hottest degC that the model expects within the horizon with this decision; None without a model.
        predicted_without: the same if everything stayed as it is.
        from_rate, to_rate: shares of items processed.
        at: seconds of the policy's clock.
    """

    model: str
    from_rung: str
    to_rung: str
    why: str
    predicted_with: float | None = None
    predicted_without: float | None = None
    from_rate: float = 1.0
    to_rate: float = 1.0
    at: float = 0.0

    def __str__(self) -> str:
        """One line for the log."""
        rate = f", rate {self.from_rate:g} -> {self.to_rate:g}" if self.from_rate != self.to_rate else ""
        if self.predicted_with is None or self.predicted_without is None:
            forecast = "no forecast"
        else:
            forecast = f"forecast {self.predicted_with:.1f} degC with, {self.predicted_without:.1f} degC without"
        return f"{self.model}: {self.from_rung} -> {self.to_rung}{rate}: {self.why}; {forecast}"


@dataclass(frozen=True)
class ZoneState:
    """What the policy makes of one control zone.

    Attributes:
        zone: key.
        celsius: filtered; None if the zone is not trusted now.
        health: one word or line: ``ok``, ``lost: ...``, ``stuck: ...``.
        ceiling: where throttling is taken to start, degC.
        predicted: hottest expected within the horizon as things are, degC; None without a model.
        innovation: measured minus expected just before this reading, degC; None without a model.
    """

    zone: str
    celsius: float | None
    health: str
    ceiling: float
    predicted: float | None = None
    innovation: float | None = None


@dataclass(frozen=True)
class PolicyState:
    """A snapshot after a step.

    Attributes:
        at: seconds of the policy's clock.
        mode: rule in force.
        zones: control zones.
        rungs: model to the rung asked for; rates likewise.
        time_to_throttle: seconds until the first zone is expected at its ceiling as things are; None: not within the horizon.
        headroom: 0 at the ceiling, 1 at 40 degC below; of the tightest zone; None if no zone is trusted.
        condition: ``ok``, or one line: THERMAL, POWER, CONTENTION, UNSUSTAINABLE, DEGRADED with the reason.
        decisions: number so far.
    """

    at: float
    mode: Mode
    zones: tuple[ZoneState, ...]
    rungs: dict[str, str]
    rates: dict[str, float]
    time_to_throttle: float | None = None
    headroom: float | None = None
    condition: str = "ok"
    decisions: int = 0
    notes: tuple[str, ...] = field(default=())
