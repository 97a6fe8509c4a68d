"""Calibration: the fit finds the constants of a plant that it does not know, and refuses what cannot be fitted."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bevstack.thermal import simulate
from bevstack.thermal.calibration import Calibration, excitation, fit, low_passed, nnls
from bevstack.thermal.calibration_run import CalibrationRun
from bevstack.thermal.config import GovernorError
from bevstack.thermal.plant import Plant
from bevstack.thermal.rungs import LadderInfo, RungInfo
from bevstack.thermal.scenario import Scenario, parse
from bevstack.thermal.zones import Health, Reading

from .test_policy import BEV, DETECTOR, FakeZone

TAUS = np.array([3.0, 80.0])


def record(noise: float = 0.3, start: float = 0.0, n: int = 2400) -> tuple[np.ndarray, np.ndarray]:
    """Power (n, 1) and temperature (n, 1) of a Foster plant at 1 Hz: 0.5 K/W fast, 1.0 K/W slow, 40 degC."""
    rng = np.random.default_rng(5)
    levels = [level for hold, (level,) in excitation(1, float(n)) for _ in range(round(hold))]
    power = np.where(np.array(levels[:n])[:, None], 20.0, 6.0)
    z = low_passed(power, 1.0, TAUS, None if not start else np.array([start]))[:, 0]
    celsius = 40.0 + z @ [0.5, 1.0] + rng.normal(scale=noise, size=n)
    return power, np.round(celsius / 0.5)[:, None] * 0.5


def test_the_fit_finds_steady_gain_and_offset() -> None:
    power, celsius = record()
    made = fit(["die"], ["gpu"], power, celsius, 1.0)
    assert made.resistance.sum() == pytest.approx(1.5, rel=0.05)
    assert made.offset[0] == pytest.approx(40.0, abs=0.7)
    assert made.rms[0] < 0.45
    assert (made.resistance >= 0).all()


def test_a_record_that_begins_under_load_needs_to_be_told() -> None:
    power, celsius = record(start=20.0, n=900)
    told = fit(["die"], ["gpu"], power, celsius, 1.0, start=np.array([20.0]))
    untold = fit(["die"], ["gpu"], power, celsius, 1.0)
    assert told.rms[0] < untold.rms[0]
    assert told.resistance.sum() == pytest.approx(1.5, rel=0.12)


def test_silent_samples_are_left_out_and_too_many_refused() -> None:
    power, celsius = record()
    celsius[200:500] = math.nan
    assert fit(["die"], ["gpu"], power, celsius, 1.0).resistance.sum() == pytest.approx(1.5, rel=0.06)
    celsius[:-30] = math.nan
    with pytest.raises(GovernorError, match="zone die answered only 30 times"):
        fit(["die"], ["gpu"], power, celsius, 1.0)
    with pytest.raises(GovernorError, match="unit gpu never changed"):
        fit(["die"], ["gpu"], np.full((100, 1), 5.0), np.full((100, 1), 50.0), 1.0)
    with pytest.raises(GovernorError, match="60 s are the least"):
        fit(["die"], ["gpu"], power[:30], celsius[:30], 1.0)


def test_nnls_keeps_signs() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(200, 5))
    truth = np.array([1.0, 0.0, 2.0, 0.0, 0.3])
    x = nnls(a.T @ a, a.T @ (a @ truth))
    np.testing.assert_allclose(x, truth, atol=1e-6)
    x = nnls(a.T @ a, a.T @ (a @ np.array([-1.0, 1.0, 0.0, 0.0, 0.0])))
    assert (x >= 0).all()
    assert x[0] == 0.0


def test_files(tmp_path: Path) -> None:
    power, celsius = record(n=300)
    made = fit(["die"], ["gpu"], power, celsius, 1.0)
    made.save(tmp_path / "c.json")
    again = Calibration.load(tmp_path / "c.json")
    np.testing.assert_array_equal(again.resistance, made.resistance)
    content = json.loads((tmp_path / "c.json").read_text())
    for change, words in (
        ({"taus": [0.0] * len(content["taus"])}, "do not fit"),
        ({"offset": [math.inf]}, "do not fit"),
        ({"zones": ["a", "b"]}, "do not fit"),
        ({"rms": "x"}, "no thermal calibration"),
    ):
        (tmp_path / "bad.json").write_text(json.dumps({**content, **change}))
        with pytest.raises(GovernorError, match=words):
            Calibration.load(tmp_path / "bad.json")
    (tmp_path / "bad.json").write_text("[")
    with pytest.raises(GovernorError, match="no thermal calibration"):
        Calibration.load(tmp_path / "bad.json")
    with pytest.raises(GovernorError, match="cannot read"):
        Calibration.load(tmp_path / "none.json")
    with pytest.raises(GovernorError, match="cannot write"):
        made.save(tmp_path / "no" / "where.json")


# --- on the machine -----------------------------------------------------------------------------------------------------------


def plant_of(ambient: float) -> Scenario:
    return parse([{"name": "bench", "duration_s": 2000, "ambient": ambient}])[0]


def calibrate(made: Scenario, seconds: float = 900.0) -> tuple[CalibrationRun, float]:
    """A run against the plant; also the hottest that the die became."""
    zone = FakeZone("die")
    run = CalibrationRun(made.ladders, [zone], lambda _: 95.0, seconds=seconds, seed=3)
    plant, now, hottest = Plant(made), 0.0, -273.0
    rng = np.random.default_rng(1)
    while not run.done(now):
        shown = round((float(plant.temperatures[0]) + rng.normal(scale=0.3)) / 0.5) * 0.5
        power = plant.powers([(c.rung, c.rate) for c in run.current])
        run.step([Reading("die", shown, Health.OK, now)], {"gpu": float(power[0])}, now)
        _, hot = plant.step(power)  # a swap takes effect a period later
        hottest, now = max(hottest, hot), now + 0.5
    return run, hottest


def test_a_run_on_a_plant_predicts_its_steady_state() -> None:
    run, hottest = calibrate(plant_of(25.0), 1500.0)
    found = run.result()
    assert found.rms[0] < 0.8
    assert found.resistance.sum() == pytest.approx(1.73, rel=0.1), "0.5 + 1.0 K/W, and leakage adds 15 %"
    assert hottest < 90


def test_the_guard_keeps_a_hot_machine_from_throttling() -> None:
    _, hottest = calibrate(plant_of(45.0), 400.0)
    assert hottest < 93.0


def test_what_cannot_be_calibrated_is_said() -> None:
    zone = FakeZone("die")
    one = LadderInfo("codec", (RungInfo("only", 1.0, 1.0, 1.0),))
    cases: list[tuple[Callable[[], CalibrationRun], str]] = [
        (lambda: CalibrationRun([BEV], [], lambda _: 95.0), "governed by latency"),
        (lambda: CalibrationRun([BEV], [zone], lambda _: 95.0, seconds=10.0), "too short"),
        (lambda: CalibrationRun([one], [zone], lambda _: 95.0), "nothing to calibrate with"),
        (lambda: CalibrationRun([BEV, DETECTOR], [zone], lambda _: 95.0, absent=["fastbev", "giraffedet"]), "nothing to calib"),
    ]
    for build, words in cases:
        with pytest.raises(GovernorError, match=words):
            build()
    run = CalibrationRun([BEV], [zone], lambda _: 95.0, seconds=60.0)
    for k in range(200):
        assert run.step([], {"gpu": 4.0}, 0.5 * k) == [], "blind: nothing large runs"
    with pytest.raises(GovernorError, match="no zone answered"):
        run.result()
    run = CalibrationRun([BEV], [zone], lambda _: 95.0, seconds=60.0)
    for k in range(200):
        run.step([Reading("die", 50.0, Health.OK, 0.5 * k)], {"gpu": 4.0}, 0.5 * k)
    with pytest.raises(GovernorError, match="power never changed"):
        run.result()


def test_the_simulators_own_calibration_fits() -> None:
    made = simulate.calibrate(plant_of(25.0))
    assert made is not None
    assert set(made.zones) == {"thermal:tj-thermal", "thermal:gpu-thermal", "thermal:soc0-thermal"}
    assert (made.rms < 1.0).all()
