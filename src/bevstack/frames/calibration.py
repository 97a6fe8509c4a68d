"""Calibrations from and to files: the rig file of this project, and ROS's camera_info YAML (``camera_info_url``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import ArrayLike, NDArray

from bevstack.errors import CalibrationError
from bevstack.geometry import (
    Camera,
    CameraModel,
    Matrix,
    pose,
    quaternion_from_rotation,
    rotation_from_quaternion,
    rotation_rpy,
)

# The order of Fast-BEV's training data; other cameras follow in alphabetical order.
RIG_ORDER = ("cam_front", "cam_front_right", "cam_front_left", "cam_back", "cam_back_left", "cam_back_right")

# Optical axes (z forward, x right, y down) in body axes (x forward, y left, z up), REP-103.
BODY_FROM_OPTICAL: Matrix = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])

_MODELS: dict[str, CameraModel] = {
    "": "pinhole",
    "plumb_bob": "pinhole",
    "rational_polynomial": "pinhole",
    "pinhole": "pinhole",
    "equidistant": "fisheye",
    "fisheye": "fisheye",
    "kannala_brandt4": "fisheye",
}
_GUESS_FOV_DEG = 70.0
_GUESS_HEIGHT = 1.5
_GUESS_FORWARD = 1.5


def rig_order(names: Iterable[str]) -> list[str]:
    """Names in rig order: nuScenes' six first, then the others alphabetically."""
    return sorted(names, key=lambda n: (RIG_ORDER.index(n), n) if n in RIG_ORDER else (len(RIG_ORDER), n))


def intrinsics_from_fov(width: int, height: int, fov_deg: float) -> Matrix:
    """(3, 3) K of a pinhole camera with square pixels and ``fov_deg`` degrees of horizontal view, centred."""
    if not 1.0 <= fov_deg < 179.0:
        raise CalibrationError(f"a horizontal field of view of {fov_deg} degrees is not a pinhole's: give 1 to 179")
    focal = width / (2.0 * np.tan(np.radians(fov_deg) / 2.0))
    return np.array([[focal, 0.0, (width - 1) / 2.0], [0.0, focal, (height - 1) / 2.0], [0.0, 0.0, 1.0]])


def mounting(xyz: ArrayLike, rpy_deg: ArrayLike = (0.0, 0.0, 0.0)) -> Matrix:
    """(4, 4) T_ego_camera of a camera at ``xyz`` metres whose *body* (x forward) is turned by roll, pitch, yaw in degrees.

    ``rpy_deg`` of zero looks forward, yaw 90 to the left, pitch 10 down by ten degrees.
    """
    roll, pitch, yaw = np.radians(np.asarray(rpy_deg, dtype=np.float64))
    return pose(rotation_rpy(float(roll), float(pitch), float(yaw)) @ BODY_FROM_OPTICAL, xyz)


def guess_camera(name: str, width: int, height: int) -> Camera:
    """A camera of which nothing is known: 70 degrees of view, 1.5 m ahead and 1.5 m high, looking where its name says.

    Boxes seen through it are only as right as the guess; sources that use it say so.
    """
    words = name.lower()
    yaw = 0.0
    if "back" in words or "rear" in words:
        yaw = 110.0 if "left" in words else -110.0 if "right" in words else 180.0
    elif "left" in words:
        yaw = 55.0 if "front" in words else 90.0
    elif "right" in words:
        yaw = -55.0 if "front" in words else -90.0
    position = (_GUESS_FORWARD if abs(yaw) < 100 else 0.0, 0.0, _GUESS_HEIGHT)
    return Camera(name, width, height, intrinsics_from_fov(width, height, _GUESS_FOV_DEG), mounting(position, (0.0, 0.0, yaw)))


def guess_notice(name: str) -> str:
    """The line with which a source says that it uses ``guess_camera``."""
    return (
        f"{name}: no calibration: assuming {_GUESS_FOV_DEG:.0f} degrees of view, {_GUESS_HEIGHT} m above the ground: "
        "boxes will be off; give a rig file"
    )


