"""Messages to CDR bytes and back (XCDR1, little endian, with the 4-byte encapsulation head), as `rclpy.serialization`."""

from __future__ import annotations

import struct
from functools import cache
from typing import Any

import numpy as np
from rosbags.interfaces import Nodetype
from rosbags.serde import SerdeError
from rosbags.serde.cdr import generate_getsize_cdr, generate_serialize_cdr

from bevstack.errors import BevstackError
from bevstack.ros.runtime.messages import Message, MessageFieldError, message_class, type_name, validate
from bevstack.ros.runtime.typestore import EMPTY_MEMBER, FieldDesc, numeric_array, storage_name, typestore

_HEAD = b"\x00\x01\x00\x00"
#: From this size on, the last byte field of a message is sent as a buffer of its own instead of being copied.
_SCATTER_BYTES = 32768


class SerializationError(BevstackError, ValueError):
    """Bytes that are no message of the type they were said to be."""


@cache
def _has_bounds(name: str) -> bool:
    """Whether a type has bounded strings or sequences of messages: only then is every message checked before it is written."""

    def bounded(desc: FieldDesc) -> bool:
        kind, argument = desc
        if kind == Nodetype.BASE:
            return bool(argument[0] == "string" and argument[1])
        if kind == Nodetype.NAME:
            return _has_bounds(argument)
        inner, count = argument
        return bounded(inner) or bool(kind == Nodetype.SEQUENCE and count and not numeric_array(desc))

    return any(bounded(desc) for _, desc in typestore().fielddefs[name][1])


def _explain(message: Message, error: Exception) -> MessageFieldError:
    try:
        validate(message)
    except MessageFieldError as found:
        return found
    return MessageFieldError(f"{message.__msgtype__} cannot be serialised: {error}")


def _own(message: Any) -> Message:
    """The message, or a copy in our own class if it is one of real rosidl's."""
    if isinstance(message, Message):
        return message
    name = type_name(message)
    own: Message = message_class(name)()
    for field, desc in own._descriptions.items():
        setattr(own, field, _own_value(getattr(message, field), desc))
    return own


def _own_value(value: Any, desc: FieldDesc) -> Any:
    kind, argument = desc
    if kind == Nodetype.NAME:
        return _own(value)
    if kind in (Nodetype.ARRAY, Nodetype.SEQUENCE) and argument[0][0] == Nodetype.NAME:
        return [_own(item) for item in value]
    return value


_FAILURES = (struct.error, SerdeError, AttributeError, TypeError, ValueError, IndexError, OverflowError, AssertionError)


def serialize_to_view(message: Any) -> memoryview:
    """The serialised message in a fresh buffer, without the copy that `bytes` costs.

    :raises MessageFieldError: a field holds what its type cannot. :raises UnknownTypeError: not a message.
    """
    own = _own(message)
    if _has_bounds(own.__msgtype__):
        validate(own)
    try:
        return typestore().serialize_cdr(own, own.__msgtype__, little_endian=True)
    except _FAILURES as error:
        raise _explain(own, error) from error


def serialize_message(message: Any) -> bytes:
    """:raises MessageFieldError: a field holds what its type cannot. :raises UnknownTypeError: not a message."""
    return bytes(serialize_to_view(message))


@cache
def _prefix_writer(name: str) -> tuple[Any, Any, str] | None:
    """Size and write functions for all fields but the last, and that last field's slot, if it is a growing array of bytes."""
    fields = typestore().fielddefs[name][1]
    last, desc = fields[-1]
    numbers = numeric_array(desc)
    if len(fields) < 2 or not numbers or numbers[0] != "uint8" or numbers[1] is not None or last == EMPTY_MEMBER:
        return None
    entries = [(storage_name(field, d), d) for field, d in fields[:-1]]
    if any(d == (Nodetype.BASE, ("byte", 0)) for _, d in entries):
        return None
    store = typestore()
    return generate_getsize_cdr(entries, store)[0], generate_serialize_cdr(entries, store, "le"), storage_name(last, desc)


def serialize_to_buffers(message: Any) -> list[memoryview]:
    """The serialised message as one or more buffers whose concatenation it is.

    An image is sent as its head and its own pixel array, so that no copy is made here.

    :raises MessageFieldError: a field holds what its type cannot. :raises UnknownTypeError: not a message.
    """
    if isinstance(message, Message):
        writer = _prefix_writer(message.__msgtype__)
        data = getattr(message, writer[2], None) if writer else None
        if writer and isinstance(data, np.ndarray) and data.size >= _SCATTER_BYTES:
            getsize, write, _ = writer
            store = typestore()
            try:
                start = (getsize(0, message, store) + 3) & -4
                head = memoryview(bytearray(4 + start + 4))
                head[:4] = _HEAD
                write(head[4:], 0, message, store)
                struct.pack_into("<I", head, 4 + start, data.size)
            except _FAILURES as error:
                raise _explain(message, error) from error
            return [head.toreadonly(), memoryview(data.data).cast("B")]
    return [serialize_to_view(message)]


def deserialize_message(raw: bytes | bytearray | memoryview, message_type: Any) -> Any:
    """The message in `raw`. Growing numeric arrays are read-only views of `raw`, which they keep alive.

    :param message_type: a message class or a name such as "sensor_msgs/msg/Image".
    :raises SerializationError: `raw` is no such message. :raises UnknownTypeError: no such type.
    """
    name = message_type if isinstance(message_type, str) else type_name(message_type)
    store = typestore()
    store.get_msgdef(name)
    view = memoryview(raw).cast("B") if not isinstance(raw, bytes) else memoryview(raw)
    try:
        return store.deserialize_cdr(view.toreadonly(), name)
    except (SerdeError, struct.error, ValueError, IndexError, AssertionError) as error:
        raise SerializationError(f"{len(view)} bytes are no {name}: {error}") from error
