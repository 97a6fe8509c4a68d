"""Both policies, step by step on a clock of the test's: what they ask for, and what they say about it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bevstack.thermal.bands import BandPolicy
from bevstack.thermal.budget import Budget, Choice
from bevstack.thermal.calibration import Calibration
from bevstack.thermal.config import GovernorConfig, GovernorError
from bevstack.thermal.decision import Decision, Mode
from bevstack.thermal.evidence import NO_EVIDENCE, Evidence
from bevstack.thermal.governor import Governor
from bevstack.thermal.policy import Policy
from bevstack.thermal.rungs import LadderError, LadderInfo, RungInfo
from bevstack.thermal.zones import Health, Reading, Trip, Zone, ZoneSet

RUNGS = (
    RungInfo("large", 1.0, 14.0, 40.0, measured=True),
    RungInfo("medium", 0.92, 9.0, 30.0, measured=True),
    RungInfo("small", 0.75, 4.0, 15.0, measured=True),
)
BEV = LadderInfo("fastbev", RUNGS, priority=2.0)
DETECTOR = LadderInfo("giraffedet", RUNGS, priority=1.0)


class FakeZone:
    """A zone that says what the test wants."""

    kind = "thermal"

    def __init__(self, key: str = "die", units: tuple[str, ...] = ("gpu",), trips: tuple[Trip, ...] = ()) -> None:
        self.key, self.units, self.control, self.trips = key, units, True, trips or (Trip(95.0, "passive"),)

    def read(self) -> Reading:
        raise AssertionError("policies do not read")


class Run:
    """A policy that is stepped twice a second.

    ``responds``: zones follow the load as the calibration says; what a test gives is then what the smallest rungs lead to.
    A value that does not move although the load did is a stuck sensor to the predictive policy.
    """

    def __init__(self, policy: Governor, responds: bool = False) -> None:
        self.policy, self.now, self._responds = policy, 0.0, responds
        self._parts = np.zeros(2)
        self.shown: float | None = None
        self.decisions: list[Decision] = []
        self.latency: Mapping[str, Sequence[float]] = {}

    def step(
        self, seconds: float, celsius: float | Mapping[str, float | None] | None, evidence: Evidence = NO_EVIDENCE
    ) -> list[Decision]:
        """Steps for a while; a zone without a value is in error."""
        made: list[Decision] = []
        for _ in range(max(1, round(seconds / 0.5))):
            self.now += 0.5
            values = celsius if isinstance(celsius, Mapping) else dict.fromkeys(self.policy.sensors.trackers, celsius)
            if self._responds:
                rise = self._rise()
                values = {key: None if v is None else v + rise for key, v in values.items()}
            self.shown = next(iter(values.values()), None)
            readings = [
                Reading(key, v, Health.OK if v is not None else Health.ERROR, self.now, "" if v is not None else "EIO")
                for key, v in values.items()
            ]
            made += self.policy.step(readings, self.latency, self.now, evidence)
        self.decisions += made
        return made

    def glide(self, start: float, end: float) -> list[Decision]:
        """From one temperature to the other, 2 degC per second: no die jumps."""
        made: list[Decision] = []
        for celsius in np.arange(start, end, math.copysign(1.0, end - start)):
            made += self.step(0.5, float(celsius))
        return made

    def _rise(self) -> float:
        """degC above what the smallest rungs lead to, with a little noise."""
        budget = self.policy.budget
        extra = float(budget.power_of(self.policy.current).sum() - budget.power_of(budget.smallest).sum())
        self._parts += (1 - np.exp(-0.5 / np.array([3.0, 60.0]))) * (extra - self._parts)
        return round(float(self._parts @ [1.2, 0.8]) + 0.1 * math.sin(7.0 * self.now), 1)

    @property
    def rungs(self) -> list[str]:
        return [c.rung for c in self.policy.current]


def calibration(zones: Sequence[str] = ("die",)) -> Calibration:
    """1.2 K/W at once and 0.8 K/W after a minute, 40 degC without load."""
    resistance = np.tile(np.array([[[1.2, 0.8]]]), (len(zones), 1, 1))
    return Calibration(
        tuple(zones), ("gpu",), np.array([3.0, 60.0]), resistance, np.full(len(zones), 40.0), np.full(len(zones), 0.3)
    )


def bands(*ladders: LadderInfo, config: GovernorConfig | None = None, zones: Sequence[Zone] | None = None) -> Run:
    return Run(BandPolicy(ladders or (BEV,), zones if zones is not None else [FakeZone()], config=config))


def ours(*ladders: LadderInfo, zones: Sequence[Zone] | None = None, config: GovernorConfig | None = None) -> Run:
    found = zones if zones is not None else [FakeZone()]
    policy = Policy(ladders or (BEV,), found, calibration=calibration([z.key for z in found]), config=config)
    return Run(policy, responds=True)


# --- both -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [bands, ours])
def test_starts_small_and_climbs_in_the_cool(make: object) -> None:
    run = make()  # type: ignore[operator]
    assert run.rungs == ["small"]
    assert run.step(4.0, 45.0) == []
    run.step(120.0, 45.0)
    assert run.rungs == ["large"]


@pytest.mark.parametrize("make", [bands, ours])
def test_a_sample_at_the_ceiling_is_an_emergency(make: object) -> None:
    run = make()  # type: ignore[operator]
    run.step(120.0, 50.0)
    assert run.rungs == ["large"]
    rise = 20.0 if make is ours else 0.0  # of the large rung over the small one
    run.glide(50.0, 84.0 - rise)
    (decision,) = run.step(0.5, 94.5 - rise)
    assert decision.to_rung == "small"
    assert re.search(r"die (reads|rose)", str(decision))


@pytest.mark.parametrize("make", [bands, ours])
def test_every_decision_is_one_line_that_explains_itself(make: object) -> None:
    run = make()  # type: ignore[operator]
    run.step(100.0, 50.0)
    run.glide(50.0, 93.0)
    run.step(10.0, 93.0)
    assert run.decisions
    for decision in run.decisions:
        line = str(decision)
        assert "\n" not in line
        assert re.match(
            r"fastbev: \w+ -> \w+(, rate [\d.]+ -> [\d.]+)?: .+; (no forecast|forecast [\d.]+ degC with, [\d.]+ degC without)$",
            line,
        ), line


def test_without_any_sensor_bands_freeze_then_go_down_then_to_the_bottom() -> None:
    run = bands()
    run.step(200.0, 50.0)
    assert run.rungs == ["large"]
    run.step(2.0, None)
    assert run.rungs == ["large"], "a moment's silence changes nothing"
    run.step(6.0, None)
    assert run.rungs == ["medium"]
    run.step(30.0, None)
    assert run.rungs == ["small"]
    assert run.policy.mode is Mode.STALE
    assert "DEGRADED" in run.policy.condition


def test_a_lost_zone_is_never_a_cold_zone() -> None:
    zones = [FakeZone("a"), FakeZone("b")]
    run = bands(zones=zones)
    run.step(60.0, {"a": 88.0, "b": 88.0})
    before = run.rungs
    run.step(60.0, {"a": None, "b": 86.5})
    assert run.rungs <= before
    assert "DEGRADED" in run.policy.condition


def test_throttling_seen_lowers_the_ceiling_and_forbids_going_up() -> None:
    run = bands(zones=[FakeZone(trips=(Trip(105.0, "passive"),))], config=GovernorConfig(ceiling=105.0))
    run.step(200.0, 60.0)
    run.glide(60.0, 88.0)
    run.step(6.0, 88.0)
    (decision, *_) = run.step(0.5, 88.0, Evidence(frozenset({"gpu"}), lines=("cooling device gpu is at state 2",)))
    assert decision.from_rung == "large"
    assert run.policy.ceilings.of(run.policy.sensors.trackers["die"].zone, run.now) == pytest.approx(86.0, abs=0.1)
    assert "THERMAL" in run.policy.condition
    assert not [d for d in run.glide(88.0, 60.0) + run.step(40.0, 60.0) if d.to_rung == "large"], "no up-shift for a minute"
    run.step(120.0, 60.0)
    assert run.rungs == ["large"]


def test_a_power_cap_is_named_and_rungs_stay() -> None:
    run = bands()
    run.step(200.0, 50.0)
    run.step(5.0, 40.0, Evidence(power=frozenset({"soc"}), lines=("over-current event 1 rose to 3",)))
    assert run.policy.condition.startswith("POWER")
    assert run.rungs == ["large"]


def test_slow_items_on_a_cool_die_are_contention_and_on_a_hot_one_heat() -> None:
    run = bands()
    run.step(200.0, 50.0)
    run.latency = {"fastbev": [60.0, 61.0, 60.0]}  # 40 ms expected
    run.step(10.0, 50.0)
    assert run.policy.condition.startswith("CONTENTION")
    assert run.rungs == ["large"]
    run.step(10.0, 88.0)
    assert run.policy.condition.startswith("THERMAL")
    assert run.rungs != ["large"]


def test_a_busy_machine_is_not_taken_for_a_hot_one_again_and_again() -> None:
    """As seen beside other programs on a virtual machine: items slow at any temperature pulled the ceiling down to 63 degC."""
    run = bands()
    run.step(200.0, 50.0)
    run.step(10.0, 86.0)
    run.latency = {"fastbev": [70.0, 71.0, 72.0]}
    run.step(20.0, 86.0)
    assert run.policy.condition.startswith("THERMAL"), "near the ceiling it may be heat"
    zone = run.policy.sensors.trusted[0].zone
    lowest = run.policy.ceilings.of(zone, run.now)
    assert lowest == pytest.approx(84.0, abs=0.5)
    assert run.rungs == ["small"]
    for celsius in (82.0, 79.0, 76.0, 75.0, 74.0, 73.0):
        run.step(10.0, celsius)
        assert run.policy.condition.startswith(("CONTENTION", "UNSUSTAINABLE"))
        lowest = min(lowest, run.policy.ceilings.of(zone, run.now))
    assert lowest > 80.9, "slow items in the cool teach no ceiling"
    assert run.policy.ceilings.of(zone, run.now) == 95.0, "and acquit the one that was suspected"
    run.step(200.0, 80.0)
    assert run.rungs == ["large"]
    run.step(20.0, 86.0)
    assert run.policy.condition.startswith("CONTENTION"), "latency is no thermometer for a while"
    run.step(4.0, 86.0, Evidence(thermal=frozenset({"gpu"}), lines=("cooling device gpu is at state 1",)))
    assert run.policy.condition.startswith("THERMAL"), "the kernel's word counts all the same"


def test_a_ceiling_of_slow_items_stays_where_they_are_fast_in_the_cool() -> None:
    run = bands()
    run.step(200.0, 50.0)
    for _ in range(5):
        run.latency = {}
        run.step(5.0, 87.0)
        run.latency = {"fastbev": [70.0, 71.0, 72.0]}
        run.step(5.0, 87.0)
        run.latency = {"fastbev": [15.0]}
        run.step(60.0, 76.0)
    zone = run.policy.sensors.trusted[0].zone
    assert run.policy.ceilings.of(zone, run.now) == pytest.approx(85.0, abs=0.5)


def test_without_zones_latency_governs() -> None:
    run = bands(zones=[])
    run.latency = {"fastbev": [15.0]}
    run.step(90.0, {})
    assert run.policy.mode is Mode.LATENCY
    assert run.rungs == ["large"]
    run.latency = {"fastbev": [70.0, 71.0, 72.0]}
    run.step(4.0, {})
    assert run.rungs == ["medium"]


def test_too_hot_at_the_bottom_is_said() -> None:
    run = bands()
    run.step(90.0, 93.0)
    assert run.policy.condition.startswith("UNSUSTAINABLE")


def test_rates_are_the_lever_after_the_rungs() -> None:
    run = ours()
    run.step(90.0, 94.6)
    choice = run.policy.current[0]
    assert choice.rung == "small"
    assert choice.rate < 1.0
    run.glide(94.6, 60.0)
    run.step(200.0, 60.0)
    assert run.policy.current[0].rate == 1.0, "rates come back before rungs do"


def test_a_rung_that_failed_is_left_alone_for_ten_minutes() -> None:
    run = bands()
    run.step(20.0, 50.0)
    run.policy.reject("fastbev", "large", run.now, "no weights")
    run.policy.observe("fastbev", "medium")
    run.step(590.0, 50.0)
    assert run.rungs == ["medium"]
    run.step(60.0, 50.0)
    assert run.rungs == ["large"]
    run.policy.reject("fastbev", "small", run.now)
    run.step(1.0, 94.5)
    assert run.rungs == ["small"], "the smallest is never locked out"


def test_up_shifts_wait_longer_after_one_that_did_not_last() -> None:
    run = bands(config=GovernorConfig(dwell_up_s=10.0))
    ups: list[float] = []
    for _ in range(400):
        hot = run.rungs != ["small"]
        ups += [d.at for d in run.step(1.0, 91.0 if hot else 80.0) if d.to_rung == "medium"]
    gaps = np.diff(ups)
    assert gaps[0] >= 10.0
    assert max(gaps) >= 4 * 10.0
    assert max(gaps) <= 8 * 10.0 + 5


def test_the_clock_must_not_go_back() -> None:
    run = bands()
    run.step(2.0, 50.0)
    with pytest.raises(GovernorError, match="monotonic"):
        run.policy.step([], {}, 1.0)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([None, 40.0, 70.0, 84.0, 89.5, 91.0, 94.5]), st.integers(1, 30)), max_size=10))
@pytest.mark.parametrize("make", [bands, ours])
def test_no_history_raises_a_rung_while_blind_or_hot(make: object, history: list[tuple[float | None, int]]) -> None:
    run = make(BEV, DETECTOR)  # type: ignore[operator]
    for celsius, steps in history:
        for _ in range(steps):
            before = run.policy.budget.power_of(run.policy.current).sum()
            run.step(0.5, celsius)
            after = run.policy.budget.power_of(run.policy.current).sum()
            if run.shown is None or run.shown > 94.0:
                assert after <= before


# --- several models -----------------------------------------------------------------------------------------------------------


def test_priority_decides_who_gives_way() -> None:
    low, high = replace(BEV, model="low", priority=0.3), replace(BEV, model="high", priority=3.0)
    run = bands(low, high)
    run.step(400.0, 50.0)
    assert run.rungs == ["large", "large"]
    run.glide(50.0, 90.0)
    assert next(filter(None, (run.step(0.5, 90.6) for _ in range(20))))
    assert run.rungs == ["medium", "large"]


def test_nobody_goes_below_its_floor() -> None:
    run = ours(replace(BEV, floor="medium"), DETECTOR)
    run.step(60.0, 94.9)
    assert run.rungs == ["medium", "small"]


def test_models_that_are_not_there_cost_and_count_for_nothing() -> None:
    run = ours(BEV, DETECTOR)
    run.policy.set_absent(["giraffedet"])
    run.step(200.0, 50.0)
    assert run.rungs == ["large", "small"]
    assert run.policy.budget.power_of(run.policy.current).tolist() == [14.0]
    made = run.glide(50.0, 94.5)
    assert {d.model for d in made} == {"fastbev"}
    run.glide(94.5, 35.0)
    run.policy.set_absent([])
    assert run.rungs[1] == "small"
    run.step(400.0, 35.0)
    assert run.rungs == ["large", "large"]
    with pytest.raises(GovernorError, match="no ladder"):
        run.policy.set_absent(["codec"])


def test_items_must_fit_their_period() -> None:
    run = bands(BEV, DETECTOR, config=GovernorConfig(period_ms=66.0))
    run.step(600.0, 50.0)
    busy = run.policy.budget.busy_of(run.policy.current).max()
    assert busy * 1.1 <= 66.0
    assert busy > 40.0


def test_budget_knows_all_combinations_and_prefers_fairness() -> None:
    budget = Budget([BEV, DETECTOR])
    assert len([c for c, full in zip(budget.choices, budget.full_rate) if full]) == 9
    assert budget.choices[0] == (Choice("large"), Choice("large"))
    equal = [c for c in budget.choices if budget.power_of(c).sum() == 18.0]
    assert equal[0] == (Choice("medium"), Choice("medium")), "for the same watts nobody is starved"
    assert equal[1] == (Choice("large"), Choice("small")), "then the one with the higher priority keeps its quality"
    assert (np.diff(budget.utility) <= 1e-12).all()


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: RungInfo("x", 0.0, 1.0, 1.0), "quality"),
        (lambda: RungInfo("x", 1.0, math.nan, 1.0), "power_w"),
        (lambda: LadderInfo("m", ()), "no rungs"),
        (lambda: LadderInfo("m", RUNGS + RUNGS[:1]), "same name"),
        (lambda: LadderInfo("m", RUNGS, rates=(0.5,)), "contain 1.0"),
        (lambda: LadderInfo("m", RUNGS, floor="huge"), "floor huge"),
        (lambda: GovernorConfig(band_up=4.0), "flap"),
        (lambda: GovernorConfig(margin=-1.0), "margin is -1.0"),
        (lambda: Budget([BEV, BEV]), "different names"),
    ],
)
def test_what_cannot_be_right_is_refused(build: object, words: str) -> None:
    with pytest.raises((LadderError, GovernorError), match=words):
        build()  # type: ignore[operator]


# --- ours -------------------------------------------------------------------------------------------------------------------


def test_forecasts_keep_the_large_rung_out_where_it_would_not_last() -> None:
    """At 75 degC with the small rung, the large one's 10 W more would end at 95: bands would try it, and be sorry."""
    run = ours()
    run.step(300.0, 75.0)
    assert run.policy.mode is Mode.PREDICTIVE
    assert run.rungs != ["large"]
    for decision in run.decisions:
        assert decision.predicted_with is not None
        assert decision.predicted_with < 95.0