def lens(model: str, distortion: ArrayLike, name: str = "camera") -> tuple[CameraModel, NDArray[np.float64]]:
    """Lens model and coefficients of a CameraInfo's ``distortion_model`` and ``d``.

    Raises:
        CalibrationError: a model that is unknown, or a number of coefficients that does not belong to it.
    """
    key = model.strip().lower()
    if key not in _MODELS:
        raise CalibrationError(
            f"{name}: distortion model {model!r} is unknown: use plumb_bob, rational_polynomial or equidistant"
        )
    d = np.asarray(distortion, dtype=np.float64).reshape(-1)
    kind = _MODELS[key]
    if kind == "fisheye" and d.size not in (0, 4):
        raise CalibrationError(f"{name}: {model} has {d.size} coefficients: it needs 4")
    if kind == "pinhole" and d.size > 8:
        if np.any(d[8:]):
            raise CalibrationError(
                f"{name}: {model} has {d.size} coefficients: thin prism and tilt terms are not supported, at most 8"
            )
        d = d[:8]
    if kind == "pinhole" and d.size not in (0, 4, 5, 8):
        raise CalibrationError(f"{name}: {model} has {d.size} coefficients: it needs 4, 5 or 8")
    return kind, d if np.any(d) or kind == "fisheye" else np.zeros(0)


