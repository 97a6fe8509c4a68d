"""The page's state: pairing images with boxes, rates, counts, what a browser has already."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from bevstack.geometry import Boxes3D, Camera
from bevstack.viewer.layout import rig_rows
from bevstack.viewer.state import Diagnostic, LogLine, PageState, Picture, RateMeter, Status

MS = 1_000_000


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def state(clock: Clock, rig: dict[str, Camera]) -> PageState:
    made = PageState(clock=clock)
    for camera in rig.values():
        made.set_camera(camera)
    return made


def test_images_of_the_boxes_instant_are_shown_although_newer_ones_are_there(
    state: PageState, boxes: Boxes3D, jpeg: bytes
) -> None:
    for instant in range(5):
        state.add_picture("cam_front", Picture(instant * 100 * MS + 7 * MS, jpeg))
    state.set_boxes(200 * MS, boxes)
    view = state.view()
    assert view.pictures["cam_front"].stamp == 207 * MS
    front = next(c for c in view.data["cameras"] if c["name"] == "cam_front")
    assert [o["box"] for o in front["outlines"]] == [0]  # the car ahead; neither the pedestrian left nor the truck behind
    assert view.data["stamp"] == str(200 * MS)


def test_without_boxes_the_newest_image_is_shown(state: PageState, jpeg: bytes) -> None:
    state.add_picture("cam_front", Picture(1 * MS, jpeg))
    state.add_picture("cam_front", Picture(100 * MS, jpeg))
    view = state.view()
    assert view.pictures["cam_front"].stamp == 100 * MS
    assert view.data["boxes"] == []


def test_boxes_that_stop_do_not_hold_the_images(state: PageState, boxes: Boxes3D, jpeg: bytes, clock: Clock) -> None:
    state.add_picture("cam_front", Picture(0, jpeg))
    state.set_boxes(0, boxes)
    clock.now += 5
    state.add_picture("cam_front", Picture(5000 * MS, jpeg))
    view = state.view()
    assert view.pictures["cam_front"].stamp == 5000 * MS
    assert view.data["boxes"] == []


def test_a_single_instant_stays_on_the_page(state: PageState, boxes: Boxes3D, jpeg: bytes, clock: Clock) -> None:
    state.add_picture("cam_front", Picture(0, jpeg))
    state.set_boxes(0, boxes)
    clock.now += 60
    assert len(state.view().data["boxes"]) == len(boxes)


def test_a_bag_that_begins_again_forgets_later_images(state: PageState, jpeg: bytes) -> None:
    state.add_picture("cam_front", Picture(9_000 * MS, jpeg))
    state.add_picture("cam_front", Picture(10 * MS, jpeg))
    assert state.view().pictures["cam_front"].stamp == 10 * MS


def test_raw_images_do_not_pile_up(state: PageState) -> None:
    image = np.zeros((900, 1600, 3), np.uint8)
    for i in range(20):
        state.add_picture("cam_front", Picture(i * 100 * MS, image))
    assert sum(p.nbytes for p in state._cameras["cam_front"].pictures) < 17_000_000


def test_json_has_no_numbers_that_json_cannot_say(state: PageState, boxes: Boxes3D) -> None:
    wrong = boxes.velocity.copy()
    wrong[1] = np.nan
    state.set_boxes(0, replace(boxes, velocity=wrong))
    state.set_truth(0, replace(boxes, velocity=wrong))
    data = state.summary()
    json.loads(json.dumps(data, allow_nan=False))
    assert [b["class"] for b in data["boxes"]] == ["car", "truck"]
    assert len(data["truth"]) == 2


def test_box_fields(state: PageState, boxes: Boxes3D) -> None:
    state.set_boxes(0, boxes)
    car, pedestrian, _ = state.summary()["boxes"]
    assert car["class"] == "car"
    assert car["id"] == 3
    assert (car["x"], car["y"], car["length"], car["vx"]) == (15.0, 0.0, 4.5, 8.0)
    assert pedestrian["class"] == "pedestrian"
    assert pedestrian["id"] is None


def test_truth_of_another_instant_is_not_shown(state: PageState, boxes: Boxes3D) -> None:
    state.set_truth(0, boxes)
    state.set_boxes(5_000 * MS, boxes)
    assert state.view().data["truth"] == []


def test_logs_and_history_come_once(state: PageState) -> None:
    for i in range(3):
        state.add_log(LogLine(1.0, "info", "node", f"line {i}"))
        state.set_status(Status(stamp=i + 1, latency_ms=10.0 + i))
    first = state.view().data
    assert [line["text"] for line in first["logs"]] == ["line 0", "line 1", "line 2"]
    assert first["history"] == [10.0, 11.0, 12.0]
    state.add_log(LogLine(1.0, "warn", "node", "line 3"))
    second = state.view(logs_after=first["log_count"], history_after=first["history_count"]).data
    assert [line["text"] for line in second["logs"]] == ["line 3"]
    assert second["history"] == []


def test_log_is_bounded() -> None:
    state = PageState(log_lines=10)
    for i in range(100):
        state.add_log(LogLine(0.0, "info", "n", str(i)))
    assert [line["text"] for line in state.view().data["logs"]] == [str(i) for i in range(90, 100)]


def test_silent_diagnostics_become_stale(state: PageState, clock: Clock) -> None:
    state.set_diagnostics([Diagnostic("bev_node: state", "ok", "active")])
    assert state.view().data["diagnostics"][0]["level"] == "ok"
    clock.now += 60
    assert state.view().data["diagnostics"][0]["level"] == "stale"


def test_cameras_stand_as_on_the_vehicle(state: PageState, rig: dict[str, Camera]) -> None:
    names = [c["name"] for c in state.view().data["cameras"]]
    assert names == ["cam_front_left", "cam_front", "cam_front_right", "cam_back_left", "cam_back", "cam_back_right"]
    assert [c["rear"] for c in state.view().data["cameras"]] == [False] * 3 + [True] * 3
    assert [len(row) for row in rig_rows(rig.values())] == [3, 3]


def test_status_counts_reach_the_cameras(state: PageState) -> None:
    state.set_status(
        Status(stamp=1, camera_frames={"cam_front": 12}, camera_drops={"cam_front": 2}, reason="cam_back is silent")
    )
    data = state.summary()
    front = next(c for c in data["cameras"] if c["name"] == "cam_front")
    assert (front["frames"], front["drops"]) == (12, 2)
    assert data["status"]["reason"] == "cam_back is silent"


def test_version_grows_and_listeners_hear(state: PageState) -> None:
    heard: list[int] = []
    state.listen(lambda: heard.append(state.version))
    before = state.version
    state.add_camera("another")
    state.set_about(source="x")
    assert heard == [before + 1, before + 2]


def test_rate_of_steady_events_and_of_silence() -> None:
    meter = RateMeter(window=3.0)
    for i in range(30):
        meter.tick(i * 0.1)
    assert meter.rate(2.9) == pytest.approx(10.0, rel=0.01)
    assert meter.rate(3.9) < 10.0
    assert meter.rate(10.0) == 0.0
    assert meter.count == 30


def test_the_end_of_a_source_is_no_fault_until_images_come_again(state: PageState, jpeg: bytes) -> None:
    assert state.summary()["ended"] is False
    state.set_ended()
    assert state.summary()["ended"] is True
    state.add_picture("cam_front", Picture(1, jpeg))
    assert state.summary()["ended"] is False