def test_time_to_throttle_and_headroom_are_told() -> None:
    run = ours()
    run.step(60.0, 50.0)
    state = run.policy.state()
    assert state.time_to_throttle is None
    zone = state.zones[0]
    assert zone.celsius is not None
    assert state.headroom == pytest.approx((95.0 - zone.celsius) / 40.0)
    assert zone.predicted is not None
    assert zone.health == "ok"


def test_a_model_that_is_not_trusted_leaves_the_bands_in_charge() -> None:
    run = ours()
    run.step(60.0, 60.0)
    policy = run.policy
    assert isinstance(policy, Policy)
    policy.trust_model(False, "die DRIFT")
    run.step(1.0, 60.0)
    assert policy.mode.value == "bands"
    assert policy.condition == "DEGRADED: thermal model not trusted: die DRIFT"
    policy.trust_model(True)
    run.step(1.0, 60.0)
    assert policy.mode.value == "predictive"
    assert policy.condition == "ok"


def test_blind_the_model_carries_on_with_a_growing_margin() -> None:
    run = ours()
    run.step(120.0, 60.0)
    run.step(20.0, None)
    assert run.policy.mode is Mode.BLIND
    before = run.policy.budget.power_of(run.policy.current).sum()
    run.step(1200.0, None)
    assert run.policy.budget.power_of(run.policy.current).sum() < before


def test_a_machine_without_zones_says_so(tmp_path: object) -> None:
    assert "latency alone" in ZoneSet(tmp_path).describe()  # type: ignore[arg-type]
