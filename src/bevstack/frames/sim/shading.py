"""Compiled inner loops that colour pixels: light on quads, then ground, sky, walls with windows, foliage, fog and tone.

Colours are square roots of radiance, as the ground map is coded, until the tone table turns them into grey levels.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .raster import F32, F64, I64, U8, Drawn, Scene, View, compiled
from .shapes import FACADE, FOLIAGE, GLASS, GLOSS

BAY, STOREY = 2.4, 3.1  # metres between windows, and between floors


class Ground(NamedTuple):
    """The painted ground: ``texels`` one uint32 each (red, green, blue from the low byte), ``levels`` (L, 2) offset and side of

    each mip level, ``texel`` and ``extent`` in metres, ``lamps`` (C, C) light of the street lamps over the same square,
    ``grain`` (512, 512) fine surface texture.
    """

    texels: NDArray[np.uint32]
    levels: I64
    texel: float
    extent: float
    lamps: F32
    grain: F32


class Sky(NamedTuple):
    """``low`` and ``top`` (3,) roots of the colours at the horizon and overhead; ``clouds`` 0..1 with ``cloud_map`` (256, 256).

    ``fog``: 1/metres; an object's contrast falls to a half at 1/fog.
    """

    low: F64
    top: F64
    clouds: float
    cloud_map: F32
    fog: float


class Light(NamedTuple):
    """``sun`` (3,) direction to it; (3,) light ``sun_color`` of the sun, ``ambient`` of the sky, ``ground`` on open ground.

    ``bounce``: light from the ground. ``headlight``: of the ego vehicle. ``dimming``: (256,) root of the share of light that a
    shadow value leaves. ``glass`` (3,) root of the colour of dark windows; ``windows``: share of lit ones.
    """

    sun: F64
    sun_color: F64
    ambient: F64
    ground: F64
    bounce: float
    headlight: float
    dimming: F32
    glass: F64
    windows: float


@compiled
def light_quads(n: int, view: View, scene: Scene, states: F64, item_light: F64, light: Light, ego: F64, drawn: Drawn) -> None:
    """Root of the radiance of the ``n`` drawn quads into ``drawn.lit``: sun, sky, ground, lamps, ego headlights, own light.

    ``drawn.bay`` gets what places windows: position along the wall in bays = (bay[0] dx + bay[1] dy) depth + bay[2].

    Args:
        item_light: (M,) light of the street lamps at each item. ``ego``: (3,) world x, y, yaw of the ego vehicle.
    """
    normal, color, glow = scene.normal, scene.color, scene.glow
    sun, headlight = light.sun, light.headlight
    ec, es = math.cos(ego[2]), math.sin(ego[2])
    for k in range(n):
        q, item = drawn.quad[k], drawn.item[k]
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
        back = light.bounce * (0.5 - 0.5 * nz)
        for j in range(3):
            warm = 1.0 if j == 0 else (0.85 if j == 1 else 0.6)
            total = light.sun_color[j] * direct + light.ambient[j] * sky + back + lamp * warm + beam
            drawn.lit[k, j] = math.sqrt(color[q, j] * total + glow[q, j])
        if scene.kind[q] == GLOSS or scene.kind[q] == GLASS:
            _reflect(k, q, nx, ny, nz, c, s, view, scene, states[item], light, drawn)
        if scene.kind[q] == FACADE:
            ax, ay = (-s, c) if abs(normal[q, 0]) > 0.5 else (c, s)
            drawn.bay[k, 0], drawn.bay[k, 1] = ax / BAY, ay / BAY
            offset = ax * (view.origin[0] - states[item, 0]) + ay * (view.origin[1] - states[item, 1])
            drawn.bay[k, 2] = offset / BAY + 100.0


@compiled
def _reflect(
    k: int,
    q: int,
    nx: float,
    ny: float,
    nz: float,
    c: float,
    s: float,
    view: View,
    scene: Scene,
    state: F64,
    light: Light,
    drawn: Drawn,
) -> None:
    """Adds what a clear coat mirrors to the drawn quad k: sky, dark surroundings near the horizon, ground, the sun's glint.

    The share is Schlick's approximation of Fresnel's (4 % head on, more at grazing angles).
    """
    corners = scene.corners[q]
    lx = 0.25 * (corners[0, 0] + corners[1, 0] + corners[2, 0] + corners[3, 0])
    ly = 0.25 * (corners[0, 1] + corners[1, 1] + corners[2, 1] + corners[3, 1])
    vx, vy = c * lx - s * ly + state[0] - view.origin[0], s * lx + c * ly + state[1] - view.origin[1]
    vz = 0.25 * (corners[0, 2] + corners[1, 2] + corners[2, 2] + corners[3, 2]) - view.origin[2]
    inverse = 1.0 / math.sqrt(vx * vx + vy * vy + vz * vz)
    vx, vy, vz = vx * inverse, vy * inverse, vz * inverse
    facing = max(0.0, -(nx * vx + ny * vy + nz * vz))
    share = 0.04 + 0.96 * (1.0 - facing) ** 5
    if scene.kind[q] == GLASS:
        share = min(1.0, 1.8 * share)  # two faces of the pane
    rx, ry, rz = vx + 2.0 * facing * nx, vy + 2.0 * facing * ny, vz + 2.0 * facing * nz
    seen = min(1.0, max(0.0, 4.0 * rz))  # houses and trees hide the sky near the horizon
    glint = max(0.0, rx * light.sun[0] + ry * light.sun[1] + rz * light.sun[2]) ** 60
    for j in range(3):
        around = seen * 1.3 * light.ambient[j] + (1.0 - seen) * 0.16 * light.ground[j] + 6.0 * glint * light.sun_color[j]
        drawn.lit[k, j] = math.sqrt(drawn.lit[k, j] ** 2 * (1.0 - share) + share * around)


@compiled
def _hash(a: int, b: int) -> float:
    """Two integers to a number in [0, 1)."""
    h = (a * 374761393 + b * 668265263) & 0x7FFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0x7FFFFFFF
    return (h & 0xFFFF) / 65536.0


@compiled
def _beam(headlight: float, ego: F64, ec: float, es: float, gx: float, gy: float) -> float:
    """Light of the ego headlights on the ground at (gx, gy)."""
    hx, hy = gx - ego[0], gy - ego[1]
    ahead, aside = hx * ec + hy * es, -hx * es + hy * ec
    if ahead <= 3.5:
        return 0.0
    spread = aside / (1.6 + 0.42 * ahead)
    return headlight * max(0.0, 1.0 - spread * spread) / (1.0 + (ahead / 13.0) ** 2) * min(1.0, (ahead - 3.5) * 0.4)


@compiled
def _background_row(
    y: int, x0: int, x1: int, rays: F64, origin: F64, shade: U8, ground: Ground, sky: Sky, light: Light, ego: F64, row: F32
) -> None:
    """Ground or sky at the pixels x0 .. x1 - 1 of row y into ``row`` (W, 3). Ground coordinates are linear between the ends."""
    texels, levels, extent, lamps, grain = ground.texels, ground.levels, ground.extent, ground.lamps, ground.grain
    ground_light, headlight = light.ground, light.headlight
    clouds, cloud_map, sky_low, sky_top = sky.clouds, sky.cloud_map, sky.low, sky.top
    fog2 = sky.fog * sky.fog
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
    foot = max(lateral, 0.4 * lateral * t / origin[2]) / ground.texel
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
        c00, c01 = np.int64(texels[at]), np.int64(texels[at + np.uint64(1)])
        c10, c11 = np.int64(texels[below]), np.int64(texels[below + np.uint64(1)])
        # Two channels in one multiplication: red and blue are 16 bits apart.
        w11 = (fx * fy) >> 8
        w01, w10 = fx - w11, fy - w11
        w00 = 256 - w01 - w10 - w11
        rb = (c00 & 0xFF00FF) * w00 + (c01 & 0xFF00FF) * w01 + (c10 & 0xFF00FF) * w10 + (c11 & 0xFF00FF) * w11
        gg = ((c00 >> 8) & 0xFF) * w00 + ((c01 >> 8) & 0xFF) * w01 + ((c10 >> 8) & 0xFF) * w10 + ((c11 >> 8) & 0xFF) * w11
        k = light.dimming[shade[y, x]]
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


@compiled
def shade_pixels(
    rays: F64,
    origin: F64,
    ss: int,
    kind: I64,
    drawn: Drawn,
    shade: U8,
    ground: Ground,
    sky: Sky,
    light: Light,
    ego: F64,
    tone: U8,
    out: U8,
) -> None:
    """Final colour of every pixel, (H, W, 3) uint8. Works on square roots of radiance, as the ground map is coded.

    Args:
        rays: (3, 3) world direction of pixel (u, v): rays @ (u, v, 1); its length along the optical axis is 1.
        origin: (3,) camera in the world. ``kind``: (P,) surface of each quad. ``shade``: (H, W) shadow on the ground.
        ego: (3,) world x, y, yaw of the ego vehicle. ``tone``: table from square-root radiance 0..2 to grey level.
    """
    zbuf, pid, active_quad, active_item, lit, bay = drawn.depth, drawn.piece, drawn.quad, drawn.item, drawn.lit, drawn.bay
    sky_low, glass, lit_windows = sky.low, light.glass, light.windows
    fog2 = sky.fog * sky.fog
    height, width = shade.shape
    tone_n = np.int64(len(tone) - 1)
    scale = np.float32(tone_n / 2.0 / (ss * ss))
    pixel = math.sqrt(rays[0, 0] ** 2 + rays[1, 0] ** 2 + rays[2, 0] ** 2)
    # Without roll the distance to the ground is the same all along a row; else rows are cut into short spans.
    span = width if abs(rays[2, 0]) < 1e-9 else 8
    sl0, sl1, sl2 = np.float32(sky_low[0]), np.float32(sky_low[1]), np.float32(sky_low[2])
    zero, half, one = np.float32(0.0), np.float32(0.5), np.float32(1.0)
    high, storey = np.float32(origin[2]), np.float32(1.0 / STOREY)
    far_wall, sharpness = np.float32(pixel / 1.0), np.float32(BAY / pixel)
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
            _background_row(y, x, end, rays, origin, shade, ground, sky, light, ego, row)
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
                            if look == FACADE:
                                # Windows, shops on the ground floor; blurred by the pixel's footprint.
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
                                if look == FOLIAGE:
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
