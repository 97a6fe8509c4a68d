"""One network, several users."""

from __future__ import annotations

import numpy as np
import pytest

from bevstack.engine import shared
from bevstack.engine.shared import SharedEngine
from bevstack.errors import EngineError


class Fake:
    name = "fake"

    def __init__(self) -> None:
        self.closed = False

    def run(self, inputs: object) -> dict[str, np.ndarray]:
        return {"y": np.ones(1)}

    def close(self) -> None:
        self.closed = True


def test_the_last_user_frees_the_network() -> None:
    made: list[Fake] = []

    def make() -> Fake:
        made.append(Fake())
        return made[-1]

    first, second, other = SharedEngine("a", make), SharedEngine("a", make), SharedEngine("b", make)
    assert len(made) == 2, "one per key"
    first.close()
    first.close()
    assert not made[0].closed
    assert second.run({})["y"] == 1
    with pytest.raises(EngineError, match="closed"):
        first.run({})
    second.close()
    assert (made[0].closed, made[1].closed) == (True, False)
    assert second.name == "closed"
    other.close()
    again = SharedEngine("a", make)
    assert len(made) == 3, "freed and made anew"
    again.close()
    assert not shared._OPEN


def test_a_network_that_cannot_be_loaded_leaves_nothing_behind() -> None:
    def fail() -> Fake:
        raise EngineError("no such file")

    with pytest.raises(EngineError, match="no such file"):
        SharedEngine("c", fail)
    assert not shared._OPEN
