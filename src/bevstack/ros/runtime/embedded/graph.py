"""The graph inside this process: which endpoints exist, which match, and hand-over of messages by reference.

One `Hub` per domain serves all contexts of the process in that domain, with one participant on the wire. Matching happens when
an endpoint comes or goes; publishing then only walks a tuple. The hub's lock is never held while user code runs.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from ..qos import DurabilityPolicy, LivelinessPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from ..serialization import deserialize_message, serialize_message
from ..wire import NullWire, Wire, open_wire

if TYPE_CHECKING:
    from .client import Client
    from .node import Node
    from .publisher import Publisher
    from .service import Service
    from .subscription import Subscription

_INFINITE = 2**63 - 1


class Sample:
    """One published message, as an object, as CDR bytes, or both; each is made from the other at most once.

    Subscriptions of this process all get the *same* object: treat messages as read-only once they are published or received.
    """

    __slots__ = ("_cdr", "_message", "message_type", "received_ns", "sequence", "source_ns")

    def __init__(
        self, message_type: Any, message: Any, cdr: Any, source_ns: int, received_ns: int, sequence: int | None
    ) -> None:
        self.message_type = message_type
        self._message = message
        self._cdr = cdr
        self.source_ns = source_ns
        self.received_ns = received_ns
        self.sequence = sequence

    def message(self) -> Any:
        """The message object."""
        if self._message is None:
            self._message = deserialize_message(self._cdr, self.message_type)
        return self._message

    def cdr(self) -> bytes:
        """The serialised message with its encapsulation head."""
        if self._cdr is None:
            self._cdr = serialize_message(self._message)
        elif not isinstance(self._cdr, bytes):
            self._cdr = bytes(self._cdr)
        return self._cdr


def _limit(nanoseconds: int) -> int:
    return nanoseconds or _INFINITE


def mismatch(offered: QoSProfile, requested: QoSProfile) -> QoSPolicyKind | None:
    """The first policy in which a publisher offers less than a subscription requests; None when they match.

    "Best available" on either side takes what the other has.
    """
    if requested.reliability == ReliabilityPolicy.RELIABLE and offered.reliability == ReliabilityPolicy.BEST_EFFORT:
        return QoSPolicyKind.RELIABILITY
    if requested.durability == DurabilityPolicy.TRANSIENT_LOCAL and offered.durability in (
        DurabilityPolicy.VOLATILE,
        DurabilityPolicy.SYSTEM_DEFAULT,
    ):
        return QoSPolicyKind.DURABILITY
    best = _INFINITE - 1
    if best not in (offered.deadline.nanoseconds, requested.deadline.nanoseconds) and _limit(
        requested.deadline.nanoseconds
    ) < _limit(offered.deadline.nanoseconds):
        return QoSPolicyKind.DEADLINE
    if (
        requested.liveliness == LivelinessPolicy.MANUAL_BY_TOPIC
        and offered.liveliness not in (LivelinessPolicy.MANUAL_BY_TOPIC, LivelinessPolicy.BEST_AVAILABLE)
    ) or (
        best not in (offered.liveliness_lease_duration.nanoseconds, requested.liveliness_lease_duration.nanoseconds)
        and _limit(requested.liveliness_lease_duration.nanoseconds) < _limit(offered.liveliness_lease_duration.nanoseconds)
    ):
        return QoSPolicyKind.LIVELINESS
    return None


class EndpointContext:
    """What every endpoint of a node needs: the node, its hub, and the endpoint's fully qualified name."""

    __slots__ = ("full_name", "hub", "node")

    def __init__(self, node: Node, full_name: str) -> None:
        self.node = node
        self.full_name = full_name
        self.hub: Hub = node._hub

    @property
    def node_name(self) -> tuple[str, str]:
        """Name and namespace of the node."""
        return self.node.get_name(), self.node.get_namespace()


class _Topic:
    __slots__ = ("publishers", "subscriptions")

    def __init__(self) -> None:
        self.publishers: list[Publisher] = []
        self.subscriptions: list[Subscription] = []


