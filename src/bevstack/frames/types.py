"""What flows through the stack: one camera's exposure (``Frame``) and one instant of the rig (``FrameSet``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bevstack.geometry import Boxes3D, Camera, Matrix


@dataclass(frozen=True)
class Frame:
    """One exposure of one camera.

    Attributes:
        camera: calibration of the image as it left the sensor (``camera.width`` x ``camera.height``).
        stamp: exposure time, nanoseconds.
        image: (H, W, 3) uint8 RGB, C-contiguous, or None while only the compressed bytes are there. It may be smaller than the
            camera's size (decoded straight to near the network's input size): pixel (u, v) of the sensor lies at
            (u W / camera.width, v H / camera.height). Already undistorted if ``rectified``.
        encoded: JPEG (or other compressed) bytes, shared, never copied; None for raw sources.
        T_world_ego: (4, 4) ego pose at ``stamp``; None where the source has no odometry.
        rectified: the lens distortion of ``camera`` has been removed from ``image``.
    """

    camera: Camera
    stamp: int
    image: NDArray[np.uint8] | None = None
    encoded: bytes | memoryview | None = None
    T_world_ego: Matrix | None = None
    rectified: bool = False


@dataclass(frozen=True)
class FrameSet:
    """One instant of the whole rig.

    Attributes:
        stamp: nanoseconds, exposure of the reference camera.
        frames: by camera name, in rig order.
        T_world_ego: (4, 4) ego pose at ``stamp``; identity where the source has no odometry.
        truth: true boxes in the ego frame at ``stamp``, where the source knows them.
    """

    stamp: int
    frames: Mapping[str, Frame]
    T_world_ego: Matrix = field(default_factory=lambda: np.eye(4))
    truth: Boxes3D | None = None
