"""Conversions between ROS messages and our types: round trips, and what a viewer would draw."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bevstack.errors import BevstackError, CalibrationError
from bevstack.geometry import DETECTION_CLASSES, Boxes3D, Camera, pose, rotation_rpy
from bevstack.ros import convert
from bevstack.ros.interfaces import CameraInfo, Detection3D, Detection3DArray, Image, Marker, ObjectHypothesisWithPose
from bevstack.ros.runtime import deserialize_message, serialize_message

number = st.floats(-100, 100, allow_nan=False)
positive = st.floats(0.05, 20)


@st.composite
def boxes(draw: st.DrawFn) -> Boxes3D:
    n = draw(st.integers(0, 6))

    def rows(strategy: st.SearchStrategy[float], columns: int) -> NDArray[np.float64]:
        return np.array(draw(st.lists(strategy, min_size=n * columns, max_size=n * columns))).reshape(n, columns)

    return Boxes3D(
        rows(number, 3),
        rows(positive, 3),
        rows(st.floats(-3.1, 3.1), 1).reshape(-1),
        rows(number, 2),
        rows(st.floats(0, 1), 1).reshape(-1),
        np.array(draw(st.lists(st.integers(0, 9), min_size=n, max_size=n)), np.int64),
        np.array(draw(st.lists(st.integers(-1, 10**6), min_size=n, max_size=n)), np.int64),
    )


@given(boxes())
@settings(max_examples=40, deadline=None)
def test_boxes_survive_the_wire(original: Boxes3D) -> None:
    sent = convert.detections_from_boxes(original, 1_700_000_000_123_456_789, "base_link")
    message = deserialize_message(serialize_message(sent), Detection3DArray)
    back = convert.boxes_from_detections(message)
    assert convert.stamp_to_ns(message.header.stamp) == 1_700_000_000_123_456_789
    for field in ("center", "size", "score"):
        np.testing.assert_allclose(getattr(back, field), getattr(original, field), atol=1e-9)
    np.testing.assert_allclose(np.exp(1j * back.yaw), np.exp(1j * original.yaw), atol=1e-9)
    assert back.label.tolist() == original.label.tolist()
    assert back.id.tolist() == original.id.tolist()


def test_detection_layout() -> None:
    """What other people's nodes rely on: class name as text, x length, y width, z height, centre in the middle."""
    box = Boxes3D([[10.0, 2.0, 0.8]], [[4.5, 1.9, 1.6]], [np.pi / 2], label=[7], score=[0.25], id=[12])
    message = convert.detections_from_boxes(box, 5, "base_link", np.diag([1.0, 4.0, 9.0, 0.0, 0.0, 0.5]))
    (found,) = message.detections
    assert message.header.frame_id == found.header.frame_id == "base_link"
    assert found.id == "12"
    assert (found.bbox.size.x, found.bbox.size.y, found.bbox.size.z) == (4.5, 1.9, 1.6)
    assert (found.bbox.center.position.x, found.bbox.center.position.z) == (10.0, 0.8)
    (hypothesis,) = found.results
    assert (hypothesis.hypothesis.class_id, hypothesis.hypothesis.score) == ("pedestrian", 0.25)
    covariance = np.asarray(hypothesis.pose.covariance).reshape(6, 6)
    assert np.diag(covariance).tolist() == [1, 4, 9, 0, 0, 0.5]
    assert hypothesis.pose.pose == found.bbox.center


def test_foreign_detections() -> None:
    """Several hypotheses, unknown classes, ids that are no numbers."""
    strange = Detection3D(id="front/7")
    for name, score in (("car", 0.2), ("tram", 0.7)):
        hypothesis = ObjectHypothesisWithPose()
        hypothesis.hypothesis.class_id, hypothesis.hypothesis.score = name, score
        strange.results.append(hypothesis)
    read = convert.boxes_from_detections(Detection3DArray(detections=[strange, Detection3D(id="4")]))
    assert read.label.tolist() == [-1, -1]
    assert read.score.tolist() == [0.7, 1.0]
    assert read.id.tolist() == [-1, 4]


