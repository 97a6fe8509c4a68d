"""The governor's thermal model at run time: fixed resistances, and one offset per zone that follows whatever they do not
explain.

A free online fit of resistances diverges in closed loop, because a governor holds power constant and so removes what the fit
would need (brief governor-thermal, 5.3). A scalar Kalman filter per zone for the offset cannot diverge.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .calibration import Calibration

Floats = NDArray[np.float64]
_PROCESS = 0.04  # degC^2 per second
_MEASURE = 0.25  # degC^2
_PRIOR = 400.0
_SLOPE_FAST, _SLOPE_SLOW = 30.0, 90.0
_STEEPEST = 0.06  # degC per second that an offset is allowed to be extrapolated with
HORIZONS = np.array([1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0, 30.0, 45.0, 60.0, 75.0, 90.0])


class ThermalModel:
    """State of the Foster form.

    Args:
        calibration: constants.
        units: of the budget; units that the calibration does not know heat nothing.

    Attributes:
        zones: keys (Z,).
        z: (U, I) low-passed powers, watts.
        offset: (Z,) degC. variance: (Z,) of it.
    """

    def __init__(self, calibration: Calibration, units: tuple[str, ...]) -> None:
        self.calibration = calibration
        self.zones = calibration.zones
        self.number = {key: n for n, key in enumerate(self.zones)}
        self._taus = calibration.taus
        self._r = np.zeros((len(self.zones), len(units), len(self._taus)))
        for u, unit in enumerate(units):
            if unit in calibration.units:
                self._r[:, u] = calibration.resistance[:, calibration.units.index(unit)]
        self.z = np.zeros((len(units), len(self._taus)))
        self.offset = calibration.offset.copy()
        self.variance = np.full(len(self.zones), _PRIOR)
        self._fast = self._slow = self.offset.copy()
        self._seen = np.zeros(len(self.zones), bool)
        # (H, I): what is left of the present state after each horizon.
        self._left = np.exp(-HORIZONS[:, None] / self._taus[None])
        self._gone = np.einsum("zui,hi->zuh", self._r, 1.0 - self._left)

    def advance(self, power: Floats, elapsed: float) -> None:
        """Time passes at a constant power (U,), watts."""
        if elapsed <= 0:
            return
        a = np.exp(-elapsed / self._taus)
        self.z = a * self.z + (1 - a) * power[:, None]
        self.variance = np.minimum(self.variance + _PROCESS * elapsed, _PRIOR)
        self._fast = self._fast + (1 - math.exp(-elapsed / _SLOPE_FAST)) * (self.offset - self._fast)
        self._slow = self._slow + (1 - math.exp(-elapsed / _SLOPE_SLOW)) * (self.offset - self._slow)

    def driven(self) -> Floats:
        """(Z,) degC that our loads explain now."""
        return np.einsum("zui,ui->z", self._r, self.z)

    def expected(self) -> Floats:
        """(Z,) degC."""
        return self.offset + self.driven()

    def correct(self, n: int, celsius: float, driven: float) -> float:
        """One sample of zone ``n``; returns the innovation, degC."""
        innovation = celsius - self.offset[n] - driven
        gain = self.variance[n] / (self.variance[n] + _MEASURE)
        self.offset[n] += gain * innovation
        self.variance[n] *= 1 - gain
        if not self._seen[n]:
            # The first sample is the first knowledge: no slope yet.
            self._seen[n] = True
            self._fast[n] = self._slow[n] = self.offset[n]
        return float(innovation)

    def restart(self, n: int, celsius: float, driven: float) -> None:
        """A zone answers again after a gap: its offset is what it says now."""
        self.offset[n] = celsius - driven
        self.variance[n] = _MEASURE
        self._fast[n] = self._slow[n] = self.offset[n]
        self._seen[n] = True

    def shift(self, n: int, by: float) -> None:
        """Moves a silent zone's offset, because its siblings' did."""
        self.offset[n] += by
        self._fast[n] += by
        self._slow[n] += by

    def slope(self) -> Floats:
        """(Z,) degC per second by which offsets have been rising lately; 0 where they fall (a forecast must not hope)."""
        return np.clip((self._fast - self._slow) / (_SLOPE_SLOW - _SLOPE_FAST), 0.0, _STEEPEST)

    def forecast(self, power: Floats) -> Floats:
        """Temperatures at `HORIZONS` if powers changed now and then stayed.

        Args:
            power: (C, U) watts.

        Returns:
            (C, Z, H) degC.
        """
        free = self.offset[:, None] + np.einsum("zui,ui,hi->zh", self._r, self.z, self._left) + self.slope()[:, None] * HORIZONS
        return free[None] + np.einsum("cu,zuh->czh", power, self._gone)

    def crossing(self, power: Floats, ceilings: Floats) -> float | None:
        """Seconds until the first zone is at its ceiling at constant power (U,), within 90 s; None if none gets there."""
        times = np.arange(1.0, 91.0)
        left = np.exp(-times[:, None] / self._taus[None])
        rest = self.z[:, None, :] * left[None] + power[:, None, None] * (1 - left[None])
        course = self.offset[:, None] + np.einsum("zui,uti->zt", self._r, rest) + self.slope()[:, None] * times
        over = (course >= ceilings[:, None]).any(axis=0)
        return float(times[int(np.argmax(over))]) if over.any() else None
