"""``bevstack thermal watch`` and ``check`` as a user runs them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from bevstack.cli.main import app
from bevstack.cli.thermal_check import load_log, log_of_states
from bevstack.thermal.calibration import Calibration, low_passed
from bevstack.thermal.check import Log
from bevstack.thermal.log_file import read_log, write_log

TAUS = np.array([3.0, 60.0])
RUN = CliRunner()


def run(*words: object) -> tuple[int, str]:
    done = RUN.invoke(app, ["thermal", *map(str, words)])
    return done.exit_code, " ".join(done.output.split())


def calibration(path: Path, scale: float = 1.0) -> Path:
    resistance = np.array([[[1.2, 0.8]]]) * scale
    Calibration(("thermal:die",), ("gpu",), TAUS, resistance, np.array([40.0]), np.array([0.3])).save(path)
    return path


def recorded(path: Path, seed: int = 0, seconds: float = 2400.0) -> Path:
    """Alternating rungs, a sensor with noise 0.3, items of 20 to 60 ms."""
    rng = np.random.default_rng(seed)
    n = int(seconds)
    power = np.repeat(rng.choice([4.0, 9.0, 14.0], n // 20 + 1), 20)[:n]
    celsius = 40.0 + low_passed(power[:, None], 1.0, TAUS)[:, 0] @ [1.2, 0.8] + rng.normal(scale=0.3, size=n)
    expected = power * 3.0 + 10.0
    latency = expected * 1.02 + rng.normal(scale=0.8, size=n)
    write_log(
        path, Log(np.arange(n, dtype=float), {"thermal:die": celsius}, {"gpu": power}, {"bev": latency}, {"bev": expected})
    )
    return path


def test_a_model_that_fits_raises_no_alarm_and_one_that_does_not_does(tmp_path: Path) -> None:
    log = recorded(tmp_path / "run.csv")
    code, said = run("check", log, "--calibration", calibration(tmp_path / "good.json"), "--json", tmp_path / "out.json")
    assert code == 0, said
    assert "no alarm" in said
    reports = json.loads((tmp_path / "out.json").read_text())
    assert {r["subject"] for r in reports} == {"thermal:die", "latency bev"}
    assert all(r["verdict"] in ("OK", "NOT_VALID") for r in reports)
    code, said = run("check", log, "--calibration", calibration(tmp_path / "dusty.json", 0.7))
    assert code == 1, said
    assert "ALARM" in said
    assert "stored resistances are off" in said


def test_mistakes_are_one_line_and_exit_code_two(tmp_path: Path) -> None:
    short = tmp_path / "short.csv"
    short.write_text("seconds,zone thermal:die,power gpu\n0,50,1\n1,50,2\n")
    bad = tmp_path / "bad.csv"
    good = calibration(tmp_path / "good.json")
    for words, told in (
        (("check", tmp_path / "none.csv"), "cannot read log"),
        (("check", tmp_path / "none"), "neither a .csv log nor a bag"),
        (("check", short, "--calibration", good), "too short for one window"),
        (("check", short, "--calibration", tmp_path / "none.json"), "cannot read calibration"),
        (("watch", "--root", tmp_path / "nowhere"), "no folder"),
    ):
        code, said = run(*words)
        assert code == 2, said
        assert told in said
    for text, told in (
        ("time,zone a\n", "first column must be called seconds"),
        ("seconds,heat a\n0,1\n", "column 'heat a'"),
        ("seconds,zone a,power g\n0,1\n", "line 2 has 2 columns"),
        ("seconds,zone a,power g\n0,x,1\n", "'x' is no number"),
        ("seconds,zone a,power g\n0,1,1\n0,1,1\n", "must rise"),
        ("seconds,zone a,power g\n0,1,\n1,1,1\n", "power g has gaps"),
        ("seconds,zone a\n0,1\n1,2\n", "need the power"),
        ("seconds,zone,celsius,health\n0,a,40,ok\n", "is what thermal watch wrote"),
    ):
        bad.write_text(text)
        code, said = run("check", bad, "--calibration", good)
        assert code == 2
        assert told in said


def test_a_log_survives_being_written(tmp_path: Path) -> None:
    log = read_log(recorded(tmp_path / "a.csv", seconds=60.0))
    log.celsius["thermal:die"][3] = math.nan
    write_log(tmp_path / "b.csv", log)
    again = read_log(tmp_path / "b.csv")
    np.testing.assert_allclose(again.celsius["thermal:die"], log.celsius["thermal:die"], rtol=1e-5)
    assert list(again.power) == ["gpu"]


def test_states_of_the_governor_become_a_log(tmp_path: Path) -> None:
    from bevstack.ros.convert import header
    from bevstack.ros.interfaces import GovernorState

    states = [
        GovernorState(
            header=header(stamp, ""), zones=["thermal:die", "nvme"], celsius=[50.0 + n, 40.0], control=[True, False],
            units=["gpu"], unit_power=[4.0], models=["bev"], alive=[n > 0], latency=[20.0], expected=[math.nan],
        )
        for n, stamp in enumerate((10**9, 2 * 10**9, 2 * 10**9, 3 * 10**9))
    ]  # fmt: skip
    log = log_of_states(states)
    assert log.time.tolist() == [0.0, 1.0, 2.0]
    assert list(log.celsius) == ["thermal:die"], "zones that are shown only are not modelled"
    assert log.celsius["thermal:die"].tolist() == [50.0, 51.0, 53.0]
    assert math.isnan(log.latency["bev"][0])
    with pytest.raises(Exception, match="neither"):
        load_log(tmp_path)


def test_watch_shows_values_and_says_where_there_are_none(tmp_path: Path) -> None:
    zone = tmp_path / "sys" / "class" / "thermal" / "thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "type").write_text("cpu-thermal\n")
    (zone / "temp").write_text("48250\n")
    code, said = run("watch", "--root", tmp_path / "sys", "--seconds", 0.3, "--period", 0.1, "--csv", tmp_path / "w.csv")
    assert code == 0
    assert said.count("48.2 degC") + said.count("48.3 degC") >= 3
    assert len((tmp_path / "w.csv").read_text().splitlines()) >= 4
    (tmp_path / "empty").mkdir()
    code, said = run("watch", "--root", tmp_path / "empty")
    assert code == 0
    assert "no thermal zones (usual for virtual machines): governing by measured latency alone" in said
