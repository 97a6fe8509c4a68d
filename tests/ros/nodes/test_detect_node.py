"""The 2D perception node: what it publishes, in which order, how often, and what it does about faults."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench import CAMERAS, PATIENCE, PERIOD, Bench, FakeModel, bev_node, jpeg, until
from numpy.typing import NDArray

from bevstack.engine import HotSwap
from bevstack.errors import EngineError
from bevstack.frames.shared import PROCESS
from bevstack.geometry import Boxes2D
from bevstack.ros import convert
from bevstack.ros.convert2d import boxes2d_from_detections, detections_from_boxes2d
from bevstack.ros.interfaces import CompressedImage, Detection2DArray, DiagnosticStatus, PipelineStatus
from bevstack.ros.nodes.detect_node import PARAMETERS, DetectNode
from bevstack.ros.runtime import Parameter, TransitionCallbackReturn

ERROR, WARN, OK = DiagnosticStatus.ERROR, DiagnosticStatus.WARN, DiagnosticStatus.OK


class FakeDetector:
    """Finds one sure and one doubtful box per image. ``gate`` holds it up while cleared; ``failure`` makes it raise."""

    rung = "fake-2d"

    def __init__(self, found: int = 2) -> None:
        self.timings = {"network": 1.0, "total": 1.0}
        self.batches: list[list[tuple[tuple[int, ...], tuple[int, int]]]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.failure: Exception | None = None
        self.found = found

    def decode_size(self, width: int, height: int) -> tuple[int, int]:
        return width // 2, height // 2

    def __call__(self, images: Sequence[NDArray[np.uint8]], sizes: Sequence[tuple[int, int]] | None = None) -> list[Boxes2D]:
        assert self.gate.wait(PATIENCE)
        if self.failure is not None:
            raise self.failure
        assert sizes is not None
        self.batches.append([(i.shape, s) for i, s in zip(images, sizes)])
        n = self.found
        score = np.linspace(0.9, 0.1, n) if n != 1 else np.array([0.9])
        boxes = np.stack([np.arange(n), np.arange(n), np.arange(n) + 10, np.arange(n) + 20], 1)
        return [Boxes2D(boxes.astype(np.float32), score.astype(np.float32), np.zeros(n, np.int64)) for _ in images]


class Ear:
    """What a detect node says, per camera."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.found: dict[str, list[Any]] = {name: [] for name in CAMERAS}
        self.statuses: list[Any] = []
        for name in CAMERAS:
            bench.node.create_subscription(Detection2DArray, f"detect_node/{name}/detections_2d", self.found[name].append, 100)
        bench.node.create_subscription(PipelineStatus, "detect_node/status", self.statuses.append, 100)


def detect_node(stand_in: Any, **parameters: Any) -> DetectNode:
    values = {"cameras": list(CAMERAS), "diagnostic_period": 0.1, "score_threshold": 0.5, **parameters}
    return DetectNode(model=stand_in, parameter_overrides=[Parameter(name, value=value) for name, value in values.items()])


def ready(bench: Bench, node: DetectNode) -> DetectNode:
    bench.add(node)
    bench.start()
    assert node.autostart()
    return node


@pytest.fixture
def detector() -> FakeDetector:
    return FakeDetector()


def test_images_in_boxes_out(bench: Bench, detector: FakeDetector) -> None:
    """No calibration, no tf: boxes in pixels of the original image, the image's stamp and frame."""
    ear = Ear(bench)
    ready(bench, detect_node(detector))
    for name in CAMERAS:
        bench.image(name, PERIOD)
    until(lambda: all(ear.found.values()), "boxes of every camera")
    message = ear.found["left"][0]
    assert convert.stamp_to_ns(message.header.stamp) == PERIOD
    assert message.header.frame_id == "left_optical_frame"
    boxes = boxes2d_from_detections(message)
    assert boxes.xyxy.tolist() == [[0, 0, 10, 20]], "the doubtful box is below the threshold"
    assert boxes.names() == ["car"]
    seen = [entry for batch in detector.batches for entry in batch]
    assert {size for _, size in seen} == {(64, 36)}
    assert all(shape[1] >= 32 * 0.9 and shape[1] < 64 for shape, _ in seen), "decoded small"
    until(lambda: ear.statuses and ear.statuses[-1].instants_out == 3, "a status")
    status = ear.statuses[-1]
    assert (status.rung, status.instants_in, status.instants_dropped) == ("fake-2d", 3, 0)
    assert convert.stamp_to_ns(status.header.stamp) == PERIOD
    until(lambda: bench.says(OK, "3 cameras deliver"), "good diagnostics")


