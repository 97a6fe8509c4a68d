"""Frames, calibrations and ego poses from a rosbag2 bag, in one pass."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bevstack.errors import CalibrationError, SourceError
from bevstack.geometry import Camera, Matrix, pose, rotation_from_quaternion

from .bag_reader import BagMessage, BagReader, BagTopic
from .calibration import RigEntry, camera_from_info, guess_camera, guess_notice, rig_order
from .checks import require_rig
from .decode import DecodeError, image_size
from .ego import PoseBuffer, PoseUnavailableError
from .raw import image_to_rgb
from .source import FrameSource, SyncOptions
from .tf import TfTree, frame_name
from .types import Frame

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
INFO, TF, ODOMETRY = "sensor_msgs/msg/CameraInfo", "tf2_msgs/msg/TFMessage", "nav_msgs/msg/Odometry"
TRANSPORTS = ("compressed", "vtc1")
"""Last words of the topics beside an image topic that carry it as CompressedImage, best first (vtc1: learned streams)."""
_POSE_WAIT_NS = 500_000_000
_MAX_HELD = 64
_LOOK_AHEAD_NS = 60_000_000_000  # what is not there after a minute of the bag will not come


@dataclass(frozen=True)
class ImageTopic:
    """Where one camera's images and calibration are found."""

    camera: str
    topic: str
    info_topic: str
    compressed: bool

    @property
    def rectified(self) -> bool:
        """image_pipeline's naming: ``image_rect`` and ``image_rect_color`` carry no distortion."""
        return "image_rect" in self.topic


def info_sibling(image_topic: str) -> str:
    """The camera_info topic beside an image topic: ``/a/image_raw/compressed`` and ``/a/image_raw`` give ``/a/camera_info``."""
    return base_topic(image_topic).rpartition("/")[0] + "/camera_info"


def base_topic(image_topic: str) -> str:
    """The image topic without its transport: ``/a/image_raw/compressed`` and ``/a/image_raw/vtc1`` give ``/a/image_raw``."""
    base, _, last = image_topic.rpartition("/")
    return base if last in TRANSPORTS else image_topic


def discover(topics: Mapping[str, str]) -> dict[str, ImageTopic]:
    """Cameras among topics (name -> type), by the pattern ``/<camera>/image_raw[/compressed]`` + ``/<camera>/camera_info``.

    Compressed goes before raw, ``image_raw`` before other names of the same camera. Depth images are left out, and, where any
    camera has a camera_info, images without one (debug pictures). Rig order.
    """
    found: dict[str, list[ImageTopic]] = {}
    for topic, kind in topics.items():
        if kind not in (IMAGE, COMPRESSED) or "depth" in topic.lower() or topic.endswith(("/theora", "/compressedDepth")):
            continue
        base = base_topic(topic) if kind == COMPRESSED else topic
        namespace = base.rpartition("/")[0]
        found.setdefault(namespace, []).append(ImageTopic("", topic, info_sibling(topic), kind == COMPRESSED))
    if any(choice.info_topic in topics for choices in found.values() for choice in choices):
        found = {name: [c for c in choices if c.info_topic in topics] for name, choices in found.items()}
    chosen: dict[str, ImageTopic] = {}
    for namespace, choices in found.items():
        if choices:
            chosen[namespace] = min(choices, key=_preference)
    names = _short_names(list(chosen))
    cameras = {names[ns]: ImageTopic(names[ns], c.topic, c.info_topic, c.compressed) for ns, c in chosen.items()}
    return {name: cameras[name] for name in rig_order(cameras)}


def _preference(choice: ImageTopic) -> tuple[int, bool, str]:
    """Lowest first: files before learned streams (dearer to decode) before raw pixels; other CompressedImage as files."""
    last = choice.topic.rpartition("/")[2]
    order = TRANSPORTS.index(last) if last in TRANSPORTS else 0
    return order if choice.compressed else len(TRANSPORTS), "/image_raw" not in choice.topic, choice.topic


def _short_names(namespaces: Collection[str]) -> dict[str, str]:
    """The last word of each namespace; more words where that is not unique."""
    for words in range(1, 9):
        names = {ns: "_".join(ns.strip("/").split("/")[-words:]) or "camera" for ns in namespaces}
        if len(set(names.values())) == len(names):
            return names
    return {ns: ns.strip("/").replace("/", "_") for ns in namespaces}


