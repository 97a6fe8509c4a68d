"""Overlap of upright boxes seen from above, and greedy suppression. Compiled with numba; not imported by ``geometry`` itself.

A rectangle is a row (x, y, size along its own x, size along its own y, yaw): metres, radians anticlockwise.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

Matrix = NDArray[np.float64]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _intersection(a: Matrix, b: Matrix) -> float:  # pragma: no cover  (compiled)
    """Area common to two rectangles: a's corners in b's axes, clipped by b's four sides (Sutherland and Hodgman 1974)."""
    cb, sb = np.cos(b[4]), np.sin(b[4])
    dx, dy = a[0] - b[0], a[1] - b[1]
    centre_x, centre_y = cb * dx + sb * dy, cb * dy - sb * dx
    c, s = np.cos(a[4] - b[4]), np.sin(a[4] - b[4])
    ax, ay = a[2] * 0.5, a[3] * 0.5
    px, py = np.empty(16), np.empty(16)
    qx, qy = np.empty(16), np.empty(16)
    for n in range(4):
        x = ax if n == 0 or n == 3 else -ax
        y = ay if n < 2 else -ay
        px[n] = centre_x + c * x - s * y
        py[n] = centre_y + s * x + c * y
    count = 4
    for side in range(4):
        limit = b[2] * 0.5 if side < 2 else b[3] * 0.5
        kept = 0
        for n in range(count):
            m = n + 1 if n + 1 < count else 0
            # Signed distance inside the side: positive is inside.
            if side == 0:
                d0, d1 = limit - px[n], limit - px[m]
            elif side == 1:
                d0, d1 = limit + px[n], limit + px[m]
            elif side == 2:
                d0, d1 = limit - py[n], limit - py[m]
            else:
                d0, d1 = limit + py[n], limit + py[m]
            if d0 >= 0:
                qx[kept], qy[kept] = px[n], py[n]
                kept += 1
            if (d0 >= 0) != (d1 >= 0):
                t = d0 / (d0 - d1)
                qx[kept], qy[kept] = px[n] + t * (px[m] - px[n]), py[n] + t * (py[m] - py[n])
                kept += 1
        if kept == 0:
            return 0.0
        for n in range(kept):
            px[n], py[n] = qx[n], qy[n]
        count = kept
    area = 0.0
    for n in range(count):
        m = n + 1 if n + 1 < count else 0
        area += px[n] * py[m] - px[m] * py[n]
    return abs(area) * 0.5


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _iou(a: Matrix, b: Matrix) -> float:  # pragma: no cover  (compiled)
    reach = np.hypot(a[2], a[3]) + np.hypot(b[2], b[3])
    dx, dy = a[0] - b[0], a[1] - b[1]
    if 4.0 * (dx * dx + dy * dy) >= reach * reach:  # the circles around them do not meet
        return 0.0
    common = _intersection(a, b)
    union = a[2] * a[3] + b[2] * b[3] - common
    return common / union if union > 0.0 else 0.0


@numba.njit(cache=True, nogil=True)
def _iou_matrix(a: Matrix, b: Matrix, out: Matrix) -> None:  # pragma: no cover  (compiled)
    for i in range(a.shape[0]):
        for j in range(b.shape[0]):
            out[i, j] = _iou(a[i], b[j])


@numba.njit(cache=True, nogil=True)
def _suppress(boxes: Matrix, threshold: float) -> NDArray[np.bool_]:  # pragma: no cover  (compiled)
    n = boxes.shape[0]
    keep = np.ones(n, np.bool_)
    half_x, half_y, area = np.empty(n), np.empty(n), np.empty(n)
    for i in range(n):
        c, s = abs(np.cos(boxes[i, 4])), abs(np.sin(boxes[i, 4]))
        half_x[i] = 0.5 * (c * boxes[i, 2] + s * boxes[i, 3])
        half_y[i] = 0.5 * (s * boxes[i, 2] + c * boxes[i, 3])
        area[i] = boxes[i, 2] * boxes[i, 3]
    for i in range(n):
        if not keep[i]:
            continue
        for j in range(i + 1, n):
            if not keep[j]:
                continue
            # An upper bound of the overlap from axis-aligned extents decides most pairs.
            dx, dy = abs(boxes[i, 0] - boxes[j, 0]), abs(boxes[i, 1] - boxes[j, 1])
            wide = min(half_x[i] + half_x[j] - dx, 2 * half_x[i], 2 * half_x[j])
            high = min(half_y[i] + half_y[j] - dy, 2 * half_y[i], 2 * half_y[j])
            if wide <= 0 or high <= 0:
                continue
            most = min(wide * high, area[i], area[j])
            if most <= threshold * (area[i] + area[j] - most):
                continue
            if _iou(boxes[i], boxes[j]) > threshold:
                keep[j] = False
    return keep


@numba.njit(cache=True, nogil=True)
def _suppress_circles(centers: Matrix, threshold: float, limit: int) -> NDArray[np.bool_]:  # pragma: no cover  (compiled)
    n = centers.shape[0]
    gone = np.zeros(n, np.bool_)
    keep = np.zeros(n, np.bool_)
    kept = 0
    for i in range(n):
        if gone[i]:
            continue
        if kept >= limit:
            break
        keep[i] = True
        kept += 1
        for j in range(i + 1, n):
            dx, dy = centers[i, 0] - centers[j, 0], centers[i, 1] - centers[j, 1]
            if dx * dx + dy * dy <= threshold:
                gone[j] = True
    return keep


def _rows(boxes: ArrayLike, columns: int) -> Matrix:
    return np.ascontiguousarray(boxes, np.float64).reshape(-1, columns)


def rotated_iou(first: ArrayLike, second: ArrayLike) -> Matrix:
    """(N, M) intersection over union of rectangles (N, 5) and (M, 5)."""
    a, b = _rows(first, 5), _rows(second, 5)
    out = np.zeros((len(a), len(b)))
    _iou_matrix(a, b, out)
    return out


def rotated_nms(boxes: ArrayLike, scores: ArrayLike, threshold: float) -> NDArray[np.int64]:
    """Indices of the rectangles (N, 5) that survive, best first: one goes if its IoU with a better one is > ``threshold``."""
    order = np.argsort(-np.asarray(scores), kind="stable")
    return order[_suppress(_rows(boxes, 5)[order], float(threshold))]


def circle_nms(centers: ArrayLike, scores: ArrayLike, squared_distance: float, limit: int) -> NDArray[np.int64]:
    """Indices of the centres (N, 2) that survive, best score first, at most ``limit``.

    A centre goes if its *squared* distance to a better one is at most ``squared_distance`` (m^2): the published rule.
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    return order[_suppress_circles(_rows(centers, 2)[order], float(squared_distance), limit)]
