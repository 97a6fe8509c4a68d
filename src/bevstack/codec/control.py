"""Rate control: meets a size or a quality in at most three tries. The analysis is not repeated, the pixels decide nothing but PSNR.

log2(bytes) and PSNR are smooth, rising functions of the rate point r; both are close to straight lines with slopes that hardly depend
on the picture. The first try takes r from a picture of usual difficulty, the second a step along the usual slope, the third a secant.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .codec import Encoded, _Coded, _Job

MAX_TRIES = 3
BYTES_TOLERANCE = 0.02  # below the limit
PSNR_TOLERANCE = 0.1  # dB above the target
_BYTES_AIM = 0.992
_PSNR_AIM = 0.04


class _Line:
    """Tries so far and where to go next: a secant or, with few or equal points, the usual slope."""

    def __init__(self, slope: float, top: float) -> None:
        self.slope, self.top = slope, top
        self.points: list[tuple[float, float]] = []

    def add(self, r: float, value: float) -> None:
        self.points.append((r, value))

    def next(self, target: float) -> float:
        r, value = min(self.points, key=lambda p: abs(p[1] - target))
        slope = self.slope
        if len(self.points) > 1:
            (r0, v0), (r1, v1) = sorted(self.points, key=lambda p: abs(p[1] - target))[:2]
            if abs(r1 - r0) > 1e-6 and (v1 - v0) / (r1 - r0) > 0.2 * self.slope:
                slope = (v1 - v0) / (r1 - r0)
        return min(max(r + (target - value) / slope, 0.0), self.top)


def solve_bytes(job: _Job, limit: int) -> Encoded:
    """See ``_Job.to_bytes``."""
    if limit < 1:
        raise ValueError(f"a frame of at most {limit} bytes is impossible")
    pixels = job.width * job.height
    config = job.codec.config.rate
    top = config.levels - 1.0
    usual = job.codec.usual_bpp
    line = _Line((math.log2(usual[1]) - math.log2(usual[0])) / top, top)
    r = (math.log2(8 * limit / pixels) - math.log2(usual[0])) / line.slope
    best: Encoded | None = None
    smallest = 0
    while job.encodes < MAX_TRIES or best is None:
        coded = job.try_rate(min(max(r, 0.0), top))
        encoded = job.finish(coded)
        size = len(encoded.data)
        smallest = size
        if size <= limit and (best is None or size > len(best.data)):
            best = encoded
        if best is not None and (len(best.data) >= (1 - BYTES_TOLERANCE) * limit or coded.plane.base >= top):
            break
        if size > limit and coded.plane.base <= 0.0:
            break
        line.add(coded.plane.base, math.log2(size))
        if job.encodes >= MAX_TRIES:
            # Rare: all three were too large. Go down far enough to be sure.
            r = coded.plane.base - (math.log2(size / limit) + 0.1 * (job.encodes - MAX_TRIES + 1)) / (0.5 * line.slope)
        else:
            r = line.next(math.log2(_BYTES_AIM * limit))
    if best is None:
        raise ValueError(
            f"this {job.width} x {job.height} picture takes {smallest} bytes at the lowest rate point, more than the {limit} allowed: "
            "allow more, or send a smaller picture"
        )
    return best


def solve_psnr(job: _Job, target: float) -> Encoded:
    """See ``_Job.to_psnr``."""
    if not math.isfinite(target) or target <= 0:
        raise ValueError(f"a PSNR of {target} dB is no target")
    config = job.codec.config.rate
    top = config.levels - 1.0
    low, high = job.codec.usual_psnr
    line = _Line((high - low) / top, top)
    r = (target - low) / line.slope
    found: list[tuple[float, _Coded]] = []
    while True:
        coded = job.try_rate(min(max(r, 0.0), top))
        value = job.psnr(coded)
        found.append((value, coded))
        if target <= value <= target + PSNR_TOLERANCE or (value < target and coded.plane.base >= top):
            break
        if value > target and coded.plane.base <= 0.0:
            break
        line.add(coded.plane.base, value)
        enough = any(v >= target for v, _ in found)
        if job.encodes >= MAX_TRIES and enough or job.encodes >= 2 * MAX_TRIES:
            break
        r = line.next(target + _PSNR_AIM * (1 if job.encodes < MAX_TRIES else 3))
    return job.finish(_cheapest(found, lambda v: v >= target))


def _cheapest(found: list[tuple[float, _Coded]], good: Callable[[float], bool]) -> _Coded:
    reached = [(v, c) for v, c in found if good(v)]
    return min(reached, key=lambda pair: pair[1].bits)[1] if reached else max(found, key=lambda pair: pair[0])[1]
