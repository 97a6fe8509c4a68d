"""Compiled inner loops of the renderer: quads into a z-buffer, shadows onto the ground, and the final shading of pixels.

Pixel centres lie at integer coordinates. The object layer has ``ss`` x ``ss`` samples per pixel (anti-aliasing); the ground is
filtered by its mip map and needs one. All loops are single-threaded and release the GIL.
"""

from __future__ import annotations

import math

import numba
import numpy as np

# Division by zero gives infinity as in numpy (no branch per division); sums may be reordered, NaN and infinity stay.
_compiled = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "arcp", "nsz"})

NEAR = 0.25  # metres in front of the lens


@_compiled
def _clip_near(src, n, dst):  # type: ignore[no-untyped-def]
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


@_compiled
def _row_span(poly, n, y):  # type: ignore[no-untyped-def]
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


@_compiled
def draw_quads(
    rotation,
    origin,
    fx,
    fy,
    cx,
    cy,
    order,
    states,
    first,
    count,
    radius,
    quads,
    normal,
    reach,
    tiny,
    zbuf,
    pid,
    active_quad,
    active_item,
):  # type: ignore[no-untyped-def]
    """Rasterises the items in ``order`` (nearest first).

    Args:
        rotation: (3, 3) world to camera. ``origin``: (3,) camera in the world.
        fx, fy, cx, cy: intrinsics in samples. ``zbuf``: (H, W) 1/depth, 0 where empty. ``pid``: (H, W) index into the active lists.
        states: (M, 3) world x, y, yaw of the items. ``reach``: (P,) radius of each quad; quads that would be smaller than
            ``tiny`` samples in radius are left out.

    Returns the number of active (drawn) quads; ``active_quad`` and ``active_item`` say which they are.
    """
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
                z_row, p_row = zbuf[y, left : right + 1], pid[y, left : right + 1]
                base = a * left + b * y + e
                for k_x in range(len(z_row)):
                    iz = np.float32(a * k_x + base)
                    if iz > z_row[k_x]:
                        z_row[k_x] = iz
                        p_row[k_x] = used
                        seen = True
            if seen:
                active_quad[used] = q
                active_item[used] = item
                used += 1
    return used


@_compiled
def _hull(points, n, out):  # type: ignore[no-untyped-def]
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


@_compiled
def draw_shadows(rotation, origin, fx, fy, cx, cy, order, states, extent, sun_x, sun_y, strength, contact, shade):  # type: ignore[no-untyped-def]
    """Darkens ``shade`` (H, W) uint8 (0 lit .. 255 black) where items shadow the ground.

    Args:
        extent: (M, 6) x0, x1, y0, y1, z0, z1 of what casts the shadow, in the item's frame; z1 <= z0: none.
        sun_x, sun_y: metres that a shadow moves per metre of height. ``strength``: of the sun's shadow; ``contact``: of the soft
            shadow under the item, both 0..255.
    """
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


@_compiled
def light_quads(
    n,
    active_quad,
    active_item,
    states,
    normal,
    color,
    glow,
    kind,
    origin,
    sun,
    sun_color,
    ambient,
    bounce,
    item_light,
    headlight,
    ego,
    lit,
    bay,
):  # type: ignore[no-untyped-def]
    """Square root of the radiance of each active quad into ``lit`` (n, 3): sun, sky, ground, lamps, ego headlights, own light.

    ``bay`` (n, 3) gets what the shader needs to place windows: position along the wall in bays = (bay[0] dx + bay[1] dy) depth + bay[2].
    """
    ec, es = math.cos(ego[2]), math.sin(ego[2])
    for k in range(n):
        q, item = active_quad[k], active_item[k]
        c, s = math.cos(states[item, 2]), math.sin(states[item, 2])
        nx, ny, nz = c * normal[q, 0] - s * normal[q, 1], s * normal[q, 0] + c * normal[q, 1], normal[q, 2]
        direct = max(0.0, nx * sun[0] + ny * sun[1] + nz * sun[2])
        sky = 0.62 + 0.38 * nz
        beam = 0.0
        if headlight > 0.0:
            dx, dy = states[item, 0] - ego[0], states[item, 1] - ego[1]
            ahead, aside = dx * ec + dy * es, -dx * es + dy * ec
            if ahead > 2.0:
                spread = aside / (2.5 + 0.5 * ahead)
                facing = max(0.0, -(nx * dx + ny * dy) / (math.sqrt(dx * dx + dy * dy) + 1e-6))
                beam = headlight * max(0.0, 1.0 - spread * spread) / (1.0 + (ahead / 16.0) ** 2) * (0.15 + facing)
        lamp = item_light[item] * (0.55 + 0.45 * nz)
        back = bounce * (0.5 - 0.5 * nz)
        for j in range(3):
            warm = 1.0 if j == 0 else (0.85 if j == 1 else 0.6)
            light = sun_color[j] * direct + ambient[j] * sky + back + lamp * warm + beam
            lit[k, j] = math.sqrt(color[q, j] * light + glow[q, j])
        if kind[q] == 1:
            ax, ay = (-s, c) if abs(normal[q, 0]) > 0.5 else (c, s)
            bay[k, 0], bay[k, 1] = ax / 2.4, ay / 2.4
            bay[k, 2] = (ax * (origin[0] - states[item, 0]) + ay * (origin[1] - states[item, 1])) / 2.4 + 100.0


