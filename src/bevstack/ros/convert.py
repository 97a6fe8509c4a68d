"""Between ROS messages and our own types. Every conversion of the stack is here, once.

Our frames follow REP-103 as ROS does (ego = ``base_link``: x forward, y left, z up): nothing is turned, only containers change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from bevstack.codec import picture
from bevstack.errors import BevstackError
from bevstack.frames.calibration import camera_from_info as camera_from_fields
from bevstack.frames.raw import image_to_rgb
from bevstack.frames.types import Frame
from bevstack.geometry import (
    BOX_EDGES,
    DETECTION_CLASSES,
    Boxes3D,
    Camera,
    Matrix,
    pose,
    quaternion_from_rotation,
    rotation_from_quaternion,
    yaw_of,
)
from bevstack.geometry.palette import class_name, class_rgb

from .interfaces import (
    BuiltinDuration,
    BuiltinTime,
    CameraInfo,
    ColorRGBA,
    CompressedImage,
    Detection3D,
    Detection3DArray,
    Header,
    Image,
    Marker,
    MarkerArray,
    Message,
    ObjectHypothesisWithPose,
    Odometry,
    Point,
    TransformStamped,
)

MarkerStyle = Literal["cube", "lines"]

_NS = 1_000_000_000
_FORMATS = {b"\x89PNG": "png", picture.MAGIC: picture.FORMAT}


class ImageMessageError(BevstackError):
    """An image message does not fit its calibration, or an image cannot be encoded."""


# --- stamps -----------------------------------------------------------------------------------------------------------------


def stamp_to_ns(stamp: Message) -> int:
    """builtin_interfaces/Time to nanoseconds."""
    return int(stamp.sec) * _NS + int(stamp.nanosec)


def ns_to_stamp(nanoseconds: int) -> Message:
    """Nanoseconds to builtin_interfaces/Time."""
    sec, nanosec = divmod(int(nanoseconds), _NS)
    return BuiltinTime(sec=sec, nanosec=nanosec)


def ns_to_duration(nanoseconds: int) -> Message:
    """Nanoseconds to builtin_interfaces/Duration."""
    sec, nanosec = divmod(int(nanoseconds), _NS)
    return BuiltinDuration(sec=sec, nanosec=nanosec)


def header(stamp: int, frame_id: str) -> Message:
    """std_msgs/Header from nanoseconds and a frame name."""
    return Header(stamp=ns_to_stamp(stamp), frame_id=frame_id)


# --- poses ------------------------------------------------------------------------------------------------------------------


def pose_from_transform(transform: Message) -> Matrix:
    """geometry_msgs/Transform to (4, 4): ``T_parent_child``.

    Raises:
        ValueError: if the quaternion has no direction.
    """
    t, q = transform.translation, transform.rotation
    return pose(rotation_from_quaternion((q.x, q.y, q.z, q.w)), (t.x, t.y, t.z))


def transform_from_pose(T_parent_child: ArrayLike, stamp: int, parent: str, child: str) -> Message:
    """(4, 4) ``T_parent_child`` to geometry_msgs/TransformStamped."""
    T = np.asarray(T_parent_child, dtype=np.float64)
    message = TransformStamped(header=header(stamp, parent), child_frame_id=child)
    translation, rotation = message.transform.translation, message.transform.rotation
    translation.x, translation.y, translation.z = (float(v) for v in T[:3, 3])
    rotation.x, rotation.y, rotation.z, rotation.w = (float(v) for v in quaternion_from_rotation(T))
    return message


def pose_from_message(message: Message) -> Matrix:
    """geometry_msgs/Pose to (4, 4). Raises ValueError if the quaternion has no direction."""
    p, q = message.position, message.orientation
    return pose(rotation_from_quaternion((q.x, q.y, q.z, q.w)), (p.x, p.y, p.z))


def fill_pose(message: Message, T: ArrayLike) -> None:
    """Write (4, 4) into a geometry_msgs/Pose."""
    T = np.asarray(T, dtype=np.float64)
    p, q = message.position, message.orientation
    p.x, p.y, p.z = (float(v) for v in T[:3, 3])
    q.x, q.y, q.z, q.w = (float(v) for v in quaternion_from_rotation(T))


def pose_from_odometry(message: Message) -> tuple[int, Matrix]:
    """nav_msgs/Odometry to (stamp in nanoseconds, (4, 4) pose of ``child_frame_id`` in ``header.frame_id``)."""
    return stamp_to_ns(message.header.stamp), pose_from_message(message.pose.pose)


def odometry_from_pose(
    T_odom_base: ArrayLike,
    stamp: int,
    odom_frame: str = "odom",
    base_frame: str = "base_link",
    velocity: ArrayLike | None = None,
) -> Message:
    """(4, 4) pose, and (vx, vy, yaw rate) in the base frame where known, to nav_msgs/Odometry."""
    message = Odometry(header=header(stamp, odom_frame), child_frame_id=base_frame)
    fill_pose(message.pose.pose, T_odom_base)
    if velocity is not None:
        vx, vy, turn = (float(v) for v in np.asarray(velocity).reshape(3))
        message.twist.twist.linear.x, message.twist.twist.linear.y, message.twist.twist.angular.z = vx, vy, turn
    return message


# --- cameras ----------------------------------------------------------------------------------------------------------------


def camera_from_info(message: Message, name: str, T_ego_camera: ArrayLike, *, rectified: bool = False) -> Camera:
    """sensor_msgs/CameraInfo and the optical frame's pose to the calibration of the image that is sent with it.

    Args:
        message: calibration of the full sensor; region of interest and binning are applied, as they are to the image.
        name: the camera's name in the rig.
        T_ego_camera: (4, 4) pose of ``message.header.frame_id`` in the ego frame.
        rectified: the image is ``image_rect``: take ``p`` and no distortion instead of ``k`` and ``d``.

    Raises:
        CalibrationError: an uncalibrated camera, an unknown distortion model.
    """
    roi = message.roi
    return camera_from_fields(
        name,
        int(message.width),
        int(message.height),
        message.distortion_model,
        np.asarray(message.d, dtype=np.float64),
        np.asarray(message.k, dtype=np.float64),
        np.asarray(message.p, dtype=np.float64),
        np.asarray(T_ego_camera, dtype=np.float64),
        rectified=rectified,
        binning=(int(message.binning_x), int(message.binning_y)),
        roi=(int(roi.x_offset), int(roi.y_offset), int(roi.width), int(roi.height)),
    )


def info_from_camera(camera: Camera, stamp: int, frame_id: str) -> Message:
    """Calibration to sensor_msgs/CameraInfo (rectification: identity; projection: K)."""
    message = CameraInfo(header=header(stamp, frame_id), width=int(camera.width), height=int(camera.height))
    if camera.model == "fisheye":
        message.distortion_model = "equidistant"
    else:
        message.distortion_model = "rational_polynomial" if camera.distortion.size > 5 else "plumb_bob"
    distortion = camera.distortion
    if camera.model == "pinhole" and distortion.size < 5:
        distortion = np.concatenate([distortion, np.zeros(5 - distortion.size)])
    message.d = distortion.tolist()  # a list: not every rosidl takes an array for a growing sequence
    message.k = camera.K.reshape(9).astype(np.float64)
    message.r = np.eye(3).reshape(9)
    message.p = np.hstack([camera.K, np.zeros((3, 1))]).reshape(12)
    return message


def same_calibration(first: Message, second: Message) -> bool:
    """True if two CameraInfo differ at most in their stamp."""
    fields = ("width", "height", "distortion_model", "binning_x", "binning_y")
    return (
        first.header.frame_id == second.header.frame_id
        and all(getattr(first, f) == getattr(second, f) for f in fields)
        and all(np.array_equal(np.asarray(getattr(first, f)), np.asarray(getattr(second, f))) for f in ("d", "k", "r", "p"))
        and all(getattr(first.roi, f) == getattr(second.roi, f) for f in ("x_offset", "y_offset", "width", "height"))
    )


# --- images -----------------------------------------------------------------------------------------------------------------


def image_bytes(message: Message) -> memoryview:
    """The pixels or compressed bytes of an image message, not copied (numpy, array.array or bytes, by runtime)."""
    return memoryview(message.data).cast("B")


def rgb_from_image(message: Message) -> NDArray[np.uint8]:
    """sensor_msgs/Image to (H, W, 3) uint8 RGB. A view of the message where it is rgb8 without padding.

    Raises:
        DecodeError: unknown encoding, or fewer bytes than the header promises.
    """
    return image_to_rgb(
        image_bytes(message),
        int(message.width),
        int(message.height),
        int(message.step),
        message.encoding,
        bool(message.is_bigendian),
    )


def image_from_rgb(image: NDArray[np.uint8], stamp: int, frame_id: str) -> Message:
    """(H, W, 3) uint8 RGB to sensor_msgs/Image (rgb8)."""
    pixels = np.ascontiguousarray(image, dtype=np.uint8)
    height, width = pixels.shape[:2]
    message = Image(header=header(stamp, frame_id), height=height, width=width, encoding="rgb8", is_bigendian=0, step=3 * width)
    set_bytes(message, pixels.reshape(-1))
    return message


def compressed_from_bytes(encoded: bytes | memoryview, stamp: int, frame_id: str) -> Message:
    """JPEG, PNG or learned bytes to sensor_msgs/CompressedImage; ``format`` follows the first bytes."""
    kind = _FORMATS.get(bytes(encoded[:4]), "jpeg")
    message = CompressedImage(header=header(stamp, frame_id), format=kind)
    set_bytes(message, np.frombuffer(encoded, np.uint8))
    return message


def compressed_from_rgb(image: NDArray[np.uint8], stamp: int, frame_id: str, quality: int = 85) -> Message:
    """(H, W, 3) uint8 RGB to sensor_msgs/CompressedImage (JPEG)."""
    return compressed_from_bytes(encode_jpeg(image, quality), stamp, frame_id)


def encode_jpeg(image: NDArray[np.uint8], quality: int = 85) -> bytes:
    """(H, W, 3) uint8 RGB to JPEG bytes.

    Raises:
        ImageMessageError: if OpenCV cannot encode the array.
    """
    done, encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    if not done:
        raise ImageMessageError(f"cannot encode an image of shape {image.shape} as JPEG")
    return encoded.tobytes()


def set_bytes(message: Message, data: NDArray[np.uint8]) -> None:
    """Assign uint8 data to ``message.data`` in the form that the runtime takes without looking at each element."""
    from bevstack.ros.runtime import RUNTIME

    if RUNTIME == "rclpy":
        from array import array

        buffer = array("B")
        buffer.frombytes(data.tobytes())
        message.data = buffer
    else:
        message.data = data


def frame_from_compressed(
    message: Message, camera: Camera, T_world_ego: Matrix | None = None, *, rectified: bool = False
) -> Frame:
    """sensor_msgs/CompressedImage to a Frame that holds the message's bytes by reference."""
    return Frame(
        camera, stamp_to_ns(message.header.stamp), encoded=image_bytes(message), T_world_ego=T_world_ego, rectified=rectified
    )


