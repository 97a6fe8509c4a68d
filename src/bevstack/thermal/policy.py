"""The governor's policy: which rung each model runs, decided once per period from readings, latencies and evidence.

Predictive: a calibrated thermal model forecasts every combination of rungs for 90 s; the best one that stays below the
target runs.
The target is the ceiling minus a margin that grows with what other loads have been seen to do and shrinks in calm. The bands
of the plain policy take over without a model, or while the model check says that it is wrong.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np
from numpy.typing import NDArray

from .bands import BandPolicy
from .calibration import Calibration
from .config import GovernorConfig, GovernorError
from .decision import Decision, Mode, PolicyState, ZoneState
from .governor import Proposal
from .model import HORIZONS, ThermalModel
from .rungs import LadderInfo
from .sensors import ZoneTracker
from .zones import Zone

__all__ = ["Decision", "GovernorConfig", "GovernorError", "Mode", "Policy", "PolicyState", "ZoneState"]

Floats = NDArray[np.float64]
_SURGE_S = 4.0  # seconds over which a surge is measured: it comes slowly through a lagging sensor and the filter
_SURGE_NOISE = 1.0  # degC of it that sensors make by themselves
_JUMP = 8.0  # degC within one sample that no die can do
_LOW = 6.0  # degC that a zone may read below what its siblings imply
_BLIND_DRIFT = 3.0 / 60.0  # degC per second of extra margin without any sensor: weather and sun may do that
_LATE = HORIZONS >= 20.0
_NEAR = HORIZONS <= 30.0
_PROBE_S = 20.0
_BASE_FALL_S, _BASE_RISE = 5.0, 0.05  # s; degC per second
_RATE_AT = 0.7  # degC below the ceiling at which the rate becomes a lever


@dataclass
class _Memory:
    """What the policy keeps per modelled zone."""

    offsets: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=16))
    reserve: float = 0.0
    base: float = 0.0  # the offset without what surges add to it now
    innovation: float | None = None
    restart: bool = True
    jumped: bool = False
    last: float | None = None


class Policy(BandPolicy):
    """Predictive governor with the band policy as its fallback.

    Args:
        ladders: models that share the budget.
        zones: sensors (`zones.discover`); empty governs by latency alone.
        calibration: thermal model; None governs by bands.
        config: limits and times.

    Every model starts at its smallest allowed rung: the caller sets the nodes to `state().rungs` first.
    """

    def __init__(
        self,
        ladders: Sequence[LadderInfo],
        zones: Sequence[Zone],
        *,
        calibration: Calibration | None = None,
        config: GovernorConfig | None = None,
    ) -> None:
        super().__init__(ladders, zones, config=config)
        self.calibration = calibration
        self._trusted = True
        self._distrust = ""
        self.model = ThermalModel(calibration, self.budget.units) if calibration is not None else None
        self._memory = {key: _Memory(reserve=self.config.reserve) for key in (self.model.zones if self.model else ())}
        self._probe_until: float | None = None
        self._probe_after = 60.0
        self._probed_at = -1e9
        self._forecast: Floats | None = None  # (Z, H) of the present combination

    @property
    def model_trusted(self) -> bool:
        """False: the calibrated model is not used (bands govern) until `trust_model` says otherwise."""
        return self._trusted

    def trust_model(self, trusted: bool, why: str = "") -> None:
        """The model check's verdict; ``why`` is shown as the condition while it is not trusted."""
        self._trusted, self._distrust = trusted, why

    # The model follows.

    def _advance(self, elapsed: float, now: float) -> None:
        if self.model is None:
            return
        self.model.advance(self.budget.power_of(self.current), elapsed)
        fade = 0.5 ** (elapsed / self.config.reserve_half_life_s)
        for memory in self._memory.values():
            memory.reserve = max(self.config.reserve_least, memory.reserve * fade)
        self._follow_base(elapsed)

    def _driven(self) -> dict[str, float]:
        return {} if self.model is None else dict(zip(self.model.zones, map(float, self.model.driven())))

    def _correct(self, now: float) -> None:
        model = self.model
        if model is None:
            return
        driven = model.driven()
        before = model.offset.copy()
        innovations = {
            n: tracker.raw - before[n] - driven[n]
            for key, n in model.number.items()
            if (tracker := self.sensors.trackers.get(key)) is not None
            and tracker.trusted
            and tracker.fresh
            and tracker.raw is not None
        }
        for key, n in model.number.items():
            memory, tracker = self._memory[key], self.sensors.trackers.get(key)
            memory.innovation = None
            if n not in innovations or tracker is None or tracker.raw is None:
                continue
            if memory.restart:
                model.restart(n, tracker.raw, driven[n])
                memory.restart, memory.jumped = False, False
                memory.offsets.clear()
                memory.base = float(model.offset[n])
                continue
            others = [e for m, e in innovations.items() if m != n and not self._memory[model.zones[m]].restart]
            if self._is_jump(memory, tracker, innovations[n], others):
                continue
            memory.innovation = model.correct(n, tracker.raw, driven[n])
            self._surge(memory, float(model.offset[n]), now, tracker.quantum)
        self._carry_silent(before)

    def _follow_base(self, elapsed: float) -> None:
        """The base falls with the offset at once and follows it upwards no faster than weather does."""
        model = self.model
        assert model is not None
        for key, n in model.number.items():
            memory, offset = self._memory[key], float(model.offset[n])
            if offset < memory.base:
                memory.base += (1 - math.exp(-elapsed / _BASE_FALL_S)) * (offset - memory.base)
            else:
                memory.base = min(offset, memory.base + _BASE_RISE * elapsed)

    def _is_jump(self, memory: _Memory, tracker: ZoneTracker, innovation: float, others: list[float]) -> bool:
        """A step that no die can make is the sensor's: believed only where nothing contradicts it and it errs to the hot
        side."""
        raw = float(tracker.raw or 0.0)
        stepped = memory.last is not None and abs(raw - memory.last) > _JUMP
        memory.last = raw
        if memory.jumped and abs(innovation) < 4.0:
            memory.jumped = False
        elif not memory.jumped and stepped and abs(innovation) > _JUMP:
            calm = [e for e in others if abs(e) < 2.0]
            memory.jumped = innovation < 0 or bool(calm)
        if memory.jumped:
            tracker.trusted = False
            tracker.health = f"jumped (reads {innovation:+.1f} degC off what load and siblings imply)"
        return memory.jumped

    def _surge(self, memory: _Memory, offset: float, now: float, quantum: float) -> None:
        """Heat that is not ours and came quickly: the margin must hold the next one of its kind."""
        memory.offsets.append((now, offset))
        while memory.offsets and now - memory.offsets[0][0] > _SURGE_S:
            memory.offsets.popleft()
        surge = offset - min(value for _, value in memory.offsets) - _SURGE_NOISE - 0.5 * quantum
        if surge > 0:
            memory.reserve = max(memory.reserve, min(1.2 * surge + 0.5, self.config.reserve_max))

    def _carry_silent(self, before: Floats) -> None:
        """Zones that cannot be believed move with the offsets of those that can."""
        model = self.model
        if model is None:
            return
        seen: list[int] = []
        silent: list[int] = []
        for key, n in model.number.items():
            tracker = self.sensors.trackers.get(key)
            (seen if tracker is not None and tracker.trusted else silent).append(n)
        for n in silent:
            memory = self._memory[model.zones[n]]
            memory.offsets.clear()
            if not memory.jumped:
                memory.restart = True
            if seen:
                model.shift(n, float(np.mean(model.offset[seen] - before[seen])))
            elif self._now is not None:
                pass  # nobody knows: the margin grows instead (`_margins`)

    # What it leads to.

    def _margins(self, now: float) -> tuple[list[int], Floats, Floats]:
        """Numbers of the zones to steer by, their ceilings and targets."""
        model = self.model
        assert model is not None
        numbers, ceilings, targets = [], [], []
        blind = 0.0 if self._blind_since is None else now - self._blind_since
        steepest = float(model.slope().max(initial=0.0))
        for key, n in model.number.items():
            tracker = self.sensors.trackers.get(key)
            if tracker is None or (tracker.good_at is None and not tracker.trusted):
                continue  # never answered: a unit that is switched off
            ceiling = self.ceilings.of(tracker.zone, now)
            # A surge that is here already is in the offset: the margin is for the one that is not.
            memory = self._memory[key]
            margin = self.config.margin + max(0.0, memory.reserve - max(0.0, float(model.offset[n]) - memory.base))
            if not tracker.trusted:
                margin += self.config.lost_margin + blind * (_BLIND_DRIFT + 0.5 * steepest)
            else:
                margin += self._shortfall(n)
            numbers.append(n)
            ceilings.append(ceiling)
            targets.append(ceiling - margin)
        return numbers, np.array(ceilings), np.array(targets)

    def _shortfall(self, n: int) -> float:
        """Degrees by which a zone reads lower than its siblings allow for: a sensor that drifts away downwards."""
        model = self.model
        assert model is not None
        assert self.calibration is not None
        rise = model.offset - self.calibration.offset
        others = [
            float(rise[m]) for key, m in model.number.items()
            if m != n and (t := self.sensors.trackers.get(key)) is not None and t.trusted
        ]  # fmt: skip
        return max(0.0, median(others) - float(rise[n]) - _LOW) if others else 0.0

    def _usable(self) -> bool:
        """The model can carry the decision: trusted, and it knows every control zone that answers."""
        if self.model is None or not self._trusted:
            return False
        if any(tracker.zone.key not in self.model.number for tracker in self.sensors.trusted):
            return False
        return any(tracker.good_at is not None for tracker in self.sensors.trackers.values())

    def _propose(self, throttled: frozenset[str], now: float) -> Proposal | None:
        self._forecast = None
        if not self.sensors.trackers or not self._usable():
            if self.model is not None and not self._trusted and self.condition == "ok":
                self.condition = f"DEGRADED: thermal model not trusted{': ' + self._distrust if self._distrust else ''}"
            return self._bands(throttled, now)
        return self._predictive(throttled, now)

    def _predictive(self, throttled: frozenset[str], now: float) -> Proposal | None:
        model = self.model
        assert model is not None
        blind = not self.sensors.trusted
        self.mode = Mode.BLIND if blind else Mode.PREDICTIVE
        lost = [t for t in self.sensors.trackers.values() if not t.trusted and t.good_at is not None]
        if lost and self.condition == "ok":
            self.condition = f"DEGRADED: {lost[0].zone.key} {lost[0].health}"
        numbers, ceilings, targets = self._margins(now)
        if not numbers:
            return self._bands(throttled, now)
        present = model.forecast(self.budget.power_of(self.current)[None])[0]
        self._forecast = present
        expected = model.expected()[numbers]
        without = float(present[numbers].max())
        self._note_sustainability(float((expected - ceilings).max()) + 1.0, now)

        urgent = self._emergency(now) or self._rush(now)
        if urgent is not None:
            return self._with_forecast(urgent, without)
        may_go_down = now - self._changed_down >= self.config.dwell_down_s
        over = expected - targets
        soon = (present[numbers][:, ~_LATE] - targets[:, None]).max(axis=1)
        worst = int(np.argmax(np.maximum(over, soon)))
        if throttled and may_go_down:
            combo = self._neighbour_down(set(throttled))
            if combo is not None:
                return self._with_forecast(Proposal(combo, f"{', '.join(sorted(throttled))} is being throttled"), without)
        if max(over[worst], soon[worst]) > 0 and self._small():
            # Nothing smaller is left but the rate, and that is for the ceiling's sake alone.
            near = (present[numbers][:, ~_LATE] - ceilings[:, None]).max()
            return self._slower(numbers, ceilings, without) if may_go_down and near > -_RATE_AT else None
        if max(over[worst], soon[worst]) > 0:
            if not may_go_down:
                return None
            key = model.zones[numbers[worst]]
            verb = "is" if over[worst] > 0 else "would be"
            why = f"{key} {verb} above its target of {targets[worst]:.1f} degC"
            return self._down(numbers, ceilings, targets, why, without)
        probe = self._probing(now, without)
        if probe is not None or self._probe_until is not None:
            return probe
        if self._may_go_up(now) and not blind and not self._reads_hot(numbers, targets):
            return self._up(numbers, ceilings, targets, now, without)
        return None

    def _reads_hot(self, numbers: list[int], targets: Floats) -> bool:
        """A believed sensor is above its target, whatever the model makes of it."""
        assert self.model is not None
        limits = {self.model.zones[n]: float(target) for n, target in zip(numbers, targets)}
        return any(
            max(tracker.celsius or -273.0, tracker.raw or -273.0) > limits.get(tracker.zone.key, 1e9)
            for tracker in self.sensors.trusted
        )

    def _small(self) -> bool:
        """Every model runs its smallest rung."""
        return all(c.rung == s.rung for c, s in zip(self.current, self.budget.smallest))

    def _down(self, numbers: list[int], ceilings: Floats, targets: Floats, why: str, without: float) -> Proposal | None:
        """The best combination with less power that ends up below the target; if there is none, the smallest rungs."""
        model = self.model
        assert model is not None
        budget = self.budget
        forecast = model.forecast(budget.power)[:, numbers]
        limits = targets - 0.5
        late = (forecast[:, :, _LATE] <= limits[:, None]).all(axis=(1, 2))
        # On the way there it may not become hotter than it is, or than the limit.
        bound = np.maximum(limits, model.expected()[numbers]) + 0.3
        early = (forecast[:, :, ~_LATE] <= bound[:, None]).all(axis=(1, 2))
        less = budget.total < budget.power_of(self.current).sum() - 1e-9
        allowed = budget.allowed(self._locked(self._now or 0.0), self.config.period_ms)
        good = less & late & early & allowed & budget.full_rate
        chosen = int(np.argmax(good)) if good.any() else budget.index[budget.smallest]  # best utility first
        return Proposal(budget.choices[chosen], why, float(forecast[chosen].max()), without)

    def _slower(self, numbers: list[int], ceilings: Floats, without: float) -> Proposal | None:
        """The second lever: the best rates that keep the smallest rungs off the ceiling for the near future."""
        model = self.model
        assert model is not None
        budget = self.budget
        forecast = model.forecast(budget.power)[:, numbers]
        less = np.flatnonzero(~budget.full_rate & (budget.total < budget.power_of(self.current).sum() - 1e-9))
        if not len(less):
            return None
        good = (forecast[less][:, :, _NEAR] <= ceilings[:, None] - _RATE_AT - 0.3).all(axis=(1, 2))
        chosen = int(less[np.argmax(good)]) if good.any() else int(less[np.argmin(budget.total[less])])
        return Proposal(
            budget.choices[chosen], "even the smallest rungs reach the ceiling", float(forecast[chosen].max()), without
        )

    def _up(self, numbers: list[int], ceilings: Floats, targets: Floats, now: float, without: float) -> Proposal | None:
        model = self.model
        assert model is not None
        budget = self.budget
        better = budget.utility > budget.utility_of(self.current) + 1e-6
        better &= budget.allowed(self._locked(now), self.config.period_ms)
        better &= self._rises_only_where_seen(now)
        candidates = np.flatnonzero(better)
        if not len(candidates):
            return None
        forecast = model.forecast(budget.power[candidates])[:, numbers]
        forecast = forecast[:, :, self.config.up_horizon_s >= HORIZONS]
        limits = np.repeat(targets[None] - self.config.up_margin, len(candidates), axis=0)
        if not all(c.rate == 1.0 for c in self.current):
            # Rates come back before rungs do, and need less room.
            small = budget.total[candidates] <= budget.power_of(budget.smallest).sum() + 1e-9
            limits[small] = np.maximum(limits[small], ceilings - _RATE_AT - 1.0)
        good = (forecast <= limits[:, :, None]).all(axis=(1, 2))
        if not good.any():
            return None
        best = int(np.argmax(good))
        tightest = int(np.argmin((limits[best][:, None] - forecast[best]).min(axis=1)))
        why = f"{model.zones[numbers[tightest]]} has room below its target of {targets[tightest]:.1f} degC"
        return Proposal(budget.choices[int(candidates[best])], why, float(forecast[best].max()), without)

    def _rises_only_where_seen(self, now: float) -> NDArray[np.bool_]:
        """(C,) combinations that add load only to units with a believable sensor of their own."""
        seen: set[str] = set()
        for tracker in self.sensors.trusted:
            seen |= self._affected(tracker.zone)
        power = self.budget.power_of(self.current)
        unseen = [n for n, unit in enumerate(self.budget.units) if unit not in seen]
        return np.asarray((self.budget.power[:, unseen] <= power[unseen] + 1e-9).all(axis=1), np.bool_)

    def _rush(self, now: float) -> Proposal | None:
        """A zone that runs away from the forecast so fast that it would be at its ceiling in a second."""
        for tracker in self.sensors.trusted:
            memory = self._memory.get(tracker.zone.key)
            if memory is None or memory.innovation is None or tracker.raw is None or not tracker.fresh:
                continue
            ceiling = self.ceilings.of(tracker.zone, now)
            running_away = memory.innovation > 1.5 + tracker.quantum and tracker.raw + memory.innovation >= ceiling - 0.5
            if running_away and self.current != self._bottom():
                rise = f"{tracker.zone.key} rose {memory.innovation:.1f} degC more than expected to {tracker.raw:.1f}"
                return Proposal(self._bottom(), rise)
        return None

    def _probing(self, now: float, without: float) -> Proposal | None:
        """A value that has not moved for suspiciously long is tested: a smaller rung for a moment must move it."""
        if self._probe_until is not None:
            still = [t for t in self.sensors.trusted if t.suspicious(now)]
            if not still:
                self._probe_until = None
                self._probe_after = min(self._probe_after * 2.0, 900.0)
            elif now >= self._probe_until:
                self._probe_until = None
            return None
        if now - self._probed_at < self._probe_after:
            return None
        suspects = [t for t in self.sensors.trusted if t.suspicious(now)]
        if not suspects or self.current == self._bottom():
            return None
        combo = self._bottom()
        self._probed_at = now
        self._probe_until = now + _PROBE_S
        seconds = suspects[0].still_for(now)
        return self._with_forecast(
            Proposal(combo, f"{suspects[0].zone.key} has not moved for {seconds:.0f} s: testing it"), without
        )

    def _with_forecast(self, proposal: Proposal, without: float) -> Proposal:
        model = self.model
        assert model is not None
        numbers = [n for key, n in model.number.items() if key in self.sensors.trackers]
        hottest = float(model.forecast(self.budget.power_of(proposal.combo)[None])[0, numbers].max())
        return Proposal(proposal.combo, proposal.why, hottest, without)

    # For state().

    def _outlook(self, key: str) -> tuple[float | None, float | None]:
        if self.model is None or key not in self.model.number:
            return None, None
        n = self.model.number[key]
        predicted = float(self._forecast[n].max()) if self._forecast is not None else None
        return predicted, self._memory[key].innovation

    def _time_to_throttle(self) -> float | None:
        if self.model is None or self._now is None or self._forecast is None:
            return None
        ceilings = np.full(len(self.model.zones), math.inf)
        for key, n in self.model.number.items():
            tracker = self.sensors.trackers.get(key)
            if tracker is not None and tracker.good_at is not None:
                ceilings[n] = self.ceilings.of(tracker.zone, self._now)
        return self.model.crossing(self.budget.power_of(self.current), ceilings)
