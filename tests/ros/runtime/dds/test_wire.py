"""The wire between two participants: data, events, graph, services, faults."""

from __future__ import annotations

import ctypes as ct
import gc
import logging
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bevstack.ros.runtime.dds.library import BUILTIN_PARTICIPANT, BuiltinEndpoint, BuiltinParticipant, SampleInfo
from bevstack.ros.runtime.dds.qos import user_data
from bevstack.ros.runtime.dds.wire import DdsWire
from bevstack.ros.runtime.duration import Duration
from bevstack.ros.runtime.hashes import type_hash
from bevstack.ros.runtime.messages import message_class
from bevstack.ros.runtime.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
    qos_profile_best_available,
    qos_profile_sensor_data,
    qos_profile_services_default,
    qos_profile_system_default,
)
from bevstack.ros.runtime.serialization import deserialize_message, serialize_message, serialize_to_buffers
from bevstack.ros.runtime.wire import MessageMeta, WireError, WireEvent

from .conftest import PATIENCE, eventually

pytestmark = pytest.mark.wire

Pair = tuple[DdsWire, DdsWire]
A, B = ("a", "/"), ("b", "/ns")
IMAGE, STRING, SET_BOOL = "sensor_msgs/msg/Image", "std_msgs/msg/String", "std_srvs/srv/SetBool"
RELIABLE = QoSProfile(depth=10)


def text(value: str) -> bytes:
    return serialize_message(message_class(STRING)(data=value))


class Inbox:
    """Collects what a reader hands over."""

    def __init__(self) -> None:
        self.raw: list[memoryview] = []
        self.meta: list[MessageMeta] = []

    def __call__(self, raw: memoryview, meta: MessageMeta) -> None:
        self.meta.append(meta)
        self.raw.append(raw)

    def texts(self) -> list[str]:
        return [deserialize_message(raw, STRING).data for raw in self.raw]


def test_images_arrive_whole(pair: Pair) -> None:
    inbox = Inbox()
    pair[1].create_reader("/cam/image_raw", IMAGE, RELIABLE, inbox, node=B)
    writer = pair[0].create_writer("/cam/image_raw", IMAGE, RELIABLE, node=A)
    eventually(writer.remote_readers, "match")
    pixels = np.random.default_rng(0).integers(0, 256, (900, 1600, 3), np.uint8)
    sent = message_class(IMAGE)(height=900, width=1600, encoding="rgb8", step=4800, data=pixels)
    writer.write(serialize_to_buffers(sent))
    eventually(lambda: inbox.raw, "image")
    assert deserialize_message(inbox.raw[0], IMAGE) == sent
    assert inbox.raw[0].readonly
    assert inbox.meta[0].publisher_gid == writer.gid
    assert 0 < inbox.meta[0].source_timestamp <= inbox.meta[0].received_timestamp


def test_views_outlive_reader_and_wire(pair: Pair) -> None:
    inbox = Inbox()
    reader = pair[1].create_reader("/i", IMAGE, RELIABLE, inbox, node=B)
    writer = pair[0].create_writer("/i", IMAGE, RELIABLE, node=A)
    eventually(writer.remote_readers)
    sent = message_class(IMAGE)(data=np.arange(500_000, dtype=np.uint32).astype(np.uint8))
    writer.write(serialize_message(sent))
    eventually(lambda: inbox.raw)
    image = deserialize_message(inbox.raw.pop(), IMAGE)
    reader.close()
    for wire in pair:
        wire.close()
    gc.collect()
    assert image == sent
    del image
    gc.collect()  # gives the sample back to a library whose domain is gone


def test_own_endpoints_never_match(pair: Pair) -> None:
    mine, theirs, events = Inbox(), Inbox(), []
    pair[0].create_reader("/x", STRING, RELIABLE, mine, node=A, on_event=events.append)
    other = pair[1].create_reader("/x", STRING, RELIABLE, theirs, node=B)
    writer = pair[0].create_writer("/x", STRING, qos_profile_system_default, node=A)
    eventually(writer.remote_readers)
    assert writer.remote_readers() == other.remote_writers() == 1
    writer.write(text("hello"))
    eventually(lambda: theirs.raw)
    assert theirs.texts() == ["hello"]
    assert mine.raw == []
    assert events == []


