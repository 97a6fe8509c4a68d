"""Scenarios for the plant simulator: the file format of docs/governor.md, read strictly. Every mistake is one line with its
place."""

from __future__ import annotations

import copy
import difflib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from bevstack.errors import BevstackError

from .rungs import LadderError, LadderInfo, RungInfo

AMBIENT = "ambient"
THROTTLES = ("step_wise", "power_allocator", "hard")
SENSOR_FAULTS = (
    "stuck", "lost", "eagain", "error", "empty", "text", "disabled", "negative", "vanish", "offset", "drift", "spike", "noise",
    "degrees",
)  # fmt: skip
TRIP_KINDS = ("passive", "hot", "critical", "active")
BUILT_IN = Path(__file__).with_name("scenarios.yaml")


class ScenarioError(BevstackError):
    """A scenario file cannot be read or cannot be meant."""


@dataclass(frozen=True)
class Fan:
    """A fan on a link: resistance is the link's at full speed and `still_k_per_w` at rest; speed rises from `on_c` to
    `full_c`."""

    still_k_per_w: float
    on_c: float
    full_c: float


@dataclass(frozen=True)
class Link:
    """Heat path between two nodes (or a node and ``ambient``), kelvin per watt."""

    a: str
    b: str
    k_per_w: float
    fan: Fan | None = None


@dataclass(frozen=True)
class Throttle:
    """What slows a chip down. `sensed_by` None: the die's true temperature."""

    kind: str
    trip_c: float
    target_c: float
    poll_s: float
    states: int
    clock_step: float
    sustainable_w: float
    hysteresis_c: float


@dataclass(frozen=True)
class Chip:
    """A unit that models load.

    Attributes:
        unit: name that ladders refer to.
        node: where its power goes.
        idle_w: always.
        leak_w, leak_at_c, leak_per_k: leak_w * exp(leak_per_k * (T - leak_at_c)).
        throttle: kernel or hardware limit.
    """

    unit: str
    node: str
    idle_w: float
    leak_w: float
    leak_at_c: float
    leak_per_k: float
    throttle: Throttle


@dataclass(frozen=True)
class Sensor:
    """A zone of the fake sysfs tree."""

    name: str
    node: str
    via: str
    noise_c: float
    step_c: float
    lag_s: float
    every_s: float
    offset_c: float
    trips: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class Model:
    """A ladder and what its rungs truly draw: declared power times `power_scale`."""

    ladder: LadderInfo
    power_scale: float


@dataclass(frozen=True)
class Event:
    """Something that happens between `at` and `until`.

    ``heat``: `watts` into `node`, for `length` seconds every `every` (0: all the time), with a ramp of `ramp` seconds.
    ``link``: resistance of a link times `scale`. ``fan``: the fan of a link stops. ``sensor``: a fault, strength `value`.
    ``swap``: rung `rung` of `model` cannot be loaded. ``slow``: items of `unit` take `scale` times as long (another program).
    """

    kind: str
    at: float
    until: float
    node: str = ""
    watts: float = 0.0
    every: float = 0.0
    length: float = 0.0
    ramp: float = 0.0
    link: int = -1
    scale: float = 1.0
    zone: str = ""
    fault: str = ""
    value: float = 0.0
    model: str = ""
    rung: str = ""
    unit: str = ""


@dataclass(frozen=True)
class CalibrationPlan:
    """How the policy's model is made before the run: on the same plant at another ambient, without events; or not at all."""

    enabled: bool
    ambient_c: float
    duration_s: float
    scale: float


@dataclass(frozen=True)
class Scenario:
    """Everything about one run. Seconds, degrees Celsius, watts, milliseconds."""

    name: str
    duration_s: float
    period_ms: float
    seed: int
    step_s: float
    ambient: tuple[tuple[float, float], ...]
    ambient_wave: tuple[float, float, float] | None  # amplitude, period, time of the peak
    start_c: float | None
    nodes: dict[str, float]
    links: tuple[Link, ...]
    chips: tuple[Chip, ...]
    sensors: tuple[Sensor, ...]
    models: tuple[Model, ...]
    events: tuple[Event, ...]
    calibration: CalibrationPlan
    latency_noise: float
    swap_s: float
    release_ms: float | None
    note: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def ladders(self) -> tuple[LadderInfo, ...]:
        """What the governor is told."""
        return tuple(model.ladder for model in self.models)