@_compiled
def _hash(a, b):  # type: ignore[no-untyped-def]
    """Two integers to a number in [0, 1)."""
    h = (a * 374761393 + b * 668265263) & 0x7FFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0x7FFFFFFF
    return (h & 0xFFFF) / 65536.0


@_compiled
def _beam(headlight, ego, ec, es, gx, gy):  # type: ignore[no-untyped-def]
    """Light of the ego headlights on the ground at (gx, gy)."""
    hx, hy = gx - ego[0], gy - ego[1]
    ahead, aside = hx * ec + hy * es, -hx * es + hy * ec
    if ahead <= 3.5:
        return 0.0
    spread = aside / (1.6 + 0.42 * ahead)
    return headlight * max(0.0, 1.0 - spread * spread) / (1.0 + (ahead / 13.0) ** 2) * min(1.0, (ahead - 3.5) * 0.4)


@_compiled
def _background_row(  # type: ignore[no-untyped-def]
    y, x0, x1, rays, origin, shade, ground, levels, texel, extent, ground_light, dimming, headlight, lamps, ego, sky_low, sky_top, clouds,
    cloud_map, fog2, grain, row,
):  # fmt: skip
    """Ground or sky at the pixels x0 .. x1 - 1 of row y into ``row`` (W, 3). Between the ends, ground coordinates are linear."""
    middle = 0.5 * (x0 + x1 - 1)
    dz = rays[2, 0] * middle + rays[2, 1] * y + rays[2, 2]
    dx0 = rays[0, 0] * x0 + rays[0, 1] * y + rays[0, 2]
    dy0 = rays[1, 0] * x0 + rays[1, 1] * y + rays[1, 2]
    sl0, sl1, sl2 = sky_low[0], sky_low[1], sky_low[2]
    if dz >= -1e-4:
        w = math.sqrt(min(1.0, 1.3 * dz)) if dz > 0.0 else 0.0
        r, g, b = sl0 + w * (sky_top[0] - sl0), sl1 + w * (sky_top[1] - sl1), sl2 + w * (sky_top[2] - sl2)
        k = 22.0 / (max(dz, 0.0) + 0.045)
        amount = min(1.0, max(0.0, (dz - 0.02) * 8.0)) * 0.8
        if clouds <= 0.0 or amount <= 0.0:
            for x in range(x0, x1):
                row[x, 0], row[x, 1], row[x, 2] = r, g, b
            return
        dim = clouds * 1.3 - 1.0
        grey = 0.5 * (sl0 + sl2)
        u, v, du, dv = (
            np.int64(dx0 * k * 65536.0),
            np.int64(dy0 * k * 65536.0),
            np.int64(rays[0, 0] * k * 65536.0),
            np.int64(rays[1, 0] * k * 65536.0),
        )
        for x in range(x0, x1):
            h = cloud_map[(u >> 16) & 255, (v >> 16) & 255]
            u += du
            v += dv
            w = min(1.0, max(0.0, (h + dim) * 1.6)) * amount
            shadow = grey * (0.86 + 0.17 * h)
            row[x, 0], row[x, 1], row[x, 2] = r + w * (shadow - r), g + w * (shadow - g), b + w * (shadow - b)
        return
    pixel = math.sqrt(rays[0, 0] ** 2 + rays[1, 0] ** 2 + rays[2, 0] ** 2)
    t = -origin[2] / dz
    lateral = t * pixel
    # The footprint is longer along the line of sight; a compromise between blur and flicker.
    foot = max(lateral, 0.4 * lateral * t / origin[2]) / texel
    level = 0
    while foot > 1.4 and level < len(levels) - 1:
        foot *= 0.5
        level += 1
    offset, side = levels[level, 0], levels[level, 1]
    inv = side / extent
    last = side - 2
    keep = np.float32(1.0 / (1.0 + t * t * fog2))
    f0, f1, f2 = np.float32(sl0 * (1.0 - keep)), np.float32(sl1 * (1.0 - keep)), np.float32(sl2 * (1.0 - keep))
    g0 = np.float32(math.sqrt(ground_light[0]) / 65280.0) * keep
    g1 = np.float32(math.sqrt(ground_light[1]) / 65280.0) * keep
    g2 = np.float32(math.sqrt(ground_light[2]) / 65280.0) * keep
    # World coordinates of the first pixel and the step, exact at both ends.
    t0 = -origin[2] / (rays[2, 0] * x0 + rays[2, 1] * y + rays[2, 2])
    gx, gy = origin[0] + t0 * dx0, origin[1] + t0 * dy0
    sx, sy = t0 * rays[0, 0], t0 * rays[1, 0]
    if x1 - x0 > 1 and rays[2, 0] != 0.0:
        xe = x1 - 1
        t1 = -origin[2] / (rays[2, 0] * xe + rays[2, 1] * y + rays[2, 2])
        sx = (origin[0] + t1 * (rays[0, 0] * xe + rays[0, 1] * y + rays[0, 2]) - gx) / (xe - x0)
        sy = (origin[1] + t1 * (rays[1, 0] * xe + rays[1, 1] * y + rays[1, 2]) - gy) / (xe - x0)
    u, v = np.int64(((gx + 0.5 * extent) * inv - 0.5) * 65536.0), np.int64(((gy + 0.5 * extent) * inv - 0.5) * 65536.0)
    du, dv = np.int64(sx * inv * 65536.0), np.int64(sy * inv * 65536.0)
    for x in range(x0, x1):
        ix, iy = min(max(u >> 16, 0), last), min(max(v >> 16, 0), last)
        fx, fy = (u >> 8) & 255, (v >> 8) & 255
        u += du
        v += dv
        at = np.uint64(offset + iy * side + ix)
        below = at + np.uint64(side)
        c00, c01 = np.int64(ground[at]), np.int64(ground[at + np.uint64(1)])
        c10, c11 = np.int64(ground[below]), np.int64(ground[below + np.uint64(1)])
        # Two channels in one multiplication: red and blue are 16 bits apart.
        w11 = (fx * fy) >> 8
        w01, w10 = fx - w11, fy - w11
        w00 = 256 - w01 - w10 - w11
        rb = (c00 & 0xFF00FF) * w00 + (c01 & 0xFF00FF) * w01 + (c10 & 0xFF00FF) * w10 + (c11 & 0xFF00FF) * w11
        gg = ((c00 >> 8) & 0xFF) * w00 + ((c01 >> 8) & 0xFF) * w01 + ((c10 >> 8) & 0xFF) * w10 + ((c11 >> 8) & 0xFF) * w11
        k = dimming[shade[y, x]]
        row[x, 0] = np.float32(rb & 0xFFFF) * g0 * k + f0
        row[x, 1] = np.float32(gg) * g1 * k + f1
        row[x, 2] = np.float32(rb >> 16) * g2 * k + f2
    if lateral < 0.03:  # close enough to see the grain of the surface
        strength = 0.08 * (1.0 - lateral / 0.03)
        for x in range(x0, x1):
            px, py = gx + (x - x0) * sx, gy + (x - x0) * sy
            k = np.float32(1.0 + strength * grain[int(px * 50.0) & 511, int(py * 50.0) & 511])
            row[x, 0] *= k
            row[x, 1] *= k
            row[x, 2] *= k
    if headlight > 0.0:
        ec, es = math.cos(ego[2]), math.sin(ego[2])
        cells = len(lamps)
        for x in range(x0, x1):
            px, py = gx + (x - x0) * sx, gy + (x - x0) * sy
            beam = _beam(headlight, ego, ec, es, px, py)
            cx, cy = (px / extent + 0.5) * cells - 0.5, (py / extent + 0.5) * cells - 0.5
            ix, iy = min(max(int(cx), 0), cells - 2), min(max(int(cy), 0), cells - 2)
            wx, wy = min(max(cx - ix, 0.0), 1.0), min(max(cy - iy, 0.0), 1.0)
            lamp = (1 - wy) * ((1 - wx) * lamps[iy, ix] + wx * lamps[iy, ix + 1]) + wy * (
                (1 - wx) * lamps[iy + 1, ix] + wx * lamps[iy + 1, ix + 1]
            )
            if beam + lamp > 0.003:
                row[x, 0] = (row[x, 0] - f0) * np.float32(math.sqrt(1.0 + (beam + lamp) / ground_light[0])) + f0
                row[x, 1] = (row[x, 1] - f1) * np.float32(math.sqrt(1.0 + (0.97 * beam + 0.85 * lamp) / ground_light[1])) + f1
                row[x, 2] = (row[x, 2] - f2) * np.float32(math.sqrt(1.0 + (0.9 * beam + 0.6 * lamp) / ground_light[2])) + f2


