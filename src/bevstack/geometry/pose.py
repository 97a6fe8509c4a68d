"""Rigid poses as 4x4 float64 matrices.

``T_a_b`` maps points of frame ``b`` into frame ``a``: ``p_a = T_a_b @ p_b``. Quaternions are (x, y, z, w), the ROS order,
with w >= 0 on output. Frames follow REP-103: x forward, y left, z up, metres, radians, yaw anticlockwise.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Matrix = NDArray[np.float64]


def pose(rotation: ArrayLike | None = None, translation: ArrayLike | None = None) -> Matrix:
    """4x4 pose from a 3x3 rotation (identity when None) and a translation (3,) in metres (zero when None)."""
    transform = np.eye(4)
    if rotation is not None:
        transform[:3, :3] = rotation
    if translation is not None:
        transform[:3, 3] = translation
    return transform


def invert(transform: ArrayLike) -> Matrix:
    """Inverse of rigid poses (..., 4, 4), by transposing the rotation."""
    t = np.asarray(transform, dtype=np.float64)
    result = np.zeros_like(t)
    rotation_t = np.swapaxes(t[..., :3, :3], -1, -2)
    result[..., :3, :3] = rotation_t
    result[..., :3, 3] = -(rotation_t @ t[..., :3, 3, None])[..., 0]
    result[..., 3, 3] = 1.0
    return result


def transform_points(transform: ArrayLike, points: ArrayLike) -> Matrix:
    """Points (..., 3) of frame b in frame a, given ``T_a_b`` (4, 4)."""
    t = np.asarray(transform, dtype=np.float64)
    return np.asarray(points, dtype=np.float64) @ t[:3, :3].T + t[:3, 3]


def rotation_z(yaw: float) -> Matrix:
    """3x3 rotation by ``yaw`` radians, anticlockwise about z."""
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def rotation_rpy(roll: float, pitch: float, yaw: float) -> Matrix:
    """3x3 rotation of fixed-axis roll, pitch, yaw in radians (URDF convention, Rz Ry Rx)."""
    cr, sr = np.cos(roll), np.sin(roll)
    cp, sp = np.cos(pitch), np.sin(pitch)
    rx = np.array([[1.0, 0.0, 0.0], [0.0, cr, -sr], [0.0, sr, cr]])
    ry = np.array([[cp, 0.0, sp], [0.0, 1.0, 0.0], [-sp, 0.0, cp]])
    return np.asarray(rotation_z(yaw) @ ry @ rx)


def yaw_of(transform: ArrayLike) -> float:
    """Heading of the frame's x axis in the parent's xy plane, radians in (-pi, pi]."""
    t = np.asarray(transform, dtype=np.float64)
    return float(np.arctan2(t[1, 0], t[0, 0]))


def rotation_from_quaternion(quaternion: ArrayLike) -> Matrix:
    """3x3 rotation from (x, y, z, w); the norm is divided out.

    Raises:
        ValueError: if the quaternion has zero or non-finite norm.
    """
    q = np.asarray(quaternion, dtype=np.float64)
    norm = float(np.linalg.norm(q))
    if not np.isfinite(norm) or norm < 1e-9:
        raise ValueError(f"quaternion {q.tolist()} has no direction: it needs a finite, non-zero norm")
    x, y, z, w = q / norm
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def quaternion_from_rotation(rotation: ArrayLike) -> Matrix:
    """(x, y, z, w) with w >= 0 of a 3x3 rotation (largest-component method, stable for every angle)."""
    m = np.asarray(rotation, dtype=np.float64)[:3, :3]
    # Four times the outer product q q^T; its largest diagonal entry gives the stable column.
    outer = np.array(
        [
            [1 + m[0, 0] - m[1, 1] - m[2, 2], m[0, 1] + m[1, 0], m[0, 2] + m[2, 0], m[2, 1] - m[1, 2]],
            [m[0, 1] + m[1, 0], 1 - m[0, 0] + m[1, 1] - m[2, 2], m[1, 2] + m[2, 1], m[0, 2] - m[2, 0]],
            [m[0, 2] + m[2, 0], m[1, 2] + m[2, 1], 1 - m[0, 0] - m[1, 1] + m[2, 2], m[1, 0] - m[0, 1]],
            [m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1], 1 + np.trace(m)],
        ]
    )
    q = outer[int(np.argmax(np.diag(outer)))]
    q = q / np.linalg.norm(q)
    return np.asarray(-q if q[3] < 0 else q)


def interpolate(first: ArrayLike, second: ArrayLike, fraction: float) -> Matrix:
    """Pose between two poses: linear in translation, shortest arc (slerp) in rotation. Fractions outside [0, 1] extrapolate."""
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    qa, qb = quaternion_from_rotation(a), quaternion_from_rotation(b)
    dot = float(qa @ qb)
    if dot < 0:
        qb, dot = -qb, -dot
    if dot > 0.9995:  # nearly parallel: the arc's sine would lose digits
        q = qa + fraction * (qb - qa)
    else:
        angle = np.arccos(dot)
        q = (np.sin((1 - fraction) * angle) * qa + np.sin(fraction * angle) * qb) / np.sin(angle)
    return pose(rotation_from_quaternion(q), (1 - fraction) * a[:3, 3] + fraction * b[:3, 3])
