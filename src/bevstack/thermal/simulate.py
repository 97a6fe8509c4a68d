"""One scenario, one controller: the plant writes a fake sysfs tree, the real zone reader reads it, the policy decides.

A simulated clock: an hour takes seconds. Items arrive at a fixed period at every unit, wait in a queue of one (newest wins)
and are released at a fixed offset from capture, so a smaller rung does not make the output jitter; an item later than that is
late, an item that a newer one has replaced is lost.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bands import BandPolicy
from .budget import Budget, Choice
from .calibration import Calibration, excitation, fit
from .config import GovernorConfig
from .decision import Decision
from .evidence import NO_EVIDENCE, EvidenceReader
from .fake_sysfs import FakeSysfs
from .governor import Combo, Governor
from .plant import Plant, clock_stretch
from .policy import Policy
from .scenario import Event, Scenario, Sensor
from .zones import ZoneSet

Floats = NDArray[np.float64]
Observer = Callable[[float, Plant, "Governor | None"], None]
CONTROLLERS = ("fixed large", "bands", "ours")
_EVIDENCE_EVERY = 2  # steps between two looks at counters


@dataclass
class Result:
    """What a run did. Latencies are from capture to release, milliseconds; busy times without waiting.

    Attributes:
        throttled_s: seconds in which the kernel or the hardware slowed something down.
        quality: mean over all items that arrived of the priority-weighted relative rung quality; lost and left-out items
        count 0.
        lost: items that a newer one replaced in the queue. skipped: items left out on purpose (rate below 1).
        wall_s, cpu_s: time that the run took, and CPU time of it; `duration_s / wall_s` is the speed against real time.
    """

    controller: str
    duration_s: float
    throttled_s: float = 0.0
    hottest: float = -273.0
    p50: float = math.nan
    p95: float = math.nan
    p99: float = math.nan
    busy_p50: float = math.nan
    busy_p95: float = math.nan
    quality: float = 0.0
    swaps: int = 0
    swaps_failed: int = 0
    items: int = 0
    lost: int = 0
    skipped: int = 0
    late: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    decisions: list[Decision] = field(default_factory=list)
    conditions: list[str] = field(default_factory=list)

    @property
    def swaps_per_hour(self) -> float:
        """Rung or rate changes per simulated hour."""
        return self.swaps / self.duration_s * 3600.0

    @property
    def flatness(self) -> float:
        """p95 over p50 of the latency."""
        return self.p95 / self.p50 if self.p50 > 0 else math.nan


class _Sensors:
    """What the zones show: lag, offset, noise, quantisation, and faults that are about values."""

    def __init__(self, scenario: Scenario, plant: Plant, tree: FakeSysfs | None, seed: int) -> None:
        self._sensors = scenario.sensors
        self._tree = tree
        self._node = [plant.node[sensor.node] for sensor in scenario.sensors]
        self._lagged = [float(plant.temperatures[n]) for n in self._node]
        self._shown: list[float | None] = [None] * len(self._sensors)
        self._next = [0.0] * len(self._sensors)
        self._rng = np.random.default_rng(seed)
        self._noise: list[float] = []
        self._events = [event for event in scenario.events if event.kind == "sensor"]

    def _value(self, k: int, sensor: Sensor, true: float, now: float, dt: float, faults: Sequence[Event]) -> float:
        if sensor.lag_s > 0:
            self._lagged[k] += (1 - math.exp(-dt / sensor.lag_s)) * (true - self._lagged[k])
            true = self._lagged[k]
        value = true + sensor.offset_c
        noise = sensor.noise_c
        for event in faults:
            if event.fault == "offset":
                value += event.value
            elif event.fault == "drift":
                value += event.value * (now - event.at)
            elif event.fault == "noise":
                noise += event.value
            elif event.fault == "spike" and (now - event.at) % max(event.every, dt) < dt:
                value += event.value
        if not self._noise:
            self._noise = self._rng.standard_normal(4096).tolist()
        value += noise * self._noise.pop()
        return round(value / sensor.step_c) * sensor.step_c if sensor.step_c > 0 else value

    def show(self, plant: Plant, now: float, dt: float, faulty: bool = True) -> list[float]:
        """Writes the tree (if there is one) and returns the shown values, NaN where a file shows none."""
        values = []
        for k, sensor in enumerate(self._sensors):
            faults = [e for e in self._events if faulty and e.zone in (sensor.name, "all") and e.at <= now < e.until]
            true = float(plant.temperatures[self._node[k]])
            value = self._value(k, sensor, true, now, dt, faults)
            kinds = {event.fault for event in faults}
            shown = self._shown[k]
            if shown is not None and ("stuck" in kinds or now + 1e-9 < self._next[k]):
                value = shown
            else:
                self._next[k] = now + sensor.every_s
                stuck_at = next((e.value for e in faults if e.fault == "stuck" and e.value), None)
                value = value if stuck_at is None else stuck_at
            self._shown[k] = value
            if self._tree is not None:
                hidden = next((kind for kind in kinds if kind in _HIDING), None)
                self._tree.fault(sensor.name, hidden)
                if "negative" in kinds:
                    self._tree.write_number(sensor.name, -256000)
                elif "degrees" in kinds:
                    self._tree.write_number(sensor.name, round(value))
                else:
                    self._tree.write(sensor.name, value)
            values.append(value)
        return values


_HIDING = {"lost", "eagain", "error", "empty", "text", "disabled", "vanish"}


class _Items:
    """Arrival, queue of one, busy time and release of items on every unit."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self._s = scenario
        self.units = [chip.unit for chip in scenario.chips]
        self._models = [[m for m, model in enumerate(scenario.models) if model.ladder.unit == unit] for unit in self.units]
        self._rng = np.random.default_rng(seed)
        largest = [
            sum(max(rung.latency_ms for rung in scenario.models[m].ladder.rungs) for m in models) for models in self._models
        ]
        # Released when the largest combination would be done, with some air for its jitter.
        self.release_ms = (
            scenario.release_ms if scenario.release_ms is not None else max(largest) * (1.1 + 2 * scenario.latency_noise)
        )
        self._busy_until = [0.0] * len(self.units)
        self._waiting: list[int | None] = [None] * len(self.units)
        self._count = 0
        self._credit = [0.0] * len(scenario.models)
        total = sum(model.ladder.priority for model in scenario.models)
        self._weight = [model.ladder.priority / total for model in scenario.models]
        self._worth = [
            {rung.name: weight * rung.quality / model.ladder.rungs[0].quality for rung in model.ladder.rungs}
            for model, weight in zip(scenario.models, self._weight)
        ]
        self._noise: list[float] = []
        self._open: dict[int, list[Any]] = {}
        self.latencies: list[float] = []
        self.busy: list[float] = []
        self.quality = 0.0
        self.lost = self.skipped = self.late = 0
        self.recent: dict[str, list[float]] = {}

    def run(
        self, start: float, dt: float, clocks: Floats, active: Callable[[int, float], Choice], slow: dict[str, float]
    ) -> None:
        """One control step.

        Args:
            start, dt: seconds. clocks: (substeps, M).
            active: model number and time to what it runs then.
            slow: unit to a factor of another program's making.
        """
        period = self._s.period_ms / 1000.0
        self.recent = {model.ladder.model: [] for model in self._s.models}
        end = start + dt
        substep = dt / len(clocks)
        while self._count * period < end - 1e-9:
            arrival = self._count * period
            n = self._count
            self._count += 1
            self._open[n] = [arrival, 0.0, 0.0, 0.0, False, len(self.units)]
            for u in range(len(self.units)):
                # What was waiting goes first if its turn came before this arrival.
                self._drain(u, arrival, start, substep, clocks, active, slow)
                if self._busy_until[u] > arrival + 1e-9:
                    if self._waiting[u] is not None:
                        self._close(self._waiting[u], None, 0.0, 0.0)  # type: ignore[arg-type]
                    self._waiting[u] = n
                else:
                    self._work(u, n, arrival, start, substep, clocks, active, slow)
        for u in range(len(self.units)):
            self._drain(u, end, start, substep, clocks, active, slow)

    def _jitter(self) -> float:
        if not self._noise:
            self._noise = np.maximum(0.5, 1.0 + self._s.latency_noise * self._rng.standard_normal(4096)).tolist()
        return self._noise.pop()

    def _drain(self, u: int, until: float, *rest: Any) -> None:
        waiting = self._waiting[u]
        if waiting is not None and self._busy_until[u] < until:
            self._waiting[u] = None
            self._work(u, waiting, self._busy_until[u], *rest)

    def _work(
        self, u: int, n: int, at: float, start: float, substep: float, clocks: Floats,
        active: Callable[[int, float], Choice], slow: dict[str, float],
    ) -> None:  # fmt: skip
        k = min(max(int((at - start) / substep), 0), len(clocks) - 1)
        stretch = clock_stretch(clocks[k, u]) * slow.get(self.units[u], 1.0)
        busy, quality = 0.0, 0.0
        for m in self._models[u]:
            ladder = self._s.models[m].ladder
            choice = active(m, at)
            self._credit[m] += choice.rate
            if self._credit[m] < 1.0 - 1e-9:
                self.skipped += 1
                continue
            self._credit[m] -= 1.0
            rung = ladder.rung(choice.rung)
            took = rung.latency_ms * stretch * self._jitter()
            self.recent[ladder.model].append(took)
            busy += took
            quality += self._worth[m][choice.rung]
        self._busy_until[u] = at + busy / 1000.0
        self._close(n, self._busy_until[u], busy, quality)

    def _close(self, n: int, done: float | None, busy: float, quality: float) -> None:
        """One unit is through with item ``n`` (done None: it never got to it)."""
        item = self._open[n]
        item[5] -= 1
        if done is None:
            item[4] = True
        else:
            item[1] = max(item[1], done)
            item[2] = max(item[2], busy)
            item[3] += quality
        if item[5]:
            return
        del self._open[n]
        if item[4]:
            self.lost += 1
            return
        latency = (item[1] - item[0]) * 1000.0
        self.late += latency > self.release_ms
        self.latencies.append(max(latency, self.release_ms))
        self.busy.append(item[2])
        self.quality += item[3]

    @property
    def items(self) -> int:
        """Arrived and closed."""
        return len(self.latencies) + self.lost


