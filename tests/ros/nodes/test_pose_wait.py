"""An ego pose that arrives a little after its images is waited for, so that the same drive gives the same poses each time."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from bevstack.frames.ego import PoseBuffer
from bevstack.frames.sync import ApproximateSync
from bevstack.frames.types import Frame, FrameSet
from bevstack.geometry import Boxes3D, Camera, pose
from bevstack.ros.nodes.pipeline import Pipeline, Result

STEP = 100_000_000


class NoModel:
    """Finds nothing."""

    def __init__(self) -> None:
        self.timings: dict[str, float] = {}

    def __call__(self, frame_set: FrameSet) -> Boxes3D:
        return Boxes3D.empty()

    def reset(self) -> None:
        pass

    def decode_size(self, camera: Camera) -> tuple[int, int]:
        return camera.width, camera.height


def at(metres: float) -> np.ndarray:
    return pose(np.eye(3), (metres, 0.0, 0.0))


@pytest.mark.parametrize(("wait", "exact"), [(5.0, True), (0.0, False)])
def test_a_late_pose_is_waited_for(wait: float, exact: bool) -> None:
    camera = Camera("front", 64, 36, np.array([[50.0, 0, 32], [0, 50, 18], [0, 0, 1]]), pose(np.eye(3), (0, 0, 1.5)))
    poses, results, done = PoseBuffer(), list[Result](), threading.Event()
    poses.add(0, at(0.0))
    poses.add(STEP, at(1.0))

    def take(result: Result) -> None:
        results.append(result)
        done.set()

    pipeline = Pipeline(
        NoModel(),  # type: ignore[arg-type]
        ApproximateSync(["front"]),
        on_result=take,
        on_problem=lambda reason: None,
        poses=poses,
        workers=1,
        pose_wait=wait,
    )
    try:
        pipeline.submit(Frame(camera, 2 * STEP, image=np.zeros((36, 64, 3), np.uint8)))
        if exact:
            time.sleep(0.2)
            assert not results, "it did not wait"
        else:
            assert done.wait(10.0)
        poses.add(2 * STEP, at(5.0))  # the vehicle sped up: extrapolation would say 2 m
        assert done.wait(10.0)
    finally:
        pipeline.close()
    assert results[0].posed
    assert results[0].frame_set.T_world_ego is not None
    assert results[0].frame_set.T_world_ego[0, 3] == pytest.approx(5.0 if exact else 2.0, abs=1e-6)
