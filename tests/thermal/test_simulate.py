"""The plant and the whole loop on a simulated clock: physics, throttling, determinism, sensor faults, negative controls."""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bevstack.thermal import simulate
from bevstack.thermal.budget import Choice
from bevstack.thermal.calibration import Calibration
from bevstack.thermal.fake_sysfs import FakeSysfs
from bevstack.thermal.plant import Plant, clock_stretch
from bevstack.thermal.random_scenarios import draw
from bevstack.thermal.scenario import BUILT_IN, SENSOR_FAULTS, Scenario, ScenarioError, load, parse
from bevstack.thermal.zones import Health, Reading, ZoneSet

HOT = {"name": "hot", "duration_s": 600, "ambient": [[0, 25], [150, 25], [300, 52]]}


def scenario(**changes: Any) -> Scenario:
    return parse([{**HOT, **changes}])[0]


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    made = simulate.calibrate(scenario())
    assert made is not None
    return made


# --- plant ------------------------------------------------------------------------------------------------------------------


def test_steady_state_and_time_constant_are_those_of_the_network() -> None:
    chip = {"node": "die", "idle_w": 5.0, "leak_w": 0.0, "leak_at_c": 60.0, "leak_per_k": 0.0, "throttle": {"trip_c": 140}}
    made = scenario(ambient=25, duration_s=4000, chips={"gpu": chip})
    plant = Plant(made)
    assert plant.temperatures == pytest.approx([25 + 5 * 1.5, 25 + 5 * 1.0], abs=1e-3)
    power = np.array([10.0])
    at = {}
    for k in range(plant.steps):
        plant.step(power)
        at[(k + 1) * made.step_s] = plant.temperatures.copy()
    assert at[4000.0] == pytest.approx([25 + 15 * 1.5, 25 + 15 * 1.0], abs=0.05)
    # The die runs ahead of the sink by R * P after a few of its own time constants (0.5 K/W * 6 J/K = 3 s).
    assert at[20.0][0] - at[20.0][1] == pytest.approx(15 * 0.5, abs=0.25)
    rise = (at[150.0][1] - 30.0) / 10.0
    assert rise == pytest.approx(1 - math.exp(-1), abs=0.03), "150 J/K * 1 K/W is 150 s, and the die is 6 J/K on top"


def test_leakage_heats_more_where_it_is_hotter() -> None:
    plant = Plant(scenario(ambient=25, duration_s=3000))
    hot = Plant(scenario(ambient=45, duration_s=3000))
    for each in (plant, hot):
        for _ in range(each.steps):
            each.step(np.array([15.0]))
    assert hot.temperatures[0] - plant.temperatures[0] > 20.0 + 0.5


@pytest.mark.parametrize("kind", ["step_wise", "power_allocator", "hard"])
def test_every_kind_of_throttling_holds_the_die_and_slows_items(kind: str) -> None:
    made = scenario(ambient=50, chips={"gpu": {"throttle": {"kind": kind, "trip_c": 90.0, "sustainable_w": 15.0}}})
    result = simulate.run(made, "fixed large")
    assert result.throttled_s > 100
    assert result.p95 > 1.3 * 83.2
    free = scenario(ambient=50, chips={"gpu": {"throttle": {"kind": kind, "trip_c": 150.0}}})
    assert result.hottest < simulate.run(free, "fixed large").hottest - 3
    assert clock_stretch(1.0) == pytest.approx(1.0)


def test_an_hour_takes_seconds(calibration: Calibration) -> None:
    """100 times faster than real time, by CPU time: other programs of this machine do not count."""
    simulate.run(scenario(duration_s=60), "ours", calibration=calibration)  # compiles the plant
    result = simulate.run(scenario(), "ours", calibration=calibration)
    assert result.duration_s / result.cpu_s > 100


def test_same_seed_same_run(calibration: Calibration) -> None:
    one, two = (simulate.run(scenario(duration_s=300), "ours", calibration=calibration) for _ in range(2))
    assert [str(d) for d in one.decisions] == [str(d) for d in two.decisions]
    assert (one.quality, one.p95, one.hottest) == (two.quality, two.p95, two.hottest)
    assert str(draw(7)) == str(draw(7))
    assert str(draw(7)) != str(draw(8))


def test_every_item_is_accounted_for(calibration: Calibration) -> None:
    result = simulate.run(scenario(duration_s=300), "ours", calibration=calibration)
    assert result.items == pytest.approx(3000, abs=2)
    assert result.lost == 0
    over = simulate.run(scenario(duration_s=300, period_ms=50, calibration="none"), "fixed large")
    assert over.lost > 1000, "83 ms of work every 50 ms"