def frame_from_image(message: Message, camera: Camera, T_world_ego: Matrix | None = None, *, rectified: bool = False) -> Frame:
    """sensor_msgs/Image to a Frame. Raises DecodeError as ``rgb_from_image`` does."""
    image = rgb_from_image(message)
    return Frame(camera, stamp_to_ns(message.header.stamp), image=image, T_world_ego=T_world_ego, rectified=rectified)


# --- boxes ------------------------------------------------------------------------------------------------------------------


def detections_from_boxes(boxes: Boxes3D, stamp: int, frame_id: str, covariance: ArrayLike | None = None) -> Message:
    """Boxes of ``frame_id`` to vision_msgs/Detection3DArray.

    Size is x length, y width, z height; the centre is the geometric one; ``id`` is the track number ("" when unknown).
    The message has no field for a velocity: it is in the markers.

    Args:
        boxes: N boxes.
        stamp: exposure of the reference camera, nanoseconds.
        frame_id: frame of the boxes.
        covariance: (6, 6) of x, y, z, roll, pitch, yaw for every box; None: zeros, which means unknown.
    """
    head = header(stamp, frame_id)
    spread = np.zeros(36) if covariance is None else np.asarray(covariance, dtype=np.float64).reshape(36)
    detections = []
    for center, size, yaw, score, label, number in zip(boxes.center, boxes.size, boxes.yaw, boxes.score, boxes.label, boxes.id):
        hypothesis = ObjectHypothesisWithPose()
        hypothesis.hypothesis.class_id = class_name(int(label))
        hypothesis.hypothesis.score = float(score)
        hypothesis.pose.covariance = spread.copy()
        detection = Detection3D(header=head, results=[hypothesis], id="" if number < 0 else str(int(number)))
        for target in (hypothesis.pose.pose, detection.bbox.center):
            _fill_upright(target, center, float(yaw))
        extent = detection.bbox.size
        extent.x, extent.y, extent.z = (float(v) for v in size)
        detections.append(detection)
    return Detection3DArray(header=head, detections=detections)


