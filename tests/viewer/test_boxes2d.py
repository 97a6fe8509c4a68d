"""2D boxes on the page: placed on the picture that they belong to, paired with 3D boxes, flagged where both disagree."""

from __future__ import annotations

import numpy as np
import pytest

from bevstack.geometry import DETECTION_CLASSES, Boxes2D, Boxes3D, Camera
from bevstack.geometry.association import associate
from bevstack.geometry.overlay import Outline, box_outlines
from bevstack.viewer.boxes2d import Recent2D, boxes2d_json
from bevstack.viewer.state import PageState, Picture

MS = 1_000_000
CAR, PEDESTRIAN = DETECTION_CLASSES.index("car"), DETECTION_CLASSES.index("pedestrian")


def flat(rows: list[list[float]], labels: list[int]) -> Boxes2D:
    return Boxes2D(np.array(rows, np.float32).reshape(-1, 4), np.full(len(labels), 0.5, np.float32), np.array(labels, np.int64))


def outlines(rig: dict[str, Camera], boxes: Boxes3D) -> list[Outline]:
    return box_outlines(rig["cam_front"], boxes)


@pytest.fixture
def car(rig: dict[str, Camera], boxes: Boxes3D) -> list[float]:
    """Where the car ahead is in the front camera, pixels."""
    seen = associate(rig["cam_front"], flat([], []), boxes)
    rectangle: list[float] = seen.rectangles[seen.visible.tolist().index(0)].tolist()
    return rectangle


def test_both_kinds_of_boxes_and_their_flags(rig: dict[str, Camera], boxes: Boxes3D, jpeg: bytes, car: list[float]) -> None:
    state = PageState()
    for camera in rig.values():
        state.set_camera(camera)
    state.add_picture("cam_front", Picture(207 * MS, jpeg))
    state.set_boxes(200 * MS, boxes)
    state.set_boxes2d("cam_front", 207 * MS, flat([car, [200, 60, 260, 120]], [CAR, PEDESTRIAN]))
    front = next(c for c in state.view().data["cameras"] if c["name"] == "cam_front")
    assert [o["box"] for o in front["outlines"]] == [0]
    first, second = front["boxes2d"]
    assert (first["class"], first["pair"], first["flag"]) == ("car", 0, "")
    assert first["box"] == pytest.approx([car[0] / 320, car[1] / 180, car[2] / 320, car[3] / 180], abs=1e-3)
    assert (second["class"], second["pair"], second["flag"]) == ("pedestrian", None, "alone")


def test_another_class_in_3d_is_flagged(rig: dict[str, Camera], boxes: Boxes3D, car: list[float]) -> None:
    rows, missed = boxes2d_json((5, flat([car], [PEDESTRIAN])), (320, 180), rig["cam_front"], boxes, outlines(rig, boxes), 5)
    assert [(r["class"], r["pair"], r["flag"]) for r in rows] == [("pedestrian", 0, "class")]
    assert missed == []


def test_a_box_that_only_the_3d_side_has(rig: dict[str, Camera], boxes: Boxes3D) -> None:
    rows, missed = boxes2d_json((5, flat([], [])), (320, 180), rig["cam_front"], boxes, outlines(rig, boxes), 5)
    assert rows == []
    assert missed == [0]


def test_nothing_is_compared_across_time_or_without_calibration(
    rig: dict[str, Camera], boxes: Boxes3D, car: list[float]
) -> None:
    found = (0, flat([[200, 60, 260, 120]], [CAR]))
    lines = outlines(rig, boxes)
    for camera, stamp in ((rig["cam_front"], 500 * MS), (None, 0)):
        rows, missed = boxes2d_json(found, (320, 180), camera, boxes, lines, stamp)  # type: ignore[arg-type]
        assert [r["flag"] for r in rows] == [""]
        assert missed == []
    assert boxes2d_json(found, None, None, boxes, [], 0) == ([], [])
    assert boxes2d_json(None, (320, 180), None, boxes, [], 0) == ([], [])


def test_results_belong_to_pictures_by_their_stamps() -> None:
    recent = Recent2D()
    assert recent.newest is None
    assert recent.nearest(0) is None
    for n in range(40):
        recent.keep(n * 100 * MS, flat([[n, 0, n + 1, 1]], [CAR]))
    assert recent.newest == 3900 * MS
    found = recent.nearest(3840 * MS)
    assert found is not None
    assert found[0] == 3800 * MS
    assert recent.nearest(0) is None  # forgotten
    recent.keep(10 * MS, flat([], []))  # a bag began again
    assert recent.nearest(3900 * MS) is None
    assert recent.newest == 10 * MS
