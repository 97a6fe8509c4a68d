"""Lifecycle nodes: managed start and stop with the states, transitions and services of ROS 2 (lifecycle_msgs)."""

from __future__ import annotations

import functools
import threading
import traceback
from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple

from ..messages import message_class
from ..qos import QoSProfile
from .callback_groups import CallbackGroup
from .exceptions import InvalidHandle, RCLError
from .node import Node as _RosNode
from .publisher import Publisher as _RosPublisher


class LifecycleState(NamedTuple):
    """A state: its name and its number in lifecycle_msgs/msg/State."""

    label: str
    state_id: int


State = LifecycleState


class TransitionCallbackReturn(Enum):
    """What a transition callback gives back."""

    SUCCESS = 97
    FAILURE = 98
    ERROR = 99

    def to_label(self) -> str:
        """`transition_success`, `transition_failure` or `transition_error`."""
        return f"transition_{self.name.lower()}"


class ManagedEntity:
    """Something that follows the transitions of its node."""

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Called on configure."""
        return TransitionCallbackReturn.SUCCESS

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Called on cleanup."""
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Called on shutdown."""
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Called on activate."""
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Called on deactivate."""
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Called after an error."""
        return TransitionCallbackReturn.SUCCESS


class SimpleManagedEntity(ManagedEntity):
    """A managed entity that is merely switched on by activate and off by deactivate."""

    def __init__(self) -> None:
        self._enabled = False

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._enabled = True
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._enabled = False
        return TransitionCallbackReturn.SUCCESS

    @property
    def is_activated(self) -> bool:
        """True between activate and deactivate."""
        return self._enabled

    @staticmethod
    def when_enabled(wrapped: Any = None, *, when_not_enabled: Callable[..., Any] | None = None) -> Any:
        """Decorator: the method does nothing (or calls `when_not_enabled`) while the entity is not activated."""
        if wrapped is None:
            return functools.partial(SimpleManagedEntity.when_enabled, when_not_enabled=when_not_enabled)

        @functools.wraps(wrapped)
        def wrapper(self: SimpleManagedEntity, *args: Any, **kwargs: Any) -> Any:
            if not self._enabled:
                return None if when_not_enabled is None else when_not_enabled()
            return wrapped(self, *args, **kwargs)

        return wrapper


