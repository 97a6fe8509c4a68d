"""The mirror: geometry that is exact, and two answers that become one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bevstack.bev import CONFIGS, FastBEV
from bevstack.bev.mirror import TwoSided, merge, mirror_boxes, mirror_camera, mirror_instant
from bevstack.frames import Frame, FrameSet
from bevstack.frames.sim import nuscenes_rig
from bevstack.geometry import Boxes3D, Camera

RIG = nuscenes_rig(800)
BENT = replace(RIG["cam_front_left"], distortion=np.array([-0.1, 0.02, 0.003, -0.004, 0.001]))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(
        [*RIG.values(), BENT, replace(RIG["cam_back"], model="fisheye", distortion=np.array([0.1, 0.01, 0.0, 0.0]))]
    ),
    st.floats(-20, 20),
    st.floats(-20, 20),
    st.floats(-1, 4),
    st.sampled_from([800, 400, 267]),
)
def test_mirrored_points_fall_on_flipped_pixels(camera: Camera, x: float, y: float, z: float, shown: int) -> None:
    pixel, depth = camera.project([[x, y, z]])
    mirrored, depth_again = mirror_camera(camera, shown).project([[x, -y, z]])
    np.testing.assert_allclose(depth_again, depth, atol=1e-9)
    if depth[0] > 0.1:
        scale = shown / camera.width
        assert mirrored[0, 0] * scale == pytest.approx(shown - 1 - pixel[0, 0] * scale, rel=1e-9, abs=1e-6)
        assert mirrored[0, 1] == pytest.approx(pixel[0, 1], rel=1e-9, abs=1e-6)


def noise(width: int) -> FrameSet:
    """An instant of pictures that look different everywhere."""
    rng = np.random.default_rng(0)
    rig = {name: camera.resized(width, width * 9 // 16) for name, camera in nuscenes_rig().items()}
    pictures = {name: rng.integers(0, 255, (camera.height, width, 3), np.uint8) for name, camera in rig.items()}
    return FrameSet(0, {name: Frame(camera, 0, pictures[name]) for name, camera in rig.items()})


def test_the_mirrored_rig_is_a_rig_of_the_same_names() -> None:
    instant = noise(160)
    reflection = mirror_instant(instant, lambda camera: (160, 90))
    assert list(reflection.frames) == list(instant.frames)
    for name, frame in reflection.frames.items():
        assert frame.camera.name == name
        assert np.linalg.det(frame.camera.T_ego_camera[:3, :3]) == pytest.approx(1.0)
        original = instant.frames[name.replace("left", "#").replace("right", "left").replace("#", "right")]
        assert frame.image is not None
        assert original.image is not None
        np.testing.assert_array_equal(frame.image, original.image[:, ::-1])
    again = mirror_instant(reflection, lambda camera: (160, 90))
    for name, frame in again.frames.items():
        np.testing.assert_allclose(frame.camera.T_ego_camera, instant.frames[name].camera.T_ego_camera, atol=1e-12)
        np.testing.assert_allclose(frame.camera.K, instant.frames[name].camera.K, atol=1e-9)


def some(rows: list[tuple[float, float, float, float, int]]) -> Boxes3D:
    """(x, y, yaw, score, label)."""
    a = np.array(rows).reshape(-1, 5)
    n = len(a)
    centers = np.concatenate([a[:, :2], np.ones((n, 1))], 1)
    return Boxes3D(centers, np.full((n, 3), 2.0), a[:, 2], np.ones((n, 2)), a[:, 3], a[:, 4].astype(int))


def test_agreement_moves_boxes_together() -> None:
    both = merge(some([(10, 0, 0.0, 0.6, 0), (30, 5, 0, 0.8, 0)]), some([(11, 0, 0.2, 0.2, 0), (10, 0.1, 0, 0.9, 7)]))
    assert len(both) == 3
    assert both.center[0, 0] == pytest.approx(10.25)  # weighted 3 : 1
    assert both.yaw[0] == pytest.approx(0.05)
    np.testing.assert_allclose(both.score, [0.4, 0.4, 0.45])  # together 0.4; alone: half of 0.8 and of 0.9
    assert both.label.tolist() == [0, 0, 7]


def test_opposite_headings_are_not_averaged() -> None:
    both = merge(some([(10, 0, 0.0, 0.6, 0)]), some([(10, 0, np.pi, 0.7, 0)]))
    assert both.yaw[0] == pytest.approx(np.pi)


def test_merging_with_nothing_keeps_the_boxes() -> None:
    one = some([(10, 0, 0.3, 0.6, 0)])
    for both in (merge(one, Boxes3D.empty()), merge(Boxes3D.empty(), one)):
        np.testing.assert_allclose(both.center, one.center)
        assert both.score[0] == pytest.approx(0.3)


def test_a_two_sided_answer_to_a_mirrored_world_is_the_mirrored_answer() -> None:
    """Whatever the network has learned: both sides are asked, so left and right are treated alike."""
    pytest.importorskip("torch")
    from bevstack.bev.network import FastBEVNet
    from bevstack.nn.seed import seed_everything

    seed_everything(4)
    net = FastBEVNet(CONFIGS["fastbev-micro"]).eval()
    assert net.bbox_head.conv_cls.bias is not None
    net.bbox_head.conv_cls.weight.data.normal_(std=1.0)  # a network that says something
    net.bbox_head.conv_cls.bias.data.fill_(-3.5)
    both = TwoSided(lambda: FastBEV(net, "torch", threads=1))
    instant = noise(352)
    here = both(instant)
    both.reset()
    there = mirror_boxes(both(mirror_instant(instant, both.decode_size)))
    assert len(here) > 10
    assert both.timings["total"] > 0
    # Which of several near boxes join can differ where they are crowded; nearly all must have their counterpart.
    gaps = np.linalg.norm(here.center[:, None] - there.center[None], axis=2) + 1e3 * (here.label[:, None] != there.label[None])
    assert (gaps.min(axis=1) < 1e-2).mean() > 0.9
    assert abs(len(here) - len(there)) <= 0.05 * len(here)
