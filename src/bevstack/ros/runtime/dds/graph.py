"""What others see of us (`ros_discovery_info`) and what we see of them (Cyclone's built-in topics)."""

from __future__ import annotations

import ctypes as ct
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from bevstack.ros.runtime.dds import library as c
from bevstack.ros.runtime.dds.endpoints import Reader, Writer
from bevstack.ros.runtime.dds.loop import check
from bevstack.ros.runtime.dds.names import ros_service, ros_topic
from bevstack.ros.runtime.dds.qos import profile_of, user_data
from bevstack.ros.runtime.hashes import type_hash
from bevstack.ros.runtime.messages import message_class
from bevstack.ros.runtime.qos import DurabilityPolicy, HistoryPolicy, QoSProfile
from bevstack.ros.runtime.serialization import SerializationError, deserialize_message, serialize_to_view
from bevstack.ros.runtime.wire import MessageMeta, NodeName, RemoteEndpoint

if TYPE_CHECKING:
    from bevstack.ros.runtime.dds.wire import DdsWire

_log = logging.getLogger("bevstack.wire")
_INFO = "rmw_dds_common/msg/ParticipantEntitiesInfo"
_TOPIC = "ros_discovery_info"
_TAKE = 32


@dataclass(frozen=True)
class _Endpoint:
    """A reader or writer of another participant, with DDS names."""

    gid: bytes
    topic: str
    type_name: str
    participant: bytes
    type_hash: str
    qos: QoSProfile


@dataclass
class _LocalNode:
    readers: set[bytes] = field(default_factory=set)
    writers: set[bytes] = field(default_factory=set)