def camera_from_info(
    name: str,
    width: int,
    height: int,
    model: str,
    d: ArrayLike,
    k: ArrayLike,
    p: ArrayLike,
    T_ego_camera: Matrix,
    *,
    rectified: bool = False,
    binning: tuple[int, int] = (1, 1),
    roi: tuple[int, int, int, int] = (0, 0, 0, 0),
) -> Camera:
    """Camera from the fields of a sensor_msgs/CameraInfo.

    Args:
        width, height: of the full sensor image, before region of interest and binning.
        model, d, k, p: lens model, coefficients, K (9), P (12).
        T_ego_camera: (4, 4) pose of the optical frame.
        rectified: the topic carries rectified images (``image_rect``): P is their K, and no distortion is left.
        binning: (x, y), 0 means 1.
        roi: (x offset, y offset, width, height) in full-sensor pixels; width or height 0 means all.

    Raises:
        CalibrationError: an uncalibrated camera (K zero), unknown lens model.
    """
    kind, coefficients = lens(model, d, name)
    K = np.asarray(k, dtype=np.float64).reshape(3, 3)
    if rectified:
        K = np.asarray(p, dtype=np.float64).reshape(3, 4)[:, :3]
        kind, coefficients = "pinhole", np.zeros(0)
    if not np.any(K):
        raise CalibrationError(f"{name}: its camera_info is empty (K is zero): the camera is not calibrated")
    camera = Camera(name, int(width), int(height), K, T_ego_camera, coefficients, kind)
    if roi[2] and roi[3] and roi[2:] != (width, height):
        camera = camera.cropped(*roi)
    bx, by = max(1, binning[0]), max(1, binning[1])
    return camera if (bx, by) == (1, 1) else camera.resized(camera.width // bx, camera.height // by)


@dataclass(frozen=True)
class RigEntry:
    """One camera of a rig file. Everything but the name may be missing: CameraInfo and tf then fill it in.

    Attributes:
        name: camera name.
        topic: image topic, or video file or device; None: found by pattern.
        info_topic: camera_info topic; None: sibling of the image topic.
        frame: optical frame's name in tf; None: the image's frame_id.
        size: (width, height) that K belongs to.
        K: (3, 3) intrinsics.
        model, distortion: lens.
        T_ego_camera: (4, 4) mounting.
    """

    name: str
    topic: str | None = None
    info_topic: str | None = None
    frame: str | None = None
    size: tuple[int, int] | None = None
    K: Matrix | None = None
    fov: float | None = None
    model: CameraModel = "pinhole"
    distortion: Matrix = field(default_factory=lambda: np.zeros(0))
    T_ego_camera: Matrix | None = None

    def intrinsics(self, size: tuple[int, int] | None = None) -> tuple[tuple[int, int], Matrix] | None:
        """Size and K, as far as the file states them; ``size`` of the real image helps where only ``fov`` is given."""
        known = self.size or size
        if self.K is not None and known is not None:
            return known, self.K
        if self.fov is not None and known is not None:
            return known, intrinsics_from_fov(*known, self.fov)
        return None

    def camera(self, size: tuple[int, int] | None = None) -> Camera | None:
        """The whole calibration, or None where the file does not state it. ``size``: (width, height) of a real image."""
        found = self.intrinsics(size)
        if found is None or self.T_ego_camera is None:
            return None
        (width, height), K = found
        return Camera(self.name, width, height, K, self.T_ego_camera, self.distortion, self.model)


_KEYS = frozenset(
    (
        *("name", "topic", "source", "info_topic", "frame", "camera_info_url", "size", "K", "fov", "model", "distortion"),
        *("xyz", "rpy_deg", "quaternion", "T"),
    )
)


def parse_entry(name: str, values: Mapping[str, Any] | str | Camera | RigEntry | None, folder: Path | None = None) -> RigEntry:
    """One camera's entry: a mapping as in a rig file, a topic, a finished ``Camera``, or nothing.

    Raises:
        CalibrationError: unknown keys, wrong shapes, a mounting that is not one.
    """
    if isinstance(values, RigEntry):
        return values
    if isinstance(values, Camera):
        c = values
        return RigEntry(name, None, None, None, (c.width, c.height), c.K, None, c.model, c.distortion, c.T_ego_camera)
    if values is None:
        return RigEntry(name)
    if isinstance(values, str):
        return RigEntry(name, topic=values)
    if not isinstance(values, Mapping):
        raise CalibrationError(f"camera {name}: {values!r} is neither a topic nor a table of values")
    unknown = sorted(set(values) - _KEYS)
    if unknown:
        raise CalibrationError(f"camera {name}: unknown key {unknown[0]!r}: use {', '.join(sorted(_KEYS))}")
    size = _size(name, values.get("size"))
    K = _matrix(name, "K", values.get("K"), (3, 3))
    model: CameraModel = "pinhole"
    distortion = np.zeros(0)
    if "camera_info_url" in values:
        url = str(values["camera_info_url"]).removeprefix("file://")
        path = Path(url) if folder is None else folder / url
        info = load_camera_info(path, name)
        size, K, model, distortion = (info.width, info.height), info.K, info.model, info.distortion
    if "model" in values or "distortion" in values:
        model, distortion = lens(str(values.get("model", "")), _numbers(name, "distortion", values.get("distortion", [])), name)
    fov = values.get("fov")
    topic = values.get("topic", values.get("source"))
    return RigEntry(
        name,
        None if topic is None else str(topic),
        _text(values.get("info_topic")),
        _text(values.get("frame")),
        size,
        K,
        None if fov is None else float(_numbers(name, "fov", [fov])[0]),
        model,
        distortion,
        _mounting(name, values),
    )


def load_rig(path: Path | str) -> dict[str, RigEntry]:
    """Read a rig file (see docs/sources.md).

    Raises:
        CalibrationError: missing file, broken YAML, unknown keys, wrong shapes.
    """
    file = Path(path)
    try:
        content = yaml.safe_load(file.read_text())
    except OSError as error:
        raise CalibrationError(f"rig file {file} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CalibrationError(f"rig file {file} is not valid YAML: {' '.join(str(error).split())[:120]}") from None
    cameras = content.get("cameras") if isinstance(content, Mapping) else None
    if isinstance(cameras, list):
        if not all(isinstance(entry, Mapping) and "name" in entry for entry in cameras):
            raise CalibrationError(f"rig file {file}: each camera in the list needs a name")
        cameras = {str(entry["name"]): entry for entry in cameras}
    if not isinstance(cameras, Mapping) or not cameras:
        raise CalibrationError(f"rig file {file} names no cameras: it needs a table `cameras:`")
    return {str(name): parse_entry(str(name), values, file.parent) for name, values in cameras.items()}


def save_rig(
    cameras: Mapping[str, Camera] | Iterable[Camera], path: Path | str, topics: Mapping[str, str] | None = None
) -> None:
    """Write a rig file that ``load_rig`` reads back to the same cameras (to 1e-9)."""
    table: dict[str, dict[str, Any]] = {}
    for camera in cameras.values() if isinstance(cameras, Mapping) else cameras:
        entry: dict[str, Any] = {"size": [camera.width, camera.height], "K": camera.K.tolist()}
        if camera.distorted:
            model = (
                "equidistant"
                if camera.model == "fisheye"
                else "rational_polynomial"
                if camera.distortion.size == 8
                else "plumb_bob"
            )
            entry |= {"model": model, "distortion": camera.distortion.tolist()}
        entry["xyz"] = camera.T_ego_camera[:3, 3].tolist()
        entry["quaternion"] = quaternion_from_rotation(camera.T_ego_camera[:3, :3]).tolist()
        if topics and camera.name in topics:
            entry["topic"] = topics[camera.name]
        table[camera.name] = entry
    Path(path).write_text(yaml.safe_dump({"cameras": table}, sort_keys=False, default_flow_style=None, width=120))


def load_camera_info(path: Path | str, name: str | None = None, T_ego_camera: Matrix | None = None) -> Camera:
    """Read ROS's camera calibration YAML (what ``camera_info_url`` points to). The mounting is not in it.

    Raises:
        CalibrationError: missing file, broken YAML, missing fields.
    """
    file = Path(str(path).removeprefix("file://"))
    try:
        content = yaml.safe_load(file.read_text())
        K = content["camera_matrix"]["data"]
        d = content.get("distortion_coefficients", {}).get("data", [])
        p = content.get("projection_matrix", {}).get("data", [0.0] * 12)
        width, height = int(content["image_width"]), int(content["image_height"])
    except OSError as error:
        raise CalibrationError(f"camera calibration {file} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CalibrationError(f"camera calibration {file} is not valid YAML: {' '.join(str(error).split())[:120]}") from None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CalibrationError(
            f"camera calibration {file} lacks a field ({error}): it must be a camera_info YAML of ROS"
        ) from None
    label = name or str(content.get("camera_name", file.stem))
    numbers = _numbers(label, "camera_matrix", K)
    if numbers.size != 9:
        raise CalibrationError(f"camera calibration {file}: camera_matrix has {numbers.size} numbers, it needs 9")
    model = str(content.get("distortion_model", content.get("camera_model", "")))
    T = np.eye(4) if T_ego_camera is None else T_ego_camera
    return camera_from_info(label, width, height, model, _numbers(label, "distortion", d), numbers, p, T)


def save_camera_info(camera: Camera, path: Path | str) -> None:
    """Write the camera's intrinsics as ROS's camera calibration YAML."""
    model = (
        "equidistant" if camera.model == "fisheye" else "rational_polynomial" if camera.distortion.size == 8 else "plumb_bob"
    )
    d = camera.distortion if camera.distortion.size else np.zeros(4 if camera.model == "fisheye" else 5)
    content = {
        "image_width": camera.width,
        "image_height": camera.height,
        "camera_name": camera.name,
        "camera_matrix": {"rows": 3, "cols": 3, "data": camera.K.reshape(-1).tolist()},
        "distortion_model": model,
        "distortion_coefficients": {"rows": 1, "cols": int(d.size), "data": d.tolist()},
        "rectification_matrix": {"rows": 3, "cols": 3, "data": np.eye(3).reshape(-1).tolist()},
        "projection_matrix": {"rows": 3, "cols": 4, "data": np.hstack([camera.K, np.zeros((3, 1))]).reshape(-1).tolist()},
    }
    Path(path).write_text(yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=120))


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _numbers(name: str, key: str, value: Any) -> NDArray[np.float64]:
    try:
        return np.asarray(value, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        raise CalibrationError(f"camera {name}: {key} {value!r} is not a list of numbers") from None


def _matrix(name: str, key: str, value: Any, shape: tuple[int, int]) -> Matrix | None:
    if value is None:
        return None
    numbers = _numbers(name, key, value)
    if key == "K" and numbers.size == 4:  # fx, fy, cx, cy
        fx, fy, cx, cy = numbers
        return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
    if numbers.size != shape[0] * shape[1]:
        raise CalibrationError(f"camera {name}: {key} has {numbers.size} numbers, it needs {shape[0] * shape[1]}")
    return numbers.reshape(shape)


def _size(name: str, value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    numbers = _numbers(name, "size", value)
    if numbers.size != 2 or np.any(numbers < 1):
        raise CalibrationError(f"camera {name}: size {value!r} is not [width, height]")
    return int(numbers[0]), int(numbers[1])


def _mounting(name: str, values: Mapping[str, Any]) -> Matrix | None:
    """T_ego_camera from ``T``, or ``xyz`` with ``quaternion`` (optical frame) or ``rpy_deg`` (camera body)."""
    if "T" in values:
        return _matrix(name, "T", values["T"], (4, 4))
    if "quaternion" in values or "rpy_deg" in values or "xyz" in values:
        xyz = _numbers(name, "xyz", values.get("xyz", (0.0, 0.0, 0.0)))
        if xyz.size != 3:
            raise CalibrationError(f"camera {name}: xyz {values.get('xyz')!r} is not three metres")
        if "quaternion" in values:
            q = _numbers(name, "quaternion", values["quaternion"])
            if q.size != 4 or not np.linalg.norm(q) > 1e-6:
                raise CalibrationError(f"camera {name}: quaternion {values['quaternion']!r} is not x, y, z, w")
            return pose(rotation_from_quaternion(q), xyz)
        rpy = _numbers(name, "rpy_deg", values.get("rpy_deg", (0.0, 0.0, 0.0)))
        if rpy.size != 3:
            raise CalibrationError(f"camera {name}: rpy_deg {values.get('rpy_deg')!r} is not roll, pitch, yaw in degrees")
        return mounting(xyz, rpy)
    return None