@cache
def _typestore() -> Any:
    """The types read here are the same in all ROS 2 distributions since Foxy."""
    from rosbags.typesys import Stores, get_typestore

    return get_typestore(Stores.ROS2_JAZZY)


def stamp_ns(stamp: Any) -> int:
    """builtin_interfaces/Time to nanoseconds."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def _transform(translation: Any, rotation: Any) -> Matrix:
    return pose(
        rotation_from_quaternion([rotation.x, rotation.y, rotation.z, rotation.w]),
        [translation.x, translation.y, translation.z],
    )


class BagSource(FrameSource):
    """A rosbag2 bag: mcap or sqlite3, compressed per message or per file, whole or left behind by a killed recorder.

    Stamps are those of the images' headers. Ego poses come from /tf or else from nav_msgs/Odometry, interpolated to each image.

    Args:
        path: the bag's folder or storage file.
        cameras: by name, what is known of a camera (``RigEntry``); None: all that are found.
        image_topic_template: for cameras without a topic of their own, for example ``/sensing/camera/{camera}/image_raw``.
        base_frame: the ego frame.
        world_frame: the frame that ego poses are given in; None: ``odom``, else ``map``, else the top of the tf tree.
        odometry_topic: a nav_msgs/Odometry topic, preferred to /tf; None: /tf first, else the first such topic of the bag.
        max_pose_gap: odometry with larger gaps than this (seconds) is not interpolated.
        sync: how frames become instants.

    Attributes:
        unposed: frames of the running or last iteration for which odometry gave no pose (``T_world_ego`` None).

    Raises:
        SourceError: no bag, or no images in it.
        CalibrationError: a camera without calibration, a frame missing in tf.
    """

    def __init__(
        self,
        path: Path | str,
        cameras: Mapping[str, RigEntry] | None = None,
        *,
        image_topic_template: str | None = None,
        base_frame: str = "base_link",
        world_frame: str | None = None,
        odometry_topic: str | None = None,
        max_pose_gap: float = 1.0,
        sync: SyncOptions | None = None,
    ) -> None:
        super().__init__(sync)
        self.path = Path(path)
        self.name = self.path.name
        self.base_frame = frame_name(base_frame)
        self.world_frame = world_frame
        self._max_gap = round(max_pose_gap * 1e9)
        self.unposed = 0
        self._reader = BagReader(self.path)
        try:
            self._topics = self._choose(cameras, image_topic_template)
            self._odometry = self._choose_odometry(odometry_topic)
            self._explicit_odometry = odometry_topic is not None
            self._entries = dict(cameras or {})
            self._cameras = self._calibrate()
        except BaseException:
            self._reader.close()
            raise
        for problem in [*self._reader.problems, *self._uneven(), *require_rig(self._cameras)]:
            self.note(problem)

    @property
    def topics(self) -> Mapping[str, ImageTopic]:
        """By camera, the topics that are read."""
        return self._topics

    @property
    def rate(self) -> float | None:
        """Images of the first camera per second of the bag; None for fewer than two."""
        count = self._reader.topics[next(iter(self._topics.values())).topic].count
        if count < 2 or self._reader.start is None or self._reader.end is None or self._reader.end <= self._reader.start:
            return None
        if self._period is not None:
            return 1e9 / self._period
        return (count - 1) * 1e9 / (self._reader.end - self._reader.start)

    def _choose(self, cameras: Mapping[str, RigEntry] | None, template: str | None) -> dict[str, ImageTopic]:
        topics = {name: topic.type for name, topic in self._reader.topics.items() if topic.count}
        found = discover(topics)
        if cameras is None:
            if template is not None:
                return self._by_template(template, topics)
            if not found:
                listed = ", ".join(sorted(topics)) or "none"
                raise SourceError(
                    f"bag {self.name} has no image topics (topics: {listed}): name them with cameras or a rig file"
                )
            return found
        chosen: dict[str, ImageTopic] = {}
        for name in rig_order(cameras):
            entry = cameras[name]
            topic = entry.topic or (template.format(camera=name) if template else None)
            if topic is None:
                if name not in found:
                    raise SourceError(
                        f"bag {self.name} has no camera {name!r} (found: {', '.join(found) or 'none'}): give its topic"
                    )
                chosen[name] = found[name]
                continue
            chosen[name] = self._image_topic(name, topic, entry.info_topic, topics)
        return chosen

    def _image_topic(self, name: str, topic: str, info_topic: str | None, topics: Mapping[str, str]) -> ImageTopic:
        for candidate in (*(f"{topic}/{transport}" for transport in TRANSPORTS), topic):
            if topics.get(candidate) in (IMAGE, COMPRESSED):
                return ImageTopic(name, candidate, info_topic or info_sibling(candidate), topics[candidate] == COMPRESSED)
        images = sorted(t for t, kind in topics.items() if kind in (IMAGE, COMPRESSED))
        raise SourceError(
            f"bag {self.name} has no image topic {topic!r} for {name} (image topics: {', '.join(images) or 'none'})"
        )

    def _by_template(self, template: str, topics: Mapping[str, str]) -> dict[str, ImageTopic]:
        import re

        if "{camera}" not in template:
            raise SourceError(f"image topic template {template!r} has no {{camera}} in it")
        pattern = re.compile(re.escape(template).replace(re.escape("{camera}"), "([^/]+)") + f"(/({'|'.join(TRANSPORTS)}))?")
        names = {
            match[1] for topic, kind in topics.items() if kind in (IMAGE, COMPRESSED) and (match := pattern.fullmatch(topic))
        }
        if not names:
            raise SourceError(f"bag {self.name} has no image topics like {template!r} (topics: {', '.join(sorted(topics))})")
        return {name: self._image_topic(name, template.format(camera=name), None, topics) for name in rig_order(names)}

    def _uneven(self) -> list[str]:
        """Cameras with far fewer images than others: a recorder that could not keep up, or a camera that stopped."""
        counts = {name: self._reader.topics[t.topic].count for name, t in self._topics.items()}
        most = max(counts.values())
        few = [f"{name} {count}" for name, count in counts.items() if count < 0.9 * most - 1]
        if not few:
            return []
        return [
            f"bag {self.name} lacks images ({', '.join(few)} of {most}): lost while recording; "
            "missing_after=1 goes on with the cameras that are there"
        ]

    def _choose_odometry(self, wanted: str | None) -> str | None:
        odometry = [t.name for t in self._reader.topics.values() if t.type == ODOMETRY and t.count]
        if wanted is not None:
            if wanted not in odometry:
                raise SourceError(f"bag {self.name} has no odometry topic {wanted!r} (found: {', '.join(odometry) or 'none'})")
            return wanted
        return sorted(odometry)[0] if odometry else None

    def _decode(self, message: BagMessage) -> Any:
        """The message's fields, or None (noted) where its bytes are damaged."""
        try:
            return _typestore().deserialize_cdr(message.raw, message.type)
        except Exception as error:  # noqa: BLE001 - damaged bytes fail in whatever way the deserialiser meets them
            self.note(f"a message on {message.topic} at {message.stamp} ns is damaged ({type(error).__name__}): left out")
            return None

    def _tf_topics(self) -> list[str]:
        return [t.name for t in self._reader.topics.values() if t.type == TF and t.count]

    def _calibrate(self) -> dict[str, Camera]:
        """Read the beginning of the bag until every camera's calibration, mounting and image size are known."""
        infos: dict[str, Any] = {}
        firsts: dict[str, tuple[str, tuple[int, int] | None]] = {}
        self._tree = TfTree()
        self._period: float | None = None
        self._child = self.base_frame
        has_tf = bool(self._tf_topics())
        info_topics = {t.info_topic: name for name, t in self._topics.items() if t.info_topic in self._reader.topics}
        image_topics = {t.topic: name for name, t in self._topics.items()}
        wanted = {*info_topics, *image_topics, *self._tf_topics()}
        stamps: list[int] = []
        for message in self._reader.messages(wanted):
            if len(firsts) == len(image_topics) and message.stamp - (self._reader.start or 0) > _LOOK_AHEAD_NS:
                break
            if message.topic in info_topics:
                if info_topics[message.topic] not in infos and (info := self._decode(message)) is not None:
                    infos[info_topics[message.topic]] = info
            elif message.topic in image_topics:
                name = image_topics[message.topic]
                first = name == next(iter(self._topics))
                if (name not in firsts or (first and len(stamps) < 8)) and (image := self._decode(message)) is not None:
                    if first:
                        stamps.append(stamp_ns(image.header.stamp))
                    firsts.setdefault(name, (image.header.frame_id, self._size(image, self._topics[name].compressed)))
            elif (tf := self._decode(message)) is not None:
                self._take_tf(tf)
            known = len(firsts) == len(image_topics) and len(infos) == len(info_topics)
            if (
                known
                and len(stamps) >= min(8, self._reader.topics[next(iter(image_topics))].count)
                and (not has_tf or self._all_mounted(firsts, infos))
            ):
                break
        if len(stamps) > 1:
            self._period = float(np.median(np.diff(sorted(stamps)))) or None
        guess = not infos and not has_tf
        return {name: self._camera(name, infos.get(name), firsts.get(name), guess) for name in self._topics}

    def _all_mounted(self, firsts: Mapping[str, Any], infos: Mapping[str, Any]) -> bool:
        return all(
            (name in self._entries and self._entries[name].T_ego_camera is not None)
            or self._tree.path(self.base_frame, self._frame_of(name, infos.get(name), firsts.get(name))) is not None
            for name in self._topics
        )

    def _frame_of(self, name: str, info: Any, first: tuple[str, Any] | None) -> str:
        entry = self._entries.get(name)
        if entry is not None and entry.frame:
            return frame_name(entry.frame)
        candidates = [first[0] if first else "", info.header.frame_id if info is not None else "", f"{name}_optical_frame"]
        return next(frame_name(candidate) for candidate in candidates if candidate)

    @staticmethod
    def _size(image: Any, compressed: bool) -> tuple[int, int] | None:
        if not compressed:
            return int(image.width), int(image.height)
        try:
            return image_size(memoryview(image.data))
        except DecodeError:
            return None

    def _camera(self, name: str, info: Any, first: tuple[str, tuple[int, int] | None] | None, guess: bool) -> Camera:
        entry = self._entries.get(name, RigEntry(name))
        size = first[1] if first else None
        whole = entry.camera(size)
        if whole is not None:
            return whole
        if guess and entry.T_ego_camera is None and entry.intrinsics(size) is None:
            if size is None:
                raise SourceError(f"bag {self.name}: no image of {name} can be decoded")
            self.note(guess_notice(name))
            return guess_camera(name, *size)
        T = entry.T_ego_camera
        if T is None:
            frame = self._frame_of(name, info, first)
            try:
                T = self._tree.lookup(self.base_frame, frame)
            except CalibrationError as error:
                raise CalibrationError(f"{name}: {error}") from None
        stated = entry.intrinsics(size)
        if stated is not None:
            (width, height), K = stated
            return Camera(name, width, height, K, T, entry.distortion, entry.model)
        topic = self._topics[name]
        if info is None:
            raise CalibrationError(f"{name}: no camera_info on {topic.info_topic}: record it, or give K in a rig file")
        return camera_from_info(
            name,
            info.width,
            info.height,
            info.distortion_model,
            info.d,
            info.k,
            info.p,
            T,
            rectified=topic.rectified,
            binning=(int(info.binning_x), int(info.binning_y)),
            roi=(int(info.roi.x_offset), int(info.roi.y_offset), int(info.roi.width), int(info.roi.height)),
        )

    def _take_tf(self, message: Any) -> list[tuple[str, str, int]]:
        """Put a TFMessage into the tree; (parent, child, stamp) of each transform."""
        edges: list[tuple[str, str, int]] = []
        for item in message.transforms:
            try:
                transform = _transform(item.transform.translation, item.transform.rotation)
            except ValueError as error:
                self.note(f"tf {item.header.frame_id} -> {item.child_frame_id}: {error}")
                continue
            self._tree.set(item.header.frame_id, item.child_frame_id, transform)
            edges.append((frame_name(item.header.frame_id), frame_name(item.child_frame_id), stamp_ns(item.header.stamp)))
        return edges

    def _world_path(self) -> list[str] | None:
        """Frames from the world frame down to the ego frame; None while tf does not connect them."""
        if self.world_frame is not None:
            return self._tree.path(self.world_frame, self.base_frame)
        for world in ("odom", "map"):
            if (path := self._tree.path(world, self.base_frame)) is not None:
                return path
        root = self._tree.root(self.base_frame)
        return None if root == self.base_frame else self._tree.path(root, self.base_frame)

    def _odometry_pose(self, message: Any) -> Matrix:
        """T_world_ego of an Odometry message; its child frame may be fixed to the ego frame instead of being it."""
        T = _transform(message.pose.pose.position, message.pose.pose.orientation)
        child = frame_name(message.child_frame_id)
        if child and child != self.base_frame and self._tree.path(child, self.base_frame) is not None:
            T = T @ self._tree.lookup(child, self.base_frame)
        return T

    def frames(self) -> Iterator[Frame]:
        """Every image of the chosen cameras, in the bag's order, each with its ego pose where odometry covers its stamp."""
        images = {t.topic: name for name, t in self._topics.items()}
        wanted = {*images, *self._tf_topics()}
        use_tf = not self._explicit_odometry and self._world_path() is not None
        from_topic = None if use_tf else self._odometry
        if from_topic is not None:
            wanted.add(from_topic)
        poses = PoseBuffer()
        self.unposed = 0
        held: deque[tuple[Frame, int]] = deque()
        noted = len(self._reader.problems)
        for message in self._reader.messages(wanted):
            if message.topic in images:
                frame = self._frame(message, images[message.topic])
                if frame is not None:
                    held.append((frame, message.stamp))
            elif (content := self._decode(message)) is not None:
                if message.type == ODOMETRY:
                    if message.topic == from_topic:
                        poses.add(stamp_ns(content.header.stamp), self._odometry_pose(content))
                else:
                    self._add_tf_poses(content, poses, from_topic is None)
            yield from self._release(held, poses, message.stamp)
        while held:
            yield self._posed(held.popleft()[0], poses)
        for problem in self._reader.problems[noted:]:
            self.note(problem)

    def _add_tf_poses(self, content: Any, poses: PoseBuffer, use: bool) -> None:
        edges = self._take_tf(content)
        if not use:
            return
        path = self._world_path()
        if path is None:
            return
        for parent, child, stamp in edges:
            if parent in path and child in path and stamp > 0:
                poses.add(stamp, self._tree.along(path))

    def _release(self, held: deque[tuple[Frame, int]], poses: PoseBuffer, now: int) -> Iterator[Frame]:
        """Frames whose pose can be interpolated, or that have waited long enough for it."""
        while held:
            frame, arrived = held[0]
            span = poses.span()
            covered = span is not None and span[1] >= frame.stamp
            if not (covered or now - arrived > _POSE_WAIT_NS or len(held) > _MAX_HELD):
                return
            held.popleft()
            yield self._posed(frame, poses)

    def _posed(self, frame: Frame, poses: PoseBuffer) -> Frame:
        try:
            return replace(frame, T_world_ego=poses.at(frame.stamp, self._max_gap))
        except PoseUnavailableError as error:
            self.unposed += 1
            if self.unposed > 1:
                pass  # one line is enough; ``unposed`` counts the others
            elif len(poses):
                self.note(f"{self.name}: {error}")
            else:
                self.note(
                    f"{self.name}: no ego motion (neither /tf {self.world_frame or 'odom'} -> {self.base_frame} nor Odometry)"
                )
            return frame

    def _frame(self, message: BagMessage, name: str) -> Frame | None:
        content = self._decode(message)
        if content is None:
            return None
        camera, topic = self._cameras[name], self._topics[name]
        stamp = stamp_ns(content.header.stamp) or message.stamp
        if topic.compressed:
            return Frame(camera, stamp, encoded=memoryview(content.data), rectified=topic.rectified)
        try:
            image = image_to_rgb(
                content.data, content.width, content.height, content.step, content.encoding, bool(content.is_bigendian)
            )
        except DecodeError as error:
            self.note(f"{name}: {error}")
            return None
        return Frame(camera, stamp, image=image, rectified=topic.rectified)

    def close(self) -> None:
        """Close the bag's files."""
        self._reader.close()


__all__ = ["BagSource", "BagTopic", "ImageTopic", "discover", "info_sibling", "stamp_ns"]