class LifecyclePublisher(SimpleManagedEntity, _RosPublisher):
    """A publisher that sends only while its node is active."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        SimpleManagedEntity.__init__(self)
        _RosPublisher.__init__(self, *args, **kwargs)

    @SimpleManagedEntity.when_enabled
    def publish(self, msg: Any) -> None:
        """Send, if active; see `rclpy.publisher.Publisher.publish`."""
        _RosPublisher.publish(self, msg)


Publisher = LifecyclePublisher

_UNKNOWN = State("unknown", 0)
_UNCONFIGURED = State("unconfigured", 1)
_INACTIVE = State("inactive", 2)
_ACTIVE = State("active", 3)
_FINALIZED = State("finalized", 4)
_CONFIGURING = State("configuring", 10)
_CLEANING_UP = State("cleaningup", 11)
_SHUTTING_DOWN = State("shuttingdown", 12)
_ACTIVATING = State("activating", 13)
_DEACTIVATING = State("deactivating", 14)
_ERROR_PROCESSING = State("errorprocessing", 15)
_STATES = (
    _UNKNOWN,
    _UNCONFIGURED,
    _INACTIVE,
    _ACTIVE,
    _FINALIZED,
    _CONFIGURING,
    _CLEANING_UP,
    _SHUTTING_DOWN,
    _ACTIVATING,
    _DEACTIVATING,
    _ERROR_PROCESSING,
)


class _Transition(NamedTuple):
    identity: int
    label: str
    start: State
    goal: State


def _outcomes(first: int, moving: State, success: State, failure: State) -> list[_Transition]:
    """The three ends of a transition; numbers as in lifecycle_msgs/msg/Transition."""
    return [
        _Transition(first, "transition_success", moving, success),
        _Transition(first + 1, "transition_failure", moving, failure),
        _Transition(first + 2, "transition_error", moving, _ERROR_PROCESSING),
    ]


_TRANSITIONS: list[_Transition] = [
    _Transition(1, "configure", _UNCONFIGURED, _CONFIGURING),
    *_outcomes(10, _CONFIGURING, _INACTIVE, _UNCONFIGURED),
    _Transition(2, "cleanup", _INACTIVE, _CLEANING_UP),
    *_outcomes(20, _CLEANING_UP, _UNCONFIGURED, _INACTIVE),
    _Transition(3, "activate", _INACTIVE, _ACTIVATING),
    *_outcomes(30, _ACTIVATING, _ACTIVE, _INACTIVE),
    _Transition(4, "deactivate", _ACTIVE, _DEACTIVATING),
    *_outcomes(40, _DEACTIVATING, _INACTIVE, _ACTIVE),
    _Transition(5, "shutdown", _UNCONFIGURED, _SHUTTING_DOWN),
    _Transition(6, "shutdown", _INACTIVE, _SHUTTING_DOWN),
    _Transition(7, "shutdown", _ACTIVE, _SHUTTING_DOWN),
    *_outcomes(50, _SHUTTING_DOWN, _FINALIZED, _FINALIZED),
    _Transition(60, "transition_success", _ERROR_PROCESSING, _UNCONFIGURED),
    _Transition(61, "transition_failure", _ERROR_PROCESSING, _FINALIZED),
    _Transition(62, "transition_error", _ERROR_PROCESSING, _FINALIZED),
]


class LifecycleNodeMixin(ManagedEntity):
    """Makes a lifecycle node of a `Node`; use `LifecycleNode`."""

    def __init__(self, *, enable_communication_interface: bool = True, callback_group: CallbackGroup | None = None) -> None:
        self._managed_entities: list[ManagedEntity] = []
        self._state = _UNCONFIGURED
        self._transition_lock = threading.RLock()
        self._in_transition = False
        self._transition_event_publisher: _RosPublisher | None = None
        self._callbacks: dict[State, Callable[[State], Any]] = {
            _CONFIGURING: self._call_all("on_configure"),
            _CLEANING_UP: self._call_all("on_cleanup"),
            _SHUTTING_DOWN: self._call_all("on_shutdown"),
            _ACTIVATING: self._call_all("on_activate"),
            _DEACTIVATING: self._call_all("on_deactivate"),
            _ERROR_PROCESSING: self._call_all("on_error"),
        }
        node: Any = self
        group = callback_group or node.default_callback_group
        if enable_communication_interface:
            self._transition_event_publisher = node.create_publisher(
                message_class("lifecycle_msgs/msg/TransitionEvent"), "~/transition_event", QoSProfile(depth=10)
            )
            for kind, name, callback in (
                ("ChangeState", "change_state", self._on_change_state),
                ("GetState", "get_state", self._on_get_state),
                ("GetAvailableStates", "get_available_states", self._on_get_available_states),
                ("GetAvailableTransitions", "get_available_transitions", self._on_get_available_transitions),
                ("GetAvailableTransitions", "get_transition_graph", self._on_get_transition_graph),
            ):
                node.create_service(message_class(f"lifecycle_msgs/srv/{kind}"), f"~/{name}", callback, callback_group=group)

    def _call_all(self, name: str) -> Callable[[State], Any]:
        def call(state: State) -> Any:
            return getattr(self, name)(state)

        return call

    # transitions asked for by code -------------------------------------------------------------------------------------

    def trigger_configure(self) -> TransitionCallbackReturn:
        """Configure. Gives the result of the transition; raises `RCLError` in a state that does not allow it."""
        return self._change_state("configure")

    def trigger_cleanup(self) -> TransitionCallbackReturn:
        """Clean up; see `trigger_configure`."""
        return self._change_state("cleanup")

    def trigger_shutdown(self) -> TransitionCallbackReturn:
        """Shut down; see `trigger_configure`."""
        return self._change_state("shutdown")

    def trigger_activate(self) -> TransitionCallbackReturn:
        """Activate; see `trigger_configure`."""
        return self._change_state("activate")

    def trigger_deactivate(self) -> TransitionCallbackReturn:
        """Deactivate; see `trigger_configure`."""
        return self._change_state("deactivate")

    # callbacks: managed entities follow --------------------------------------------------------------------------------

    def _entities_follow(self, name: str, state: LifecycleState) -> TransitionCallbackReturn:
        for entity in self._managed_entities:
            result: TransitionCallbackReturn = getattr(entity, name)(state)
            if not isinstance(result, TransitionCallbackReturn):
                return TransitionCallbackReturn.ERROR
            if result is not TransitionCallbackReturn.SUCCESS:
                return result
        return TransitionCallbackReturn.SUCCESS

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Override; call `super().on_configure(state)` so that managed entities follow."""
        return self._entities_follow("on_configure", state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Override; call `super().on_cleanup(state)` so that managed entities follow."""
        return self._entities_follow("on_cleanup", state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Override; call `super().on_shutdown(state)` so that managed entities follow."""
        return self._entities_follow("on_shutdown", state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Override; call `super().on_activate(state)` so that managed entities follow."""
        return self._entities_follow("on_activate", state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Override; call `super().on_deactivate(state)` so that managed entities follow."""
        return self._entities_follow("on_deactivate", state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Called after an error; SUCCESS leads back to unconfigured, anything else to finalized."""
        return self._entities_follow("on_error", state)

    def add_managed_entity(self, entity: ManagedEntity) -> None:
        """Let an entity follow the transitions."""
        if entity not in self._managed_entities:
            self._managed_entities.append(entity)

    def create_lifecycle_publisher(self, *args: Any, **kwargs: Any) -> Any:
        """A publisher that sends only while the node is active; arguments of `create_publisher`."""
        if "publisher_class" in kwargs:
            raise TypeError(
                "create_publisher() got an unexpected keyword argument 'publisher_class'. Use create_publisher() instead"
            )
        node: Any = self
        publisher = node.create_publisher(*args, **kwargs, publisher_class=LifecyclePublisher)
        self._managed_entities.append(publisher)
        return publisher

    def destroy_lifecycle_publisher(self, publisher: LifecyclePublisher) -> bool:
        """Destroy one; False if it is not this node's."""
        if publisher in self._managed_entities:
            self._managed_entities.remove(publisher)
        node: Any = self
        return bool(node.destroy_publisher(publisher))

    # the state machine -------------------------------------------------------------------------------------------------

    def _change_state(self, wanted: str | int) -> TransitionCallbackReturn:
        """Run a transition, by label or number. Raises `RCLError` if there is none from here."""
        with self._transition_lock:
            transition = next((t for t in _TRANSITIONS if t.start == self._state and wanted in (t.label, t.identity)), None)
            if transition is None or self._in_transition:
                raise RCLError(f"No transition matching '{wanted}' found for current state '{self._state.label}'")
            self._in_transition = True
            try:
                previous = self._state
                self._enter(transition)
                result = self._execute(previous)
                self._enter_outcome(result)
                if self._state == _ERROR_PROCESSING:
                    self._enter_outcome(self._execute(previous))
                return result
            finally:
                self._in_transition = False

    def _enter_outcome(self, result: TransitionCallbackReturn) -> None:
        self._enter(next(t for t in _TRANSITIONS if t.start == self._state and t.label == result.to_label()))

    def _execute(self, previous: State) -> TransitionCallbackReturn:
        try:
            result = self._callbacks[self._state](previous)
        except Exception:  # noqa: BLE001 - an exception in a callback is the error outcome, as in rclpy; it is logged
            node: Any = self
            node.get_logger().error(f"exception while {self._state.label}:\n{traceback.format_exc()}")
            return TransitionCallbackReturn.ERROR
        if not isinstance(result, TransitionCallbackReturn):
            node = self
            node.get_logger().error(f"callback of '{self._state.label}' must give a TransitionCallbackReturn, gave {result!r}")
            return TransitionCallbackReturn.ERROR
        return result

    def _enter(self, transition: _Transition) -> None:
        self._state = transition.goal
        publisher = self._transition_event_publisher
        if publisher is None:
            return
        event = message_class("lifecycle_msgs/msg/TransitionEvent")
        node: Any = self
        try:
            publisher.publish(
                event(
                    timestamp=node.get_clock().now().nanoseconds,
                    transition=_transition_message(transition),
                    start_state=_state_message(transition.start),
                    goal_state=_state_message(transition.goal),
                )
            )
        except (RCLError, InvalidHandle):
            return  # the context has ended: nobody listens any more

    # services ----------------------------------------------------------------------------------------------------------

    def _on_change_state(self, request: Any, response: Any) -> Any:
        wanted: str | int = request.transition.label or int(request.transition.id)
        if isinstance(wanted, int) and wanted in (5, 6, 7):
            wanted = "shutdown"
        try:
            response.success = self._change_state(wanted) is TransitionCallbackReturn.SUCCESS
        except RCLError as error:
            node: Any = self
            node.get_logger().warning(str(error))
            response.success = False
        return response

    def _on_get_state(self, request: Any, response: Any) -> Any:
        response.current_state = _state_message(self._state)
        return response

    def _on_get_available_states(self, request: Any, response: Any) -> Any:
        response.available_states = [_state_message(state) for state in _STATES]
        return response

    def _on_get_available_transitions(self, request: Any, response: Any) -> Any:
        response.available_transitions = [_description(t) for t in _TRANSITIONS if t.start == self._state]
        return response

    def _on_get_transition_graph(self, request: Any, response: Any) -> Any:
        response.available_transitions = [_description(t) for t in _TRANSITIONS]
        return response


def _state_message(state: State) -> Any:
    return message_class("lifecycle_msgs/msg/State")(id=state.state_id, label=state.label)


def _transition_message(transition: _Transition) -> Any:
    return message_class("lifecycle_msgs/msg/Transition")(id=transition.identity, label=transition.label)


def _description(transition: _Transition) -> Any:
    return message_class("lifecycle_msgs/msg/TransitionDescription")(
        transition=_transition_message(transition),
        start_state=_state_message(transition.start),
        goal_state=_state_message(transition.goal),
    )


class LifecycleNode(LifecycleNodeMixin, _RosNode):
    """A node with managed start and stop: override `on_configure`, `on_activate` and so on."""

    def __init__(self, node_name: str, *, enable_communication_interface: bool = True, **kwargs: Any) -> None:
        _RosNode.__init__(self, node_name, **kwargs)
        LifecycleNodeMixin.__init__(self, enable_communication_interface=enable_communication_interface)


Node = LifecycleNode
NodeMixin = LifecycleNodeMixin
