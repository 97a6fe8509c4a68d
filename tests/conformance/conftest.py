"""A running context per test, on whichever runtime is present."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bevstack.ros import runtime as ros


@pytest.fixture(autouse=True)
def _in_process_only(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only tests marked `wire` go out on the network; all others are faster and alone without it."""
    if request.node.get_closest_marker("wire") is None:
        monkeypatch.setenv("BEVSTACK_WIRE", "off")
    else:
        monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")


@pytest.fixture
def context(_in_process_only: None) -> Iterator[Any]:
    """A context that is not the default one."""
    context = ros.Context()
    ros.init(args=[], context=context)
    yield context
    context.try_shutdown()


class Spinner:
    """Spins an executor until something is true."""

    def __init__(self, context: Any) -> None:
        self.executor = ros.SingleThreadedExecutor(context=context)

    def until(self, condition: Callable[[], bool], timeout: float = 20.0) -> bool:
        """True once `condition()` holds; False after `timeout` seconds."""
        limit = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > limit:
                return False
            self.executor.spin_once(timeout_sec=0.1)
        return True

    def drain(self) -> None:
        """Run everything that is ready, and nothing else."""
        marker = threading.Event()
        for _ in range(50):
            marker.clear()
            self.executor.create_task(marker.set)
            while not marker.is_set():
                self.executor.spin_once(timeout_sec=0.1)


@pytest.fixture
def spinner(context: Any) -> Iterator[Spinner]:
    spinner = Spinner(context)
    yield spinner
    spinner.executor.shutdown()


@pytest.fixture
def make_node(context: Any, spinner: Spinner) -> Iterator[Callable[..., Any]]:
    """`make_node(name, cls=Node, **arguments)`: a node that the spinner spins and the fixture destroys."""
    nodes = []

    def make(name: str = "node", cls: Any = None, **arguments: Any) -> Any:
        node = (cls or ros.Node)(name, context=context, **arguments)
        spinner.executor.add_node(node)
        nodes.append(node)
        return node

    yield make
    for node in nodes:
        node.destroy_node()
