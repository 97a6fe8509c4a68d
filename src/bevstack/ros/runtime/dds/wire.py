"""The wire on Cyclone DDS: one participant, its endpoints and its view of the graph."""

from __future__ import annotations

import atexit
import itertools
import threading
import weakref
from collections.abc import Callable

from bevstack.ros.runtime.dds import library as c
from bevstack.ros.runtime.dds.config import configuration
from bevstack.ros.runtime.dds.endpoints import Reader, Writer, _guid
from bevstack.ros.runtime.dds.graph import Graph
from bevstack.ros.runtime.dds.loop import Loop, check
from bevstack.ros.runtime.dds.names import reply_name, request_name, topic_name
from bevstack.ros.runtime.dds.services import ServiceClient, ServiceServer
from bevstack.ros.runtime.hashes import type_hash
from bevstack.ros.runtime.qos import QoSProfile
from bevstack.ros.runtime.wire import (
    MessageMeta,
    NodeName,
    NullWire,
    OnData,
    OnEvent,
    RemoteEndpoint,
    RequestId,
    Wire,
    WireError,
)

_domains: dict[int, tuple[int, int]] = {}  # domain id -> (entity or 0, users)
_domains_lock = threading.Lock()
_open_wires: weakref.WeakSet[DdsWire] = weakref.WeakSet()


@atexit.register
def _close_open_wires() -> None:
    """Says goodbye: otherwise peers would take this process for alive until its lease runs out."""
    for wire in list(_open_wires):
        wire.close()


def _enter_domain(library: c.Library, domain_id: int) -> None:
    """Cyclone configures a domain once per process: the first wire does it, the last one ends it."""
    with _domains_lock:
        entity, users = _domains.get(domain_id, (0, 0))
        if users == 0:
            created = library.dds_create_domain(domain_id, configuration().encode())
            if created < 0 and created != c.PRECONDITION_NOT_MET:  # not met: someone else in this process made it
                raise WireError(f"DDS domain {domain_id} cannot be set up ({library.text(created)}): check CYCLONEDDS_URI")
            entity = max(0, created)
        _domains[domain_id] = (entity, users + 1)


def _leave_domain(library: c.Library, domain_id: int) -> None:
    with _domains_lock:
        entity, users = _domains.get(domain_id, (0, 0))
        if users <= 1:
            _domains.pop(domain_id, None)
            if entity:
                library.dds_delete(entity)
        else:
            _domains[domain_id] = (entity, users - 1)