def boxes_from_detections(message: Message, classes: Sequence[str] = DETECTION_CLASSES) -> Boxes3D:
    """vision_msgs/Detection3DArray to boxes (velocity zero). Of several hypotheses the best scored counts.

    Class names that are not in ``classes`` and detections without a hypothesis get label -1; an ``id`` that is no number -1.
    """
    rows = []
    for detection in message.detections:
        best = max(detection.results, key=lambda r: r.hypothesis.score, default=None)
        name = "" if best is None else best.hypothesis.class_id
        T = pose_from_message(detection.bbox.center)
        size = detection.bbox.size
        rows.append(
            (
                T[:3, 3],
                (size.x, size.y, size.z),
                yaw_of(T),
                1.0 if best is None else best.hypothesis.score,
                classes.index(name) if name in classes else -1,
                int(detection.id) if detection.id.lstrip("-").isdecimal() else -1,
            )
        )
    if not rows:
        return Boxes3D.empty()
    center, size_rows, yaw, score, label, number = (np.array(column) for column in zip(*rows))
    return Boxes3D(center, size_rows, yaw, np.zeros((len(rows), 2)), score, label, number)


def markers_from_boxes(
    boxes: Boxes3D,
    stamp: int,
    frame_id: str,
    *,
    lifetime_ns: int = 1_000_000_000,
    style: MarkerStyle = "cube",
    text: bool = True,
    arrow_seconds: float = 1.0,
    min_speed: float = 0.5,
    prefix: str = "",
) -> Message:
    """Boxes to visualization_msgs/MarkerArray for rviz and Foxglove.

    The first marker deletes all earlier ones. Then per box: namespace = class, id = track number (or its position in the array
    when unknown), a CUBE or the twelve edges; a label in ``<class>/text``; an arrow over ground in ``<class>/velocity``.

    Args:
        boxes: N boxes in ``frame_id``.
        stamp: nanoseconds.
        frame_id: frame of the boxes.
        lifetime_ns: how long a viewer shows them if nothing newer comes; about two periods.
        style: solid cubes or edges.
        text: write class, score and track.
        arrow_seconds: length of the velocity arrow = speed times this.
        min_speed: m/s; slower boxes get no arrow.
        prefix: put in front of the namespaces (to tell truth from detections).
    """
    head = header(stamp, frame_id)
    lifetime = ns_to_duration(lifetime_ns)
    markers = [Marker(header=head, action=Marker.DELETEALL)]
    corners = boxes.corners()
    for n in range(len(boxes)):
        label, number = int(boxes.label[n]), int(boxes.id[n])
        namespace, identity = prefix + class_name(label), number if number >= 0 else n
        red, green, blue = (v / 255.0 for v in class_rgb(label))

        def marker(
            kind: int, ns: str, alpha: float, identity: int = identity, rgb: tuple[float, ...] = (red, green, blue)
        ) -> Message:
            made = Marker(header=head, ns=ns, id=identity, type=kind, action=Marker.ADD, lifetime=lifetime)
            made.color = ColorRGBA(r=rgb[0], g=rgb[1], b=rgb[2], a=alpha)
            made.pose.orientation.w = 1.0
            return made

        if style == "cube":
            box = marker(Marker.CUBE, namespace, 0.6)
            _fill_upright(box.pose, boxes.center[n], float(boxes.yaw[n]))
            box.scale.x, box.scale.y, box.scale.z = (float(v) for v in np.maximum(boxes.size[n], 0.01))
        else:
            box = marker(Marker.LINE_LIST, namespace, 1.0)
            box.scale.x = 0.06
            box.points = [_point(corners[n, corner]) for edge in BOX_EDGES for corner in edge]
        markers.append(box)
        if text:
            words = marker(Marker.TEXT_VIEW_FACING, f"{namespace}/text", 1.0)
            track = f" #{number}" if number >= 0 else ""
            words.text = f"{class_name(label)}{track} {boxes.score[n]:.2f}"
            words.scale.z = 0.8
            top = boxes.center[n] + (0.0, 0.0, boxes.size[n, 2] / 2 + 0.6)
            words.pose.position.x, words.pose.position.y, words.pose.position.z = (float(v) for v in top)
            markers.append(words)
        if np.hypot(*boxes.velocity[n]) >= min_speed:
            arrow = marker(Marker.ARROW, f"{namespace}/velocity", 1.0)
            arrow.scale.x, arrow.scale.y, arrow.scale.z = 0.15, 0.35, 0.4  # shaft, head diameter, head length
            tip = boxes.center[n] + (*(boxes.velocity[n] * arrow_seconds), 0.0)
            arrow.points = [_point(boxes.center[n]), _point(tip)]
            markers.append(arrow)
    return MarkerArray(markers=markers)


def with_image(frame: Frame, image: NDArray[np.uint8]) -> Frame:
    """The frame with its decoded image in place of its bytes."""
    return replace(frame, image=image, encoded=None)


def _point(xyz: ArrayLike) -> Message:
    x, y, z = (float(v) for v in np.asarray(xyz))
    return Point(x=x, y=y, z=z)


def _fill_upright(message: Message, center: ArrayLike, yaw: float) -> None:
    """Position and heading into a geometry_msgs/Pose; roll and pitch are zero."""
    x, y, z = (float(v) for v in np.asarray(center))
    message.position.x, message.position.y, message.position.z = x, y, z
    o = message.orientation
    o.x, o.y, o.z, o.w = 0.0, 0.0, float(np.sin(yaw / 2)), float(np.cos(yaw / 2))