class Hub:
    """All endpoints of this process in one domain."""

    def __init__(self, domain_id: int) -> None:
        self.domain_id = domain_id
        self.users = 0
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._nodes: list[Node] = []
        self._topics: dict[str, _Topic] = {}
        self._services: dict[str, list[Service]] = {}
        self._clients: dict[str, list[Client]] = {}
        self._wire: Wire | None = None
        self._closed = False

    @property
    def wire(self) -> Wire:
        """The participant on the wire, opened by the first node."""
        with self._lock:
            if self._closed:
                return NullWire(self.domain_id, "the context has ended")
            if self._wire is None:
                self._wire = open_wire(self.domain_id)
                self._wire.on_graph_change(self._graph_changed)
            return self._wire

    def close(self) -> None:
        """Leave the wire."""
        with self._lock:
            self._closed = True
            wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()

    def _graph_changed(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def wait_for_change(self, timeout: float) -> None:
        """Sleep until the graph changes, at most `timeout` seconds."""
        with self._changed:
            self._changed.wait(timeout)

    # nodes -------------------------------------------------------------------------------------------------------------

    def add_node(self, node: Node) -> None:
        """A node has come."""
        with self._lock:
            self._nodes.append(node)
            self._changed.notify_all()
        self.wire.add_node(node.get_name(), node.get_namespace())

    def remove_node(self, node: Node) -> None:
        """A node has gone."""
        with self._lock:
            if node not in self._nodes:
                return
            self._nodes.remove(node)
            self._changed.notify_all()
            wire = self._wire
        if wire is not None:
            wire.remove_node(node.get_name(), node.get_namespace())

    def nodes(self) -> list[Node]:
        """The nodes of this process."""
        with self._lock:
            return list(self._nodes)

    # topics ------------------------------------------------------------------------------------------------------------

    def add_publisher(self, publisher: Publisher) -> None:
        """Match a new publisher with the subscriptions of this process."""
        with self._lock:
            topic = self._topics.setdefault(publisher._full_name, _Topic())
            topic.publishers.append(publisher)
            others = list(topic.subscriptions)
            self._changed.notify_all()
        for subscription in others:
            self._match(publisher, subscription)

    def add_subscription(self, subscription: Subscription) -> None:
        """Match a new subscription with the publishers of this process; latched messages arrive at once."""
        with self._lock:
            topic = self._topics.setdefault(subscription._full_name, _Topic())
            topic.subscriptions.append(subscription)
            others = list(topic.publishers)
            self._changed.notify_all()
        for publisher in others:
            self._match(publisher, subscription)

    def _match(self, publisher: Publisher, subscription: Subscription) -> None:
        if publisher._type_name != subscription._type_name:
            publisher._incompatible_type()
            subscription._incompatible_type()
            return
        policy = mismatch(publisher.qos_profile, subscription.qos_profile)
        if policy is not None:
            publisher._incompatible_qos(policy, subscription.qos_profile)
            subscription._incompatible_qos(policy, publisher.qos_profile)
            return
        if publisher._connect(subscription):
            subscription._matched(+1)

    def remove_publisher(self, publisher: Publisher) -> None:
        """Unmatch."""
        with self._lock:
            topic = self._topics.get(publisher._full_name)
            if topic is None or publisher not in topic.publishers:
                return
            topic.publishers.remove(publisher)
            self._drop_if_empty(publisher._full_name)
            self._changed.notify_all()
        for subscription in publisher._disconnect_all():
            subscription._matched(-1)

    def remove_subscription(self, subscription: Subscription) -> None:
        """Unmatch."""
        with self._lock:
            topic = self._topics.get(subscription._full_name)
            if topic is None or subscription not in topic.subscriptions:
                return
            topic.subscriptions.remove(subscription)
            others = list(topic.publishers)
            self._drop_if_empty(subscription._full_name)
            self._changed.notify_all()
        for publisher in others:
            publisher._disconnect(subscription)

    def _drop_if_empty(self, name: str) -> None:
        topic = self._topics[name]
        if not topic.publishers and not topic.subscriptions:
            del self._topics[name]

    def publishers(self, topic: str) -> list[Publisher]:
        """Publishers of this process on a topic."""
        with self._lock:
            found = self._topics.get(topic)
            return list(found.publishers) if found else []

    def subscriptions(self, topic: str) -> list[Subscription]:
        """Subscriptions of this process on a topic."""
        with self._lock:
            found = self._topics.get(topic)
            return list(found.subscriptions) if found else []

    def topic_types(self) -> dict[str, set[str]]:
        """Topics of the whole graph with their types."""
        types = {name: set(kinds) for name, kinds in self.wire.topic_names_and_types().items()}
        with self._lock:
            for name, topic in self._topics.items():
                kinds = types.setdefault(name, set())
                kinds.update(publisher._type_name for publisher in topic.publishers)
                kinds.update(subscription._type_name for subscription in topic.subscriptions)
        return types

    # services ----------------------------------------------------------------------------------------------------------

    def add_service(self, service: Service) -> None:
        """A service has come."""
        with self._lock:
            self._services.setdefault(service._full_name, []).append(service)
            self._changed.notify_all()

    def remove_service(self, service: Service) -> None:
        """A service has gone."""
        with self._lock:
            found = self._services.get(service._full_name, [])
            if service in found:
                found.remove(service)
            if not found:
                self._services.pop(service._full_name, None)
            self._changed.notify_all()

    def find_service(self, name: str, kind: str) -> Service | None:
        """The service of this process of that name and type."""
        with self._lock:
            return next((s for s in self._services.get(name, []) if s._type_name == kind), None)

    def services(self, name: str) -> list[Service]:
        """Services of this process of that name."""
        with self._lock:
            return list(self._services.get(name, []))

    def add_client(self, client: Client) -> None:
        """A client has come."""
        with self._lock:
            self._clients.setdefault(client._full_name, []).append(client)
            self._changed.notify_all()

    def remove_client(self, client: Client) -> None:
        """A client has gone."""
        with self._lock:
            found = self._clients.get(client._full_name, [])
            if client in found:
                found.remove(client)
            if not found:
                self._clients.pop(client._full_name, None)
            self._changed.notify_all()

    def clients(self, name: str) -> list[Client]:
        """Clients of this process of that name."""
        with self._lock:
            return list(self._clients.get(name, []))

    def service_types(self) -> dict[str, set[str]]:
        """Services of the whole graph with their types."""
        types = {name: set(kinds) for name, kinds in self.wire.service_names_and_types().items()}
        with self._lock:
            for name, services in self._services.items():
                types.setdefault(name, set()).update(service._type_name for service in services)
        return types


_hubs: dict[int, Hub] = {}
_hubs_lock = threading.Lock()


def acquire_hub(domain_id: int) -> Hub:
    """The hub of a domain; call `release_hub` once for each call."""
    with _hubs_lock:
        hub = _hubs.get(domain_id)
        if hub is None:
            hub = _hubs[domain_id] = Hub(domain_id)
        hub.users += 1
        return hub


def release_hub(hub: Hub) -> None:
    """Give a hub back; the last one to do so leaves the wire."""
    with _hubs_lock:
        hub.users -= 1
        last = hub.users == 0
        if last:
            _hubs.pop(hub.domain_id, None)
    if last:
        hub.close()


def now_ns() -> int:
    """Nanoseconds since the epoch, for message info."""
    return time.time_ns()
