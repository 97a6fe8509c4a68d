"""A machine that gets hot: a heat network with leakage, fans, DVFS and throttling, on a simulated clock.

After published descriptions (brief governor-thermal: step_wise and power_allocator of the Linux kernel, V^2 f dynamic power,
leakage that grows with temperature); the figures of every plant are the scenario's. It is not the governor's model: that one is
linear, has fixed time constants and knows neither leakage nor clocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import plant_kernel as kernel
from .scenario import AMBIENT, Scenario, ScenarioError

Floats = NDArray[np.float64]
_H = 0.05
_MOST_SUBSTEPS = 400


def _outside(scenario: Scenario, times: Floats) -> Floats:
    points = np.array(scenario.ambient)
    ambient: Floats = np.interp(times, points[:, 0], points[:, 1]).astype(np.float64)
    if scenario.ambient_wave is not None:
        amplitude, period, peak = scenario.ambient_wave
        ambient = ambient + amplitude * np.cos(2 * math.pi * (times - peak) / period)
    return ambient


class Plant:
    """State and constants of one scenario's hardware.

    Args:
        scenario: what to build.
        quiet: no events and constant ambient (the plan's calibration ambient), as in a laboratory.

    Attributes:
        temperatures: (N,) degC of the nodes, in the scenario's order.
        clocks: (substeps, M) relative clocks during the last step.
        levels: (M,) cooling states now.
        ambient: (S,) degC over all steps.

    Raises:
        ScenarioError: a node reacts too fast for the simulator, or no steady state exists at the start.
    """

    def __init__(self, scenario: Scenario, *, quiet: bool = False, steps: int | None = None) -> None:
        self.scenario = scenario
        names = list(scenario.nodes)
        self.node = {name: n for n, name in enumerate(names)}
        self.steps = steps if steps is not None else round(scenario.duration_s / scenario.step_s)
        self._heat = np.array([scenario.nodes[name] for name in names])
        self._ends = np.array([(self.node[k.a], -1 if k.b == AMBIENT else self.node[k.b]) for k in scenario.links], np.int64)
        self._g = np.array([1.0 / link.k_per_w for link in scenario.links])
        self._still = np.array([1.0 / (link.fan.still_k_per_w if link.fan else link.k_per_w) for link in scenario.links])
        self._fan = np.array([(k.fan.on_c, k.fan.full_c) if k.fan else (0.0, 1.0) for k in scenario.links])
        kinds = {"step_wise": kernel.STEP_WISE, "power_allocator": kernel.POWER_ALLOCATOR, "hard": kernel.HARD}
        self._chip = np.array(
            [
                (c.idle_w, c.leak_w, c.leak_at_c, c.leak_per_k, kinds[c.throttle.kind], c.throttle.trip_c, c.throttle.target_c,
                 c.throttle.poll_s, c.throttle.states, c.throttle.clock_step, c.throttle.sustainable_w, c.throttle.hysteresis_c)
                for c in scenario.chips
            ]
        )  # fmt: skip
        self._chip_node = np.array([self.node[chip.node] for chip in scenario.chips], np.int64)
        self.units = [chip.unit for chip in scenario.chips]
        self._state = np.zeros((len(scenario.chips), 5))
        self._state[:, 4] = 1.0
        self._substep()
        self._inputs(quiet)
        self.clocks = np.ones((self.substeps, len(scenario.chips)))
        start = None if quiet else scenario.start_c
        self.temperatures: Floats = self._rest() if start is None else np.full(len(names), start)
        self._state[:, 2] = self.temperatures[self._chip_node]
        self.now = 0

    def _substep(self) -> None:
        total = np.zeros(len(self._heat))
        for (a, b), g in zip(self._ends, self._g):
            total[a] += g
            if b >= 0:
                total[b] += g
        fastest = int(np.argmin(self._heat / total))
        h = min(_H, 0.25 * float(self._heat[fastest] / total[fastest]))
        self.substeps = math.ceil(self.scenario.step_s / h)
        if self.substeps > _MOST_SUBSTEPS:
            name = list(self.scenario.nodes)[fastest]
            raise ScenarioError(
                f"scenario {self.scenario.name!r}: node {name!r} reacts within {4 * h:.2g} s: too fast to simulate, give it "
                "more heat capacity or more resistance"
            )
        self.h = self.scenario.step_s / self.substeps

    def _inputs(self, quiet: bool) -> None:
        s = self.scenario
        times: Floats = np.arange(self.steps, dtype=np.float64) * s.step_s
        shape = (self.steps, len(s.links))
        self._scale, self._fan_on = np.ones(shape), np.ones(shape)
        self._extra = np.zeros((self.steps, len(self._heat)))
        if quiet:
            self.ambient = np.full(self.steps, s.calibration.ambient_c)
            return
        self.ambient = _outside(s, times)
        for event in s.events:
            on = (times >= event.at) & (times < event.until)
            rise = np.clip((times - event.at) / event.ramp, 0, 1) if event.ramp > 0 else np.ones(self.steps)
            if event.kind == "heat":
                if event.every > 0:
                    on &= (times - event.at) % event.every < event.length
                self._extra[:, self.node[event.node]] += np.where(on, event.watts * rise, 0.0)
            elif event.kind == "link":
                self._scale[:, event.link] *= np.where(on, 1.0 + (event.scale - 1.0) * rise, 1.0)
            elif event.kind == "fan":
                self._fan_on[:, event.link] = np.where(on, 0.0, self._fan_on[:, event.link])

    def _rest(self) -> Floats:
        """Steady temperatures with idle power, by fixed-point iteration over leakage and fans."""
        n = len(self._heat)
        t = np.full(n, float(self.ambient[0]))
        for _ in range(200):
            matrix, rhs = np.zeros((n, n)), self._extra[0].copy()
            for i, chip in zip(self._chip_node, self._chip):
                rhs[i] += chip[0] + chip[1] * math.exp(min(chip[3] * (t[i] - chip[2]), 5.0))
            for j, (a, b) in enumerate(self._ends):
                on, full = self._fan[j]
                speed = min(max((t[a] - on) / (full - on), 0.0), 1.0) * self._fan_on[0, j]
                g = (self._still[j] + (self._g[j] - self._still[j]) * speed) / self._scale[0, j]
                matrix[a, a] += g
                if b >= 0:
                    matrix[b, b] += g
                    matrix[a, b] -= g
                    matrix[b, a] -= g
                else:
                    rhs[a] += g * self.ambient[0]
            step = np.linalg.solve(matrix, rhs) - t
            t = t + 0.5 * step
            if np.abs(step).max() < 1e-6:
                break
        if not np.isfinite(t).all() or t.max() > 200:
            raise ScenarioError(
                f"scenario {self.scenario.name!r}: idle power alone heats it to {t.max():.0f} degC: check R and leakage"
            )
        return t

    def step(self, power: Floats) -> tuple[float, float]:
        """One control step.

        Args:
            power: (M,) W of dynamic power per chip at full clocks.

        Returns:
            seconds for which something was slowed down, hottest die.
        """
        n = self.now
        self.now += 1
        throttled, hottest = kernel.advance(
            self.temperatures, self._chip, self._chip_node, self._state, self._heat, self._ends, self._g, self._still,
            self._fan,
            self.ambient[n], self._extra[n], self._scale[n], self._fan_on[n], power, self.h, self.substeps, self.clocks,
        )  # fmt: skip
        return throttled * self.h, hottest

    def survives(self, power: Floats) -> bool:
        """Whether a whole run at this constant power never throttles. Call on a new plant."""
        step = kernel.run_fixed(
            self.temperatures, self._chip, self._chip_node, self._state, self._heat, self._ends, self._g, self._still,
            self._fan,
            self.ambient, self._extra, self._scale, self._fan_on, power, self.h, self.substeps, self.clocks,
        )  # fmt: skip
        return bool(step < 0)

    @property
    def levels(self) -> list[int]:
        """Cooling state of each chip."""
        return [int(level) for level in self._state[:, 0]]

    def powers(self, rungs: Sequence[tuple[str, float]]) -> Floats:
        """(M,) dynamic watts per chip.

        Args:
            rungs: rung name and rate per model, in the scenario's order.
        """
        power = np.zeros(len(self.units))
        for model, (rung, rate) in zip(self.scenario.models, rungs):
            power[self.units.index(model.ladder.unit)] += model.ladder.rung(rung).power_w * model.power_scale * rate
        return power


def clock_stretch(clock: Any) -> Any:
    """Busy time at a relative clock over busy time at full clocks: a part of every item waits for memory, which keeps its
    clock."""
    return 0.8 / clock + 0.2
