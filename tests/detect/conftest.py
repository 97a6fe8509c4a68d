"""A rung small enough to run in milliseconds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bevstack.detect.config import DETECTORS, GiraffeDetConfig, HeadConfig, ImageBackboneConfig

# Widths are multiples of 8, as in tests/learn/conftest.py.
TINY = replace(
    DETECTORS["giraffedet-nano"],
    name="tiny",
    inner=8,
    outputs=32,
    backbone=ImageBackboneConfig("s2d", (8, 8), (8, 8, 8, 8, 8)),
    head=HeadConfig(convs=1, channels=32, quality=8),
    canvas=(128, 256),
)


@pytest.fixture(scope="session")
def tiny() -> GiraffeDetConfig:
    return TINY
