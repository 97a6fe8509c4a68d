"""A small rig that tests drive by hand: publishers for its cameras, a stand-in model, and ears for what the nodes say."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import pytest

from bevstack.frames.types import FrameSet
from bevstack.geometry import Boxes3D, Camera, Matrix, pose
from bevstack.ros import convert
from bevstack.ros.interfaces import CameraInfo, CompressedImage, Detection3DArray, DiagnosticArray, Image, PipelineStatus
from bevstack.ros.nodes.bev_node import BevNode
from bevstack.ros.runtime import Node, Parameter, QoSProfile, SingleThreadedExecutor, ok, tf2

CAMERAS = ("left", "middle", "right")
PATIENCE = 20.0
PERIOD = 100_000_000


def until(condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """Wait for a condition; its value. Fails with ``what`` if it does not come true."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.005)
    pytest.fail(f"did not happen within {patience:g} s: {what}")


def jpeg(width: int = 64, height: int = 36, value: int = 100) -> bytes:
    image = np.full((height, width, 3), value, np.uint8)
    cv2.rectangle(image, (5, 5), (width // 2, height // 2), (255, 20, 60), -1)
    return convert.encode_jpeg(image)


def a_camera(name: str, width: int = 64, height: int = 36) -> Camera:
    K = np.array([[0.8 * width, 0, width / 2], [0, 0.8 * width, height / 2], [0, 0, 1.0]])
    optical = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    return Camera(name, width, height, K, pose(optical, (1.5, 0.5 * CAMERAS.index(name), 1.5)))


class FakeModel:
    """Sees everything, finds one box. ``gate`` holds it up while cleared; ``failure`` makes it raise."""

    rung = "fake"

    def __init__(self) -> None:
        self.timings = {"network": 1.0, "decode": 0.5}
        self.seen: list[FrameSet] = []
        self.resets = 0
        self.gate = threading.Event()
        self.gate.set()
        self.failure: Exception | None = None
        self.boxes = Boxes3D(
            [[12.0, 1.0, 0.8], [8.0, -2.0, 0.9]], [[4, 2, 1.6]] * 2, [0.1, 0.0], [[3, 0]] * 2, [0.9, 0.2], [0, 7]
        )

    def decode_size(self, camera: Camera) -> tuple[int, int]:
        return 32, 18

    def reset(self) -> None:
        self.resets += 1

    def __call__(self, frame_set: FrameSet) -> Boxes3D:
        assert self.gate.wait(PATIENCE)
        if self.failure is not None:
            raise self.failure
        self.seen.append(frame_set)
        return self.boxes


class Bench:
    """Nodes under test and a node that publishes and listens, spun on one thread."""

    def __init__(self, namespace: str = "") -> None:
        self.node = Node("bench", namespace=namespace or None)
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.nodes: list[Any] = []
        self.detections: list[Any] = []
        self.statuses: list[Any] = []
        self.diagnostics: dict[str, Any] = {}
        self.node.create_subscription(Detection3DArray, "bev_node/detections", self.detections.append, 100)
        self.node.create_subscription(PipelineStatus, "bev_node/status", self.statuses.append, 100)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 100)
        self.tf = tf2.TransformBroadcaster(self.node)
        self.tf_static = tf2.StaticTransformBroadcaster(self.node)
        self._out: dict[tuple[Any, str], Any] = {}
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._stop = threading.Event()

    def _spin(self) -> None:
        while not self._stop.is_set() and ok():
            self.executor.spin_once(timeout_sec=0.05)

    def start(self) -> Bench:
        self._thread.start()
        return self

    def add(self, node: Any) -> Any:
        self.nodes.append(node)
        self.executor.add_node(node)
        return node

    def close(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(PATIENCE)
        for node in self.nodes:
            node.destroy_node()
        self.node.destroy_node()
        self.executor.shutdown()

    def _on_diagnostics(self, message: Any) -> None:
        for status in message.status:
            self.diagnostics[status.name] = status

    def says(self, level: bytes, *words: str) -> str | None:
        """The message of a diagnostic of at least this level that holds all words."""
        for status in list(self.diagnostics.values()):
            if status.level >= level and all(word in status.message for word in words):
                return str(status.message)
        return None

    def publisher(self, kind: Any, topic: str) -> Any:
        if (kind, topic) not in self._out:
            self._out[kind, topic] = self.node.create_publisher(kind, topic, QoSProfile(depth=10))
        return self._out[kind, topic]

    def mount(self, *names: str) -> None:
        """Publish where the cameras are."""
        self.tf_static.sendTransform(
            [convert.transform_from_pose(a_camera(n).T_ego_camera, 0, "base_link", f"{n}_optical_frame") for n in names]
        )

    def calibrate(self, name: str, stamp: int = 0, width: int = 64, height: int = 36) -> None:
        info = convert.info_from_camera(a_camera(name, width, height), stamp, f"{name}_optical_frame")
        self.publisher(CameraInfo, f"{name}/camera_info").publish(info)

    def image(self, name: str, stamp: int, encoded: bytes | None = None) -> None:
        message = convert.compressed_from_bytes(jpeg() if encoded is None else encoded, stamp, f"{name}_optical_frame")
        self.publisher(CompressedImage, f"{name}/image_raw/compressed").publish(message)

    def raw_image(self, name: str, stamp: int, width: int = 64, height: int = 36) -> None:
        message = convert.image_from_rgb(np.zeros((height, width, 3), np.uint8), stamp, f"{name}_optical_frame")
        self.publisher(Image, f"{name}/image_raw").publish(message)

    def move(self, stamp: int, T: Matrix) -> None:
        self.tf.sendTransform(convert.transform_from_pose(T, stamp, "odom", "base_link"))

    def feed(self, node: BevNode, k: int, *names: str, encoded: bytes | None = None) -> None:
        """One image per camera at instant ``k``, taken in and worked off before this returns."""
        pipeline = node._pipeline
        assert pipeline is not None
        before = pipeline.counts()
        for name in names:
            self.image(name, k * PERIOD, encoded)
        taken = {name: before.cameras[name].frames + names.count(name) for name in names}
        until(lambda: all(pipeline.counts().cameras[n].frames == count for n, count in taken.items()), f"images of instant {k}")
        until(lambda: pipeline.idle, f"instant {k} to be worked off")

    def instant(self, k: int, cameras: Sequence[str] = CAMERAS) -> None:
        """All cameras once, at instant ``k``, and wait until the node has answered."""
        before = len(self.statuses)
        for n, name in enumerate(cameras):
            self.calibrate(name, k * PERIOD)
            self.image(name, k * PERIOD + n * 1_000_000)
        until(lambda: len(self.statuses) > before, f"an answer to instant {k}")


def bev_node(stand_in: Any, namespace: str = "", **parameters: Any) -> BevNode:
    values = {"cameras": list(CAMERAS), "diagnostic_period": 0.1, "score_threshold": 0.5, **parameters}
    overrides = [Parameter(name, value=value) for name, value in values.items()]
    return BevNode(model=stand_in, namespace=namespace or None, parameter_overrides=overrides)
