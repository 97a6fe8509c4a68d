"""Fixtures of the wire's tests: local mode, a domain of this run's own, wires that are closed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import pytest

from bevstack.ros.runtime.dds.library import LibraryUnavailable, load_library
from bevstack.ros.runtime.dds.wire import DdsWire

#: Long enough for a loaded machine; what is waited for usually takes milliseconds.
PATIENCE = 40.0


def eventually(condition: Callable[[], object], what: str = "") -> None:
    """Waits until `condition` holds, and fails with `what` if it never does."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"never happened: {what or condition}"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def domain() -> int:
    return 1 + os.getpid() % 199


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine only."""
    for name in ("CYCLONEDDS_URI", "ROS_LOCALHOST_ONLY", "ROS_STATIC_PEERS", "BEVSTACK_WIRE", "BEVSTACK_DDS_LIBRARY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")


@pytest.fixture
def open_wires(local: None, domain: int) -> Iterator[Callable[[], DdsWire]]:
    """A function that opens one more participant in the same domain."""
    try:
        library = load_library()
    except LibraryUnavailable as error:
        pytest.skip(str(error))
    wires: list[DdsWire] = []

    def make() -> DdsWire:
        wires.append(DdsWire(library, domain))
        return wires[-1]

    yield make
    for wire in wires:
        wire.close()


@pytest.fixture
def pair(open_wires: Callable[[], DdsWire]) -> tuple[DdsWire, DdsWire]:
    """Two participants: to each other they are two machines."""
    return open_wires(), open_wires()
