"""COST: its level under the null, its power, what it must not depend on, and what happens to it when it is done wrong.

Figures to compare with are those of brief cost-model-check.md, section 4 (simulations with an independent implementation).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from bevstack.thermal.cost import (
    CheckError,
    Floats,
    Weight,
    cauchy,
    cost,
    frozen,
    lag_correlation,
    residuals,
    robust_covariance,
    split,
    standardised,
    studentize,
    twice_median,
    weights,
)

CRITICAL = 1.6448536
Misfit = Callable[[Floats, Floats], Floats]
QUAD: Misfit = lambda x, u: u * u  # noqa: E731
COS: Misfit = lambda x, u: np.cos(0.6 * math.pi * u)  # noqa: E731
INTER: Misfit = lambda x, u: x[:, 0] * x[:, 1]  # noqa: E731


def data(
    rng: np.random.Generator, n: int, p: int, misfit: Misfit | None = None, c: float = 0.0
) -> tuple[Floats, Floats, Floats]:
    """Regressors (with ones), predictors, responses of the brief's setting."""
    x = rng.normal(size=(n, p))
    u = x.sum(1) / math.sqrt(p)
    y = u + rng.normal(size=n)
    if misfit is not None:
        y = y + c * misfit(x, u)
    return np.column_stack([np.ones(n), x]), x, y


def statistics(
    n: int, p: int, runs: int, misfit: Misfit | None = None, c: float = 0.0, weight: Weight = "scaled", seed: int = 0
) -> Floats:
    rng = np.random.default_rng(seed)
    first, second = np.arange(n // 2), np.arange(n // 2, n)
    return np.array([cost(*data(rng, n, p, misfit, c), first, second, weight=weight).statistic for _ in range(runs)])


def test_level_and_distribution_under_the_null_small() -> None:
    values = statistics(100, 5, 400)
    assert 0.02 <= (values > CRITICAL).mean() <= 0.085  # 0.05 with 400 runs: three and a half deviations
    assert abs(values.mean()) < 0.2
    assert 0.88 < values.std() < 1.12


def test_misfit_is_found_small() -> None:
    assert (statistics(200, 2, 60, QUAD, 0.5) > CRITICAL).mean() > 0.9


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("n", "p"), [(100, 2), (100, 10), (200, 5), (200, 20), (400, 10), (200, 50)])
def test_level_under_the_null(n: int, p: int) -> None:
    """5 % +- 1.5 whatever the dimension, and T is a standard normal: issue 6, brief 4.1 and 4.3."""
    values = statistics(n, p, 2000)
    assert abs((values > CRITICAL).mean() - 0.05) <= 0.015
    assert abs(values.mean()) <= 0.08
    assert 0.93 <= values.std() <= 1.07
    ordered = np.sort(values)
    phi = 0.5 * np.array([math.erfc(-v / math.sqrt(2)) for v in ordered])
    assert np.abs(phi - np.arange(1, len(phi) + 1) / len(phi)).max() < 0.04


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("n", "p", "misfit", "c", "scaled", "local"),
    [
        (200, 2, QUAD, 0.25, 0.74, 0.56),
        (400, 2, COS, 0.5, 0.97, 0.98),
        (200, 2, INTER, 0.5, 0.91, 0.73),
        (200, 10, QUAD, 0.5, 0.76, 0.44),
        (400, 10, INTER, 0.5, 0.86, 0.32),
        (200, 20, QUAD, 1.0, 0.83, 0.36),
        (400, 20, COS, 1.0, 0.51, 0.26),
        (400, 50, QUAD, 1.0, 0.78, 0.06),
    ],
)
def test_power(n: int, p: int, misfit: Misfit, c: float, scaled: float, local: float) -> None:
    """The brief's table 4.2, both weights, 600 runs each: Monte Carlo error +-0.04 on either side."""
    assert abs((statistics(n, p, 600, misfit, c) > CRITICAL).mean() - scaled) <= 0.06
    assert abs((statistics(n, p, 600, misfit, c, "local") > CRITICAL).mean() - local) <= 0.06


def test_what_it_must_not_depend_on() -> None:
    rng = np.random.default_rng(3)
    z, x, y = data(rng, 200, 4, QUAD, 0.3)
    tested, learnt = split(200, "random", seed=1)
    t = cost(z, x, y, tested, learnt).statistic
    assert cost(z, x, y, rng.permutation(tested), rng.permutation(learnt)).statistic == pytest.approx(t, abs=1e-9)
    assert cost(z, x, 3.0 + 7.0 * y, tested, learnt).statistic == pytest.approx(t, abs=1e-8)
    assert cost(z, x, y + z @ rng.normal(size=5), tested, learnt).statistic == pytest.approx(t, abs=1e-8)
    assert cost(z * [1, 1e6, 1e-6, 3, 1], x * 1e3 + 5, y, tested, learnt).statistic == pytest.approx(t, abs=1e-6)


