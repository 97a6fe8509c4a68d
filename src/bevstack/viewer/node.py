"""The page's node: listens to the cameras and to the perception node, serves the page.

Subscribes per camera ``<image topic>[/compressed]`` and its ``camera_info``, then ``<bev_node>/detections``, ``markers`` (for
velocities) and ``status``, ``/diagnostics``, ``/rosout``, tf, and true boxes where a simulation publishes them. Callbacks keep
references only: nothing is decoded or encoded unless a browser is there to see it, and then on the page's own thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bevstack.errors import BevstackError
from bevstack.frames.calibration import load_rig
from bevstack.geometry import Boxes2D, Boxes3D, Matrix, transform_points
from bevstack.ros import convert
from bevstack.ros.convert2d import boxes2d_from_detections
from bevstack.ros.interfaces import (
    Bool,
    CameraInfo,
    CompressedImage,
    Detection2DArray,
    Detection3DArray,
    DiagnosticArray,
    Image,
    Marker,
    MarkerArray,
    Message,
    PipelineStatus,
)
from bevstack.ros.nodes.bev_node import NUSCENES_CAMERAS
from bevstack.ros.nodes.main import run_node
from bevstack.ros.nodes.parameters import Parameters, Spec
from bevstack.ros.nodes.rig import Rig
from bevstack.ros.nodes.topics import info_topic, latched_qos, sensor_qos
from bevstack.ros.runtime import (
    RUNTIME,
    DurabilityPolicy,
    HistoryPolicy,
    Node,
    QoSProfile,
    ReliabilityPolicy,
    Time,
    messages,
    tf2,
)

from .heat_topics import HEAT_PARAMETERS, HeatTopics
from .learned_topics import LEARNED_PARAMETERS, LearnedTopics
from .received import Picture
from .server import PageServer
from .state import DIAGNOSTIC_LEVELS, Diagnostic, LogLine, PageState, Status

OBSERVER_PARAMETERS: tuple[Spec, ...] = (
    Spec("cameras", NUSCENES_CAMERAS, "names of the cameras"),
    Spec("image_topic_template", "{camera}/image_raw", "base image topic of a camera; camera_info is its sibling"),
    Spec("image_transport", "compressed", "form in which images arrive", choices=("raw", "compressed")),
    Spec("images_rectified", False, "images are undistorted already"),
    Spec("rig_file", "", "YAML file with calibration and mounting, used where camera_info or tf are missing"),
    Spec("base_frame", "base_link", "ego frame"),
    Spec("bev_node", "bev_node", "name of the perception node whose boxes are shown"),
    Spec("detect_node", "", "name of the 2D perception node whose boxes are shown; empty: none"),
    Spec("velocity", True, "take velocities from <bev_node>/markers (detections have no field for them)"),
    Spec("truth_topic", "truth/detections", "true boxes (vision_msgs/Detection3DArray) of a simulation; empty: none"),
    Spec("end_topic", "camera_node/end_of_source", "where a source says that it is exhausted (std_msgs/Bool, latched)"),
    Spec("source", "", "text in the page's head: what is being played or driven"),
)
PARAMETERS: tuple[Spec, ...] = (
    Spec("host", "127.0.0.1", "address that the page is served on; 0.0.0.0 lets other machines see the cameras"),
    Spec("port", 8080, "port of the page; 0 takes any free one", low=0, high=65535),
    *OBSERVER_PARAMETERS,
    *LEARNED_PARAMETERS,
    *HEAT_PARAMETERS,
)

_LOG_LEVELS = {10: "debug", 20: "info", 30: "warn", 40: "error", 50: "fatal"}
_LOG_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1000,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)


class ObserverNode(Node):
    """Collects in ``state`` what the page shows. Parameters: ``OBSERVER_PARAMETERS``."""

    def __init__(self, node_name: str, *, specs: Sequence[Spec] = OBSERVER_PARAMETERS, **kwargs: Any) -> None:
        super().__init__(node_name, **kwargs)
        p = self._p = Parameters(self, specs)
        self.state = PageState()
        self.state.set_about(source=p["source"], runtime=RUNTIME, node=p["bev_node"])
        self._latest: tuple[int, Boxes3D] | None = None
        self.keep_images = True
        """Raw images are looked at only while this is set."""
        cameras: tuple[str, ...] = tuple(p["cameras"])
        fallback = load_rig(Path(p["rig_file"])) if p["rig_file"] else {}
        self._buffer = tf2.Buffer()
        self._listener = tf2.TransformListener(self._buffer, self)
        self._rig = Rig(
            cameras,
            self._buffer,
            p["base_frame"],
            fallback=fallback,
            tf_timeout=2.0,
            rectified=p["images_rectified"],
            on_change=self._calibrated,
        )
        compressed = p["image_transport"] == "compressed"
        for name in cameras:
            self.state.add_camera(name)
            base = self.resolve_topic_name(p["image_topic_template"].format(camera=name))
            self.create_subscription(CameraInfo, info_topic(base), partial(self._rig.take_info, name), sensor_qos())
            kind, topic = (CompressedImage, f"{base}/compressed") if compressed else (Image, base)
            callback = self._on_compressed if compressed else self._on_image
            self.create_subscription(kind, topic, partial(callback, name), sensor_qos())
        self.create_timer(0.25, self._rig.resolve_all)
        results = QoSProfile(depth=10)
        self.create_subscription(Detection3DArray, f"{p['bev_node']}/detections", self._on_detections, results)
        self.create_subscription(PipelineStatus, f"{p['bev_node']}/status", self._on_status, results)
        if p["detect_node"]:
            for name in cameras:
                topic = f"{p['detect_node']}/{name}/detections_2d"
                self.create_subscription(Detection2DArray, topic, partial(self._on_detections_2d, name), results)
            self.create_subscription(PipelineStatus, f"{p['detect_node']}/status", self._on_status_2d, results)
        if p["velocity"]:
            self.create_subscription(MarkerArray, f"{p['bev_node']}/markers", self._on_markers, results)
        if p["truth_topic"]:
            self.create_subscription(Detection3DArray, p["truth_topic"], self._on_truth, results)
        if p["end_topic"]:
            self.create_subscription(Bool, p["end_topic"], self._on_end, latched_qos())
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, results)
        self.create_subscription(messages("rcl_interfaces/msg/Log"), "/rosout", self._on_log, _LOG_QOS)

    # -- what arrives ----------------------------------------------------------------------------------------------------

    def _calibrated(self, name: str) -> None:
        camera = self._rig.camera(name)
        if camera is not None:
            self.state.set_camera(camera)

    def _on_compressed(self, name: str, message: Message) -> None:
        self.state.add_picture(name, Picture(convert.stamp_to_ns(message.header.stamp), convert.image_bytes(message)))

    def _on_image(self, name: str, message: Message) -> None:
        stamp = convert.stamp_to_ns(message.header.stamp)
        if not self.keep_images:
            self.state.count_picture(name)
            return
        try:
            self.state.add_picture(name, Picture(stamp, convert.rgb_from_image(message)))
        except BevstackError as error:
            self.get_logger().warning(f"{name}: {error}", throttle_duration_sec=5.0)

    def _on_detections(self, message: Message) -> None:
        boxes = self._in_base_frame(message)
        if boxes is not None:
            stamp = convert.stamp_to_ns(message.header.stamp)
            self._latest = (stamp, boxes)
            self.take_boxes(stamp, boxes)

    def _on_detections_2d(self, name: str, message: Message) -> None:
        self.take_boxes2d(name, convert.stamp_to_ns(message.header.stamp), boxes2d_from_detections(message))

    def _on_status_2d(self, message: Message) -> None:
        self.take_status2d(status_from_message(message))

    def take_boxes2d(self, name: str, stamp: int, boxes: Boxes2D) -> None:
        """2D boxes of one camera's image."""
        self.state.set_boxes2d(name, stamp, boxes)

    def take_status2d(self, status: Status) -> None:
        """The 2D node has worked something off."""
        self.state.set_status2d(status)

    def _on_markers(self, message: Message) -> None:
        """Markers follow the detections of the same instant; their arrows tell how the boxes move."""
        if self._latest is None or not message.markers:
            return
        stamp, boxes = self._latest
        header = message.markers[0].header
        if convert.stamp_to_ns(header.stamp) != stamp:
            return
        T = self._to_base(header)
        if T is not None:
            self.take_velocity(stamp, velocities(message, boxes, T))

    def _on_truth(self, message: Message) -> None:
        boxes = self._in_base_frame(message)
        if boxes is not None:
            self.state.set_truth(convert.stamp_to_ns(message.header.stamp), boxes)

    def _in_base_frame(self, message: Message) -> Boxes3D | None:
        T = self._to_base(message.header)
        if T is None:
            return None
        try:
            return convert.boxes_from_detections(message).transformed(T)
        except (BevstackError, ValueError) as error:
            self.get_logger().warning(f"boxes cannot be shown: {error}", throttle_duration_sec=5.0)
            return None

    def _to_base(self, header: Message) -> Matrix | None:
        """T_base_frame of a header at its stamp; None (and a line in the log) where tf does not know it."""
        frame, base = header.frame_id, self._p["base_frame"]
        if frame in ("", base):
            return np.eye(4)
        try:
            found = self._buffer.lookup_transform(base, frame, Time.from_msg(header.stamp))
            return convert.pose_from_transform(found.transform)
        except (ValueError, tf2.TransformException) as error:
            self.get_logger().warning(f"boxes in frame {frame!r} cannot be shown: {error}", throttle_duration_sec=5.0)
            return None

    def _on_status(self, message: Message) -> None:
        self.take_status(status_from_message(message))

    def take_status(self, status: Status) -> None:
        """One instant has been worked off."""
        self.state.set_status(status)

    def take_boxes(self, stamp: int, boxes: Boxes3D) -> None:
        """Boxes of one instant, in the ego frame."""
        self.state.set_boxes(stamp, boxes)

    def take_velocity(self, stamp: int, velocity: NDArray[np.float64]) -> None:
        """How the boxes of ``stamp`` move: (N, 2), metres per second, in ego axes."""
        self.state.set_velocity(stamp, velocity)

    def _on_end(self, message: Message) -> None:
        if message.data:
            self.state.set_ended()

    def _on_diagnostics(self, message: Message) -> None:
        self.state.set_diagnostics([diagnostic_from_message(status) for status in message.status])

    def _on_log(self, message: Message) -> None:
        level = _LOG_LEVELS.get(_number(message.level), "info")
        self.state.add_log(LogLine(convert.stamp_to_ns(message.stamp) / 1e9, level, message.name, message.msg))


