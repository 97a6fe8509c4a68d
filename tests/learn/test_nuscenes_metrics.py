"""nuScenes metrics: what is known in advance for perfect, shifted, turned, slowed, far and duplicated boxes."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from bevstack.geometry import DETECTION_CLASSES, Boxes3D
from bevstack.learn.nuscenes_metrics import attribute_of, score_detections

pytest.importorskip("nuscenes", reason="nuscenes-devkit is not installed: pip install --no-deps nuscenes-devkit")


def scene(seed: int, each: int = 3) -> Boxes3D:
    """``each`` boxes of every class within 28 m, at least 6 m apart so that matches are unambiguous."""
    rng = np.random.default_rng(seed)
    n = each * len(DETECTION_CLASSES)
    grid = np.stack(np.meshgrid(np.arange(-18, 19, 6.0), np.arange(-18, 19, 6.0)), -1).reshape(-1, 2)
    centre = grid[rng.permutation(len(grid))[:n]]
    return Boxes3D(
        center=np.column_stack([centre, np.ones(n)]),
        size=rng.uniform(0.5, 4, (n, 3)),
        yaw=rng.uniform(-math.pi, math.pi, n),
        velocity=rng.uniform(1, 5, (n, 2)),
        label=np.repeat(np.arange(len(DETECTION_CLASSES)), each),
    )


SCENES = [scene(s) for s in range(4)]


def test_perfect_boxes_score_one() -> None:
    result = score_detections([(s, s) for s in SCENES])
    assert result.mean_ap == pytest.approx(1.0)
    assert result.nds == pytest.approx(1.0)
    assert all(error == pytest.approx(0.0, abs=1e-6) for error in result.errors.values())
    assert result.absent == ()


def test_shift_is_the_translation_error_and_fails_the_tight_distance() -> None:
    shifted = [(replace(s, center=s.center + np.array([0.6, 0.0, 0.0])), s) for s in SCENES]
    result = score_detections(shifted)
    assert result.errors["ATE"] == pytest.approx(0.6, abs=1e-6)
    assert result.mean_ap == pytest.approx(0.75)  # 0.5 m fails; 1, 2 and 4 m match


def test_half_turn_spares_barriers_and_cones() -> None:
    result = score_detections([(replace(s, yaw=s.yaw + math.pi), s) for s in SCENES])
    errors = {c.name: c.errors["AOE"] for c in result.classes}
    assert errors["car"] == pytest.approx(math.pi, abs=1e-6)
    assert errors["barrier"] == pytest.approx(0.0, abs=1e-6)
    assert math.isnan(errors["traffic_cone"])


def test_standing_instead_of_moving_is_a_velocity_and_an_attribute_error() -> None:
    result = score_detections([(replace(s, velocity=np.zeros_like(s.velocity)), s) for s in SCENES])
    assert result.errors["AAE"] == pytest.approx(1.0)
    assert result.errors["AVE"] > 1.0
    assert result.mean_ap == pytest.approx(1.0)


def test_scale_error_is_one_minus_aligned_overlap() -> None:
    result = score_detections([(replace(s, size=s.size * [1, 1, 2]), s) for s in SCENES])
    assert result.errors["ASE"] == pytest.approx(0.5, abs=1e-6)


def test_confident_false_boxes_cost_precision() -> None:
    def doubled(s: Boxes3D) -> Boxes3D:
        return Boxes3D(
            *(np.concatenate([getattr(s, f)] * 2) for f in ("center", "size", "yaw", "velocity", "score", "label", "id"))
        )

    result = score_detections([(doubled(s), s) for s in SCENES])
    assert 0.3 < result.mean_ap < 0.7


def test_far_boxes_do_not_count() -> None:
    far = replace(SCENES[0], center=SCENES[0].center * 0 + [60.0, 0.0, 1.0])
    result = score_detections([(SCENES[0], SCENES[0]), (far, far)])
    assert result.mean_ap == pytest.approx(1.0)
    assert sum(c.truths for c in result.classes) == len(SCENES[0])


def test_a_class_without_truth_counts_as_zero_and_is_named() -> None:
    kept = SCENES[0][SCENES[0].label != 3]
    result = score_detections([(kept, kept)])
    assert result.absent == ("bus",)
    assert result.mean_ap == pytest.approx(0.9)
    json.dumps(result.to_json(), allow_nan=False)


def test_at_most_500_boxes_count() -> None:
    s = SCENES[0]
    noise = Boxes3D(
        np.tile([25.0, 0.0, 1.0], (500, 1)), np.ones((500, 3)), np.zeros(500), score=np.full(500, 1.0), label=np.full(500, 9)
    )
    fields = ("center", "size", "yaw", "velocity", "score", "label", "id")
    drowned = replace(s, score=np.full(len(s), 0.5))
    both = Boxes3D(*(np.concatenate([getattr(noise, f), getattr(drowned, f)]) for f in fields))
    assert score_detections([(both, s)]).mean_ap == pytest.approx(0.0)


def test_nothing_predicted_is_zero_not_an_error() -> None:
    result = score_detections([(Boxes3D.empty(), s) for s in SCENES])
    assert result.mean_ap == 0.0
    assert result.nds == pytest.approx(0.0)
    assert "NDS" in str(result.to_json())


@pytest.mark.parametrize(
    ("name", "speed", "expected"),
    [
        ("car", 0.3, "vehicle.moving"),
        ("bus", 0.1, "vehicle.stopped"),
        ("truck", 0.0, "vehicle.parked"),
        ("bicycle", 3.0, "cycle.with_rider"),
        ("motorcycle", 0.2, "cycle.without_rider"),
        ("pedestrian", 0.1, "pedestrian.standing"),
        ("barrier", 9.0, ""),
    ],
)
def test_attributes(name: str, speed: float, expected: str) -> None:
    assert attribute_of(name, speed) == expected
