"""Synchronisers: no frame twice, stamps within the tolerance, ascending instants, every frame accounted for."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bevstack.errors import SourceError
from bevstack.frames.sync import AnchorSync, ApproximateSync, Synchroniser
from bevstack.frames.types import Frame, FrameSet
from bevstack.geometry import Camera

MS = 1_000_000
NAMES = ("cam_front", "cam_left", "cam_back")
CAMERAS = {name: Camera(name, 8, 4, np.eye(3), np.eye(4)) for name in (*NAMES, "cam_x")}


def frame(name: str, ms: float, pose: np.ndarray | None = None) -> Frame:
    return Frame(CAMERAS[name], round(ms * MS), encoded=b"", T_world_ego=pose)


def feed(sync: Synchroniser, frames: list[Frame]) -> list[FrameSet]:
    return [instant for item in frames for instant in sync.push(item)]


def balanced(sync: Synchroniser) -> None:
    for name, c in sync.counters.items():
        assert c.received == c.used + c.dropped + c.late + c.duplicate + c.pending, (name, c)
        assert c.pending >= 0


def stamps_ms(instant: FrameSet) -> dict[str, float]:
    return {name: item.stamp / MS for name, item in instant.frames.items()}


def both(**options: object) -> list[Synchroniser]:
    return [
        ApproximateSync(NAMES, 20 * MS, **options),  # type: ignore[arg-type]
        AnchorSync(NAMES, "cam_front", 20 * MS, **options),  # type: ignore[arg-type]
    ]


def make(kind: str, tolerance_ms: int, **options: object) -> Synchroniser:
    if kind == "approximate":
        return ApproximateSync(NAMES, tolerance_ms * MS, **options)  # type: ignore[arg-type]
    return AnchorSync(NAMES, "cam_left", tolerance_ms * MS, **options)  # type: ignore[arg-type]


# Instants 33 ms apart; in each, every camera is there or not, jitters, and is held up on its way: frames overtake others.
exposure = st.tuples(st.sampled_from([True] * 7 + [False]), st.integers(-14, 14), st.sampled_from([0, 0, 0, 5, 20, 60]))
streams = st.lists(st.tuples(exposure, exposure, exposure), min_size=1, max_size=30)


@settings(max_examples=200, deadline=None)
@given(streams, st.sampled_from(["approximate", "anchor"]), st.integers(0, 30), st.sampled_from([None, 80, 300]), st.booleans())
def test_properties_hold_for_any_arrival(
    stream: list[tuple[tuple[bool, int, int], ...]], kind: str, tolerance: int, missing: int | None, one_by_one: bool
) -> None:
    sync = make(kind, tolerance, missing_after_ns=None if missing is None else missing * MS, queue=3)
    exposed = [
        (33 * index + jitter + delay, frame(name, 33 * index + jitter))
        for index, instant in enumerate(stream)
        for name, (present, jitter, delay) in zip(NAMES, instant, strict=True)
        if present
    ]
    frames = [item for _, item in sorted(exposed, key=lambda pair: pair[0])]
    if one_by_one:
        instants = [done for item in frames if (done := sync.add(item)) is not None]
    else:
        instants = feed(sync, frames)
    balanced(sync)
    instants += sync.flush()
    balanced(sync)
    assert all(c.pending == 0 for c in sync.counters.values())
    seen: set[tuple[str, int]] = set()
    for instant in instants:
        stamps = [item.stamp for item in instant.frames.values()]
        assert max(stamps) - min(stamps) <= tolerance * MS
        for name, item in instant.frames.items():
            assert (name, item.stamp) not in seen
            seen.add((name, item.stamp))
        assert instant.stamp in stamps
        assert list(instant.frames) == [name for name in NAMES if name in instant.frames]
        if missing is None:
            assert set(instant.frames) == set(NAMES)
    assert all(a.stamp < b.stamp for a, b in itertools.pairwise(instants))
    assert sum(c.used for c in sync.counters.values()) == sum(len(instant.frames) for instant in instants)


@settings(max_examples=60, deadline=None)
@given(
    st.permutations(range(3)),
    st.lists(st.integers(-9, 9), min_size=30, max_size=30),
    st.sampled_from(["approximate", "anchor"]),
)
def test_complete_streams_lose_nothing(order: list[int], jitter: list[int], kind: str) -> None:
    """Three cameras, ten instants 100 ms apart, at most 18 ms of spread, any order within an instant: ten sets, no drop."""
    sync = make(kind, 20)
    frames = [frame(NAMES[c], 100 * i + 50 + jitter[3 * i + c]) for i in range(10) for c in order]
    instants = feed(sync, frames) + sync.flush()
    assert len(instants) == 10
    assert sync.drops == 0
    assert sync.skips == 0


@pytest.mark.parametrize("sync", both(), ids=["approximate", "anchor"])
def test_stamp_and_pose_are_the_reference_cameras(sync: Synchroniser) -> None:
    pose = np.eye(4)
    pose[0, 3] = 7.0
    assert sync.add(frame("cam_back", 9)) is None
    assert sync.add(frame("cam_front", 3, pose)) is None
    instant = sync.add(frame("cam_left", 0))
    assert instant is not None
    assert instant.stamp == 3 * MS
    assert np.array_equal(instant.T_world_ego, pose)
    assert stamps_ms(instant) == {"cam_front": 3, "cam_left": 0, "cam_back": 9}


def test_approximate_takes_the_nearest_frame() -> None:
    sync = ApproximateSync(NAMES, 50 * MS)
    frames = [frame("cam_left", t) for t in (0, 30, 60)] + [frame("cam_back", t) for t in (10, 40)] + [frame("cam_front", 58)]
    (instant,) = feed(sync, frames)
    assert stamps_ms(instant) == {"cam_front": 58, "cam_left": 60, "cam_back": 40}
    assert sync.counters["cam_left"].dropped == 2


@pytest.mark.parametrize("kind", ["approximate", "anchor"])
def test_the_tolerance_is_met_to_the_nanosecond(kind: str) -> None:
    for extra, count in ((0, 1), (1, 0)):
        sync = make(kind, 20)
        late = Frame(CAMERAS["cam_back"], 120 * MS + extra, encoded=b"")
        assert len(feed(sync, [frame("cam_left", 100), frame("cam_front", 105), late])) == count


def test_approximate_gives_up_a_frame_that_cannot_match() -> None:
    sync = ApproximateSync(NAMES[:2], 20 * MS)
    assert feed(sync, [frame("cam_front", 0), frame("cam_left", 100)]) == []
    assert sync.skips == 1
    assert "100.0 ms" in sync.skip_reason
    assert "cam_front" in sync.skip_reason
    (instant,) = feed(sync, [frame("cam_front", 101)])
    assert stamps_ms(instant) == {"cam_front": 101, "cam_left": 100}


def test_anchor_waits_for_cameras_that_arrive_after_it() -> None:
    sync = AnchorSync(NAMES, "cam_front", 20 * MS)
    assert feed(sync, [frame("cam_front", 100), frame("cam_left", 95), frame("cam_left", 110)]) == []
    (instant,) = feed(sync, [frame("cam_back", 101)])
    assert stamps_ms(instant) == {"cam_front": 100, "cam_left": 95, "cam_back": 101}


def test_anchor_skips_with_a_reason_when_a_camera_is_overtaken() -> None:
    sync = AnchorSync(NAMES, "cam_front", 20 * MS)
    assert feed(sync, [frame("cam_left", 0), frame("cam_front", 0), frame("cam_back", 60)]) == []
    assert sync.skips == 1
    assert sync.skip_reason == "no frame of cam_back within 20.0 ms of cam_front at 0 ns"


def test_anchor_rejects_a_spread_to_both_sides() -> None:
    sync = AnchorSync(NAMES, "cam_front", 20 * MS)
    assert feed(sync, [frame("cam_left", 85), frame("cam_back", 115), frame("cam_front", 100), frame("cam_front", 200)]) == []
    assert "differ by 30.0 ms" in sync.skip_reason


def test_anchor_may_be_any_camera_and_gives_the_stamp() -> None:
    sync = AnchorSync(NAMES, "cam_back", 20 * MS)
    (instant,) = feed(sync, [frame("cam_front", 1), frame("cam_left", 2), frame("cam_back", 3)])
    assert instant.stamp == 3 * MS
    assert list(instant.frames) == list(NAMES)


@pytest.mark.parametrize("sync", both(missing_after_ns=250 * MS), ids=["approximate", "anchor"])
def test_a_silent_camera_is_left_out_and_comes_back(sync: Synchroniser) -> None:
    def rig(ms: int, names: tuple[str, ...]) -> list[FrameSet]:
        return feed(sync, [frame(name, ms) for name in names])

    full = [rig(ms, NAMES) for ms in (0, 100)]
    assert all(len(done) == 1 and len(done[0].frames) == 3 for done in full)
    without = [done for ms in range(200, 1000, 100) for done in rig(ms, ("cam_front", "cam_back"))]
    assert without
    assert all(set(done.frames) == {"cam_front", "cam_back"} for done in without)
    assert sync.silent() == ["cam_left"]
    back = rig(1000, NAMES)
    assert set(back[-1].frames) == set(NAMES)
    assert sync.silent() == []
    balanced(sync)


@pytest.mark.parametrize("sync", both(missing_after_ns=250 * MS), ids=["approximate", "anchor"])
def test_a_camera_that_never_came_does_not_block(sync: Synchroniser) -> None:
    done = [x for ms in range(0, 1000, 100) for name in NAMES[:2] if (x := sync.add(frame(name, ms))) is not None]
    assert done
    assert set(done[-1].frames) == set(NAMES[:2])


@pytest.mark.parametrize("sync", both(missing_after_ns=250 * MS), ids=["approximate", "anchor"])
def test_without_the_reference_the_next_camera_stands_in(sync: Synchroniser) -> None:
    for ms in (0, 100):
        feed(sync, [frame(name, ms) for name in NAMES])
    done = [x for ms in range(200, 1000, 100) for x in feed(sync, [frame(name, ms + 1) for name in NAMES[1:]])]
    assert done[-1].stamp == 901 * MS
    assert set(done[-1].frames) == set(NAMES[1:])


@pytest.mark.parametrize("sync", both(missing_after_ns=250 * MS, min_cameras=2), ids=["approximate", "anchor"])
def test_too_few_cameras_are_skipped_with_a_reason(sync: Synchroniser) -> None:
    feed(sync, [frame(name, 0) for name in NAMES])
    assert feed(sync, [frame("cam_front", ms) for ms in range(100, 1000, 100)]) == []
    assert sync.skips > 0
    assert sync.skip_reason.startswith("only 1 of 3 cameras deliver (silent: cam_back, cam_left)")


@pytest.mark.parametrize("sync", both(), ids=["approximate", "anchor"])
def test_late_and_duplicate_frames_are_counted_not_used(sync: Synchroniser) -> None:
    assert len(feed(sync, [frame(name, 100) for name in NAMES])) == 1
    assert feed(sync, [frame("cam_left", 60), frame("cam_left", 100)]) == []
    assert feed(sync, [frame("cam_left", 205), frame("cam_left", 205), frame("cam_left", 200)]) == []
    (instant,) = feed(sync, [frame("cam_back", 200), frame("cam_front", 200)])
    assert stamps_ms(instant) == {"cam_front": 200, "cam_left": 200, "cam_back": 200}
    counter = sync.counters["cam_left"]
    assert (counter.received, counter.used, counter.late, counter.duplicate) == (6, 2, 1, 2)
    balanced(sync)


@pytest.mark.parametrize("sync", both(), ids=["approximate", "anchor"])
def test_a_clock_that_jumps_back_starts_afresh(sync: Synchroniser) -> None:
    assert len(feed(sync, [frame(name, 50_000) for name in NAMES])) == 1
    feed(sync, [frame("cam_front", 50_100)])
    (again,) = feed(sync, [frame(name, 10_000) for name in NAMES])
    assert again.stamp == 10_000 * MS
    assert sync.resets == 1
    balanced(sync)


@pytest.mark.parametrize("missing", [None, 500 * MS])
@pytest.mark.parametrize("kind", ["approximate", "anchor"])
def test_a_camera_that_lags_for_seconds_resets_nothing(kind: str, missing: int | None) -> None:
    sync = make(kind, 20, missing_after_ns=missing)
    done = []
    for ms in range(0, 6000, 100):
        done += feed(sync, [frame("cam_left", ms), frame("cam_front", ms)])
        if ms >= 2500:
            done += feed(sync, [frame("cam_back", ms - 2500)])
    assert sync.resets == 0
    if missing is None:
        assert done == []
        assert "cam_back" in sync.skip_reason
    else:
        assert len(done) >= 50
        assert all(set(instant.frames) == {"cam_front", "cam_left"} for instant in done)
    balanced(sync)


def test_a_wait_for_a_camera_that_never_came_is_explained() -> None:
    sync = ApproximateSync(NAMES, 20 * MS, queue=3)
    feed(sync, [frame(name, ms) for ms in range(0, 600, 100) for name in NAMES[:2]])
    assert sync.skips == 6
    assert sync.skip_reason == "cam_left waits with 3 frames: nothing of cam_back"


@pytest.mark.parametrize("sync", both(queue=3), ids=["approximate", "anchor"])
def test_memory_is_bounded_and_overflow_is_counted(sync: Synchroniser) -> None:
    feed(sync, [frame("cam_front", 100 * i) for i in range(50)] + [frame("cam_left", 100 * i) for i in range(50)])
    assert all(c.pending <= 3 for c in sync.counters.values())
    assert sync.counters["cam_front"].dropped >= 47
    balanced(sync)


def test_add_keeps_the_newest_of_a_backlog() -> None:
    sync = ApproximateSync(NAMES, 20 * MS, missing_after_ns=350 * MS)
    results = [sync.add(frame(name, ms)) for ms in range(0, 500, 100) for name in NAMES[:2]]
    done = [instant.stamp // MS for instant in results if instant is not None]
    assert done == [300, 400]  # at 400 ms the third camera counts as silent; 0 to 200 ms are overtaken
    assert sync.drops == 6
    balanced(sync)


def test_wrong_use_is_said_plainly() -> None:
    sync = ApproximateSync(NAMES, 20 * MS)
    with pytest.raises(SourceError, match="'cam_x' is not one of cam_front, cam_left, cam_back"):
        sync.add(frame("cam_x", 0))
    with pytest.raises(SourceError, match="anchor camera 'cam_x'"):
        AnchorSync(NAMES, "cam_x")
    with pytest.raises(SourceError, match="different cameras"):
        ApproximateSync(["a", "a"])
