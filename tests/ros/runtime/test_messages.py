"""Message classes: rosidl's behaviour, conversions on assignment, and errors that name the field."""

from __future__ import annotations

import array
import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bevstack.ros.runtime.messages import MessageFieldError, install_finder, message_class, type_name, validate
from bevstack.ros.runtime.typestore import UnknownTypeError, typestore

Image = message_class("sensor_msgs/msg/Image")
CameraInfo = message_class("sensor_msgs/msg/CameraInfo")
DiagnosticStatus = message_class("diagnostic_msgs/msg/DiagnosticStatus")
Marker = message_class("visualization_msgs/msg/Marker")


def test_default_values() -> None:
    image = Image()
    assert (image.height, image.encoding, image.header.frame_id, image.header.stamp.nanosec) == (0, "", "", 0)
    assert image.data.dtype == np.uint8
    assert image.data.size == 0
    assert message_class("geometry_msgs/msg/Pose")().orientation.w == 1.0
    assert message_class("type_description_interfaces/srv/GetTypeDescription").Request().include_type_sources is True


def test_defaults_are_not_shared() -> None:
    first, second = Marker(), Marker()
    first.points.append(message_class("geometry_msgs/msg/Point")())
    first.pose.position.x = 1.0
    assert second == Marker()


def test_keywords_only() -> None:
    with pytest.raises(TypeError):
        Image(1)
    with pytest.raises(AssertionError, match="wdith"):
        Image(wdith=1)
    with pytest.raises(AttributeError):
        Image().wdith = 1


def test_constants_and_octets() -> None:
    assert DiagnosticStatus.OK == b"\x00"
    assert DiagnosticStatus.STALE == b"\x03"
    assert Marker.CUBE == 1
    status = DiagnosticStatus(level=DiagnosticStatus.ERROR)
    assert status.level == b"\x02"
    for wrong in (2, b"", b"ab", "x"):
        with pytest.raises(MessageFieldError, match="level must be bytes of length 1"):
            status.level = wrong


def test_octet_arrays_are_lists_of_bytes() -> None:
    value = message_class("rcl_interfaces/msg/ParameterValue")(byte_array_value=[b"\x01", b"\xff"])
    assert value.byte_array_value == [b"\x01", b"\xff"]
    value.byte_array_value = b"ab"
    assert value.byte_array_value == [b"a", b"b"]
    with pytest.raises(MessageFieldError, match="list of bytes of length 1"):
        value.byte_array_value = [1]


def test_field_types_are_named_as_rosidl_does() -> None:
    assert CameraInfo.get_fields_and_field_types()["k"] == "double[9]"
    assert CameraInfo.get_fields_and_field_types()["d"] == "sequence<double>"
    assert Image.get_fields_and_field_types()["header"] == "std_msgs/Header"
    descriptor = message_class("rcl_interfaces/msg/ParameterDescriptor").get_fields_and_field_types()
    assert descriptor["floating_point_range"] == "sequence<rcl_interfaces/FloatingPointRange, 1>"
    assert descriptor["read_only"] == "boolean"
    assert DiagnosticStatus.get_fields_and_field_types()["level"] == "octet"
    assert message_class("std_msgs/msg/Empty").get_fields_and_field_types() == {}


@pytest.mark.parametrize("value", [b"\x01\x02", bytearray(b"\x01\x02"), memoryview(b"\x01\x02"), [1, 2], (1, 2), range(1, 3)])
def test_bytes_are_accepted_in_every_form(value: object) -> None:
    image = Image(data=value)
    assert image.data.dtype == np.uint8
    assert image.data.tolist() == [1, 2]


def test_arrays_are_taken_without_a_copy() -> None:
    pixels = np.zeros((4, 6, 3), np.uint8)
    assert np.shares_memory(Image(data=pixels).data, pixels)
    raw = bytearray(8)
    image = Image(data=raw)
    raw[0] = 7
    assert image.data[0] == 7
    assert Image(data=array.array("B", [1, 2])).data.tolist() == [1, 2]
    assert CameraInfo(d=array.array("d", [0.5])).d.tolist() == [0.5]


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("d", "text", "sequence of float64"),
        ("d", ["a"], "sequence of float64"),
        ("d", 3.0, "sequence of float64"),
        ("d", [[1.0], [1.0, 2.0]], "flat sequence"),
        ("d", b"12345678", "sequence of float64"),
        ("k", [1.0], "9 values, got 1"),
    ],
)
def test_wrong_arrays_are_refused_at_once(field: str, value: object, words: str) -> None:
    with pytest.raises(MessageFieldError, match=words):
        CameraInfo(**{field: value})