class _Fields:
    """One mapping of the file: typed values by key, and at the end no key is left over."""

    def __init__(self, value: Any, place: str) -> None:
        if not isinstance(value, Mapping):
            raise ScenarioError(f"{place} is {_short(value)}: give a mapping of settings")
        self._map = {str(key): item for key, item in value.items()}
        self._seen: set[str] = set()
        self.place = place

    def at(self, key: str) -> str:
        return f"{self.place}.{key}"

    def raw(self, key: str, default: Any = None) -> Any:
        self._seen.add(key)
        return self._map.get(key, default)

    def has(self, key: str) -> bool:
        return key in self._map

    def need(self, key: str) -> Any:
        if key not in self._map:
            raise ScenarioError(f"{self.place}: {key} is missing")
        return self.raw(key)

    def number(self, key: str, default: float | None = None, low: float = -math.inf, high: float = math.inf) -> float:
        value = self.need(key) if default is None else self.raw(key, default)
        return _number(value, self.at(key), low, high)

    def text(self, key: str, default: str | None = None, among: Sequence[str] | None = None) -> str:
        value = self.need(key) if default is None else self.raw(key, default)
        if not isinstance(value, str) or not value:
            raise ScenarioError(f"{self.at(key)} is {_short(value)}: give a text")
        if among is not None and value not in among:
            raise ScenarioError(f"{self.at(key)} is {value!r}: take one of {', '.join(among)}")
        return value

    def entries(self, key: str, default: Any = None) -> list[Any]:
        value = self.raw(key, default)
        if value is None:
            return []
        if not isinstance(value, list):
            raise ScenarioError(f"{self.at(key)} is {_short(value)}: give a list")
        return value

    def mapping(self, key: str) -> dict[str, Any]:
        value = self.need(key)
        if not isinstance(value, Mapping) or not value:
            raise ScenarioError(f"{self.at(key)} is {_short(value)}: give a mapping with at least one entry")
        return {str(name): item for name, item in value.items()}

    def done(self) -> None:
        left = sorted(set(self._map) - self._seen)
        if left:
            close = difflib.get_close_matches(left[0], self._seen, 1)
            hint = f": did you mean {close[0]}?" if close else f": known are {', '.join(sorted(self._seen))}"
            raise ScenarioError(f"{self.place} has an unknown key {left[0]!r}{hint}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _number(value: Any, place: str, low: float = -math.inf, high: float = math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ScenarioError(f"{place} is {_short(value)}: give a number")
    if not low <= value <= high:
        bounds = f"{low:g} or more" if math.isinf(high) else f"{low:g} to {high:g}"
        raise ScenarioError(f"{place} is {value:g}: give {bounds}")
    return float(value)


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` laid over ``below``: mappings merge, everything else is replaced; null takes a mapping's entry away."""
    merged = copy.deepcopy(dict(below))
    for key, value in above.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        elif value is None:
            merged.pop(key, None)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


# The plant that a scenario starts from: one die on one heat sink, invented figures (brief governor-thermal, section 7).
REFERENCE: dict[str, Any] = {
    "duration_s": 2700, "period_ms": 100, "seed": 0, "step_s": 0.5, "ambient": 25, "start": "idle",
    "nodes": {"die": 6.0, "sink": 150.0},
    "links": [
        {"between": ["die", "sink"], "k_per_w": 0.5},
        {"between": ["sink", "ambient"], "k_per_w": 1.0},
    ],
    "chips": {"gpu": {"node": "die", "idle_w": 5.0, "leak_w": 3.0, "leak_at_c": 60.0, "leak_per_k": 0.018}},
    "zones": {
        "tj-thermal": {"node": "die"},
        "gpu-thermal": {"node": "die", "offset_c": -0.5},
        "soc0-thermal": {"node": "sink", "trips": []},
    },
    "models": {
        "fastbev": {"unit": "gpu", "priority": 2, "rungs": [
            {"name": "large", "quality": 1.0, "latency_ms": 42, "power_w": 14.5},
            {"name": "medium", "quality": 0.93, "latency_ms": 31, "power_w": 10.5},
            {"name": "small", "quality": 0.84, "latency_ms": 23, "power_w": 7.5},
            {"name": "tiny", "quality": 0.74, "latency_ms": 16, "power_w": 5.0}]},
        "giraffedet": {"unit": "gpu", "priority": 1, "rungs": [
            {"name": "large", "quality": 1.0, "latency_ms": 30, "power_w": 10.0},
            {"name": "medium", "quality": 0.96, "latency_ms": 22, "power_w": 7.2},
            {"name": "small", "quality": 0.88, "latency_ms": 15, "power_w": 4.8},
            {"name": "tiny", "quality": 0.76, "latency_ms": 10, "power_w": 3.0}]},
        "codec": {"unit": "gpu", "priority": 0.5, "rungs": [
            {"name": "base", "quality": 1.0, "latency_ms": 1, "power_w": 3.5},
            {"name": "small", "quality": 0.85, "latency_ms": 1, "power_w": 2.0}]},
    },
    "calibration": {"ambient_c": 25, "duration_s": 1500},
}  # fmt: skip


def load(path: Path) -> list[Scenario]:
    """Scenarios of a YAML or JSON file.

    Raises:
        ScenarioError: one line: file, scenario, key, value, what to do.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"cannot read {path}: {error}") from None
    try:
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ScenarioError(
            f"{path} is no {'JSON' if path.suffix == '.json' else 'YAML'}: {' '.join(str(error).split())}"
        ) from None
    return parse(content, str(path))


def parse(content: Any, source: str = "scenarios") -> list[Scenario]:
    """As `load`, from parsed content: ``{defaults: {...}, scenarios: [...]}`` or a bare list."""
    if isinstance(content, list):
        content = {"scenarios": content}
    top = _Fields(content, source)
    defaults = top.raw("defaults", {})
    if not isinstance(defaults, Mapping):
        raise ScenarioError(f"{source}.defaults is {_short(defaults)}: give a mapping")
    entries = top.entries("scenarios")
    top.done()
    if not entries:
        raise ScenarioError(f"{source} has no scenarios: give a list under the key scenarios")
    base = _layer(REFERENCE, defaults, f"{source}.defaults")
    found = []
    for n, entry in enumerate(entries):
        if not isinstance(entry, Mapping):
            raise ScenarioError(f"{source}.scenarios[{n}] is {_short(entry)}: give a mapping")
        name = entry.get("name")
        place = f"{source}: scenario {name!r}" if isinstance(name, str) else f"{source}.scenarios[{n}]"
        found.append(_scenario(_layer(base, entry, place), place))
    names = [scenario.name for scenario in found]
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise ScenarioError(f"{source} has two scenarios called {double!r}")
    return found


_WHOLE = ("nodes", "chips", "zones", "models")


def _layer(below: Mapping[str, Any], above: Mapping[str, Any], place: str) -> dict[str, Any]:
    """``merge``, except that naming other nodes replaces the network, and what hangs on missing nodes must be given too."""
    layered = dict(above)
    for key in _WHOLE:
        if isinstance(layered.get(key), list):
            # A list of entries with names is as good as a mapping.
            layered[key] = {_name(item, f"{place}.{key}[{n}]"): item for n, item in enumerate(layered[key])}
    result = merge(below, layered)
    for key in _WHOLE:
        mine, theirs = layered.get(key), below.get(key)
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping) and not set(mine) & set(theirs):
            # Entirely other names: another plant, not changes to this one.
            result[key] = {name: copy.deepcopy(item) for name, item in mine.items() if item is not None}
    return result


def _name(item: Any, place: str) -> str:
    for key in ("name", "model", "unit", "type"):
        if isinstance(item, Mapping) and isinstance(item.get(key), str):
            return str(item[key])
    raise ScenarioError(f"{place} has no name")


def _scenario(content: Mapping[str, Any], place: str) -> Scenario:
    top = _Fields(content, place)
    name = top.text("name")
    duration = top.number("duration_s", low=1.0, high=1e7)
    nodes = {}
    for node, heat in top.mapping("nodes").items():
        if node == AMBIENT:
            raise ScenarioError(f"{place}.nodes.{node}: ambient is given by the key ambient")
        nodes[node] = _number(
            heat.get("heat_j_per_k") if isinstance(heat, Mapping) else heat, f"{place}.nodes.{node}", 1e-3, 1e7
        )
    links = tuple(_link(item, f"{place}.links[{n}]", nodes) for n, item in enumerate(top.entries("links")))
    _check_connected(nodes, links, place)
    chips = tuple(_chip(unit, item, f"{place}.chips.{unit}", nodes) for unit, item in top.mapping("chips").items())
    zones = top.raw("zones")
    if zones is not None and not isinstance(zones, Mapping):
        raise ScenarioError(f"{place}.zones is {_short(zones)}: give a mapping, or null for a machine without zones")
    trips = {chip.node: chip.throttle.trip_c for chip in chips}
    sensors = tuple(_sensor(str(zone), item, f"{place}.zones.{zone}", nodes, trips) for zone, item in (zones or {}).items())
    units = [chip.unit for chip in chips]
    models = tuple(_model(model, item, f"{place}.models.{model}", units) for model, item in top.mapping("models").items())
    ambient, wave = _ambient(top)
    events = tuple(
        _event(item, f"{place}.events[{n}]", duration, nodes, links, sensors, models, units)
        for n, item in enumerate(top.entries("events"))
    )
    start = top.raw("start", "idle")
    start_c = None
    if isinstance(start, Mapping):
        fields = _Fields(start, f"{place}.start")
        start_c = fields.number("celsius", low=-40, high=150)
        fields.done()
    elif start != "idle":
        start_c = _number(start, f"{place}.start (idle or a temperature)", -40, 150)
    settings = top.raw("governor", {}) or {}
    if not isinstance(settings, Mapping):
        raise ScenarioError(f"{place}.governor is {_short(settings)}: give a mapping of GovernorConfig settings")
    scenario = Scenario(
        name=name, duration_s=duration, period_ms=top.number("period_ms", low=5, high=10000), seed=int(top.number("seed", 0.0)),
        step_s=top.number("step_s", low=0.1, high=5.0), ambient=ambient, ambient_wave=wave, start_c=start_c, nodes=nodes,
        links=links, chips=chips, sensors=sensors, models=models, events=events, calibration=_calibration(top),
        latency_noise=top.number("latency_noise", 0.02, 0, 0.5), swap_s=top.number("swap_s", 0.2, 0, 60),
        release_ms=top.number("release_ms", low=0, high=1e5) if top.has("release_ms") else None,
        note=str(top.raw("note", "")), settings=dict(settings),
    )  # fmt: skip
    top.done()
    _check_settings(scenario, place)
    return scenario


def _check_settings(scenario: Scenario, place: str) -> None:
    from .config import GovernorConfig, GovernorError

    try:
        GovernorConfig(**scenario.settings)
    except (TypeError, GovernorError) as error:
        raise ScenarioError(f"{place}.governor: {error}") from None


def _link(item: Any, place: str, nodes: Mapping[str, float]) -> Link:
    fields = _Fields(item, place)
    between = fields.need("between")
    if not isinstance(between, list) or len(between) != 2:
        raise ScenarioError(f"{fields.at('between')} is {_short(between)}: give two nodes")
    ends = [str(end) for end in between]
    for end in ends:
        if end not in nodes and end != AMBIENT:
            raise ScenarioError(f"{fields.at('between')} names {end!r}: nodes are {', '.join(nodes)} and ambient")
    if ends[0] == ends[1]:
        raise ScenarioError(f"{fields.at('between')} joins {ends[0]!r} to itself")
    if ends[0] == AMBIENT:
        ends.reverse()
    k_per_w = fields.number("k_per_w", low=1e-3, high=1e4)
    fan = None
    if fields.raw("fan") is not None:
        inner = _Fields(fields.raw("fan"), fields.at("fan"))
        fan = Fan(
            inner.number("still_k_per_w", low=k_per_w, high=1e4), inner.number("on_c", 45.0), inner.number("full_c", 75.0)
        )
        inner.done()
        if fan.full_c <= fan.on_c:
            raise ScenarioError(f"{fields.at('fan')}: full_c {fan.full_c:g} must be above on_c {fan.on_c:g}")
    fields.done()
    return Link(ends[0], ends[1], k_per_w, fan)


def _check_connected(nodes: Mapping[str, float], links: Sequence[Link], place: str) -> None:
    reached, grew = {AMBIENT}, True
    while grew:
        grew = False
        for link in links:
            if (link.a in reached) != (link.b in reached):
                reached |= {link.a, link.b}
                grew = True
    lonely = [node for node in nodes if node not in reached]
    if lonely:
        raise ScenarioError(f"{place}: node {lonely[0]!r} has no heat path to ambient: add links")


def _node(fields: _Fields, nodes: Mapping[str, float]) -> str:
    node = fields.text("node")
    if node not in nodes:
        raise ScenarioError(f"{fields.at('node')} is {node!r}: nodes are {', '.join(nodes)}")
    return node


def _chip(unit: str, item: Any, place: str, nodes: Mapping[str, float]) -> Chip:
    fields = _Fields(item, place)
    fields.raw("name"), fields.raw("unit")
    inner = _Fields(fields.raw("throttle", {}), fields.at("throttle"))
    trip = inner.number("trip_c", 95.0, 30, 150)
    throttle = Throttle(
        kind=inner.text("kind", "step_wise", THROTTLES), trip_c=trip, target_c=inner.number("target_c", trip + 5.0, trip, 160),
        poll_s=inner.number("poll_s", 0.1, 0.01, 10), states=int(inner.number("states", 10.0, 1, 100)),
        clock_step=inner.number("clock_step", 0.06, 0.001, 0.95), sustainable_w=inner.number("sustainable_w", 15.0, 0.1, 1e4),
        hysteresis_c=inner.number("hysteresis_c", 2.0, 0, 30),
    )  # fmt: skip
    inner.done()
    if throttle.states * throttle.clock_step > 0.95:
        raise ScenarioError(f"{place}.throttle: states * clock_step is {throttle.states * throttle.clock_step:g}: at most 0.95")
    chip = Chip(
        unit, _node(fields, nodes), fields.number("idle_w", 5.0, 0, 1e4), fields.number("leak_w", 0.0, 0, 1e3),
        fields.number("leak_at_c", 60.0, -40, 150), fields.number("leak_per_k", 0.018, 0, 0.1), throttle,
    )  # fmt: skip
    fields.done()
    return chip


def _sensor(name: str, item: Any, place: str, nodes: Mapping[str, float], trips: Mapping[str, float]) -> Sensor:
    fields = _Fields(item, place)
    fields.raw("name"), fields.raw("type")
    node = _node(fields, nodes)
    listed: list[tuple[float, str]] = []
    if fields.has("trips"):
        for n, trip in enumerate(fields.entries("trips")):
            inner = _Fields(trip, f"{place}.trips[{n}]")
            listed.append((inner.number("celsius", low=-300, high=300), inner.text("kind", "passive", TRIP_KINDS)))
            inner.done()
    elif node in trips:
        listed = [(trips[node], "passive"), (trips[node] + 10.0, "critical")]
    sensor = Sensor(
        name, node, fields.text("via", "thermal", ("thermal", "hwmon")), fields.number("noise_c", 0.3, 0, 10),
        fields.number("step_c", 0.5, 0, 10), fields.number("lag_s", 0.0, 0, 60), fields.number("every_s", 0.0, 0, 60),
        fields.number("offset_c", 0.0, -30, 30), tuple(listed),
    )  # fmt: skip
    fields.done()
    return sensor


def _model(name: str, item: Any, place: str, units: Sequence[str]) -> Model:
    fields = _Fields(item, place)
    fields.raw("name"), fields.raw("model")
    unit = fields.text("unit", units[0])
    if unit not in units:
        raise ScenarioError(f"{fields.at('unit')} is {unit!r}: chips are {', '.join(units)}")
    rungs = []
    for n, rung in enumerate(fields.entries("rungs")):
        inner = _Fields(rung, f"{place}.rungs[{n}]")
        rungs.append(
            (
                inner.text("name"),
                inner.number("quality", low=1e-6),
                inner.number("power_w", low=0),
                inner.number("latency_ms", low=0),
            )
        )
        inner.done()
    rates = tuple(
        _number(rate, f"{place}.rates[{n}]", 0.001, 1) for n, rate in enumerate(fields.entries("rates", [1.0, 0.5, 0.25]))
    )
    floor = fields.raw("floor")
    try:
        ladder = LadderInfo(
            name, tuple(RungInfo(*rung, measured=True) for rung in rungs), fields.number("priority", 1.0), unit,
            None if floor is None else str(floor), rates,
        )  # fmt: skip
    except LadderError as error:
        raise ScenarioError(f"{place}: {error}") from None
    model = Model(ladder, fields.number("power_scale", 1.0, 0.05, 20))
    fields.done()
    return model


def _ambient(top: _Fields) -> tuple[tuple[tuple[float, float], ...], tuple[float, float, float] | None]:
    value = top.need("ambient")
    place = top.at("ambient")
    if isinstance(value, Mapping):
        fields = _Fields(value, place)
        mean = fields.number("mean", low=-60, high=100)
        period = fields.number("period_s", 86400.0, 1)
        wave = (fields.number("amplitude", low=0, high=60), period, fields.number("peak_s", period * 0.6))
        fields.done()
        return ((0.0, mean),), wave
    if isinstance(value, list):
        points = []
        for n, point in enumerate(value):
            if not isinstance(point, list) or len(point) != 2:
                raise ScenarioError(f"{place}[{n}] is {_short(point)}: give [seconds, degrees]")
            points.append((_number(point[0], f"{place}[{n}][0]", 0), _number(point[1], f"{place}[{n}][1]", -60, 100)))
        if not points or any(b[0] <= a[0] for a, b in itertools.pairwise(points)):
            raise ScenarioError(f"{place}: give at least one [seconds, degrees], times ascending")
        return tuple(points), None
    return ((0.0, _number(value, place, -60, 100)),), None


def _calibration(top: _Fields) -> CalibrationPlan:
    value = top.raw("calibration", {})
    if value in ("none", False):
        return CalibrationPlan(False, 25.0, 0.0, 1.0)
    fields = _Fields(value, top.at("calibration"))
    plan = CalibrationPlan(
        True, fields.number("ambient_c", 25.0, -40, 80), fields.number("duration_s", 1500.0, 60, 20000),
        fields.number("scale", 1.0, 0.1, 10),
    )  # fmt: skip
    fields.done()
    return plan


_EVENTS = ("heat", "burst", "sun", "link", "fan", "sensor", "swap", "slow")


def _event(
    item: Any, place: str, duration: float, nodes: Mapping[str, float], links: Sequence[Link], sensors: Sequence[Sensor],
    models: Sequence[Model], units: Sequence[str],
) -> Event:  # fmt: skip
    fields = _Fields(item, place)
    kind = fields.text("kind", among=_EVENTS)
    at = fields.number("at", 0.0, 0)
    until = fields.number("until", max(duration, at) + 1.0, at)
    values: dict[str, Any] = {}
    if kind in ("heat", "burst", "sun"):
        values["node"] = _node(fields, nodes)
        values["watts"] = fields.number("watts", low=-1e4, high=1e4)
        values["every"] = fields.number("every_s", 0.0, 0)
        values["length"] = fields.number("length_s", 0.0, 0)
        values["ramp"] = fields.number("ramp_s", 0.0, 0)
        if values["every"] and not 0 < values["length"] <= values["every"]:
            raise ScenarioError(
                f"{place}: length_s {values['length']:g} must be above 0 and at most every_s {values['every']:g}"
            )
        kind = "heat"
    elif kind in ("link", "fan"):
        between = fields.need("between")
        ends = set(map(str, between)) if isinstance(between, list) else set()
        values["link"] = next((n for n, link in enumerate(links) if {link.a, link.b} == ends), -1)
        if values["link"] < 0:
            raise ScenarioError(f"{fields.at('between')} is {_short(between)}: no such link")
        if kind == "fan" and links[values["link"]].fan is None:
            raise ScenarioError(f"{place}: the link {_short(between)} has no fan to fail")
        if kind == "link":
            values["scale"] = fields.number("scale", low=0.01, high=100)
            values["ramp"] = fields.number("ramp_s", 0.0, 0)
    elif kind == "sensor":
        values["zone"] = fields.text("zone", among=[sensor.name for sensor in sensors] + ["all"])
        values["fault"] = fields.text("fault", among=SENSOR_FAULTS)
        values["value"] = fields.number("value", 0.0)
        values["every"] = fields.number("every_s", 30.0, 0)
    elif kind == "swap":
        values["model"] = fields.text("model", among=[model.ladder.model for model in models])
        ladder = next(model.ladder for model in models if model.ladder.model == values["model"])
        values["rung"] = fields.text("rung", among=ladder.names)
    else:
        values["unit"] = fields.text("unit", units[0], among=units)
        values["scale"] = fields.number("scale", low=1.0, high=100)
    fields.done()
    return Event(kind, at, until, **values)
