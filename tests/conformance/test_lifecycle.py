"""Lifecycle nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from std_msgs.msg import String

from bevstack.ros import runtime as ros
from bevstack.ros.runtime import LifecycleNode, State, TransitionCallbackReturn

OK, FAIL, ERROR = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE, TransitionCallbackReturn.ERROR


class Managed(LifecycleNode):
    """Does what its `plan` says."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.calls: list[tuple[str, str]] = []
        self.plan: dict[str, Any] = {}

    def _do(self, name: str, state: State) -> TransitionCallbackReturn:
        self.calls.append((name, state.label))
        result = self.plan.get(name, OK)
        if isinstance(result, Exception):
            raise result
        if result is OK:
            return getattr(LifecycleNode, name)(self, state)
        return result

    def on_configure(self, state: State) -> TransitionCallbackReturn:
        return self._do("on_configure", state)

    def on_activate(self, state: State) -> TransitionCallbackReturn:
        return self._do("on_activate", state)

    def on_deactivate(self, state: State) -> TransitionCallbackReturn:
        return self._do("on_deactivate", state)

    def on_cleanup(self, state: State) -> TransitionCallbackReturn:
        return self._do("on_cleanup", state)

    def on_shutdown(self, state: State) -> TransitionCallbackReturn:
        return self._do("on_shutdown", state)

    def on_error(self, state: State) -> TransitionCallbackReturn:
        return self._do("on_error", state)


@pytest.fixture
def node(make_node: Callable[..., Any]) -> Any:
    return make_node("managed", cls=Managed)


@pytest.fixture
def ask(make_node: Callable[..., Any], spinner: Any) -> Callable[..., Any]:
    asking = make_node("asking")

    def call(kind: str, name: str, **fields: Any) -> Any:
        service = ros.messages(f"lifecycle_msgs/srv/{kind}")
        client = asking.create_client(service, f"/managed/{name}")
        assert client.wait_for_service(5.0)
        future = client.call_async(service.Request(**fields))
        assert spinner.until(future.done)
        return future.result()

    return call


def _state(ask: Callable[..., Any]) -> tuple[int, str]:
    state = ask("GetState", "get_state").current_state
    return state.id, state.label


def test_the_usual_way(node: Any, ask: Callable[..., Any]) -> None:
    assert _state(ask) == (1, "unconfigured")
    for trigger, expected in (
        ("configure", (2, "inactive")),
        ("activate", (3, "active")),
        ("deactivate", (2, "inactive")),
        ("cleanup", (1, "unconfigured")),
        ("configure", (2, "inactive")),
        ("shutdown", (4, "finalized")),
    ):
        assert getattr(node, f"trigger_{trigger}")() == OK
        assert _state(ask) == expected
    assert node.calls == [
        ("on_configure", "unconfigured"),
        ("on_activate", "inactive"),
        ("on_deactivate", "active"),
        ("on_cleanup", "inactive"),
        ("on_configure", "unconfigured"),
        ("on_shutdown", "inactive"),
    ]


def test_a_transition_that_does_not_start_here(node: Any) -> None:
    with pytest.raises(RuntimeError, match="unconfigured"):
        node.trigger_activate()
    assert node.calls == []


def test_failure_leads_back(node: Any, ask: Callable[..., Any]) -> None:
    node.plan["on_configure"] = FAIL
    assert node.trigger_configure() == FAIL
    assert _state(ask)[1] == "unconfigured"
    node.plan.clear()
    node.trigger_configure()
    node.plan["on_activate"] = FAIL
    assert node.trigger_activate() == FAIL
    assert _state(ask)[1] == "inactive"


@pytest.mark.parametrize("fault", [ERROR, ValueError("broken"), "not a result"])
def test_error_is_processed(node: Any, ask: Callable[..., Any], fault: Any) -> None:
    node.plan["on_configure"] = fault
    assert node.trigger_configure() == ERROR
    assert [name for name, _ in node.calls] == ["on_configure", "on_error"]
    assert _state(ask)[1] == "unconfigured"
    node.plan["on_error"] = FAIL
    node.trigger_configure()
    assert _state(ask)[1] == "finalized"


def test_services_and_transition_event(node: Any, ask: Callable[..., Any], make_node: Callable[..., Any], spinner: Any) -> None:
    events: list[Any] = []
    make_node("watching").create_subscription(
        ros.messages("lifecycle_msgs/msg/TransitionEvent"), "/managed/transition_event", events.append, 10
    )
    transition = ros.messages("lifecycle_msgs/msg/Transition")
    assert ask("ChangeState", "change_state", transition=transition(id=1)).success
    assert ask("ChangeState", "change_state", transition=transition(label="activate")).success
    assert not ask("ChangeState", "change_state", transition=transition(id=1)).success
    assert spinner.until(lambda: len(events) == 4)
    assert [(event.start_state.label, event.goal_state.label) for event in events] == [
        ("unconfigured", "configuring"),
        ("configuring", "inactive"),
        ("inactive", "activating"),
        ("activating", "active"),
    ]
    assert [event.transition.label for event in events] == ["configure", "transition_success", "activate", "transition_success"]
    states = {state.id: state.label for state in ask("GetAvailableStates", "get_available_states").available_states}
    assert states[3] == "active"
    assert states[15] == "errorprocessing"
    now = ask("GetAvailableTransitions", "get_available_transitions").available_transitions
    assert sorted(entry.transition.label for entry in now) == ["deactivate", "shutdown"]
    graph = ask("GetAvailableTransitions", "get_transition_graph").available_transitions
    assert {entry.transition.id for entry in graph} >= {1, 2, 3, 4, 5, 6, 7, 10, 30, 60}


def test_managed_publisher(node: Any, make_node: Callable[..., Any], spinner: Any) -> None:
    got: list[Any] = []
    make_node("listening").create_subscription(String, "/out", got.append, 10)
    publisher = node.create_lifecycle_publisher(String, "out", 10)
    assert not publisher.is_activated
    publisher.publish(String(data="too early"))
    node.trigger_configure()
    node.trigger_activate()
    assert publisher.is_activated
    publisher.publish(String(data="active"))
    assert spinner.until(lambda: len(got) == 1)
    node.trigger_deactivate()
    publisher.publish(String(data="too late"))
    spinner.drain()
    assert [message.data for message in got] == ["active"]
    node.destroy_lifecycle_publisher(publisher)


def test_without_services(make_node: Callable[..., Any]) -> None:
    quiet = make_node("quiet", cls=LifecycleNode, enable_communication_interface=False)
    assert quiet.trigger_configure() == OK
    assert quiet.count_services("/quiet/change_state") == 0


def test_state_is_a_named_pair() -> None:
    assert State("active", 3) == ("active", 3)
    assert State("active", 3).state_id == 3
