"""Rate-distortion curves and the Bjontegaard rate difference between two of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bevstack.errors import BevstackError

Metric = Literal["psnr", "ms_ssim_db"]
MIN_POINTS = 4
MIN_OVERLAP_DB = 1.0


class CurveError(BevstackError):
    """A rate-distortion curve, or a pair of them, gives no rate difference."""


@dataclass(frozen=True)
class Point:
    """One operating point, averaged over a set of pictures.

    Attributes:
        bpp: bits per pixel of the whole file.
        psnr: mean PSNR-RGB, dB; None where unknown.
        ms_ssim_db: mean MS-SSIM as -10 log10(1 - v), dB; None where unknown.
    """

    bpp: float
    psnr: float | None = None
    ms_ssim_db: float | None = None


@dataclass(frozen=True)
class Curve:
    """Operating points of one codec.

    Attributes:
        name: for tables and messages.
        points: in any order.
        source: where published points come from; "" for measured ones.
    """

    name: str
    points: tuple[Point, ...]
    source: str = ""

    def samples(self, metric: Metric) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(rate, quality) of the points that have the metric, sorted by rate; equal points once.

        Raises:
            CurveError: fewer than ``MIN_POINTS``, a rate that is not positive, or quality that does not rise with the rate.
        """
        pairs = {(p.bpp, value) for p in self.points if (value := getattr(p, metric)) is not None and np.isfinite(value)}
        if len(pairs) < MIN_POINTS:
            raise CurveError(f"{self.name} has {len(pairs)} points with {metric}: BD-rate needs at least {MIN_POINTS}")
        rate, quality = np.array(sorted(pairs), dtype=np.float64).T
        if rate[0] <= 0:
            raise CurveError(f"{self.name} has a point of {rate[0]:g} bpp: rates must be positive")
        falls = np.flatnonzero((np.diff(quality) <= 0) | (np.diff(rate) <= 0))
        if falls.size:
            k = int(falls[0])
            raise CurveError(
                f"{self.name}: {metric} does not rise from {rate[k]:.4f} bpp ({quality[k]:.3f} dB) to {rate[k + 1]:.4f} bpp "
                f"({quality[k + 1]:.3f} dB): leave one of the two points out"
            )
        return rate, quality


@dataclass(frozen=True)
class BdRate:
    """Rate difference of a curve against an anchor.

    Attributes:
        percent: mean difference at equal quality; negative: fewer bits than the anchor.
        low, high: the common quality interval, dB.
        metric: what quality is.
    """

    percent: float
    low: float
    high: float
    metric: Metric


def bd_rate(
    anchor: Curve,
    test: Curve,
    metric: Metric = "psnr",
    *,
    within: tuple[float, float] | None = None,
    method: Literal["pchip", "akima"] = "pchip",
) -> BdRate:
    """Mean rate difference of ``test`` against ``anchor`` at equal quality.

    log10(rate) is interpolated as a function of quality, piecewise cubic and monotone, and integrated over the interval of
    quality that both curves reach (Bjontegaard, VCEG-M33, with the interpolation that replaced its polynomial fit).

    Args:
        anchor, test: at least ``MIN_POINTS`` points each.
        metric: quality.
        within: leave out points outside this interval of quality, dB.
        method: "akima" to check how much the interpolation matters.

    Raises:
        CurveError: too few points, quality that falls while the rate rises, or less than ``MIN_OVERLAP_DB`` in common.
    """
    try:
        from scipy.interpolate import Akima1DInterpolator, PchipInterpolator
    except ImportError:
        raise CurveError('BD-rate needs scipy: pip install "bevstack[eval]"') from None

    (rate_a, quality_a), (rate_t, quality_t) = (_clipped(curve, metric, within) for curve in (anchor, test))
    low, high = max(quality_a[0], quality_t[0]), min(quality_a[-1], quality_t[-1])
    if high - low < MIN_OVERLAP_DB:
        raise CurveError(
            f"{test.name} ({quality_t[0]:.2f} to {quality_t[-1]:.2f} dB) and {anchor.name} ({quality_a[0]:.2f} to "
            f"{quality_a[-1]:.2f} dB) have {max(0.0, high - low):.2f} dB of {metric} in common; at least {MIN_OVERLAP_DB:g} dB "
            "is needed: evaluate at other qualities"
        )
    kind = PchipInterpolator if method == "pchip" else Akima1DInterpolator
    areas = [
        float(kind(quality, np.log10(rate)).antiderivative()(high) - kind(quality, np.log10(rate)).antiderivative()(low))
        for rate, quality in ((rate_a, quality_a), (rate_t, quality_t))
    ]
    difference = (areas[1] - areas[0]) / (high - low)
    return BdRate(100.0 * (10.0**difference - 1.0), float(low), float(high), metric)


def quality_at(curve: Curve, bpp: Sequence[float], metric: Metric = "psnr") -> list[float | None]:
    """Quality of the curve at fixed rates; None outside the curve's own rates (nothing is extrapolated).

    Raises:
        CurveError: as ``Curve.samples``.
    """
    from scipy.interpolate import PchipInterpolator

    rate, quality = curve.samples(metric)
    interpolate = PchipInterpolator(np.log10(rate), quality)
    return [float(interpolate(np.log10(b))) if rate[0] <= b <= rate[-1] else None for b in bpp]


def _clipped(
    curve: Curve, metric: Metric, within: tuple[float, float] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if within is None:
        return curve.samples(metric)
    kept = tuple(p for p in curve.points if (v := getattr(p, metric)) is not None and within[0] <= v <= within[1])
    return Curve(curve.name, kept).samples(metric)