def governor_config(scenario: Scenario) -> GovernorConfig:
    """The scenario's settings; its author is the integrator and so states the ceiling: the highest trip of its zones."""
    settings = dict(scenario.settings)
    if "ceiling" not in settings:
        passive = [celsius for sensor in scenario.sensors for celsius, kind in sensor.trips if kind == "passive"]
        settings["ceiling"] = max([95.0, *(c for c in passive if c <= 130.0)]) if passive else 95.0
    settings.setdefault("period_ms", scenario.period_ms)
    return GovernorConfig(**settings)


def zone_key(sensor: Sensor) -> str:
    """Key that `zones.discover` gives a scenario's zone."""
    return f"thermal:{sensor.name}" if sensor.via == "thermal" else f"hwmon:bevsim:{sensor.name}"


def zone_units(scenario: Scenario) -> dict[str, list[str]]:
    """Mapping for `zones.discover`: zones on a chip's node are on its unit, others on the board that all share."""
    on = {}
    for sensor in scenario.sensors:
        units = [chip.unit for chip in scenario.chips if chip.node == sensor.node]
        name = sensor.name if sensor.via == "thermal" else f"bevsim:{sensor.name}"
        on[re.escape(name)] = units or ["soc"]
    return on


def calibrate(scenario: Scenario) -> Calibration | None:
    """The plan's calibration on the scenario's plant: laboratory ambient, no events, alternating largest and smallest rungs.

    Cuts to the smallest near the trip, as a real calibration must.
    """
    plan = scenario.calibration
    if not plan.enabled or not scenario.sensors:
        return None
    dt = scenario.step_s
    steps = round(plan.duration_s / dt)
    plant = Plant(scenario, quiet=True, steps=steps)
    sensors = _Sensors(scenario, plant, None, scenario.seed + 1)
    budget = Budget(scenario.ladders)
    large = tuple(Choice(max(ladder.allowed, key=lambda r: r.power_w).name) for ladder in scenario.ladders)
    small = budget.smallest
    limit = min(chip.throttle.trip_c for chip in scenario.chips)
    power, celsius = np.zeros((steps, len(budget.units))), np.zeros((steps, len(scenario.sensors)))
    schedule = excitation(len(budget.units), plan.duration_s, scenario.seed)
    until, level, guard, k = 0.0, (False,) * len(budget.units), False, 0
    for k in range(steps):
        now = k * dt
        while now >= until - 1e-9:
            hold, level = next(schedule, (math.inf, level))
            until += hold
        hottest = max(float(plant.temperatures[plant.node[chip.node]]) for chip in scenario.chips)
        guard = hottest > limit - (12.0 if guard else 5.0)
        combo = tuple(
            large[m] if level[budget.units.index(ladder.unit)] and not guard else small[m]
            for m, ladder in enumerate(scenario.ladders)
        )
        plant.step(plant.powers([(c.rung, c.rate) for c in combo]))
        power[k] = budget.power_of(combo)
        celsius[k] = sensors.show(plant, now, dt, faulty=False)
    moving = [u for u in range(len(budget.units)) if power[:, u].std() > 1e-9]
    if not moving:
        return None
    names = [zone_key(sensor) for sensor in scenario.sensors]
    found = fit(names, [budget.units[u] for u in moving], power[:, moving], celsius, dt)
    return found.scaled(plan.scale)


