"""Cameras from anything: a file, a bag, a device or the simulated drive, published as a ROS camera driver would.

Publishes per camera ``<image topic>[/compressed]`` and ``camera_info``, the mounting on ``/tf_static``, ego motion on ``/tf``
where the source knows it, and ``~/end_of_source`` (latched) when the source is exhausted.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bevstack.errors import BevstackError, SourceError
from bevstack.frames.decode import decode
from bevstack.frames.formats import find
from bevstack.frames.sim import SimulatedDrive
from bevstack.frames.source import Source, open_source
from bevstack.frames.types import Frame
from bevstack.geometry import Camera
from bevstack.ros import convert
from bevstack.ros.interfaces import (
    Bool,
    CameraInfo,
    Clock,
    CodecStatus,
    CompressedImage,
    Detection3DArray,
    DiagnosticStatus,
    Image,
    Message,
    PipelineStatus,
)
from bevstack.ros.runtime import Node, QoSProfile, diagnostic_updater, tf2

from .main import run_node, until_shutdown
from .parameters import Parameters, Spec
from .topics import info_topic, latched_qos, optical_frame

PARAMETERS: tuple[Spec, ...] = (
    Spec("source", "sim:seed=1,duration=30", "what to publish: sim:..., a bag, a video, a nuScenes folder, or a device"),
    Spec("cameras", [], "publish only these cameras; empty: all of the source"),
    Spec("rig_file", "", "YAML file with calibrations, for sources that have none"),
    Spec("image_topic_template", "{camera}/image_raw", "base image topic of a camera"),
    Spec("image_transport", "compressed", "form in which images are published", choices=("raw", "compressed", "both")),
    Spec("jpeg_quality", 90, "quality where the source has no compressed images", low=1, high=100),
    Spec("image_depth", 10, "queue depth of the image publishers", low=1, high=1000),
    Spec("rate", 1.0, "speed: 1 as recorded, 2 twice as fast, 0 as fast as possible", low=0.0, high=1000.0),
    Spec("loop", False, "start again at the end"),
    Spec(
        "stamps", "source", "exposure stamps: the source's own, or shifted so that the first is now", choices=("source", "now")
    ),
    Spec("lockstep", False, "send an instant only when the perception node has finished an earlier one: nothing is lost"),
    Spec("lockstep_window", 1, "instants that may be on the way; more than 1 may lose some", low=1, high=100),
    Spec(
        "lockstep_timeout", 10.0, "seconds without an answer after which the next instant is sent anyway", low=0.1, high=600.0
    ),
    Spec(
        "status_topic",
        "bev_node/status",
        "where the perception node tells what it has finished; several topics, comma separated: all are waited for",
    ),
    Spec(
        "stream_status_topic",
        "",
        "in lockstep also waited for: where encoder_node tells which frames it has coded, as encoder_node/status; empty: none",
    ),
    Spec("publish_tf", True, "publish mounting and ego motion"),
    Spec("base_frame", "base_link", "ego frame"),
    Spec("odom_frame", "odom", "frame in which ego motion is given"),
    Spec("truth_topic", "", "publish true boxes here, where the source knows them (the simulated drive); empty: do not"),
    Spec("publish_clock", False, "publish exposure stamps on /clock, for use_sim_time"),
    Spec("wait_for_subscribers", 0, "start when each image topic has this many subscribers", low=0, high=100),
    Spec("wait_timeout", 30.0, "seconds after which it starts without them", low=0.0, high=3600.0),
    Spec("exit_when_finished", False, "end the process at the end of the source"),
    Spec("autostart", True, "start publishing by itself"),
)

_GIVE_UP_LOCKSTEP = 3
_LAST_ANSWER_S = 5.0


class CameraNode(Node):
    """Publishes the frames of a ``Source``. Parameters: ``PARAMETERS``.

    Args:
        source: use this source instead of opening the one that the parameter names.
        kwargs: as for ``Node``.

    Raises:
        BevstackError: the source cannot be opened.
    """

    def __init__(self, node_name: str = "camera_node", *, source: Source | None = None, **kwargs: Any) -> None:
        super().__init__(node_name, **kwargs)
        self._p = p = Parameters(self, PARAMETERS)
        self.finished = threading.Event()
        """Set when the source is exhausted and everything is sent (and, in lockstep, answered)."""
        self.error = ""
        self.instants_sent = 0
        self.frames_sent = 0
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._outputs: dict[str, tuple[Any, Any, Any]] = {}
        self._placed: dict[str, Camera] = {}
        self._outstanding: dict[str, deque[int]] = {
            topic.strip(): deque() for topic in p["status_topic"].split(",") if topic.strip()
        }
        self._coded: dict[str, str] = {}  # camera -> its key in ``_outstanding``
        self._answered = threading.Condition()
        self._unanswered = 0
        self._longest_answer = 0.0
        self._lockstep: bool = p["lockstep"]
        self._source = source if source is not None else self._open()
        self._rig = [n for n in self._source.cameras if not p["cameras"] or n in p["cameras"]]
        missing = [n for n in p["cameras"] if self._source.cameras and n not in self._source.cameras]
        if missing:
            self._source.close()
            raise SourceError(
                f"source {p['source']} has no camera {', '.join(missing)}: it has {', '.join(self._source.cameras)}"
            )
        for name in self._rig:
            self._outputs_of(name)
        self._tf = tf2.TransformBroadcaster(self)
        self._tf_static = tf2.StaticTransformBroadcaster(self)
        self._last_pose: int | None = None
        self._clock_out = self.create_publisher(Clock, "/clock", QoSProfile(depth=1)) if p["publish_clock"] else None
        self._truth = (
            self.create_publisher(Detection3DArray, p["truth_topic"], QoSProfile(depth=10)) if p["truth_topic"] else None
        )
        self._end = self.create_publisher(Bool, "~/end_of_source", latched_qos())
        if self._lockstep:
            for topic in self._outstanding:
                self.create_subscription(PipelineStatus, topic, partial(self._on_status, topic), QoSProfile(depth=10))
            if p["stream_status_topic"]:
                self._coded = {name: f"{p['stream_status_topic']} ({name})" for name in self._rig}
                self._outstanding |= {key: deque() for key in self._coded.values()}
                self.create_subscription(CodecStatus, p["stream_status_topic"], self._on_coded, QoSProfile(depth=100))
        self._place(dict(self._source.cameras))
        self._updater = diagnostic_updater.Updater(self, period=1.0)
        self._updater.setHardwareID("bevstack")
        self._updater.add("source", self._diagnose)

    def _open(self) -> Source:
        rig = self._p["rig_file"]
        return open_source(self._p["source"], rig=Path(rig) if rig else None)

    def _outputs_of(self, name: str) -> tuple[Any, Any, Any]:
        """(raw, compressed, info) publishers of a camera; None for a form that is not wanted."""
        known = self._outputs.get(name)
        if known is not None:
            return known
        transport, qos = self._p["image_transport"], QoSProfile(depth=self._p["image_depth"])
        base = self.resolve_topic_name(self._p["image_topic_template"].format(camera=name))
        raw = self.create_publisher(Image, base, qos) if transport != "compressed" else None
        compressed = self.create_publisher(CompressedImage, f"{base}/compressed", qos) if transport != "raw" else None
        info = self.create_publisher(CameraInfo, info_topic(base), qos)
        self._outputs[name] = (raw, compressed, info)
        return self._outputs[name]

    # --- life ---------------------------------------------------------------------------------------------------------------

    def autostart(self) -> bool:
        """Start publishing if the parameter says so."""
        if self._p["autostart"]:
            self.start()
        return True

    def start(self) -> None:
        """Start the reader and the publishing thread. Nothing happens if they run already."""
        if self._threads:
            return
        ready: queue.Queue[tuple[Frame, Any] | None] = queue.Queue(maxsize=2 * max(1, len(self._rig)))
        self._threads = [
            threading.Thread(target=self._read, args=(ready,), name="camera reader", daemon=True),
            threading.Thread(target=self._send_until_shutdown, args=(ready,), name="camera publisher", daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        self.get_logger().info(f"publishing {len(self._rig)} cameras of {self._source.name}")

    @property
    def exit_now(self) -> bool:
        """The process may end: the source is exhausted and the parameter says so."""
        return self.finished.is_set() and bool(self._p["exit_when_finished"])

    def destroy_node(self) -> None:
        """Stop publishing, close the source; then as every node."""
        self._stopping.set()
        with self._answered:
            self._answered.notify_all()
        for thread in self._threads:
            thread.join(1.0)
        self._source.close()  # wakes a reader that waits for a device
        for thread in self._threads:
            thread.join(5.0)
        super().destroy_node()

    def _diagnose(self, stat: Any) -> Any:
        if self.error:
            stat.summary(DiagnosticStatus.ERROR, f"source {self._p['source']}: {self.error}")
        elif self.finished.is_set():
            stat.summary(DiagnosticStatus.OK, "end of source")
        elif self._threads:
            stat.summary(DiagnosticStatus.OK, f"publishing {len(self._rig)} cameras of {self._source.name}")
        else:
            stat.summary(DiagnosticStatus.WARN, "not started")
        stat.add("instants", str(self.instants_sent))
        stat.add("frames", str(self.frames_sent))
        return stat

    # --- reading ------------------------------------------------------------------------------------------------------------

    def _read(self, ready: queue.Queue[tuple[Frame, Any] | None]) -> None:
        """Reader thread: the source's frames, made ready to publish while earlier ones are still on their way."""
        try:
            while not self._stopping.is_set():
                for frame in self._source.frames():
                    if frame.camera.name in self._rig or not self._p["cameras"]:
                        self._put(ready, (frame, self._prepare(frame)))
                    if self._stopping.is_set():
                        return
                if not self._p["loop"]:
                    break
        except Exception as error:  # noqa: BLE001 - a broken source ends the stream, not the process; the reason is logged
            if not self._stopping.is_set():  # a source closed under its reader may complain
                self.error = str(error) if isinstance(error, BevstackError) else f"{type(error).__name__}: {error}"
                self.get_logger().error(f"source {self._p['source']}: {self.error}")
        finally:
            self._put(ready, None)

    def _put(self, ready: queue.Queue[tuple[Frame, Any] | None], item: tuple[Frame, Any] | None) -> None:
        while not self._stopping.is_set():
            try:
                ready.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def _prepare(self, frame: Frame) -> tuple[NDArray[np.uint8] | None, bytes | memoryview | None]:
        """(pixels, compressed bytes) of a frame, as far as the transport wants them."""
        transport = self._p["image_transport"]
        image, encoded = frame.image, frame.encoded
        if encoded is not None and find(encoded) is not None:
            image, encoded = decode(encoded), None  # what is named compressed must be readable for everybody
        if transport != "compressed" and image is None and encoded is not None:
            image = decode(encoded)
        if transport != "raw" and encoded is None and image is not None:
            encoded = convert.encode_jpeg(image, self._p["jpeg_quality"])
        return image if transport != "compressed" else None, encoded if transport != "raw" else None

    # --- sending ------------------------------------------------------------------------------------------------------------

    def _send_until_shutdown(self, ready: queue.Queue[tuple[Frame, Any] | None]) -> None:
        with until_shutdown(self):
            self._send_all(ready)

    def _send_all(self, ready: queue.Queue[tuple[Frame, Any] | None]) -> None:
        """Publishing thread: pace, wait for answers in lockstep, publish."""
        self._wait_for_subscribers()
        rate, shift = float(self._p["rate"]), 0
        began: tuple[float, int] | None = None
        previous: int | None = None
        instant: set[str] = set()  # cameras of the instant that is being sent
        while not self._stopping.is_set():
            try:
                item = ready.get(timeout=0.1)
            except queue.Empty:
                continue
            if item is None:
                break
            frame, (image, encoded) = item
            if previous is None or frame.stamp < previous - 1_000_000_000:  # the start, or a loop
                began = None
            previous = frame.stamp
            if began is None:
                began = (time.monotonic(), frame.stamp)
                shift = self.get_clock().now().nanoseconds - frame.stamp if self._p["stamps"] == "now" else 0
            stamp = frame.stamp + shift
            reference = frame.camera.name == (self._rig[0] if self._rig else frame.camera.name)
            if rate > 0:
                self._stopping.wait(max(0.0, began[0] + (frame.stamp - began[1]) / 1e9 / rate - time.monotonic()))
            if frame.camera.name in instant:
                # The first frame of the next instant, which need not be the reference's: were it sent now, it could take the
                # place of this camera's last frame before that was looked at.
                instant.clear()
                if self._lockstep:
                    self._wait_for_answers(self._p["lockstep_window"] - 1)
            instant.add(frame.camera.name)
            if self._stopping.is_set():
                return
            coded = self._coded.get(frame.camera.name)
            if coded is not None and self._lockstep:
                with self._answered:
                    self._outstanding[coded].append(stamp)
            self._send(frame, stamp, image, encoded)
            if reference:
                self._send_truth(frame, stamp)
                self.instants_sent += 1
                if self._lockstep:
                    with self._answered:
                        for key, stamps in self._outstanding.items():
                            if key not in self._coded.values():
                                stamps.append(stamp)
        if self._stopping.is_set():
            return
        if self._lockstep:
            # The last instant may lack a camera (a recorder that was killed): then there is no answer to wait for.
            # The very first answer takes longest: if none has come yet, only the parameter limits the wait.
            longest = self._longest_answer
            self._wait_for_answers(0, max(_LAST_ANSWER_S, 4.0 * longest) if longest else float("inf"))
        if self._stopping.is_set():
            return
        self._end.publish(Bool(data=True))
        self.get_logger().info(f"end of source: {self.instants_sent} instants, {self.frames_sent} frames sent")
        self.finished.set()

    def _send(self, frame: Frame, stamp: int, image: NDArray[np.uint8] | None, encoded: bytes | memoryview | None) -> None:
        name = frame.camera.name
        raw, compressed, info = self._outputs_of(name)
        if self._clock_out is not None:
            self._clock_out.publish(Clock(clock=convert.ns_to_stamp(stamp)))
        if name not in self._placed or not np.array_equal(self._placed[name].T_ego_camera, frame.camera.T_ego_camera):
            self._place({name: frame.camera})
        if self._p["publish_tf"] and frame.T_world_ego is not None and stamp != self._last_pose:
            self._last_pose = stamp
            self._tf.sendTransform(
                convert.transform_from_pose(frame.T_world_ego, stamp, self._p["odom_frame"], self._p["base_frame"])
            )
        info.publish(convert.info_from_camera(frame.camera, stamp, optical_frame(name)))
        if compressed is not None and encoded is not None:
            compressed.publish(convert.compressed_from_bytes(encoded, stamp, optical_frame(name)))
        if raw is not None and image is not None:
            raw.publish(convert.image_from_rgb(image, stamp, optical_frame(name)))
        self.frames_sent += 1

    def _send_truth(self, frame: Frame, stamp: int) -> None:
        """True boxes at the reference camera's exposure."""
        if self._truth is not None and isinstance(self._source, SimulatedDrive):
            boxes = self._source.truth((frame.stamp - self._source.stamp(0.0)) / 1e9)
            self._truth.publish(convert.detections_from_boxes(boxes, stamp, self._p["base_frame"]))

    def _place(self, cameras: dict[str, Camera]) -> None:
        """Publish where the cameras are mounted."""
        self._placed |= cameras
        if self._p["publish_tf"] and self._placed:
            base, now = self._p["base_frame"], self.get_clock().now().nanoseconds
            self._tf_static.sendTransform(
                [convert.transform_from_pose(c.T_ego_camera, now, base, optical_frame(n)) for n, c in self._placed.items()]
            )

    def _wait_for_subscribers(self) -> None:
        wanted = self._p["wait_for_subscribers"]
        deadline = time.monotonic() + self._p["wait_timeout"]
        while wanted and not self._stopping.is_set():
            images = [p for raw, compressed, _ in self._outputs.values() for p in (raw, compressed) if p is not None]
            least = min((p.get_subscription_count() for p in images), default=0)
            if least >= wanted:
                return
            if time.monotonic() > deadline:
                self.get_logger().warning(f"starting with {least} subscribers on an image topic, not {wanted}")
                return
            self._stopping.wait(0.05)

    def _on_status(self, topic: str, message: Message) -> None:
        """The perception node has finished (or given up) the instant with this stamp, and all before it.

        An instant that is given up is answered with the stamp of its newest frame, which is not older than the reference's.
        """
        self._answer(topic, convert.stamp_to_ns(message.header.stamp))

    def _on_coded(self, message: Message) -> None:
        """A frame of one camera has been coded, or was lost."""
        key = self._coded.get(message.camera)
        if key is not None:
            self._answer(key, convert.stamp_to_ns(message.header.stamp))

    def _answer(self, key: str, done: int) -> None:
        with self._answered:
            stamps = self._outstanding[key]
            while stamps and stamps[0] <= done:
                stamps.popleft()
            self._answered.notify_all()

    def _wait_for_answers(self, allowed: int, most: float = float("inf")) -> None:
        """Wait until no more than ``allowed`` instants are unanswered, at most ``most`` or ``lockstep_timeout`` seconds."""
        began = time.monotonic()
        with self._answered:
            answered = self._answered.wait_for(
                lambda: self._stopping.is_set() or all(len(s) <= allowed for s in self._outstanding.values()),
                min(most, self._p["lockstep_timeout"]),
            )
            if answered:
                if self.instants_sent:
                    self._longest_answer = max(self._longest_answer, time.monotonic() - began)
                self._unanswered = 0
                return
            silent, lost = next((topic, s[0]) for topic, s in self._outstanding.items() if len(s) > allowed)
            for stamps in self._outstanding.values():
                stamps.clear()
        self._unanswered += 1
        self.get_logger().warning(f"no answer on {silent} for the instant at {lost} ns: going on")
        if self._unanswered >= _GIVE_UP_LOCKSTEP:
            self._lockstep = False
            self.get_logger().error(f"nobody answers on {silent}: lockstep is off")


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until its source ends or it is told to stop."""
    return run_node(CameraNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