@pytest.mark.parametrize("value", [[1, 300], [-1], [1.5], np.array([256])])
def test_values_out_of_range_are_refused(value: object) -> None:
    with pytest.raises(MessageFieldError, match=r"Image\.data"):
        Image(data=value)
    with pytest.raises(MessageFieldError, match="too large for float32"):
        message_class("sensor_msgs/msg/LaserScan")(ranges=[1e39])


def test_validation_names_the_nested_field() -> None:
    detections = message_class("diagnostic_msgs/msg/DiagnosticArray")(status=[DiagnosticStatus(), DiagnosticStatus(name=3)])
    with pytest.raises(MessageFieldError, match=r"DiagnosticArray\.status\[1\]\.name must be a str, got 3"):
        validate(detections)
    with pytest.raises(MessageFieldError, match=r"Image\.height takes 0 to 4294967295, got -1"):
        Image(height=-1, check_fields=True)


def test_equality_repr_copy_and_pickle() -> None:
    install_finder()
    info = CameraInfo(height=2, k=np.arange(9.0))
    assert info == copy.deepcopy(info)
    assert info == pickle.loads(pickle.dumps(info))
    assert info != CameraInfo(height=2)
    assert info != "CameraInfo"
    assert repr(message_class("geometry_msgs/msg/Point")(x=1.5)) == "geometry_msgs.msg.Point(x=1.5, y=0.0, z=0.0)"
    assert "4000 values" in repr(Image(data=bytes(4000)))
    with pytest.raises(TypeError):
        hash(info)


def test_services() -> None:
    service = message_class("rcl_interfaces/srv/GetParameters")
    assert service.Request(names=["a"]).names == ["a"]
    assert type_name(service.Response) == "rcl_interfaces/srv/GetParameters_Response"
    assert type_name(service) == "rcl_interfaces/srv/GetParameters"
    with pytest.raises(NotImplementedError):
        service()


def test_unknown_types_say_what_there_is() -> None:
    with pytest.raises(UnknownTypeError, match="std_msgs has"):
        message_class("std_msgs/msg/Nothing")
    with pytest.raises(UnknownTypeError, match="package/msg/Name"):
        message_class("Image")
    with pytest.raises(UnknownTypeError, match="not a ROS message"):
        type_name(int)
    assert message_class("std_msgs/String") is message_class("std_msgs/msg/String")


def test_type_name_of_a_rosidl_class() -> None:
    assert type_name(type("Image", (), {"__module__": "sensor_msgs.msg._image"})) == "sensor_msgs/msg/Image"


def test_imports_work_and_an_installed_package_wins(tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "std_msgs").mkdir()
    (tmp_path / "std_msgs" / "__init__.py").write_text("REAL = True\n")
    code = """
import sys
from bevstack.ros.runtime.messages import install_finder, message_class
install_finder(); install_finder()
assert sum(type(finder).__name__ == "_MessageFinder" for finder in sys.meta_path) == 1
from sensor_msgs.msg import Image, CameraInfo
import sensor_msgs.msg, rcl_interfaces.srv
from vision_msgs.msg import Detection3DArray
from stack_msgs.msg import PipelineStatus
assert Image is message_class("sensor_msgs/msg/Image")
assert rcl_interfaces.srv.GetParameters.Request().names == []
assert "Image" in dir(sensor_msgs.msg)
import std_msgs
assert std_msgs.REAL
for module in ("std_msgs.msg", "nothing_msgs", "sensor_msgs.action"):
    try:
        __import__(module)
    except ImportError:
        continue
    raise SystemExit(module)
try:
    from sensor_msgs.msg import Nothing
except ImportError:
    print("fine")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout.strip() == "fine", done.stderr


@given(st.lists(st.integers(-(2**40), 2**40), max_size=5))
def test_integers_are_kept_or_refused_never_wrapped(values: list[int]) -> None:
    multi = message_class("std_msgs/msg/Int32MultiArray")
    if all(-(2**31) <= value < 2**31 for value in values):
        assert multi(data=values).data.tolist() == values
    else:
        with pytest.raises(MessageFieldError):
            multi(data=values)


def test_every_type_has_a_class() -> None:
    for name in typestore().fielddefs:
        cls = message_class(name)
        if hasattr(cls, "Request"):
            continue
        assert cls() == cls()
        validate(cls())


def test_humble_has_longer_gids() -> None:
    fields = dict(typestore("humble").fielddefs["rmw_dds_common/msg/Gid"][1])
    assert fields["data"][1][1] == 24
    assert dict(typestore("jazzy").fielddefs["rmw_dds_common/msg/Gid"][1])["data"][1][1] == 16
    with pytest.raises(UnknownTypeError, match="foxy"):
        typestore("foxy")