def test_columns_that_depend_on_others_are_left_out() -> None:
    z, x, y = data(np.random.default_rng(4), 200, 3)
    tested, learnt = split(200, "random")
    right = cost(z, x, y, tested, learnt)
    constant = np.column_stack([z, np.full(200, 5.0), np.zeros(200), z[:, 1] - 2 * z[:, 2]])
    more = cost(constant, x, y, tested, learnt)
    assert more.parameters == right.parameters == 4
    assert more.statistic == pytest.approx(right.statistic, abs=1e-8)


def test_done_wrong_it_is_no_test() -> None:
    """Negative controls: one fit for all, and no projection, give a statistic that is far from a standard normal."""
    rng = np.random.default_rng(5)
    one_fit, unprojected = [], []
    first, second = np.arange(100), np.arange(100, 200)
    for _ in range(250):
        z, x, y = data(rng, 200, 5)
        w = weights(standardised(x)[first], standardised(x)[second])
        nothing = np.zeros((100, 0))
        e = residuals(z, y)
        one_fit.append(studentize(e[first], w @ e[second], nothing, 100).statistic)
        e1, e2 = residuals(z[first], y[first]), residuals(z[second], y[second])
        unprojected.append(studentize(e1, w @ e2, nothing, 100).statistic)
    assert np.mean(one_fit) < -0.8
    assert np.std(one_fit) < 0.75
    assert np.std(unprojected) < 0.75


def test_a_stored_model_is_tested_with_the_error_of_its_calibration() -> None:
    """With a short calibration, leaving out its covariance makes the test reject far too often."""
    rng = np.random.default_rng(6)
    truth = np.array([1.0, -2.0, 0.5])
    with_error: list[float] = []
    without: list[float] = []
    for _ in range(150):
        halves = []
        for _ in range(2):
            z = np.column_stack([np.ones(60), rng.normal(size=(60, 2))])
            y = z @ truth + rng.normal(size=60)
            theta = np.linalg.lstsq(z, y, rcond=None)[0]
            halves.append((theta, robust_covariance(z, y - z @ theta)))
        z = np.column_stack([np.ones(300), rng.normal(size=(300, 2))])
        y = z @ truth + rng.normal(size=300)
        tested, learnt = split(300, "sequential")
        for made, covariance in ((with_error, halves[0][1]), (without, np.zeros((3, 3)))):
            made.append(frozen(z, z[:, 1:], y, tested, learnt, halves[0][0], halves[1][0], covariance).statistic)
    assert (np.array(with_error) > CRITICAL).mean() < 0.09
    assert (np.array(without) > CRITICAL).mean() > 0.15
    wrong = frozen(z, z[:, 1:], y + 1.5 * z[:, 1], tested, learnt, truth, truth, np.zeros((3, 3)))
    assert wrong.p < 1e-6


def test_splits() -> None:
    tested, learnt = split(100, "sequential", gap=3)
    assert (len(tested), len(learnt)) == (65, 32)
    assert learnt.max() + 4 == tested.min()
    tested, learnt = split(100, "random", seed=7)
    assert sorted([*tested, *learnt]) == list(range(100))
    assert np.array_equal(tested, split(100, "random", seed=7)[0])
    tested, learnt = split(100, "chunks", chunk=10)
    assert list(tested[:10]) == list(range(10, 20))
    assert not set(tested) & set(learnt)


def test_combinations_of_p_values() -> None:
    assert cauchy([0.3] * 5) == pytest.approx(0.3)
    assert cauchy([1e-9, 0.5, 0.9]) < 1e-8
    assert cauchy([0.0, 1.0]) >= 0.0
    assert twice_median([0.01, 0.02, 0.5]) == pytest.approx(0.04)
    assert twice_median([0.9]) == 1.0


def test_refusals() -> None:
    z, x, y = data(np.random.default_rng(8), 60, 5)
    with pytest.raises(CheckError, match="30 tested and 12 learnt samples for 6 parameters"):
        cost(z, x, y, np.arange(30), np.arange(30, 42))
    with pytest.raises(CheckError, match="must be finite and vary"):
        cost(z, x, np.zeros(60), np.arange(30), np.arange(30, 60))
    y[3] = np.nan
    with pytest.raises(CheckError, match="responses hold values that are not finite"):
        cost(z, x, y, np.arange(30), np.arange(30, 60))
    with pytest.raises(CheckError, match="do not belong together"):
        cost(z, x[:10], y, np.arange(30), np.arange(30, 60))


def test_lag_correlation() -> None:
    rng = np.random.default_rng(9)
    e = rng.normal(size=5000)
    assert abs(lag_correlation(e)) < 0.05
    assert lag_correlation(np.cumsum(e)) > 0.95
    assert lag_correlation(np.ones(5)) == 0.0