def test_raw_images_of_unequal_size_and_grey(bench: Bench, detector: FakeDetector) -> None:
    ear = Ear(bench)
    ready(bench, detect_node(detector, image_transport="raw", gather=1.0))
    bench.raw_image("left", PERIOD)
    bench.raw_image("middle", PERIOD, 128, 72)
    grey = convert.image_from_rgb(np.zeros((20, 30, 3), np.uint8), PERIOD, "right_optical_frame")
    grey.encoding, grey.step = "mono8", 30
    convert.set_bytes(grey, np.zeros(600, np.uint8))
    bench.publisher(type(grey), "right/image_raw").publish(grey)
    until(lambda: all(ear.found.values()), "boxes of every camera")
    assert sorted(size for batch in detector.batches for _, size in batch) == [(30, 20), (64, 36), (128, 72)]


@pytest.mark.parametrize("count", [0, 1000])
def test_no_box_and_a_thousand(bench: Bench, count: int) -> None:
    ear = Ear(bench)
    ready(bench, detect_node(FakeDetector(count), score_threshold=0.0, max_boxes=5000, debug=True))
    bench.image("left", PERIOD)
    until(lambda: ear.found["left"], "an answer")
    assert len(ear.found["left"][0].detections) == count


def test_most_important_first_when_there_is_no_room(bench: Bench, detector: FakeDetector) -> None:
    ear = Ear(bench)
    node = ready(bench, detect_node(detector, batch=1, priorities=["middle=5"], patience=30.0))
    detector.gate.clear()
    bench.image("right", PERIOD)
    until(lambda: node._pipeline is not None and node._pipeline._running, "the first batch to start")
    for name in CAMERAS:
        bench.image(name, 2 * PERIOD)
    until(lambda: node._pipeline is not None and len(node._pipeline._slots) == 3, "images to wait")
    order: list[str] = []
    for name in CAMERAS:
        ear.found[name].clear()
        bench.node.create_subscription(
            Detection2DArray, f"detect_node/{name}/detections_2d", lambda _, name=name: order.append(name), 100
        )
    detector.gate.set()
    until(lambda: len(order) == 4, "all answers")
    assert order[1:] == ["middle", "left", "right"]


def test_rates_per_camera(bench: Bench, detector: FakeDetector) -> None:
    ear = Ear(bench)
    node = ready(bench, detect_node(detector, camera_rates=["left=2"]))
    for k in range(1, 11):
        for name in CAMERAS:
            bench.image(name, k * PERIOD)
        until(lambda k=k: ear.statuses and convert.stamp_to_ns(ear.statuses[-1].header.stamp) >= k * PERIOD, f"instant {k}")
    assert len(ear.found["middle"]) == 10
    assert len(ear.found["left"]) == 2, "every fifth image of a camera at 10 Hz"
    assert ear.statuses[-1].instants_dropped == 0, "left out on purpose is not lost"
    assert node.set_parameters([Parameter("camera_rates", value=["middle=1"])])[0].successful
    result = node.set_parameters([Parameter("camera_rates", value=["nobody=1"])])[0]
    assert not result.successful
    assert "nobody=1" in result.reason


