"""Rate points in numpy: what encoder and decoder need of a model's gain vectors, without torch. See ``bevstack.codec.rate``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bevstack.errors import CheckpointError

from .config import HYPER_STRIDE, RateConfig

Floats = NDArray[np.float32]
RATE_UNIT = 256  # steps of the header's rate field per rate point


@dataclass(frozen=True)
class RatePlane:
    """Rate points of one frame.

    Attributes:
        base: of the frame, a multiple of 1 / ``RATE_UNIT``.
        offsets: (a, b) int8 whole rate points per hyper position; None: none.
    """

    base: float
    offsets: NDArray[np.int8] | None
    config: RateConfig

    def values(self) -> Floats:
        """(a, b) or (1, 1) rate points within the range."""
        shift = np.zeros((1, 1), np.float32) if self.offsets is None else self.offsets.astype(np.float32)
        return np.clip(np.float32(self.base) + shift, 0.0, self.config.levels - 1.0).astype(np.float32)

    def levels(self, a: int, b: int) -> NDArray[np.int64]:
        """(a, b) whole rate points: they choose tables, so they come from integers alone."""
        whole = (round(self.base * RATE_UNIT) + RATE_UNIT // 2) // RATE_UNIT
        shift = np.zeros((a, b), np.int64) if self.offsets is None else self.offsets.astype(np.int64)
        return np.clip(whole + shift, 0, self.config.levels - 1)


class Gains:
    """Gain vectors of a model.

    Args:
        tensors: the weights file's arrays, by state-dict name.

    Raises:
        CheckpointError: an array is missing.
    """

    def __init__(self, config: RateConfig, tensors: Mapping[str, NDArray[Any]]) -> None:
        self.config = config

        def take(name: str) -> Floats:
            if name not in tensors:
                raise CheckpointError(f"weights hold no {name}: export the model again")
            return tensors[name].astype(np.float32)

        self.log_gain, self.log_inverse = take("rate.log_gain"), take("rate.log_inverse")
        count = sum(1 for name in tensors if name.startswith("rate.scales."))
        self.stages = [(take(f"rate.scales.{k}"), take(f"rate.shifts.{k}")) for k in range(count)]

    def _weights(self, values: Floats) -> Floats:
        """(a, b) -> (knots, a, b)."""
        position = values * np.float32((self.config.knots - 1) / (self.config.levels - 1))
        knots = np.arange(self.config.knots, dtype=np.float32)[:, None, None]
        return np.maximum(0.0, 1.0 - np.abs(position - knots)).astype(np.float32)

    def _mix(self, table: Floats, weights: Floats, repeat: int, h: int, w: int) -> Floats:
        """(1, C, h, w), or (1, C, 1, 1) for one rate point."""
        mixed = np.einsum("kc,kab->cab", table, weights)
        if weights.shape[1:] != (1, 1):
            mixed = mixed.repeat(repeat, 1).repeat(repeat, 2)[:, :h, :w]
        return np.ascontiguousarray(mixed[None], np.float32)

    def latent(self, plane: RatePlane, h: int, w: int) -> tuple[Floats, Floats]:
        """(gain, inverse gain) for a latent of h x w positions."""
        weights = self._weights(plane.values())
        gain = self._mix(self.log_gain, weights, HYPER_STRIDE, h, w)
        inverse = self._mix(self.log_inverse, weights, HYPER_STRIDE, h, w)
        return np.exp(gain), np.exp(inverse)

    def conditioning(self, plane: RatePlane, h: int, w: int) -> dict[str, Floats]:
        """Inputs "scale0", "shift0", ... of the synthesis graph for a latent of h x w positions."""
        weights = self._weights(plane.values())
        result = {}
        for number, (scale, shift) in enumerate(self.stages):
            result[f"scale{number}"] = self._mix(scale, weights, 2 * HYPER_STRIDE, 2 * h, 2 * w)
            result[f"shift{number}"] = self._mix(shift, weights, 2 * HYPER_STRIDE, 2 * h, 2 * w)
        return result


def offsets_from_weights(roi: NDArray[Any], config: RateConfig, cell: int = 64) -> NDArray[np.int8]:
    """Rate offsets per cell from distortion weights per pixel.

    An error under weight w counts w times: the cell's lambda is multiplied by the largest weight in it.

    Args:
        roi: (H, W) weights, 1 = as usual.

    Raises:
        ValueError: not two-dimensional, or weights that are not positive and finite.
    """
    weights = np.asarray(roi, np.float64)
    if weights.ndim != 2 or not np.isfinite(weights).all() or weights.min() <= 0:
        raise ValueError(
            "region weights must be a (height, width) map of positive numbers: 1 is neutral, 4 counts errors four times"
        )
    h, w = weights.shape
    padded = np.pad(weights, ((0, -h % cell), (0, -w % cell)), mode="edge")
    a, b = padded.shape[0] // cell, padded.shape[1] // cell
    largest = padded.reshape(a, cell, b, cell).max((1, 3))
    per_point = math.log(config.lambda_max / config.lambda_min) / (config.levels - 1)
    return np.clip(np.rint(np.log(largest) / per_point), -63, 63).astype(np.int8)
