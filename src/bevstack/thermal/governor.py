"""What both policies share: sensors, ceilings, evidence, times between changes, and how a change becomes decisions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from .budget import Budget, Choice
from .config import GovernorConfig, GovernorError
from .decision import Decision, Mode, PolicyState, ZoneState
from .evidence import NO_EVIDENCE, Evidence
from .rungs import LadderInfo
from .sensors import SensorBank, ZoneTracker
from .watch import LatencyWatch
from .zones import Reading, Zone

Combo = tuple[Choice, ...]
_RECOVER = 0.5 / 3600.0  # degC per second by which a learnt ceiling comes back
_UNSUSTAINABLE_S = 60.0
_NEAR_CEILING = 12.0  # degC: slow items are a sign of heat where a zone is as near to its nominal ceiling as this
_COOLER = 5.0  # degC below where slow items were taken for throttling; if they are slow there as well, it was none
_SLOW_IN_THE_COOL_S = 30.0
_DOUBT_S = 600.0


@dataclass(frozen=True)
class Proposal:
    """What a rule wants: a combination, the reason, and the forecast with and without it."""

    combo: Combo
    why: str
    predicted_with: float | None = None
    predicted_without: float | None = None


class Ceilings:
    """Where each zone is taken to throttle: stated, else the lowest passive trip (else hot, else critical - 5), else the
    configured limit; lowered when throttling is seen below it, and slowly restored. What was only suspected, because items
    were slow, is dropped when they are slow in the cool as well."""

    def __init__(self, config: GovernorConfig) -> None:
        self._config = config
        self._stated = dict(config.ceilings)
        self._learnt: dict[str, tuple[float, float]] = {}  # zone: (ceiling, when)
        self._suspected: dict[str, tuple[float, float]] = {}

    def nominal(self, zone: Zone) -> float:
        """Without what was learnt."""
        if zone.key in self._stated:
            return self._stated[zone.key]
        for kind, back in (("passive", 0.0), ("hot", 0.0), ("critical", 5.0)):
            celsius = [trip.celsius - back for trip in zone.trips if trip.kind == kind]
            if celsius:
                return min(min(celsius), self._config.ceiling)
        return self._config.ceiling

    def of(self, zone: Zone, now: float) -> float:
        """Now."""
        learnt = (table[zone.key] for table in (self._learnt, self._suspected) if zone.key in table)
        return min([self.nominal(zone), *(ceiling + _RECOVER * (now - when) for ceiling, when in learnt)])

    def learn(self, zone: Zone, celsius: float, now: float, proved: bool = True) -> bool:
        """Throttling was seen, or (not ``proved``) suspected, while the zone read this; True if that lowers its ceiling."""
        ceiling = celsius - 2.0
        if ceiling >= self.of(zone, now):
            return False
        (self._learnt if proved else self._suspected)[zone.key] = (ceiling, now)
        return True

    def absolves(self, zone: Zone, celsius: float) -> bool:
        """Items are slow at this temperature, and it is much lower than where that was taken for throttling."""
        return zone.key in self._suspected and celsius < self._suspected[zone.key][0] + 2.0 - _COOLER

    def forget(self, zone: Zone) -> None:
        """Drop what was only suspected."""
        self._suspected.pop(zone.key, None)


class Governor(ABC):
    """Base of the policies. One instance, one thread."""

    def __init__(self, ladders: Sequence[LadderInfo], zones: Sequence[Zone], *, config: GovernorConfig | None = None) -> None:
        self.config = config or GovernorConfig()
        self.budget = Budget(ladders)
        self.sensors = SensorBank(zones)
        self.ceilings = Ceilings(self.config)
        self.watch = LatencyWatch(self.budget.ladders, self.config.stretch, self.config.stretch_s)
        self.current: Combo = self.budget.smallest
        self.mode = Mode.BANDS
        self.condition = "ok"
        self.notes: tuple[str, ...] = ()
        self.decisions = 0
        self._now: float | None = None
        self._started: float | None = None
        self._valid_since: float | None = None
        self._blind_since: float | None = None
        self._changed_down = self._changed_up = -1e9
        self._calm_since = -1e9
        self._back_off = 1.0
        self._no_up_until = -1e9
        self._throttled_at = -1e9
        self._over_since: float | None = None
        self._quarantine: dict[tuple[str, str], float] = {}
        self._slow_in_the_cool: float | None = None
        self._latency_doubted_until = -1e9

    # What callers tell.

    def set_zones(self, zones: Sequence[Zone]) -> None:
        """After zones were found again: trips and units may have changed."""
        self.sensors.set_zones(zones)

    def set_absent(self, models: Collection[str]) -> None:
        """Models that do not run now (their nodes are not there): they heat nothing, and nothing is decided for them. One that
        comes back starts at its smallest rung.

        Raises:
            GovernorError: no such model.
        """
        absent = frozenset(models)
        for model in absent:
            self._ladder_number(model)
        if absent == self.budget.absent:
            return
        changed = absent ^ self.budget.absent
        self.budget = Budget(self.budget.ladders, self.budget.units, absent=absent)
        self.current = tuple(
            small if ladder.model in changed else c
            for ladder, small, c in zip(self.budget.ladders, self.budget.smallest, self.current)
        )

    def observe(self, model: str, rung: str, rate: float = 1.0) -> None:
        """What a node really runs, if it differs from what was asked (set by hand, or a swap that did not happen).

        Raises:
            GovernorError: no such model. LadderError: no such rung.
        """
        n = self._ladder_number(model)
        self.budget.ladders[n].rung(rung)
        self.current = (*self.current[:n], Choice(rung, rate), *self.current[n + 1 :])

    def reject(self, model: str, rung: str, now: float, why: str = "") -> None:
        """A rung failed to load or to run: not to be asked for again for ``config.quarantine_s``. The smallest is never
        locked out."""
        n = self._ladder_number(model)
        ladder = self.budget.ladders[n]
        if ladder.rung(rung).name != ladder.smallest.name:
            self._quarantine[model, rung] = now + self.config.quarantine_s

    def absolve(self, model: str, rung: str) -> None:
        """A rung that was taken for failed runs after all."""
        self._quarantine.pop((model, rung), None)

    def _ladder_number(self, model: str) -> int:
        for n, ladder in enumerate(self.budget.ladders):
            if ladder.model == model:
                return n
        raise GovernorError(f"no ladder {model}: known are {', '.join(ladder.model for ladder in self.budget.ladders)}")

    # One period.

    def step(
        self,
        readings: Sequence[Reading],
        latencies: Mapping[str, Sequence[float]],
        now: float,
        evidence: Evidence = NO_EVIDENCE,
    ) -> list[Decision]:
        """One period.

        Args:
            readings: of all zones, any order; zones without a reading count as silent.
            latencies: model to the busy times (ms) of the items that it finished since the last step; may be empty.
            now: monotonic seconds; a step back is an error of the caller.
            evidence: of throttling, if somebody looked.

        Returns:
            Changes to ask for, possibly none.
        """
        if self._now is not None and now < self._now:
            raise GovernorError(
                f"the governor's clock went back from {self._now:.3f} to {now:.3f} s: give it a monotonic clock"
            )
        elapsed = 0.0 if self._now is None else now - self._now
        self._now = now
        if self._started is None:
            self._started = now
        self.notes = ()
        self._advance(elapsed, now)
        self.sensors.step(readings, now, self._driven(), self.config.stale_s)
        self._correct(now)
        cool = all(t.celsius is not None and t.celsius < self.ceilings.of(t.zone, now) - 10 for t in self.sensors.trusted)
        self.watch.step(latencies, {ladder.model: c.rung for ladder, c in zip(self.budget.ladders, self.current)}, now, cool)
        throttled = self._throttling(evidence, now)
        if self.sensors.trusted:
            self._valid_since = now if self._valid_since is None else self._valid_since
            self._blind_since = None
        else:
            self._valid_since = None
            self._blind_since = now if self._blind_since is None else self._blind_since
        return self._apply(self._propose(throttled, now), now)

    def state(self) -> PolicyState:
        """Snapshot after the last step."""
        now = self._now if self._now is not None else 0.0
        zones = []
        tightest: float | None = None
        for tracker in self.sensors.trackers.values():
            ceiling = self.ceilings.of(tracker.zone, now)
            celsius = tracker.celsius if tracker.trusted else None
            predicted, innovation = self._outlook(tracker.zone.key)
            zones.append(ZoneState(tracker.zone.key, celsius, tracker.health, ceiling, predicted, innovation))
            if celsius is not None:
                room = (ceiling - celsius) / 40.0
                tightest = room if tightest is None else min(tightest, room)
        names = [ladder.model for ladder in self.budget.ladders]
        return PolicyState(
            at=now, mode=self.mode, zones=tuple(zones),
            rungs={model: c.rung for model, c in zip(names, self.current)},
            rates={model: c.rate for model, c in zip(names, self.current)},
            time_to_throttle=self._time_to_throttle(), headroom=tightest, condition=self.condition,
            decisions=self.decisions, notes=self.notes,
        )  # fmt: skip

    # What a policy adds.

    @abstractmethod
    def _propose(self, throttled: frozenset[str], now: float) -> Proposal | None:
        """The rule: None keeps everything."""

    def _advance(self, elapsed: float, now: float) -> None:  # noqa: B027 (bands have no model)
        """Model time passes."""

    def _correct(self, now: float) -> None:  # noqa: B027
        """The model learns from the sensors."""

    def _driven(self) -> dict[str, float]:
        """Zone to degC that the present loads explain."""
        return {}

    def _outlook(self, key: str) -> tuple[float | None, float | None]:
        return None, None

    def _time_to_throttle(self) -> float | None:
        return None

    # Rules that both policies use.

    def _affected(self, zone: Zone) -> set[str]:
        """Our units that heat a zone; all of them where that is not known."""
        mine = set(zone.units) & set(self.budget.units)
        return mine if mine and "soc" not in zone.units else set(self.budget.units)

    def _throttling(self, evidence: Evidence, now: float) -> frozenset[str]:
        """Units that are slowed down by heat; learns ceilings; names power and contention for what they are."""
        units: set[str] = set()
        known = set(self.budget.units)
        for unit in evidence.thermal:
            units |= {unit} & known or known
        proved = frozenset(units)
        condition = "ok"
        if evidence.power:
            condition = f"POWER: {'; '.join(evidence.lines)}: not heat, rungs stay"
        absolved: set[str] = set()
        for model in self.watch.slowed(now):
            unit = self.budget.ladders[self._ladder_number(model)].unit
            near = [t for t in self.sensors.trusted if unit in self._affected(t.zone)]
            hot = any((t.celsius or 0.0) > self.ceilings.nominal(t.zone) - _NEAR_CEILING for t in near)
            if unit in units or evidence.power:
                continue
            if not near or (hot and now >= self._latency_doubted_until):
                units.add(unit)
                continue
            absolved |= {t.zone.key for t in near if self.ceilings.absolves(t.zone, t.celsius or 0.0)}
            if condition == "ok":
                why = "and did so in the cool" if hot else "and nothing is hot"
                condition = f"CONTENTION: {model} takes {self.watch.ratio(model) or 0:.2f} times what it should, {why}"
        self._acquit(absolved, now)
        if units:
            condition = f"THERMAL: {', '.join(sorted(units))} slowed down ({'; '.join(evidence.lines) or 'measured latency'})"
            self._throttled_at = now
            self._no_up_until = max(self._no_up_until, now + self.config.throttle_hold_s)
            # The hottest zone of the unit tells where the limit really is; the others were merely there.
            for unit in units:
                near = [t for t in self.sensors.trusted if unit in self._affected(t.zone) and t.celsius is not None]
                if near:
                    hottest = min(near, key=lambda t: self.ceilings.of(t.zone, now) - (t.celsius or 0.0))
                    if self.ceilings.learn(hottest.zone, float(hottest.celsius or 0.0), now, unit in proved):
                        self.notes += (f"throttling seen at {hottest.celsius:.1f} degC: ceiling of {hottest.zone.key} lowered",)
        self.condition = condition
        return frozenset(units)

    def _acquit(self, zones: set[str], now: float) -> None:
        """Heat was suspected of slow items, but they stay slow where it is cool: another program has the processor. Without
        this a busy machine would learn a lower ceiling again and again."""
        if not zones:
            self._slow_in_the_cool = None
            return
        self._slow_in_the_cool = now if self._slow_in_the_cool is None else self._slow_in_the_cool
        if now - self._slow_in_the_cool < _SLOW_IN_THE_COOL_S:
            return
        self._slow_in_the_cool, self._latency_doubted_until = None, now + _DOUBT_S
        for tracker in self.sensors.trusted:
            if tracker.zone.key in zones:
                self.ceilings.forget(tracker.zone)
                self.notes += (f"items are slow in the cool, too: ceiling of {tracker.zone.key} is what it was",)

    def _neighbour_down(self, units: set[str]) -> Combo | None:
        """The single step down that costs the least utility and takes load off one of the units; if there is none, off any."""
        steps = [(n, combo) for n in range(len(self.current)) if (combo := self.budget.lower(self.current, n)) is not None]
        first = [combo for n, combo in steps if self.budget.ladders[n].unit in units]
        return max(first or [combo for _, combo in steps], key=self.budget.utility_of, default=None)

    def _neighbour_up(self, units: set[str], now: float) -> Combo | None:
        """The single step up that gains the most utility, on units where one is allowed; None if there is none."""
        locked = self._locked(now)
        steps = []
        for n, ladder in enumerate(self.budget.ladders):
            combo = self.budget.higher(self.current, n)
            if combo is None or ladder.unit not in units or (ladder.model, combo[n].rung) in locked:
                continue
            if self.config.period_ms is not None and self.budget.busy_of(combo).max() * 1.1 > self.config.period_ms:
                continue
            steps.append(combo)
        return max(steps, key=self.budget.utility_of, default=None)

    def _locked(self, now: float) -> set[tuple[str, str]]:
        self._quarantine = {pair: until for pair, until in self._quarantine.items() if until > now}
        return set(self._quarantine)

    def _bottom(self) -> Combo:
        """Smallest rungs, each no faster than it runs now."""
        return tuple(Choice(small.rung, min(c.rate, 1.0)) for small, c in zip(self.budget.smallest, self.current))

    def _emergency(self, now: float) -> Proposal | None:
        """A sample within one degree of a ceiling: smallest now, whatever the dwell times say."""
        for tracker in self.sensors.trusted:
            ceiling = self.ceilings.of(tracker.zone, now)
            hottest = max(tracker.celsius or -273.0, (tracker.raw if tracker.fresh else None) or -273.0)
            if hottest >= ceiling - 1.0 and self.current != self._bottom():
                return Proposal(self._bottom(), f"{tracker.zone.key} reads {hottest:.1f} degC, ceiling {ceiling:.1f}")
        return None

    def _stale(self, now: float) -> Proposal | None:
        """No sensor answers and no model carries us: freeze, then one rung down every few seconds, then smallest."""
        since = now - (self._blind_since if self._blind_since is not None else now)
        since += self.config.stale_s  # trackers are lost after this much silence
        self.mode = Mode.STALE
        self.condition = f"DEGRADED: no sensor for {since:.0f} s"
        if self.current == self._bottom():
            return None
        if since >= self.config.stale_floor_s:
            return Proposal(self._bottom(), f"no sensor for {since:.0f} s")
        if since >= self.config.stale_step_s and now - self._changed_down >= self.config.stale_step_s:
            combo = self._neighbour_down(set(self.budget.units))
            return Proposal(combo, f"no sensor for {since:.0f} s") if combo is not None else None
        return None

    def _by_latency(self, throttled: frozenset[str], now: float) -> Proposal | None:
        """A machine without zones: slow items are the only sign of heat, unless the kernel tells that it throttles."""
        self.mode = Mode.LATENCY
        slowed = {self.budget.ladders[self._ladder_number(model)].unit for model in self.watch.slowed(now)} | throttled
        if slowed:
            self._no_up_until = now + self.config.throttle_hold_s
            if now - self._changed_down >= self.config.stretch_s + 1.0:
                combo = self._neighbour_down(slowed)
                if combo is not None and all(c.rate == 1.0 for c in combo):
                    return Proposal(combo, f"{', '.join(sorted(slowed))} slower than expected")
            return None
        if self._may_go_up(now):
            combo = self._neighbour_up(set(self.budget.units), now)
            if combo is not None:
                return Proposal(combo, "items are as fast as expected")
        return None

    def _may_go_up(self, now: float) -> bool:
        started = self._started if self._started is not None else now
        first = self._valid_since if self._valid_since is not None else started
        for tracker in self.sensors.trusted:
            # Silent for a moment: nothing is known until it is lost or answers again. And no filter delays a hot sample.
            if not tracker.fresh or (tracker.raw or 0.0) >= self.ceilings.of(tracker.zone, now) - 1.0:
                return False
        return (
            now - first >= self.config.first_up_s
            and now >= self._no_up_until
            and now - self._changed_up >= self.config.dwell_up_s * self._back_off
            and now - self._changed_down >= self.config.dwell_up_s * self._back_off
        )

    def _note_sustainability(self, hottest_over: float, now: float) -> None:
        """Says so when even the smallest rungs are too hot for a minute.

        Args:
            hottest_over: of the tightest zone, degC above its target.
        """
        small = all(c.rung == s.rung for c, s in zip(self.current, self.budget.smallest))
        if hottest_over > 0 and small:
            self._over_since = now if self._over_since is None else self._over_since
            if now - self._over_since >= _UNSUSTAINABLE_S and self.condition == "ok":
                self.condition = f"UNSUSTAINABLE: {hottest_over:.1f} degC above target at the smallest rungs"
        else:
            self._over_since = None

    def _apply(self, proposal: Proposal | None, now: float) -> list[Decision]:
        if proposal is None or proposal.combo == self.current:
            return []
        before, after = self.current, proposal.combo
        rises = self.budget.power_of(after).sum() > self.budget.power_of(before).sum()
        if rises:
            self._changed_up = now
        else:
            # An up-shift that did not last makes the next one wait longer.
            if now - self._changed_up < self.config.undone_s:
                self._back_off = min(self._back_off * 2.0, self.config.back_off_max)
                self._calm_since = now
            self._changed_down = now
        if now - self._calm_since > 300.0:
            self._back_off = 1.0
        self.current = after
        made = [
            Decision(
                ladder.model, b.rung, a.rung, proposal.why, proposal.predicted_with, proposal.predicted_without,
                b.rate, a.rate, now,
            )
            for ladder, b, a in zip(self.budget.ladders, before, after) if b != a
        ]  # fmt: skip
        self.decisions += len(made)
        return made

    def _over(self, tracker: ZoneTracker, now: float, margin: float) -> float:
        """Degrees above ceiling - margin (negative: below)."""
        return float(tracker.celsius or 0.0) - (self.ceilings.of(tracker.zone, now) - margin)
