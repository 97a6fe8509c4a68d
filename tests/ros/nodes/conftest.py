"""Fixtures of the node tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from bench import Bench, FakeModel

from bevstack.ros.runtime import init, ok, shutdown


@pytest.fixture
def ros(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A runtime of this process alone: other tests on this machine must not hear us."""
    monkeypatch.setenv("BEVSTACK_WIRE", "off")
    init(args=[])
    yield
    if ok():
        shutdown()


@pytest.fixture
def bench(ros: None) -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


@pytest.fixture
def model() -> FakeModel:
    return FakeModel()
