"""Rate control: meets a size or a quality in at most three tries.

A cheap stand-in, computed from the analysed latent alone, says how the picture's bits and errors change with the rate point:
bits as half the sum of log2(1 + 8 y^2) over a sample of gained coefficients, errors as min(y^2, 1/12) in units of the rate
point's step. What the stand-in usually gets wrong at each rate point stands in the weights' card; what is left is nearly the
same at all rate points of a picture, so that each try corrects the next one. The analysis is never repeated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .config import HYPER_STRIDE

if TYPE_CHECKING:
    from .codec import Encoded, ImageCodec, _Coded, _Job

MAX_TRIES = 3
BYTES_TOLERANCE = 0.02  # below the limit
PSNR_TOLERANCE = 0.1  # dB above the target
_PSNR_ROUNDING = 1e-6  # dB by which two computations of the same error may differ: at the target is not below it
_BYTES_AIM = 0.991
_PSNR_AIM = 0.05
_STRAIGHT = 10.0  # rate points over which PSNR is a straight line, near enough
_SAMPLE = 24_000  # coefficients looked at


class StandIn:
    """What to expect of a picture at any rate point, up to an offset.

    Args:
        job: with its latent and region offsets.
        corrected: by the usual errors of the weights' card.
    """

    def __init__(self, job: _Job, corrected: bool = True) -> None:
        self.corrected, self.usual_bytes, self.usual_psnr = corrected, job.codec.usual_bytes, job.codec.usual_psnr
        latent = job.latent[0]
        channels, h, w = latent.shape
        count = max(16, _SAMPLE // channels)
        # A step without common factors with the width visits all rows and columns.
        chosen = np.unique(np.linspace(0, h * w - 1, min(count, h * w)).astype(np.int64))
        self.sample = np.ascontiguousarray(latent.reshape(channels, -1)[:, chosen].T)
        self.gains = job.codec.gains
        self.config = job.codec.config.rate
        self.offsets = np.zeros(len(chosen), np.float32)
        if job.offsets is not None:
            self.offsets = job.offsets[chosen // w // HYPER_STRIDE, chosen % w // HYPER_STRIDE].astype(np.float32)
        self.per_pixel = h * w * channels / self.sample.size / (job.width * job.height)
        self.slope = math.log(self.config.lambda_max / self.config.lambda_min) / (self.config.levels - 1)

    def _gained(
        self, r: float
    ) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.float32]], np.ndarray[tuple[int], np.dtype[np.float32]]]:
        """(positions, channels) magnitudes, and every position's rate point."""
        rates = np.clip(r + self.offsets, 0.0, self.config.levels - 1.0).astype(np.float32)
        position = rates * ((self.config.knots - 1) / (self.config.levels - 1))
        weights = np.maximum(0.0, 1.0 - np.abs(position[:, None] - np.arange(self.config.knots)))
        gain = np.exp(weights.astype(np.float32) @ self.gains.log_gain)
        return np.abs(self.sample * gain), rates

    def _usual(self, numbers: NDArray[np.float32], r: float) -> float:
        return float(np.interp(r, np.linspace(0.0, self.config.levels - 1.0, len(numbers)), numbers)) if self.corrected else 0.0

    def log_bytes(self, r: float) -> float:
        """log2 of the bytes per pixel."""
        size, _ = self._gained(r)
        return self._usual(self.usual_bytes, r) + math.log2(
            0.5 * float(np.log2(1.0 + 8.0 * size * size).sum()) * self.per_pixel / 8 + 1e-6
        )

    def psnr(self, r: float) -> float:
        """PSNR in dB."""
        size, rates = self._gained(r)
        error = np.minimum(size * size, 1.0 / 12.0).sum(1) * np.exp(-self.slope * rates)
        return self._usual(self.usual_psnr, r) - 10.0 * math.log10(float(error.sum()) * self.per_pixel + 1e-9)


