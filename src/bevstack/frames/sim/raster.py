"""Compiled inner loops that draw shapes: quads into a z-buffer, shadows onto the ground, halos around lamps.

Pixel centres lie at integer coordinates. The object layer has ``ss`` x ``ss`` samples per pixel (anti-aliasing). All loops are
single-threaded and release the GIL.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
I32 = NDArray[np.int32]
U8 = NDArray[np.uint8]

# Division by zero gives infinity as in numpy (no branch per division); sums may be reordered, NaN and infinity stay.
compiled = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "arcp", "nsz"})

NEAR = 0.25  # metres in front of the lens


class View(NamedTuple):
    """A pinhole in the world: ``rotation`` (3, 3) world to camera, ``origin`` (3,), intrinsics in samples or pixels."""

    rotation: F64
    origin: F64
    fx: float
    fy: float
    cx: float
    cy: float


class Scene(NamedTuple):
    """What is drawn. Item m has ``number[m]`` quads from ``first[m]`` on and fits a circle of ``radius[m]`` metres.

    Quads: ``corners`` (P, 4, 3) and ``normal`` (P, 3) in the item's frame, ``reach`` (P,) metres from their middle, reflectance
    ``color`` and own light ``glow`` (P, 3), surface ``kind`` (P,).
    """

    first: I64
    number: I64
    radius: F64
    corners: F32
    normal: F32
    reach: F32
    color: F32
    glow: F32
    kind: I64


class Drawn(NamedTuple):
    """Object layer: ``depth`` (ss H, ss W) 1/metres, 0 where empty; ``piece`` (ss H, ss W) index of the drawn quad seen there.

    Of drawn quad k: its number ``quad[k]``, its item ``item[k]``, its colour ``lit[k]`` and ``bay[k]`` (3,), see ``shading``.
    ``area[m]``: samples that the front faces of item m cover, hidden or not.
    """

    depth: F32
    piece: I32
    quad: I64
    item: I64
    lit: F32
    bay: F32
    area: I64


@compiled
def _clip_near(src: F64, n: int, dst: F64) -> int:
    """Convex polygon ``src`` (n, 3) in the camera frame, cut at z = NEAR, into ``dst``; returns the number of corners."""
    m = 0
    for i in range(n):
        j = (i + 1) % n
        a, b = src[i], src[j]
        if a[2] >= NEAR:
            dst[m, 0], dst[m, 1], dst[m, 2] = a[0], a[1], a[2]
            m += 1
        if (a[2] >= NEAR) != (b[2] >= NEAR):
            w = (NEAR - a[2]) / (b[2] - a[2])
            dst[m, 0], dst[m, 1], dst[m, 2] = a[0] + w * (b[0] - a[0]), a[1] + w * (b[1] - a[1]), NEAR
            m += 1
    return m


@compiled
def _row_span(poly: F64, n: int, y: float) -> tuple[float, float]:
    """Horizontal extent of the convex image polygon ``poly`` (n, 2) on the line at height y."""
    lo, hi = 1e30, -1e30
    for i in range(n):
        j = i + 1 if i + 1 < n else 0
        y0, y1 = poly[i, 1], poly[j, 1]
        if (y0 <= y) == (y1 <= y):
            continue
        x = poly[i, 0] + (y - y0) / (y1 - y0) * (poly[j, 0] - poly[i, 0])
        lo, hi = min(lo, x), max(hi, x)
    return lo, hi


@compiled
def draw_quads(view: View, scene: Scene, order: I64, states: F64, tiny: float, drawn: Drawn) -> int:
    """Rasterises the items in ``order`` (nearest first) into ``drawn`` (``depth`` zeroed before).

    Args:
        states: (M, 3) world x, y, yaw of the items.
        tiny: quads that would be smaller than this many samples in radius are left out.

    Returns the number of drawn quads.
    """
    rotation, origin, fx, fy, cx, cy = view
    first, count, radius, quads, normal, reach = (
        scene.first,
        scene.number,
        scene.radius,
        scene.corners,
        scene.normal,
        scene.reach,
    )
    zbuf, pid = drawn.depth, drawn.piece
    height, width = zbuf.shape
    used = 0
    corner = np.empty((4, 3))
    clipped = np.empty((8, 3))
    image = np.empty((8, 2))
    slope = np.empty(8)
    limit_x = max(cx, width - cx) / fx + 0.02
    side = math.sqrt(1.0 + limit_x * limit_x)
    for k in range(len(order)):
        item = order[k]
        x0, y0, yaw = states[item, 0] - origin[0], states[item, 1] - origin[1], states[item, 2]
        # Bounding sphere against the near plane and the left and right planes.
        px = rotation[0, 0] * x0 + rotation[0, 1] * y0 - rotation[0, 2] * origin[2]
        pz = rotation[2, 0] * x0 + rotation[2, 1] * y0 - rotation[2, 2] * origin[2]
        r = radius[item]
        if pz < -r or abs(px) - limit_x * pz > r * side:
            continue
        smallest = max(pz - r, 0.0) * tiny / fx
        if r < smallest:
            continue
        c, s = math.cos(yaw), math.sin(yaw)
        for q in range(first[item], first[item] + count[item]):
            if reach[q] < smallest:
                continue
            nx = c * normal[q, 0] - s * normal[q, 1]
            ny = s * normal[q, 0] + c * normal[q, 1]
            nz = normal[q, 2]
            qx, qy, qz = quads[q, 0, 0], quads[q, 0, 1], quads[q, 0, 2]
            wx, wy, wz = c * qx - s * qy + x0, s * qx + c * qy + y0, qz - origin[2]
            d = nx * wx + ny * wy + nz * wz
            if d >= -1e-4:  # looks away, or edge on
                continue
            behind = 0
            for i in range(4):
                if i > 0:
                    qx, qy, qz = quads[q, i, 0], quads[q, i, 1], quads[q, i, 2]
                    wx, wy, wz = c * qx - s * qy + x0, s * qx + c * qy + y0, qz - origin[2]
                corner[i, 0] = rotation[0, 0] * wx + rotation[0, 1] * wy + rotation[0, 2] * wz
                corner[i, 1] = rotation[1, 0] * wx + rotation[1, 1] * wy + rotation[1, 2] * wz
                corner[i, 2] = rotation[2, 0] * wx + rotation[2, 1] * wy + rotation[2, 2] * wz
                if corner[i, 2] < NEAR:
                    behind += 1
            if behind == 4:
                continue
            n = 4
            source = corner
            if behind > 0:
                n = _clip_near(corner, 4, clipped)
                source = clipped
            xlo, xhi, ylo, yhi = 1e30, -1e30, 1e30, -1e30
            for i in range(n):
                u = fx * source[i, 0] / source[i, 2] + cx
                v = fy * source[i, 1] / source[i, 2] + cy
                image[i, 0], image[i, 1] = u, v
                xlo, xhi, ylo, yhi = min(xlo, u), max(xhi, u), min(ylo, v), max(yhi, v)
            if xhi < 0 or yhi < 0 or xlo > width - 1 or ylo > height - 1:
                continue
            # 1/depth is affine in the image: iz = a u + b v + e.
            ncx = rotation[0, 0] * nx + rotation[0, 1] * ny + rotation[0, 2] * nz
            ncy = rotation[1, 0] * nx + rotation[1, 1] * ny + rotation[1, 2] * nz
            ncz = rotation[2, 0] * nx + rotation[2, 1] * ny + rotation[2, 2] * nz
            a, b = ncx / (fx * d), ncy / (fy * d)
            e = (ncz - ncx * cx / fx - ncy * cy / fy) / d
            seen = False
            for i in range(n):
                j = i + 1 if i + 1 < n else 0
                slope[i] = (image[j, 0] - image[i, 0]) / (image[j, 1] - image[i, 1])
            for y in range(max(0, math.ceil(ylo)), min(height - 1, math.floor(yhi)) + 1):
                lo, hi = 1e30, -1e30
                for i in range(n):
                    j = i + 1 if i + 1 < n else 0
                    if (image[i, 1] <= y) != (image[j, 1] <= y):
                        x = image[i, 0] + (y - image[i, 1]) * slope[i]
                        lo, hi = min(lo, x), max(hi, x)
                left, right = math.ceil(max(lo, 0.0)), math.floor(min(hi, width - 1.0))
                if right < left:
                    continue
                drawn.area[item] += right - left + 1
                z_row, p_row = zbuf[y, left : right + 1], pid[y, left : right + 1]
                base = a * left + b * y + e
                for k_x in range(len(z_row)):
                    iz = np.float32(a * k_x + base)
                    if iz > z_row[k_x]:
                        z_row[k_x] = iz
                        p_row[k_x] = used
                        seen = True
            if seen:
                drawn.quad[used] = q
                drawn.item[used] = item
                used += 1
    return used


@compiled
def _hull(points: F64, n: int, out: F64) -> int:
    """Convex hull (gift wrapping) of ``points`` (n, 2); returns its size."""
    start = 0
    for i in range(1, n):
        if points[i, 0] < points[start, 0] or (points[i, 0] == points[start, 0] and points[i, 1] < points[start, 1]):
            start = i
    m, current = 0, start
    while m < n:
        out[m, 0], out[m, 1] = points[current, 0], points[current, 1]
        m += 1
        best = (current + 1) % n
        for i in range(n):
            cross = (points[best, 0] - points[current, 0]) * (points[i, 1] - points[current, 1]) - (
                points[best, 1] - points[current, 1]
            ) * (points[i, 0] - points[current, 0])
            if cross < -1e-9:
                best = i
        current = best
        if current == start:
            break
    return m


@compiled
def draw_shadows(
    view: View, order: I64, states: F64, extent: F64, sun: tuple[float, float], strength: float, contact: float, shade: U8
) -> None:
    """Darkens ``shade`` (H, W) uint8 (0 lit .. 255 black) where items shadow the ground.

    Args:
        extent: (M, 6) x0, x1, y0, y1, z0, z1 of what casts the shadow, in the item's frame; z1 <= z0: none.
        sun: metres (x, y) that a shadow moves per metre of height.
        strength, contact: of the sun's shadow and of the soft shadow under the item, 0..255.
    """
    rotation, origin, fx, fy, cx, cy = view
    sun_x, sun_y = sun
    height, width = shade.shape
    ground = np.empty((8, 2))
    hull = np.empty((9, 2))
    camera = np.empty((9, 3))
    clipped = np.empty((12, 3))
    image = np.empty((12, 2))
    for k in range(len(order)):
        item = order[k]
        if extent[item, 5] <= extent[item, 4]:
            continue
        x0, y0, yaw = states[item, 0] - origin[0], states[item, 1] - origin[1], states[item, 2]
        c, s = math.cos(yaw), math.sin(yaw)
        for layer in range(3):
            if layer == 0:
                level, grow, low, high = strength, 0.0, extent[item, 4], extent[item, 5]
            elif layer == 1:
                level, grow, low, high = 0.55 * contact, 0.22, 0.0, 0.0
            else:
                level, grow, low, high = contact, -0.02, 0.0, 0.0
            if level < 4 or (layer > 0 and extent[item, 4] > 0.5):
                continue
            m = 0
            for z in (low, high):
                for corner in range(4):
                    lx = extent[item, 0] - grow if corner in (0, 1) else extent[item, 1] + grow
                    ly = extent[item, 2] - grow if corner in (0, 3) else extent[item, 3] + grow
                    ground[m, 0] = c * lx - s * ly + x0 + sun_x * z
                    ground[m, 1] = s * lx + c * ly + y0 + sun_y * z
                    m += 1
            n = _hull(ground, 8 if layer == 0 else 4, hull)
            ahead = 0
            for i in range(n):
                wx, wy, wz = hull[i, 0], hull[i, 1], -origin[2]
                for j in range(3):
                    camera[i, j] = rotation[j, 0] * wx + rotation[j, 1] * wy + rotation[j, 2] * wz
                if camera[i, 2] > NEAR:
                    ahead += 1
            if ahead == 0:
                continue
            n = _clip_near(camera, n, clipped)
            ylo, yhi = 1e30, -1e30
            for i in range(n):
                image[i, 0] = fx * clipped[i, 0] / clipped[i, 2] + cx
                image[i, 1] = fy * clipped[i, 1] / clipped[i, 2] + cy
                ylo, yhi = min(ylo, image[i, 1]), max(yhi, image[i, 1])
            value = np.uint8(level)
            for y in range(max(0, math.ceil(ylo)), min(height - 1, math.floor(yhi)) + 1):
                lo, hi = _row_span(image, n, float(y))
                for x in range(max(0, math.ceil(max(lo, 0.0))), min(width - 1, math.floor(min(hi, width - 1.0))) + 1):
                    if shade[y, x] < value:
                        shade[y, x] = value


@compiled
def count_items(drawn: Drawn, counts: I64) -> None:
    """Adds the number of samples that each item fills to ``counts`` (M,)."""
    height, width = drawn.depth.shape
    for y in range(height):
        for x in range(width):
            if drawn.depth[y, x] > 0.0:
                counts[drawn.item[drawn.piece[y, x]]] += 1


@compiled
def draw_glow(n: int, view: View, ss: int, scene: Scene, states: F64, drawn: Drawn, strength: float, image: U8) -> None:
    """Adds a soft halo around each visible lamp of the ``n`` drawn quads to ``image`` (H, W, 3); ``view`` counts in pixels."""
    rotation, origin, fx, fy, cx, cy = view
    quads, glow = scene.corners, scene.glow
    height, width, _ = image.shape
    for k in range(n):
        q, item = drawn.quad[k], drawn.item[k]
        peak = max(glow[q, 0], glow[q, 1], glow[q, 2])
        if peak < 0.3:
            continue
        c, s = math.cos(states[item, 2]), math.sin(states[item, 2])
        lx = 0.25 * (quads[q, 0, 0] + quads[q, 1, 0] + quads[q, 2, 0] + quads[q, 3, 0])
        ly = 0.25 * (quads[q, 0, 1] + quads[q, 1, 1] + quads[q, 2, 1] + quads[q, 3, 1])
        wx, wy = c * lx - s * ly + states[item, 0] - origin[0], s * lx + c * ly + states[item, 1] - origin[1]
        wz = 0.25 * (quads[q, 0, 2] + quads[q, 1, 2] + quads[q, 2, 2] + quads[q, 3, 2]) - origin[2]
        z = rotation[2, 0] * wx + rotation[2, 1] * wy + rotation[2, 2] * wz
        if z < 0.5:
            continue
        u = fx * (rotation[0, 0] * wx + rotation[0, 1] * wy + rotation[0, 2] * wz) / z + cx
        v = fy * (rotation[1, 0] * wx + rotation[1, 1] * wy + rotation[1, 2] * wz) / z + cy
        ix, iy = math.floor(u + 0.5), math.floor(v + 0.5)
        if ix < 0 or iy < 0 or ix >= width or iy >= height:
            continue
        # Hidden lamps have no halo.
        if drawn.depth[iy * ss, ix * ss] == 0.0 or drawn.item[drawn.piece[iy * ss, ix * ss]] != item:
            continue
        radius = min(0.12 * width, 0.004 * width + fx * (0.45 if peak < 1.5 else 0.9) / z)
        reach = math.ceil(radius)
        for y in range(max(0, iy - reach), min(height, iy + reach + 1)):
            for x in range(max(0, ix - reach), min(width, ix + reach + 1)):
                d2 = ((x - u) ** 2 + (y - v) ** 2) / (radius * radius)
                if d2 < 1.0:
                    k2 = strength * (1.0 - d2) ** 3
                    for j in range(3):
                        image[y, x, j] = np.uint8(min(255.0, image[y, x, j] + k2 * math.sqrt(glow[q, j])))
