"""Motion: every moving object follows a closed path; vehicles keep distance, brake for bends and stop at red.

The motion is simulated once with a fixed step when the world is made; positions between steps are cubic (Hermite), so that the
velocity that we report is exactly the derivative of the position that we report.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from .layout import Path

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

STEP = 0.1  # seconds
GREEN = 6.0  # seconds of green per approach; four approaches take turns
VEHICLE, WALKER = 0, 1


class Tracks(NamedTuple):
    """All paths end to end. Path p has ``size[p]`` samples from ``first[p]`` on, ``spacing[p]`` metres apart.

    Samples: ``points`` and ``tangent`` (N, 2); ``limit`` (N,) speed for bends, m/s; ``gate``, ``crossing`` and ``approach`` are
    those of ``Path``.
    """

    points: F64
    tangent: F64
    limit: F64
    gate: F64
    crossing: I64
    approach: I64
    first: I64
    size: I64
    spacing: F64


class Agents(NamedTuple):
    """Moving objects: path number, kind, cruising speed (m/s), length and width (m), all (A,). Agent 0 is the ego vehicle."""

    path: I64
    kind: I64
    cruise: F64
    length: F64
    width: F64


@numba.njit(cache=True, nogil=True)
def _at(tracks: Tracks, p: int, s: float) -> tuple[float, float, float, float]:
    """Position and direction (x, y, cos, sin) at ``s`` metres along path p."""
    n, start = tracks.size[p], tracks.first[p]
    f = s / tracks.spacing[p]
    k = math.floor(f)
    w = f - k
    a = start + int(k) % n
    b = start + (int(k) + 1) % n
    tx = (1 - w) * tracks.tangent[a, 0] + w * tracks.tangent[b, 0]
    ty = (1 - w) * tracks.tangent[a, 1] + w * tracks.tangent[b, 1]
    norm = math.sqrt(tx * tx + ty * ty) + 1e-12
    x = (1 - w) * tracks.points[a, 0] + w * tracks.points[b, 0]
    y = (1 - w) * tracks.points[a, 1] + w * tracks.points[b, 1]
    return x, y, tx / norm, ty / norm


@numba.njit(cache=True, nogil=True)
def _simulate(steps: int, tracks: Tracks, agents: Agents, s: F64, v: F64) -> F64:
    """State (x, y, cos, sin, speed) of every agent at every step, (steps, A, 5). ``s``, ``v`` (A,): the start; overwritten."""
    path, kind, cruise, length, width = agents
    first, count, spacing = tracks.first, tracks.size, tracks.spacing
    gate, crossing, approach, limit = tracks.gate, tracks.crossing, tracks.approach, tracks.limit
    n = len(s)
    out = np.zeros((steps, n, 5))
    blocked = np.zeros(n)
    position = np.zeros((n, 4))
    for t in range(steps):
        for i in range(n):
            p = path[i]
            x, y, c, d = _at(tracks, p, s[i])
            position[i, 0], position[i, 1], position[i, 2], position[i, 3] = x, y, c, d
            out[t, i, 0], out[t, i, 1], out[t, i, 2], out[t, i, 3], out[t, i, 4] = x, y, c, d, v[i]
        # The ego vehicle (agent 0) gets green wherever it arrives, so that a short drive is not spent waiting.
        k0 = first[path[0]] + int(s[0] / spacing[path[0]]) % count[path[0]]
        ego_crossing, ego_leg = -1, -1
        if gate[k0] < 45.0:
            ego_crossing, ego_leg = crossing[k0], approach[k0]
        phase_time = t * STEP
        for i in range(n):
            p = path[i]
            if kind[i] == WALKER:
                s[i] = (s[i] + v[i] * STEP) % (count[p] * spacing[p])
                continue
            k = first[p] + int(s[i] / spacing[p]) % count[p]
            target = min(cruise[i], limit[k])
            free = 1e9
            g = gate[k] - 0.5 * length[i]
            if g > 0.0 and crossing[k] >= 0 and i != 0:
                turn = int(phase_time / GREEN + crossing[k] * 1.7) % 4
                left = GREEN - (phase_time + crossing[k] * 1.7 * GREEN) % GREEN
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
                ax, ay, _, _ = _at(tracks, p, s[i] + 0.5 * length[i] + q)
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
                    blocked[i] += STEP
                # Two that wait for each other: the one with the smaller number goes first after a while.
                if blocked[i] > 4.0 and (i < hit) and kind[hit] == VEHICLE and v[hit] < 0.3:
                    free = 1e9
            else:
                blocked[i] = 0.0
            if free < 1e8:
                target = min(target, math.sqrt(max(0.0, 2.0 * 2.0 * (free - 2.2))))
            change = target - v[i]
            change = min(max(change, -5.5 * STEP), 1.6 * STEP)
            v[i] = max(0.0, v[i] + change)
            s[i] = (s[i] + v[i] * STEP) % (count[p] * spacing[p])
    return out


@numba.njit(cache=True, nogil=True)
def _speed_limits(tangent: F64, length: float) -> F64:
    """(N,) metres per second so that bends of a closed path are taken with 2 m/s^2 sideways and braked for in time."""
    n = len(tangent)
    ds = length / n
    limit = np.empty(n)
    for k in range(n):
        dx = tangent[(k + 2) % n, 0] - tangent[k - 2, 0]
        dy = tangent[(k + 2) % n, 1] - tangent[k - 2, 1]
        limit[k] = math.sqrt(2.0 / max(math.sqrt(dx * dx + dy * dy) / (4 * ds), 1e-4))
    for k in range(2 * n - 1, -1, -1):  # twice around: the path is closed
        a, b = k % n, (k + 1) % n
        limit[a] = min(limit[a], math.sqrt(limit[b] ** 2 + 2 * 1.4 * ds))
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
        speed = np.where(kind == WALKER, cruise, 0.8 * cruise).astype(np.float64)
        tracks = Tracks(
            np.concatenate([p.points for p in paths]),
            np.concatenate([p.tangent for p in paths]),
            np.concatenate([_speed_limits(p.tangent, p.length) for p in paths]),
            np.concatenate([p.gate for p in paths]),
            np.concatenate([p.crossing for p in paths]),
            np.concatenate([p.approach for p in paths]),
            first,
            counts,
            spacing,
        )
        agents = Agents(path, kind, cruise, np.ascontiguousarray(size[:, 0]), np.ascontiguousarray(size[:, 1]))
        self.states = _simulate(steps, tracks, agents, start.copy(), speed)

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
