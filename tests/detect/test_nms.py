"""Suppression against the plain definition."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bevstack.detect.nms import class_nms


def plain(
    xyxy: np.ndarray,
    score: np.ndarray,
    label: np.ndarray,
    threshold: float,
    group: np.ndarray | None = None,
    rival: float = 1.0,
    inside: float = 1.0,
) -> list[int]:
    kept: list[int] = []
    for i in np.argsort(-score, kind="stable"):
        good = True
        for k in kept:
            low, high = np.maximum(xyxy[i, :2], xyxy[k, :2]), np.minimum(xyxy[i, 2:], xyxy[k, 2:])
            common = np.prod(np.maximum(high - low, 0.0))
            areas = [np.prod(np.maximum(b[2:] - b[:2], 0.0)) for b in (xyxy[i], xyxy[k])]
            same, rivals = label[i] == label[k], group is not None and group[i] == group[k] >= 0
            limit = threshold if same else rival
            good &= not ((same or rivals) and common > limit * (sum(areas) - common) and common > 0)
            good &= not (rivals and common > inside * areas[0])
        if good:
            kept.append(int(i))
    return kept


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(0, 60), threshold=st.sampled_from([0.0, 0.3, 0.6, 1.0]))
def test_it_keeps_what_the_definition_keeps(seed: int, n: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 12, (n, 2))  # whole numbers: products are exact, and equal boxes happen
    xyxy = np.concatenate([corner, corner + rng.integers(0, 9, (n, 2))], 1).astype(np.float32)
    score = (rng.integers(0, 20, n) / 20).astype(np.float32)
    label = rng.integers(0, 3, n)
    assert class_nms(xyxy, score, label, threshold, 1000).tolist() == plain(xyxy, score, label, threshold)
    group = np.array([0, 0, -1])[label]
    kept = class_nms(xyxy, score, label, threshold, 1000, group, 0.5)
    assert kept.tolist() == plain(xyxy, score, label, threshold, group, 0.5)
    kept = class_nms(xyxy, score, label, threshold, 1000, group, 0.5, 0.75)
    assert kept.tolist() == plain(xyxy, score, label, threshold, group, 0.5, 0.75)


def test_the_limit_cuts_the_worst() -> None:
    xyxy = np.stack([np.arange(1000) * 10.0, np.zeros(1000), np.arange(1000) * 10.0 + 5, np.ones(1000)], 1).astype(np.float32)
    score = np.linspace(0, 1, 1000).astype(np.float32)
    kept = class_nms(xyxy, score, np.zeros(1000, np.int64), 0.5, 100)
    assert kept.tolist() == list(range(999, 899, -1))
    assert len(class_nms(xyxy, score, np.zeros(1000, np.int64), 0.5, 2000)) == 1000
    assert len(class_nms(xyxy[:0], score[:0], np.zeros(0, np.int64), 0.5, 100)) == 0


def test_classes_do_not_suppress_each_other() -> None:
    xyxy = np.tile(np.array([[0, 0, 10, 10]], np.float32), (3, 1))
    kept = class_nms(xyxy, np.array([0.5, 0.9, 0.7], np.float32), np.array([0, 1, 0]), 0.6, 10)
    assert kept.tolist() == [1, 2]


def test_rivals_suppress_each_other_and_strangers_do_not() -> None:
    xyxy = np.tile(np.array([[0, 0, 10, 10]], np.float32), (3, 1))
    score, label = np.array([0.5, 0.9, 0.7], np.float32), np.array([0, 1, 7])
    kept = class_nms(xyxy, score, label, 0.6, 10, np.array([0, 0, -1]), 0.7)
    assert kept.tolist() == [1, 2], "a car under a truck goes, a pedestrian stays"
    assert class_nms(xyxy, score, label, 0.6, 10, np.array([0, 0, -1]), 1.0).tolist() == [1, 2, 0]


def test_a_part_inside_its_vehicle_goes_but_a_person_before_a_person_stays() -> None:
    xyxy = np.array([[0, 0, 40, 30], [5, 12, 25, 28], [30, 0, 60, 20]], np.float32)  # whole, part, neighbour
    score, label = np.array([0.8, 0.6, 0.7], np.float32), np.zeros(3, np.int64)
    vehicles, people = np.zeros(3, np.int64), np.full(3, -1, np.int64)
    assert class_nms(xyxy, score, label, 0.6, 10, vehicles, 0.7, 0.9).tolist() == [0, 2]
    assert class_nms(xyxy, score, label, 0.6, 10, people, 0.7, 0.9).tolist() == [0, 2, 1]
    # The better box decides: a whole that is less sure than its part stays beside it.
    assert class_nms(xyxy, score[[1, 0, 2]], label, 0.6, 10, vehicles, 0.7, 0.9).tolist() == [1, 2, 0]
