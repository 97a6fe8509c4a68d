"""Events of publishers and subscriptions: incompatible QoS, matches, deadlines, liveliness, lost messages."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from ..qos import QoSPolicyKind, qos_policy_name_from_kind
from .callback_groups import CallbackGroup
from .entity import Call, Entity, Owner
from .logging import get_logger

if TYPE_CHECKING:
    from .publisher import Publisher
    from .subscription import Subscription


class QoSPublisherEventType(IntEnum):
    """Events of a publisher."""

    RCL_PUBLISHER_OFFERED_DEADLINE_MISSED = 0
    RCL_PUBLISHER_LIVELINESS_LOST = 1
    RCL_PUBLISHER_OFFERED_INCOMPATIBLE_QOS = 2
    RCL_PUBLISHER_INCOMPATIBLE_TYPE = 3
    RCL_PUBLISHER_MATCHED = 4


class QoSSubscriptionEventType(IntEnum):
    """Events of a subscription."""

    RCL_SUBSCRIPTION_REQUESTED_DEADLINE_MISSED = 0
    RCL_SUBSCRIPTION_LIVELINESS_CHANGED = 1
    RCL_SUBSCRIPTION_REQUESTED_INCOMPATIBLE_QOS = 2
    RCL_SUBSCRIPTION_MESSAGE_LOST = 3
    RCL_SUBSCRIPTION_INCOMPATIBLE_TYPE = 4
    RCL_SUBSCRIPTION_MATCHED = 5


@dataclass(frozen=True, slots=True)
class _CountInfo:
    total_count: int
    total_count_change: int


class QoSOfferedDeadlineMissedInfo(_CountInfo):
    """A publisher was slower than its deadline."""


class QoSRequestedDeadlineMissedInfo(_CountInfo):
    """A subscription waited longer than its deadline."""


class QoSLivelinessLostInfo(_CountInfo):
    """A publisher did not assert its liveliness in time."""


class QoSMessageLostInfo(_CountInfo):
    """Messages did not arrive."""


class IncompatibleTypeInfo(_CountInfo):
    """An endpoint of another type was found on the topic."""


@dataclass(frozen=True, slots=True)
class _IncompatibleQoSInfo(_CountInfo):
    last_policy_kind: int


class QoSOfferedIncompatibleQoSInfo(_IncompatibleQoSInfo):
    """A subscription asks for more than this publisher offers."""


class QoSRequestedIncompatibleQoSInfo(_IncompatibleQoSInfo):
    """A publisher offers less than this subscription asks for."""


@dataclass(frozen=True, slots=True)
class QoSLivelinessChangedInfo:
    """Publishers came alive or ceased to be."""

    alive_count: int
    alive_count_change: int
    not_alive_count: int
    not_alive_count_change: int


@dataclass(frozen=True, slots=True)
class _MatchedInfo:
    total_count: int
    total_count_change: int
    current_count: int
    current_count_change: int


class QoSPublisherMatchedInfo(_MatchedInfo):
    """Subscriptions came or went."""


class QoSSubscriptionMatchedInfo(_MatchedInfo):
    """Publishers came or went."""


_P, _S = QoSPublisherEventType, QoSSubscriptionEventType
_INFO_BY_NAME: dict[str, type[Any]] = {
    _P.RCL_PUBLISHER_OFFERED_DEADLINE_MISSED.name: QoSOfferedDeadlineMissedInfo,
    _P.RCL_PUBLISHER_LIVELINESS_LOST.name: QoSLivelinessLostInfo,
    _P.RCL_PUBLISHER_OFFERED_INCOMPATIBLE_QOS.name: QoSOfferedIncompatibleQoSInfo,
    _P.RCL_PUBLISHER_INCOMPATIBLE_TYPE.name: IncompatibleTypeInfo,
    _P.RCL_PUBLISHER_MATCHED.name: QoSPublisherMatchedInfo,
    _S.RCL_SUBSCRIPTION_REQUESTED_DEADLINE_MISSED.name: QoSRequestedDeadlineMissedInfo,
    _S.RCL_SUBSCRIPTION_LIVELINESS_CHANGED.name: QoSLivelinessChangedInfo,
    _S.RCL_SUBSCRIPTION_REQUESTED_INCOMPATIBLE_QOS.name: QoSRequestedIncompatibleQoSInfo,
    _S.RCL_SUBSCRIPTION_MESSAGE_LOST.name: QoSMessageLostInfo,
    _S.RCL_SUBSCRIPTION_INCOMPATIBLE_TYPE.name: IncompatibleTypeInfo,
    _S.RCL_SUBSCRIPTION_MATCHED.name: QoSSubscriptionMatchedInfo,
}


class EventStatus:
    """Counters of the events of one endpoint; feeds the handler, if any. Safe in any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, dict[str, int]] = {}
        self._handlers: dict[str, EventHandler] = {}

    def attach(self, event_type: IntEnum, handler: EventHandler) -> None:
        """Events that have happened before are delivered too."""
        with self._lock:
            self._handlers[event_type.name] = handler
            pending = event_type.name in self._counts
        if pending:
            handler._wake()

    def add(self, event_type: IntEnum, **changes: int) -> None:
        """Add to the counters; `last_policy_kind` replaces. Wakes the handler."""
        with self._lock:
            counts = self._counts.setdefault(event_type.name, {})
            for key, change in changes.items():
                if key == "last_policy_kind":
                    counts[key] = change
                    continue
                counts[key] = counts.get(key, 0) + change
                counts[f"{key}_change"] = counts.get(f"{key}_change", 0) + change
            counts["fresh"] = 1
            handler = self._handlers.get(event_type.name)
        if handler is not None:
            handler._wake()

    def fresh(self, event_type: IntEnum) -> bool:
        """True if something happened since the last `take()`."""
        return bool(self._counts.get(event_type.name, {}).get("fresh"))

    def take(self, event_type: IntEnum) -> Any | None:
        """The info object, once per change; None if nothing has happened."""
        with self._lock:
            counts = self._counts.get(event_type.name)
            if not counts or not counts["fresh"]:
                return None
            info = _INFO_BY_NAME[event_type.name](**{key: value for key, value in counts.items() if key != "fresh"})
            for key in counts:
                if key.endswith("_change"):
                    counts[key] = 0
            counts["fresh"] = 0
            return info


