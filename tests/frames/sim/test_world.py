"""The world: all classes, nuScenes sizes, traffic that keeps apart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from bevstack.frames.sim import SimulatedDrive
from bevstack.frames.sim.shapes import SIZES, build
from bevstack.frames.sim.traffic import STEP
from bevstack.geometry import DETECTION_CLASSES, invert, transform_points


@pytest.mark.parametrize("label", DETECTION_CLASSES)
def test_sizes_have_the_nuscenes_means_and_every_part_is_inside(label: str) -> None:
    rng = np.random.default_rng(0)
    riders = (False, True) if label in ("bicycle", "motorcycle") else (False,)
    sizes = []
    for k in range(80):
        size, mesh = build(label, rng, rider=riders[k % len(riders)])
        sizes.append(size)
        quads = np.stack(mesh.quads)
        half = np.array([size[0] / 2, size[1] / 2])
        assert (np.abs(quads[..., :2]) <= half + 0.03).all(), label
        assert quads[..., 2].min() >= -0.011
        assert quads[..., 2].max() <= size[2] + 0.011
    mean, spread = SIZES[label]
    ratio = np.array(sizes).mean(axis=0) / np.array(mean)
    np.testing.assert_allclose(ratio, 1.0, atol=max(0.08, 1.2 * spread))
    assert np.array(sizes).std(axis=0).min() > 0.0


def test_all_ten_classes_are_in_every_world(make_drive: Callable[..., SimulatedDrive]) -> None:
    for seed, style in ((1, "downtown"), (3, "suburb"), (5, "downtown")):
        world = make_drive(seed, style).world
        present = np.bincount(world.label[world.label >= 0], minlength=10)
        assert (present >= 3).all(), dict(zip(DETECTION_CLASSES, present.tolist()))


def test_density_and_class_weights_change_what_there_is() -> None:
    plain = SimulatedDrive(6, style="desert", image_width=64, duration=0.2).world
    more = SimulatedDrive(6, style="desert", image_width=64, duration=0.2, class_weights={"pedestrian": 2.0, "bus": 0.0}).world
    few = SimulatedDrive(6, style="desert", image_width=64, duration=0.2, density=0.3).world
    person, bus = DETECTION_CLASSES.index("pedestrian"), DETECTION_CLASSES.index("bus")
    assert (more.label == person).sum() > 1.4 * (plain.label == person).sum()
    assert (more.label == bus).sum() == 0
    assert (few.label >= 0).sum() < 0.6 * (plain.label >= 0).sum()


def test_the_ego_vehicle_drives_and_hits_no_vehicle() -> None:
    world = SimulatedDrive(8, style="old-town", image_width=64, duration=30.0).world
    path = np.array([world.ego_pose(t)[:2, 3] for t in np.arange(0, 30, 0.5)])
    steps = np.linalg.norm(np.diff(path, axis=0), axis=1) / 0.5
    assert steps.mean() > 2.0
    assert steps.max() < 15.0
    for t in np.arange(0, 30, 0.5):
        states, _ = world.item_states(t)
        local = transform_points(invert(world.ego_pose(t)), np.column_stack([states[:, :2], np.zeros(len(states))]))
        vehicle = (world.label >= 0) & (world.label < 5)
        ahead = np.abs(local[:, 0] - 1.05) < 2.0
        beside = np.abs(local[:, 1]) < 0.85
        assert not (vehicle & ahead & beside).any(), t


def test_speeds_and_accelerations_are_plausible(make_drive: Callable[..., SimulatedDrive]) -> None:
    states = make_drive(1, "downtown").world.motion.states
    speed = states[..., 4]
    assert speed.max() < 15.0
    assert speed.min() >= 0.0
    change = np.diff(speed, axis=0) / STEP
    assert change.max() < 1.7
    assert change.min() > -6.0
    hop = np.linalg.norm(np.diff(states[..., :2], axis=0), axis=-1) / STEP
    assert np.abs(hop - speed[:-1]).max() < 1.6  # positions follow the speeds
