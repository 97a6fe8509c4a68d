"""CDR against a real Jazzy's bytes, round trips, and bytes that are no message."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bevstack.ros.runtime.messages import Message, MessageFieldError, message_class
from bevstack.ros.runtime.serialization import (
    SerializationError,
    deserialize_message,
    serialize_message,
    serialize_to_buffers,
)
from bevstack.ros.runtime.typestore import typestore


def from_plain(name: str, fields: dict[str, Any]) -> Any:
    """A message from the golden files' JSON: `byte` stands there as a list of one integer."""
    message = message_class(name)()
    for field, value in fields.items():
        current, kind = getattr(message, field), type(message).get_fields_and_field_types()[field]
        if isinstance(current, Message):
            value = from_plain(current.__msgtype__, value)
        elif isinstance(current, bytes):
            value = bytes(value)
        elif kind.startswith("sequence<octet"):
            value = [bytes(item) for item in value]
        elif isinstance(current, list) and value and isinstance(value[0], dict):
            inner = kind.removeprefix("sequence<").split(",")[0].rstrip(">").split("[")[0]
            value = [from_plain(inner.replace("/", "/msg/"), item) for item in value]
        setattr(message, field, value)
    return message


def to_plain(value: Any) -> Any:
    if isinstance(value, Message):
        return {field: to_plain(getattr(value, field)) for field in value.get_fields_and_field_types()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, bytes):
        return list(value)
    return [to_plain(item) for item in value] if isinstance(value, list) else value


def golden(shared: Path) -> list[Path]:
    return sorted((shared / "golden/ros2/cdr").glob("*.json"))


def test_golden_fields_give_the_bytes_of_rclpy(shared: Path) -> None:
    cases = golden(shared)
    assert len(cases) == 60
    for case in cases:
        record = json.loads(case.read_text())
        assert serialize_message(from_plain(record["type"], record["fields"])) == case.with_suffix(".bin").read_bytes(), (
            case.name
        )


def test_golden_bytes_give_the_fields_of_rclpy(shared: Path) -> None:
    for case in golden(shared):
        record = json.loads(case.read_text())
        message = deserialize_message(case.with_suffix(".bin").read_bytes(), record["type"])
        assert to_plain(message) == record["fields"], case.name
        assert message == from_plain(record["type"], record["fields"])


def test_the_golden_comparison_can_fail(shared: Path) -> None:
    case = golden(shared)[0]
    raw = bytearray(case.with_suffix(".bin").read_bytes())
    raw[5] ^= 1
    record = json.loads(case.read_text())
    assert to_plain(deserialize_message(bytes(raw), record["type"])) != record["fields"]


def test_every_type_round_trips() -> None:
    for name in typestore().fielddefs:
        cls = message_class(name)
        if hasattr(cls, "Request"):
            continue
        assert deserialize_message(serialize_message(cls()), cls) == cls(), name


def test_an_empty_message_is_one_octet() -> None:
    assert serialize_message(message_class("std_msgs/msg/Empty")()) == b"\x00\x01\x00\x00\x00"


@pytest.mark.parametrize(
    "name", ["sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage", "foxglove_msgs/msg/CompressedVideo"]
)
@pytest.mark.parametrize("frame_id", ["", "a", "camera", "ab\u00e4"])
def test_large_payloads_are_sent_as_they_lie(name: str, frame_id: str) -> None:
    message = message_class(name)(data=np.arange(100_000, dtype=np.uint32).astype(np.uint8))
    if hasattr(message, "header"):
        message.header.frame_id = frame_id
    buffers = serialize_to_buffers(message)
    assert b"".join(buffers) == serialize_message(message)
    if name != "foxglove_msgs/msg/CompressedVideo":  # there the bytes are not the last field
        # CompressedImage and Image end with their bytes
        assert np.shares_memory(np.frombuffer(buffers[-1], np.uint8), message.data)


