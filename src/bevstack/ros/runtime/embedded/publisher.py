"""Publishers: by reference to subscriptions of this process, serialised once for everybody else."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from ..duration import INFINITE_NANOSECONDS, Duration
from ..messages import type_name
from ..qos import DurabilityPolicy, HistoryPolicy, QoSPolicyKind, QoSProfile
from ..serialization import serialize_to_buffers
from ..wire import WireError, WireEvent, WriterHandle
from .callback_groups import CallbackGroup
from .event_handler import EventHandler, EventStatus, PublisherEventCallbacks, QoSPublisherEventType, apply_wire_event
from .exceptions import InvalidHandle, RCLError
from .graph import EndpointContext, Sample, now_ns

if TYPE_CHECKING:
    from .subscription import Subscription


class Publisher:
    """Sends messages on one topic; made by `Node.create_publisher`.

    A message given to `publish()` is shared with all subscriptions of this process: do not change it afterwards.
    """

    def __init__(
        self,
        publisher_impl: EndpointContext,
        msg_type: Any,
        topic: str,
        qos_profile: QoSProfile,
        event_callbacks: PublisherEventCallbacks,
        callback_group: CallbackGroup,
    ) -> None:
        self._impl = publisher_impl
        self._owner = publisher_impl.node._owner
        self._context = publisher_impl.node.context
        self._full_name = publisher_impl.full_name
        self._type_name = type_name(msg_type)
        self._logger_name = publisher_impl.node.get_logger().name
        self.msg_type = msg_type
        self.topic = topic
        self.qos_profile = qos_profile
        self.callback_group = callback_group
        self._events = EventStatus()
        self._last_incompatible_profile: QoSProfile | None = None
        self._lock = threading.Lock()
        self._readers: tuple[Subscription, ...] = ()
        self._sequence = 0
        self._closed = False
        self._latched = qos_profile.durability in (DurabilityPolicy.TRANSIENT_LOCAL, DurabilityPolicy.BEST_AVAILABLE)
        depth = None if qos_profile.history == HistoryPolicy.KEEP_ALL else max(qos_profile.depth, 1)
        self._kept: deque[Sample] = deque(maxlen=depth)
        self._lifespan_ns = qos_profile.lifespan.nanoseconds
        self._writer: WriterHandle = publisher_impl.hub.wire.create_writer(
            self._full_name, self._type_name, qos_profile, node=publisher_impl.node_name, on_event=self._wire_event
        )
        self.event_handlers: list[EventHandler] = event_callbacks.create_event_handlers(callback_group, self, topic)
        publisher_impl.hub.add_publisher(self)

    def publish(self, msg: Any) -> None:
        """Send a message object, or an already serialised message as `bytes`.

        Raises TypeError for another type, `InvalidHandle` after `destroy()`, `RCLError` after shutdown.
        """
        now = now_ns()
        if isinstance(msg, self.msg_type):
            sample = Sample(self.msg_type, msg, None, now, now, self._sequence)
        elif isinstance(msg, bytes):
            sample = Sample(self.msg_type, None, msg, now, now, self._sequence)
        else:
            raise TypeError(f"Expected {self.msg_type}, got {type(msg)}")
        if self._closed:
            self._raise_closed()
        if self._latched:
            with self._lock:
                self._sequence += 1
                self._kept.append(sample)
                readers = self._readers
        else:
            self._sequence += 1
            readers = self._readers
        for reader in readers:
            reader._deliver(sample)
        # The library keeps latched messages for late joiners of other processes, so it must get them in any case.
        writer = self._writer
        if self._latched or writer.remote_readers():
            try:
                writer.write(serialize_to_buffers(msg) if sample._cdr is None else sample._cdr)
            except WireError as error:
                if self._closed:
                    self._raise_closed()
                raise RCLError(f"Failed to publish: {error}") from error

    def _raise_closed(self) -> None:
        if not self._context.ok():
            raise RCLError("Failed to publish: publisher's context is invalid")
        raise InvalidHandle("cannot use Destroyable because destruction was requested")

    def get_subscription_count(self) -> int:
        """Matched subscriptions, in this process and elsewhere."""
        return len(self._readers) + self._writer.remote_readers()

    @property
    def topic_name(self) -> str:
        """Fully qualified name of the topic."""
        return self._full_name

    @property
    def handle(self) -> Publisher:
        """The publisher itself: the embedded runtime has no lower layer."""
        return self

    def assert_liveliness(self) -> None:
        """Say that this publisher is alive, for liveliness "manual by topic"."""
        if self._closed:
            self._raise_closed()
        self._writer.assert_liveliness()

    def wait_for_all_acked(self, timeout: Duration = Duration(nanoseconds=-1000000000)) -> bool:  # noqa: B008
        """True once all reliable subscriptions have everything (this process's have it when `publish()` returns)."""
        if self._closed:
            self._raise_closed()
        limit = timeout.nanoseconds if timeout.nanoseconds >= 0 else INFINITE_NANOSECONDS
        return self._writer.wait_for_acknowledgements(limit)

    def destroy(self) -> None:
        """Leave the graph."""
        for handler in self.event_handlers:
            handler.destroy()
        self._detach()

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *unused: object) -> None:
        self.destroy()

    def _detach(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._impl.hub.remove_publisher(self)
        self._writer.close()

    # called by the graph -----------------------------------------------------------------------------------------------

    def _connect(self, subscription: Subscription) -> bool:
        with self._lock:
            if self._closed or subscription._closed or subscription in self._readers:
                return False
            if self._latched and subscription.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL:
                oldest = now_ns() - self._lifespan_ns if self._lifespan_ns else 0
                for sample in self._kept:
                    if sample.source_ns >= oldest:
                        subscription._deliver(sample)
            self._readers = (*self._readers, subscription)
        self._events.add(QoSPublisherEventType.RCL_PUBLISHER_MATCHED, total_count=1, current_count=1)
        return True

    def _disconnect(self, subscription: Subscription) -> None:
        with self._lock:
            if subscription not in self._readers:
                return
            self._readers = tuple(reader for reader in self._readers if reader is not subscription)
        self._events.add(QoSPublisherEventType.RCL_PUBLISHER_MATCHED, total_count=0, current_count=-1)

    def _disconnect_all(self) -> tuple[Subscription, ...]:
        with self._lock:
            readers, self._readers = self._readers, ()
        return readers

    def _incompatible_qos(self, policy: QoSPolicyKind, other: QoSProfile) -> None:
        self._last_incompatible_profile = other
        self._events.add(
            QoSPublisherEventType.RCL_PUBLISHER_OFFERED_INCOMPATIBLE_QOS, total_count=1, last_policy_kind=int(policy)
        )

    def _incompatible_type(self) -> None:
        self._events.add(QoSPublisherEventType.RCL_PUBLISHER_INCOMPATIBLE_TYPE, total_count=1)

    def _wire_event(self, event: WireEvent) -> None:
        if event.kind == "incompatible_qos":
            self._last_incompatible_profile = None
        apply_wire_event(self._events, event.kind, event.details, publisher=True)
