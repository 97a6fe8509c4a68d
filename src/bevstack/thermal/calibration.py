"""The thermal model's constants: measured once per device and power mode in open loop, kept in a JSON file.

Regression on power, not on the sensor's own past (Foster form): sensor noise then sits in the residual alone and biases
nothing.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .config import GovernorError

Floats = NDArray[np.float64]
TAUS = (1.0, 3.0, 9.0, 27.0, 80.0, 240.0, 720.0)
HOLDS = (15.0, 40.0, 120.0, 300.0)  # seconds of each level during the excitation


@dataclass(frozen=True)
class Calibration:
    """Foster form: T_z = T0_z + sum over units u and time constants i of R[z, u, i] * (power of u, low-passed with tau_i).

    Attributes:
        zones: keys (Z,).
        units: names (U,).
        taus: seconds (I,).
        resistance: (Z, U, I) kelvin per watt, 0 or more.
        offset: (Z,) degC: what the zones read with no power from our models, during the calibration.
        rms: (Z,) residual of the fit, degC.
    """

    zones: tuple[str, ...]
    units: tuple[str, ...]
    taus: Floats
    resistance: Floats
    offset: Floats
    rms: Floats

    def scaled(self, factor: float) -> Calibration:
        """All resistances times a factor: what a wrong calibration looks like."""
        return Calibration(self.zones, self.units, self.taus, self.resistance * factor, self.offset, self.rms)

    def save(self, path: Path) -> None:
        """Writes JSON; the old file stays whole until the new one is.

        Raises:
            GovernorError: the file cannot be written.
        """
        content = {
            "format": "bevstack thermal calibration 1", "zones": self.zones, "units": self.units, "taus": self.taus.tolist(),
            "resistance": self.resistance.tolist(), "offset": self.offset.tolist(), "rms": self.rms.tolist(),
        }  # fmt: skip
        beside = path.with_name(path.name + ".new")
        try:
            beside.write_text(json.dumps(content, indent=1) + "\n")
            os.replace(beside, path)
        except OSError as error:
            raise GovernorError(f"cannot write calibration {path}: {error.strerror}") from None

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Reads and checks.

        Raises:
            GovernorError: no such file, other format, wrong shapes, negative or non-finite constants.
        """
        try:
            content: Any = json.loads(path.read_text())
            zones, units = tuple(map(str, content["zones"])), tuple(map(str, content["units"]))
            arrays = {key: np.array(content[key], np.float64) for key in ("taus", "resistance", "offset", "rms")}
        except OSError as error:
            raise GovernorError(f"cannot read calibration {path}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise GovernorError(
                f"{path} is no thermal calibration ({type(error).__name__}: {error}): calibrate again"
            ) from None
        shape = (len(zones), len(units), len(arrays["taus"]))
        good = arrays["resistance"].shape == shape and arrays["offset"].shape == arrays["rms"].shape == shape[:1]
        good = good and all(np.isfinite(a).all() for a in arrays.values())
        if not good or (arrays["resistance"] < 0).any() or (arrays["taus"] <= 0).any():
            raise GovernorError(f"{path}: the constants do not fit {shape[0]} zones and {shape[1]} units: calibrate again")
        return cls(zones, units, arrays["taus"], arrays["resistance"], arrays["offset"], arrays["rms"])


def excitation(units: int, seconds: float, seed: int = 0) -> Iterator[tuple[float, tuple[bool, ...]]]:
    """Schedule of a calibration: (duration, large?) per unit; holds of 15 to 300 s, shuffled per unit so that units can be
    told apart.

    Args:
        units: how many.
        seconds: total.
        seed: of the shuffles.
    """
    rng = np.random.default_rng(seed)
    edges: list[list[float]] = []
    for _ in range(units):
        times, t = [], 0.0
        while t < seconds:
            for hold in rng.permutation(HOLDS):
                t += float(hold)
                times.append(t)
        edges.append(times)
    cuts = sorted({t for times in edges for t in times if t < seconds} | {seconds})
    before = 0.0
    for cut in cuts:
        level = tuple(sum(t <= before for t in times) % 2 == 0 for times in edges)
        yield cut - before, level
        before = cut


