"""Pinhole and fisheye cameras. Optical frame: z forward, x right, y down (REP-103)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .pose import Matrix, invert, pose, rotation_rpy, transform_points

CameraModel = Literal["pinhole", "fisheye"]


@dataclass(frozen=True)
class Camera:
    """One calibrated camera.

    Attributes:
        name: for example ``cam_front``; also the topic's and the frame's stem.
        width, height: pixels of the image that ``K`` belongs to.
        K: (3, 3) intrinsics in pixels; pixel centres at integer coordinates.
        T_ego_camera: (4, 4) pose of the optical frame in the ego frame (base_link: rear axle on the ground).
        distortion: () none; pinhole: OpenCV order k1 k2 p1 p2 [k3 [k4 k5 k6]] (CameraInfo ``plumb_bob``,
            ``rational_polynomial``); fisheye: k1 k2 k3 k4 (``equidistant``, Kannala-Brandt).
        model: lens model of ``distortion``.
    """

    name: str
    width: int
    height: int
    K: Matrix
    T_ego_camera: Matrix
    distortion: Matrix = field(default_factory=lambda: np.zeros(0))
    model: CameraModel = "pinhole"

    def __post_init__(self) -> None:
        object.__setattr__(self, "K", np.asarray(self.K, dtype=np.float64).reshape(3, 3))
        object.__setattr__(self, "T_ego_camera", np.asarray(self.T_ego_camera, dtype=np.float64).reshape(4, 4))
        object.__setattr__(self, "distortion", np.asarray(self.distortion, dtype=np.float64).reshape(-1))

    @property
    def distorted(self) -> bool:
        """True when straight lines are not straight in the image: any coefficient, or a fisheye lens."""
        return self.model == "fisheye" or bool(np.any(self.distortion))

    def resized(self, width: int, height: int) -> Camera:
        """The same lens seen by an image resized to ``width`` x ``height`` (corner-aligned: u' = s u, as Fast-BEV does)."""
        scale = np.diag([width / self.width, height / self.height, 1.0])
        return replace(self, width=width, height=height, K=scale @ self.K)

    def cropped(self, left: int, top: int, width: int, height: int) -> Camera:
        """The same lens seen by the window of ``width`` x ``height`` pixels whose first pixel is (left, top)."""
        shift = np.array([[1.0, 0.0, -left], [0.0, 1.0, -top], [0.0, 0.0, 1.0]])
        return replace(self, width=width, height=height, K=shift @ self.K)

    def turned(self, roll: float = 0.0, pitch: float = 0.0, yaw: float = 0.0) -> Camera:
        """The camera knocked out of place: turned where it stands. Radians about the ego frame's axes (positive pitch looks
        down, positive yaw to the left)."""
        T = self.T_ego_camera.copy()
        T[:3, :3] = rotation_rpy(roll, pitch, yaw) @ T[:3, :3]
        return replace(self, T_ego_camera=T)

    def carried(self, roll: float = 0.0, pitch: float = 0.0, height: float = 0.0) -> Camera:
        """The camera of a vehicle whose body leans: turned about the origin of the ego frame with everything on it, and raised
        by ``height`` metres. Radians; positive pitch lowers the nose, positive roll the right side."""
        T_lean = pose(rotation_rpy(roll, pitch, 0.0), (0.0, 0.0, height))
        return replace(self, T_ego_camera=T_lean @ self.T_ego_camera)

    def distort(self, normalized: NDArray[np.float64]) -> NDArray[np.float64]:
        """Ideal image coordinates (N, 2) (x/z, y/z) to distorted ones (N, 2)."""
        if not self.distorted:
            return normalized
        x, y = normalized[:, 0], normalized[:, 1]
        if self.model == "fisheye":
            k = np.zeros(4)
            k[: min(4, self.distortion.size)] = self.distortion[:4]
            r = np.hypot(x, y)
            theta = np.arctan(r)
            t2 = theta * theta
            bent = theta * (1 + t2 * (k[0] + t2 * (k[1] + t2 * (k[2] + t2 * k[3]))))
            ratio = np.divide(bent, r, out=np.ones_like(r), where=r > 1e-9)
            return normalized * ratio[:, None]
        d = np.zeros(8)
        d[: min(8, self.distortion.size)] = self.distortion[:8]
        k1, k2, p1, p2, k3, k4, k5, k6 = d
        r2 = x * x + y * y
        radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
        return np.stack(
            [
                x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
                y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
            ],
            axis=1,
        )

    def project_camera(self, points: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Points (N, 3) of the optical frame to pixels (N, 2) and depths (N,) in metres. Depth <= 0 gives NaN pixels."""
        p = np.asarray(points, dtype=np.float64).reshape(-1, 3)
        depth = p[:, 2]
        ahead = depth > 0
        normalized = np.full((len(p), 2), np.nan)
        normalized[ahead] = p[ahead, :2] / depth[ahead, None]
        normalized[ahead] = self.distort(normalized[ahead])
        pixels = normalized @ self.K[:2, :2].T + self.K[:2, 2]
        return pixels, depth

    def project(self, points_ego: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Points (N, 3) of the ego frame to pixels (N, 2) and depths (N,) in metres. Depth <= 0 gives NaN pixels."""
        return self.project_camera(transform_points(invert(self.T_ego_camera), points_ego))

    def inside(self, pixels: ArrayLike, depth: ArrayLike) -> NDArray[np.bool_]:
        """(N,) which projected points fall into the image, in front of the lens."""
        uv, z = np.asarray(pixels), np.asarray(depth)
        with np.errstate(invalid="ignore"):
            return np.asarray(
                (z > 0)
                & (uv[:, 0] >= -0.5)
                & (uv[:, 0] < self.width - 0.5)
                & (uv[:, 1] >= -0.5)
                & (uv[:, 1] < self.height - 0.5)
            )
