"""Rates and order of cameras."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bevstack.ros.nodes.camera_schedule import CameraSchedule, named_numbers
from bevstack.ros.nodes.parameters import ParameterValueError

MS = 1_000_000


def test_rate_is_kept_evenly_in_spite_of_jitter() -> None:
    schedule = CameraSchedule(["a"], {"a": 5.0})
    jitter = [0, 3, -2, 4, -4, 1, 0, -3, 2, 0]
    stamps = [(k * 33 + jitter[k % 10]) * MS for k in range(300)]
    passed = [s for s in stamps if schedule.admit("a", s)]
    gaps = [(b - a) / MS for a, b in pairwise(passed)]
    assert len(passed) == pytest.approx(300 * 33 / 200, abs=1.5)
    assert min(gaps) > 150
    assert max(gaps) < 250


@given(st.floats(0.5, 30), st.floats(1, 60), st.integers(0, 10**18))
@settings(max_examples=60, deadline=None)
def test_no_more_than_the_rate_and_not_much_less(rate: float, camera: float, start: int) -> None:
    schedule = CameraSchedule(["a"], {"a": rate})
    period = round(1e9 / camera)
    passed = sum(schedule.admit("a", start + k * period) for k in range(200))
    wanted = 200 * min(1.0, rate / camera)
    # A tenth of a period of slack lets a camera through that is a little faster than its limit.
    assert wanted - 1.5 <= passed <= 200 * min(1.0, 1.15 * rate / camera) + 2


def test_share_and_unlimited_cameras() -> None:
    schedule = CameraSchedule(["a", "b"])
    assert all(schedule.admit("a", k) for k in range(20))
    schedule.share = 0.25
    passed = [k for k in range(40) if schedule.admit("b", k)]
    assert passed == list(range(passed[0], 40, 4))


def test_a_bag_that_begins_again_is_not_locked_out() -> None:
    schedule = CameraSchedule(["a"], {"a": 1.0})
    assert schedule.admit("a", 10**18)
    assert schedule.admit("a", 5_000_000_000)
    assert not schedule.admit("a", 5_100_000_000)


def test_order() -> None:
    schedule = CameraSchedule(["front", "left", "back"], priorities={"back": 2.0}, patience=1.0)
    assert schedule.order([("left", 9.5), ("front", 9.6), ("back", 9.7)], 10.0) == ["back", "front", "left"]
    assert schedule.order([("left", 8.5), ("front", 8.9), ("back", 9.7)], 10.0) == ["left", "front", "back"]


def test_texts() -> None:
    assert named_numbers(["a=2", " b = 0.5 "], ["a", "b"], "camera_rates") == {"a": 2.0, "b": 0.5}
    for bad in ("c=1", "a", "a=", "a=-1", "a=nan", "a=inf"):
        with pytest.raises(ParameterValueError, match="camera=number"):
            named_numbers([bad], ["a", "b"], "camera_rates")
