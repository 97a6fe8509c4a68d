"""2D and projected 3D boxes: pairs by overlap, disagreements, and what either side may miss without a flag."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from bevstack.geometry import DETECTION_CLASSES, Boxes2D, Boxes3D, Camera, pose
from bevstack.geometry.association import associate, overlaps

CAR, TRUCK, BICYCLE, PEDESTRIAN = (DETECTION_CLASSES.index(n) for n in ("car", "truck", "bicycle", "pedestrian"))


@pytest.fixture
def camera() -> Camera:
    """Level, 1.5 m high, looking ahead: 640x360, 77 degrees."""
    rotation = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    k = np.array([[400.0, 0.0, 320.0], [0.0, 400.0, 180.0], [0.0, 0.0, 1.0]])
    return Camera("front", 640, 360, k, pose(rotation, [0.0, 0.0, 1.5]))


def boxes3d(*rows: tuple[float, float, int]) -> Boxes3D:
    """(x, y, label): cars' sizes, on the ground; people's are small."""
    size = [[0.7, 0.7, 1.8] if label == PEDESTRIAN else [4.0, 2.0, 1.6] for *_, label in rows]
    count = len(rows)
    return Boxes3D(
        center=np.array([[x, y, s[2] / 2] for (x, y, _), s in zip(rows, size)]).reshape(-1, 3),
        size=np.array(size).reshape(-1, 3),
        yaw=np.zeros(count),
        velocity=np.zeros((count, 2)),
        score=np.ones(count),
        label=np.array([r[2] for r in rows], np.int64),
        id=np.arange(count),
    )


def boxes2d(rows: Sequence[Sequence[float]], labels: Sequence[int]) -> Boxes2D:
    return Boxes2D(np.array(rows, np.float32).reshape(-1, 4), np.ones(len(labels), np.float32), np.array(labels, np.int64))


def test_rectangles_are_the_projection_and_pairs_are_one_to_one(camera: Camera) -> None:
    truth = boxes3d((15.0, 0.0, CAR), (20.0, 7.0, CAR), (-15.0, 0.0, CAR))
    alone = associate(camera, boxes2d([], []), truth)
    assert sorted(alone.visible.tolist()) == [0, 1]
    ahead = alone.rectangles[alone.visible.tolist().index(0)]
    # The rear face, 13 m away, is the largest: 2 m wide, from the ground to 1.6 m.
    want = [320 - 400 / 13, 180 - 0.1 * 400 / 13, 320 + 400 / 13, 180 + 1.5 * 400 / 13]
    assert ahead == pytest.approx(np.array(want), abs=0.5)
    near, far = (alone.rectangles[alone.visible.tolist().index(n)] for n in (0, 1))
    both = associate(camera, boxes2d([near + 1, far, near + 3], [CAR, CAR, CAR]), truth)
    assert sorted(map(tuple, both.pairs.tolist())) == [(0, 0), (1, 1)]
    assert both.disagreements == 0  # the third lies within a box that has a partner
    assert both.overlap == pytest.approx([1.0, overlaps(near[None] + 1, near[None])[0][0, 0]])


def test_each_side_alone_is_flagged(camera: Camera) -> None:
    truth = boxes3d((15.0, 0.0, CAR))
    found = associate(camera, boxes2d([[450, 150, 550, 230]], [CAR]), truth)
    assert found.pairs.shape == (0, 2)
    assert found.only_2d.tolist() == [0]
    assert found.only_3d.tolist() == [0]
    assert found.disagreements == 2


@pytest.mark.parametrize(
    ("label", "conflicts"), [(CAR, 0), (TRUCK, 0), (PEDESTRIAN, 1), (BICYCLE, 1)], ids=["same", "vehicle", "person", "bicycle"]
)
def test_classes_that_contradict_each_other(camera: Camera, label: int, conflicts: int) -> None:
    truth = boxes3d((15.0, 0.0, CAR))
    rect = associate(camera, boxes2d([], []), truth).rectangles
    assert len(associate(camera, boxes2d(rect, [label]), truth).conflicts) == conflicts


def test_what_may_be_missed(camera: Camera) -> None:
    empty = boxes2d([], [])
    assert associate(camera, empty, boxes3d((60.0, 0.0, CAR))).only_3d.tolist() == []  # too far
    assert associate(camera, empty, boxes3d((12.0, 0.0, TRUCK), (22.0, 0.0, CAR))).only_3d.tolist() == [0]  # hidden behind it
    assert associate(camera, empty, boxes3d((15.0, 11.5, CAR))).only_3d.tolist() == []  # cut by the image's side
    none = boxes3d()
    small, cut = [300.0, 180.0, 306.0, 186.0], [0.0, 150.0, 60.0, 230.0]
    assert associate(camera, boxes2d([small, cut], [CAR, CAR]), none).disagreements == 0
    boat = replace(boxes2d([[300, 150, 400, 230]], [0]), classes=("boat",))
    assert associate(camera, boat, none).disagreements == 0  # 3D has no such class: nothing to compare


def test_nothing_at_all(camera: Camera) -> None:
    found = associate(camera, boxes2d([], []), boxes3d())
    assert (len(found.pairs), len(found.visible), found.disagreements) == (0, 0, 0)