def test_nothing_of_xtypes_is_on_the_wire(pair: Pair) -> None:
    """With type information there, a peer with Cyclone DDS 0.10.5 crashes: seen from the peer, there must be none."""
    reader = pair[1].create_reader("/x", IMAGE, RELIABLE, Inbox(), node=B)
    writer = pair[0].create_writer("/x", IMAGE, RELIABLE, node=A)
    eventually(reader.remote_writers)
    eventually(writer.remote_readers)
    lib = pair[0].library
    for entity, handles_of, describe in (
        (reader.entity, lib.dds_get_matched_publications, lib.dds_get_matched_publication_data),
        (writer.entity, lib.dds_get_matched_subscriptions, lib.dds_get_matched_subscription_data),
    ):
        handles = (ct.c_uint64 * 1)()
        assert handles_of(entity, handles, 1) == 1
        endpoint = describe(entity, handles[0])
        information = ct.c_void_p()
        lib.dds_builtintopic_get_endpoint_type_info(endpoint, ct.byref(information))
        assert not information.value
        described: BuiltinEndpoint = endpoint.contents
        assert described.type_name == b"sensor_msgs::msg::dds_::Image_"
        assert described.topic_name == b"rt/x"
        assert user_data(lib, described.qos) == {"typehash": type_hash(IMAGE)}
        lib.dds_builtintopic_free_endpoint(endpoint)
    information = ct.c_void_p()
    lib.dds_get_typeinfo(writer.entity, ct.byref(information))
    assert not information.value


def test_participants_announce_their_enclave(pair: Pair) -> None:
    lib = pair[1].library
    reader = lib.dds_create_reader(pair[1].participant, BUILTIN_PARTICIPANT, None, None)
    enclaves: dict[bytes, str] = {}

    def look() -> bool:
        samples, infos = (ct.c_void_p * 32)(), (SampleInfo * 32)()
        count = lib.dds_take(reader, samples, infos, 32, 32)
        for pointer in samples[: max(0, count)]:
            participant = BuiltinParticipant.from_address(pointer)
            enclaves[bytes(participant.key.value)] = user_data(lib, participant.qos).get("enclave", "")
        if count > 0:
            lib.dds_return_loan(reader, samples, count)
        return pair[0].guid in enclaves

    eventually(look, "the other participant")
    assert enclaves[pair[0].guid] == "/"