class EventHandler(Entity):
    """Calls `callback(info)` in the executor when the event of its endpoint happens."""

    def __init__(
        self, *, callback_group: CallbackGroup, callback: Callable[..., Any], event_type: IntEnum, parent_impl: Any
    ) -> None:
        self.callback_group = callback_group
        self.callback = callback
        self.event_type = event_type
        self._status: EventStatus = parent_impl._events
        self._owner: Owner = parent_impl._owner
        self._destroyed = False
        self._status.attach(event_type, self)

    def destroy(self) -> None:
        """No more callbacks."""
        self._destroyed = True

    def _pending(self) -> bool:
        return not self._destroyed and self._status.fresh(self.event_type)

    def _take(self) -> Call | None:
        info = self._status.take(self.event_type)
        return None if info is None or self._destroyed else (self.callback, (info,))


QoSEventHandler = EventHandler


def _handlers(
    callback_group: CallbackGroup, parent: Any, callbacks: dict[IntEnum, Callable[..., Any] | None]
) -> list[EventHandler]:
    return [
        EventHandler(callback_group=callback_group, callback=callback, event_type=kind, parent_impl=parent)
        for kind, callback in callbacks.items()
        if callback
    ]


def _profiles(endpoint: Any) -> str:
    """The two profiles of the last incompatibility, where this process knows both."""
    other = endpoint._last_incompatible_profile
    return f" This side has {endpoint.qos_profile}, the other side {other}." if other is not None else ""


class PublisherEventCallbacks:
    """Callbacks for the events of a publisher; by default incompatible QoS and types are logged as warnings."""

    def __init__(
        self,
        *,
        deadline: Callable[[QoSOfferedDeadlineMissedInfo], None] | None = None,
        liveliness: Callable[[QoSLivelinessLostInfo], None] | None = None,
        incompatible_qos: Callable[[QoSOfferedIncompatibleQoSInfo], None] | None = None,
        incompatible_type: Callable[[IncompatibleTypeInfo], None] | None = None,
        matched: Callable[[QoSPublisherMatchedInfo], None] | None = None,
        use_default_callbacks: bool = True,
    ) -> None:
        self.deadline = deadline
        self.liveliness = liveliness
        self.incompatible_qos = incompatible_qos
        self.incompatible_type = incompatible_type
        self.matched = matched
        self.use_default_callbacks = use_default_callbacks

    def create_event_handlers(self, callback_group: CallbackGroup, publisher: Publisher, topic_name: str) -> list[EventHandler]:
        """One handler per callback."""
        logger = get_logger(publisher._logger_name)

        def warn_qos(event: QoSOfferedIncompatibleQoSInfo) -> None:
            logger.warning(
                f"New subscription discovered on topic '{topic_name}', requesting incompatible QoS. "
                "No messages will be sent to it. "
                f"Last incompatible policy: {qos_policy_name_from_kind(event.last_policy_kind)}.{_profiles(publisher)}"
            )

        def warn_type(event: IncompatibleTypeInfo) -> None:
            logger.warning(f"Incompatible type on topic '{topic_name}', no messages will be sent to it.")

        incompatible_qos, incompatible_type = self.incompatible_qos, self.incompatible_type
        if self.use_default_callbacks:
            incompatible_qos = incompatible_qos or warn_qos
            incompatible_type = incompatible_type or warn_type
        return _handlers(
            callback_group,
            publisher,
            {
                _P.RCL_PUBLISHER_OFFERED_DEADLINE_MISSED: self.deadline,
                _P.RCL_PUBLISHER_LIVELINESS_LOST: self.liveliness,
                _P.RCL_PUBLISHER_OFFERED_INCOMPATIBLE_QOS: incompatible_qos,
                _P.RCL_PUBLISHER_INCOMPATIBLE_TYPE: incompatible_type,
                _P.RCL_PUBLISHER_MATCHED: self.matched,
            },
        )