class ViewerNode(ObserverNode):
    """Serves the page. Parameters: ``PARAMETERS``.

    Raises:
        ViewerError: the port is in use, or aiohttp is missing.
    """

    def __init__(self, node_name: str = "viewer", **kwargs: Any) -> None:
        super().__init__(node_name, specs=PARAMETERS, **kwargs)
        self.keep_images = False
        self.server = PageServer(
            self.state,
            host=self._p["host"],
            port=self._p["port"],
            log=self.get_logger().warning,
            on_clients=self._on_clients,
        )
        try:
            self.server.start()
        except BevstackError:
            super().destroy_node()
            raise
        self._heat = HeatTopics(self, self.state.heat, self._p)
        self._learned = LearnedTopics(self, self.state.learned, self._p)
        self.create_timer(0.25, lambda: self._learned.show(self.server.learned_cameras()))
        self.get_logger().info(f"page: {self.server.url}")

    @property
    def url(self) -> str:
        """Where the page is."""
        return self.server.url

    def _on_clients(self, count: int) -> None:
        self.keep_images = count > 0

    def destroy_node(self) -> None:
        """Closes the page, then as every node."""
        self.server.close()
        super().destroy_node()


def velocities(message: Message, boxes: Boxes3D, T_base_frame: Matrix) -> NDArray[np.float64]:
    """Velocities (N, 2) in ego axes from the arrows of ``convert.markers_from_boxes``; zero for boxes without one.

    An arrow leads from the box's centre to where it is a second later.

    Args:
        message: visualization_msgs/MarkerArray in frame ``T_base_frame``.
        boxes: N boxes of the same instant, in the ego frame.
    """
    found = np.zeros((len(boxes), 2))
    for marker in message.markers:
        if marker.type != Marker.ARROW or not marker.ns.endswith("/velocity") or len(marker.points) != 2:
            continue
        start, end = transform_points(T_base_frame, [[p.x, p.y, p.z] for p in marker.points])
        if len(boxes) and np.isfinite([start, end]).all():
            nearest = int(np.argmin(np.linalg.norm(boxes.center - start, axis=1)))
            if np.linalg.norm(boxes.center[nearest] - start) < 0.01:
                found[nearest] = (end - start)[:2]
    return found


