"""C descriptions of ROS types for Cyclone DDS, made from the type store. No XTypes information, on purpose.

A process with Cyclone DDS 0.10.5 crashes when a peer sends XTypes information for a topic that it describes too, so none may
leave this one: the description has no type information, no type mapping and no flag that announces them. Cyclone then checks
and swaps received CDR by the little program (`ops`) below, whose instructions are those of dds_opcodes.h.
"""

from __future__ import annotations

import ctypes as ct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from rosbags.interfaces import Nodetype

from bevstack.ros.runtime.dds.library import TopicDescriptor
from bevstack.ros.runtime.typestore import FieldDesc, RosTypestore, typestore

_RETURN, _ADDRESS = 0x00000000, 0x01000000
_STRING, _SEQUENCE, _ARRAY, _STRUCT, _BOUNDED_SEQUENCE, _EXTERNAL = 0x05, 0x07, 0x08, 0x0A, 0x0B, 0x0D
_FLOAT, _SIGNED = 0x02, 0x04

#: base type -> (type code, flags, size in C)
_BASE = {
    "bool": (0x0E, 0, 1),
    "byte": (0x01, 0, 1),
    "uint8": (0x01, 0, 1),
    "int8": (0x01, _SIGNED, 1),
    "uint16": (0x02, 0, 2),
    "int16": (0x02, _SIGNED, 2),
    "uint32": (0x03, 0, 4),
    "int32": (0x03, _SIGNED, 4),
    "float32": (0x03, _FLOAT, 4),
    "uint64": (0x04, 0, 8),
    "int64": (0x04, _SIGNED, 8),
    "float64": (0x04, _FLOAT, 8),
    # A bounded string is described as an unbounded one: bounds are checked where messages are read.
    "string": (_STRING, 0, 8),
}
#: dds_sequence_t: two 32-bit counts, a pointer, a flag
_SEQUENCE_SIZE, _SEQUENCE_ALIGN = 24, 8

#: In front of every request and response (rmw_cyclonedds): client id, sequence number.
SERVICE_HEADER: tuple[tuple[str, FieldDesc], ...] = (
    ("client_id", (Nodetype.BASE, ("uint64", 0))),
    ("sequence", (Nodetype.BASE, ("int64", 0))),
)


@dataclass(frozen=True)
class Program:
    """`ops` describe a C structure of `size` bytes."""

    ops: tuple[int, ...]
    size: int
    align: int


def _up(offset: int, align: int) -> int:
    return (offset + align - 1) & -align


