"""The camera node: what it publishes of a source, its pace, lockstep, and the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from bench import PERIOD, Bench, FakeModel, a_camera, bev_node, jpeg, until

from bevstack.errors import SourceError
from bevstack.frames.types import Frame, FrameSet
from bevstack.geometry import Camera, pose
from bevstack.ros import convert
from bevstack.ros.interfaces import Bool, CameraInfo, Clock, CodecStatus, CompressedImage, DiagnosticStatus, Image
from bevstack.ros.nodes.camera_node import CameraNode
from bevstack.ros.nodes.topics import latched_qos
from bevstack.ros.runtime import Parameter

NAMES = ("left", "middle", "right")


class TinySource:
    """``count`` instants of three small cameras; the reference is not the first to expose, as on nuScenes' rig."""

    name = "tiny"
    rate = 10.0

    def __init__(self, count: int = 5, *, encoded: bool = True, error: Exception | None = None) -> None:
        self.cameras: Mapping[str, Camera] = {name: a_camera(name) for name in NAMES}
        self.count, self.encoded, self.error = count, encoded, error
        self.closed = False

    def frames(self) -> Iterator[Frame]:
        picture = jpeg()
        pixels = np.full((36, 64, 3), 90, np.uint8)
        for k in range(self.count):
            for name, lag in (("middle", 0), ("left", 10_000_000), ("right", 20_000_000)):
                stamp = (k + 1) * PERIOD + lag
                T = pose(translation=(stamp * 1e-9, 0, 0))
                image = {"encoded": picture} if self.encoded else {"image": pixels}
                yield Frame(self.cameras[name], stamp, T_world_ego=T, **image)  # type: ignore[arg-type]
            if self.error is not None:
                raise self.error

    def __iter__(self) -> Iterator[FrameSet]:
        raise NotImplementedError

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> TinySource:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def camera_node(source: Any, **parameters: Any) -> CameraNode:
    values = {"rate": 0.0, **parameters}
    return CameraNode(source=source, parameter_overrides=[Parameter(k, value=v) for k, v in values.items()])


def test_publishes_a_source(bench: Bench) -> None:
    heard: dict[str, list[Any]] = {"image": [], "info": [], "end": []}
    bench.node.create_subscription(CompressedImage, "left/image_raw/compressed", heard["image"].append, 50)
    bench.node.create_subscription(CameraInfo, "left/camera_info", heard["info"].append, 50)
    node = bench.add(camera_node(TinySource()))
    bench.start()
    node.start()
    assert node.finished.wait(20)
    until(lambda: len(heard["image"]) == 5 and len(heard["info"]) == 5, "all images")
    assert [convert.stamp_to_ns(m.header.stamp) for m in heard["image"]] == [(k + 1) * PERIOD + 10_000_000 for k in range(5)]
    assert heard["image"][0].header.frame_id == heard["info"][0].header.frame_id == "left_optical_frame"
    assert bytes(convert.image_bytes(heard["image"][0])) == jpeg(), "compressed images pass unchanged"
    assert (node.instants_sent, node.frames_sent) == (5, 15)
    bench.node.create_subscription(Bool, "camera_node/end_of_source", heard["end"].append, latched_qos())
    until(lambda: heard["end"], "the notice of the end, also for late comers")


@pytest.mark.parametrize("encoded", [True, False], ids=["from jpeg", "from pixels"])
def test_both_transports(bench: Bench, encoded: bool) -> None:
    raw: list[Any] = []
    compressed: list[Any] = []
    bench.node.create_subscription(Image, "left/image_raw", raw.append, 50)
    bench.node.create_subscription(CompressedImage, "left/image_raw/compressed", compressed.append, 50)
    node = bench.add(camera_node(TinySource(2, encoded=encoded), image_transport="both"))
    bench.start()
    node.start()
    until(lambda: len(raw) == 2 and len(compressed) == 2, "both forms")
    assert convert.rgb_from_image(raw[0]).shape == (36, 64, 3)
    assert bytes(convert.image_bytes(compressed[0])[:2]) == b"\xff\xd8"


def test_pace_and_shifted_stamps(bench: Bench) -> None:
    stamps: list[int] = []
    bench.node.create_subscription(
        CameraInfo, "middle/camera_info", lambda m: stamps.append(convert.stamp_to_ns(m.header.stamp)), 50
    )
    node = bench.add(camera_node(TinySource(5), rate=4.0, stamps="now"))
    bench.start()
    before = bench.node.get_clock().now().nanoseconds
    began = time.monotonic()
    node.start()
    assert node.finished.wait(20)
    assert time.monotonic() - began >= 0.4 / 4.0, "0.42 s of source at four times its speed"
    until(lambda: len(stamps) == 5, "all stamps")
    assert stamps[0] >= before
    assert np.diff(stamps).tolist() == [PERIOD] * 4


def test_clock_and_loop(bench: Bench) -> None:
    ticks: list[int] = []
    bench.node.create_subscription(Clock, "/clock", lambda m: ticks.append(convert.stamp_to_ns(m.clock)), 100)
    node = bench.add(camera_node(TinySource(2), publish_clock=True, loop=True))
    bench.start()
    node.start()
    until(lambda: ticks.count(PERIOD) >= 2, "the second round")
    assert not node.finished.is_set()


