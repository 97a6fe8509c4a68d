"""Writes a simulated drive as a ROS 2 bag that any rosbag2 reader opens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import StoragePlugin, Writer, WriterError
from rosbags.typesys import Stores, get_typestore

from bevstack.errors import SourceError
from bevstack.geometry import DETECTION_CLASSES, Boxes3D, Camera, Matrix, quaternion_from_rotation

from ..types import Frame
from .drive import SimulatedDrive
from .jpeg import encode_jpeg

_NEVER = QosTime(2147483647, 4294967295)


def _qos(durability: QosDurability, reliability: QosReliability, depth: int) -> list[Qos]:
    return [Qos(QosHistory.KEEP_LAST, depth, reliability, durability, _NEVER, _NEVER, QosLiveliness.AUTOMATIC, _NEVER, False)]


def truth_json(boxes: Boxes3D, stamp: int) -> str:
    """True boxes as one line of JSON: stamp (ns), frame, and per box label, id, center, size_lwh, yaw, velocity."""
    rows = [
        {
            "label": DETECTION_CLASSES[int(boxes.label[i])],
            "id": int(boxes.id[i]),
            "center": [round(float(v), 4) for v in boxes.center[i]],
            "size_lwh": [round(float(v), 4) for v in boxes.size[i]],
            "yaw": round(float(boxes.yaw[i]), 5),
            "velocity": [round(float(v), 4) for v in boxes.velocity[i]],
        }
        for i in range(len(boxes))
    ]
    return json.dumps({"stamp": stamp, "frame_id": "base_link", "boxes": rows}, separators=(",", ":"))


def write_bag(
    drive: SimulatedDrive,
    path: str | Path,
    *,
    storage: Literal["mcap", "sqlite3"] = "mcap",
    truth: bool = True,
    jpeg_quality: int = 90,
) -> int:
    """Writes all instants of ``drive`` to the new bag folder ``path``; returns the number of messages.

    Topics: ``/<camera>/image_raw/compressed`` and ``/<camera>/camera_info`` (frame ``<camera>_optical_frame``), ``/tf_static``
    (transient local, base_link to each camera), ``/tf`` (odom to base_link at every image's stamp) and, with ``truth``,
    ``/truth_json`` (std_msgs/String, see ``truth_json``) at every instant.

    Raises:
        SourceError: the folder exists already or cannot be written.
    """
    target = Path(path)
    if target.exists():
        raise SourceError(f"bag {target} exists already: choose another path or remove it")
    store = get_typestore(Stores.ROS2_JAZZY)
    plugin = StoragePlugin.MCAP if storage == "mcap" else StoragePlugin.SQLITE3
    sensor = _qos(QosDurability.VOLATILE, QosReliability.BEST_EFFORT, 5)
    try:
        with Writer(target, version=9, storage_plugin=plugin) as writer:
            return _Recording(writer, store, drive, sensor, truth, jpeg_quality).run()
    except (OSError, WriterError) as error:
        raise SourceError(f"bag {target} cannot be written: {error}") from error


class _Recording:
    def __init__(self, writer: Writer, store: Any, drive: SimulatedDrive, sensor: list[Qos], truth: bool, quality: int) -> None:
        self.writer, self.store, self.drive, self.quality = writer, store, drive, quality
        self.count = 0
        self.types = store.types
        latched = _qos(QosDurability.TRANSIENT_LOCAL, QosReliability.RELIABLE, 1)
        reliable = _qos(QosDurability.VOLATILE, QosReliability.RELIABLE, 100)
        self.tf_static = writer.add_connection(
            "/tf_static", "tf2_msgs/msg/TFMessage", typestore=store, offered_qos_profiles=latched
        )
        self.tf = writer.add_connection("/tf", "tf2_msgs/msg/TFMessage", typestore=store, offered_qos_profiles=reliable)
        self.images = {
            n: writer.add_connection(
                f"/{n}/image_raw/compressed", "sensor_msgs/msg/CompressedImage", typestore=store, offered_qos_profiles=sensor
            )
            for n in drive.cameras
        }
        self.infos = {
            n: writer.add_connection(
                f"/{n}/camera_info", "sensor_msgs/msg/CameraInfo", typestore=store, offered_qos_profiles=sensor
            )
            for n in drive.cameras
        }
        self.truth = (
            writer.add_connection("/truth_json", "std_msgs/msg/String", typestore=store, offered_qos_profiles=reliable)
            if truth
            else None
        )

    def run(self) -> int:
        first = self.drive.start_stamp + min([0, *self.drive.lags.values()])
        static = [
            self._transform("base_link", f"{n}_optical_frame", c.T_ego_camera, first) for n, c in self.drive.cameras.items()
        ]
        self._write(self.tf_static, first, self._type("tf2_msgs/msg/TFMessage")(static))
        pending = [float(t) for t in self.drive.times()] if self.truth is not None else []
        for frame in self.drive.frames():
            while pending and self.drive.stamp(pending[0]) <= frame.stamp:
                self._write_truth(pending.pop(0))
            self._write_frame(frame)
        for t in pending:
            self._write_truth(t)
        return self.count

    def _type(self, name: str) -> Any:
        return self.types[name]

    def _write(self, connection: Any, stamp: int, message: Any) -> None:
        self.writer.write(connection, stamp, self.store.serialize_cdr(message, connection.msgtype))
        self.count += 1

    def _time(self, stamp: int) -> Any:
        return self._type("builtin_interfaces/msg/Time")(int(stamp // 1_000_000_000), int(stamp % 1_000_000_000))

    def _header(self, stamp: int, frame_id: str) -> Any:
        return self._type("std_msgs/msg/Header")(self._time(stamp), frame_id)

    def _transform(self, parent: str, child: str, T: Matrix, stamp: int) -> Any:
        q = quaternion_from_rotation(T)
        return self._type("geometry_msgs/msg/TransformStamped")(
            self._header(stamp, parent),
            child,
            self._type("geometry_msgs/msg/Transform")(
                self._type("geometry_msgs/msg/Vector3")(*(float(v) for v in T[:3, 3])),
                self._type("geometry_msgs/msg/Quaternion")(*(float(v) for v in q)),
            ),
        )

    def _write_truth(self, t: float) -> None:
        stamp = self.drive.stamp(t)
        if self.truth is not None:
            self._write(self.truth, stamp, self._type("std_msgs/msg/String")(truth_json(self.drive.truth(t), stamp)))

    def _write_frame(self, frame: Frame) -> None:
        name = frame.camera.name
        data = frame.encoded
        if data is None:
            if frame.image is None:
                raise SourceError(f"frame of {name} at {frame.stamp} has neither image nor bytes")
            data = encode_jpeg(frame.image, self.quality, name)
        if frame.T_world_ego is not None:
            odometry = self._transform("odom", "base_link", frame.T_world_ego, frame.stamp)
            self._write(self.tf, frame.stamp, self._type("tf2_msgs/msg/TFMessage")([odometry]))
        header = self._header(frame.stamp, f"{name}_optical_frame")
        self._write(self.infos[name], frame.stamp, self._camera_info(frame.camera, header))
        image = self._type("sensor_msgs/msg/CompressedImage")(
            header, "rgb8; jpeg compressed bgr8", np.frombuffer(data, np.uint8)
        )
        self._write(self.images[name], frame.stamp, image)

    def _camera_info(self, camera: Camera, header: Any) -> Any:
        if camera.model == "fisheye":
            model, d = "equidistant", camera.distortion
        else:
            model = "rational_polynomial" if camera.distortion.size > 5 else "plumb_bob"
            d = camera.distortion if camera.distortion.size else np.zeros(5)
        projection = np.hstack([camera.K, np.zeros((3, 1))])
        roi = self._type("sensor_msgs/msg/RegionOfInterest")(0, 0, 0, 0, False)
        return self._type("sensor_msgs/msg/CameraInfo")(
            header, camera.height, camera.width, model, d.astype(np.float64), camera.K.reshape(-1), np.eye(3).reshape(-1),
            projection.reshape(-1), 0, 0, roi,
        )  # fmt: skip