class _Search:
    """Where to try next: the stand-in, corrected by what the tries so far tell.

    Args:
        expected: the stand-in.
        floor: whether the value is -10 log10 of an error that has a floor which no rate removes (PSNR): two tries then give
            ``error = a * expected error + b``, or, close together around the target, a straight line. Otherwise, and where that
            fails, the difference is a line through the tries.
    """

    def __init__(self, expected: Callable[[float], float], top: float, floor: bool) -> None:
        self.expected, self.top, self.floor = expected, top, floor
        self.tries: list[tuple[float, float]] = []

    def add(self, r: float, value: float) -> None:
        self.tries.append((r, value))

    def model(self, target: float) -> Callable[[float], float]:
        """Value by rate point, fitted to the two tries nearest to the target."""
        expected = self.expected
        if not self.tries:
            return expected
        if self.floor and (near := self._around(target)):
            (r0, v0), (r1, v1) = near
            return lambda r: v0 + (r - r0) * (v1 - v0) / (r1 - r0)
        (r0, v0), *rest = sorted(self.tries, key=lambda t: abs(t[1] - target))
        o0 = v0 - expected(r0)
        if not rest or abs(rest[0][0] - r0) < 0.05:
            return lambda r: expected(r) + o0
        r1, v1 = rest[0]
        o1 = v1 - expected(r1)
        if self.floor:
            d0, d1 = 10 ** (-expected(r0) / 10), 10 ** (-expected(r1) / 10)
            a = (10 ** (-v0 / 10) - 10 ** (-v1 / 10)) / (d0 - d1) if d0 != d1 else -1.0
            b = 10 ** (-v0 / 10) - a * d0
            if a > 0 and b > 0:
                return lambda r: -10 * math.log10(a * 10 ** (-expected(r) / 10) + b)
        return lambda r: expected(r) + o0 + min(max((r - r0) / (r1 - r0), -1.0), 2.0) * (o1 - o0)

    def _around(self, target: float) -> tuple[tuple[float, float], tuple[float, float]] | None:
        """The tries just below and above the target, if they are close enough for a straight line between them: PSNR is smooth
        where the stand-in, whose usual errors are known at a few rate points, has corners."""
        below = [t for t in self.tries if t[1] < target]
        above = [t for t in self.tries if t[1] >= target]
        if not below or not above:
            return None
        low, high = max(below, key=lambda t: t[1]), min(above, key=lambda t: t[1])
        return (low, high) if 0.05 < high[0] - low[0] <= _STRAIGHT else None

    def solve(self, target: float) -> float:
        """The rate point whose value should be ``target``; an end of the range if none."""
        model = self.model(target)
        low, high = 0.0, self.top
        for _ in range(13):
            middle = 0.5 * (low + high)
            if model(middle) < target:
                low = middle
            else:
                high = middle
        return 0.0 if low == 0.0 else self.top if high == self.top else 0.5 * (low + high)


def calibrate(codec: ImageCodec, images: Sequence[NDArray[np.uint8]], points: int = 8) -> dict[str, list[float]]:
    """Median differences of real sizes and PSNR from the stand-in's, for a weights file's card ("usual_bytes", "usual_psnr").

    Args:
        points: rate points, in equal steps over the range.
    """
    sizes, scores = np.zeros((len(images), points)), np.zeros((len(images), points))
    for number, image in enumerate(images):
        job = codec.job(image)
        stand_in = StandIn(job, corrected=False)
        for k, r in enumerate(np.linspace(0.0, codec.config.rate.levels - 1.0, points)):
            coded = job.try_rate(float(r))
            sizes[number, k] = math.log2(coded.bits / 8 / (job.width * job.height)) - stand_in.log_bytes(coded.plane.base)
            scores[number, k] = job.psnr(coded) - stand_in.psnr(coded.plane.base)
    return {
        "usual_bytes": [round(float(v), 3) for v in np.median(sizes, 0)],
        "usual_psnr": [round(float(v), 3) for v in np.median(scores, 0)],
    }


def solve_bytes(job: _Job, limit: int) -> Encoded:
    """See ``_Job.to_bytes``."""
    if limit < 1:
        raise ValueError(f"a frame of at most {limit} bytes is impossible")
    pixels = job.width * job.height
    top = job.codec.config.rate.levels - 1.0
    search = _Search(StandIn(job).log_bytes, top, floor=False)
    best: Encoded | None = None
    aim = _BYTES_AIM
    while True:
        coded = job.try_rate(search.solve(math.log2(aim * limit / pixels)))
        encoded = job.finish(coded)
        size = len(encoded.data)
        if size <= limit and (best is None or size > len(best.data)):
            best = encoded
        if best is not None and (len(best.data) >= (1 - BYTES_TOLERANCE) * limit or best.rate >= top):
            break
        if size > limit and coded.plane.base <= 0.0:
            break
        search.add(coded.plane.base, math.log2(size / pixels))
        if job.encodes == MAX_TRIES - 1:
            aim = 1.0 - 0.5 * BYTES_TOLERANCE  # the last try had better fit: none so far is near enough below the limit
        if job.encodes >= MAX_TRIES:
            if best is not None:
                break
            aim *= 0.97 if job.encodes < 10 else 0.3  # all were too large, by little: rare
    if best is None:
        raise ValueError(
            f"this {job.width} x {job.height} picture takes {size} bytes at the lowest rate point, more than the {limit} "
            "allowed: allow more, or send a smaller picture"
        )
    return best


def solve_psnr(job: _Job, target: float) -> Encoded:
    """See ``_Job.to_psnr``."""
    if not math.isfinite(target) or target <= 0:
        raise ValueError(f"a PSNR of {target} dB is no target")
    top = job.codec.config.rate.levels - 1.0
    search = _Search(StandIn(job).psnr, top, floor=True)
    found: list[tuple[float, _Coded]] = []
    aim, least = _PSNR_AIM, target - _PSNR_ROUNDING
    while True:
        coded = job.try_rate(search.solve(target + aim))
        value = job.psnr(coded)
        found.append((value, coded))
        if least <= value <= target + PSNR_TOLERANCE:
            break
        if (value < target and coded.plane.base >= top) or (value > target and coded.plane.base <= 0.0):
            break
        search.add(coded.plane.base, value)
        if job.encodes >= MAX_TRIES:
            if any(v >= least for v, _ in found) or job.encodes >= 2 * MAX_TRIES:
                break
            aim *= 2.0
    reached = [(v, c) for v, c in found if v >= least]
    chosen = min(reached, key=lambda pair: pair[1].bits)[1] if reached else max(found, key=lambda pair: pair[0])[1]
    return job.finish(chosen)
