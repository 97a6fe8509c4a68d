"""Compiled inner loops of the renderer: quads into a z-buffer, shadows onto the ground, and the final shading of pixels.

Pixel centres lie at integer coordinates. The object layer has ``ss`` x ``ss`` samples per pixel (anti-aliasing); the ground is
filtered by its mip map and needs one. All loops are single-threaded and release the GIL.
"""

from __future__ import annotations

import math

import numba
import numpy as np

NEAR = 0.25  # metres in front of the lens


@numba.njit(cache=True, nogil=True)
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


@numba.njit(cache=True, nogil=True)
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


@numba.njit(cache=True, nogil=True)
def draw_quads(rotation, origin, fx, fy, cx, cy, order, states, first, count, radius, quads, normal, zbuf, pid, active_quad, active_item):  # type: ignore[no-untyped-def]
    """Rasterises the items in ``order`` (nearest first).

    Args:
        rotation: (3, 3) world to camera. ``origin``: (3,) camera in the world.
        fx, fy, cx, cy: intrinsics in samples. ``zbuf``: (H, W) 1/depth, 0 where empty. ``pid``: (H, W) index into the active lists.
        states: (M, 3) world x, y, yaw of the items.

    Returns the number of active (drawn) quads; ``active_quad`` and ``active_item`` say which they are.
    """
    height, width = zbuf.shape
    used = 0
    corner = np.empty((4, 3))
    clipped = np.empty((8, 3))
    image = np.empty((8, 2))
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
        c, s = math.cos(yaw), math.sin(yaw)
        for q in range(first[item], first[item] + count[item]):
            nx = c * normal[q, 0] - s * normal[q, 1]
            ny = s * normal[q, 0] + c * normal[q, 1]
            nz = normal[q, 2]
            qx, qy, qz = quads[q, 0, 0], quads[q, 0, 1], quads[q, 0, 2]
            wx, wy, wz = c * qx - s * qy + x0, s * qx + c * qy + y0, qz - origin[2]
            d = nx * wx + ny * wy + nz * wz
            if d >= -1e-4:  # looks away, or edge on
                continue
            behind, ahead = 0, 0
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
            for y in range(max(0, math.ceil(ylo)), min(height - 1, math.floor(yhi)) + 1):
                lo, hi = _row_span(image, n, float(y))
                left, right = max(0, math.ceil(max(lo, 0.0))), min(width - 1, math.floor(min(hi, width - 1.0)))
                base = b * y + e
                for x in range(left, right + 1):
                    iz = np.float32(a * x + base)
                    if iz > zbuf[y, x]:
                        zbuf[y, x] = iz
                        pid[y, x] = used
                        seen = True
            if seen:
                active_quad[used] = q
                active_item[used] = item
                used += 1
    return used


@numba.njit(cache=True, nogil=True)
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
            cross = (points[best, 0] - points[current, 0]) * (points[i, 1] - points[current, 1]) - (points[best, 1] - points[current, 1]) * (
                points[i, 0] - points[current, 0]
            )
            if cross < -1e-9:
                best = i
        current = best
        if current == start:
            break
    return m


@numba.njit(cache=True, nogil=True)
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


@numba.njit(cache=True, nogil=True)
def light_quads(n, active_quad, active_item, states, normal, color, glow, sun, sun_color, ambient, bounce, item_light, headlight, ego, lit):  # type: ignore[no-untyped-def]
    """Radiance of each active quad into ``lit`` (n, 3): sun, sky, light bounced from the ground, lamps, the ego headlights, own light."""
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
        for j in range(3):
            warm = (1.0, 0.85, 0.6)[j]
            light = sun_color[j] * direct + ambient[j] * sky + bounce * max(0.0, -nz) + item_light[item] * warm * (0.55 + 0.45 * nz) + beam
            lit[k, j] = color[q, j] * light + glow[q, j]


@numba.njit(cache=True, nogil=True)
def _hash(a, b):  # type: ignore[no-untyped-def]
    """Two integers to a number in [0, 1)."""
    h = (a * 374761393 + b * 668265263) & 0x7FFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0x7FFFFFFF
    return (h & 0xFFFF) / 65536.0