class Graph:
    """Keeps both halves up to date. Remote means: another participant, in this process or not."""

    def __init__(self, wire: DdsWire) -> None:
        self._library = wire.library
        self._wire = wire
        self._lock = threading.RLock()
        self._gid_size = message_class("rmw_dds_common/msg/Gid")().data.size
        self._nodes: dict[NodeName, _LocalNode] = {}
        self._remote_nodes: dict[bytes, dict[NodeName, set[bytes]]] = {}  # participant -> node -> its endpoints
        self._participants: set[bytes] = set()
        self._writers: dict[bytes, _Endpoint] = {}
        self._readers: dict[bytes, _Endpoint] = {}
        self._callbacks: list[Callable[[], None]] = []

        data = f"typehash={type_hash(_INFO)};"
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        everything = QoSProfile(history=HistoryPolicy.KEEP_ALL, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._writer = Writer(wire, _TOPIC, _INFO, latched, user_data=data)
        self._reader = Reader(wire, _TOPIC, _INFO, everything, self._heard_nodes, user_data=data)
        for topic, handler in (
            (c.BUILTIN_PARTICIPANT, self._heard_participants),
            (c.BUILTIN_PUBLICATION, self._heard_writers),
            (c.BUILTIN_SUBSCRIPTION, self._heard_readers),
        ):
            reader = check(
                self._library, self._library.dds_create_reader(wire.participant, topic, None, None), "built-in reader"
            )
            wire.loop.on_data(self, reader, lambda reader=reader, handler=handler: handler(reader))  # type: ignore[misc]

    # Our half ----------------------------------------------------------------------------------------------------------------

    def add_node(self, node: NodeName) -> None:
        with self._lock:
            self._nodes.setdefault(node, _LocalNode())
            self._announce()

    def remove_node(self, node: NodeName) -> None:
        with self._lock:
            self._nodes.pop(node, None)
            self._announce()

    def add_endpoints(self, node: NodeName, *endpoints: Reader | Writer) -> None:
        with self._lock:
            entry = self._nodes.setdefault(node, _LocalNode())
            for endpoint in endpoints:
                (entry.readers if isinstance(endpoint, Reader) else entry.writers).add(endpoint.gid)
            self._announce()

    def remove_endpoint(self, gid: bytes) -> None:
        with self._lock:
            for entry in self._nodes.values():
                if gid in entry.readers or gid in entry.writers:
                    entry.readers.discard(gid)
                    entry.writers.discard(gid)
                    self._announce()
                    return

    def _gid(self, guid: bytes) -> object:
        return message_class("rmw_dds_common/msg/Gid")(data=np.frombuffer(guid.ljust(self._gid_size, b"\0"), np.uint8))

    def _announce(self) -> None:
        if self._wire.closing:
            return
        info = message_class("rmw_dds_common/msg/NodeEntitiesInfo")
        nodes = [
            info(
                node_namespace=namespace,
                node_name=name,
                reader_gid_seq=[self._gid(gid) for gid in sorted(entry.readers)],
                writer_gid_seq=[self._gid(gid) for gid in sorted(entry.writers)],
            )
            for (name, namespace), entry in self._nodes.items()
        ]
        message = message_class(_INFO)(gid=self._gid(self._wire.guid), node_entities_info_seq=nodes)
        self._writer.write(serialize_to_view(message))

    # Their half --------------------------------------------------------------------------------------------------------------

    def _heard_nodes(self, raw: memoryview, meta: MessageMeta) -> None:
        try:
            message = deserialize_message(raw, _INFO)
        except SerializationError as error:  # a peer of another distribution: Humble's GIDs are longer
            _log.warning("a peer's node list is unreadable (%s); set BEVSTACK_ROS_DISTRO to its distribution", error)
            return
        nodes = {}
        for node in message.node_entities_info_seq:
            gids = {gid.data.tobytes()[:16] for gid in [*node.reader_gid_seq, *node.writer_gid_seq]}
            nodes[node.node_name, node.node_namespace] = gids
        with self._lock:
            self._remote_nodes[message.gid.data.tobytes()[:16]] = nodes
        self._changed()

    def _samples(self, reader: int, kind: type[ct.Structure]) -> list[tuple[ct.Structure, bool]]:
        """Takes what is there: (a copy of the sample's fields that stays valid for the call, whether it is alive)."""
        pointers, infos = (ct.c_void_p * _TAKE)(), (c.SampleInfo * _TAKE)()
        count = self._library.dds_take(reader, pointers, infos, _TAKE, _TAKE)
        found = []
        for index in range(max(0, count)):
            pointer = pointers[index]
            if pointer:
                found.append((kind.from_address(pointer), infos[index].valid_data and infos[index].instance_state == c.ALIVE))
        self._pending = (reader, pointers, count)
        return found

    def _return(self) -> None:
        reader, pointers, count = self._pending
        if count > 0:
            self._library.dds_return_loan(reader, pointers, count)

    def _heard_participants(self, reader: int) -> None:
        for sample, alive in self._samples(reader, c.BuiltinParticipant):
            key = bytes(sample.key.value)
            with self._lock:
                if alive:
                    self._participants.add(key)
                else:
                    self._participants.discard(key)
                    self._remote_nodes.pop(key, None)
        self._return()
        self._changed()

    def _heard_endpoints(self, reader: int, known: dict[bytes, _Endpoint]) -> None:
        for sample, alive in self._samples(reader, c.BuiltinEndpoint):
            key, participant = bytes(sample.key.value), bytes(sample.participant_key.value)
            with self._lock:
                if not alive:
                    known.pop(key, None)
                elif participant != self._wire.guid:
                    topic, type_name = sample.topic_name or b"", sample.type_name or b""
                    known[key] = _Endpoint(
                        key,
                        topic.decode(errors="replace"),
                        type_name.decode(errors="replace"),
                        participant,
                        user_data(self._library, sample.qos).get("typehash", ""),
                        profile_of(self._library, sample.qos),
                    )
        self._return()
        self._changed()

    def _heard_writers(self, reader: int) -> None:
        self._heard_endpoints(reader, self._writers)

    def _heard_readers(self, reader: int) -> None:
        self._heard_endpoints(reader, self._readers)

    def on_change(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)

    def _changed(self) -> None:
        for callback in list(self._callbacks):
            callback()

    def writers(self) -> list[_Endpoint]:
        with self._lock:
            return list(self._writers.values())

    def readers(self) -> list[_Endpoint]:
        with self._lock:
            return list(self._readers.values())

    def nodes(self) -> list[NodeName]:
        """Remote nodes; those of a participant that is gone are not listed."""
        with self._lock:
            own = self._wire.guid
            return [
                node
                for participant, nodes in self._remote_nodes.items()
                if participant in self._participants and participant != own
                for node in nodes
            ]

    def describe(self, endpoints: list[_Endpoint], topic: str) -> list[RemoteEndpoint]:
        """Those of a ROS topic, with their nodes."""
        found = []
        for end in endpoints:
            named = ros_topic(end.topic, end.type_name)
            if named and named[0] == topic:
                with self._lock:
                    nodes = self._remote_nodes.get(end.participant, {})
                    owner = next((node for node, gids in nodes.items() if end.gid in gids), ("", ""))
                found.append(RemoteEndpoint(topic, named[1], end.type_hash, end.gid, owner, end.qos))
        return found

    def topics(self) -> dict[str, set[str]]:
        return _named(ros_topic(end.topic, end.type_name) for end in [*self.writers(), *self.readers()])

    def services(self) -> dict[str, set[str]]:
        return _named(ros_service(end.topic, end.type_name) for end in [*self.writers(), *self.readers()])


def _named(pairs: object) -> dict[str, set[str]]:
    result: dict[str, set[str]] = {}
    for pair in pairs:  # type: ignore[attr-defined]
        if pair:
            result.setdefault(pair[0], set()).add(pair[1])
    return result
