"""A small rosbag2 writer for tests: any topics, any order, intact or not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SECOND = 1_000_000_000
Row = tuple[str, str, int, Any]  # topic, type, log time (ns), message fields


class Messages:
    """Fields of the few message types that bags of cameras hold, with short arguments."""

    def __init__(self) -> None:
        from rosbags.typesys import Stores, get_typestore

        self.store = get_typestore(Stores.ROS2_JAZZY)
        self.types = self.store.types

    def header(self, stamp: int, frame: str) -> Any:
        time = self.types["builtin_interfaces/msg/Time"](stamp // SECOND, stamp % SECOND)
        return self.types["std_msgs/msg/Header"](time, frame)

    def compressed(self, stamp: int, frame: str, data: bytes, format: str = "jpeg") -> Any:
        return self.types["sensor_msgs/msg/CompressedImage"](self.header(stamp, frame), format, np.frombuffer(data, np.uint8))

    def image(self, stamp: int, frame: str, encoding: str, width: int, height: int, data: np.ndarray, step: int = 0) -> Any:
        flat = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        step = step or flat.size // height
        return self.types["sensor_msgs/msg/Image"](self.header(stamp, frame), height, width, encoding, 0, step, flat)

    def info(
        self,
        stamp: int,
        frame: str,
        width: int,
        height: int,
        K: np.ndarray,
        model: str = "plumb_bob",
        d: Iterable[float] = (0.0,) * 5,
        P: np.ndarray | None = None,
        binning: tuple[int, int] = (0, 0),
        roi: tuple[int, int, int, int] = (0, 0, 0, 0),
    ) -> Any:
        projection = np.hstack([K, np.zeros((3, 1))]) if P is None else P
        region = self.types["sensor_msgs/msg/RegionOfInterest"](roi[0], roi[1], roi[3], roi[2], False)
        return self.types["sensor_msgs/msg/CameraInfo"](
            self.header(stamp, frame),
            height,
            width,
            model,
            np.array(list(d), dtype=np.float64),
            np.asarray(K, dtype=np.float64).reshape(-1),
            np.eye(3).reshape(-1),
            projection.reshape(-1),
            binning[0],
            binning[1],
            region,
        )

    def transform(self, stamp: int, parent: str, child: str, xyz: Iterable[float], q: Iterable[float] = (0, 0, 0, 1)) -> Any:
        vector = self.types["geometry_msgs/msg/Vector3"](*map(float, xyz))
        quaternion = self.types["geometry_msgs/msg/Quaternion"](*map(float, q))
        return self.types["geometry_msgs/msg/TransformStamped"](
            self.header(stamp, parent), child, self.types["geometry_msgs/msg/Transform"](vector, quaternion)
        )

    def tf(self, *transforms: Any) -> Any:
        return self.types["tf2_msgs/msg/TFMessage"](list(transforms))

    def odometry(self, stamp: int, frame: str, child: str, xyz: Iterable[float], q: Iterable[float] = (0, 0, 0, 1)) -> Any:
        t = self.types
        point = t["geometry_msgs/msg/Point"](*map(float, xyz))
        quaternion = t["geometry_msgs/msg/Quaternion"](*map(float, q))
        zero = t["geometry_msgs/msg/Vector3"](0.0, 0.0, 0.0)
        return t["nav_msgs/msg/Odometry"](
            self.header(stamp, frame),
            child,
            t["geometry_msgs/msg/PoseWithCovariance"](t["geometry_msgs/msg/Pose"](point, quaternion), np.zeros(36)),
            t["geometry_msgs/msg/TwistWithCovariance"](t["geometry_msgs/msg/Twist"](zero, zero), np.zeros(36)),
        )


@pytest.fixture(scope="session")
def messages() -> Messages:
    return Messages()


@pytest.fixture
def write_bag(tmp_path: Path, messages: Messages) -> Callable[..., Path]:
    """Writes rows to a bag in ``tmp_path`` and returns its folder."""

    def write(rows: list[Row], name: str = "bag", storage: str = "mcap", compression: str | None = None) -> Path:
        from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

        writer = Writer(tmp_path / name, version=9, storage_plugin=StoragePlugin[storage.upper()])
        if compression is not None:
            writer.set_compression(CompressionMode[compression.upper()], CompressionFormat.ZSTD)
        with writer:
            connections: dict[str, Any] = {}
            for topic, kind, stamp, message in rows:
                if topic not in connections:
                    connections[topic] = writer.add_connection(topic, kind, typestore=messages.store)
                raw = message if isinstance(message, bytes) else messages.store.serialize_cdr(message, kind)
                writer.write(connections[topic], stamp, raw)
        return tmp_path / name

    return write
