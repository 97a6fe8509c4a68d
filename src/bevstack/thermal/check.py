"""Is the thermal model still right? Windows of a running governor or of a log, tested with COST, with a brake on false alarms.

Three questions, three answers (arXiv 2303.02840 for the test's structure, ``thermal.cost`` for the test itself):

- DRIFT, are the stored resistances still right: the frozen test; dust, a slow fan, another power mode.
- FORM, is the shape of the model still right, whatever its parameters: the refit test.
- size, is it worth acting: degrees that a refit would gain. Every real model is wrong, and enough samples prove it; a p-value
  alone must not act.

One test per window of time, windows do not overlap. Under the null their statistics are about independent standard normals, so
they are accumulated (CUSUM) and only the sum raises the alarm: looking again and again costs no extra false alarms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from .calibration import Calibration
from .cost import (
    CheckError,
    Floats,
    Test,
    cauchy,
    cost,
    fit,
    frozen,
    lag_correlation,
    residuals,
    robust_covariance,
    split,
)

THINNINGS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
CORRELATION = 0.1
"""Lag-1 correlation of residuals above which no p-value is given."""
SIGNIFICANT = 0.001
EXCITATION = 0.15
"""Share of the power range that a window must have moved through to prove anything."""


class Verdict(Enum):
    """What one window says."""

    OK = "OK"
    DRIFT = "DRIFT"
    FORM = "FORM"
    NOT_VALID = "NOT_VALID"
    INSUFFICIENT_EXCITATION = "INSUFFICIENT_EXCITATION"


@dataclass(frozen=True)
class Report:
    """One window of one zone (or of one latency model).

    Attributes:
        subject: zone key, or ``latency <model>``.
        start, end: seconds of the log's clock.
        samples: used after thinning; tested, learnt: of those, in the two parts.
        parameters: rank of what was refitted.
        thinning: every how many-th sample was used.
        splits: kind and seed of the splits.
        statistic, p: of the frozen test (temperature) or of the refit test over random splits (latency: T of the median split).
        form_p: of the refit test; NaN if it was not made.
        cumulative: S of the CUSUM after this window; it alarms above ``CheckConfig.alarm``.
        correlation: lag-1, of the refit's residuals.
        rms_refit, rms_frozen: residuals, degC (or ms).
        effect: what a refit would gain, sqrt(rms_frozen^2 - rms_refit^2).
        verdict: of this window alone.
        alarm: accumulated evidence and effect both exceed their limits: the model should not be used.
        why: one line.
    """

    subject: str
    start: float
    end: float
    samples: int
    tested: int
    learnt: int
    parameters: int
    thinning: int
    splits: str
    statistic: float
    p: float
    form_p: float
    cumulative: float
    correlation: float
    rms_refit: float
    rms_frozen: float
    effect: float
    verdict: Verdict
    alarm: bool
    why: str

    def __str__(self) -> str:
        """One line for the log."""
        numbers = "" if math.isnan(self.p) else f", T {self.statistic:.2f}, p {self.p:.2g}, S {self.cumulative:.1f}"
        size = "" if math.isnan(self.effect) else f", effect {self.effect:.2f}"
        return f"{self.subject}: {'ALARM, ' if self.alarm else ''}{self.verdict.value}{numbers}{size}: {self.why}"


@dataclass(frozen=True)
class CheckConfig:
    """Limits and times.

    Attributes:
        window: seconds per test of temperatures.
        effect: degC that a refit must gain before anything is done.
        alarm: of the accumulated statistic: 5 gives one false alarm in about 900 windows, before the effect is asked for.
        reference: subtracted from each window's statistic.
        trend: degree in time of what floats freely in each window: ambient drifts, and that is no fault (0: an offset, 1: a
            ramp). What floats hides what looks like it: a slow sink is found by its dynamics alone. -1: nothing floats, the
            stored offset counts as well, which needs a known ambient (``Reference.ambient``, or a climate chamber).
        settle: seconds of power history before the first window: what the filters do not know cannot be tested.
    """

    window: float = 600.0
    effect: float = 1.0
    alarm: float = 5.0
    reference: float = 0.5
    trend: int = 1
    settle: float = 450.0

    def __post_init__(self) -> None:
        if self.window <= 0 or self.effect <= 0 or self.alarm <= 0 or not -1 <= self.trend <= 4:
            raise CheckError(
                f"window {self.window}, effect {self.effect} and alarm {self.alarm} must be above 0, trend -1 to 4"
            )


@dataclass(frozen=True)
class Reference:
    """What is stored about one zone: temperature = offset + sum over units and time constants of resistance * filtered power.

    Attributes:
        zone: key.
        units: names (U,).
        taus: seconds (I,), rising.
        first, second: (U * I + 1,) K/W, unit-major, and last the offset in degC: from two halves of the calibration run.
        covariance: (U * I + 1, U * I + 1) of ``first``.
        ambient: zone whose readings are subtracted, low-passed with the slowest time constant (the sink follows no faster);
            "" for none.
        rms: residual of the calibration, degC; NaN if unknown.
        power_range: unit to the span of its power during calibration, W.
    """

    zone: str
    units: tuple[str, ...]
    taus: tuple[float, ...]
    first: Floats
    second: Floats
    covariance: Floats
    rms: float = math.nan
    power_range: Mapping[str, float] = field(default_factory=dict)
    ambient: str = ""


def references(calibration: Calibration, power_range: Mapping[str, float] | None = None) -> list[Reference]:
    """From a stored calibration, which has one set of resistances and no covariance: the frozen test is then a little too ready
    to reject (its error is on both sides), which the effect size has to catch. ``references_from_log`` does without that."""
    made = []
    for index, zone in enumerate(calibration.zones):
        theta = np.append(np.asarray(calibration.resistance[index], np.float64).reshape(-1), float(calibration.offset[index]))
        rms, taus = float(calibration.rms[index]), tuple(float(t) for t in calibration.taus)
        zero = np.zeros((len(theta), len(theta)))
        made.append(Reference(zone, tuple(calibration.units), taus, theta, theta, zero, rms, dict(power_range or {})))
    return made


@dataclass(frozen=True)
class Log:
    """A recorded run, one row per governor period.

    Attributes:
        time: (n,) seconds, rising.
        celsius: zone to (n,) degC, NaN where there was no reading.
        power: unit to (n,) W.
        latency: model to (n,) ms, NaN where nothing was finished.
        expected: model to (n,) ms that its rung should take; models as in ``latency``.
    """

    time: Floats
    celsius: Mapping[str, Floats]
    power: Mapping[str, Floats]
    latency: Mapping[str, Floats] = field(default_factory=dict)
    expected: Mapping[str, Floats] = field(default_factory=dict)


class Filters:
    """Power low-passed with every time constant: the regressors of the thermal model (Foster form)."""

    def __init__(self, units: Sequence[str], taus: Sequence[float]) -> None:
        self._units, self._taus = tuple(units), np.asarray(taus, np.float64)
        self._state: Floats | None = None
        self._at = 0.0

    def step(self, now: float, power: Mapping[str, float]) -> Floats:
        """(U * I,) W, after ``power`` (W by unit, held since the last step) has acted until ``now``."""
        p = np.array([power.get(unit, 0.0) for unit in self._units])
        if self._state is None:
            self._state = np.repeat(p[:, None], len(self._taus), axis=1)
        else:
            a = np.exp(-max(now - self._at, 0.0) / self._taus)
            self._state = a * self._state + (1.0 - a) * p[:, None]
        self._at = now
        return self._state.reshape(-1).copy()


def regressors(log: Log, units: Sequence[str], taus: Sequence[float]) -> Floats:
    """(n, U * I) filtered powers of a log."""
    filters = Filters(units, taus)
    rows = [filters.step(float(t), {u: float(log.power[u][i]) for u in units}) for i, t in enumerate(log.time)]
    return np.array(rows)


def references_from_log(
    log: Log, taus: Sequence[float], *, settle: float = 450.0, gap: float = 30.0, ambient: str = ""
) -> list[Reference]:
    """Two references per zone from the two halves of a calibration run, with a gap between them.

    ``ambient``: zone that is subtracted from the others; "" where ambient was constant.

    Raises:
        CheckError: too short a run, or no power moved.
    """
    units = tuple(u for u in log.power if np.ptp(log.power[u]) > 0)
    if not units:
        raise CheckError("power never changes in the reference log: record a run with alternating rungs")
    z, made = regressors(log, units, taus), []
    around: Floats | None = None
    if ambient:
        around = regressors(replace(log, power={"": log.celsius[ambient]}), ("",), taus[-1:])[:, 0]
    begin, end = float(log.time[0]) + settle, float(log.time[-1])
    middle = (begin + end) / 2
    for zone, measured in log.celsius.items():
        if zone == ambient:
            continue
        celsius = measured - around if around is not None else measured
        there = np.isfinite(celsius)
        halves = []
        for low, high in ((begin, middle - gap / 2), (middle + gap / 2, end)):
            rows = there & (log.time >= low) & (log.time <= high)
            if rows.sum() < 40 * (z.shape[1] + 1):
                raise CheckError(
                    f"{zone}: {int(rows.sum())} samples in half of the reference log, {40 * (z.shape[1] + 1)} are needed"
                )
            x = np.column_stack([z[rows], np.ones(rows.sum())])
            theta, errors = fit(x, celsius[rows])
            halves.append((theta, robust_covariance(x, errors), float(np.sqrt((errors**2).mean()))))
        made.append(
            Reference(
                zone,
                units,
                tuple(float(t) for t in taus),
                halves[0][0],
                halves[1][0],
                halves[0][1],
                float(np.hypot(halves[0][2], halves[1][2]) / math.sqrt(2)),
                {u: float(np.ptp(log.power[u])) for u in units},
                ambient,
            )
        )
    return made


class ModelCheck:
    """Feeds on what the governor sees, tests each zone once per window, and remembers.

    Args:
        stored: one reference per zone.
        config: limits and times.
    """

    def __init__(self, stored: Sequence[Reference], config: CheckConfig | None = None) -> None:
        self.config = config or CheckConfig()
        self._zones = {r.zone: _ZoneCheck(r, self.config) for r in stored}
        self.alarms: dict[str, Report] = {}
        """Zone to the newest report that raised an alarm; kept until ``reset``."""

    @property
    def trusted(self) -> bool:
        """False once a window has raised an alarm."""
        return not self.alarms

    def reset(self) -> None:
        """After a new calibration: evidence starts from nothing."""
        self.alarms.clear()
        for zone in self._zones.values():
            zone.cumulative = 0.0

    def feed(self, now: float, celsius: Mapping[str, float | None], power: Mapping[str, float]) -> list[Report]:
        """One period: temperatures by zone (None or NaN: no reading), power by unit in W. Returns reports of ended windows."""
        reports = []
        for key, zone in self._zones.items():
            report = zone.feed(now, zone.relative(now, celsius), power)
            if report is not None:
                reports.append(report)
                if report.alarm:
                    self.alarms[key] = report
        return reports


class _ZoneCheck:
    def __init__(self, reference: Reference, config: CheckConfig) -> None:
        self._reference, self._config = reference, config
        self._filters = Filters(reference.units, reference.taus)
        self._ambient = Filters(("",), reference.taus[-1:])
        self._first: float | None = None
        self._begin = 0.0
        self._last = -math.inf
        self._rows: list[tuple[float, float, Floats]] = []
        self._power: list[Floats] = []
        self.cumulative = 0.0

    def relative(self, now: float, celsius: Mapping[str, float | None]) -> float | None:
        """This zone's temperature, over ambient where that is measured."""
        own, ambient = celsius.get(self._reference.zone), self._reference.ambient
        if not ambient or own is None:
            return own
        around = celsius.get(ambient)
        if around is None or not math.isfinite(around):
            return None
        return own - float(self._ambient.step(now, {"": around})[0])

    def feed(self, now: float, celsius: float | None, power: Mapping[str, float]) -> Report | None:
        config = self._config
        if now - self._last > config.window:  # asleep, or the clock of another log
            self._filters = Filters(self._reference.units, self._reference.taus)
            self._ambient = Filters(("",), self._reference.taus[-1:])
            self._first = None
        self._last = now
        z = self._filters.step(now, power)
        if self._first is None:
            self._first, self._begin = now, now + config.settle
            self._rows, self._power = [], []
        report = None
        if now >= self._begin + config.window:
            report = self._test(now)
            self._begin, self._rows, self._power = now, [], []
        if now >= self._begin:
            self._power.append(np.array([power.get(unit, 0.0) for unit in self._reference.units]))
            if celsius is not None and math.isfinite(celsius):
                self._rows.append((now, celsius, z))
        return report

    def _test(self, now: float) -> Report:
        """The window that ends now."""
        reference, config = self._reference, self._config
        blank = _blank(reference.zone, self._begin, now, len(self._rows), self.cumulative)
        span = np.ptp(np.array(self._power), axis=0) if self._power else np.zeros(len(reference.units))
        full = np.array([reference.power_range.get(unit, 0.0) for unit in reference.units])
        moved = np.divide(span, full, out=(span > 0).astype(float), where=full > 0)
        if not len(moved) or moved.max() < EXCITATION:
            why = f"power moved through {100 * float(moved.max(initial=0.0)):.0f} % of its range: nothing can be said"
            return _with(blank, Verdict.INSUFFICIENT_EXCITATION, why)
        if len(self._rows) < 60:
            return _with(blank, Verdict.NOT_VALID, f"{len(self._rows)} readings in {config.window:g} s are too few")
        time = np.array([row[0] for row in self._rows])
        y = np.array([row[1] for row in self._rows])
        z = np.array([row[2] for row in self._rows])
        if len(np.unique(y)) < 4:
            return _with(
                blank, Verdict.NOT_VALID, f"the sensor showed {len(np.unique(y))} different values: stuck or too coarse"
            )
        s = 2.0 * (time - time[0]) / max(time[-1] - time[0], 1e-9) - 1.0
        trend = np.column_stack([s**k for k in range(config.trend + 1)]) if config.trend >= 0 else np.zeros((len(y), 0))
        stored = np.column_stack([z, np.ones(len(y))])
        columns = np.column_stack([z, np.ones((len(y), 1)), trend[:, 1:]])
        thinning, correlation = _thinning(columns, y, columns.shape[1])
        if thinning is None:
            why = f"residuals follow each other (lag-1 correlation {correlation:.2f}), thinned as far as the window allows"
            refit, kept = self._sizes(columns, stored, y, trend)
            effect = math.sqrt(max(0.0, kept**2 - refit**2))
            return replace(
                _with(blank, Verdict.NOT_VALID, why, correlation=correlation), rms_refit=refit, rms_frozen=kept, effect=effect
            )
        keep = np.arange(0, len(y), thinning)
        try:
            return self._judge(blank, columns[keep], stored[keep], y[keep], trend[keep], thinning, correlation)
        except CheckError as error:
            return _with(blank, Verdict.NOT_VALID, str(error), correlation=correlation)

    def _sizes(self, columns: Floats, stored: Floats, y: Floats, trend: Floats) -> tuple[float, float]:
        """rms of the refitted and of the stored model, degC."""
        error = y - stored @ (self._reference.first + self._reference.second) / 2
        return _rms(residuals(columns, y)), _rms(residuals(trend, error) if trend.shape[1] else error)

    def _judge(
        self, blank: Report, columns: Floats, stored: Floats, y: Floats, trend: Floats, thinning: int, correlation: float
    ) -> Report:
        reference, config = self._reference, self._config
        tested, learnt = split(len(y), "sequential")
        z = stored[:, :-1]
        drift = frozen(stored, z, y, tested, learnt, reference.first, reference.second, reference.covariance, nuisance=trend)
        form: Test | None = None
        if len(tested) >= columns.shape[1] + 20 and len(learnt) >= columns.shape[1] + 10:
            form = cost(columns, z, y, tested, learnt)
        rms_refit, rms_frozen = self._sizes(columns, stored, y, trend)
        effect = math.sqrt(max(0.0, rms_frozen**2 - rms_refit**2))
        self.cumulative = max(0.0, self.cumulative + drift.statistic - config.reference)
        misfit = math.sqrt(max(0.0, rms_refit**2 - reference.rms**2)) if math.isfinite(reference.rms) else 0.0
        verdict, why = Verdict.OK, "the stored model describes this window"
        if drift.p < SIGNIFICANT and effect > config.effect:
            verdict, why = Verdict.DRIFT, "stored resistances are off: dust, fan, heat sink or power mode; calibrate again"
        elif form is not None and form.p < SIGNIFICANT and misfit > config.effect:
            verdict, why = Verdict.FORM, f"no resistances would do: {misfit:.2f} beyond the calibration's residual stay"
        elif drift.p < SIGNIFICANT:
            why = f"a difference is certain and too small to matter (limit {config.effect:g})"
        alarm = self.cumulative > config.alarm and max(effect, misfit if verdict is Verdict.FORM else 0.0) > config.effect
        return Report(
            blank.subject,
            blank.start,
            blank.end,
            len(y),
            drift.tested,
            drift.learnt,
            columns.shape[1],
            thinning,
            "sequential, gap 3",
            drift.statistic,
            drift.p,
            form.p if form is not None else math.nan,
            self.cumulative,
            correlation,
            rms_refit,
            rms_frozen,
            effect,
            verdict,
            alarm,
            why,
        )


