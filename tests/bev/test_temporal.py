"""The cache of past features: picking by age, bounds, resets."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bevstack.bev.temporal import Instant, TemporalCache
from bevstack.geometry import pose

TIMES = (0.0, 0.5, 1.0, 1.5)


def instant(seconds: float, x: float = 0.0) -> Instant:
    here = pose(None, [x, 0, 0])
    return Instant(round(seconds * 1e9), here, (None,), here[None], (True,), "id", np.zeros((1, 1), np.float32))


def drive(cache: TemporalCache, stamps: list[float], speed: float = 10.0) -> None:
    for s in stamps:
        now = instant(s, speed * s)
        cache.observe(now.stamp, now.T_world_ego)
        cache.push(now)


def ages(cache: TemporalCache, seconds: float) -> list[float | None]:
    return [None if p is None else round(seconds - p.stamp * 1e-9, 3) for p in cache.pick(round(seconds * 1e9))]


def test_ten_per_second_gives_exact_ages() -> None:
    cache = TemporalCache(TIMES)
    drive(cache, [i / 10 for i in range(40)])
    assert ages(cache, 4.0) == [0.5, 1.0, 1.5]


def test_start_up_has_no_history_and_fills_in() -> None:
    cache = TemporalCache(TIMES)
    assert ages(cache, 0.0) == [None, None, None]
    drive(cache, [0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert ages(cache, 0.5) == [0.5, None, None]
    drive(cache, [0.6, 0.7, 0.8, 0.9, 1.0])
    assert ages(cache, 1.0) == [0.5, 1.0, None]


def test_an_age_without_a_near_instant_is_missing() -> None:
    cache = TemporalCache(TIMES)
    drive(cache, [0.0, 0.3, 2.0])
    assert ages(cache, 2.3) == [None, None, None]


@settings(max_examples=50, deadline=None)
@given(st.floats(2.0, 60.0), st.floats(0.0, 0.02), st.integers(0, 100))
def test_any_rate_picks_within_tolerance_and_stays_small(rate: float, jitter: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    stamps = np.cumsum(1 / rate + rng.uniform(-jitter, jitter, 200) * min(1.0, 10 / rate))
    cache = TemporalCache(TIMES)
    for s in stamps.tolist():
        now = instant(s)
        cache.observe(now.stamp, now.T_world_ego)
        for wanted, age in zip((0.5, 1.0, 1.5), ages(cache, s)):
            assert age is None or abs(age - wanted) <= 0.1501
            # Instants are at most half a step away from any age once the ring is full.
            assert age is not None or s - stamps[0] < 1.7 or 1 / rate > 0.25
        cache.push(now)
        assert len(cache) <= 24


def test_time_running_backwards_resets() -> None:
    cache = TemporalCache(TIMES)
    drive(cache, [0.0, 0.5, 1.0])
    drive(cache, [0.2])
    assert (cache.resets, len(cache)) == (1, 1)
    drive(cache, [0.2])  # the same stamp again, too
    assert cache.resets == 2


def test_a_gap_leaves_nothing_to_pick_and_a_teleport_resets() -> None:
    cache = TemporalCache(TIMES)
    drive(cache, [0.0, 0.5, 1.0])
    cache.observe(round(9e9), pose(None, [90.0, 0, 0]))
    assert (len(cache), cache.resets) == (0, 0)
    drive(cache, [9.0, 9.5])
    cache.observe(round(10e9), pose(None, [5000.0, 0, 0]))
    assert (len(cache), cache.resets) == (0, 1)


def test_reset_on_request() -> None:
    cache = TemporalCache(TIMES)
    drive(cache, [0.0, 0.5])
    cache.reset()
    assert ages(cache, 1.0) == [None, None, None]


def test_a_single_instant_rung_stores_nothing() -> None:
    cache = TemporalCache((0.0,))
    drive(cache, [0.0, 0.5])
    assert len(cache) == 0
    assert cache.pick(10**9) == []
