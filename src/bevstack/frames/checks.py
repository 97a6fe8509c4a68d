"""Calibration checks: what cannot be right, or is most likely wrong, in one line each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from bevstack.errors import CalibrationError
from bevstack.geometry import Camera

_SKY_DEG = 60.0
_STALE_NS = 5_000_000_000


def broken(camera: Camera) -> list[str]:
    """What makes a camera unusable: no finite, regular K, no rigid pose, no image."""
    problems: list[str] = []
    name, k, pose = camera.name, camera.K, camera.T_ego_camera
    if camera.width < 1 or camera.height < 1:
        problems.append(f"{name}: image size {camera.width}x{camera.height} is empty: give the size that K belongs to")
    if not np.isfinite(k).all() or k[0, 0] <= 0 or k[1, 1] <= 0 or abs(float(np.linalg.det(k))) < 1e-9:
        problems.append(
            f"{name}: K is singular (fx {k[0, 0]:g}, fy {k[1, 1]:g}): calibrate the camera or publish its camera_info"
        )
    if not np.isfinite(camera.distortion).all():
        problems.append(f"{name}: distortion {camera.distortion.tolist()} is not finite: calibrate the camera again")
    rotation = pose[:3, :3]
    if not np.isfinite(pose).all():
        problems.append(f"{name}: its pose is not finite: check its transform in /tf_static or the rig file")
    elif not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3) or float(np.linalg.det(rotation)) < 0:
        error = float(np.abs(rotation @ rotation.T - np.eye(3)).max())
        problems.append(
            f"{name}: its pose is not rigid (error {error:.2g}, determinant {np.linalg.det(rotation):.2g}): check its transform"
        )
    return problems


def check_camera(camera: Camera, image_size: tuple[int, int] | None = None) -> list[str]:
    """One line for each problem of one camera; empty if it looks right.

    Args:
        camera: calibration to check.
        image_size: (width, height) of an image that the camera has sent, if one is at hand.
    """
    name = camera.name
    problems = broken(camera)
    if image_size is not None and image_size != (camera.width, camera.height):
        problems.append(
            f"{name}: sends {image_size[0]}x{image_size[1]} but its calibration is for {camera.width}x{camera.height}: "
            "give the camera_info that belongs to this image size"
        )
    if problems:
        return problems
    cx, cy = camera.K[0, 2], camera.K[1, 2]
    # A K of twice the size puts it on the border, one of half the size near a quarter (which a crop may do as well).
    if not (0.02 <= cx / camera.width <= 0.98 and 0.02 <= cy / camera.height <= 0.98):
        problems.append(
            f"{name}: principal point ({cx:.0f}, {cy:.0f}) lies at the border or outside of its "
            f"{camera.width}x{camera.height} image: "
            "K belongs to another image size"
        )
    fx, fy = camera.K[0, 0], camera.K[1, 1]
    if not 0.5 < fx / fy < 2.0:
        problems.append(f"{name}: focal lengths {fx:.0f} and {fy:.0f} differ by more than two: K is not scaled evenly")
    pose = camera.T_ego_camera
    view = pose[:3, 2]
    elevation = float(np.degrees(np.arcsin(np.clip(view[2], -1.0, 1.0))))
    if elevation > _SKY_DEG:
        problems.append(
            f"{name}: looks at the sky ({elevation:.0f} degrees up): "
            "its transform is probably that of the camera body, not of the optical frame (z forward)"
        )
    elif elevation < -_SKY_DEG and camera.model != "fisheye":
        problems.append(f"{name}: looks at the ground ({-elevation:.0f} degrees down): check its transform")
    elif pose[2, 1] > 0.5:
        problems.append(f"{name}: is mounted upside down (its image's down points up): check its transform or turn its image")
    elif abs(pose[2, 0]) > 0.9:
        problems.append(f"{name}: is turned on its side (its image's right points along the vertical): check its transform")
    if pose[2, 3] < 0:
        problems.append(f"{name}: sits {-pose[2, 3]:.2f} m below the ground: poses are relative to base_link, on the ground")
    elif pose[2, 3] > 6 or float(np.hypot(pose[0, 3], pose[1, 3])) > 20:
        problems.append(f"{name}: sits at {np.round(pose[:3, 3], 2).tolist()} m from base_link: translations are in metres")
    return problems


def check_rig(cameras: Mapping[str, Camera] | Iterable[Camera]) -> list[str]:
    """``check_camera`` for each camera, and what only the whole rig shows: a camera that is there twice."""
    rig = list(cameras.values() if isinstance(cameras, Mapping) else cameras)
    problems = [line for camera in rig for line in check_camera(camera)]
    for index, one in enumerate(rig):
        for other in rig[index + 1 :]:
            if np.allclose(one.T_ego_camera, other.T_ego_camera, atol=1e-6) and np.allclose(one.K, other.K, rtol=1e-6):
                problems.append(
                    f"{one.name} and {other.name} have the same pose and K: one calibration was given to two cameras"
                )
    return problems


def require_rig(cameras: Mapping[str, Camera]) -> list[str]:
    """The problems of ``check_rig`` that one can live with.

    Raises:
        CalibrationError: no camera at all, or one that is unusable (``broken``).
    """
    if not cameras:
        raise CalibrationError("the rig has no cameras: name at least one")
    for camera in cameras.values():
        for line in broken(camera):
            raise CalibrationError(line)
    return check_rig(cameras)


def check_stamps(stamps: Mapping[str, int], now: int, max_age_ns: int = _STALE_NS) -> list[str]:
    """One line for each camera whose newest stamp is stale, zero, or in the future.

    Args:
        stamps: newest stamp by camera, nanoseconds.
        now: the clock that stamps are measured by, nanoseconds.
        max_age_ns: a camera that has been silent for longer is stale.
    """
    problems: list[str] = []
    for name, stamp in stamps.items():
        age = now - stamp
        if stamp <= 0:
            problems.append(f"{name}: its stamps are zero: the driver must stamp images")
        elif age > max_age_ns:
            problems.append(
                f"{name}: its newest image is {age / 1e9:.1f} s old: the camera has stopped, or its clock is behind"
            )
        elif age < -max_age_ns:
            problems.append(
                f"{name}: its newest image is {-age / 1e9:.1f} s in the future: synchronise its clock, or use_sim_time"
            )
    return problems
