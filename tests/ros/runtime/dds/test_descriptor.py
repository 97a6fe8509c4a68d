"""C descriptions of types: equal to those that the library makes itself, and nothing of XTypes in them."""

from __future__ import annotations

import ctypes as ct

import pytest

from bevstack.ros.runtime.dds.descriptor import compile_type, dds_type_name, ros_type_name, topic_descriptor
from bevstack.ros.runtime.typestore import typestore


def test_nothing_of_xtypes_is_described() -> None:
    for name in typestore().fielddefs:
        if "/srv/" in name and not name.endswith(("_Request", "_Response")):
            continue
        descriptor = topic_descriptor(name)
        assert descriptor.flags == 0
        for blob in (descriptor.type_information, descriptor.type_mapping):
            assert blob.data is None
            assert blob.size == 0


def test_a_known_type_word_by_word() -> None:
    program = compile_type("std_msgs/msg/Header")
    assert program.ops == (0x010D0000, 0, 0x00030006, 0x01050000, 8, 0, 0x01030004, 0, 0x01030000, 4, 0)
    assert (program.size, program.align) == (16, 8)


def test_requests_start_with_client_and_sequence() -> None:
    plain, wrapped = compile_type("std_srvs/srv/SetBool_Request"), compile_type("std_srvs/srv/SetBool_Request", service=True)
    assert plain.ops == (0x010E0000, 0, 0)
    assert wrapped.ops == (0x01040000, 0, 0x01040004, 8, 0x010E0000, 16, 0)
    assert wrapped.size == 24


@pytest.mark.wire
def test_descriptions_equal_those_of_the_library() -> None:
    """The library makes a description from its own Python type; the two must agree in every instruction and in the layout."""
    pytest.importorskip("cyclonedds", reason="needs the cyclonedds wheel")
    from cyclonedds.domain import DomainParticipant
    from cyclonedds.idl import IdlStruct, types
    from cyclonedds.topic import Topic
    from rosbags.interfaces import Nodetype

    from bevstack.ros.runtime.dds.library import Library, TopicDescriptor, find_library

    library = Library(find_library())
    dll = ct.CDLL(str(library.path))
    dll.dds_create_topic_descriptor.argtypes = (ct.c_int, ct.c_int32, ct.c_void_p, ct.c_int64, ct.POINTER(ct.c_void_p))
    numbers = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64")
    base = {"bool": bool, "byte": types.byte, "string": str} | {name: getattr(types, name) for name in numbers}
    store = typestore()
    made: dict[str, type] = {}

    def field(desc):  # type: ignore[no-untyped-def]
        kind, argument = desc
        if kind == Nodetype.BASE:
            return base[argument[0]]
        if kind == Nodetype.NAME:
            return make(argument)
        if kind == Nodetype.ARRAY:
            return types.array[field(argument[0]), argument[1]]
        return types.sequence[(field(argument[0]), argument[1])] if argument[1] else types.sequence[field(argument[0])]

    def make(name: str) -> type:
        if name not in made:
            fields = {key: field(desc) for key, desc in store.fielddefs[name][1]}
            namespace = {"__annotations__": fields}
            made[name] = type(IdlStruct)(name.split("/")[2], (IdlStruct,), namespace, typename=dds_type_name(name))
        return made[name]

    participant = DomainParticipant(88)
    names = [name for name in store.fielddefs if "/msg/" in name]
    assert len(names) > 200
    topics = []  # kept: a type of a deleted topic may be gone while the next one refers to it
    for index, name in enumerate(names):
        topic = Topic(participant, f"t{index}", make(name))
        topics.append(topic)
        information, result = ct.c_void_p(), ct.c_void_p()
        assert library.dds_get_typeinfo(topic._ref, ct.byref(information)) == 0
        assert dll.dds_create_topic_descriptor(1, participant._ref, information, 0, ct.byref(result)) == 0
        theirs = TopicDescriptor.from_address(result.value or 0)
        ops = tuple((ct.c_uint32 * theirs.op_count).from_address(theirs.ops))
        ours = compile_type(name)
        assert (ops, theirs.size, theirs.align) == (ours.ops, ours.size, ours.align), name
        assert theirs.type_information.size > 0  # so that the check above can fail


def test_names() -> None:
    assert dds_type_name("sensor_msgs/msg/Image") == "sensor_msgs::msg::dds_::Image_"
    assert ros_type_name("sensor_msgs::msg::dds_::Image_") == "sensor_msgs/msg/Image"
    for other in ("Image", "a::b::c::d_", "sensor_msgs::msg::dds_::Image"):
        assert ros_type_name(other) is None