class _Compiler:
    """Lays a structure out in C and writes its instructions; nested structures follow it, depth first."""

    def __init__(self, store: RosTypestore) -> None:
        self.store = store
        self.layouts: dict[str, tuple[int, int]] = {}

    def fields(self, name: str) -> Sequence[tuple[str, FieldDesc]]:
        fields: Sequence[tuple[str, FieldDesc]] = self.store.fielddefs[name][1]
        return fields

    def size_align(self, desc: FieldDesc) -> tuple[int, int]:
        kind, argument = desc
        if kind == Nodetype.BASE:
            size = _BASE[argument[0]][2]
            return size, size
        if kind == Nodetype.NAME:
            if argument not in self.layouts:
                self.layouts[argument] = self.layout(self.fields(argument))
            return self.layouts[argument]
        if kind == Nodetype.ARRAY:
            size, align = self.size_align(argument[0])
            return size * argument[1], align
        return _SEQUENCE_SIZE, _SEQUENCE_ALIGN

    def layout(self, fields: Sequence[tuple[str, FieldDesc]]) -> tuple[int, int]:
        offset, widest = 0, 1
        for _, desc in fields:
            size, align = self.size_align(desc)
            offset, widest = _up(offset, align) + size, max(widest, align)
        return _up(offset, widest), widest

    def compile(self, fields: Sequence[tuple[str, FieldDesc]]) -> list[int]:
        """Instructions of a structure, then of each structure it contains, once. All end in a return; jumps are relative."""
        ops: list[int] = []
        self._structure(ops, fields, {})
        return ops

    def _structure(self, ops: list[int], fields: Sequence[tuple[str, FieldDesc]], placed: dict[str, int]) -> None:
        nested: list[tuple[int, int, str]] = []  # (instruction, word of the jump, type)
        offset = 0
        for _, desc in fields:
            size, align = self.size_align(desc)
            offset = _up(offset, align)
            self._field(ops, nested, desc, offset)
            offset += size
        ops.append(_RETURN)
        for instruction, word, name in nested:
            if name not in placed:
                placed[name] = len(ops)
                self._structure(ops, self.fields(name), placed)
            ops[word] |= (placed[name] - instruction) & 0xFFFF

    def _field(self, ops: list[int], nested: list[tuple[int, int, str]], desc: FieldDesc, offset: int) -> None:
        kind, argument = desc
        start = len(ops)
        if kind == Nodetype.BASE:
            code, flags, _ = _BASE[argument[0]]
            ops += [_ADDRESS | code << 16 | flags, offset]
        elif kind == Nodetype.NAME:
            ops += [_ADDRESS | _EXTERNAL << 16, offset, 3 << 16]
            nested.append((start, start + 2, argument))
        else:
            inner, count = argument
            if kind == Nodetype.ARRAY:
                outer, counts = _ARRAY, [count]
            else:
                outer, counts = (_BOUNDED_SEQUENCE, [count]) if count else (_SEQUENCE, [])
            if inner[0] == Nodetype.BASE:
                code, flags, _ = _BASE[inner[1][0]]
                ops += [_ADDRESS | outer << 16 | code << 8 | flags, offset, *counts]
                return
            size = self.size_align(inner)[0]
            ops += [_ADDRESS | outer << 16 | _STRUCT << 8, offset, *counts]
            if kind == Nodetype.ARRAY:
                nested.append((start, len(ops), inner[1]))
                ops += [5 << 16, size]
            else:
                ops.append(size)
                nested.append((start, len(ops), inner[1]))
                ops.append((len(ops) - start + 1) << 16)


def compile_type(name: str, *, service: bool = False, store: RosTypestore | None = None) -> Program:
    """The instructions of a ROS type, behind the service header if asked for."""
    store = store or typestore()
    compiler = _Compiler(store)
    fields = [*(SERVICE_HEADER if service else ()), *compiler.fields(name)]
    size, align = compiler.layout(fields)
    return Program(tuple(compiler.compile(fields)), size, align)


def dds_type_name(name: str) -> str:
    """ "sensor_msgs/msg/Image" -> "sensor_msgs::msg::dds_::Image_"."""
    package, kind, short = name.split("/")
    return f"{package}::{kind}::dds_::{short}_"


def ros_type_name(name: str) -> str | None:
    """The reverse of `dds_type_name`; None if it is not a ROS type."""
    parts = name.split("::")
    if len(parts) != 4 or parts[2] != "dds_" or not parts[3].endswith("_"):
        return None
    return f"{parts[0]}/{parts[1]}/{parts[3][:-1]}"


@cache
def topic_descriptor(name: str, service: bool = False) -> TopicDescriptor:
    """The C structure for `dds_create_topic`, kept for the life of the process."""
    program = compile_type(name, service=service)
    words = (ct.c_uint32 * len(program.ops))(*program.ops)
    descriptor = TopicDescriptor(
        size=program.size,
        align=program.align,
        flags=0,  # in particular: no XTypes metadata
        key_count=0,
        type_name=dds_type_name(name).encode(),
        op_count=len(program.ops),
        ops=ct.cast(words, ct.c_void_p),
        meta=None,
        restrict_data_representation=0,
    )
    descriptor.keep_alive = words
    return descriptor
