"""Drives shared by the tests of this room: making a world takes about two seconds."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from bevstack.frames.sim import SimulatedDrive


@cache
def _drive(seed: int, style: str | None, width: int) -> SimulatedDrive:
    return SimulatedDrive(seed, style=style, image_width=width, duration=6.0, rate=2.0)


@pytest.fixture(scope="session")
def make_drive() -> Callable[..., SimulatedDrive]:
    """``make_drive(seed, style=None, width=400)``: a drive of 6 s at 2 instants per second, made once."""

    def make(seed: int, style: str | None = None, width: int = 400) -> SimulatedDrive:
        return _drive(seed, style, width)

    return make
