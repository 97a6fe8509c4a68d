"""Disturbed rigs: what is parsed, what is rendered, what the network is told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pytest

from bevstack.bev.config import CONFIGS
from bevstack.errors import BevstackError
from bevstack.frames import Frame, FrameSet
from bevstack.frames.sim import nuscenes_rig
from bevstack.geometry import Boxes3D, Camera
from bevstack.learn.calibration_error import Disturbance, evaluate_calibration, parse_disturbances

RIG = nuscenes_rig(800)


def test_errors_are_parsed() -> None:
    found = parse_disturbances("pitch=0.5,-1 mounts=0.25 height=0.1")
    assert [str(d) for d in found] == ["pitch +0.5 deg", "pitch -1 deg", "mounts +0.25 deg", "height +0.1 m"]


@pytest.mark.parametrize("text", ["", "tilt=1", "pitch", "pitch=much", "pitch=nan", "roll=400", "mounts=-1"])
def test_what_is_no_error_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(BevstackError) as caught:
        parse_disturbances(text)
    assert "\n" not in str(caught.value)


def test_bodies_lean_as_one_and_mounts_each_for_itself() -> None:
    leaning = Disturbance("roll", 2.0).apply(RIG, 1)
    relative = {name: np.linalg.inv(RIG["cam_front"].T_ego_camera) @ c.T_ego_camera for name, c in RIG.items()}
    for name, camera in leaning.items():
        np.testing.assert_allclose(
            np.linalg.inv(leaning["cam_front"].T_ego_camera) @ camera.T_ego_camera, relative[name], atol=1e-9
        )
    one, again, other = (Disturbance("mounts", 0.5).apply(RIG, seed)["cam_back"].T_ego_camera for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other)
    assert Disturbance("height", 0.3).apply(RIG, 1)["cam_back"].T_ego_camera[2, 3] == pytest.approx(1.84)


class Drive:
    """Two instants of one car and one pedestrian, seen by the rig that is asked for, without pictures."""

    def __init__(self, seed: int, *, cameras: Mapping[str, Camera], rate: float, duration: float) -> None:
        assert (rate, duration) == (2.0, 1.0)
        self.cameras = cameras

    def __enter__(self) -> Drive:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> Iterator[FrameSet]:
        truth = Boxes3D(
            [[12.0, 1.0, 0.8], [9.0, -3.0, 0.9]], [[4.5, 1.9, 1.6], [0.7, 0.7, 1.8]], [0, 0], [[0, 0]] * 2, [1, 1], [0, 7]
        )
        for stamp in (0, 500_000_000):
            yield FrameSet(stamp, {name: Frame(camera, stamp) for name, camera in self.cameras.items()}, truth=truth)


class Oracle:
    """Knows every box, and sees them where the calibration that it is told puts the image's content."""

    rung, engine, weights_sha256 = "oracle", "none", ""

    config = CONFIGS["fastbev-micro"]

    def __init__(self) -> None:
        self.timings = {"total": 1.0}

    def __call__(self, instant: FrameSet) -> Boxes3D:
        assert instant.truth is not None
        told = instant.frames["cam_front"].camera.T_ego_camera
        shift = told[:3, 3] - RIG["cam_front"].T_ego_camera[:3, 3]
        t = instant.truth
        # 20 cm of camera height stand for 2 m of distance: enough for the metrics to notice.
        away = np.array([10.0 * shift[2], 0.0, 0.0])
        return Boxes3D(t.center + away, t.size, t.yaw, t.velocity, np.full(len(t), 0.9), t.label)


def test_the_network_is_told_the_nominal_rig_or_the_true_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from bevstack.learn import calibration_error

    monkeypatch.setattr(calibration_error, "_open", lambda model, *_: model)
    monkeypatch.setattr(calibration_error, "SimulatedDrive", Drive)
    done: list[tuple[int, int]] = []
    base, losses = evaluate_calibration(
        Oracle(),  # type: ignore[arg-type]
        [Disturbance("height", 0.2)],
        [3],
        seconds=1.0,
        progress=lambda *n: done.append(n),
    )
    assert done == [(1, 2), (2, 2)]  # both look at the same rendering
    assert base.mean_ap == pytest.approx(0.2)  # two of ten classes, both perfect
    assert losses[0].told.mean_ap == pytest.approx(0.2)  # it was told that nothing had moved
    assert losses[0].corrected.mean_ap < 0.15