# --- the loop ---------------------------------------------------------------------------------------------------------------


def test_ours_holds_the_bars_and_what_must_fail_them_does(calibration: Calibration) -> None:
    made = scenario()
    combo, best = simulate.best_fixed(made)
    assert combo is not None
    ours = simulate.run(made, "ours", calibration=calibration)
    assert (ours.throttled_s, ours.lost) == (0, 0)
    assert ours.flatness <= 1.15
    assert ours.quality >= 0.9 * best
    assert ours.swaps_per_hour < 80
    fixed = simulate.run(made, "fixed large")
    assert fixed.throttled_s > 60
    small = tuple(Choice(ladder.smallest.name) for ladder in made.ladders)
    assert simulate.mean_quality(made, small) < 0.9 * best, "always small is no way to meet the bars"


def test_a_reader_that_takes_dead_zones_for_cold_ones_fails(calibration: Calibration, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mistake of other readers: 0 degC where nothing answers. This loop notices the difference."""
    made = scenario(events=[{"kind": "sensor", "zone": "all", "fault": "error", "at": 120}])
    right = simulate.run(made, "bands")
    assert right.throttled_s == 0
    honest = ZoneSet.read

    def wrong(self: ZoneSet) -> list[Reading]:
        return [r if r.celsius is not None else Reading(r.zone, 0.0, Health.OK, r.at) for r in honest(self)]

    monkeypatch.setattr(ZoneSet, "read", wrong)
    assert simulate.run(made, "bands").throttled_s > 0


@pytest.mark.parametrize(
    ("fault", "zone"),
    [
        *((fault, "tj-thermal") for fault in SENSOR_FAULTS),
        ("error", "all"),
        ("disabled", "all"),
        ("vanish", "all"),
        ("spike", "all"),
    ],
)
def test_no_sensor_fault_leads_to_throttling(fault: str, zone: str, calibration: Calibration) -> None:
    """Each fault comes in the cool and stays while it becomes hot."""
    value = {"spike": 30.0, "noise": 1.0, "offset": -15.0, "drift": -0.03, "degrees": 0.0}.get(fault, 0.0)
    event = {"kind": "sensor", "zone": zone, "fault": fault, "value": value, "at": 120, "every_s": 20}
    # Nobody can know weather that changes faster than 3 degC per minute while every sensor is dead.
    weather = {"ambient": [[0, 40], [150, 40], [550, 58]]} if zone == "all" else {}
    result = simulate.run(scenario(events=[event], **weather), "ours", calibration=calibration)
    assert result.throttled_s == 0
    assert result.lost == 0
    if fault in ("lost", "eagain", "error", "empty", "text", "disabled", "vanish", "negative"):
        assert any("DEGRADED" in condition for condition in result.conditions), result.conditions


def test_a_rung_that_cannot_be_loaded_is_done_without(calibration: Calibration) -> None:
    made = scenario(ambient=20, duration_s=300, events=[{"kind": "swap", "model": "fastbev", "rung": "large", "at": 0}])
    result = simulate.run(made, "ours", calibration=calibration)
    assert result.swaps_failed >= 1
    assert result.lost == 0
    assert result.quality > 0.9


def test_another_program_is_contention_and_no_heat(calibration: Calibration) -> None:
    made = scenario(ambient=20, duration_s=400, events=[{"kind": "slow", "unit": "gpu", "scale": 1.4, "at": 200, "until": 300}])
    result = simulate.run(made, "ours", calibration=calibration)
    assert any("CONTENTION" in condition for condition in result.conditions)
    assert result.throttled_s == 0


def test_a_wrong_calibration_costs_quality_and_never_throttles() -> None:
    for scale in (0.7, 1.3):
        result = simulate.run(scenario(calibration={"ambient_c": 25, "duration_s": 1500, "scale": scale}), "ours")
        assert result.throttled_s == 0
        assert result.quality > 0.8


def test_a_machine_without_zones_is_governed_by_latency() -> None:
    made = scenario(zones=None, ambient=50)
    ours, fixed = simulate.run(made, "ours"), simulate.run(made, "fixed large")
    assert ours.throttled_s < 0.5 * fixed.throttled_s
    assert ours.lost < 0.5 * fixed.lost


def test_a_busy_neighbour_is_not_taken_for_heat_again_and_again() -> None:
    """Slow items lowered the learnt ceiling until everything ran at its least, in air of 38 degC, and stayed there."""
    slow = {"kind": "slow", "unit": "gpu", "scale": 1.25, "at": 200, "until": 1000}
    result = simulate.run(scenario(ambient=38, duration_s=1200, events=[slow], calibration="none"), "bands")
    assert result.throttled_s == 0
    assert result.quality > 0.75, "0.4 where ceilings are learnt from slow items without end"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_all_built_in_and_forty_random_scenarios_hold_the_bars() -> None:
    missed = []
    for made in [*load(BUILT_IN), *(draw(1000 + n) for n in range(40))]:
        _, best = simulate.best_fixed(made)
        if best <= 0:
            continue
        result = simulate.run(made, "ours")
        if result.throttled_s or result.lost or result.flatness > 1.15 or result.quality < 0.9 * best:
            missed.append((made.name, result.throttled_s, result.lost, result.flatness, result.quality, best))
    assert missed == []


# --- fake sysfs -------------------------------------------------------------------------------------------------------------


def test_the_fake_tree_shows_the_kernels_own_errors(tmp_path: Path) -> None:
    made = scenario()
    tree = FakeSysfs(tmp_path / "sys", made.sensors, made.chips)
    tree.write("tj-thermal", 50.0)
    zones = ZoneSet(tmp_path / "sys", nvml=False)
    expected = {"lost": Health.GONE, "eagain": Health.OFFLINE, "empty": Health.OFFLINE, "text": Health.IMPLAUSIBLE}
    for fault in ("eagain", "error", "empty", "text", "disabled", "lost"):
        tree.fault("tj-thermal", fault)
        reading = {r.zone: r for r in zones.read()}["thermal:tj-thermal"]
        assert reading.celsius is None
        assert reading.health is expected.get(fault, reading.health), reading
        tree.fault("tj-thermal", None)
        tree.write("tj-thermal", 51.0)
        assert {r.zone: r.celsius for r in zones.read()}["thermal:tj-thermal"] == 51.0
    tree.close()


# --- scenario files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"duration_s": "long"}, "duration_s is 'long': give a number"),
        ({"ambeint": 20}, "unknown key 'ambeint': did you mean ambient"),
        ({"ambient": [[10, 20], [5, 30]]}, "times ascending"),
        ({"nodes": {"die": 0}}, "nodes.die is 0"),
        ({"links": [{"between": ["die", "moon"], "k_per_w": 1}]}, "names 'moon'"),
        ({"links": [{"between": ["die", "sink"], "k_per_w": 1}]}, "no heat path to ambient"),
        ({"events": [{"kind": "fan", "between": ["sink", "ambient"]}]}, "has no fan to fail"),
        ({"events": [{"kind": "sensor", "zone": "tj-thermal", "fault": "sleepy"}]}, "fault is 'sleepy'"),
        ({"events": [{"kind": "burst", "node": "die", "watts": 1, "every_s": 10, "length_s": 20}]}, "at most every_s"),
        ({"models": {"fastbev": {"unit": "tpu"}}}, "unit is 'tpu'"),
        ({"chips": {"gpu": {"throttle": {"kind": "magic"}}}}, "kind is 'magic'"),
        ({"governor": {"margin": -1}}, "margin is -1"),
        ({"zones": {"tj-thermal": {"node": "wing"}}}, "node is 'wing'"),
    ],
)
def test_mistakes_in_a_file_are_one_line_with_their_place(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        scenario(**changes)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "hot" in str(caught.value)


def test_files_yaml_json_and_neither(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"scenarios": [{"name": "x", "ambient": 30}]}')
    assert load(tmp_path / "a.json")[0].ambient == ((0.0, 30.0),)
    (tmp_path / "a.yaml").write_text("scenarios: [}")
    with pytest.raises(ScenarioError, match="is no YAML"):
        load(tmp_path / "a.yaml")
    with pytest.raises(ScenarioError, match="cannot read"):
        load(tmp_path / "none.yaml")
    with pytest.raises(ScenarioError, match="two scenarios called"):
        parse([HOT, HOT])
    with pytest.raises(ScenarioError, match="no scenarios"):
        parse({})


def test_built_in_scenarios_are_the_ones_that_were_asked_for() -> None:
    names = " ".join(made.name for made in load(BUILT_IN))
    for word in (
        "hot start",
        "sun load",
        "fan failure",
        "sensor stuck",
        "sensor lost",
        "burst load",
        "slow drift",
        "two chips",
    ):
        assert word in names
    two = next(made for made in load(BUILT_IN) if made.name == "two chips")
    assert {simulate.zone_key(sensor) for sensor in two.sensors} >= {"thermal:tj-thermal", "thermal:cv0-thermal"}


def test_x_real_time_is_measured() -> None:
    began = time.perf_counter()
    result = simulate.run(scenario(duration_s=60, calibration="none"), "bands")
    assert 0 < result.wall_s <= time.perf_counter() - began
    assert dataclasses.asdict(result)["lost"] == 0
