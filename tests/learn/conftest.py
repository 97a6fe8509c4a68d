"""A model small enough to train in a test, and worlds that are built once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest

from bevstack.bev.config import CONFIGS, BackboneConfig, EncoderConfig, FastBEVConfig, VoxelGrid
from bevstack.frames.sim import SimulatedDrive
from bevstack.learn import simulated

# Widths are multiples of 8: torch 2.13 (CPU) corrupts its heap in the backward pass of strided 1x1 convolutions of 6 channels.
TINY = replace(
    CONFIGS["fastbev-micro"],
    name="tiny",
    image_hw=(32, 88),
    backbone=BackboneConfig("basic", (8, 8), (8, 8, 8, 16), (1, 1, 1, 1)),
    neck_channels=8,
    grid=VoxelGrid((25, 25, 2), (4.0, 4.0, 1.5)),
    encoder=EncoderConfig("pyramid", fuse=8, channels=8, deep=8, outputs=8),
)


@pytest.fixture(scope="session")
def tiny() -> FastBEVConfig:
    return TINY


@lru_cache(maxsize=4)
def _drive(seed: int, options: tuple[tuple[str, Any], ...]) -> SimulatedDrive:
    return SimulatedDrive(seed, **{k: dict(v) if isinstance(v, tuple) else v for k, v in options})


@pytest.fixture
def worlds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Building a world takes a second or two: every seed is built once for all tests."""

    def cached(seed: int, **options: Any) -> SimulatedDrive:
        key = tuple((k, tuple(sorted(v.items())) if isinstance(v, dict) else v) for k, v in sorted(options.items()))
        return _drive(seed, key)

    monkeypatch.setattr(simulated, "SimulatedDrive", cached)


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[[type[Any], int], None]:
    """``interrupt(Trainer, 3)``: new runs save after three steps and are then stopped as by Ctrl-C; continued ones are not."""

    def arrange(trainer: type[Any], after: int) -> None:
        original = trainer.step

        def step(self: Any, batch: Any) -> Any:
            done = self.step_number if hasattr(self, "step_number") else self.progress.step
            if done == after and not self.options.resume:
                self.save(self.options.output / "checkpoint.pt")
                raise KeyboardInterrupt
            return original(self, batch)

        monkeypatch.setattr(trainer, "step", step)

    return arrange