class SubscriptionEventCallbacks:
    """Callbacks for the events of a subscription; by default incompatible QoS and types are logged as warnings."""

    def __init__(
        self,
        *,
        deadline: Callable[[QoSRequestedDeadlineMissedInfo], None] | None = None,
        incompatible_qos: Callable[[QoSRequestedIncompatibleQoSInfo], None] | None = None,
        liveliness: Callable[[QoSLivelinessChangedInfo], None] | None = None,
        message_lost: Callable[[QoSMessageLostInfo], None] | None = None,
        incompatible_type: Callable[[IncompatibleTypeInfo], None] | None = None,
        matched: Callable[[QoSSubscriptionMatchedInfo], None] | None = None,
        use_default_callbacks: bool = True,
    ) -> None:
        self.deadline = deadline
        self.incompatible_qos = incompatible_qos
        self.liveliness = liveliness
        self.message_lost = message_lost
        self.incompatible_type = incompatible_type
        self.matched = matched
        self.use_default_callbacks = use_default_callbacks

    def create_event_handlers(
        self, callback_group: CallbackGroup, subscription: Subscription, topic_name: str
    ) -> list[EventHandler]:
        """One handler per callback."""
        logger = get_logger(subscription._logger_name)

        def warn_qos(event: QoSRequestedIncompatibleQoSInfo) -> None:
            logger.warning(
                f"New publisher discovered on topic '{topic_name}', offering incompatible QoS. "
                "No messages will be received from it. "
                f"Last incompatible policy: {qos_policy_name_from_kind(event.last_policy_kind)}.{_profiles(subscription)}"
            )

        def warn_type(event: IncompatibleTypeInfo) -> None:
            logger.warning(f"Incompatible type on topic '{topic_name}', no messages will be received from it.")

        incompatible_qos, incompatible_type = self.incompatible_qos, self.incompatible_type
        if self.use_default_callbacks:
            incompatible_qos = incompatible_qos or warn_qos
            incompatible_type = incompatible_type or warn_type
        return _handlers(
            callback_group,
            subscription,
            {
                _S.RCL_SUBSCRIPTION_REQUESTED_DEADLINE_MISSED: self.deadline,
                _S.RCL_SUBSCRIPTION_REQUESTED_INCOMPATIBLE_QOS: incompatible_qos,
                _S.RCL_SUBSCRIPTION_LIVELINESS_CHANGED: self.liveliness,
                _S.RCL_SUBSCRIPTION_MESSAGE_LOST: self.message_lost,
                _S.RCL_SUBSCRIPTION_INCOMPATIBLE_TYPE: incompatible_type,
                _S.RCL_SUBSCRIPTION_MATCHED: self.matched,
            },
        )


def apply_wire_event(status: EventStatus, kind: str, details: dict[str, Any], *, publisher: bool) -> None:
    """Enter what the wire reports about an endpoint into its counters."""
    change = int(details.get("total_change", 0))
    if kind == "incompatible_qos":
        policy = int(details.get("policy", QoSPolicyKind.INVALID))
        event: IntEnum = (
            _P.RCL_PUBLISHER_OFFERED_INCOMPATIBLE_QOS if publisher else _S.RCL_SUBSCRIPTION_REQUESTED_INCOMPATIBLE_QOS
        )
        status.add(event, total_count=change, last_policy_kind=policy)
    elif kind == "matched":
        status.add(
            _P.RCL_PUBLISHER_MATCHED if publisher else _S.RCL_SUBSCRIPTION_MATCHED,
            total_count=change,
            current_count=int(details.get("current_change", 0)),
        )
    elif kind == "deadline_missed":
        status.add(
            _P.RCL_PUBLISHER_OFFERED_DEADLINE_MISSED if publisher else _S.RCL_SUBSCRIPTION_REQUESTED_DEADLINE_MISSED,
            total_count=change,
        )
    elif kind == "liveliness_lost" and publisher:
        status.add(_P.RCL_PUBLISHER_LIVELINESS_LOST, total_count=change)
    elif kind == "liveliness_changed" and not publisher:
        status.add(
            _S.RCL_SUBSCRIPTION_LIVELINESS_CHANGED,
            alive_count=int(details.get("alive_change", 0)),
            not_alive_count=int(details.get("not_alive_change", 0)),
        )
    elif kind == "message_lost" and not publisher:
        status.add(_S.RCL_SUBSCRIPTION_MESSAGE_LOST, total_count=change)
