"""The thermal model's constants, as one device showed them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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
    taus: NDArray[np.float64]
    resistance: NDArray[np.float64]
    offset: NDArray[np.float64]
    rms: NDArray[np.float64]
