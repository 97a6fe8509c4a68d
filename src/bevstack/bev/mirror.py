"""Test-time augmentation: the same instant seen in a mirror, and both answers put together.

The world is mirrored left to right, cameras and all: pictures are flipped, the rig's left cameras take the places of the right
ones. That is a valid instant for any network trained on both sides of the road, whatever its augmentation was. Twice the
work, for offline scoring and pseudo-labels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from bevstack.frames import Frame, FrameSet
from bevstack.frames.decode import decode_frame
from bevstack.geometry import Boxes3D, Camera, Matrix

from .fastbev import FastBEV

_SIDE = np.diag([1.0, -1.0, 1.0, 1.0])  # ego frame: left and right change places
_PICTURE = np.diag([-1.0, 1.0, 1.0, 1.0])  # optical frame: the same


def mirrored_name(name: str) -> str:
    """Name of the camera on the other side: ``cam_front_left`` <-> ``cam_front_right``; others keep theirs."""
    if "left" in name:
        return name.replace("left", "right")
    return name.replace("right", "left")


def mirror_pose(T: Matrix) -> Matrix:
    """Pose (4, 4) of the ego frame in the world, both mirrored."""
    return np.asarray(_SIDE @ T @ _SIDE)


def mirror_camera(camera: Camera, shown_width: int | None = None) -> Camera:
    """The camera that sees the mirrored world in the flipped picture.

    Args:
        shown_width: width of the picture that is flipped, where that is smaller than the camera's: pixel (u) of the sensor lies
            at u * shown_width / width, so the axis of the flip is not quite the middle.
    """
    shown = camera.width if shown_width is None else shown_width
    K = camera.K.copy()
    K[0, 2] = camera.width * (shown - 1) / shown - K[0, 2]
    K[0, 1] *= -1.0
    distortion = camera.distortion.copy()
    if camera.model == "pinhole" and distortion.size > 3:
        distortion[3] *= -1.0  # p2 bends along x
    T = _SIDE @ camera.T_ego_camera @ _PICTURE
    return replace(camera, name=mirrored_name(camera.name), K=K, T_ego_camera=T, distortion=distortion)


def mirror_boxes(boxes: Boxes3D) -> Boxes3D:
    """Boxes of the ego frame in the mirror; its own inverse."""
    flip = np.array([1.0, -1.0, 1.0])
    return replace(boxes, center=boxes.center * flip, yaw=-boxes.yaw, velocity=boxes.velocity * flip[:2])


def mirror_instant(instant: FrameSet, size: Callable[[Camera], tuple[int, int]], how: str = "area") -> FrameSet:
    """The instant in the mirror, frames in the order of the originals' names.

    Args:
        size: (width, height) to which an encoded image of a camera is decoded.
        how: filter of that resize.
    """
    frames: dict[str, Frame] = {}
    for frame in instant.frames.values():
        image = frame.image
        if image is None:
            image = decode_frame(frame, size(frame.camera), how).image  # type: ignore[arg-type]
            assert image is not None
        camera = mirror_camera(frame.camera, image.shape[1])
        pose = None if frame.T_world_ego is None else mirror_pose(frame.T_world_ego)
        flipped = np.ascontiguousarray(image[:, ::-1])
        frames[camera.name] = Frame(camera, frame.stamp, flipped, None, pose, frame.rectified)
    ordered = {name: frames[name] for name in instant.frames if name in frames} | frames
    truth = None if instant.truth is None else mirror_boxes(instant.truth)
    return FrameSet(instant.stamp, ordered, mirror_pose(instant.T_world_ego), truth)


def merge(first: Boxes3D, second: Boxes3D, radius: float = 2.0) -> Boxes3D:
    """Two answers to one instant as one, per class.

    A box of ``second`` joins the nearest box of ``first`` of its class within ``radius`` metres that none has joined: centre,
    size, velocity and heading become the mean, weighted by score, and the score the mean of both. Boxes that stand alone keep
    half their score: one of two did not see them.
    """
    taken = np.zeros(len(second), bool)
    center, size, yaw = first.center.copy(), first.size.copy(), first.yaw.copy()
    velocity, score = first.velocity.copy(), first.score * 0.5
    for i in np.argsort(-first.score, kind="stable"):
        candidates = np.flatnonzero(~taken & (second.label == first.label[i]))
        if not len(candidates):
            continue
        gaps = np.linalg.norm(second.center[candidates, :2] - first.center[i, :2], axis=1)
        j = int(candidates[int(np.argmin(gaps))])
        if gaps.min() > radius:
            continue
        taken[j] = True
        a, b = float(first.score[i]), float(second.score[j])
        w = b / max(a + b, 1e-12)
        center[i] += w * (second.center[j] - center[i])
        size[i] += w * (second.size[j] - size[i])
        velocity[i] += w * (second.velocity[j] - velocity[i])
        turn = float((second.yaw[j] - yaw[i] + np.pi) % (2 * np.pi) - np.pi)
        if abs(turn) > np.pi / 2:  # they disagree about front and back: the surer one decides
            yaw[i] = yaw[i] if a >= b else second.yaw[j]
        else:
            yaw[i] += w * turn
        score[i] = 0.5 * (a + b)
    alone = second[np.flatnonzero(~taken)]
    return Boxes3D(
        np.concatenate([center, alone.center]),
        np.concatenate([size, alone.size]),
        np.concatenate([yaw, alone.yaw]),
        np.concatenate([velocity, alone.velocity]),
        np.concatenate([score, 0.5 * alone.score]),
        np.concatenate([first.label, alone.label]),
    )


class TwoSided:
    """A ``FastBEV`` that looks at every instant twice, once in the mirror. Same calls; about twice the time.

    Args:
        make: opens the model; called twice, as each side has a past of its own.
    """

    def __init__(self, make: Callable[[], FastBEV]) -> None:
        self.plain, self.mirrored = make(), make()
        self.config, self.engine = self.plain.config, self.plain.engine
        self.rung, self.weights_sha256 = f"{self.plain.rung} (two-sided)", self.plain.weights_sha256
        self.timings: dict[str, float] = {}

    def decode_size(self, camera: Camera) -> tuple[int, int]:
        """As ``FastBEV.decode_size``."""
        return self.plain.decode_size(camera)

    def reset(self) -> None:
        """Forgets the past of both sides."""
        self.plain.reset()
        self.mirrored.reset()

    def close(self) -> None:
        """Frees both engines."""
        self.plain.close()
        self.mirrored.close()

    def __call__(self, instant: FrameSet) -> Boxes3D:
        """Boxes in the ego frame; raises as ``FastBEV`` does."""
        reflection = mirror_instant(instant, self.decode_size, self.config.resize_filter)
        here, there = self.plain(instant), mirror_boxes(self.mirrored(reflection))
        stages = self.plain.timings, self.mirrored.timings
        self.timings = {name: stages[0][name] + stages[1].get(name, 0.0) for name in stages[0]}
        return merge(here, there)
