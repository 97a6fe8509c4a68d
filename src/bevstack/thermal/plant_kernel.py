"""The plant's inner loop, compiled: heat network, leakage, fans and the kernel's throttling in steps of some 50 ms."""

from __future__ import annotations

import numpy as np
from numba import njit

STEP_WISE, POWER_ALLOCATOR, HARD = 0, 1, 2


@njit(cache=True)
def voltage(clock: float) -> float:
    """Relative voltage at a relative clock; dynamic power per item goes with its square."""
    return 0.65 + 0.35 * clock


@njit(cache=True)
def _throttle(n, temperature, power, chip, state, h):  # type: ignore[no-untyped-def]
    """One poll of a chip's cooling logic. ``chip`` columns: see `plant.Plant`; ``state``: level, timer, previous, integral,
    clock."""
    state[n, 1] += h
    poll = chip[n, 7]
    if state[n, 1] + 1e-9 < poll:
        return
    state[n, 1] = 0.0
    kind, trip, target, levels, drop = int(chip[n, 4]), chip[n, 5], chip[n, 6], chip[n, 8], chip[n, 9]
    level = state[n, 0]
    if kind == STEP_WISE:
        if temperature >= trip and temperature > state[n, 2]:
            level = min(level + 1.0, levels)
        elif temperature < trip and temperature < state[n, 2]:
            level = max(level - 1.0, 0.0)
    elif kind == HARD:
        if temperature >= trip:
            level = levels
        elif temperature < trip - chip[n, 11]:
            level = 0.0
    elif temperature < trip:
        level = 0.0
        state[n, 3] = 0.0
    else:
        sustainable = chip[n, 10]
        error = target - temperature
        gain = sustainable / (target - trip) * (2.0 if error > 0 else 1.0)
        if error < 0:
            state[n, 3] += 0.1 * gain * error * poll
        budget = max(0.0, sustainable + gain * error + state[n, 3])
        level = levels
        for candidate in range(int(levels) + 1):
            if power * voltage(1.0 - drop * candidate) ** 2 <= budget:
                level = float(candidate)
                break
    state[n, 0] = level
    state[n, 2] = temperature
    state[n, 4] = 1.0 - drop * level


@njit(cache=True)
def advance(  # type: ignore[no-untyped-def]
    temperatures, chip, chip_node, state, heat, ends, conductance, still, fan, ambient, extra, scale, fan_on, power, h,
    substeps, clocks,
):  # fmt: skip
    """One control step in place.

    Args:
        temperatures: (N,) degC, state.
        chip: (M, 12) constants, chip_node: (M,) node of each, state: (M, 5) throttling state.
        heat: (N,) J/K. ends: (L, 2) node numbers, -1 for ambient. conductance, still: (L,) W/K with fan at full speed, at rest.
        fan: (L, 2) temperatures where it starts and is at full speed. ambient: degC. extra: (N,) W. scale: (L,) resistance
        factor.
        fan_on: (L,) 0 or 1. power: (M,) W of dynamic power at full clocks. h: s. substeps: how many. clocks: (substeps, M) out.

    Returns:
        substeps in which some chip was slowed down, and the hottest die.
    """
    nodes, links, chips = len(heat), len(ends), len(chip)
    flow = np.empty(nodes)
    throttled, hottest = 0, -1e9
    for k in range(substeps):
        for i in range(nodes):
            flow[i] = extra[i]
        for j in range(chips):
            i = chip_node[j]
            leak = chip[j, 1] * np.exp(min(chip[j, 3] * (temperatures[i] - chip[j, 2]), 5.0))
            flow[i] += chip[j, 0] + leak + power[j] * voltage(state[j, 4]) ** 2
        for j in range(links):
            a, b = ends[j, 0], ends[j, 1]
            speed = min(max((temperatures[a] - fan[j, 0]) / (fan[j, 1] - fan[j, 0]), 0.0), 1.0) * fan_on[j]
            g = (still[j] + (conductance[j] - still[j]) * speed) / scale[j]
            q = g * (temperatures[a] - (ambient if b < 0 else temperatures[b]))
            flow[a] -= q
            if b >= 0:
                flow[b] += q
        for i in range(nodes):
            temperatures[i] += h * flow[i] / heat[i]
        slow = False
        for j in range(chips):
            _throttle(j, temperatures[chip_node[j]], power[j], chip, state, h)
            clocks[k, j] = state[j, 4]
            slow = slow or state[j, 0] > 0
            hottest = max(hottest, temperatures[chip_node[j]])
        throttled += 1 if slow else 0
    return throttled, hottest


@njit(cache=True)
def run_fixed(  # type: ignore[no-untyped-def]
    temperatures, chip, chip_node, state, heat, ends, conductance, still, fan, ambient, extra, scale, fan_on, power, h,
    substeps, clocks,
):  # fmt: skip
    """A whole run at constant power; the time axes stand first in ``ambient`` (S,), ``extra`` (S, N), ``scale``, ``fan_on``
    (S, L).

    Returns:
        number of the first step in which something throttled, or -1.
    """
    for s in range(len(ambient)):
        throttled, _ = advance(
            temperatures, chip, chip_node, state, heat, ends, conductance, still, fan, ambient[s], extra[s], scale[s],
            fan_on[s], power, h, substeps, clocks,
        )  # fmt: skip
        if throttled > 0:
            return s
    return -1
