"""Results that wait for their time."""

from __future__ import annotations

import time

from bench import until

from bevstack.ros.nodes.release import Release


def test_in_order_and_not_before_they_are_due() -> None:
    out: list[tuple[int, float]] = []
    release: Release[int] = Release(lambda item: out.append((item, time.monotonic())))
    now = time.monotonic()
    for item, offset in enumerate((0.15, 0.05, -1.0, 0.2)):
        release.put(now + offset, item)
    until(lambda: len(out) == 4, "four items")
    assert [item for item, _ in out] == [0, 1, 2, 3]
    assert out[0][1] >= now + 0.15
    assert out[3][1] >= now + 0.2
    assert not release.waiting
    assert release.close()


def test_closing_loses_nothing_and_waits_for_nothing() -> None:
    out: list[int] = []
    release: Release[int] = Release(out.append)
    for item in range(3):
        release.put(time.monotonic() + 60, item)
    assert release.waiting
    began = time.monotonic()
    assert release.close()
    assert time.monotonic() - began < 5
    release.put(time.monotonic() + 60, 3)
    assert out == [0, 1, 2, 3]