def test_markers() -> None:
    seen = Boxes3D(
        [[10.0, 2.0, 0.8], [5.0, 0.0, 0.5]],
        [[4.5, 1.9, 1.6], [0.4, 0.4, 0.9]],
        [0.3, 0.0],
        [[3.0, 4.0], [0.0, 0.0]],
        [0.9, 0.5],
        [0, 8],
        [3, -1],
    )
    markers = convert.markers_from_boxes(seen, 9, "base_link", lifetime_ns=1_500_000_000).markers
    assert markers[0].action == Marker.DELETEALL
    cube = markers[1]
    assert (cube.ns, cube.id, cube.type, cube.scale.x, cube.scale.z) == ("car", 3, Marker.CUBE, 4.5, 1.6)
    assert (cube.lifetime.sec, cube.lifetime.nanosec) == (1, 500_000_000)
    label, arrow = markers[2], markers[3]
    assert label.type == Marker.TEXT_VIEW_FACING
    assert label.text == "car #3 0.90"
    assert label.pose.position.z > 0.8 + 0.8
    assert (arrow.type, arrow.ns) == (Marker.ARROW, "car/velocity")
    assert (arrow.points[1].x, arrow.points[1].y) == (13.0, 6.0)
    assert [m.ns for m in markers[4:]] == ["traffic_cone", "traffic_cone/text"], "a box that stands has no arrow"
    assert len({(m.ns, m.id) for m in markers[1:]}) == len(markers) - 1
    assert all(m.color.a > 0 for m in markers[1:])


def test_line_markers_are_the_boxes_edges() -> None:
    seen = Boxes3D([[10.0, 2.0, 0.8]], [[4.0, 2.0, 1.0]], [0.7])
    lines = convert.markers_from_boxes(seen, 0, "base_link", style="lines", text=False).markers[1]
    points = np.array([(p.x, p.y, p.z) for p in lines.points])
    assert lines.type == Marker.LINE_LIST
    assert len(points) == 24
    lengths = np.linalg.norm(points[0::2] - points[1::2], axis=1)
    assert sorted(np.round(lengths, 6)) == [1.0] * 4 + [2.0] * 4 + [4.0] * 4


def a_camera(distortion: list[float], model: str = "pinhole") -> Camera:
    K = [[800.0, 0.0, 790.0], [0.0, 805.0, 445.0], [0.0, 0.0, 1.0]]
    T = pose(rotation_rpy(-1.5, 0.02, -1.6), (1.7, 0.1, 1.5))
    return Camera("cam_front", 1600, 900, np.array(K), T, np.array(distortion), model)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("camera", "name"),
    [
        (a_camera([]), "plumb_bob"),
        (a_camera([0.1, -0.02, 0.001, 0.002]), "plumb_bob"),
        (a_camera([0.1, -0.02, 0.001, 0.002, 0.3, 0.1, 0.2, 0.05]), "rational_polynomial"),
        (a_camera([0.01, 0.02, -0.01, 0.003], "fisheye"), "equidistant"),
    ],
)
def test_camera_info_round_trip(camera: Camera, name: str) -> None:
    sent = convert.info_from_camera(camera, 7, "cam_front_optical_frame")
    info = deserialize_message(serialize_message(sent), CameraInfo)
    assert info.distortion_model == name
    back = convert.camera_from_info(info, "cam_front", camera.T_ego_camera)
    points = np.array([[10.0, 1.0, 0.5], [20.0, -6.0, 2.0], [5.0, 2.0, 0.0]])
    np.testing.assert_allclose(back.project(points)[0], camera.project(points)[0], atol=1e-9)
    assert (back.width, back.height, back.model) == (1600, 900, camera.model)
    assert convert.same_calibration(sent, info)
    info.header.stamp = convert.ns_to_stamp(99)
    assert convert.same_calibration(sent, info), "the stamp is no part of a calibration"
    info.k[0] += 1
    assert not convert.same_calibration(sent, info)


def test_binning_and_region_of_interest_move_the_pixels() -> None:
    camera = a_camera([])
    info = convert.info_from_camera(camera, 0, "f")
    info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = 100, 50, 1200, 800
    info.binning_x = info.binning_y = 2
    small = convert.camera_from_info(info, "cam_front", camera.T_ego_camera)
    assert (small.width, small.height) == (600, 400)
    point = np.array([[10.0, 1.0, 0.5]])
    np.testing.assert_allclose(small.project(point)[0], (camera.project(point)[0] - (100, 50)) / 2)