def test_lockstep_loses_nothing(bench: Bench, model: FakeModel) -> None:
    """A model much slower than the source: every instant goes through all the same."""
    busy = threading.Event()
    original = FakeModel.__call__

    class Slow(FakeModel):
        def __call__(self, frame_set: FrameSet) -> Any:
            busy.wait(0.02)
            return original(self, frame_set)

    slow = Slow()
    bev = bench.add(bev_node(slow))
    node = bench.add(camera_node(TinySource(25), lockstep=True, wait_for_subscribers=1))
    bench.start()
    assert bev.autostart()
    node.start()
    assert node.finished.wait(30)
    assert [s.stamp for s in slow.seen] == [(k + 1) * PERIOD + 10_000_000 for k in range(25)], "left is bev_node's reference"
    until(lambda: bench.statuses and bench.statuses[-1].instants_out == 25, "the last status")
    assert bench.statuses[-1].frame_drop_ratio == 0
    np.testing.assert_allclose(slow.seen[3].frames["right"].T_world_ego[0, 3], (4 * PERIOD + 20_000_000) * 1e-9)


def test_lockstep_waits_for_every_camera_of_the_streams(bench: Bench, model: FakeModel) -> None:
    """Statuses of an encoder come per camera; the next instant is sent when the last camera has answered."""
    bev = bench.add(bev_node(model))
    node = bench.add(
        camera_node(TinySource(5), lockstep=True, wait_for_subscribers=1, stream_status_topic="encoder_node/status")
    )
    waiting: list[tuple[str, Any]] = []
    for name in NAMES:
        topic = f"{name}/image_raw/compressed"
        bench.node.create_subscription(CompressedImage, topic, lambda m, name=name: waiting.append((name, m.header)), 10)
    answers = bench.publisher(CodecStatus, "encoder_node/status")
    bench.start()
    assert bev.autostart()
    node.start()
    for k in range(5):
        until(lambda: len(waiting) == 3, "three frames of an instant")
        until(lambda k=k: len(bench.statuses) == k + 1, "the model's answer")
        (_, _), (_, _), (last, header) = waiting
        for name, stamped in waiting[:2]:
            answers.publish(CodecStatus(camera=name, header=stamped))
        threading.Event().wait(0.05)
        assert len(waiting) == 3, "one camera is missing: nothing is sent"
        waiting.clear()
        answers.publish(CodecStatus(camera=last, header=header, reason="lost"))
    assert node.finished.wait(30)


@pytest.mark.parametrize("fault", ["broken", "missing"])
def test_lockstep_over_frames_that_make_no_instant(bench: Bench, model: FakeModel, fault: str) -> None:
    """A damaged picture, or none: the instant is given up, the source goes on at once instead of waiting for its timeout."""

    class Damaged(TinySource):
        def frames(self) -> Iterator[Frame]:
            for frame in super().frames():
                hit = frame.camera.name == "right" and frame.stamp // PERIOD in (3, 4)
                if hit and fault == "broken":
                    yield replace(frame, encoded=jpeg()[:300])
                elif not hit:
                    yield frame

    bev = bench.add(bev_node(model, camera_timeout=5.0))
    node = bench.add(camera_node(Damaged(8), lockstep=True, lockstep_timeout=100.0, wait_for_subscribers=1))
    bench.start()
    assert bev.autostart()
    node.start()
    assert node.finished.wait(40)
    assert [s.stamp // PERIOD for s in model.seen] == [1, 2, 5, 6, 7, 8]
    given_up = [s.reason for s in bench.statuses if not s.stages]
    assert given_up
    assert all("right" in reason or "left" in reason for reason in given_up)


def test_lockstep_without_anybody_goes_on(bench: Bench) -> None:
    node = bench.add(camera_node(TinySource(6), lockstep=True, lockstep_timeout=0.1))
    bench.start()
    node.start()
    assert node.finished.wait(20)
    assert node.instants_sent == 6


def test_a_source_that_breaks(bench: Bench) -> None:
    """The stream ends, the reason is kept, the process lives."""
    for error in (SourceError("disk is gone"), RuntimeError("bug")):
        node = bench.add(camera_node(TinySource(3, error=error)))
        if not bench.nodes[1:]:
            bench.start()
        node.start()
        assert node.finished.wait(20)
        assert str(error) in node.error
        assert node.frames_sent == 3
        until(lambda error=error: bench.says(DiagnosticStatus.ERROR, str(error)), "the reason on /diagnostics")


def test_stops_in_the_middle(ros: None) -> None:
    source = TinySource(10_000)
    node = camera_node(source, rate=1.0)
    node.start()
    until(lambda: node.frames_sent > 2, "some frames")
    node.destroy_node()
    assert source.closed
    assert not node.finished.is_set()


def test_unknown_camera_and_source(ros: None) -> None:
    with pytest.raises(SourceError, match="roof"):
        camera_node(TinySource(), cameras=["roof"])
    with pytest.raises(SourceError, match="nowhere"):
        CameraNode(parameter_overrides=[Parameter("source", value="/nowhere/drive.mcap")])
