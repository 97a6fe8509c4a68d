"""Scenarios drawn at random: other plants, ladders, weather and faults than anybody tuned for. Deterministic per seed."""

from __future__ import annotations

from typing import Any

import numpy as np

from .scenario import Scenario, parse


def _round(value: float, digits: int = 3) -> float:
    return round(float(value), digits)


def _ladder(rng: np.random.Generator, unit: str, top_w: float, top_ms: float) -> dict[str, Any]:
    rungs, quality, watts, ms = [], 1.0, top_w, top_ms
    for n in range(int(rng.integers(2, 6))):
        rungs.append({"name": f"r{n}", "quality": _round(quality), "power_w": _round(watts), "latency_ms": _round(ms)})
        quality *= rng.uniform(0.75, 0.97)
        watts *= rng.uniform(0.5, 0.85)
        ms *= rng.uniform(0.6, 0.9)
    return {
        "unit": unit,
        "priority": _round(rng.uniform(0.5, 3.0)),
        "rungs": rungs,
        "power_scale": _round(rng.uniform(0.8, 1.25)),
    }


def _weather(rng: np.random.Generator, seconds: float) -> Any:
    base = float(rng.uniform(0, 50))
    kind = rng.integers(0, 3)
    if kind == 0:
        return _round(base, 1)
    if kind == 1:
        start, rise = seconds * rng.uniform(0.05, 0.4), rng.uniform(5, 30)
        ramp = max(60.0, 60.0 * rise / rng.uniform(0.5, 3.0))
        return [
            [0, _round(base, 1)],
            [_round(start + 1, 0), _round(base, 1)],
            [_round(start + 1 + ramp, 0), _round(base + rise, 1)],
        ]
    return {
        "mean": _round(base, 1),
        "amplitude": _round(rng.uniform(3, 12), 1),
        "period_s": _round(seconds * rng.uniform(0.5, 2), 0),
    }


def _events(
    rng: np.random.Generator, seconds: float, die: str, top_w: float, *, faults: bool, fan: bool, harsh: bool
) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    at = _round(seconds * rng.uniform(0.15, 0.6), 0)
    for kind in rng.choice(["burst", "sun", "link", "fan", "none"], size=2, replace=False):
        if kind == "burst":
            every = _round(rng.uniform(60, 400), 0)
            watts, length = _round(top_w * rng.uniform(0.1, 0.6 if harsh else 0.4), 1), _round(every * rng.uniform(0.1, 0.5), 0)
            events.append({"kind": "burst", "node": die, "watts": watts, "at": at, "every_s": every, "length_s": length})
        elif kind == "sun":
            watts = _round(top_w * rng.uniform(0.1, 0.5), 1)
            events.append({"kind": "sun", "node": "sink", "watts": watts, "at": at, "ramp_s": 30})
        elif kind == "link":
            events.append(
                {"kind": "link", "between": ["sink", "ambient"], "scale": _round(rng.uniform(1.1, 1.6)), "at": at,
                 "ramp_s": _round(rng.uniform(0, 600), 0)}
            )  # fmt: skip
        elif kind == "fan" and fan:
            events.append({"kind": "fan", "between": ["sink", "ambient"], "at": at})
    if faults:
        fault = str(rng.choice(["stuck", "lost", "eagain", "negative", "spike", "noise", "offset", "drift"]))
        size = {"spike": 30.0, "noise": 1.0, "offset": float(rng.choice([-15.0, 12.0])), "drift": -0.03}.get(fault, 0.0)
        start = _round(seconds * rng.uniform(0.2, 0.7), 0)
        events.append({"kind": "sensor", "zone": "tj-thermal", "fault": fault, "value": size, "at": start, "every_s": 20})
    return events


