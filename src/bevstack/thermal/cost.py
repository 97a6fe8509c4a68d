"""COST, the conditionally studentized test: a p-value for "does a parametric regression still describe these data?".

The problem, the split and the conditional studentization are those of arXiv 2303.02840 (Liang, Wang, Huang, Zhu); the formulae
here are our own derivation of a test with that structure, since only the paper's abstract was at hand. One part of the data
learns where the model fails, the other is tested there:

1. fit on the part that learns, residuals e2; a_i = sum_j w(x_i, x_j) e2_j is the direction in which the model seems wrong.
2. fit on the part that is tested, residuals e1; the direction is projected off the model's tangent space (at).
3. T = sum e1 at / sqrt(sum e1^2 at^2 / (1 - leverage)), standard normal if the model is right, large if it is not.

Separate fits, the projection and the leverage term are all needed: without them the test holds its level only by accident
(tests/thermal/test_cost.py shows by how much). numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bevstack.errors import BevstackError

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
Weight = Literal["scaled", "global", "local"]
SplitKind = Literal["sequential", "random", "chunks"]

FRACTION = 0.65
"""Share of the data that is tested: power is flat around its maximum there."""


_DEPENDENT = 1e-10  # columns closer than this to the span of others, relatively, are left out


class CheckError(BevstackError):
    """Data on which no test can be made."""


@dataclass(frozen=True)
class Test:
    """A one-sided test of one split.

    Attributes:
        statistic: T, standard normal under the null, positive where the model is wrong.
        p: 1 - Phi(T).
        tested, learnt: sizes of the two parts.
        parameters: rank of the tangent space that was projected off.
        rms: of the tested part's residuals, in units of y.
    """

    __test__ = False  # for pytest: not one of its classes

    statistic: float
    p: float
    tested: int
    learnt: int
    parameters: int
    rms: float


def upper_tail(value: float) -> float:
    """1 - Phi(value) of the standard normal distribution."""
    return 0.5 * math.erfc(value / math.sqrt(2.0))


def weights(first: Floats, second: Floats, kind: Weight = "scaled") -> Floats:
    """(n1, n2) similarities of the rows of two standardised predictor matrices (n1, p), (n2, p).

    "scaled": exp(-d^2 / 2p), which keeps its size as p grows. "global": exp(-d^2 / 2). "local": a Gaussian kernel of width
    1.5 n^(-1 / (4 + p)), n = n1 + n2 (Zheng's test): only for p up to 2 and misfits that oscillate.
    """
    p = first.shape[1]
    distance = (first**2).sum(1)[:, None] + (second**2).sum(1)[None, :] - 2.0 * first @ second.T
    np.maximum(distance, 0.0, out=distance)
    if kind == "scaled":
        width = float(p)
    elif kind == "global":
        width = 1.0
    else:
        width = (1.5 * (len(first) + len(second)) ** (-1.0 / (4 + p))) ** 2
    return np.exp(distance / (-2.0 * width))


def standardised(x: Floats) -> Floats:
    """Columns with mean 0 and standard deviation 1; columns that do not vary become 0."""
    centred = x - x.mean(0)
    scale = centred.std(0)
    return np.divide(centred, scale, out=np.zeros_like(centred), where=scale > 1e-12 * (np.abs(x).max(0) + 1e-300))


def basis(z: Floats) -> Floats:
    """Orthonormal basis (n, r) of the columns of ``z`` (n, q): columns that depend on others are left out."""
    length = np.linalg.norm(z, axis=0)
    used = z[:, length > 0] / length[length > 0]
    if not used.shape[1]:
        return np.zeros((len(z), 0))
    q, r = np.linalg.qr(used)
    diagonal = np.abs(np.diag(r))
    if len(z) >= used.shape[1] and diagonal.min() > _DEPENDENT * diagonal.max():
        return np.asarray(q)
    left, values, _ = np.linalg.svd(used, full_matrices=False)
    return np.asarray(left[:, values > _DEPENDENT * values[0]])


def residuals(z: Floats, y: Floats) -> Floats:
    """Of least squares (n,)."""
    q = basis(z)
    return np.asarray(y - q @ (q.T @ y))


def fit(z: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Least squares: coefficients (q,), the shortest where columns depend on each other, and residuals (n,)."""
    length = np.linalg.norm(z, axis=0)
    length[length == 0] = 1.0
    theta = np.linalg.lstsq(z / length, y, rcond=_DEPENDENT)[0] / length
    return theta, y - z @ theta


def robust_covariance(z: Floats, errors: Floats) -> Floats:
    """(q, q) covariance of least-squares coefficients, whatever the errors' variances (HC2)."""
    q = basis(z)
    leverage = np.minimum((q**2).sum(1), 1.0 - 1e-9)
    inverse = np.linalg.pinv(z.T @ z, rcond=1e-12, hermitian=True)
    meat = (z * (errors**2 / (1.0 - leverage))[:, None]).T @ z
    return np.asarray(inverse @ meat @ inverse)


def studentize(
    e1: Floats, direction: Floats, tangent: Floats, learnt: int, stored: tuple[Floats, Floats] | None = None
) -> Test:
    """The statistic from residuals (n1,) of the tested part, a direction (n1,), and the columns (n1, q) that were fitted to it.

    Args:
        e1: residuals of a fit on the tested part alone (of a fixed model if ``tangent`` has no columns).
        direction: learnt on the other part, from its residuals alone.
        tangent: gradients of the model in its parameters: projected off.
        learnt: size of the other part, for the record.
        stored: (n1, q) regressors of parameters that were not fitted here, and the (q, q) covariance of their stored values.

    Raises:
        CheckError: a residual or direction that is zero throughout, or not finite: nothing varies that could be tested.
    """
    q = basis(tangent) if tangent.shape[1] else np.zeros((len(e1), 0))
    at = direction - q @ (q.T @ direction)
    leverage = np.minimum((q**2).sum(1), 1.0 - 1e-9)
    variance = float((e1**2 * at**2 / (1.0 - leverage)).sum())
    if stored is not None:
        image = stored[0].T @ at
        variance += float(image @ stored[1] @ image)
    if not (math.isfinite(variance) and variance > 0.0):
        raise CheckError(f"variance of the statistic is {variance:g} over {len(e1)} samples: values must be finite and vary")
    statistic = float((e1 * at).sum()) / math.sqrt(variance)
    return Test(statistic, upper_tail(statistic), len(e1), learnt, q.shape[1], float(np.sqrt((e1**2).mean())))


def cost(z: Floats, x: Floats, y: Floats, tested: Indices, learnt: Indices, *, weight: Weight = "scaled") -> Test:
    """Is the *form* of a linear model right, whatever its parameters? Both parts are fitted, each on its own.

    Args:
        z: (n, q) regressors, with the column of ones where there is an intercept. For a nonlinear model: its gradients, with y
            its residuals at the fitted parameters.
        x: (n, p) predictors in which a misfit may show.
        y: (n,) responses.
        tested, learnt: disjoint rows.
        weight: see ``weights``.

    Raises:
        CheckError: too few rows for the parameters (q + 20 tested, q + 10 learnt), or values that do not vary.
    """
    z, x, y = _checked(z, x, y)
    columns = z.shape[1]
    if len(tested) < columns + 20 or len(learnt) < columns + 10:
        raise CheckError(
            f"{len(tested)} tested and {len(learnt)} learnt samples for {columns} parameters: "
            f"{columns + 20} and {columns + 10} are needed; take a longer window"
        )
    scaled = standardised(x)
    direction = weights(scaled[tested], scaled[learnt], weight) @ residuals(z[learnt], y[learnt])
    return studentize(residuals(z[tested], y[tested]), direction, z[tested], len(learnt))


def frozen(
    z: Floats,
    x: Floats,
    y: Floats,
    tested: Indices,
    learnt: Indices,
    first: Floats,
    second: Floats,
    covariance: Floats,
    *,
    nuisance: Floats | None = None,
    weight: Weight = "scaled",
) -> Test:
    """Are *stored* parameters still right? Nothing is fitted here, except what ``nuisance`` allows to float.

    The two references come from two parts of the calibration run: with one for both sides the residuals would share its error
    and T would be biased upward.

    Args:
        z, x, y, tested, learnt, weight: as for ``cost``.
        first, covariance: (q,) parameters used on the tested part, and their (q, q) covariance.
        second: (q,) parameters used on the part that learns.
        nuisance: (n, m) columns refitted in this window on each part (a floating offset: ones); None: none.

    Raises:
        CheckError: as for ``cost``.
    """
    z, x, y = _checked(z, x, y)
    free = np.zeros((len(y), 0)) if nuisance is None else np.asarray(nuisance, np.float64)
    if len(tested) < free.shape[1] + 20 or len(learnt) < free.shape[1] + 10:
        raise CheckError(f"{len(tested)} tested and {len(learnt)} learnt samples are too few: take a longer window")
    scaled = standardised(x)
    f1, f2 = y[tested] - z[tested] @ first, y[learnt] - z[learnt] @ second
    if free.shape[1]:
        f1, f2 = residuals(free[tested], f1), residuals(free[learnt], f2)
    direction = weights(scaled[tested], scaled[learnt], weight) @ f2
    return studentize(f1, direction, free[tested], len(learnt), (z[tested], covariance))


def split(
    n: int, kind: SplitKind = "sequential", *, fraction: float = FRACTION, seed: int = 0, gap: int = 3, chunk: int = 30
) -> tuple[Indices, Indices]:
    """(tested, learnt) rows of ``n``.

    "sequential": the past learns, the later part is tested, ``gap`` rows between them are left out: valid for errors that
    cannot be foreseen from the past. "random": independent errors only; finds misfits that are local in time. "chunks":
    alternating runs of ``chunk`` rows, half and half.
    """
    rows = np.arange(n)
    if kind == "sequential":
        border = n - round(fraction * n)
        return rows[border:], rows[: max(border - gap, 0)]
    if kind == "chunks":
        odd = rows // chunk % 2 == 1
        return rows[odd], rows[~odd]
    order = np.random.default_rng(seed).permutation(n)
    count = round(fraction * n)
    return np.sort(order[:count]), np.sort(order[count:])


def cauchy(values: Sequence[float]) -> float:
    """One p-value from those of several random splits; size about 6 % where each has 5 %. Never take the smallest instead."""
    mean = sum(math.tan((0.5 - min(max(p, 1e-15), 1 - 1e-15)) * math.pi) for p in values) / len(values)
    return 0.5 - math.atan(mean) / math.pi


def twice_median(values: Sequence[float]) -> float:
    """One p-value from those of several splits with a strict bound on the size; much less power than ``cauchy``."""
    return min(1.0, 2.0 * float(np.median(values)))


def lag_correlation(errors: Floats) -> float:
    """Lag-1 autocorrelation; 0 for a constant."""
    centred = errors - errors.mean()
    power = float((centred**2).sum())
    return float((centred[1:] * centred[:-1]).sum()) / power if power > 0 else 0.0


def _checked(z: Floats, x: Floats, y: Floats) -> tuple[Floats, Floats, Floats]:
    z, x, y = np.asarray(z, np.float64), np.asarray(x, np.float64), np.asarray(y, np.float64)
    if z.ndim != 2 or x.ndim != 2 or y.shape != (len(z),) or len(x) != len(z):
        raise CheckError(f"regressors {z.shape}, predictors {x.shape} and responses {y.shape} do not belong together")
    for name, values in (("regressors", z), ("predictors", x), ("responses", y)):
        if not np.isfinite(values).all():
            raise CheckError(f"{name} hold values that are not finite: leave out samples without a reading")
    return z, x, y