def test_rectified_images_use_the_projection_matrix() -> None:
    info = convert.info_from_camera(a_camera([0.1, 0.0, 0.0, 0.0]), 0, "f")
    info.p = np.array([700.0, 0, 800, 0, 0, 700, 450, 0, 0, 0, 1, 0])
    camera = convert.camera_from_info(info, "cam_front", np.eye(4), rectified=True)
    assert camera.K[0, 0] == 700.0
    assert not camera.distorted


@pytest.mark.parametrize(("field", "value"), [("distortion_model", "magic"), ("k", np.zeros(9))])
def test_impossible_calibration_names_the_camera(field: str, value: object) -> None:
    info = convert.info_from_camera(a_camera([]), 0, "f")
    setattr(info, field, value)
    with pytest.raises(CalibrationError, match="cam_front"):
        convert.camera_from_info(info, "cam_front", np.eye(4))


def test_transforms_and_odometry() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        T = pose(rotation_rpy(*rng.uniform(-3, 3, 3)), rng.uniform(-50, 50, 3))
        message = convert.transform_from_pose(T, 12, "odom", "base_link")
        assert (message.header.frame_id, message.child_frame_id) == ("odom", "base_link")
        np.testing.assert_allclose(convert.pose_from_transform(message.transform), T, atol=1e-12)
        stamp, back = convert.pose_from_odometry(convert.odometry_from_pose(T, 34, velocity=(1, 0, 0.1)))
        assert stamp == 34
        np.testing.assert_allclose(back, T, atol=1e-12)


def test_images_are_handed_over_by_reference() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8)
    message = convert.image_from_rgb(pixels, 5, "f")
    assert (message.encoding, message.step, message.height) == ("rgb8", 24, 6)
    seen = convert.rgb_from_image(message)
    np.testing.assert_array_equal(seen, pixels)
    camera = Camera("c", 8, 6, np.eye(3), np.eye(4))
    assert convert.frame_from_image(message, camera).stamp == 5


def test_padded_bgr_image() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (4, 5, 3), np.uint8)
    padded = np.zeros((4, 16), np.uint8)
    padded[:, :15] = pixels[..., ::-1].reshape(4, 15)
    message = Image(height=4, width=5, encoding="bgr8", step=16)
    convert.set_bytes(message, padded.reshape(-1))
    np.testing.assert_array_equal(convert.rgb_from_image(message), pixels)


@pytest.mark.parametrize(("encoding", "size"), [("rgb8", 10), ("colour", 300)])
def test_contradicting_images(encoding: str, size: int) -> None:
    message = Image(height=10, width=10, encoding=encoding, step=30)
    convert.set_bytes(message, np.zeros(size, np.uint8))
    with pytest.raises(BevstackError):
        convert.rgb_from_image(message)


def test_compressed_images() -> None:
    pixels = cv2.resize(np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8), (64, 48))
    message = convert.compressed_from_rgb(pixels, 3, "f", quality=95)
    assert message.format == "jpeg"
    frame = convert.frame_from_compressed(message, Camera("c", 64, 48, np.eye(3), np.eye(4)))
    assert frame.encoded is not None
    decoded = cv2.cvtColor(cv2.imdecode(np.frombuffer(frame.encoded, np.uint8), 1), cv2.COLOR_BGR2RGB)
    assert np.abs(decoded.astype(int) - pixels).mean() < 8
    assert convert.compressed_from_bytes(b"\x89PNG....", 0, "f").format == "png"


def test_every_class_has_its_own_colour() -> None:
    many = Boxes3D(np.zeros((10, 3)), np.ones((10, 3)), np.zeros(10), label=np.arange(10))
    cubes = convert.markers_from_boxes(many, 0, "f", text=False).markers[1:]
    assert [c.ns for c in cubes] == list(DETECTION_CLASSES)
    assert len({(c.color.r, c.color.g, c.color.b) for c in cubes}) == 10
