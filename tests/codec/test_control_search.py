"""Where rate control tries next, on made-up curves."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bevstack.codec.control import PSNR_TOLERANCE, _Search

TOP = 63.0


def cornered(r: float) -> float:
    """A stand-in whose usual errors are known at a few rate points: slopes jump there."""
    return float(np.interp(r, [0, 9, 18, 27, 36, 45, 54, 63], [25.0, 27.4, 29.2, 32.1, 34.0, 37.3, 39.8, 41.4]))


def real(r: float, floor: float, offset: float) -> float:
    """PSNR as pictures have it: nearly straight, bent by an error that no rate removes."""
    return -10 * math.log10(10 ** (-(24.0 + offset + 0.29 * r) / 10) + floor)


@settings(max_examples=300, deadline=None)
@given(
    target=st.floats(26.0, 40.0),
    floor=st.floats(0.0, 1e-5),
    offset=st.floats(-0.7, 0.7),
    below=st.floats(0.5, 4.0),
    above=st.floats(0.5, 4.0),
)
def test_psnr_is_met_once_two_tries_are_around_it(
    target: float, floor: float, offset: float, below: float, above: float
) -> None:
    aim = target + PSNR_TOLERANCE / 2
    where = min(np.linspace(0.0, TOP, 4001), key=lambda r: abs(real(r, floor, offset) - aim))
    search = _Search(cornered, TOP, floor=True)
    for r in (max(0.0, where - below), min(TOP, where + above)):
        search.add(r, real(r, floor, offset))
    if search.tries[0][1] < aim <= search.tries[1][1]:
        assert target <= real(search.solve(aim), floor, offset) <= target + PSNR_TOLERANCE


def test_far_tries_are_not_joined_by_a_line() -> None:
    search = _Search(cornered, TOP, floor=True)
    search.add(5.0, 26.0)
    search.add(40.0, 36.0)
    assert search._around(30.0) is None
    search.add(36.0, 34.8)
    assert search._around(35.0) == ((36.0, 34.8), (40.0, 36.0))
    assert search.model(35.0)(38.0) == pytest.approx(35.4)
