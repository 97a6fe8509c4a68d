"""Counts, rates and durations of a run."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from bevstack.cli.matches import Matches
from bevstack.cli.report import headline, live_view, print_summary
from bevstack.cli.statistics import Statistics
from bevstack.geometry import Boxes3D
from bevstack.viewer.learned import StreamStatus
from bevstack.viewer.state import Status

TWO = Boxes3D(np.array([[10.0, 0.0, 0.5], [20.0, 5.0, 0.5]]), np.ones((2, 3)), np.zeros(2), label=np.array([0, 7]))


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def filled(count: int = 100) -> Statistics:
    """``count`` instants at 10 per second; the network takes 1, 2, ... ms; every tenth is dropped."""
    clock = Clock()
    statistics = Statistics(clock)
    out = 0
    for i in range(count):
        clock.now = i * 0.1
        dropped = (i + 1) // 10
        out = i + 1 - dropped
        statistics.add(
            Status(
                stamp=i,
                rung="fastbev-nano",
                engine="onnx",
                instants_in=i + 1,
                instants_out=out,
                instants_dropped=dropped,
                frame_drop_ratio=0.1,
                stages=(("decode", 5.0), ("network", float(i + 1))),
                latency_ms=2.0 * (i + 1),
                camera_frames={"cam_front": i + 1},
                camera_drops={"cam_front": dropped},
                reason="the model is busy" if i == 9 else "",
            )
        )
        statistics.add_boxes(TWO)
    return statistics


def test_learned_streams_in_the_summary() -> None:
    statistics = filled()
    for k in range(5):  # 2 Hz of 100 x 80 pixels, 500 bytes each; a lost frame counts as nothing
        coded = StreamStatus("cam_front", "encode", k * 500_000_000, width=100, height=80, bytes=500, bits_per_pixel=0.5)
        statistics.add_coded(coded)
    statistics.add_coded(StreamStatus("cam_front", "encode", 3_000_000_000, reason="no memory"))
    summary = statistics.summary("sim")
    assert summary.streams == {"cam_front": {"frames": 5, "bytes": 2500, "bits_per_pixel": 0.5, "bits_per_second": 8000.0}}
    assert summary.reason == "cam_front: no memory"
    assert json.loads(json.dumps(summary.to_json()))["streams"]["cam_front"]["frames"] == 5
    out = io.StringIO()
    print_summary(Console(file=out, width=100), summary)
    assert "learned streams: 5 frames of 1 cameras, 0.500 bits per pixel, 8 kbit/s" in out.getvalue()
    print_summary(Console(file=(without := io.StringIO())), filled().summary("sim"))
    assert "learned streams" not in without.getvalue()


def test_summary_of_a_run() -> None:
    summary = filled().summary("sim", sent=100, bag="out/demo")
    assert (summary.instants_in, summary.instants_out, summary.instants_dropped) == (100, 90, 10)
    assert summary.rate == pytest.approx(10.0)
    assert summary.seconds == pytest.approx(9.9)
    assert summary.boxes == 200
    assert summary.model == "fastbev-nano"
    assert summary.stages["decode"].p50 == pytest.approx(5.0)
    # Instants that were given up have no stage times: 90 values remain.
    assert summary.stages["network"].p50 == pytest.approx(50, abs=2)
    assert summary.stages["network"].p95 == pytest.approx(95, abs=2)
    assert summary.stages["network"].max == pytest.approx(99)
    assert summary.stages["latency"].p50 == pytest.approx(2 * summary.stages["network"].p50)
    assert summary.cameras == {"cam_front": {"frames": 100, "drops": 10}}
    assert summary.reason == "the model is busy"
    json.dumps(summary.to_json(), allow_nan=False)


def test_summary_of_nothing() -> None:
    summary = Statistics().summary("sim", model="fastbev-nano", engine="onnx")
    assert summary.instants_in == summary.instants_out == 0
    assert summary.rate == 0.0
    assert summary.stages == {}
    assert summary.model == "fastbev-nano"
    assert "no result yet" in headline(summary)


def test_one_instant_has_no_rate() -> None:
    assert filled(1).summary("bag").rate == 0.0


def test_printed_summary_says_everything() -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    print_summary(console, filled().summary("sim:seed=1", sent=100, bag="out/demo", picture="out/demo.png"))
    text = console.export_text()
    for part in (
        "100 sent",
        "100 in, 90 out, 10 dropped",
        "10.00 per second",
        "p95 ms",
        "network",
        "end to end",
        "bag: out/demo",
    ):
        assert part in text
    assert "the model is busy" in text
    assert "cam_front" in text  # frames were dropped, so cameras are listed


def test_live_view_can_be_drawn_in_a_narrow_terminal() -> None:
    console = Console(width=40, record=True, file=io.StringIO())
    console.print(live_view(filled().summary("sim:seed=1"), 12.0, note="page: http://127.0.0.1:8080/"))
    assert "network" in console.export_text()


def test_true_objects_are_found_by_class_and_distance() -> None:
    matches = Matches()
    matches.add(TWO, TWO)
    assert (matches.objects, matches.found, matches.false) == (2, 2, 0)
    far = replace(TWO, center=TWO.center + np.array([[1.0, 1.0, 9.0], [3.0, 0.0, 0.0]]))  # height does not count
    matches.add(far, TWO)
    assert (matches.objects, matches.found, matches.false) == (4, 3, 1)
    matches.add(replace(TWO, label=np.array([1, 7])), TWO)
    assert (matches.objects, matches.found, matches.false) == (6, 4, 2)
    assert "4 of 6 found (67 %), 2 of 6 boxes false (33 %)" in matches.line()


def test_an_object_is_found_once_and_by_the_most_certain_box() -> None:
    matches = Matches()
    twice = TWO[[0, 0]]
    matches.add(replace(twice, score=np.array([0.3, 0.9])), TWO[[0]])
    assert (matches.found, matches.false) == (1, 1)


def test_truth_of_an_empty_road() -> None:
    matches = Matches()
    matches.add(TWO, Boxes3D.empty())
    matches.add(Boxes3D.empty(), TWO)
    assert (matches.objects, matches.found, matches.false) == (2, 0, 2)
    assert "(0 %)" in matches.line()
    Matches().line()


def test_truth_is_part_of_the_summary() -> None:
    statistics = Statistics()
    assert statistics.summary("sim").truth is None
    statistics.add_boxes(TWO, TWO)
    summary = statistics.summary("sim")
    assert summary.to_json()["truth"] == {"instants": 1, "objects": 2, "found": 2, "false": 0}
    console = Console(width=100, record=True, file=io.StringIO())
    print_summary(console, summary)
    assert "true objects: 2 of 2 found" in console.export_text()
