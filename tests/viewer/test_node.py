"""The viewer node: topics in, page out."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from bevstack.errors import BevstackError
from bevstack.geometry import Boxes3D, Camera, pose, rotation_z

pytest.importorskip("aiohttp", reason="the page needs aiohttp: pip install 'bevstack[view]'")

PATIENCE = 30.0
STAMP = 1_700_000_000_000_000_000
STEP = 100_000_000


@pytest.fixture
def ros(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A runtime of this process alone."""
    monkeypatch.setenv("BEVSTACK_WIRE", "off")
    from bevstack.ros import runtime

    runtime.init(args=[])
    yield runtime
    if runtime.ok():
        runtime.shutdown()


class Rig:
    """Publishers of a whole vehicle, and the viewer that listens to them."""

    def __init__(self, runtime: Any, cameras: dict[str, Camera], **parameters: Any) -> None:
        from bevstack.ros import convert, interfaces
        from bevstack.ros.nodes.topics import info_topic, optical_frame
        from bevstack.viewer.node import ViewerNode

        self.convert, self.interfaces, self.optical_frame = convert, interfaces, optical_frame
        self.runtime, self.cameras = runtime, cameras
        self.node = runtime.Node("vehicle")
        qos = runtime.QoSProfile(depth=10)
        make = self.node.create_publisher
        self.images = {n: make(interfaces.CompressedImage, f"/{n}/image_raw/compressed", qos) for n in cameras}
        self.raw = {n: make(interfaces.Image, f"/{n}/image_raw", qos) for n in cameras}
        self.infos = {n: make(interfaces.CameraInfo, info_topic(f"/{n}/image_raw"), qos) for n in cameras}
        self.detections = make(interfaces.Detection3DArray, "/bev_node/detections", qos)
        self.truth = make(interfaces.Detection3DArray, "/truth/detections", qos)
        self.markers = make(interfaces.MarkerArray, "/bev_node/markers", qos)
        self.status = make(interfaces.PipelineStatus, "/bev_node/status", qos)
        self.diagnostics = make(interfaces.DiagnosticArray, "/diagnostics", qos)
        self.static = runtime.tf2.StaticTransformBroadcaster(self.node)
        self.moving = runtime.tf2.TransformBroadcaster(self.node)
        self.static.sendTransform(
            [convert.transform_from_pose(c.T_ego_camera, STAMP, "base_link", optical_frame(n)) for n, c in cameras.items()]
        )
        overrides = {"port": 0, "cameras": list(cameras), "source": "a test", **parameters}
        self.viewer = ViewerNode(parameter_overrides=[runtime.Parameter(k, value=v) for k, v in overrides.items()])
        self.executor = runtime.SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.executor.add_node(self.viewer)
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.spin, daemon=True)
        self.thread.start()

    def spin(self) -> None:
        while not self.ended.is_set() and self.runtime.ok():
            self.executor.spin_once(timeout_sec=0.05)

    def instant(self, number: int, boxes: Boxes3D, jpeg: bytes, frame: str = "base_link") -> None:
        stamp = STAMP + number * STEP
        for name, camera in self.cameras.items():
            self.infos[name].publish(self.convert.info_from_camera(camera, stamp, self.optical_frame(name)))
            self.images[name].publish(self.convert.compressed_from_bytes(jpeg, stamp, self.optical_frame(name)))
        self.truth.publish(self.convert.detections_from_boxes(boxes, stamp, "base_link"))
        self.detections.publish(self.convert.detections_from_boxes(boxes, stamp, frame))
        self.markers.publish(self.convert.markers_from_boxes(boxes, stamp, frame))
        self.status.publish(
            self.interfaces.PipelineStatus(
                header=self.convert.header(stamp, "base_link"),
                rung="fastbev-nano",
                engine="onnx",
                instants_in=number,
                instants_out=number,
                stages=["decode", "network"],
                stage_ms=np.array([2.0, 60.0], np.float32),
                latency_ms=70.0,
                cameras=list(self.cameras),
                camera_frames=np.full(len(self.cameras), number, np.uint64),
                camera_drops=np.zeros(len(self.cameras), np.uint64),
            )
        )

    def page(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.viewer.url}api/state", timeout=PATIENCE) as answer:
            return dict(json.load(answer))

    def until(self, condition: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE
        while True:
            state = self.page()
            if condition(state):
                return state
            assert time.monotonic() < deadline, state
            time.sleep(0.05)

    def close(self) -> None:
        self.ended.set()
        self.thread.join(PATIENCE)
        self.viewer.destroy_node()
        self.node.destroy_node()
        self.executor.shutdown()


@pytest.fixture
def vehicle(ros: Any, rig: dict[str, Camera]) -> Iterator[Rig]:
    made = Rig(ros, rig)
    yield made
    made.close()


def test_everything_that_is_published_is_on_the_page(vehicle: Rig, boxes: Boxes3D, jpeg: bytes) -> None:
    for number in range(1, 4):
        vehicle.instant(number, boxes, jpeg)
    status = vehicle.interfaces.DiagnosticStatus(
        name="recorder: recording",
        message="recording",
        values=[vehicle.interfaces.KeyValue(key="megabytes", value="1.5")],
    )
    vehicle.diagnostics.publish(vehicle.interfaces.DiagnosticArray(status=[status]))
    vehicle.node.get_logger().warning("the road is wet")

    state = vehicle.until(
        lambda s: (
            s["status"]
            and s["status"]["instants_out"] == 3
            and s["boxes"]
            and s["boxes"][0]["vx"]
            and s["diagnostics"]
            and all(c["width"] for c in s["cameras"])
            and any("wet" in line["text"] for line in s["logs"])
        )
    )
    assert [c["name"] for c in state["cameras"]][:3] == ["cam_front_left", "cam_front", "cam_front_right"]
    assert {c["frames"] for c in state["cameras"]} == {3}
    assert [b["class"] for b in state["boxes"]] == ["car", "pedestrian", "truck"]
    car = state["boxes"][0]
    assert (car["x"], car["y"], car["length"], car["vx"], car["id"]) == (15.0, 0.0, 4.5, 8.0, 3)
    assert len(state["truth"]) == 3
    assert state["about"]["source"] == "a test"
    line = next(line for line in state["logs"] if "wet" in line["text"])
    assert (line["level"], line["name"]) == ("warn", "vehicle")
    assert state["diagnostics"][0]["values"] == {"megabytes": "1.5"}
    front = next(c for c in state["cameras"] if c["name"] == "cam_front")
    assert front["visible"] == 1
    with urllib.request.urlopen(f"{vehicle.viewer.url}api/camera/cam_front.jpg", timeout=PATIENCE) as answer:
        assert answer.read() == jpeg


def test_boxes_of_another_frame_are_brought_into_the_ego_frame(vehicle: Rig, boxes: Boxes3D, jpeg: bytes) -> None:
    stamp = STAMP + STEP
    T_odom_base = pose(rotation_z(0.5), [100.0, 50.0, 0.0])
    vehicle.moving.sendTransform(vehicle.convert.transform_from_pose(T_odom_base, stamp, "odom", "base_link"))
    vehicle.until(lambda _: vehicle.viewer._buffer.can_transform("base_link", "odom", vehicle.runtime.Time(nanoseconds=stamp)))
    vehicle.instant(1, boxes.transformed(T_odom_base), jpeg, frame="odom")
    state = vehicle.until(lambda s: s["boxes"])
    assert state["boxes"][0]["x"] == pytest.approx(15.0, abs=1e-2)
    assert state["boxes"][0]["y"] == pytest.approx(0.0, abs=1e-2)
    assert state["boxes"][0]["yaw"] == pytest.approx(0.0, abs=1e-3)
    state = vehicle.until(lambda s: s["boxes"] and s["boxes"][0]["vx"])
    assert state["boxes"][0]["vx"] == pytest.approx(8.0, abs=1e-2)
    assert state["boxes"][1]["vy"] == pytest.approx(1.2, abs=1e-2)


def test_boxes_of_an_unknown_frame_are_not_shown_and_the_log_says_why(vehicle: Rig, boxes: Boxes3D, jpeg: bytes) -> None:
    vehicle.instant(1, boxes, jpeg, frame="moon")
    state = vehicle.until(lambda s: any("moon" in line["text"] for line in s["logs"]))
    assert state["boxes"] == []


def test_raw_images_are_looked_at_only_for_a_browser(ros: Any, rig: dict[str, Camera]) -> None:
    vehicle = Rig(ros, {"cam_front": rig["cam_front"]}, image_transport="raw")
    try:
        image = np.full((180, 320, 3), 90, np.uint8)
        vehicle.raw["cam_front"].publish(vehicle.convert.image_from_rgb(image, STAMP, "cam_front_optical_frame"))
        state = vehicle.until(lambda s: s["cameras"][0]["received"] == 1)
        assert state["cameras"][0]["stamp"] is None
        vehicle.viewer.keep_images = True  # as when a browser has come
        vehicle.raw["cam_front"].publish(vehicle.convert.image_from_rgb(image, STAMP + STEP, "cam_front_optical_frame"))
        vehicle.until(lambda s: s["cameras"][0]["stamp"] == str(STAMP + STEP))
    finally:
        vehicle.close()


def test_the_end_of_the_source_reaches_the_page(vehicle: Rig) -> None:
    from bevstack.ros.nodes.topics import latched_qos

    end = vehicle.node.create_publisher(vehicle.interfaces.Bool, "/camera_node/end_of_source", latched_qos())
    end.publish(vehicle.interfaces.Bool(data=True))
    vehicle.until(lambda s: s["ended"])


def test_a_taken_port_leaves_nothing_behind(vehicle: Rig) -> None:
    from bevstack.viewer.node import ViewerNode

    port = vehicle.runtime.Parameter("port", value=vehicle.viewer.server.port)
    with pytest.raises(BevstackError, match="in use"):
        ViewerNode("second", parameter_overrides=[port])
    assert "second" not in vehicle.node.get_node_names()