def check_log(log: Log, stored: Sequence[Reference], config: CheckConfig | None = None) -> list[Report]:
    """All windows of a recorded run, in order."""
    check = ModelCheck(stored, config)
    reports = []
    for i, now in enumerate(log.time):
        celsius = {zone: float(values[i]) for zone, values in log.celsius.items()}
        reports += check.feed(float(now), celsius, {unit: float(values[i]) for unit, values in log.power.items()})
    return reports


def check_latency(
    y: Floats, z: Floats, x: Floats, *, subject: str, budget: float, seed: int = 0, splits: int = 10, start: float = 0.0
) -> Report:
    """Is the linear latency model y = z theta right in form? Frames are nearly independent: random splits, combined (Cauchy).

    Args:
        y: (n,) ms, about 400 frames.
        z: (n, q) regressors, with ones. x: (n, p) predictors.
        subject: for the report. budget: frame budget, ms: a misfit below 5 % of it does not matter.
        seed: of the splits: derive it from the window's number, so that a decision can be repeated.

    The effect is what second-degree terms in ``x`` explain beyond the model.
    """
    blank = _blank(subject, start, start, len(y), math.nan)
    correlation = lag_correlation(residuals(z, y)) if len(y) > z.shape[1] else math.nan
    try:
        tests = [cost(z, x, y, *split(len(y), "random", seed=1000 * seed + k)) for k in range(splits)]
    except CheckError as error:
        return _with(blank, Verdict.NOT_VALID, str(error), correlation=correlation)
    if abs(correlation) > CORRELATION and abs(correlation) > 3 / math.sqrt(len(y)):
        why = f"frames follow each other (lag-1 correlation {correlation:.2f}): take every second one, or more"
        return _with(blank, Verdict.NOT_VALID, why, correlation=correlation)
    p = cauchy([t.p for t in tests])
    median = sorted(tests, key=lambda t: t.statistic)[len(tests) // 2]
    scale = x.std(0)
    scale[scale == 0] = 1.0
    c = (x - x.mean(0)) / scale
    squares = [c[:, i] * c[:, j] for i in range(c.shape[1]) for j in range(i, c.shape[1])]
    rms, richer = _rms(residuals(z, y)), _rms(residuals(np.column_stack([z, *squares]), y))
    effect = math.sqrt(max(0.0, rms**2 - richer**2))
    wrong = p < SIGNIFICANT and effect > 0.05 * budget
    why = f"p {p:.2g}, misfit {effect:.2f} ms of a budget of {budget:g} ms"
    return Report(
        subject, start, start, len(y), median.tested, median.learnt, median.parameters, 1, f"random, {splits} of seed {seed}",
        median.statistic, p, p, math.nan, correlation, rms, rms, effect, Verdict.FORM if wrong else Verdict.OK, wrong, why,
    )  # fmt: skip


def _thinning(columns: Floats, y: Floats, count: int) -> tuple[int | None, float]:
    """The least thinning whose residuals are uncorrelated, and the correlation there; None if there is none in this window."""
    correlation = math.nan
    for k in THINNINGS:
        if len(y) // k < max(80, 3 * count):
            break
        correlation = lag_correlation(residuals(columns[::k], y[::k]))
        # Of n independent samples the estimate itself scatters by 1 / sqrt(n).
        if correlation < max(CORRELATION, 1.0 / math.sqrt(len(y) / k)):
            return k, correlation
    return None, correlation


def _rms(values: NDArray[np.float64]) -> float:
    return float(np.sqrt((values**2).mean()))


def _blank(subject: str, start: float, end: float, samples: int, cumulative: float) -> Report:
    nan = math.nan
    return Report(
        subject, start, end, samples, 0, 0, 0, 0, "", nan, nan, nan, cumulative, nan, nan, nan, nan, Verdict.OK, False, ""
    )


def _with(report: Report, verdict: Verdict, why: str, *, correlation: float = math.nan) -> Report:
    return replace(report, verdict=verdict, why=why, correlation=correlation)