def draw(seed: int, *, seconds: float = 1500.0, faults: bool | None = None, harsh: bool | None = None) -> Scenario:
    """One scenario.

    Args:
        seed: of everything.
        seconds: length.
        faults: one zone of several fails; None draws that, too.
        harsh: small fast dies, strong bursts, coarse slow sensors; None draws that, too.
    """
    rng = np.random.default_rng([seed, 6])
    two = bool(rng.random() < 0.3)
    harsh = bool(rng.random() < 0.3) if harsh is None else harsh
    trip = float(rng.choice([80.0, 85.0, 90.0, 95.0, 99.0]))
    r_js, r_sa = rng.uniform(0.5, 1.5) if harsh else rng.uniform(0.25, 1.0), rng.uniform(0.5, 1.8)
    fan = bool(rng.random() < 0.4)
    ambient = _weather(rng, seconds)
    warmest = (
        ambient["mean"] + ambient["amplitude"] if isinstance(ambient, dict) else max(p[1] for p in ambient)
        if isinstance(ambient, list) else ambient
    )  # fmt: skip
    idle = float(rng.uniform(1, 6))
    # Largest rungs end between 15 degC below and 50 degC above the trip on the warmest day.
    excess = float(rng.uniform(-15, 50))
    top_w = max(6.0, (trip + excess - warmest) / (r_js + r_sa) - idle)
    sink: dict[str, Any] = {"between": ["sink", "ambient"], "k_per_w": _round(r_sa)}
    if fan:
        sink["fan"] = {"still_k_per_w": _round(r_sa * rng.uniform(1.1, 1.6)), "on_c": 45, "full_c": 70}
    nodes = {"die": _round(rng.uniform(1.0, 3.0) if harsh else rng.uniform(2.5, 12)), "sink": _round(rng.uniform(40, 400))}
    links = [{"between": ["die", "sink"], "k_per_w": _round(r_js)}, sink]
    chip = {
        "idle_w": _round(idle), "leak_w": _round(top_w * rng.uniform(0, 0.12)), "leak_per_k": _round(rng.uniform(0.005, 0.025)),
        "throttle": {"kind": str(rng.choice(["step_wise", "step_wise", "power_allocator", "hard"])), "trip_c": trip,
                     "sustainable_w": _round(top_w * 0.4)},
    }  # fmt: skip
    chips = {"gpu": {"node": "die", **chip}}
    noise, step = _round(rng.uniform(0, 0.5)), 1.0 if harsh else float(rng.choice([0.001, 0.1, 0.5, 1.0]))
    zones: dict[str, Any] = {
        name: {
            "node": node,
            "noise_c": noise,
            "step_c": step,
            "lag_s": _round(rng.uniform(0.5, 2.0) if harsh else rng.uniform(0, 1.5)),
            "offset_c": _round(rng.uniform(-1, 1)),
        }
        for name, node in (("tj-thermal", "die"), ("gpu-thermal", "die"), ("soc0-thermal", "sink"))
    }
    zones["soc0-thermal"]["trips"] = []
    units = ["gpu"]
    if two:
        nodes["die2"] = _round(rng.uniform(2.5, 12))
        links.append({"between": ["die2", "sink"], "k_per_w": _round(rng.uniform(0.25, 1.0))})
        chips["dla"] = {"node": "die2", **chip, "idle_w": 1.0}
        zones["cv0-thermal"] = {"node": "die2", "noise_c": noise, "step_c": step}
        units.append("dla")
    names = ["fastbev", "giraffedet", "codec"][: int(rng.integers(1, 4))]
    shares = rng.dirichlet(np.full(len(names), 3.0))
    models = {name: _ladder(rng, units[n % len(units)], top_w * shares[n], 80.0 * shares[n]) for n, name in enumerate(names)}
    faulty = bool(rng.random() < 0.4) if faults is None else faults
    content = {
        "name": f"random {seed}", "seed": seed, "duration_s": seconds, "ambient": ambient, "nodes": nodes, "links": links,
        "chips": chips, "zones": zones, "models": models,
        "events": _events(rng, seconds, "die", top_w, faults=faulty, fan=fan, harsh=harsh),
    }  # fmt: skip
    start = rng.random()
    if start < 0.25:
        content["start"] = {"celsius": _round(trip - rng.uniform(6, 20), 1)}
    base: dict[str, Any] = dict.fromkeys(("nodes", "chips", "zones", "models"))
    return parse({"defaults": base, "scenarios": [content]}, "random")[0]