@_compiled
def shade_pixels(  # type: ignore[no-untyped-def]
    rays, origin, ss, zbuf, pid, shade, lit, bay, active_quad, active_item, kind, ground, levels, texel, extent, ground_light, dimming,
    headlight, lamps, ego, sky_low, sky_top, glass, clouds, cloud_map, fog, grain, lit_windows, tone, out,
):  # fmt: skip
    """Final colour of every pixel, (H, W, 3) uint8. Works on square roots of radiance, as the ground map is coded.

    Args:
        rays: (3, 3) world direction of pixel (u, v): rays @ (u, v, 1); its length along the optical axis is 1.
        zbuf, pid: (ss H, ss W) object layer. ``shade``: (H, W) shadow on the ground. ``lit``: colours of the active quads.
        ground, levels: mip chain, one uint32 (red, green, blue from the low byte) per texel. ``ground_light``: (3,) light on the
            ground. ``dimming``: (256,) root of the share of light that a shadow value leaves.
        lamps: (C, C) light of the street lamps on the ground, over the same square as the ground map.
        fog: 1/metres; contrast falls to a half at 1/fog. ``tone``: table from square-root radiance 0..2 to grey level.
    """
    height, width = shade.shape
    tone_n = np.int64(len(tone) - 1)
    scale = np.float32(tone_n / 2.0 / (ss * ss))
    fog2 = fog * fog
    pixel = math.sqrt(rays[0, 0] ** 2 + rays[1, 0] ** 2 + rays[2, 0] ** 2)
    # Without roll the distance to the ground is the same all along a row; else rows are cut into short spans.
    span = width if abs(rays[2, 0]) < 1e-9 else 8
    sl0, sl1, sl2 = np.float32(sky_low[0]), np.float32(sky_low[1]), np.float32(sky_low[2])
    zero, half, one = np.float32(0.0), np.float32(0.5), np.float32(1.0)
    high, storey = np.float32(origin[2]), np.float32(1.0 / 3.1)
    far_wall, sharpness = np.float32(pixel / 1.0), np.float32(2.4 / pixel)
    row = np.zeros((width, 3), np.float32)
    empty = np.zeros(width, np.uint8)
    for y in range(height):
        for x in range(width):
            n = 0
            for j in range(ss):
                for i in range(ss):
                    n += zbuf[y * ss + j, x * ss + i] == 0.0
            empty[x] = n
        x = 0
        while x < width:
            if empty[x] == 0:
                x += 1
                continue
            end = x + 1
            while end < width and empty[end] > 0 and end - x < span:
                end += 1
            if span < width:
                base = rays[2, 1] * y + rays[2, 2]
                if (rays[2, 0] * x + base < -1e-4) != (rays[2, 0] * (end - 1) + base < -1e-4):
                    end = x + 1
            _background_row(
                y, x, end, rays, origin, shade, ground, levels, texel, extent, ground_light, dimming, headlight, lamps, ego, sky_low, sky_top,
                clouds, cloud_map, fog2, grain, row,
            )  # fmt: skip
            x = end
        last = -1
        pr, pg, pb = np.float32(0), np.float32(0), np.float32(0)
        look = 0
        bay_u, bay_v, bay_item = np.int64(-1), np.int64(-1), np.int64(-1)
        wr, wg, wb = np.float32(0), np.float32(0), np.float32(0)
        for x in range(width):
            e = np.float32(empty[x])
            r, g, b = row[x, 0] * e, row[x, 1] * e, row[x, 2] * e
            if empty[x] < ss * ss:
                dx = np.float32(rays[0, 0] * x + (rays[0, 1] * y + rays[0, 2]))
                dy = np.float32(rays[1, 0] * x + (rays[1, 1] * y + rays[1, 2]))
                dz = np.float32(rays[2, 0] * x + (rays[2, 1] * y + rays[2, 2]))
                textured = -1  # facades and foliage are shaded once per pixel
                for j in range(ss):
                    for i in range(ss):
                        iz = zbuf[y * ss + j, x * ss + i]
                        if iz == 0.0:
                            continue
                        p = pid[y * ss + j, x * ss + i]
                        if p != last or (look != 0 and textured != x):
                            if p != last:
                                look = kind[active_quad[p]]
                                last = p
                            if look == 1:
                                # Windows: 3.1 m storeys, 2.4 m bays, shops on the ground floor; blurred by the pixel's footprint.
                                textured = x
                                z = np.float32(1.0) / iz
                                along = (bay[p, 0] * dx + bay[p, 1] * dy) * z + bay[p, 2]
                                up = (dz * z + high) * storey
                                ku, kv = np.int64(along), np.int64(up)
                                pr, pg, pb = lit[p, 0], lit[p, 1], lit[p, 2]
                                weight = np.float32(0.28)
                                if iz > far_wall:
                                    sharp = min(np.float32(50.0), iz * sharpness)
                                    half_u, half_v, middle = np.float32(0.25), np.float32(0.25), np.float32(0.55)
                                    if kv == 0:
                                        half_u, half_v, middle = np.float32(0.42), np.float32(0.31), np.float32(0.41)
                                    fu = min(one, max(zero, (half_u - abs(along - ku - half)) * sharp + half))
                                    fv = min(one, max(zero, (half_v - abs(up - kv - middle)) * sharp + half))
                                    weight = fu * fv
                                if weight > zero:
                                    item = active_item[p]
                                    if ku != bay_u or kv != bay_v or item != bay_item:
                                        bay_u, bay_v, bay_item = ku, kv, item
                                        h = _hash(ku + 31 * item, kv + 17)
                                        k = np.float32(0.75 + 0.5 * h)
                                        wr, wg, wb = (
                                            np.float32(glass[0]) * k,
                                            np.float32(glass[1]) * k,
                                            np.float32(glass[2]) * k,
                                        )
                                        if h < lit_windows:
                                            k = np.float32(0.5 + 0.5 * _hash(ku, kv + item))
                                            wr, wg, wb = np.float32(0.75) * k, np.float32(0.63) * k, np.float32(0.44) * k
                                    weight *= np.float32(0.92)
                                    pr, pg, pb = pr + weight * (wr - pr), pg + weight * (wg - pg), pb + weight * (wb - pb)
                            else:
                                pr, pg, pb = lit[p, 0], lit[p, 1], lit[p, 2]
                                if look == 2:
                                    z = 1.0 / iz
                                    wx, wy, wz = dx * z + origin[0], dy * z + origin[1], dz * z + origin[2]
                                    h = _hash(math.floor(wx * 5.0) + 7 * math.floor(wy * 5.0), math.floor(wz * 5.0)) - 0.5
                                    k = np.float32(1.0 + 0.45 * h / (1.0 + (pixel * z * 5.0) ** 2))
                                    pr, pg, pb = pr * k, pg * k, pb * k
                                    textured = x
                            iz2 = iz * iz
                            keep = iz2 / (iz2 + np.float32(fog2))
                            pr, pg, pb = sl0 + keep * (pr - sl0), sl1 + keep * (pg - sl1), sl2 + keep * (pb - sl2)
                        r += pr
                        g += pg
                        b += pb
            out[y, x, 0] = tone[min(tone_n, np.int64(r * scale))]
            out[y, x, 1] = tone[min(tone_n, np.int64(g * scale))]
            out[y, x, 2] = tone[min(tone_n, np.int64(b * scale))]


@_compiled
def count_items(pid, zbuf, active_item, counts):  # type: ignore[no-untyped-def]
    """Adds the number of samples that each item fills to ``counts``."""
    height, width = zbuf.shape
    for y in range(height):
        for x in range(width):
            if zbuf[y, x] > 0.0:
                counts[active_item[pid[y, x]]] += 1


@_compiled
def draw_glow(
    n, rotation, origin, fx, fy, cx, cy, ss, active_quad, active_item, states, quads, glow, pid, zbuf, strength, image
):  # type: ignore[no-untyped-def]
    """Adds a soft halo around each visible lamp to ``image`` (H, W, 3) uint8; (fx .. cy) are the intrinsics in pixels."""
    height, width, _ = image.shape
    for k in range(n):
        q, item = active_quad[k], active_item[k]
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
        if zbuf[iy * ss, ix * ss] == 0.0 or active_item[pid[iy * ss, ix * ss]] != item:
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
