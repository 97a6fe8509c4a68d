"""Cache of past image features, so that an instant costs six images and not 24 (brief fast-bev 1.4)."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bevstack.geometry import Camera, Matrix

# Faster than any vehicle (m/s): a pose that moves like this has been reset, and old features lie elsewhere.
_TELEPORT_SPEED = 100.0
_TELEPORT_SLACK = 2.0


@dataclass(frozen=True)
class Instant:
    """What must be remembered of one instant to lift it later into another instant's grid.

    Attributes:
        stamp: nanoseconds.
        T_world_ego: (4, 4) ego pose at ``stamp``.
        cameras: by feature slot, None where a camera was missing. Each instant keeps the calibration that it was taken with,
            so a recalibration while driving needs no reset.
        T_world_ego_images: (slots, 4, 4) ego pose at each image's exposure.
        rectified: per slot, distortion already removed.
        calibration: ``calibration_id`` of ``cameras``.
        features: (cells, C) float32 rows.
    """

    stamp: int
    T_world_ego: Matrix
    cameras: tuple[Camera | None, ...]
    T_world_ego_images: Matrix
    rectified: tuple[bool, ...]
    calibration: str
    features: NDArray[np.float32]


class TemporalCache:
    """Ring of past instants, picked by age.

    Args:
        times: ages in seconds, current first (``config.times``).
        tolerance: how far (s) the nearest instant may be from the wanted age; else the age counts as missing. Wrong spacing
            corrupts velocities more than a repeated current frame does (brief, trap 13).
        spacing: instants closer than this (s) to the last stored one are not stored: bounds memory at high frame rates.
    """

    def __init__(self, times: Sequence[float], tolerance: float = 0.15, spacing: float = 0.08) -> None:
        self._ages = [round(t * 1e9) for t in times[1:]]
        self._tolerance, self._spacing = round(tolerance * 1e9), round(spacing * 1e9)
        self._ring: deque[Instant] = deque()
        self._last: tuple[int, Matrix] | None = None
        self.resets = 0

    def __len__(self) -> int:
        return len(self._ring)

    def reset(self) -> None:
        """Forgets everything: the next instant starts as if it were the first."""
        if self._ring:
            self.resets += 1
        self._ring.clear()
        self._last = None

    def observe(self, stamp: int, T_world_ego: Matrix) -> None:
        """Announces the current instant; forgets the past if time runs backwards (a bag that loops) or the pose has jumped."""
        if self._last is not None:
            elapsed = (stamp - self._last[0]) * 1e-9
            moved = float(np.linalg.norm(T_world_ego[:3, 3] - self._last[1][:3, 3]))
            if elapsed <= 0 or moved > _TELEPORT_SPEED * elapsed + _TELEPORT_SLACK:
                self.reset()
        self._last = (stamp, T_world_ego)
        oldest = stamp - max(self._ages, default=0) - self._tolerance
        while self._ring and self._ring[0].stamp < oldest:
            self._ring.popleft()

    def pick(self, stamp: int) -> list[Instant | None]:
        """For each age after the first: the stored instant nearest to ``stamp - age``, None where there is none near enough."""
        chosen: list[Instant | None] = []
        for age in self._ages:
            best = min(self._ring, key=lambda entry: abs(stamp - age - entry.stamp), default=None)
            chosen.append(best if best is not None and abs(stamp - age - best.stamp) <= self._tolerance else None)
        return chosen

    def push(self, instant: Instant) -> None:
        """Stores the current instant after its features have been computed."""
        if self._ages and (not self._ring or instant.stamp - self._ring[-1].stamp >= self._spacing):
            self._ring.append(instant)
