"""Between the model's box rows and ``Boxes3D``, in one place (brief fast-bev, section 0).

A row is x, y, z of the *bottom* centre, w (along x at yaw 0), l (along y at yaw 0), h, yaw, vx, vy in the virtual LiDAR frame
(x right, y forward, z up). At yaw 0 the object faces -y; yaw grows clockwise seen from above: yaw = -theta - pi/2 with theta
the usual anticlockwise heading. Velocity is over ground, only turned into other axes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bevstack.geometry import Boxes3D, invert

Rows = NDArray[np.float64]


def boxes_from_rows(rows: ArrayLike, scores: ArrayLike, labels: ArrayLike, T_ego_lidar: ArrayLike) -> Boxes3D:
    """Rows (N, 9) of the LiDAR frame as boxes of the ego frame, given ``T_ego_lidar`` (4, 4)."""
    r = np.asarray(rows, np.float64).reshape(-1, 9)
    center = r[:, :3] + np.stack([np.zeros(len(r)), np.zeros(len(r)), r[:, 5] / 2], axis=1)
    boxes = Boxes3D(
        center=center,
        size=r[:, [4, 3, 5]],
        yaw=-r[:, 6] - np.pi / 2,
        velocity=r[:, 7:9],
        score=np.asarray(scores, np.float64),
        label=np.asarray(labels, np.int64),
    )
    return boxes.transformed(T_ego_lidar)


def rows_from_boxes(boxes: Boxes3D, T_ego_lidar: ArrayLike) -> Rows:
    """Inverse of ``boxes_from_rows``: (N, 9) float64, yaw in [-pi, pi)."""
    local = boxes.transformed(invert(T_ego_lidar))
    yaw = -local.yaw - np.pi / 2
    rows = np.empty((len(boxes), 9))
    rows[:, :3] = local.center
    rows[:, 2] -= local.size[:, 2] / 2
    rows[:, 3:6] = local.size[:, [1, 0, 2]]
    rows[:, 6] = (yaw + np.pi) % (2 * np.pi) - np.pi
    rows[:, 7:9] = local.velocity
    return rows
