"""A calibration on the machine itself: alternates smallest and largest rungs for half an hour and fits what the zones did."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence

import numpy as np

from .budget import Budget, Choice
from .calibration import Calibration, excitation, fit
from .config import GovernorError
from .decision import Decision
from .rungs import LadderInfo
from .zones import Reading, Zone

_GUARD = 8.0  # degC below a ceiling at which the smallest rungs run whatever the schedule says
_RELEASE = 15.0
_LEAST = 60  # good samples that a zone must have given


class CalibrationRun:
    """Open loop, with a guard: near a ceiling, or while no zone answers, the smallest rungs run.

    The first fifth (at most five minutes) runs the smallest rungs and is not recorded: what ran before is not known, and the
    fit takes the machine as settled at its beginning.

    Args:
        ladders: models. zones: control ones are calibrated.
        ceiling: of a zone, degC.
        seconds: length; 1500 are good, 60 the least.
        period: seconds between steps.
        absent: models that do not run.
        seed: of the schedule.

    Raises:
        GovernorError: no control zone, nothing to alternate, or too short.
    """

    def __init__(
        self,
        ladders: Sequence[LadderInfo],
        zones: Sequence[Zone],
        ceiling: Callable[[Zone], float],
        *,
        seconds: float = 1500.0,
        period: float = 0.5,
        absent: Collection[str] = (),
        seed: int = 0,
    ) -> None:
        self._budget = Budget(ladders, absent=frozenset(absent))
        self._ceiling = {zone.key: ceiling(zone) for zone in zones if zone.control}
        if not self._ceiling:
            raise GovernorError("no zone that could be calibrated: this machine is governed by latency")
        if seconds < 60:
            raise GovernorError(f"a calibration of {seconds:g} s is too short: 60 s are the least, 1500 s are good")
        self._large = tuple(
            small if ladder.model in self._budget.absent else Choice(max(ladder.allowed, key=lambda r: r.power_w).name)
            for ladder, small in zip(ladders, self._budget.smallest)
        )
        if self._large == self._budget.smallest:
            raise GovernorError("no model that runs has a larger rung than its smallest: there is nothing to calibrate with")
        self.seconds, self.period = seconds, period
        self.current = self._budget.smallest
        self._schedule = excitation(len(self._budget.units), 0.8 * seconds, seed)
        self._level: tuple[bool, ...] = (False,) * len(self._budget.units)
        self._until = 0.0  # of the schedule's present hold, seconds after settling
        self.settle = min(300.0, 0.2 * seconds)
        self._start: float | None = None
        self._guarded = False
        self._power: list[list[float]] = []
        self._celsius: list[list[float]] = []

    def done(self, now: float) -> bool:
        """The schedule is over."""
        return self._start is not None and now - self._start >= self.seconds

    def step(self, readings: Sequence[Reading], power: dict[str, float], now: float) -> list[Decision]:
        """One period.

        Args:
            readings: of all zones.
            power: unit to the declared watts of what runs now (a swap may be on its way).
            now: monotonic seconds.

        Returns:
            What to ask for.
        """
        self._start = now if self._start is None else self._start
        by_zone = {r.zone: r.celsius for r in readings}
        celsius = {key: by_zone.get(key) for key in self._ceiling}
        since = now - self._start - self.settle
        if since >= 0:
            self._power.append([power.get(unit, 0.0) for unit in self._budget.units])
            self._celsius.append([math.nan if v is None else v for v in celsius.values()])
        while since >= self._until - 1e-9:
            hold, self._level = next(self._schedule, (math.inf, self._level))
            self._until += hold
        known = [v - self._ceiling[key] for key, v in celsius.items() if v is not None]
        self._guarded = not known or max(known) > -(_RELEASE if self._guarded else _GUARD)
        combo = tuple(
            large if self._level[self._budget.units.index(ladder.unit)] and not self._guarded else small
            for ladder, large, small in zip(self._budget.ladders, self._large, self._budget.smallest)
        )
        before, self.current = self.current, combo
        why = "calibration: too warm for more" if self._guarded else "calibration"
        return [
            Decision(ladder.model, b.rung, a.rung, why, at=now)
            for ladder, b, a in zip(self._budget.ladders, before, combo)
            if b != a
        ]

    def result(self) -> Calibration:
        """The fit of what was recorded; zones that hardly answered are left out.

        Raises:
            GovernorError: too little was recorded, or power never changed.
        """
        power, celsius = np.array(self._power), np.array(self._celsius)
        keys = list(self._ceiling)
        good = [n for n in range(len(keys)) if np.isfinite(celsius[:, n]).sum() >= _LEAST]
        if not good:
            raise GovernorError("no zone answered during the calibration: look at bevstack thermal watch")
        moving = [u for u in range(power.shape[1]) if power[:, u].std() > 1e-9]
        if not moving:
            raise GovernorError("power never changed during the calibration: the nodes did not swap, or it was too warm")
        return fit(
            [keys[n] for n in good], [self._budget.units[u] for u in moving], power[:, moving], celsius[:, good],
            self.period, start=power[0, moving],
        )  # fmt: skip