def test_the_newest_wins(bench: Bench, detector: FakeDetector) -> None:
    ear = Ear(bench)
    node = ready(bench, detect_node(detector))
    detector.gate.clear()
    bench.image("left", PERIOD)
    until(lambda: node._pipeline is not None and node._pipeline._running, "the first batch to start")
    for k in range(2, 6):
        bench.image("left", k * PERIOD)
        until(
            lambda k=k: node._pipeline and (w := node._pipeline._slots.get("left")) and w.frame.stamp == k * PERIOD,
            f"image {k}",
        )
    detector.gate.set()
    until(lambda: len(ear.found["left"]) == 2, "the busy one and the newest one")
    assert convert.stamp_to_ns(ear.found["left"][1].header.stamp) == 5 * PERIOD
    until(lambda: ear.statuses[-1].instants_out == 2, "a status")
    assert ear.statuses[-1].instants_dropped == 3
    assert "busy" in ear.statuses[-1].reason


def test_faults_are_answered_and_told(bench: Bench, detector: FakeDetector) -> None:
    """A damaged image, a foreign one, and a model that fails: each is answered with its reason; the next image works."""
    ear = Ear(bench)
    ready(bench, detect_node(detector))
    for k, broken in enumerate((jpeg()[:200], b"no picture at all"), start=1):
        bench.image("left", k * PERIOD, broken)
        until(lambda: bench.says(WARN, "left"), "a warning that names the camera")
    until(lambda: ear.statuses and convert.stamp_to_ns(ear.statuses[-1].header.stamp) >= PERIOD, "an answer all the same")
    detector.failure = EngineError("engine is gone")
    bench.image("left", 3 * PERIOD)
    until(lambda: any("engine is gone" in s.reason for s in ear.statuses), "the model's reason")
    detector.failure = None
    bench.image("left", 4 * PERIOD)
    until(lambda: ear.found["left"], "boxes again")
    assert ear.statuses[-1].camera_drops[0] == 3


def test_debug_images_only_for_listeners(bench: Bench, detector: FakeDetector) -> None:
    ear = Ear(bench)
    ready(bench, detect_node(detector, debug_width=320))
    bench.image("middle", PERIOD)
    until(lambda: ear.found["middle"], "boxes")
    pictures: list[CompressedImage] = []
    bench.node.create_subscription(CompressedImage, "detect_node/debug/image_middle/compressed", pictures.append, 10)
    bench.image("middle", 2 * PERIOD)
    until(lambda: pictures, "a debug image")
    assert convert.stamp_to_ns(pictures[0].header.stamp) == 2 * PERIOD


def test_lifecycle_and_wrong_settings(bench: Bench, detector: FakeDetector, tmp_path: Path) -> None:
    ear = Ear(bench)
    node = ready(bench, detect_node(detector))
    assert node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    bench.image("left", PERIOD)
    assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    bench.image("left", 2 * PERIOD)
    until(lambda: ear.found["left"], "boxes")
    assert [convert.stamp_to_ns(m.header.stamp) for m in ear.found["left"]] == [2 * PERIOD]
    assert node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
    for values, words in (
        ({"priorities": ["nobody=1"]}, "nobody=1"),
        ({"cameras": ["a", "a"]}, "different cameras"),
        ({"model": str(tmp_path / "none.safetensors")}, "none.safetensors"),
        ({"model": "random:giraffedet-q"}, "giraffedet-q"),
        ({"input_size": "300x200"}, "384x256"),
        ({"input_size": "large"}, "WIDTHxHEIGHT"),
    ):
        wrong = bench.add(detect_node(detector if "cameras" in values or "priorities" in values else None, **values))
        assert not wrong.autostart()
        assert words in wrong.failure


