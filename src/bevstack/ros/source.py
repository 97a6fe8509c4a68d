"""Live ROS topics as a ``Source``: ``open_source("ros:")`` gives instants of whatever cameras publish right now.

``frames`` finds this through the entry point ``ros`` of the group ``bevstack.sources``: it lies floors below and knows no ROS.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Literal

from bevstack.errors import BevstackError, SourceError
from bevstack.frames.calibration import RigEntry, rig_order
from bevstack.frames.decode import image_size
from bevstack.frames.ego import PoseBuffer, PoseUnavailableError
from bevstack.frames.source import FrameSource, SyncOptions
from bevstack.frames.types import Frame

from . import convert
from .interfaces import CameraInfo, CompressedImage, Image, Message, Odometry, TFMessage
from .nodes.rig import Rig
from .nodes.topics import info_topic, sensor_qos
from .runtime import Context, Node, QoSProfile, SingleThreadedExecutor, tf2

Transport = Literal["auto", "compressed", "raw"]

_IMAGE_TYPES = {"compressed": "sensor_msgs/msg/CompressedImage", "raw": "sensor_msgs/msg/Image"}
_SETTLE = 0.5  # seconds that the list of cameras must stay the same before it is taken as whole


class TopicSource(FrameSource):
    """Cameras of a ROS graph: images, ``camera_info`` beside them, mounting from /tf_static, ego poses from /tf.

    Of each camera the newest ``depth`` images wait to be taken; images that are overtaken are counted in ``drops``.

    Args:
        cameras: names, with what is known of them (used where camera_info or tf are missing; an entry's ``topic`` is its base
            image topic); None: every camera that publishes when the source is opened.
        image_topic_template: base image topic of a camera, relative to ``namespace``.
        namespace: where the cameras are.
        transport: "compressed", "raw", or "auto": compressed where a camera offers it.
        base_frame: ego frame. world_frame: frame in which ego motion is smooth.
        odometry_topic: nav_msgs/Odometry to take ego poses from, instead of /tf; relative to ``namespace``.
        timeout: seconds to wait for the cameras and their calibrations at the start, and for an image afterwards.
        reliability: what the image subscriptions ask for: "best_effort" or "reliable".
        rectified: images are undistorted already.
        depth: images kept per camera.
        domain: ROS domain; None: that of the environment.
        sync: how frames become instants.

    Attributes:
        drops: by camera, images that were overtaken or could not be used.
        template: base image topic of a camera, absolute. transports: by camera, "compressed" or "raw".

    Raises:
        SourceError: no camera publishes, or a calibration does not come; one line says which and what is missing.
    """

    def __init__(
        self,
        cameras: Mapping[str, RigEntry] | None = None,
        *,
        image_topic_template: str = "{camera}/image_raw",
        namespace: str = "/",
        transport: Transport = "auto",
        base_frame: str = "base_link",
        world_frame: str = "odom",
        odometry_topic: str = "",
        timeout: float = 5.0,
        reliability: str = "best_effort",
        rectified: bool = False,
        depth: int = 2,
        domain: int | None = None,
        sync: SyncOptions | None = None,
    ) -> None:
        super().__init__(sync, name="ros:")
        if transport not in ("auto", "compressed", "raw"):
            raise SourceError(f"transport is {transport!r}: use auto, compressed or raw")
        if reliability not in ("best_effort", "reliable"):
            raise SourceError(f"reliability is {reliability!r}: use best_effort or reliable")
        if timeout <= 0 or depth < 1:
            raise SourceError(f"timeout is {timeout:g} s and depth {depth}: both must be more than 0")
        self.timeout, self.base_frame, self.world_frame = timeout, base_frame, world_frame
        self._rectified = rectified
        self.template = namespace.rstrip("/") + "/" + image_topic_template.lstrip("/")
        self._queues: dict[str, deque[Message]] = {}
        self._depth = depth
        self._poses = PoseBuffer()
        self._arrived = threading.Condition()
        self._stop = threading.Event()
        self._context = Context()
        self._context.init(args=[], domain_id=domain)
        try:
            self._node = Node("bevstack_source", context=self._context, use_global_arguments=False, enable_rosout=False)
            self._executor = SingleThreadedExecutor(context=self._context)
            self._executor.add_node(self._node)
            self._thread = threading.Thread(target=self._spin, name="ros source", daemon=True)
            self._thread.start()
            self._buffer = tf2.Buffer()
            self._listener = tf2.TransformListener(self._buffer, self._node)
            if odometry_topic:
                where = namespace.rstrip("/") + "/" + odometry_topic.lstrip("/")
                self._node.create_subscription(Odometry, where, self._on_odometry, QoSProfile(depth=100))
            else:
                self._node.create_subscription(TFMessage, "/tf", self._on_tf, QoSProfile(depth=100))
            self.transports = self._find(cameras, transport)
            entries = {name: (cameras or {}).get(name, RigEntry(name)) for name in self.transports}
            self.drops: dict[str, int] = dict.fromkeys(self.transports, 0)
            self._queues = {name: deque() for name in self.transports}
            self._rig = Rig(
                tuple(self.transports),
                self._buffer,
                base_frame,
                fallback=entries,
                tf_timeout=timeout / 2,
                rectified=rectified,
                on_change=lambda _: None,
            )
            self._subscribe(entries, sensor_qos(reliability, max(depth, 5)))
            self._calibrate()
        except BaseException:
            self.close()
            raise

    def _spin(self) -> None:
        while not self._stop.is_set() and self._context.ok():
            self._executor.spin_once(timeout_sec=0.2)

    # --- at the start -------------------------------------------------------------------------------------------------------

    def _offers(self) -> dict[str, set[str]]:
        """Camera -> forms in which it publishes now, by the template."""
        base = re.escape(self.template).replace(re.escape("{camera}"), "(?P<camera>[^/]+)")
        found: dict[str, set[str]] = {}
        for topic, types in self._node.get_topic_names_and_types():
            for form, suffix in (("compressed", "/compressed"), ("raw", "")):
                match = re.fullmatch(base + suffix, topic)
                if match and _IMAGE_TYPES[form] in types and self._node.count_publishers(topic):
                    found.setdefault(match.groupdict().get("camera") or "camera", set()).add(form)
        return found

    def _find(self, cameras: Mapping[str, RigEntry] | None, transport: Transport) -> dict[str, str]:
        """Camera -> form to subscribe to, in rig order."""
        if cameras is not None and transport != "auto":
            return dict.fromkeys(rig_order(cameras), transport)
        wanted = None if cameras is None else set(cameras)
        end, since = time.monotonic() + self.timeout, time.monotonic()
        offers: dict[str, set[str]] = {}
        while time.monotonic() < end:
            now = self._offers()
            if now != offers:
                offers, since = now, time.monotonic()
            whole = bool(offers) if wanted is None else wanted <= set(offers)
            if whole and time.monotonic() - since >= _SETTLE:
                break
            time.sleep(0.05)
        if wanted is not None:  # a camera that is named may come later: it is missed when its calibration does not come
            offers = {name: offers.get(name, {"compressed"}) for name in wanted}
        elif transport != "auto":
            offers = {name: forms for name, forms in offers.items() if transport in forms}
        if not offers:
            raise SourceError(
                f"no camera publishes on {self.template}{'' if transport == 'raw' else '[/compressed]'} in domain "
                f"{self._context.get_domain_id()}: start the cameras, or set image_topic_template, namespace or domain "
                "(`ros2 topic list` or `bevstack doctor` shows what is there)"
            )
        return {
            name: transport if transport != "auto" else ("compressed" if "compressed" in offers[name] else "raw")
            for name in rig_order(offers)
        }

    def _subscribe(self, entries: Mapping[str, RigEntry], qos: QoSProfile) -> None:
        for name, form in self.transports.items():
            base = entries[name].topic or self.template.replace("{camera}", name)
            compressed = form == "compressed"
            self._node.create_subscription(CameraInfo, info_topic(base), partial(self._rig.take_info, name), qos)
            self._node.create_subscription(
                CompressedImage if compressed else Image,
                f"{base.removesuffix('/compressed')}/compressed" if compressed else base,
                partial(self._on_image, name),
                qos,
            )

    def _calibrate(self) -> None:
        end = time.monotonic() + self.timeout
        while time.monotonic() < end and len(self._rig.cameras()) < len(self._rig.names):
            self._rig.resolve_all()
            time.sleep(0.02)
        for name in self._rig.names:
            if self._rig.camera(name) is None:
                raise SourceError(f"ros: {name} cannot be used after {self.timeout:g} s: {self._rig.reason(name)}")
            for doubt in self._rig.doubts(name):
                self.note(doubt)
        self._cameras = {name: self._rig.cameras()[name] for name in self._rig.names}

    def others(self, name: str) -> list[str]:
        """Full names of the nodes called ``name`` that are in the graph already."""
        spaces = [space for node, space in self._node.get_node_names_and_namespaces() if node == name]
        return [f"{space.rstrip('/')}/{name}" for space in spaces]

    # --- while it runs ------------------------------------------------------------------------------------------------------

    def _on_tf(self, message: Message) -> None:
        for transform in message.transforms:
            ends = transform.header.frame_id.lstrip("/"), transform.child_frame_id.lstrip("/")
            if ends == (self.world_frame, self.base_frame):
                try:
                    pose = convert.pose_from_transform(transform.transform)
                    self._poses.add(convert.stamp_to_ns(transform.header.stamp), pose)
                except (ValueError, BevstackError) as error:
                    self.note(f"transform {ends[0]} -> {ends[1]}: {error}")

    def _on_odometry(self, message: Message) -> None:
        try:
            self._poses.add(*convert.pose_from_odometry(message))
        except (ValueError, BevstackError) as error:
            self.note(f"odometry: {error}")

    def _on_image(self, name: str, message: Message) -> None:
        with self._arrived:
            queue = self._queues[name]
            queue.append(message)
            while len(queue) > self._depth:
                queue.popleft()
                self.drops[name] += 1
            self._arrived.notify()

    def _take(self) -> tuple[str, Message] | None:
        """The oldest image that waits; None after ``close``.

        Raises:
            SourceError: no image for ``timeout`` seconds.
        """
        with self._arrived:
            if not self._arrived.wait_for(lambda: self._stop.is_set() or any(self._queues.values()), self.timeout):
                raise SourceError(
                    f"no image of {', '.join(self._queues)} for {self.timeout:g} s: do the cameras still publish?"
                )
            if self._stop.is_set():
                return None
            waiting = {name: queue[0] for name, queue in self._queues.items() if queue}
            name = min(waiting, key=lambda n: convert.stamp_to_ns(waiting[n].header.stamp))
            return name, self._queues[name].popleft()

    def frames(self) -> Iterator[Frame]:
        """Frames as they come, for as long as the cameras publish and the source is open."""
        while (taken := self._take()) is not None:
            name, message = taken
            camera = self._rig.camera(name)
            try:
                if camera is None:
                    raise convert.ImageMessageError(self._rig.reason(name))
                if self.transports[name] == "compressed":
                    frame = convert.frame_from_compressed(message, camera, rectified=self._rectified)
                    size = image_size(frame.encoded) if frame.encoded is not None else (0, 0)
                else:
                    frame = convert.frame_from_image(message, camera, rectified=self._rectified)
                    size = (int(message.width), int(message.height))
                if size != (camera.width, camera.height):
                    raise convert.ImageMessageError(
                        f"it sends {size[0]}x{size[1]} pixels, its camera_info is for {camera.width}x{camera.height}"
                    )
            except BevstackError as error:
                self.drops[name] += 1
                self.note(f"{name}: {error}")
                continue
            with suppress(PoseUnavailableError):  # no odometry, or not yet: the frame says so by having no pose
                frame = replace(frame, T_world_ego=self._poses.at(frame.stamp))
            yield frame

    def close(self) -> None:
        """Leave the graph. May be called twice, and from another thread to end ``frames``."""
        self._stop.set()
        with self._arrived:
            self._arrived.notify_all()
        thread = getattr(self, "_thread", None)
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=5.0)
        if self._context.ok():
            if hasattr(self, "_executor"):
                self._executor.shutdown(timeout_sec=1.0)
            if hasattr(self, "_node"):
                self._node.destroy_node()
            self._context.try_shutdown()