class DdsWire:
    """See `bevstack.ros.runtime.wire.Wire`.

    :raises WireError: the domain or the participant cannot be made.
    """

    available = True

    def __init__(self, library: c.Library, domain_id: int, *, enclave: str = "/") -> None:
        self.library = library
        self.domain_id = domain_id
        self.reason = f"Cyclone DDS {c.REQUIRED_VERSION}, domain {domain_id}"
        self.closing = False
        self._lock = threading.Lock()
        self._service_ids = itertools.count(1)
        self._endpoints: set[Reader | Writer] = set()
        _enter_domain(library, domain_id)
        try:
            qos = library.dds_create_qos()
            data = f"enclave={enclave};".encode()
            library.dds_qset_userdata(qos, data, len(data))
            code = library.dds_create_participant(domain_id, qos, None)
            library.dds_delete_qos(qos)
            self.participant = check(library, code, f"DDS participant in domain {domain_id}")
        except WireError:
            _leave_domain(library, domain_id)
            raise
        self.guid = _guid(library, self.participant)
        _open_wires.add(self)
        self.loop = Loop(library, self.participant)
        self.graph = Graph(self)

    def _user_data(self, type_name: str) -> str:
        return f"typehash={type_hash(type_name)};"

    def create_writer(
        self, topic: str, type_name: str, qos: QoSProfile, *, node: NodeName, on_event: OnEvent | None = None
    ) -> Writer:
        """:raises WireError: Cyclone refuses. :raises UnknownTypeError: no such type."""
        name = topic_name(topic, ros=not qos.avoid_ros_namespace_conventions)
        writer = Writer(self, name, type_name, qos, user_data=self._user_data(type_name), on_event=on_event)
        self.belongs_to(node, writer)
        return writer

    def create_reader(
        self, topic: str, type_name: str, qos: QoSProfile, on_data: OnData, *, node: NodeName, on_event: OnEvent | None = None
    ) -> Reader:
        """:raises WireError: Cyclone refuses. :raises UnknownTypeError: no such type."""
        name = topic_name(topic, ros=not qos.avoid_ros_namespace_conventions)
        reader = Reader(self, name, type_name, qos, on_data, user_data=self._user_data(type_name), on_event=on_event)
        self.belongs_to(node, reader)
        return reader

    def create_service_server(
        self,
        service: str,
        type_name: str,
        qos: QoSProfile,
        on_request: Callable[[memoryview, RequestId, MessageMeta], None],
        *,
        node: NodeName,
    ) -> ServiceServer:
        """:raises WireError: Cyclone refuses. :raises UnknownTypeError: no such type."""
        return ServiceServer(self, service, type_name, qos, on_request, node)

    def create_service_client(
        self,
        service: str,
        type_name: str,
        qos: QoSProfile,
        on_response: Callable[[memoryview, int, MessageMeta], None],
        *,
        node: NodeName,
    ) -> ServiceClient:
        """:raises WireError: Cyclone refuses. :raises UnknownTypeError: no such type."""
        return ServiceClient(self, service, type_name, qos, on_response, node)

    def next_service_id(self) -> bytes:
        """Sixteen bytes that pair the reader and the writer of one service end: participant prefix and a counter."""
        with self._lock:
            return self.guid[:12] + next(self._service_ids).to_bytes(4, "big")

    def belongs_to(self, node: NodeName, *endpoints: Reader | Writer) -> None:
        self._endpoints.update(endpoints)
        self.graph.add_endpoints(node, *endpoints)

    def forget(self, endpoint: object) -> None:
        """An endpoint is closing."""
        if isinstance(endpoint, (Reader, Writer)):
            self._endpoints.discard(endpoint)
            if not self.closing:
                self.graph.remove_endpoint(endpoint.gid)

    def add_node(self, name: str, namespace: str) -> None:
        self.graph.add_node((name, namespace))

    def remove_node(self, name: str, namespace: str) -> None:
        self.graph.remove_node((name, namespace))

    def topic_names_and_types(self) -> dict[str, set[str]]:
        return self.graph.topics()

    def service_names_and_types(self) -> dict[str, set[str]]:
        return self.graph.services()

    def node_names_and_namespaces(self) -> list[NodeName]:
        return self.graph.nodes()

    def count_publishers(self, topic: str) -> int:
        return sum(1 for end in self.graph.writers() if end.topic == topic_name(topic))

    def count_subscribers(self, topic: str) -> int:
        return sum(1 for end in self.graph.readers() if end.topic == topic_name(topic))

    def publishers_info(self, topic: str) -> list[RemoteEndpoint]:
        return self.graph.describe(self.graph.writers(), topic)

    def subscriptions_info(self, topic: str) -> list[RemoteEndpoint]:
        return self.graph.describe(self.graph.readers(), topic)

    def count_services(self, service: str) -> int:
        return sum(1 for end in self.graph.writers() if end.topic == reply_name(service))

    def count_clients(self, service: str) -> int:
        return sum(1 for end in self.graph.writers() if end.topic == request_name(service))

    def on_graph_change(self, callback: Callable[[], None]) -> None:
        self.graph.on_change(callback)

    def close(self) -> None:
        """Leaves the domain. Samples that were viewed in place stay readable."""
        with self._lock:
            if self.closing:
                return
            self.closing = True
        self.loop.close()
        for endpoint in list(self._endpoints):
            endpoint.mark_closed()
        self.library.dds_delete(self.participant)
        _leave_domain(self.library, self.domain_id)


def open_dds_wire(domain_id: int) -> Wire:
    """A wire, or a `NullWire` that says what is missing.

    :raises WireError: the environment holds a value that is none (ROS_AUTOMATIC_DISCOVERY_RANGE).
    """
    configuration()
    try:
        return DdsWire(c.load_library(), domain_id)
    except (c.LibraryUnavailable, WireError) as error:
        return NullWire(domain_id, f"in-process only: {error}")
