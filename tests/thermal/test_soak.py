"""A long run ends as it began: memory, swaps, log and open files stay bounded."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bevstack.thermal.soak import SoakReport, day, soak


def test_half_an_hour_stays_bounded() -> None:
    report = soak(0.5)
    assert report.bounded, report.lines()
    assert report.lost == 0
    assert len(report.memory_mb) == 1
    assert report.log_bytes > 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_day_stays_bounded() -> None:
    report = soak(24.0)
    assert report.bounded, report.lines()
    assert len(report.memory_mb) == 24


def test_the_day_has_a_fault_of_every_kind_and_weather() -> None:
    made = day(24.0)
    assert {e.fault for e in made.events if e.kind == "sensor"} >= {"eagain", "lost", "stuck", "vanish", "error", "spike"}
    assert made.ambient_wave is not None


@pytest.mark.parametrize(
    "change",
    [
        {"throttled_s": 0.1},
        {"lost": 1},
        {"swaps_per_hour": 61.0},
        {"memory_mb": [100.0, 150.0]},
        {"log_bytes": 10**8},
        {"open_files": (10, 20)},
    ],
)
def test_what_grows_is_not_called_bounded(change: dict[str, object]) -> None:
    good = SoakReport(24.0, memory_mb=[100.0, 101.0], open_files=(10, 10))
    assert good.bounded
    assert not replace(good, **change).bounded  # type: ignore[arg-type]
