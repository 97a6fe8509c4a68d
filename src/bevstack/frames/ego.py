"""Ego poses over time, interpolated to each image's stamp."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from threading import Lock

import numpy as np
from numpy.typing import ArrayLike

from bevstack.errors import BevstackError
from bevstack.geometry import Matrix, interpolate


class PoseUnavailableError(BevstackError):
    """No ego pose is known for a stamp."""


class PoseBuffer:
    """Ego poses by stamp, bounded in memory, read at any stamp between (or just outside) them. Thread-safe.

    Args:
        capacity: poses kept; the oldest leave first.
        max_extrapolation_ns: how far outside the known stamps ``at`` may reach. Beyond the end it continues the motion of the
            last two poses; before the first pose, or with one pose only, it holds that pose.
        jump_ns: a stamp further behind the newest than this is a clock that jumped back: older poses are forgotten.
    """

    def __init__(self, capacity: int = 4096, *, max_extrapolation_ns: int = 200_000_000, jump_ns: int = 1_000_000_000) -> None:
        if capacity < 2:
            raise ValueError(f"a pose buffer of {capacity} cannot interpolate: give it 2 or more")
        self.capacity = capacity
        self.max_extrapolation_ns = max_extrapolation_ns
        self.jump_ns = jump_ns
        self._stamps: list[int] = []
        self._poses: list[Matrix] = []
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._stamps)

    def add(self, stamp: int, T: ArrayLike) -> None:
        """Add the pose (4, 4) T_world_ego at ``stamp`` nanoseconds; a second pose for a stamp replaces the first.

        Raises:
            PoseUnavailableError: if the matrix is not finite.
        """
        pose = np.array(T, dtype=np.float64).reshape(4, 4)
        if not np.isfinite(pose).all():
            raise PoseUnavailableError(f"ego pose at {stamp} ns is not finite: check the odometry")
        pose.setflags(write=False)
        with self._lock:
            if self._stamps and stamp < self._stamps[-1] - self.jump_ns:
                self._stamps.clear()
                self._poses.clear()
            index = bisect_left(self._stamps, stamp)
            if index < len(self._stamps) and self._stamps[index] == stamp:
                self._poses[index] = pose
                return
            self._stamps.insert(index, stamp)
            self._poses.insert(index, pose)
            if len(self._stamps) > self.capacity:
                # In blocks: a deletion at the front moves the whole list.
                extra = len(self._stamps) - self.capacity + self.capacity // 8
                del self._stamps[:extra], self._poses[:extra]

    def clear(self) -> None:
        """Forget all poses."""
        with self._lock:
            self._stamps.clear()
            self._poses.clear()

    def span(self) -> tuple[int, int] | None:
        """First and last stamp, nanoseconds; None while empty."""
        with self._lock:
            return (self._stamps[0], self._stamps[-1]) if self._stamps else None

    def at(self, stamp: int, max_gap_ns: int = 1_000_000_000) -> Matrix:
        """(4, 4) T_world_ego at ``stamp``: linear in translation, slerp in rotation.

        Args:
            stamp: nanoseconds.
            max_gap_ns: two neighbouring poses further apart than this are not bridged.

        Raises:
            PoseUnavailableError: no pose at all, a gap that is too wide, or a stamp too far outside the known ones.
        """
        with self._lock:
            stamps, poses = self._stamps, self._poses
            if not stamps:
                raise PoseUnavailableError(f"no ego pose for {stamp} ns: no odometry has arrived")
            index = bisect_right(stamps, stamp)
            if index and stamps[index - 1] == stamp:
                return poses[index - 1]
            if index == 0:
                return self._outside(stamp, stamps[0] - stamp, poses[0], "before the first")
            if index == len(stamps):
                beyond = stamp - stamps[-1]
                step = stamps[-1] - stamps[-2] if len(stamps) > 1 else 0
                if not 0 < step <= max_gap_ns:
                    return self._outside(stamp, beyond, poses[-1], "after the last")
                moved = (
                    interpolate(poses[-2], poses[-1], 1.0 + beyond / step) if beyond <= self.max_extrapolation_ns else poses[-1]
                )
                return self._outside(stamp, beyond, moved, "after the last")
            gap = stamps[index] - stamps[index - 1]
            if gap > max_gap_ns:
                raise PoseUnavailableError(
                    f"ego poses around {stamp} ns are {gap / 1e6:.0f} ms apart, more than {max_gap_ns / 1e6:.0f} ms: "
                    "odometry has a gap"
                )
            return interpolate(poses[index - 1], poses[index], (stamp - stamps[index - 1]) / gap)

    def _outside(self, stamp: int, distance: int, pose: Matrix, where: str) -> Matrix:
        if distance > self.max_extrapolation_ns:
            raise PoseUnavailableError(
                f"ego pose for {stamp} ns is {distance / 1e6:.0f} ms {where} known one, more than "
                f"{self.max_extrapolation_ns / 1e6:.0f} ms: odometry is late or missing"
            )
        return pose
