"""Subscriptions: a queue of the newest messages, local ones by reference, remote ones deserialised when their turn comes."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any

from ..messages import type_name
from ..qos import HistoryPolicy, QoSPolicyKind, QoSProfile
from ..serialization import SerializationError
from ..wire import MessageMeta, ReaderHandle, WireEvent
from .callback_groups import CallbackGroup
from .entity import Call, Entity
from .event_handler import EventHandler, EventStatus, QoSSubscriptionEventType, SubscriptionEventCallbacks, apply_wire_event
from .graph import EndpointContext, Sample
from .logging import get_logger


class Subscription(Entity):
    """Receives messages of one topic; made by `Node.create_subscription`.

    Messages from this process arrive as the very object that was published: treat them as read-only. The queue keeps the
    newest `depth` messages.
    """

    class CallbackType(Enum):
        """Whether the callback takes the message alone or a dictionary of message info too."""

        MessageOnly = 0
        WithMessageInfo = 1

    def __init__(
        self,
        subscription_impl: EndpointContext,
        msg_type: Any,
        topic: str,
        callback: Callable[..., Any],
        callback_group: CallbackGroup,
        qos_profile: QoSProfile,
        raw: bool,
        event_callbacks: SubscriptionEventCallbacks,
    ) -> None:
        self._impl = subscription_impl
        self._owner = subscription_impl.node._owner
        self._full_name = subscription_impl.full_name
        self._type_name = type_name(msg_type)
        self._logger_name = subscription_impl.node.get_logger().name
        self.msg_type = msg_type
        self.topic = topic
        self.callback = callback
        self.callback_group = callback_group
        self.qos_profile = qos_profile
        self.raw = raw
        self._events = EventStatus()
        self._last_incompatible_profile: QoSProfile | None = None
        depth = None if qos_profile.history == HistoryPolicy.KEEP_ALL else max(qos_profile.depth, 1)
        self._queue: deque[Sample] = deque(maxlen=depth)
        self._received = 0
        self._closed = False
        self.event_handlers: list[EventHandler] = event_callbacks.create_event_handlers(callback_group, self, topic)
        self._reader: ReaderHandle = subscription_impl.hub.wire.create_reader(
            self._full_name,
            self._type_name,
            qos_profile,
            self._from_wire,
            node=subscription_impl.node_name,
            on_event=self._wire_event,
        )
        subscription_impl.hub.add_subscription(self)

    @property
    def callback(self) -> Callable[..., Any]:
        """The function that gets the messages. Raises RuntimeError when set to one that takes neither 1 nor 2 arguments."""
        return self._callback

    @callback.setter
    def callback(self, value: Callable[..., Any]) -> None:
        self._callback_type = self._kind_of(value)
        self._callback = value

    @classmethod
    def _kind_of(cls, callback: Callable[..., Any]) -> Subscription.CallbackType:
        signature = inspect.signature(callback)
        for count, kind in ((1, cls.CallbackType.MessageOnly), (2, cls.CallbackType.WithMessageInfo)):
            try:
                signature.bind(*([None] * count))
            except TypeError:
                continue
            return kind
        raise RuntimeError(
            "Subscription.__init__(): callback should be either be callable with one argument (to get only the message) or two "
            "(to get message and message info)"
        )

    def get_publisher_count(self) -> int:
        """Matched publishers, in this process and elsewhere."""
        local = sum(self in publisher._readers for publisher in self._impl.hub.publishers(self._full_name))
        return local + self._reader.remote_writers()

    @property
    def topic_name(self) -> str:
        """Fully qualified name of the topic."""
        return self._full_name

    @property
    def handle(self) -> Subscription:
        """The subscription itself: the embedded runtime has no lower layer."""
        return self

    def destroy(self) -> None:
        """Leave the graph; messages in the queue are dropped."""
        for handler in self.event_handlers:
            handler.destroy()
        self._detach()

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *unused: object) -> None:
        self.destroy()

    def _detach(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._impl.hub.remove_subscription(self)
        self._reader.close()
        self._queue.clear()

    # delivery ----------------------------------------------------------------------------------------------------------

    def _deliver(self, sample: Sample) -> None:
        self._queue.append(sample)  # a full queue drops its oldest
        self._wake()

    def _from_wire(self, cdr: memoryview, meta: MessageMeta) -> None:
        if not self._closed:
            self._deliver(Sample(self.msg_type, None, cdr, meta.source_timestamp, meta.received_timestamp, meta.sequence))

    def _pending(self) -> bool:
        return bool(self._queue)

    def _take(self) -> Call | None:
        try:
            return self._execute, (self._queue.popleft(),)
        except IndexError:
            return None

    def _execute(self, sample: Sample) -> Any:
        if self._closed:
            return None
        self._received += 1
        try:
            message = sample.cdr() if self.raw else sample.message()
        except SerializationError as error:
            get_logger(self._logger_name).error(f"message on '{self._full_name}' dropped: {error}", throttle_duration_sec=5.0)
            return None
        if self._callback_type is self.CallbackType.MessageOnly:
            return self._callback(message)
        info = {
            "source_timestamp": sample.source_ns,
            "received_timestamp": sample.received_ns,
            "publication_sequence_number": sample.sequence,
            "reception_sequence_number": self._received,
        }
        return self._callback(message, info)

    # called by the graph -----------------------------------------------------------------------------------------------

    def _matched(self, change: int) -> None:
        self._events.add(QoSSubscriptionEventType.RCL_SUBSCRIPTION_MATCHED, total_count=max(change, 0), current_count=change)

    def _incompatible_qos(self, policy: QoSPolicyKind, other: QoSProfile) -> None:
        self._last_incompatible_profile = other
        self._events.add(
            QoSSubscriptionEventType.RCL_SUBSCRIPTION_REQUESTED_INCOMPATIBLE_QOS,
            total_count=1,
            last_policy_kind=int(policy),
        )

    def _incompatible_type(self) -> None:
        self._events.add(QoSSubscriptionEventType.RCL_SUBSCRIPTION_INCOMPATIBLE_TYPE, total_count=1)

    def _wire_event(self, event: WireEvent) -> None:
        if event.kind == "incompatible_qos":
            self._last_incompatible_profile = None
        apply_wire_event(self._events, event.kind, event.details, publisher=False)