def test_received_pixels_are_a_view_and_small_arrays_are_writable() -> None:
    raw = serialize_message(message_class("sensor_msgs/msg/Image")(data=bytes(1000)))
    image = deserialize_message(memoryview(raw), "sensor_msgs/msg/Image")
    assert np.shares_memory(image.data, np.frombuffer(raw, np.uint8))
    assert not image.data.flags.writeable
    info = deserialize_message(serialize_message(message_class("sensor_msgs/msg/CameraInfo")()), "sensor_msgs/msg/CameraInfo")
    info.k[0] = 1.0
    assert info.k[0] == 1.0


def test_big_endian_is_read() -> None:
    message = message_class("geometry_msgs/msg/Point")(x=1.5)
    raw = typestore().serialize_cdr(message, "geometry_msgs/msg/Point", little_endian=False)
    assert deserialize_message(raw, "geometry_msgs/msg/Point") == message


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("sensor_msgs/msg/Image", {"height": -1}, r"Image\.height takes 0 to 4294967295, got -1"),
        ("sensor_msgs/msg/Image", {"height": 1.5}, r"Image\.height must be an int"),
        ("sensor_msgs/msg/Image", {"encoding": b"rgb8"}, r"Image\.encoding must be a str"),
        ("sensor_msgs/msg/Image", {"encoding": "\ud800"}, r"Image\.encoding cannot be written"),
        ("sensor_msgs/msg/Image", {"header": 1}, r"Image\.header must be a std_msgs/msg/Header"),
        ("tf2_msgs/msg/TFMessage", {"transforms": [3]}, r"TFMessage\.transforms\[0\]"),
        ("tf2_msgs/msg/TFMessage", {"transforms": 3}, r"TFMessage\.transforms must be a sequence"),
        ("std_msgs/msg/Float32", {"data": 1e39}, r"Float32\.data"),
        ("std_msgs/msg/Float64", {"data": "x"}, r"Float64\.data must be a float"),
    ],
)
def test_wrong_fields_are_named(name: str, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(MessageFieldError, match=words):
        serialize_message(message_class(name)(**fields))


def test_bounds_are_kept() -> None:
    floats = message_class("rcl_interfaces/msg/FloatingPointRange")
    descriptor = message_class("rcl_interfaces/msg/ParameterDescriptor")(floating_point_range=[floats(), floats()])
    with pytest.raises(MessageFieldError, match="at most 1 values, got 2"):
        serialize_message(descriptor)
    with pytest.raises(MessageFieldError, match="at most 255 bytes"):
        serialize_message(message_class("type_description_interfaces/msg/FieldType")(nested_type_name="x" * 256))


def test_real_rosidl_messages_are_understood() -> None:
    stamp = type("Time", (), {"__module__": "builtin_interfaces.msg._time", "sec": 3, "nanosec": 4})
    header = type("Header", (), {"__module__": "std_msgs.msg._header", "stamp": stamp(), "frame_id": "map"})
    own = message_class("std_msgs/msg/Header")(frame_id="map")
    own.stamp.sec, own.stamp.nanosec = 3, 4
    assert serialize_message(header()) == serialize_message(own)


@settings(max_examples=300)
@given(
    st.binary(max_size=200), st.sampled_from(["sensor_msgs/msg/CameraInfo", "tf2_msgs/msg/TFMessage", "rcl_interfaces/msg/Log"])
)
def test_no_bytes_crash_the_parser(raw: bytes, name: str) -> None:
    for candidate in (raw, b"\x00\x01\x00\x00" + raw):
        with contextlib.suppress(SerializationError):
            deserialize_message(candidate, name)


@pytest.mark.parametrize("cut", [0, 3, 4, 7, 20, 60, -1])
def test_truncated_messages_are_refused(cut: int) -> None:
    raw = serialize_message(
        message_class("vision_msgs/msg/Detection3DArray")(detections=[message_class("vision_msgs/msg/Detection3D")()])
    )
    with pytest.raises(SerializationError):
        deserialize_message(raw[:cut], "vision_msgs/msg/Detection3DArray")


def test_a_length_that_lies_allocates_nothing() -> None:
    raw = bytearray(serialize_message(message_class("sensor_msgs/msg/Image")(data=b"abcd")))
    raw[-8:-4] = b"\xff\xff\xff\xff"
    with pytest.raises(SerializationError):
        deserialize_message(bytes(raw), "sensor_msgs/msg/Image")