def test_rung_is_swapped_between_batches(bench: Bench) -> None:
    class Two(FakeDetector):
        def __init__(self) -> None:
            super().__init__()
            self.swap = HotSwap(lambda name: name, ["small", "large"], "small")

        @property
        def rung(self) -> str:  # type: ignore[override]
            return self.swap.rung

        def __call__(self, images: Any, sizes: Any = None) -> list[Boxes2D]:
            self.swap.current()
            return super().__call__(images, sizes)

        def close(self) -> None:
            self.swap.close()

    ear, model = Ear(bench), Two()
    try:
        node = ready(bench, detect_node(model))
        assert not node.set_parameters([Parameter("model.rung", value="huge")])[0].successful
        assert node.set_parameters([Parameter("model.rung", value="large")])[0].successful
        assert model.swap.settled(PATIENCE)
        bench.image("left", PERIOD)
        until(lambda: ear.statuses and ear.statuses[-1].rung == "large", "the other rung")
    finally:
        model.close()


def test_bev_node_beside_it_shares_decoding(bench: Bench, detector: FakeDetector, model: FakeModel) -> None:
    """Both want half of the width: each image is decoded once."""
    ear = Ear(bench)
    other = bench.add(bev_node(model))
    ready(bench, detect_node(detector))
    bench.mount(*CAMERAS)
    assert other.autostart()
    decoded, reused = PROCESS.decoded, PROCESS.reused
    for k in range(1, 4):
        bench.instant(k)
        until(lambda k=k: all(len(found) == k for found in ear.found.values()), f"2D boxes of instant {k}")
    assert (PROCESS.decoded - decoded, PROCESS.reused - reused) == (9, 9)


def test_parameter_table() -> None:
    names = [spec.name for spec in PARAMETERS]
    assert len(set(names)) == len(names)
    assert all(spec.description and not spec.description.endswith(".") for spec in PARAMETERS)


def test_message_round_trip() -> None:
    boxes = Boxes2D(
        np.array([[0, 1, 10, 21.5], [3, 4, 5, 6]]), np.array([0.5, 0.25]), np.array([1, 2]), ("car", "kite", "person")
    )
    message = detections_from_boxes2d(boxes, 123, "f")
    back = boxes2d_from_detections(message, ("car",))
    np.testing.assert_allclose(back.xyxy, boxes.xyxy, atol=1e-5)
    assert back.names() == ["kite", "person"]
    assert len(boxes2d_from_detections(Detection2DArray())) == 0
    message.detections[0].bbox.size_x = float("nan")
    assert len(boxes2d_from_detections(message)) == 1


def test_boxes_are_let_out_at_one_offset(bench: Bench) -> None:
    """Fast and slow batches are published equally late after capture, in order, and none is lost at the end."""
    times = iter([0.0, 0.12, 0.03, 0.15, 0.0, 0.09])

    class Uneven(FakeDetector):
        def __call__(self, images: Any, sizes: Any = None) -> list[Boxes2D]:
            time.sleep(next(times, 0.0))
            return super().__call__(images, sizes)

    ear = Ear(bench)
    node = ready(bench, detect_node(Uneven(), release_after=0.4, gather=1.0))
    for k in range(1, 7):
        for name in CAMERAS:
            bench.image(name, k * PERIOD)
        until(lambda k=k: len(ear.statuses) >= k and ear.statuses[-1].instants_out == 3 * k, "the batch's status")  # type: ignore[misc]
    late = sorted(s.latency_ms for s in ear.statuses if s.latency_ms)
    assert late[0] >= 399, late
    assert late[4] < 1.15 * late[2], late  # one may be held up by the machine
    for name in CAMERAS:
        assert [convert.stamp_to_ns(d.header.stamp) for d in ear.found[name]] == [k * PERIOD for k in range(1, 7)]
    assert node.set_parameters([Parameter("release_after", value=9.0)])[0].successful
    bench.image("left", 7 * PERIOD)
    until(lambda: node._holds, "boxes that wait")
    assert not node.idle
    time.sleep(0.3)
    assert convert.stamp_to_ns(ear.statuses[-1].header.stamp) < 7 * PERIOD, "nobody is told that it was answered"
    assert len(ear.found["left"]) == 6
    node.trigger_deactivate()
    until(lambda: len(ear.found["left"]) == 7, "the last boxes")
