"""Samples of a nuScenes folder and of drives: what the vehicle would see, nothing from the future, classes in balance."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from bevstack.bev import FastBEV
from bevstack.bev.config import FastBEVConfig
from bevstack.errors import BevstackError
from bevstack.frames.nuscenes import NuScenesSource
from bevstack.geometry import DETECTION_CLASSES
from bevstack.learn.nuscenes import samples
from bevstack.learn.nuscenes.samples import (
    DrivePool,
    MixedPool,
    NuScenesPool,
    SampleSet,
    Views,
    balanced,
    make_sample,
    split_scenes,
)


def test_history_is_the_nearest_image_of_then_and_never_of_now_or_later(tree: Path) -> None:
    with NuScenesSource(tree, sweeps=True) as source:
        tokens = source.key_samples()
        assert tokens == ["x00", "x01", "x02", "x10", "x11", "x12"]
        now = source.key_instant("x02")
        past = source.past("x02", 0.5)
        sweep = source.past("x02", 0.25)
        assert past is not None
        assert sweep is not None
        for name, frame in now.frames.items():
            assert frame.stamp - past[name].stamp == 500_000_000
            assert frame.stamp - sweep[name].stamp == 250_000_000  # an image between two key instants
        assert past["cam_front"].T_world_ego is not None
        assert past["cam_front"].T_world_ego[0, 3] < now.T_world_ego[0, 3]
        assert source.past("x02", 1.5) is None, "the scene is not that old"
        assert source.past("x10", 0.5) is None, "the scene before is another drive"
        assert source.past("x01", 0.03) is None, "the instant's own images are not its past"
        assert source.past("x02", 0.4, tolerance=0.01) is None


def test_boxes_without_lidar_points_are_left_out_of_training_only(tree: Path) -> None:
    with NuScenesSource(tree, sweeps=True) as source:
        names = [DETECTION_CLASSES[i] for i in source.key_instant("x10", measured=True).truth.label]  # type: ignore[union-attr]
        assert names == ["barrier"]
        assert len(source.key_instant("x10").truth or ()) == 2
        assert source.classes_in("x10") == {DETECTION_CLASSES.index("barrier")}
    with NuScenesSource(tree) as source:
        assert all(len(instant.truth or ()) == 2 for instant in source)


def test_a_sample_is_what_the_vehicle_sees(tree: Path, tiny: FastBEVConfig) -> None:
    """Images and tables of the sample, without augmentation, equal those inside ``FastBEV`` on the same instants."""
    bev = FastBEV(tiny, "torch", threads=1)
    with NuScenesSource(tree, scenes="scene-0001") as source:
        for instant in source:
            bev(instant)
    pool = NuScenesPool(tree)
    with NuScenesSource(tree, sweeps=True) as source:
        views = Views(source.key_instant("x02"), [source.past("x02", 0.5)])
        first = Views(source.key_instant("x00"), [source.past("x00", 0.5)])
    assert len(pool) > 0
    sample = make_sample(views, tiny, None)
    np.testing.assert_array_equal(sample.images[:6], bev._images)
    np.testing.assert_array_equal(sample.tables, bev._tables)
    assert (sample.tables[0] != sample.tables[1]).any()
    start = make_sample(first, tiny, None)
    np.testing.assert_array_equal(start.images[:6], start.images[6:])
    np.testing.assert_array_equal(start.tables[0], start.tables[1])


def test_samples_are_functions_of_their_number(tree: Path, tiny: FastBEVConfig) -> None:
    one, two = (SampleSet(NuScenesPool(tree), tiny, seed=4) for _ in range(2))
    forwards = [one[n] for n in range(5)]
    backwards = [two[n] for n in reversed(range(5))][::-1]
    for a, b in zip(forwards, backwards):
        np.testing.assert_array_equal(a.images, b.images)
        np.testing.assert_array_equal(a.tables, b.tables)
        np.testing.assert_array_equal(a.rows, b.rows)
    other = SampleSet(NuScenesPool(tree), tiny, seed=5)[0]
    assert (other.images != forwards[0].images).any()


def test_an_epoch_shows_the_drawn_samples_once_and_the_next_one_in_another_order(tree: Path) -> None:
    pool = NuScenesPool(tree, balance=False)
    assert len(pool) == 6
    epochs = [[pool.token(e * 6 + i) for i in range(6)] for e in range(4)]
    assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_rare_classes_are_drawn_as_often_as_common_ones() -> None:
    rng = np.random.default_rng(0)
    classes = [{0}] * 90 + [{0, 1}] * 8 + [{2}] * 2 + [set()] * 5
    drawn = balanced(classes, 4, rng)  # a fourth class has no sample
    total = 98 + 8 + 2
    assert len(drawn) == 3 * (total // 4)
    counts = Counter(int(i) for i in drawn)
    assert sum(n for i, n in counts.items() if 2 in classes[i]) == total // 4  # of 2 samples, 27 draws
    assert sum(n for i, n in counts.items() if 1 in classes[i]) >= total // 4
    assert all(classes[i] for i in counts), "samples without boxes are not drawn"
    assert len(balanced([set(), set()], 4, rng)) == 2


class _Named:
    def __init__(self, name: str) -> None:
        self.name, self.asked = name, []  # type: tuple[str, list[int]]

    def views(self, number: int, config: FastBEVConfig) -> str:
        self.asked.append(number)
        return self.name


def test_mixing_spreads_the_share_evenly_and_skips_nothing(tiny: FastBEVConfig) -> None:
    real, simulated = _Named("real"), _Named("sim")
    mixed = MixedPool(real, simulated, 0.25)  # type: ignore[arg-type]
    names = [str(mixed.views(n, tiny)) for n in range(40)]
    assert names.count("sim") == 10
    assert max(len(run) for run in "".join(n[0] for n in names).split("s")) <= 4
    assert real.asked == list(range(30))
    assert simulated.asked == list(range(10))


def test_drives_give_their_own_history(tiny: FastBEVConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    real = samples.SimulatedDrive
    monkeypatch.setattr(samples, "SimulatedDrive", lambda *a, **k: real(*a, **{**k, "density": 0.2}))
    pool = DrivePool(first_drive=900_000, per_drive=3, image_width=200)
    first, third = pool.views(0, tiny), pool.views(2, tiny)
    assert first.past == [None]
    assert third.past[0] is not None
    assert third.now.stamp - next(iter(third.past[0].values())).stamp == pytest.approx(5e8, abs=6e7)
    assert make_sample(third, tiny, np.random.default_rng(0)).images.shape == (12, *tiny.image_hw, 3)
    with pytest.raises(BevstackError, match="kept for evaluation"):
        DrivePool(first_drive=3)


def test_official_splits() -> None:
    pytest.importorskip("nuscenes.utils.splits", reason="nuscenes-devkit is not installed")
    train, val = split_scenes("train"), split_scenes("val")
    assert train is not None
    assert val is not None
    assert (len(train), len(val)) == (700, 150)
    assert not set(train) & set(val)
    assert split_scenes("all") is None
    with pytest.raises(BevstackError, match="no split 'dev'"):
        split_scenes("dev")
