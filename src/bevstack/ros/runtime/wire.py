"""The wire: raw CDR between processes. This file is the contract; the `dds` package carries it over Cyclone DDS.

Local endpoints never match each other: delivery inside a process is by reference and happens above this layer. Every callback
runs on the wire's own thread, so it must hand over and return.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from bevstack.errors import BevstackError
from bevstack.ros.runtime.qos import QoSProfile

Buffer = bytes | bytearray | memoryview
#: A node's (name, namespace), e.g. ("bev", "/").
NodeName = tuple[str, str]


class WireError(BevstackError):
    """The wire refused an operation."""


@dataclass(frozen=True)
class MessageMeta:
    """What the wire knows about a received sample. Times are nanoseconds since the epoch."""

    source_timestamp: int
    received_timestamp: int
    publisher_gid: bytes  # 16 bytes
    sequence: int | None


@dataclass(frozen=True)
class WireEvent:
    """Something that happened to an endpoint.

    kind "matched": details current, current_change, total, total_change (ints).
    kind "incompatible_qos": details total, total_change (ints), policy (QoSPolicyKind), last_policy_name (str).
    kind "deadline_missed": details total, total_change. kind "liveliness_lost": details total, total_change.
    kind "liveliness_changed": details alive, not_alive, alive_change, not_alive_change.
    kind "message_lost": details total, total_change.
    """

    kind: str
    details: dict[str, Any] = field(default_factory=dict)


OnData = Callable[[memoryview, MessageMeta], None]
OnEvent = Callable[[WireEvent], None]
#: (client_id, sequence): says which request an answer belongs to.
RequestId = tuple[int, int]


@dataclass(frozen=True)
class RemoteEndpoint:
    """A publisher or subscription of another participant.

    `node` is its (name, namespace), empty strings if its participant told nothing; `type_hash` is empty for Humble's.
    """

    topic: str
    type_name: str
    type_hash: str
    gid: bytes
    node: NodeName
    qos: QoSProfile


class WriterHandle(Protocol):
    """Sends serialised messages (encapsulation head included) to remote readers."""

    @property
    def gid(self) -> bytes: ...

    def write(self, cdr: Buffer | Sequence[Buffer]) -> None:
        """:raises WireError: closed, or the bytes are not a message of this type."""

    def remote_readers(self) -> int: ...

    def assert_liveliness(self) -> None:
        """Says that this writer is alive (manual liveliness)."""

    def wait_for_acknowledgements(self, timeout_ns: int) -> bool:
        """Whether all remote reliable readers have everything, after at most that long."""

    def close(self) -> None: ...


class ReaderHandle(Protocol):
    """Receives; the callback was given at creation."""

    @property
    def gid(self) -> bytes: ...

    def remote_writers(self) -> int: ...

    def close(self) -> None: ...


class ServiceServerHandle(Protocol):
    def respond(self, request_id: RequestId, cdr: Buffer) -> None:
        """Sends the serialised response (encapsulation head included) of that request."""

    def remote_clients(self) -> int: ...

    def close(self) -> None: ...


class ServiceClientHandle(Protocol):
    def request(self, cdr: Buffer) -> int:
        """Sends a serialised request, gives its sequence number."""

    def server_is_ready(self) -> bool:
        """Whether a remote server is matched both ways."""

    def close(self) -> None: ...


class Wire(Protocol):
    """One participant in a domain."""

    domain_id: int
    available: bool
    reason: str

    def create_writer(
        self, topic: str, type_name: str, qos: QoSProfile, *, node: NodeName, on_event: OnEvent | None = None
    ) -> WriterHandle:
        """`topic` is fully qualified ("/cam_front/image_raw"), `type_name` e.g. "sensor_msgs/msg/Image"."""

    def create_reader(
        self, topic: str, type_name: str, qos: QoSProfile, on_data: OnData, *, node: NodeName, on_event: OnEvent | None = None
    ) -> ReaderHandle:
        """`on_data(cdr, meta)`: the sample is viewed in place and lives as long as any view of it."""

    def create_service_server(
        self,
        service: str,
        type_name: str,
        qos: QoSProfile,
        on_request: Callable[[memoryview, RequestId, MessageMeta], None],
        *,
        node: NodeName,
    ) -> ServiceServerHandle:
        """`on_request(cdr of the request, request id, meta)`; answer with `respond`."""

    def create_service_client(
        self,
        service: str,
        type_name: str,
        qos: QoSProfile,
        on_response: Callable[[memoryview, int, MessageMeta], None],
        *,
        node: NodeName,
    ) -> ServiceClientHandle:
        """`on_response(cdr of the response, sequence, meta)`; only answers to this client's own requests arrive."""

    def add_node(self, name: str, namespace: str) -> None: ...

    def remove_node(self, name: str, namespace: str) -> None: ...

    def topic_names_and_types(self) -> dict[str, set[str]]:
        """Remote topics: ROS name -> ROS type names."""

    def service_names_and_types(self) -> dict[str, set[str]]:
        """Remote services: ROS name -> ROS type names."""

    def node_names_and_namespaces(self) -> list[NodeName]:
        """Remote nodes."""

    def count_publishers(self, topic: str) -> int: ...

    def count_subscribers(self, topic: str) -> int: ...

    def publishers_info(self, topic: str) -> list[RemoteEndpoint]:
        """Remote publishers of a ROS topic."""

    def subscriptions_info(self, topic: str) -> list[RemoteEndpoint]:
        """Remote subscriptions to a ROS topic."""

    def count_services(self, service: str) -> int: ...

    def count_clients(self, service: str) -> int: ...

    def on_graph_change(self, callback: Callable[[], None]) -> None:
        """Adds a callback for any change of the remote graph."""

    def close(self) -> None: ...


