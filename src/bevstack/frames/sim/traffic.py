"""Motion: every moving object follows a closed path; vehicles keep distance, brake for bends and stop at red.

The motion is simulated once with a fixed step when the world is made; positions between steps are cubic (Hermite), so that the
velocity that we report is exactly the derivative of the position that we report.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

from .layout import Path

F64 = NDArray[np.float64]

STEP = 0.1  # seconds
_GREEN = 6.0  # seconds of green per approach; four approaches take turns
VEHICLE, WALKER = 0, 1


@numba.njit(cache=True, nogil=True)
def _at(points: F64, tangent: F64, start: int, n: int, spacing: float, s: float) -> tuple[float, float, float, float]:
    f = s / spacing
    k = math.floor(f)
    w = f - k
    a = start + int(k) % n
    b = start + (int(k) + 1) % n
    tx = (1 - w) * tangent[a, 0] + w * tangent[b, 0]
    ty = (1 - w) * tangent[a, 1] + w * tangent[b, 1]
    norm = math.sqrt(tx * tx + ty * ty) + 1e-12
    return (1 - w) * points[a, 0] + w * points[b, 0], (1 - w) * points[a, 1] + w * points[b, 1], tx / norm, ty / norm


@numba.njit(cache=True, nogil=True)
def _simulate(
    steps,
    points,
    tangent,
    limit,
    gate,
    crossing,
    approach,
    first,
    count,
    spacing,
    path,
    kind,
    s,
    v,
    cruise,
    length,
    width,
    crossings,
):  # type: ignore[no-untyped-def]
    """State (x, y, cos, sin, speed) of every agent at every step: (steps, agents, 5)."""
    n = len(s)
    out = np.zeros((steps, n, 5))
    blocked = np.zeros(n)
    position = np.zeros((n, 4))
    for t in range(steps):
        for i in range(n):
            p = path[i]
            x, y, c, d = _at(points, tangent, first[p], count[p], spacing[p], s[i])
            position[i, 0], position[i, 1], position[i, 2], position[i, 3] = x, y, c, d
            out[t, i, 0], out[t, i, 1], out[t, i, 2], out[t, i, 3], out[t, i, 4] = x, y, c, d, v[i]
        # The ego vehicle (agent 0) gets green wherever it arrives, so that a short drive is not spent waiting.
        k0 = first[path[0]] + int(s[0] / spacing[path[0]]) % count[path[0]]
        ego_crossing, ego_leg = -1, -1
        if gate[k0] < 45.0 and crossings > 0:
            ego_crossing, ego_leg = crossing[k0], approach[k0]
        phase_time = t * 0.1
        for i in range(n):
            p = path[i]
            if kind[i] == 1:
                s[i] = (s[i] + v[i] * 0.1) % (count[p] * spacing[p])
                continue
            k = first[p] + int(s[i] / spacing[p]) % count[p]
            target = min(cruise[i], limit[k])
            free = 1e9
            g = gate[k] - 0.5 * length[i]
            if g > 0.0 and crossing[k] >= 0 and i != 0:
                turn = int(phase_time / 6.0 + crossing[k] * 1.7) % 4
                left = 6.0 - (phase_time + crossing[k] * 1.7 * 6.0) % 6.0
                green = turn == approach[k] and (left > 1.5 or g < 6.0)
                if crossing[k] == ego_crossing:
                    green = approach[k] == ego_leg
                if not green:
                    free = min(free, g)
            reach = 4.0 + 2.2 * v[i] + 0.12 * v[i] * v[i]
            hit = -1
            step = 1.2
            q = 0.3
            while q < reach and hit < 0:
                ax, ay, _, _ = _at(points, tangent, first[p], count[p], spacing[p], s[i] + 0.5 * length[i] + q)
                for j in range(n):
                    if j == i:
                        continue
                    dx, dy = ax - position[j, 0], ay - position[j, 1]
                    if abs(dx) > 9.0 or abs(dy) > 9.0:
                        continue
                    lx = dx * position[j, 2] + dy * position[j, 3]
                    ly = -dx * position[j, 3] + dy * position[j, 2]
                    if abs(lx) < 0.5 * length[j] + 0.7 and abs(ly) < 0.5 * width[j] + 0.5 * width[i] + 0.15:
                        hit = j
                        break
                if hit < 0:
                    q += step
            if hit >= 0:
                free = min(free, q)
                if v[i] < 0.3:
                    blocked[i] += 0.1
                # Two that wait for each other: the one with the smaller number goes first after a while.
                if blocked[i] > 4.0 and (i < hit) and kind[hit] == 0 and v[hit] < 0.3:
                    free = 1e9
            else:
                blocked[i] = 0.0
            if free < 1e8:
                target = min(target, math.sqrt(max(0.0, 2.0 * 2.0 * (free - 2.2))))
            change = target - v[i]
            change = min(max(change, -5.5 * 0.1), 1.6 * 0.1)
            v[i] = max(0.0, v[i] + change)
            s[i] = (s[i] + v[i] * 0.1) % (count[p] * spacing[p])
    return out


def _speed_limits(path: Path) -> F64:
    """(N,) metres per second so that bends are taken with 2 m/s^2 sideways and braked for in time."""
    n = len(path.points)
    ds = path.length / n
    turn = np.roll(path.tangent, -2, axis=0) - np.roll(path.tangent, 2, axis=0)
    curvature = np.linalg.norm(turn, axis=1) / (4 * ds)
    limit = np.sqrt(2.0 / np.maximum(curvature, 1e-4))
    for k in range(2 * n - 1, -1, -1):  # twice around: the path is closed
        a, b = k % n, (k + 1) % n
        limit[a] = min(limit[a], np.sqrt(limit[b] ** 2 + 2 * 1.4 * ds))
    return limit


class Trajectories:
    """Where every moving object is at any time from 0 to ``duration``."""

    def __init__(
        self,
        paths: list[Path],
        path: NDArray[np.int64],
        kind: NDArray[np.int64],
        start: F64,
        cruise: F64,
        size: F64,
        duration: float,
    ) -> None:
        steps = int(np.ceil(duration / STEP)) + 3
        counts = np.array([len(p.points) for p in paths], np.int64)
        first = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
        spacing = np.array([p.length / len(p.points) for p in paths])
        moving = kind == WALKER
        speed = np.where(moving, cruise, 0.8 * cruise)
        self.states = _simulate(
            steps,
            np.concatenate([p.points for p in paths]),
            np.concatenate([p.tangent for p in paths]),
            np.concatenate([_speed_limits(p) for p in paths]),
            np.concatenate([p.gate for p in paths]),
            np.concatenate([p.crossing for p in paths]),
            np.concatenate([p.approach for p in paths]),
            first,
            counts,
            spacing,
            path,
            kind,
            start.copy(),
            speed.astype(np.float64),
            cruise,
            np.ascontiguousarray(size[:, 0]),
            np.ascontiguousarray(size[:, 1]),
            16,
        )

    def at(self, t: float, agents: slice = slice(None)) -> tuple[F64, F64, F64]:
        """Position (N, 2), yaw (N,), velocity (N, 2) at ``t`` seconds in the world frame; clamped to the simulated span."""
        states = self.states[:, agents]
        f = min(max(t / STEP, 0.0), len(states) - 1.001)
        k = int(f)
        u = f - k
        a, b = states[k], states[k + 1]
        va, vb = a[:, 2:4] * a[:, 4:5], b[:, 2:4] * b[:, 4:5]
        u2, u3 = u * u, u * u * u
        p = (
            (2 * u3 - 3 * u2 + 1) * a[:, :2]
            + (u3 - 2 * u2 + u) * STEP * va
            + (3 * u2 - 2 * u3) * b[:, :2]
            + (u3 - u2) * STEP * vb
        )
        v = ((6 * u2 - 6 * u) * (a[:, :2] - b[:, :2])) / STEP + (3 * u2 - 4 * u + 1) * va + (3 * u2 - 2 * u) * vb
        heading = (1 - u) * a[:, 2:4] + u * b[:, 2:4]
        return p, np.arctan2(heading[:, 1], heading[:, 0]), v
