"""How far a rig is from the one that a network was trained with: what it sees, from where, and how large.

A network that is lifted by tables takes any calibration, but it has learned what its own cameras show: objects of a certain
size in pixels, the ground at a certain slope, certain cameras overlapping. ``compare_rigs`` says in numbers what is different.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bevstack.errors import CalibrationError
from bevstack.geometry import Camera

from .config import FastBEVConfig
from .preprocess import image_transform
from .tables import rig_table


@dataclass(frozen=True)
class CameraView:
    """What one camera contributes, at the network's input (after resize and crop).

    Attributes:
        name: camera.
        horizontal, vertical: field of view, degrees, of an undistorted image with this K.
        height: metres above the ground plane of the ego frame.
        pitch, roll, yaw: degrees; looking down, leaning to the right, and to the left are positive.
        focal: pixels per radian at the network's input: the size of objects in pixels is proportional to it.
        voxels: share of the grid that it sees.
    """

    name: str
    horizontal: float
    vertical: float
    height: float
    pitch: float
    roll: float
    yaw: float
    focal: float
    voxels: float


@dataclass(frozen=True)
class RigView:
    """A rig as one network sees it.

    Attributes:
        cameras: views by name. covered: share of voxels that some camera sees. overlap: share that two or more see.
    """

    cameras: Mapping[str, CameraView]
    covered: float
    overlap: float


@dataclass(frozen=True)
class Difference:
    """One thing that is different; ``serious`` ones are outside what the limits below allow."""

    text: str
    serious: bool


# Beyond these a difference is called serious. Rules of thumb: they mark what to look at first, not where a network stops to
# work; `bevstack eval calibration` measures that.
LIMITS = {"angle": 1.0, "height": 0.3, "focal": 0.15, "covered": 0.05, "overlap": 0.08, "yaw": 15.0}


def camera_view(camera: Camera, config: FastBEVConfig, voxels: float) -> CameraView:
    """Angles, height and scale of a camera behind the network's resize and crop."""
    K = image_transform(camera.width, camera.height, config).matrix @ camera.K
    height, width = config.image_hw
    left, right = np.arctan((0.0 - K[0, 2]) / K[0, 0]), np.arctan((width - 1 - K[0, 2]) / K[0, 0])
    up, down = np.arctan((0.0 - K[1, 2]) / K[1, 1]), np.arctan((height - 1 - K[1, 2]) / K[1, 1])
    R = camera.T_ego_camera[:3, :3]
    ahead, right_axis = R[:, 2], R[:, 0]
    level = np.array([np.sin(np.arctan2(ahead[1], ahead[0])), -np.cos(np.arctan2(ahead[1], ahead[0])), 0.0])
    return CameraView(
        name=camera.name,
        horizontal=float(np.degrees(right - left)),
        vertical=float(np.degrees(down - up)),
        height=float(camera.T_ego_camera[2, 3]),
        pitch=float(np.degrees(np.arcsin(np.clip(-ahead[2], -1.0, 1.0)))),
        roll=float(np.degrees(np.arctan2(right_axis @ np.cross(ahead, level), right_axis @ level))),
        yaw=float(np.degrees(np.arctan2(ahead[1], ahead[0]))),
        focal=float(K[0, 0]),
        voxels=voxels,
    )


def rig_view(cameras: Mapping[str, Camera], config: FastBEVConfig) -> RigView:
    """What a rig of at most ``config.cameras`` cameras shows to a network.

    Raises:
        CalibrationError: no camera, or too many.
    """
    if not 0 < len(cameras) <= config.cameras:
        raise CalibrationError(f"{len(cameras)} cameras; {config.name} takes 1 to {config.cameras}: choose with --cameras")
    seen = np.zeros(config.voxels, np.int64)
    views = {}
    for name, camera in cameras.items():
        mine = rig_table([camera, *[None] * (config.cameras - 1)], config) < config.cells
        seen += mine
        views[name] = camera_view(camera, config, float(mine.mean()))
    return RigView(views, float((seen > 0).mean()), float((seen > 1).mean()))


def nearest(view: CameraView, known: Mapping[str, CameraView]) -> CameraView:
    """The camera of the known rig that looks most nearly in the same direction."""
    return min(known.values(), key=lambda other: abs((view.yaw - other.yaw + 180.0) % 360.0 - 180.0))


def compare_rigs(mine: RigView, trained: RigView) -> list[Difference]:
    """What is different, serious things first; empty when nothing is worth a line."""
    found: list[Difference] = []

    def note(text: str, size: float, limit: float) -> None:
        if size > limit / 4:
            found.append(Difference(text, size > limit))

    for view in mine.cameras.values():
        other = nearest(view, trained.cameras)
        turn = abs((view.yaw - other.yaw + 180.0) % 360.0 - 180.0)
        note(f"{view.name} looks {turn:.0f} degrees past {other.name}, its nearest in training", turn, LIMITS["yaw"])
        ratio = view.focal / other.focal
        note(f"{view.name}: objects look {ratio:.2f} x as large as in {other.name}", abs(np.log(ratio)), LIMITS["focal"])
        for word, a, b in (("pitch", view.pitch, other.pitch), ("roll", view.roll, other.roll)):
            note(f"{view.name}: {word} {a:+.1f} degrees, {b:+.1f} in training", abs(a - b), LIMITS["angle"])
        note(
            f"{view.name} is {view.height:.2f} m up, {other.height:.2f} m in training",
            abs(view.height - other.height),
            LIMITS["height"],
        )
    note(
        f"{mine.covered:.1%} of the grid is seen, {trained.covered:.1%} in training",
        trained.covered - mine.covered,
        LIMITS["covered"],
    )
    note(
        f"{mine.overlap:.1%} of the grid is seen twice, {trained.overlap:.1%} in training",
        abs(mine.overlap - trained.overlap),
        LIMITS["overlap"],
    )
    return sorted(found, key=lambda d: not d.serious)