def status_from_message(message: Message) -> Status:
    """stack_msgs/PipelineStatus as the page's ``Status``."""
    cameras = list(message.cameras)
    return Status(
        stamp=convert.stamp_to_ns(message.header.stamp),
        rung=message.rung,
        engine=message.engine,
        instants_in=int(message.instants_in),
        instants_out=int(message.instants_out),
        instants_dropped=int(message.instants_dropped),
        frame_drop_ratio=float(message.frame_drop_ratio),
        stages=tuple((name, float(ms)) for name, ms in zip(message.stages, message.stage_ms)),
        latency_ms=float(message.latency_ms),
        camera_frames={name: int(n) for name, n in zip(cameras, message.camera_frames)},
        camera_drops={name: int(n) for name, n in zip(cameras, message.camera_drops)},
        reason=message.reason,
    )


def diagnostic_from_message(status: Message) -> Diagnostic:
    """diagnostic_msgs/DiagnosticStatus as the page's ``Diagnostic``."""
    level = min(max(_number(status.level), 0), len(DIAGNOSTIC_LEVELS) - 1)
    values = {str(entry.key): str(entry.value) for entry in status.values}
    return Diagnostic(status.name, DIAGNOSTIC_LEVELS[level], status.message, values)


def _number(level: Any) -> int:
    """A ``byte`` field is ``bytes`` of length 1 in rclpy and a number elsewhere."""
    return level[0] if isinstance(level, bytes | bytearray) else int(level)


def main(args: Sequence[str] | None = None) -> int:
    """Runs the node until a signal."""
    return run_node(ViewerNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