def largest(scenario: Scenario) -> Combo:
    """Best rung of every model."""
    return tuple(Choice(ladder.rungs[0].name) for ladder in scenario.ladders)


def mean_quality(scenario: Scenario, combo: Sequence[Choice]) -> float:
    """Priority-weighted relative quality of a combination at full rate."""
    total = sum(ladder.priority for ladder in scenario.ladders)
    worth = [
        ladder.priority * ladder.rung(c.rung).quality / ladder.rungs[0].quality * c.rate
        for ladder, c in zip(scenario.ladders, combo)
    ]
    return sum(worth) / total


def best_fixed(scenario: Scenario) -> tuple[Combo | None, float]:
    """The combination of best mean quality that, held for the whole scenario, never throttles; by search, best first.

    Combinations that do not fit the item period are left out: they would lose items. Rungs below a ladder's floor, too.

    Returns:
        combination and its quality, or (None, 0.0) where even the smallest throttles.
    """
    budget = Budget(scenario.ladders)
    fits = budget.allowed(set(), scenario.period_ms)
    full = [combo for combo, ok, fit_ in zip(budget.choices, budget.full_rate, fits) if ok and fit_]
    too_hot: list[Floats] = []
    for combo in sorted(full, key=lambda c: -mean_quality(scenario, c)):
        plant = Plant(scenario)
        power = plant.powers([(c.rung, c.rate) for c in combo])
        if any((power >= other).all() for other in too_hot):
            continue
        if plant.survives(power):
            return combo, mean_quality(scenario, combo)
        too_hot.append(power)
    return None, 0.0