def low_passed(power: Floats, dt: float, taus: Floats, start: Floats | None = None) -> Floats:
    """Power through the model's low-pass filters.

    Args:
        power: (K, U) watts. dt: seconds.
        start: (U,) watts that had been drawn for long before; None: none.

    Returns:
        (K, U, I).
    """
    a = np.exp(-dt / taus)
    z = np.repeat((np.zeros(power.shape[1]) if start is None else start)[:, None], len(taus), axis=1)
    out = np.empty((*power.shape, len(taus)))
    for k, p in enumerate(power):
        z = a * z + (1 - a) * p[:, None]
        out[k] = z
    return out


def nnls(gram: Floats, rhs: Floats) -> Floats:
    """Non-negative least squares from normal equations (active sets after Lawson and Hanson).

    Args:
        gram: (N, N) X'X. rhs: (N,) X'y.
    """
    n = len(rhs)
    x, passive = np.zeros(n), np.zeros(n, bool)
    tolerance = 1e-9 * float(np.abs(rhs).max() or 1.0)
    for _ in range(3 * n):
        gradient = rhs - gram @ x
        gradient[passive] = -math.inf
        best = int(np.argmax(gradient))
        if gradient[best] <= tolerance:
            break
        passive[best] = True
        while True:
            inside = np.flatnonzero(passive)
            trial = np.zeros(n)
            trial[inside] = np.linalg.lstsq(gram[np.ix_(inside, inside)], rhs[inside], rcond=None)[0]
            if (trial[inside] > 0).all():
                break
            falling = inside[trial[inside] <= 0]
            step = np.min(x[falling] / np.maximum(x[falling] - trial[falling], 1e-300))
            x = x + step * (trial - x)
            passive &= x > 1e-12
            x[~passive] = 0.0
            if not passive.any():
                trial = x
                break
        x = trial
    return x


def fit(
    zones: Sequence[str],
    units: Sequence[str],
    power: Floats,
    celsius: Floats,
    dt: float,
    *,
    taus: Sequence[float] = TAUS,
    start: Floats | None = None,
) -> Calibration:
    """Fits the Foster form to an open-loop record that starts at rest, or after long at the powers ``start``.

    Args:
        zones, units: names.
        power: (K, U) watts that our models drew (declared figures will do). celsius: (K, Z), NaN where a sensor was silent.
        dt: seconds between rows.
        start: (U,) watts before the record.
        taus: candidate time constants; those above half of the record's length are left out.

    Raises:
        GovernorError: too short, or power never changed.
    """
    seconds = len(power) * dt
    if seconds < 60:
        raise GovernorError(f"the calibration record lasts {seconds:.0f} s: 60 s are the least, 1500 s are good")
    if (power.std(axis=0) <= 1e-9).any():
        idle = units[int(np.argmin(power.std(axis=0)))]
        raise GovernorError(f"the power of unit {idle} never changed during the calibration: alternate large and small rungs")
    chosen = np.array([tau for tau in taus if tau <= seconds / 2])
    z = low_passed(power, dt, chosen, start).reshape(len(power), -1)
    shape = (len(zones), len(units), len(chosen))
    resistance, offset, rms = np.zeros(shape), np.zeros(len(zones)), np.full(len(zones), math.nan)
    for n, name in enumerate(zones):
        good = np.isfinite(celsius[:, n])
        if good.sum() < 60:
            raise GovernorError(f"zone {name} answered only {good.sum()} times during the calibration: leave it out or mend it")
        # The offset may have any sign and is not shrunk: centred columns take it out of the problem.
        x, y = z[good], celsius[good, n]
        xm, ym = x.mean(axis=0), float(y.mean())
        xc, yc = x - xm, y - ym
        theta = nnls(xc.T @ xc, xc.T @ yc)
        resistance[n] = theta.reshape(shape[1:])
        offset[n] = ym - float(xm @ theta)
        rms[n] = float(np.sqrt(np.mean((yc - xc @ theta) ** 2)))
    return Calibration(tuple(zones), tuple(units), chosen, resistance, offset, rms)