def test_late_readers_get_latched_messages(pair: Pair) -> None:
    latched = QoSProfile(depth=2, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    writer = pair[0].create_writer("/map", STRING, latched, node=A)
    for value in "abc":
        writer.write(text(value))
    inbox, all_of_it, volatile = Inbox(), Inbox(), Inbox()
    pair[1].create_reader("/map", STRING, RELIABLE, volatile, node=B)
    pair[1].create_reader("/map", STRING, latched, inbox, node=B)
    everything = QoSProfile(history=HistoryPolicy.KEEP_ALL, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    pair[1].create_reader("/map", STRING, everything, all_of_it, node=B)
    eventually(lambda: len(inbox.raw) == 2 and len(all_of_it.raw) == 2, "history")
    assert inbox.texts() == all_of_it.texts() == ["b", "c"]
    writer.write(text("d"))
    eventually(lambda: volatile.raw)
    assert volatile.texts() == ["d"]


def test_incompatible_qos_is_reported_on_both_ends(pair: Pair) -> None:
    ours: list[WireEvent] = []
    theirs: list[WireEvent] = []
    reader = pair[1].create_reader("/x", STRING, RELIABLE, Inbox(), node=B, on_event=theirs.append)
    writer = pair[0].create_writer("/x", STRING, qos_profile_sensor_data, node=A, on_event=ours.append)
    eventually(lambda: ours and theirs, "events")
    for event in (ours[0], theirs[0]):
        assert event.kind == "incompatible_qos"
        assert event.details["policy"] == QoSPolicyKind.RELIABILITY
        assert event.details["total"] == 1
    assert writer.remote_readers() == reader.remote_writers() == 0


def test_best_available_matches_everything(pair: Pair) -> None:
    reader = pair[1].create_reader("/x", STRING, qos_profile_best_available, Inbox(), node=B)
    pair[0].create_writer("/x", STRING, qos_profile_sensor_data, node=A)
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    writer = pair[0].create_writer("/y", STRING, qos_profile_best_available, node=A)
    pair[1].create_reader("/y", STRING, latched, Inbox(), node=B)
    eventually(reader.remote_writers)
    eventually(writer.remote_readers)


def test_matches_are_reported_as_they_come_and_go(pair: Pair) -> None:
    events: list[WireEvent] = []
    writer = pair[0].create_writer("/x", STRING, RELIABLE, node=A, on_event=events.append)
    reader = pair[1].create_reader("/x", STRING, RELIABLE, Inbox(), node=B)
    eventually(lambda: events and events[-1].details["current"] == 1)
    reader.close()
    reader.close()
    eventually(lambda: events[-1].details["current"] == 0)
    assert {event.kind for event in events} == {"matched"}
    assert events[-1].details["total"] == 1
    assert writer.remote_readers() == 0


def test_missed_deadlines_are_reported(pair: Pair) -> None:
    events: list[WireEvent] = []
    prompt = QoSProfile(depth=1, deadline=Duration(seconds=0.05))
    pair[1].create_reader("/x", STRING, prompt, Inbox(), node=B, on_event=events.append)
    writer = pair[0].create_writer("/x", STRING, prompt, node=A)
    eventually(writer.remote_readers)
    writer.write(text("once"))
    eventually(lambda: any(event.kind == "deadline_missed" and event.details["total"] >= 1 for event in events), "deadline")


def test_the_graph_shows_the_other_side_only(pair: Pair) -> None:
    changed = threading.Event()
    pair[0].on_graph_change(changed.set)
    pair[0].add_node(*A)
    pair[1].add_node(*B)
    reader = pair[1].create_reader("/x", STRING, RELIABLE, Inbox(), node=B)
    pair[0].create_writer("/x", STRING, RELIABLE, node=A)
    eventually(lambda: pair[0].node_names_and_namespaces() == [B], "node b")
    eventually(lambda: pair[1].node_names_and_namespaces() == [A], "node a")
    eventually(lambda: pair[0].topic_names_and_types() == {"/x": {STRING}})
    eventually(lambda: pair[1].count_publishers("/x") == 1)
    assert pair[0].count_subscribers("/x") == 1
    assert pair[0].count_publishers("/x") == 0
    assert changed.wait(PATIENCE)
    reader.close()
    eventually(lambda: pair[0].count_subscribers("/x") == 0)
    pair[1].remove_node(*B)
    eventually(lambda: pair[0].node_names_and_namespaces() == [])
    pair[0].close()
    eventually(lambda: pair[1].node_names_and_namespaces() == [])
    assert pair[1].topic_names_and_types() == {}


def test_discovery_info_lists_endpoints_by_node(pair: Pair) -> None:
    name, inbox = "rmw_dds_common/msg/ParticipantEntitiesInfo", Inbox()
    latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL, avoid_ros_namespace_conventions=True)
    pair[0].add_node(*A)
    writer = pair[0].create_writer("/x", STRING, RELIABLE, node=A)
    pair[1].create_reader("/ros_discovery_info", name, latched, inbox, node=B)

    def last() -> Any:
        found = [deserialize_message(raw, name) for raw in inbox.raw]
        return next((info for info in reversed(found) if info.gid.data.tobytes()[:16] == pair[0].guid), None)

    eventually(lambda: last() and last().node_entities_info_seq)
    node = last().node_entities_info_seq[0]
    assert (node.node_name, node.node_namespace) == A
    assert [gid.data.tobytes()[:16] for gid in node.writer_gid_seq] == [writer.gid]
    assert node.reader_gid_seq == []
    writer.close()
    eventually(lambda: last().node_entities_info_seq[0].writer_gid_seq == [])


def test_remote_endpoints_are_described(pair: Pair) -> None:
    pair[0].add_node(*A)
    latched = QoSProfile(depth=3, durability=DurabilityPolicy.TRANSIENT_LOCAL, deadline=Duration(seconds=2))
    writer = pair[0].create_writer("/map", STRING, latched, node=A)
    reader = pair[0].create_reader("/map", STRING, qos_profile_sensor_data, Inbox(), node=A)
    eventually(lambda: [end.node for end in pair[1].publishers_info("/map")] == [A], "publisher with its node")
    eventually(lambda: [end.node for end in pair[1].subscriptions_info("/map")] == [A], "subscription with its node")
    found, listening = pair[1].publishers_info("/map")[0], pair[1].subscriptions_info("/map")[0]
    assert (found.gid, listening.gid) == (writer.gid, reader.gid)
    assert (found.topic, found.type_name, found.type_hash) == ("/map", STRING, type_hash(STRING))
    assert found.qos.durability == DurabilityPolicy.TRANSIENT_LOCAL
    assert found.qos.reliability == ReliabilityPolicy.RELIABLE
    assert found.qos.deadline == Duration(seconds=2)
    assert listening.qos.reliability == ReliabilityPolicy.BEST_EFFORT
    assert listening.qos.durability == DurabilityPolicy.VOLATILE
    assert pair[0].publishers_info("/map") == pair[1].publishers_info("/other") == []


def test_a_node_sees_publishers_elsewhere(open_wires: Callable[[], DdsWire], domain: int) -> None:
    from bevstack.ros import runtime as ros

    wire = open_wires()
    wire.add_node(*B)
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    writer = wire.create_writer("/map", STRING, latched, node=B)
    wire.create_reader("/wish", STRING, RELIABLE, Inbox(), node=B)
    context = ros.Context()
    context.init([], domain_id=domain)
    try:
        node = ros.Node("looker", context=context)
        eventually(lambda: [i.node_name for i in node.get_publishers_info_by_topic("/map")] == ["b"])
        info = node.get_publishers_info_by_topic("/map")[0]
        assert (info.node_namespace, info.topic_type) == ("/ns", STRING)
        assert info.qos_profile.durability == ros.DurabilityPolicy.TRANSIENT_LOCAL
        assert bytes(info.endpoint_gid[:16]) == writer.gid
        eventually(lambda: [i.node_name for i in node.get_subscriptions_info_by_topic("/wish")] == ["b"])
        node.destroy_node()
    finally:
        context.try_shutdown()


def test_a_service_answers_each_client_alone(open_wires: Callable[[], DdsWire]) -> None:
    server_wire, first_wire, second_wire = open_wires(), open_wires(), open_wires()
    service = message_class(SET_BOOL)

    def answer(raw: memoryview, request_id: tuple[int, int], meta: MessageMeta) -> None:
        request = deserialize_message(raw, service.Request)
        server.respond(request_id, serialize_message(service.Response(success=request.data, message=f"{request_id[1]}")))

    server = server_wire.create_service_server("/set", SET_BOOL, qos_profile_services_default, answer, node=A)
    answers: dict[str, list[tuple[int, Any]]] = {"first": [], "second": []}
    clients = []
    for wire, name in ((first_wire, "first"), (second_wire, "second")):
        heard = answers[name]
        client = wire.create_service_client(
            "/set",
            SET_BOOL,
            qos_profile_services_default,
            lambda raw, sequence, meta, heard=heard: heard.append((sequence, deserialize_message(raw, service.Response))),
            node=B,
        )
        clients.append(client)
    for client in clients:
        eventually(client.server_is_ready, "service")
    eventually(lambda: server.remote_clients() == 2)
    eventually(lambda: first_wire.service_names_and_types() == {"/set": {SET_BOOL}})
    assert first_wire.topic_names_and_types() == {}
    assert clients[0].request(serialize_message(service.Request(data=True))) == 1
    assert clients[0].request(serialize_message(service.Request(data=False))) == 2
    clients[1].request(serialize_message(service.Request(data=True)))
    eventually(lambda: len(answers["first"]) == 2 and len(answers["second"]) == 1)
    assert [(sequence, reply.success) for sequence, reply in answers["first"]] == [(1, True), (2, False)]
    server.close()
    eventually(lambda: not clients[0].server_is_ready())


def test_wrong_bytes_are_refused_before_they_are_sent(pair: Pair) -> None:
    writer = pair[0].create_writer("/x", STRING, RELIABLE, node=A)
    for wrong in (b"", b"\0", b"\0\1\0\0", b"\0\1\0\0\xff\xff\xff\xffa\0", b"\x07\x09\0\0\1\0\0\0\0"):
        with pytest.raises(WireError):
            writer.write(wrong)
    writer.close()
    with pytest.raises(WireError, match="closed"):
        writer.write(text("x"))


def test_a_failing_callback_ends_nothing(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    heard = Inbox()

    def fail(raw: memoryview, meta: MessageMeta) -> None:
        heard(raw, meta)
        raise RuntimeError("user error")

    pair[1].create_reader("/x", STRING, RELIABLE, fail, node=B)
    writer = pair[0].create_writer("/x", STRING, RELIABLE, node=A)
    eventually(writer.remote_readers)
    with caplog.at_level(logging.ERROR, "bevstack.wire"):
        for value in "abc":
            writer.write(text(value))
        eventually(lambda: len(heard.raw) == 3)
        eventually(lambda: "user error" in caplog.text)
    assert heard.texts() == ["a", "b", "c"]


def test_closing_inside_a_callback(pair: Pair) -> None:
    done = threading.Event()

    def close(raw: memoryview, meta: MessageMeta) -> None:
        reader.close()
        pair[1].close()
        done.set()

    reader = pair[1].create_reader("/x", STRING, RELIABLE, close, node=B)
    writer = pair[0].create_writer("/x", STRING, RELIABLE, node=A)
    eventually(writer.remote_readers)
    writer.write(text("bye"))
    assert done.wait(PATIENCE)
    eventually(lambda: writer.remote_readers() == 0)


def test_nothing_crashes_while_others_publish(open_wires: Callable[[], DdsWire]) -> None:
    """Closing a wire under publishing threads: they get an error, not freed memory."""
    for _ in range(5):
        wire = open_wires()
        writers = [wire.create_writer(f"/t{i}", STRING, RELIABLE, node=A) for i in range(3)]
        started, failures = threading.Barrier(4), []

        def publish(writer: Any, started: threading.Barrier = started, failures: list[str] = failures) -> None:
            started.wait(PATIENCE)
            try:
                while True:
                    writer.write(text("x"))
            except WireError as error:
                failures.append(str(error))

        threads = [threading.Thread(target=publish, args=(writer,)) for writer in writers]
        for thread in threads:
            thread.start()
        started.wait(PATIENCE)
        wire.close()
        for thread in threads:
            thread.join(PATIENCE)
        assert sorted(failures) == [f"rt/t{i} is closed" for i in range(3)]
        with pytest.raises(WireError):
            wire.create_writer("/late", STRING, RELIABLE, node=A)


def test_many_endpoints_open_and_close(pair: Pair) -> None:
    for _ in range(3):
        ends = [pair[0].create_writer(f"/t{i}", STRING, RELIABLE, node=A) for i in range(20)]
        ends += [pair[1].create_reader(f"/t{i}", STRING, RELIABLE, Inbox(), node=B) for i in range(20)]  # type: ignore[misc]
        eventually(lambda ends=ends: all(writer.remote_readers() for writer in ends[:20]))  # type: ignore[misc]
        for end in ends:
            end.close()
    eventually(lambda: pair[0].topic_names_and_types() == pair[1].topic_names_and_types() == {})