@numba.njit(cache=True, nogil=True)
def shade_pixels(  # type: ignore[no-untyped-def]
    rays, origin, ss, zbuf, pid, shade, lit, active_quad, active_item, kind, states, normal, ground, levels, texel, extent, ground_light, sun_share,
    headlight, ego, sky_low, sky_top, clouds, cloud_map, fog, grain, lit_windows, tone, out,
):  # fmt: skip
    """Final colour of every pixel, (H, W, 3) uint8.

    Args:
        rays: (3, 3) world direction of pixel (u, v): rays @ (u, v, 1).
        zbuf, pid: (ss H, ss W) object layer. ``shade``: (H, W) shadow on the ground. ``lit``: radiance of the active quads.
        ground, levels: mip chain (square-root coded). ``ground_light``: (3,) light on the ground, of which the share
            ``sun_share`` is taken away by a full shadow.
        fog: 1/metres; contrast falls to a half at 1/fog. ``tone``: table from square-root radiance to grey level.
    """
    height, width = shade.shape
    samples = ss * ss
    tone_n = len(tone) - 1
    scale = tone_n / 2.0
    fog2 = fog * fog
    side0 = levels[0, 1]
    ec, es = math.cos(ego[2]), math.sin(ego[2])
    dux = math.sqrt(rays[0, 0] ** 2 + rays[1, 0] ** 2 + rays[2, 0] ** 2)
    gn = len(grain)
    cn = len(cloud_map)
    for y in range(height):
        for x in range(width):
            r, g, b = 0.0, 0.0, 0.0
            empty = 0
            last = -1
            lr, lg, lb = 0.0, 0.0, 0.0
            dx = rays[0, 0] * x + rays[0, 1] * y + rays[0, 2]
            dy = rays[1, 0] * x + rays[1, 1] * y + rays[1, 2]
            dz = rays[2, 0] * x + rays[2, 1] * y + rays[2, 2]
            for j in range(ss):
                for i in range(ss):
                    iz = zbuf[y * ss + j, x * ss + i]
                    if iz == 0.0:
                        empty += 1
                        continue
                    p = pid[y * ss + j, x * ss + i]
                    if p != last:
                        last = p
                        lr, lg, lb = lit[p, 0], lit[p, 1], lit[p, 2]
                        q = active_quad[p]
                        if kind[q] == 1:
                            # Windows: 3.1 m storeys, 2.4 m bays.
                            item = active_item[p]
                            wx, wy, wz = dx / iz + origin[0] - states[item, 0], dy / iz + origin[1] - states[item, 1], dz / iz + origin[2]
                            c, s = math.cos(states[item, 2]), math.sin(states[item, 2])
                            lx, ly = c * wx + s * wy, -s * wx + c * wy
                            along = (ly if abs(normal[q, 0]) > 0.5 else lx) / 2.4 + 100.0
                            up = wz / 3.1
                            ku, kv = math.floor(along), math.floor(up)
                            fu, fv = along - ku, up - kv
                            foot = dux / iz
                            weight = 0.3
                            shop = kv == 0
                            if foot < 1.2:
                                lo_u, hi_u = (0.08, 0.92) if shop else (0.25, 0.75)
                                lo_v, hi_v = (0.1, 0.72) if shop else (0.3, 0.8)
                                e = max(0.02, foot / 2.4)
                                inside_u = min(1.0, max(0.0, min(fu - lo_u, hi_u - fu) / e + 0.5))
                                inside_v = min(1.0, max(0.0, min(fv - lo_v, hi_v - fv) / e + 0.5))
                                weight = inside_u * inside_v
                                if foot > 0.8:
                                    weight += (0.3 - weight) * (foot - 0.8) / 0.4
                            h = _hash(ku + 31 * item, kv + 17)
                            wr, wg, wb = 0.25 * sky_top[0] + 0.02, 0.25 * sky_top[1] + 0.02, 0.25 * sky_top[2] + 0.02
                            if h < lit_windows:
                                k = 0.35 + 0.65 * _hash(ku, kv + item)
                                wr, wg, wb = 0.75 * k, 0.55 * k, 0.28 * k
                            weight *= 0.9
                            lr += weight * (wr - lr)
                            lg += weight * (wg - lg)
                            lb += weight * (wb - lb)
                        elif kind[q] == 2:
                            wx, wy, wz = dx / iz + origin[0], dy / iz + origin[1], dz / iz + origin[2]
                            h = _hash(math.floor(wx * 4.0) + 7 * math.floor(wy * 4.0), math.floor(wz * 4.0)) - 0.5
                            fade = 1.0 / (1.0 + (dux / iz * 6.0) ** 2)
                            k = 1.0 + 0.7 * h * fade
                            lr, lg, lb = lr * k, lg * k, lb * k
                        keep = iz * iz / (iz * iz + fog2)
                        lr = sky_low[0] + keep * (lr - sky_low[0])
                        lg = sky_low[1] + keep * (lg - sky_low[1])
                        lb = sky_low[2] + keep * (lb - sky_low[2])
                    r += lr
                    g += lg
                    b += lb
            if empty > 0:
                br, bg, bb = 0.0, 0.0, 0.0
                if dz < -1e-4:
                    t = -origin[2] / dz
                    gx, gy = origin[0] + t * dx, origin[1] + t * dy
                    norm = math.sqrt(dx * dx + dy * dy + dz * dz)
                    lateral = t * dux
                    depth = lateral * norm / -dz
                    foot = max(lateral, 0.4 * depth) / texel
                    level = 0
                    while foot > 1.4 and level < len(levels) - 1:
                        foot *= 0.5
                        level += 1
                    offset, side = levels[level, 0], levels[level, 1]
                    inv = side / extent
                    mx, my = (gx + 0.5 * extent) * inv - 0.5, (gy + 0.5 * extent) * inv - 0.5
                    ix, iy = math.floor(mx), math.floor(my)
                    fx, fy = mx - ix, my - iy
                    ix0, iy0 = ix % side, iy % side
                    ix1, iy1 = (ix0 + 1) % side, (iy0 + 1) % side
                    a00, a01, a10, a11 = offset + iy0 * side + ix0, offset + iy0 * side + ix1, offset + iy1 * side + ix0, offset + iy1 * side + ix1
                    w00, w01, w10, w11 = (1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy
                    tr = (w00 * ground[a00, 0] + w01 * ground[a01, 0] + w10 * ground[a10, 0] + w11 * ground[a11, 0]) / 255.0
                    tg = (w00 * ground[a00, 1] + w01 * ground[a01, 1] + w10 * ground[a10, 1] + w11 * ground[a11, 1]) / 255.0
                    tb = (w00 * ground[a00, 2] + w01 * ground[a01, 2] + w10 * ground[a10, 2] + w11 * ground[a11, 2]) / 255.0
                    k = 1.0 - sun_share * shade[y, x] / 255.0
                    if lateral < 0.03:
                        k *= 1.0 + 0.16 * grain[int(gx * 50.0) % gn, int(gy * 50.0) % gn] * (1.0 - lateral / 0.03)
                    beam = 0.0
                    if headlight > 0.0:
                        hx, hy = gx - ego[0], gy - ego[1]
                        ahead, aside = hx * ec + hy * es, -hx * es + hy * ec
                        if ahead > 3.5:
                            spread = aside / (1.6 + 0.42 * ahead)
                            beam = headlight * max(0.0, 1.0 - spread * spread) / (1.0 + (ahead / 13.0) ** 2) * min(1.0, (ahead - 3.5) * 0.4)
                    br = tr * tr * (ground_light[0] * k + beam)
                    bg = tg * tg * (ground_light[1] * k + 0.95 * beam)
                    bb = tb * tb * (ground_light[2] * k + 0.85 * beam)
                    keep = 1.0 / (1.0 + t * t * fog2)
                    br = sky_low[0] + keep * (br - sky_low[0])
                    bg = sky_low[1] + keep * (bg - sky_low[1])
                    bb = sky_low[2] + keep * (bb - sky_low[2])
                else:
                    e = dz / math.sqrt(dx * dx + dy * dy + dz * dz)
                    w = math.sqrt(min(1.0, 1.4 * e)) if e > 0.0 else 0.0
                    br = sky_low[0] + w * (sky_top[0] - sky_low[0])
                    bg = sky_low[1] + w * (sky_top[1] - sky_low[1])
                    bb = sky_low[2] + w * (sky_top[2] - sky_low[2])
                    if clouds > 0.0 and e > 0.02:
                        k = 22.0 / (dz + 0.04 * math.sqrt(dx * dx + dy * dy))
                        h = cloud_map[int(dx * k) % cn, int(dy * k) % cn]
                        w = min(1.0, max(0.0, (h - 1.0 + clouds * 1.3) * 1.6)) * min(1.0, (e - 0.02) * 8.0) * 0.8
                        grey = 0.5 * (sky_low[0] + sky_low[2]) * (0.75 + 0.35 * h)
                        br += w * (grey - br)
                        bg += w * (grey - bg)
                        bb += w * (grey - bb)
                r += empty * br
                g += empty * bg
                b += empty * bb
            inv_n = 1.0 / samples
            out[y, x, 0] = tone[min(tone_n, int(math.sqrt(max(0.0, r * inv_n)) * scale))]
            out[y, x, 1] = tone[min(tone_n, int(math.sqrt(max(0.0, g * inv_n)) * scale))]
            out[y, x, 2] = tone[min(tone_n, int(math.sqrt(max(0.0, b * inv_n)) * scale))]


@numba.njit(cache=True, nogil=True)
def count_items(pid, zbuf, active_item, counts):  # type: ignore[no-untyped-def]
    """Adds the number of samples that each item fills to ``counts``."""
    height, width = zbuf.shape
    for y in range(height):
        for x in range(width):
            if zbuf[y, x] > 0.0:
                counts[active_item[pid[y, x]]] += 1


@numba.njit(cache=True, nogil=True)
def add_noise(image, tile, row, column, gain):  # type: ignore[no-untyped-def]
    """Adds ``gain`` (per 256) times a periodic noise ``tile`` (N, N, 3) int16, shifted by (row, column), in place."""
    height, width, _ = image.shape
    n = len(tile)
    for y in range(height):
        ty = (y + row) % n
        for x in range(width):
            tx = (x + column) % n
            for c in range(3):
                v = np.int32(image[y, x, c]) + ((np.int32(tile[ty, tx, c]) * gain) >> 8)
                image[y, x, c] = np.uint8(min(255, max(0, v)))
