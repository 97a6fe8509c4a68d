"""The governor's panel: what is kept, what the message becomes, and what a browser shows."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from test_browser import Drive, browser, drive, has_colour, page, server, until  # noqa: F401 - fixtures

from bevstack.viewer.heat import SPAN_S, Heat, HeatState, ModelHeat, ZoneHeat


def state(celsius: float = 71.0, rung: str = "fastbev-nano", decisions: tuple[str, ...] = (), **changes: Any) -> HeatState:
    zones = (
        ZoneHeat("thermal:tj-thermal", celsius, "ok", True, 95.0, celsius + 4.0, 0.2),
        ZoneHeat("thermal:gpu-thermal", math.nan, "error: EIO", True, 95.0),
        ZoneHeat("nvme:Composite", 41.0, "ok", False),
    )
    models = (
        ModelHeat("fastbev", "bev_node", True, rung, rung, 1.0, 1.0 if rung == "fastbev-nano" else 0.8, 61.0, 60.0),
        ModelHeat("codec", "encoder_node", False, "codec-nano"),
    )
    values: dict[str, Any] = {"mode": "predictive", "condition": "ok", "zones": zones, "models": models, "headroom": 0.6}
    return HeatState(**{**values, "decisions": decisions, **changes})


def test_history_is_bounded_and_sent_once() -> None:
    now = 0.0
    heat = Heat(clock=lambda: now)
    assert heat.json() is None
    for _ in range(20_000):
        now += 0.5
        heat.set_state(state(decisions=("fastbev: a -> b: hot; no forecast",) if now % 100 == 0 else ()))
    first = heat.json()
    assert first is not None
    ages = [first["at"] - sample["at"] for sample in first["samples"]]
    assert max(ages) <= SPAN_S
    assert len(first["samples"]) <= SPAN_S / 2 + 20
    assert len(first["decisions"]) == 100
    assert heat.json(first["count"])["samples"] == []  # type: ignore[index]
    heat.set_state(state(decisions=("now",)))
    later = heat.json(first["count"])
    assert later is not None
    assert [d["text"] for d in later["decisions"]] == ["now"]
    assert len(later["samples"]) == 1, "a decision makes a sample at once"
    json.dumps(first, allow_nan=False)


def test_unknown_is_null_and_dead_models_have_no_line() -> None:
    heat = Heat()
    heat.set_state(state())
    told = heat.json()
    assert told is not None
    assert [z["celsius"] for z in told["zones"]] == [71.0, None, 41.0]
    assert told["time_to_throttle"] is None
    assert set(told["samples"][0]["zones"]) == {"thermal:tj-thermal", "thermal:gpu-thermal"}
    assert set(told["samples"][0]["models"]) == {"fastbev"}


def test_the_message_becomes_the_state() -> None:
    from bevstack.ros.interfaces import GovernorState
    from bevstack.viewer.heat_topics import state_from_message

    message = GovernorState(
        mode="bands", condition="ok", zones=["a"], celsius=[50.0], health=["ok"], control=[True], ceiling=[95.0],
        predicted=[math.nan], innovation=[0.0], models=["fastbev"], nodes=["bev_node"], alive=[True], rungs=["x"],
        running=["y"], rates=[0.5], quality=[0.8], latency=[20.0], expected=[math.nan], decisions=["why"], decision_count=7,
        time_to_throttle=math.nan, headroom=0.5,
    )  # fmt: skip
    made = state_from_message(message)
    assert (made.zones[0].name, made.zones[0].celsius, made.models[0].running, made.models[0].rate) == ("a", 50.0, "y", 0.5)
    assert (made.decisions, made.decision_count) == (("why",), 7)


@pytest.mark.browser
def test_the_panel_shows_heat_rungs_and_reasons(page: Any, drive: Drive, tmp_path: Path) -> None:  # noqa: F811
    assert page.locator("#heat").is_hidden(), "no governor, no panel"
    why = "fastbev: fastbev-nano -> fastbev-micro: thermal:tj-thermal is above its target of 92.0 degC; forecast 90.1 degC with"
    drive.state.heat.set_state(state(70.0))
    drive.state.heat.set_state(state(93.0, "fastbev-micro", (why, "<b>no markup</b>"), decision_count=2, time_to_throttle=14.0))
    until(page, lambda: page.locator("#heat").is_visible() and page.locator(".heat-decisions li").count() == 2)
    facts = dict(zip(page.locator("#heat dt").all_inner_texts(), page.locator("#heat dd").all_inner_texts()))
    assert facts["governing by"] == "predictive"
    assert facts["until throttling"] == "14 s"
    assert facts["headroom"] == "24.0 °C"
    assert "<b>no markup</b>" in page.locator(".heat-decisions li").nth(0).inner_text()
    assert why in page.locator(".heat-decisions li").nth(1).inner_text()
    zones = [row.split("\t") for row in page.locator(".heat-zones tr").all_inner_texts()]
    assert zones[0] == ["tj-thermal", "93.0", "97.0", "95.0", "steers"]
    assert zones[1][1] == "–", "an unknown temperature is not a number"
    assert zones[1][4] == "error: EIO"
    assert zones[2][4] == "shown only"
    models = [row.split("\t") for row in page.locator(".heat-models tr").all_inner_texts()]
    assert models[0] == ["fastbev", "fastbev-micro", "100 %", "61.0 ms", "60.0 ms"]
    assert models[1][1] == "not there"
    until(page, lambda: has_colour(page, "#heat canvas", "#4da3ff"))
    assert has_colour(page, "#heat canvas", "#ff6369"), "the ceiling"
    until(page, lambda: "silent for" in page.locator(".heat-facts").inner_text())
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.screenshot(path=str(tmp_path / "heat.png"), full_page=True)