class Simulation:
    """A run in progress; `run` is what most callers want.

    Args:
        scenario: what happens.
        controller: one of `CONTROLLERS`.
        calibration: the policy's model; None calls `calibrate`.
        observer: called after every step with time, plant and governor.
        fixed: combination of a fixed controller; None is the largest.
        keep: decisions and conditions kept in the result, at most.
    """

    def __init__(
        self,
        scenario: Scenario,
        controller: str,
        *,
        calibration: Calibration | None = None,
        observer: Observer | None = None,
        fixed: Combo | None = None,
        keep: int = 100_000,
        root: Path | None = None,
    ) -> None:
        if controller not in CONTROLLERS:
            raise ValueError(f"controller {controller!r} is none of {CONTROLLERS}")
        self.scenario, self.controller = scenario, controller
        self._observer, self._keep = observer, keep
        # In memory, as the real sysfs is: renames on a busy disk take milliseconds.
        memory = Path("/dev/shm")
        root = root if root is not None else memory if os.access(memory, os.W_OK) else None
        self._folder = Path(tempfile.mkdtemp(prefix="bevstack-sysfs-", dir=root))
        self.plant = Plant(scenario)
        self.tree = FakeSysfs(self._folder / "sys", scenario.sensors, scenario.chips)
        self._sensors = _Sensors(scenario, self.plant, self.tree, scenario.seed + 2)
        self._items = _Items(scenario, scenario.seed + 3)
        self._now = 0.0
        self._sensors.show(self.plant, 0.0, scenario.step_s)
        self.zones = ZoneSet(self._folder / "sys", clock=lambda: self._now, units=zone_units(scenario), nvml=False)
        self.evidence = EvidenceReader(self._folder / "sys", clock=lambda: self._now)
        self.governor: Governor | None = None
        config = governor_config(scenario)
        if controller == "ours":
            self.governor = Policy(
                scenario.ladders, self.zones.zones, calibration=calibration or calibrate(scenario), config=config
            )
        elif controller == "bands":
            self.governor = BandPolicy(scenario.ladders, self.zones.zones, config=config)
        self.current: Combo = self.governor.current if self.governor else (fixed or largest(scenario))
        self._pending: list[tuple[float, int, Choice]] = []
        self.result = Result(controller, scenario.duration_s)

    def close(self) -> None:
        """Removes the fake tree."""
        self.tree.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _active(self, m: int, at: float) -> Choice:
        for when, model, choice in self._pending:
            if model == m and when <= at:
                return choice
        return self.current[m]

    def _request(self, decisions: Sequence[Decision], now: float) -> None:
        """Swaps are prepared in the background and become active between two items."""
        names = [ladder.model for ladder in self.scenario.ladders]
        for decision in decisions:
            m = names.index(decision.model)
            self.result.swaps += 1
            failing = any(
                e.kind == "swap" and e.model == decision.model and e.rung == decision.to_rung and e.at <= now < e.until
                for e in self.scenario.events
            )
            if failing and decision.to_rung != decision.from_rung and self.governor is not None:
                self.result.swaps_failed += 1
                self.governor.reject(decision.model, decision.to_rung, now, "scenario")
                self.governor.observe(decision.model, decision.from_rung, decision.from_rate)
                continue
            self._pending = [entry for entry in self._pending if entry[1] != m]
            self._pending.append((now + self.scenario.swap_s, m, Choice(decision.to_rung, decision.to_rate)))
        if len(self.result.decisions) < self._keep:
            self.result.decisions.extend(decisions)

    def step(self) -> None:
        """One control step of the simulated clock."""
        s, dt, now = self.scenario, self.scenario.step_s, self._now
        k = self.plant.now
        self._sensors.show(self.plant, now, dt)
        if self.governor is not None:
            self.tree.write_levels(self.plant.levels)
            evidence = self.evidence.read() if k % _EVIDENCE_EVERY == 0 else NO_EVIDENCE
            before = len(self.zones.zones)
            readings = self.zones.read()
            if len(self.zones.zones) != before:
                self.governor.set_zones(self.zones.zones)
            self._request(self.governor.step(readings, self._items.recent, now, evidence), now)
            condition = self.governor.condition
            if (not self.result.conditions or not self.result.conditions[-1].endswith(condition)) and (
                len(self.result.conditions) < self._keep
            ):
                self.result.conditions.append(f"{now:.1f} s: {condition}")
        slow = {e.unit: e.scale for e in s.events if e.kind == "slow" and e.at <= now < e.until}
        middle = [self._active(m, now + dt / 2) for m in range(len(s.models))]
        throttled, hottest = self.plant.step(self.plant.powers([(c.rung, c.rate) for c in middle]))
        self._items.run(now, dt, self.plant.clocks, self._active, slow)
        self._now = self.plant.now * dt
        for when, m, choice in list(self._pending):
            if when <= self._now:
                self.current = (*self.current[:m], choice, *self.current[m + 1 :])
                self._pending.remove((when, m, choice))
        self.result.throttled_s += throttled
        self.result.hottest = max(self.result.hottest, hottest)
        if self._observer is not None:
            self._observer(now, self.plant, self.governor)

    def forget(self) -> None:
        """Starts the items' books anew: statistics of `finish` are then of what follows."""
        items = self._items
        items.latencies.clear()
        items.busy.clear()
        items.quality, items.lost, items.skipped, items.late = 0.0, 0, 0, 0

    def finish(self) -> Result:
        """Statistics of what has run."""
        items, result = self._items, self.result
        result.items, result.lost, result.skipped, result.late = items.items, items.lost, items.skipped, items.late
        if items.latencies:
            result.p50, result.p95, result.p99 = map(float, np.percentile(items.latencies, [50, 95, 99]))
            result.busy_p50, result.busy_p95 = map(float, np.percentile(items.busy, [50, 95]))
            result.quality = items.quality / items.items
        return result


def run(scenario: Scenario, controller: str, **options: Any) -> Result:
    """A whole scenario; options as of `Simulation`."""
    simulation = Simulation(scenario, controller, **options)
    start, cpu = time.perf_counter(), time.process_time()
    try:
        while simulation.plant.now < simulation.plant.steps:
            simulation.step()
    finally:
        simulation.close()
    simulation.result.wall_s, simulation.result.cpu_s = time.perf_counter() - start, time.process_time() - cpu
    return simulation.finish()
