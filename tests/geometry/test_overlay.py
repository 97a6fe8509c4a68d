"""Outlines of boxes on images: where they lie, what is cut off, in which order they come."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bevstack.geometry import BOX_EDGES, Boxes3D, Camera, pose
from bevstack.geometry.overlay import NEAR, box_outlines

# Optical axes in ego axes, looking ahead: right = -y, down = -z, ahead = x.
AHEAD = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
K = np.array([[500.0, 0.0, 320.0], [0.0, 500.0, 180.0], [0.0, 0.0, 1.0]])


def camera(**more: object) -> Camera:
    return Camera("front", 640, 360, K, pose(AHEAD, [1.0, 0.0, 1.5]), **more)  # type: ignore[arg-type]


def box(
    x: float, y: float = 0.0, z: float = 0.8, size: tuple[float, float, float] = (4.0, 2.0, 1.6), yaw: float = 0.0
) -> Boxes3D:
    return Boxes3D(np.array([[x, y, z]]), np.array([size]), np.array([yaw]))


def test_every_edge_of_a_box_in_view_by_hand() -> None:
    """Corners projected by hand: u = 320 - 500 y / d, v = 180 + 500 (1.5 - z) / d, with d = x - 1."""
    (outline,) = box_outlines(camera(), box(20.0, 1.0))
    assert len(outline.lines) == len(BOX_EDGES)
    assert outline.depth == pytest.approx(19.0)
    ends = np.unique(np.concatenate(outline.lines).round(6), axis=0)
    by_hand = []
    for x in (18.0, 22.0):
        for y in (0.0, 2.0):
            for z in (0.0, 1.6):
                by_hand.append(((320 - 500 * y / (x - 1) + 0.5) / 640, (180 + 500 * (1.5 - z) / (x - 1) + 0.5) / 360))
    expected = np.unique(np.array(by_hand).round(6), axis=0)
    assert ends == pytest.approx(expected, abs=1e-5)


def test_the_front_face_is_the_one_in_driving_direction() -> None:
    """A box that comes towards the camera shows its front nearer: lower in the image than its rear."""
    (outline,) = box_outlines(camera(), box(20.0, yaw=np.pi))
    assert len(outline.front) == 4
    assert np.concatenate(outline.front)[:, 1].max() == pytest.approx(np.concatenate(outline.lines)[:, 1].max())
    (leaving,) = box_outlines(camera(), box(20.0))
    assert np.concatenate(leaving.front)[:, 1].max() < np.concatenate(leaving.lines)[:, 1].max()


@pytest.mark.parametrize("where", [(-10.0, 0.0), (0.0, 30.0), (20.0, 40.0), (20.0, -40.0)])
def test_what_the_camera_does_not_see_has_no_outline(where: tuple[float, float]) -> None:
    assert box_outlines(camera(), box(*where)) == []


def test_a_box_half_behind_the_camera_is_cut_and_stays_near_the_image() -> None:
    (outline,) = box_outlines(camera(), box(3.0, 2.5, size=(8.0, 2.0, 1.6)))
    lines = np.concatenate(outline.lines)
    assert len(outline.lines) < len(BOX_EDGES)
    assert lines.min() >= -0.05
    assert lines.max() <= 1.05


def test_a_box_around_the_camera_does_no_harm() -> None:
    for outline in box_outlines(camera(), box(1.0, 0.0, 1.5, size=(6.0, 4.0, 4.0))):
        assert all(np.isfinite(line).all() for line in outline.lines)


def test_nearest_comes_last() -> None:
    boxes = Boxes3D(np.array([[10.0, 0, 1], [40.0, 0, 1], [20.0, 0, 1]]), np.ones((3, 3)), np.zeros(3))
    assert [outline.index for outline in box_outlines(camera(), boxes)] == [1, 2, 0]
    assert box_outlines(camera(), Boxes3D.empty()) == []


@pytest.mark.parametrize(
    "lens",
    [
        {"distortion": np.array([-0.3, 0.1, 0.001, -0.001, 0.0])},
        {"distortion": np.array([0.05, -0.01, 0.0, 0.0]), "model": "fisheye"},
    ],
)
def test_a_bent_lens_bends_edges_as_it_bends_points(lens: dict[str, object]) -> None:
    bent = camera(**lens)
    target = box(8.0, 2.0)
    (outline,) = box_outlines(bent, target)
    assert all(len(line) > 2 for line in outline.lines)
    pixels, _ = bent.project(target.corners()[0])
    corners = (pixels + 0.5) / (640, 360)
    seen = np.concatenate(outline.lines)
    for corner in corners[np.all((corners > 0) & (corners < 1), axis=1)]:
        assert np.abs(seen - corner).max(axis=1).min() < 1e-6
    straight = np.concatenate([np.linspace(line[0], line[-1], len(line)) for line in outline.lines])
    assert np.abs(straight - seen).max() > 1e-4


@settings(max_examples=150, deadline=None)
@given(
    st.floats(-60, 60),
    st.floats(-60, 60),
    st.floats(-3, 5),
    st.floats(-7, 7),
    st.tuples(st.floats(0.05, 20), st.floats(0.05, 5), st.floats(0.05, 5)),
)
def test_lines_never_leave_the_image_by_far(x: float, y: float, z: float, yaw: float, size: tuple[float, float, float]) -> None:
    for outline in box_outlines(camera(), box(x, y, z, size, yaw)):
        lines = np.concatenate(outline.lines)
        assert np.isfinite(lines).all()
        assert lines.min() > -0.05
        assert lines.max() < 1.05


def test_near_plane() -> None:
    """Nothing nearer than ``NEAR`` is drawn: an edge that reaches the lens ends there."""
    (outline,) = box_outlines(camera(), box(1.0, 0.0, 1.5, size=(20.0, 0.02, 0.02)))
    assert len(outline.lines) >= 4
    widest = np.concatenate(outline.lines)[:, 0]
    assert widest.max() - widest.min() == pytest.approx(500 * 0.02 / NEAR / 640, rel=0.01)
