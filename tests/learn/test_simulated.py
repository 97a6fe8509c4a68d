"""The training stream: what it shows, when it has a past, and that it can start anywhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bevstack.bev.config import FastBEVConfig
from bevstack.errors import BevstackError
from bevstack.geometry import Boxes3D
from bevstack.learn.perspective import paint
from bevstack.learn.simulated import RESERVED_SEEDS, DriveStream, SlotRenderer, StreamOptions, input_camera, jitter, spacing

OPTIONS = StreamOptions(batch=2, drives=2, clip=3, clips=2, span=12.0, density=0.3, workers=0, forget=0.0)


def test_batches_have_the_networks_shapes_and_targets(tiny: FastBEVConfig, worlds: None) -> None:
    batch = DriveStream(tiny, OPTIONS).batch(0)
    assert batch.images.shape == (2, 6, 32, 88, 3)
    assert batch.images.dtype == np.uint8
    assert batch.tables.shape == (2, 2, tiny.grid.voxels)
    assert [len(t) for t in batch.rows] == [len(t) for t in batch.labels]
    assert all(t.objects == len(r) > 0 for t, r in zip(batch.targets, batch.rows))
    assert all((p.label < 10).any() for p in batch.perspective)


def test_the_past_is_repeated_where_a_clip_starts_and_lifted_by_its_own_table_after(tiny: FastBEVConfig, worlds: None) -> None:
    renderer = SlotRenderer(tiny, OPTIONS)
    samples = [renderer.sample(visit, 0) for visit in range(4)]
    assert [s.lookback for s in samples] == [(0,), (1,), (1,), (0,)]
    assert (samples[0].tables[0] == samples[0].tables[1]).all()
    assert (samples[1].tables[0] != samples[1].tables[1]).any()
    assert (samples[0].tables[0] == samples[1].tables[0]).all()  # the current table is static


def test_a_stream_that_starts_later_gives_the_same_batches(tiny: FastBEVConfig, worlds: None) -> None:
    early = DriveStream(tiny, OPTIONS)
    for number in range(3):
        early.batch(number)
    a, b = early.batch(3), DriveStream(tiny, OPTIONS, start=3).batch(3)
    assert (a.images == b.images).all()
    assert (a.tables == b.tables).all()
    assert all((x.heat == y.heat).all() for x, y in zip(a.targets, b.targets))


def test_drives_take_turns(tiny: FastBEVConfig) -> None:
    stream = DriveStream(tiny, replace(OPTIONS, drives=6))
    assert [stream.turn(n) for n in range(4)] == [(0, [0, 1]), (0, [2, 3]), (0, [4, 5]), (1, [0, 1])]


def test_no_seed_is_shown_twice(tiny: FastBEVConfig) -> None:
    renderer = SlotRenderer(tiny, OPTIONS)
    seeds = [renderer.seed_of(slot, world) for world in range(5) for slot in range(OPTIONS.drives)]
    assert len(set(seeds)) == len(seeds)
    assert min(seeds) >= RESERVED_SEEDS


def test_splitting_a_batch_keeps_its_parts_together(tiny: FastBEVConfig, worlds: None) -> None:
    batch = DriveStream(tiny, OPTIONS).batch(1)
    parts = batch.split(2)
    assert [p.slots for p in parts] == [[0], [1]]
    assert (np.concatenate([p.images for p in parts]) == batch.images).all()
    assert parts[1].targets[0] is batch.targets[1]


def test_evaluation_seeds_and_uneven_turns_are_refused(tiny: FastBEVConfig) -> None:
    with pytest.raises(BevstackError, match="kept for evaluation"):
        DriveStream(tiny, replace(OPTIONS, first_drive=5))
    with pytest.raises(BevstackError, match="take turns"):
        DriveStream(tiny, replace(OPTIONS, drives=3))
    with pytest.raises(BevstackError, match="evenly spaced"):
        spacing(replace(tiny, times=(0.0, 0.5, 1.2)))


def test_jitter_is_mild_and_keeps_the_order_of_greys() -> None:
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None], (256, 1, 3)).copy()
    for seed in range(20):
        out = jitter(ramp[None], np.random.default_rng(seed))[0]
        assert (np.diff(out[:, 0].astype(int), axis=0) >= 0).all()
        assert np.abs(out.astype(int) - ramp).max() < 70


def test_painted_outlines_lie_where_the_camera_sees_the_box(tiny: FastBEVConfig, worlds: None) -> None:
    drive = SlotRenderer(tiny, OPTIONS)._drive(0, RESERVED_SEEDS)
    views = [input_camera(c, tiny) for c in drive.cameras.values()]
    near = Boxes3D([[10.0, 0, 0.8]], [[4.5, 1.9, 1.6]], [0.3], label=[0])
    far = Boxes3D([[22.0, 0, 1.5]], [[8.0, 2.6, 3.0]], [0.0], label=[1])
    both = Boxes3D(
        *(np.concatenate([getattr(far, f), getattr(near, f)]) for f in ("center", "size", "yaw", "velocity", "score", "label"))
    )
    painted = paint(both, views, tiny)
    uv, _ = views[0].project(near.center)
    column, row = np.rint(uv[0] / tiny.lift_stride).astype(int)
    assert painted.label[0, row, column] == 0  # the near one hides the far one
    assert np.exp(painted.log_range[0, row, column]) == pytest.approx(10.0 - 0.94, rel=1e-3)
    assert (painted.label[0] == 1).any()
    assert (painted.label[3] == 10).all()  # nothing behind
