"""What a node knows of its cameras: calibration from camera_info, mounting from tf, or both from a rig file."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bevstack.errors import BevstackError
from bevstack.frames.calibration import RigEntry
from bevstack.frames.checks import broken, check_camera
from bevstack.geometry import Camera, Matrix
from bevstack.ros.convert import camera_from_info, pose_from_transform, same_calibration
from bevstack.ros.interfaces import Message
from bevstack.ros.runtime import Time, tf2

from .topics import optical_frame


@dataclass
class _Entry:
    info: Message | None = None
    camera: Camera | None = None
    reason: str = ""
    waiting_since: float | None = None
    doubts: list[str] = field(default_factory=list)


class Rig:
    """Calibrations of the node's cameras, as they become known. Thread-safe.

    Args:
        names: cameras, in rig order.
        buffer: tf2 buffer for the mounting.
        base_frame: the ego frame.
        fallback: cameras of a rig file; their mounting is used when tf has none after ``tf_timeout`` seconds, and their
            calibration while no camera_info has come.
        rectified: images are undistorted already.
        on_change: called with a camera's name when its calibration is known anew or has changed.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        buffer: tf2.Buffer,
        base_frame: str,
        *,
        fallback: Mapping[str, RigEntry],
        tf_timeout: float,
        rectified: bool,
        on_change: Callable[[str], None],
    ) -> None:
        self.names = names
        self._buffer, self._base_frame = buffer, base_frame
        self._fallback, self._tf_timeout, self._rectified = fallback, tf_timeout, rectified
        self._on_change = on_change
        self._lock = threading.RLock()
        self._entries = {name: _Entry(reason=f"no camera_info of {name} has arrived") for name in names}

    def camera(self, name: str) -> Camera | None:
        """The calibration; None while it is not known or cannot be right (``reason`` says why)."""
        return self._entries[name].camera

    def reason(self, name: str) -> str:
        """Why there is no calibration, in one line; "" when there is."""
        return self._entries[name].reason

    def frame(self, name: str) -> str:
        """Frame of a camera's images, as its camera_info says."""
        info = self._entries[name].info
        return str(info.header.frame_id) if info is not None else optical_frame(name)

    def doubts(self, name: str) -> list[str]:
        """What is most likely wrong with a calibration that can be used all the same, one line each."""
        return self._entries[name].doubts

    def cameras(self) -> dict[str, Camera]:
        """All calibrations known."""
        return {name: entry.camera for name, entry in self._entries.items() if entry.camera is not None}

    def take_info(self, name: str, info: Message) -> None:
        """A camera_info has arrived. Only one that differs from the last is looked at."""
        with self._lock:
            entry = self._entries[name]
            if entry.info is not None and same_calibration(entry.info, info):
                return
            entry.info, entry.camera, entry.waiting_since = info, None, None
        self.resolve(name)

    def resolve(self, name: str) -> None:
        """Try to complete the calibration of a camera that has none yet."""
        with self._lock:
            entry = self._entries[name]
            if entry.camera is not None:
                return
            if entry.waiting_since is None:
                entry.waiting_since = time.monotonic()
            waited = time.monotonic() - entry.waiting_since
            known = self._fallback.get(name)
            if entry.info is None:
                found = known.intrinsics() if known is not None else None
                if known is None or found is None or waited < self._tf_timeout:
                    return
                mounting = self._mounting(entry, known.frame or optical_frame(name), known, waited)
                if mounting is None:
                    return
                (width, height), K = found
                self._accept(entry, Camera(name, width, height, K, mounting, known.distortion, known.model))
            else:
                mounting = self._mounting(entry, entry.info.header.frame_id, known, waited)
                if mounting is None:
                    return
                try:
                    self._accept(entry, camera_from_info(entry.info, name, mounting, rectified=self._rectified))
                except BevstackError as error:
                    entry.reason = str(error)
            if entry.camera is None:
                return
        self._on_change(name)

    def resolve_all(self) -> None:
        """``resolve`` for every camera; for a timer."""
        for name in self.names:
            self.resolve(name)

    def _accept(self, entry: _Entry, camera: Camera) -> None:
        problems = broken(camera)
        if problems:
            entry.reason = problems[0]
        else:
            entry.camera, entry.reason, entry.doubts = camera, "", check_camera(camera)

    def _mounting(self, entry: _Entry, frame: str, known: RigEntry | None, waited: float) -> Matrix | None:
        """Pose of the camera's frame in the ego frame: from tf, else from the rig file once tf had its time."""
        try:
            found = self._buffer.lookup_transform(self._base_frame, frame, Time())
            return pose_from_transform(found.transform)
        except (tf2.TransformException, ValueError) as error:
            if known is not None and known.T_ego_camera is not None and waited >= self._tf_timeout:
                return known.T_ego_camera
            entry.reason = (
                f"waiting for the transform {self._base_frame} <- {frame or '(empty frame_id)'} on /tf_static ({error})"
            )
            return None