class _NullEndpoint:
    """An endpoint that nobody is connected to."""

    gid = bytes(16)

    def write(self, cdr: Buffer | Sequence[Buffer]) -> None:
        """Nobody listens."""

    def respond(self, request_id: RequestId, cdr: Buffer) -> None:
        """Nobody asked."""

    def request(self, cdr: Buffer) -> int:
        raise WireError("no wire: a request to another process cannot be sent")

    def remote_readers(self) -> int:
        return 0

    def assert_liveliness(self) -> None:
        """Nobody watches."""

    def wait_for_acknowledgements(self, timeout_ns: int) -> bool:
        return True

    def remote_writers(self) -> int:
        return 0

    def remote_clients(self) -> int:
        return 0

    def server_is_ready(self) -> bool:
        return False

    def close(self) -> None:
        """Nothing to free."""


class NullWire:
    """In-process only. `reason` says why, and what to do about it."""

    available = False

    def __init__(self, domain_id: int, reason: str) -> None:
        self.domain_id = domain_id
        self.reason = reason

    def create_writer(
        self, topic: str, type_name: str, qos: QoSProfile, *, node: NodeName, on_event: OnEvent | None = None
    ) -> WriterHandle:
        return _NullEndpoint()

    def create_reader(
        self, topic: str, type_name: str, qos: QoSProfile, on_data: OnData, *, node: NodeName, on_event: OnEvent | None = None
    ) -> ReaderHandle:
        return _NullEndpoint()

    def create_service_server(
        self,
        service: str,
        type_name: str,
        qos: QoSProfile,
        on_request: Callable[[memoryview, RequestId, MessageMeta], None],
        *,
        node: NodeName,
    ) -> ServiceServerHandle:
        return _NullEndpoint()

    def create_service_client(
        self,
        service: str,
        type_name: str,
        qos: QoSProfile,
        on_response: Callable[[memoryview, int, MessageMeta], None],
        *,
        node: NodeName,
    ) -> ServiceClientHandle:
        return _NullEndpoint()

    def add_node(self, name: str, namespace: str) -> None:
        """Nobody to tell."""

    def remove_node(self, name: str, namespace: str) -> None:
        """Nobody to tell."""

    def topic_names_and_types(self) -> dict[str, set[str]]:
        return {}

    def service_names_and_types(self) -> dict[str, set[str]]:
        return {}

    def node_names_and_namespaces(self) -> list[NodeName]:
        return []

    def count_publishers(self, topic: str) -> int:
        return 0

    def count_subscribers(self, topic: str) -> int:
        return 0

    def publishers_info(self, topic: str) -> list[RemoteEndpoint]:
        return []

    def subscriptions_info(self, topic: str) -> list[RemoteEndpoint]:
        return []

    def count_services(self, service: str) -> int:
        return 0

    def count_clients(self, service: str) -> int:
        return 0

    def on_graph_change(self, callback: Callable[[], None]) -> None:
        """The graph never changes."""

    def close(self) -> None:
        """Nothing to free."""


def domain_id_from_environment(value: int | None = None) -> int:
    """The given domain, else ROS_DOMAIN_ID, else 0.

    :raises WireError: not a number from 0 to 232 (ports beyond do not exist).
    """
    text = str(value) if value is not None else os.environ.get("ROS_DOMAIN_ID", "") or "0"
    if not text.isdecimal() or int(text) > 232:
        raise WireError(f"ROS_DOMAIN_ID is {text!r}: use a number from 0 to 232 (0 to 101 is safe on every system)")
    return int(text)


def open_wire(domain_id: int | None = None) -> Wire:
    """Joins the domain, or gives a `NullWire` whose reason says why not.

    BEVSTACK_WIRE=off forces in-process only. A missing library or symbol is no error: nodes of one process still work.

    :raises WireError: ROS_DOMAIN_ID is not a domain.
    """
    domain = domain_id_from_environment(domain_id)
    if os.environ.get("BEVSTACK_WIRE", "").lower() in ("off", "none", "0"):
        return NullWire(domain, "switched off by BEVSTACK_WIRE=off; unset it to reach other processes")
    from bevstack.ros.runtime.dds.wire import open_dds_wire

    return open_dds_wire(domain)
