"""Objects as lists of flat quads, in the object's own frame: x along the heading, y left, z up, origin on the ground.

The origin is under the centre. Every part stays inside length x width x height, so that the true box encloses what is drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Color = tuple[float, float, float]

# Surface kinds that the shader knows; the last two mirror the sky.
PLAIN, FACADE, FOLIAGE, GLOSS, GLASS = 0, 1, 2, 3, 4

_RIM = np.arange(8) * np.pi / 4 + np.pi / 8
_OCTAGON = np.stack([np.cos(_RIM), np.zeros(8), np.sin(_RIM)], axis=1)
_OCTAGON_QUADS = np.array([[0, 1, 2, 3], [0, 3, 4, 7], [4, 5, 6, 7]])

_GLASS: Color = (0.05, 0.065, 0.08)
_RUBBER: Color = (0.03, 0.03, 0.032)
_METAL: Color = (0.3, 0.3, 0.32)


@dataclass
class Mesh:
    """Quads under construction: corners anticlockwise seen from outside, reflectance, own light, surface kind."""

    quads: list[Any] = field(default_factory=list)
    colors: list[Color] = field(default_factory=list)
    glow: list[Color] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)

    def array(self) -> NDArray[np.float32]:
        """(P, 4, 3) all corners."""
        return np.array(self.quads, dtype=np.float32)

    def quad(self, corners: object, color: Color, glow: Color = (0.0, 0.0, 0.0), kind: int = PLAIN) -> None:
        """One flat quad, 4 corners (x, y, z); a triangle repeats its last corner."""
        self.quads.append(corners)
        self.colors.append(color)
        self.glow.append(glow)
        self.kinds.append(kind)

    def frustum(
        self,
        low: tuple[float, float, float, float],
        z0: float,
        high: tuple[float, float, float, float],
        z1: float,
        color: Color,
        *,
        top: Color | None = None,
        ends: Color | None = None,
        glow: Color = (0.0, 0.0, 0.0),
        kind: int = PLAIN,
        bottom: bool = False,
    ) -> None:
        """Four sides and a roof between the rectangles ``low`` at z0 and ``high`` at z1, each (x0, x1, y0, y1)."""
        a0, a1, b0, b1 = low
        c0, c1, d0, d1 = high
        ends = color if ends is None else ends
        self.quad([[a1, b0, z0], [a1, b1, z0], [c1, d1, z1], [c1, d0, z1]], ends, glow, kind)  # front
        self.quad([[a0, b1, z0], [a0, b0, z0], [c0, d0, z1], [c0, d1, z1]], ends, glow, kind)  # rear
        self.quad([[a1, b1, z0], [a0, b1, z0], [c0, d1, z1], [c1, d1, z1]], color, glow, kind)  # left
        self.quad([[a0, b0, z0], [a1, b0, z0], [c1, d0, z1], [c0, d0, z1]], color, glow, kind)  # right
        self.quad([[c1, d0, z1], [c1, d1, z1], [c0, d1, z1], [c0, d0, z1]], color if top is None else top, glow, PLAIN)
        if bottom:
            self.quad([[a1, b1, z0], [a1, b0, z0], [a0, b0, z0], [a0, b1, z0]], color, glow, PLAIN)

    def box(self, x0: float, x1: float, y0: float, y1: float, z0: float, z1: float, color: Color, **kw: object) -> None:
        """A block."""
        self.frustum((x0, x1, y0, y1), z0, (x0, x1, y0, y1), z1, color, **kw)  # type: ignore[arg-type]

    def front(self, x: float, y0: float, y1: float, z0: float, z1: float, color: Color, glow: Color = (0.0, 0.0, 0.0)) -> None:
        """A plate that looks forward."""
        self.quad([[x, y0, z0], [x, y1, z0], [x, y1, z1], [x, y0, z1]], color, glow)

    def rear(self, x: float, y0: float, y1: float, z0: float, z1: float, color: Color, glow: Color = (0.0, 0.0, 0.0)) -> None:
        """A plate that looks backward."""
        self.quad([[x, y1, z0], [x, y0, z0], [x, y0, z1], [x, y1, z1]], color, glow)

    def side(self, y: float, x0: float, x1: float, z0: float, z1: float, color: Color) -> None:
        """A plate that looks left (y > 0) or right (y < 0)."""
        if y > 0:
            self.quad([[x1, y, z0], [x0, y, z0], [x0, y, z1], [x1, y, z1]], color)
        else:
            self.quad([[x0, y, z0], [x1, y, z0], [x1, y, z1], [x0, y, z1]], color)

    def wheel(self, x: float, y: float, radius: float, color: Color = _RUBBER, hub: Color = (0.25, 0.25, 0.26)) -> None:
        """A disc standing on the ground with a hub, seen from outside (from the left for y > 0, else from the right)."""
        for r, c, dy in ((radius, color, 0.0), (0.5 * radius, hub, 0.004)):
            ring = _OCTAGON * (r, 1.0, r) + (x, y + (dy if y > 0 else -dy), radius)
            if y > 0:
                ring = ring[::-1]
            for part in ring[_OCTAGON_QUADS].tolist():
                self.quad(part, c)


def _lights(m: Mesh, length: float, width: float, z0: float, z1: float, front: float = 0.0, rear: float = 0.0) -> None:
    x1, x0 = length / 2 - front + 0.004, -length / 2 + rear - 0.004
    for s in (-1.0, 1.0):
        a, b = sorted((s * 0.46 * width, s * 0.3 * width))
        m.front(x1, a, b, z0, z1, (0.85, 0.85, 0.8), (1.0, 0.95, 0.8))
        m.rear(x0, a, b, z0, z1, (0.5, 0.02, 0.02), (0.55, 0.03, 0.02))


def car(length: float, width: float, height: float, rng: np.random.Generator, paint: Color) -> Mesh:
    """Saloon, estate, hatchback or van, by draw."""
    m = Mesh()
    el, w = length / 2, width / 2
    sill, belt = 0.15 * height, 0.54 * height
    form = rng.integers(4)
    nose, tail, front_top, rear_top = (
        (0.22, 0.36, 0.02, 0.2),
        (0.2, 0.47, 0.04, 0.44),
        (0.2, 0.47, 0.0, 0.4),
        (0.34, 0.49, 0.18, 0.47),
    )[form]
    m.frustum(
        (-el + 0.05, el - 0.05, -w + 0.02, w - 0.02), sill, (-el + 0.05, el - 0.05, -w + 0.02, w - 0.02), belt * 0.98, paint
    )
    m.box(-el, el, -w + 0.06, w - 0.06, sill + 0.05, sill + 0.22, tuple(0.6 * c for c in paint))  # type: ignore[arg-type]
    low = (-tail * length, nose * length, -w + 0.07, w - 0.07)
    high = (-rear_top * length, front_top * length, -w + 0.22, w - 0.22)
    m.frustum(low, belt * 0.98, high, height - 0.03, _GLASS, top=paint)
    m.box(high[0], high[1], high[2], high[3], height - 0.06, height, paint)
    middle = 0.5 * (low[0] + low[1])  # pillar between the doors
    for s in (-1.0, 1.0):
        y0, y1 = s * (w - 0.06), s * (w - 0.21)
        corners = [
            [middle + 0.06, y0, belt],
            [middle - 0.06, y0, belt],
            [middle - 0.06, y1, height - 0.05],
            [middle + 0.06, y1, height - 0.05],
        ]
        m.quad(corners if s > 0 else corners[::-1], paint)
        for x in (0.31 * length, -0.3 * length):
            m.wheel(x, s * (w - 0.003), 0.5 * 0.37 * height)
    _lights(m, length, width, 0.36 * height, 0.46 * height, front=0.04, rear=0.04)
    m.front(el, -0.24 * width, 0.24 * width, 0.25 * height, 0.4 * height, (0.05, 0.05, 0.055))
    m.rear(-el, -0.13 * width, 0.13 * width, 0.3 * height, 0.37 * height, (0.7, 0.7, 0.65))
    return m


def truck(length: float, width: float, height: float, rng: np.random.Generator, paint: Color) -> Mesh:
    """Cab in front of a box, a tipper or a flat bed."""
    m = Mesh()
    el, w = length / 2, width / 2
    cab = min(2.2, 0.32 * length)
    cargo: Color = ((0.75, 0.75, 0.74), (0.6, 0.55, 0.2), (0.25, 0.35, 0.5), (0.7, 0.4, 0.2))[rng.integers(4)]
    cab_top = height * rng.uniform(0.78, 0.95)
    m.box(-el, el - 0.2, -w * 0.8, w * 0.8, 0.45, 0.8, (0.08, 0.08, 0.08))
    m.frustum((el - cab, el, -w + 0.05, w - 0.05), 0.4, (el - cab, el - 0.12, -w + 0.08, w - 0.08), cab_top, paint)
    m.front(el - 0.04, -w + 0.18, w - 0.18, 0.55 * cab_top, 0.9 * cab_top, _GLASS)
    m.front(el, -w * 0.6, w * 0.6, 0.28 * cab_top, 0.45 * cab_top, (0.1, 0.1, 0.1))
    for s in (-1.0, 1.0):
        m.side(s * (w - 0.045), el - 0.75 * cab, el - 0.15 * cab, 0.55 * cab_top, 0.88 * cab_top, _GLASS)
    if rng.random() < 0.7:
        m.box(-el + 0.02, el - cab - 0.2, -w, w, 0.85, height, cargo)
        m.rear(-el + 0.012, -0.02, 0.02, 0.95, height - 0.1, (0.2, 0.2, 0.2))
        m.rear(-el + 0.012, -w + 0.1, w - 0.1, 0.9, 1.05, (0.5, 0.1, 0.05))
    else:
        m.box(-el + 0.02, el - cab - 0.2, -w, w, 0.85, 0.6 * height, cargo)
        m.frustum(
            (-el + 0.3, el - cab - 0.5, -w * 0.8, w * 0.8),
            0.6 * height,
            (-el + 1, el - cab - 1.2, -0.2, 0.2),
            0.85 * height,
            (0.3, 0.24, 0.16),
        )
        m.box(el - cab - 0.35, el - cab - 0.2, -w, w, 0.6 * height, height, cargo)
    for s in (-1.0, 1.0):
        for x in (el - 0.55 * cab, -el + 0.16 * length, -el + 0.16 * length + 1.15):
            m.wheel(x, s * (w - 0.003), 0.5)
    _lights(m, length, width, 0.62, 0.82)
    return m


def bus(length: float, width: float, height: float, rng: np.random.Generator, paint: Color) -> Mesh:
    """City bus: a band of windows, doors on the right, a lit destination sign."""
    m = Mesh()
    el, w = length / 2, width / 2
    skirt: Color = tuple(0.7 * c for c in paint)  # type: ignore[assignment]
    m.box(-el, el, -w, w, 0.35, 0.42 * height, paint)
    m.box(-el + 0.01, el - 0.01, -w + 0.01, w - 0.01, 0.42 * height, 0.8 * height, _GLASS)
    m.box(-el, el, -w, w, 0.8 * height, height, paint)
    m.box(-el + 0.1, el - 0.1, -w + 0.05, w - 0.05, 0.2, 0.35, skirt)
    count = max(3, int(length / 1.7))
    for s in (-1.0, 1.0):
        for i in range(count + 1):
            x = -el + 0.1 + (length - 0.2) * i / count
            m.side(s * w, x - 0.09, x + 0.09, 0.42 * height, 0.8 * height, paint)
        m.wheel(el - 2.2, s * w, 0.48)
        m.wheel(-el + 2.6, s * w, 0.48)
    for x in (el - 1.2, -0.3):
        m.side(-w - 0.003, x - 0.55, x + 0.55, 0.4, 0.78 * height, (0.09, 0.1, 0.11))
    m.front(el + 0.004, -w * 0.7, w * 0.7, 0.84 * height, 0.95 * height, (0.6, 0.4, 0.05), (0.7, 0.45, 0.05))
    for y in (-w + 0.12, w - 0.12):
        m.front(el + 0.002, y - 0.12, y + 0.12, 0.42 * height, 0.8 * height, paint)
    _lights(m, length, width, 0.6, 0.8)
    return m


def trailer(length: float, width: float, height: float, rng: np.random.Generator, paint: Color) -> Mesh:
    """Semi-trailer or container on a chassis: no cab, supports in front, three axles at the rear."""
    m = Mesh()
    el, w = length / 2, width / 2
    m.box(-el, el, -w * 0.7, w * 0.7, 0.85, 1.15, (0.1, 0.1, 0.1))
    m.box(-el + 0.03, el, -w, w, 1.15, height, paint)
    stripe: Color = tuple(0.75 * c for c in paint)  # type: ignore[assignment]
    for s in (-1.0, 1.0):
        for i in range(max(2, int(length / 1.5))):
            x = -el + 0.7 + 1.5 * i
            m.side(s * (w + 0.004), x, x + 0.12, 1.2, height - 0.05, stripe)
        for x in (-el + 0.9, -el + 2.1, -el + 3.3):
            if x < el - 2:
                m.wheel(x, s * (w - 0.003), 0.5)
        m.box(el - 2.2, el - 2.0, s * w * 0.6 - 0.1, s * w * 0.6 + 0.1, 0.0, 0.9, _METAL)
    m.rear(-el + 0.02, -0.03, 0.03, 1.2, height - 0.1, (0.2, 0.2, 0.2))
    m.rear(-el, -w, w, 0.9, 1.1, (0.6, 0.55, 0.1))
    x0 = -el - 0.004
    for s in (-1.0, 1.0):
        a, b = sorted((s * 0.46 * width, s * 0.34 * width))
        m.rear(x0, a, b, 0.92, 1.08, (0.5, 0.02, 0.02), (0.55, 0.03, 0.02))
    return m


def construction_vehicle(length: float, width: float, height: float, rng: np.random.Generator, paint: Color) -> Mesh:
    """Excavator (tracks, turning house, arm with bucket) or wheel loader; the arm points forward."""
    m = Mesh()
    el, w = length / 2, width / 2
    loader = rng.random() < 0.4
    if loader:
        m.box(-el, 0.2 * length, -w * 0.75, w * 0.75, 0.6, 0.5 * height, paint)
        for s in (-1.0, 1.0):
            for x in (-0.3 * length, 0.14 * length):
                m.wheel(x, s * w * 0.98, 0.24 * height, hub=paint)
    else:
        for s in (-1.0, 1.0):
            a, b = sorted((s * w, s * w * 0.55))
            m.frustum((-0.45 * length, 0.2 * length, a, b), 0.0, (-0.5 * length, 0.25 * length, a, b), 0.8, _RUBBER)
        m.box(-el, 0.05 * length, -w * 0.9, w * 0.9, 0.9, 0.55 * height, paint)
    cab_x = -0.12 * length
    m.frustum(
        (cab_x - 0.1, cab_x + 1.3, 0.0, w * 0.8),
        0.5 * height,
        (cab_x, cab_x + 1.1, 0.05, w * 0.75),
        height - 0.05,
        _GLASS,
        top=paint,
    )
    m.box(cab_x - 0.05, cab_x + 1.2, 0.0, w * 0.8, height - 0.1, height, paint)
    m.rear(-el - 0.004, -w * 0.6, w * 0.6, 0.35 * height, 0.42 * height, (0.1, 0.1, 0.1))
    # Boom up, stick down, bucket.
    y0, y1 = (-0.55 * w, -0.2 * w)
    knee_x, knee_z = 0.3 * length, (0.6 if loader else 0.92) * height
    x0, z0 = (0.1 * length, 0.35 * height) if loader else (-0.02 * length, 0.5 * height)
    for sides in ((y0, y1), (0.2 * w, 0.55 * w)) if loader else ((y0, y1),):
        _beam(m, (x0, z0), (knee_x, knee_z), 0.28, sides, paint)
        _beam(m, (knee_x, knee_z), (0.44 * length, 0.25 * height), 0.22, sides, paint)
    by0, by1 = (-w, w) if loader else (y0 - 0.3, y1 + 0.3)
    m.frustum(
        (0.4 * length, el, by0, by1), 0.1, (0.36 * length, el - 0.1, by0, by1), 0.3 * height, (0.2, 0.19, 0.18), bottom=True
    )
    m.box(cab_x + 0.4, cab_x + 0.6, 0.3 * w, 0.5 * w, height - 0.03, height, (0.9, 0.45, 0.02), glow=(0.9, 0.4, 0.02))
    return m


def _beam(m: Mesh, a: tuple[float, float], b: tuple[float, float], t: float, y: tuple[float, float], color: Color) -> None:
    """A bar in the xz plane from a to b, ``t`` thick, between two y."""
    d = np.array([b[0] - a[0], b[1] - a[1]])
    n = t / 2 * np.array([-d[1], d[0]]) / np.hypot(*d)
    p = [(a[0] + n[0], a[1] + n[1]), (b[0] + n[0], b[1] + n[1]), (b[0] - n[0], b[1] - n[1]), (a[0] - n[0], a[1] - n[1])]
    left = [[x, y[1], z] for x, z in p]
    right = [[x, y[0], z] for x, z in p]
    m.quad(left[::-1], color)
    m.quad(left, color)
    m.quad(right, color)
    m.quad(right[::-1], color)
    for i in range(4):
        j = (i + 1) % 4
        face = [left[i], left[j], right[j], right[i]]
        m.quad(face, color)
        m.quad(face[::-1], color)


_CLOTHES: tuple[Color, ...] = (
    (0.05, 0.06, 0.1),
    (0.35, 0.05, 0.05),
    (0.1, 0.18, 0.4),
    (0.5, 0.5, 0.48),
    (0.08, 0.08, 0.08),
    (0.15, 0.3, 0.15),
    (0.55, 0.45, 0.1),
    (0.3, 0.2, 0.35),
)
_SKIN: tuple[Color, ...] = ((0.6, 0.42, 0.32), (0.4, 0.25, 0.16), (0.2, 0.12, 0.08))


def _person(
    m: Mesh,
    x: float,
    height: float,
    width: float,
    rng: np.random.Generator,
    z: float = 0.0,
    stride: float = 0.15,
    seat: bool = False,
) -> None:
    """Legs, torso with arms, head; seated persons have short legs that reach forward."""
    shirt, trousers = _CLOTHES[rng.integers(len(_CLOTHES))], _CLOTHES[rng.integers(len(_CLOTHES))]
    skin, hair = _SKIN[rng.integers(3)], ((0.04, 0.03, 0.02), (0.2, 0.12, 0.05), (0.4, 0.35, 0.3))[rng.integers(3)]
    h = height
    hip, neck = (0.0 if seat else 0.47 * h), (0.52 * h if seat else 0.84 * h)
    w = 0.5 * width
    if seat:
        for s in (-1.0, 1.0):
            m.box(x - 0.05, x + 0.4, s * w * 0.7 - 0.08, s * w * 0.7 + 0.08, z - 0.05, z + 0.13, trousers)
            m.box(x + 0.25, x + 0.4, s * w * 0.7 - 0.07, s * w * 0.7 + 0.07, z - 0.45, z, trousers)
    else:
        for s in (-1.0, 1.0):
            a, b = sorted((s * w * 0.08, s * w * 0.62))
            dx = s * stride
            m.frustum((x + dx - 0.08, x + dx + 0.1, a, b), z, (x - 0.09, x + 0.09, a, b), z + hip, trousers)
    m.frustum((x - 0.11, x + 0.11, -w * 0.65, w * 0.65), z + hip, (x - 0.12, x + 0.12, -w * 0.75, w * 0.75), z + neck, shirt)
    for s in (-1.0, 1.0):
        a, b = sorted((s * w * 0.75, s * w))
        dx = -s * stride + (0.25 if seat else 0.0)
        m.frustum(
            (x + dx - 0.05, x + dx + 0.05, a, b),
            z + (hip if not seat else 0.15),
            (x - 0.06, x + 0.06, a, b),
            z + neck - 0.03,
            shirt,
        )
    m.box(x - 0.1, x + 0.1, -0.085, 0.085, z + neck, z + h, skin, top=hair)
    m.box(x - 0.105, x + 0.02, -0.09, 0.09, z + neck + 0.4 * (h - neck), z + h, hair)


def pedestrian(length: float, width: float, height: float, rng: np.random.Generator, paint: Color) -> Mesh:
    """A walking or standing person; the stride fills the box's length."""
    m = Mesh()
    _person(m, 0.0, height, width, rng, stride=max(0.0, 0.5 * length - 0.12))
    return m


def _two_wheeler(
    length: float, width: float, height: float, rng: np.random.Generator, paint: Color, motor: bool, rider: bool
) -> Mesh:
    m = Mesh()
    el, w = length / 2, width / 2
    r = 0.16 * length if motor else 0.2 * length
    tyre = 0.07 if motor else 0.025
    for x in (el - r, -el + r):
        for y in (-tyre, tyre):
            m.wheel(x, y, r, hub=(0.35, 0.35, 0.35) if motor else (0.2, 0.2, 0.2))
        m.box(x - 0.6 * r, x + 0.6 * r, -tyre, tyre, 1.72 * r, 2.0 * r, _RUBBER)
    seat_z = 0.55 * height if rider else 0.72 * height
    top = seat_z + 0.12 if rider else height
    if motor:
        m.box(-0.38 * length, 0.22 * length, -0.14, 0.14, 0.3, seat_z, paint, top=(0.04, 0.04, 0.04))
        m.box(-0.1 * length, 0.12 * length, -0.2, 0.2, 0.2, 0.5, _METAL)
        m.frustum(
            (0.1 * length, 0.3 * length, -0.16, 0.16),
            0.45,
            (0.12 * length, 0.22 * length, -0.12, 0.12),
            min(top, seat_z + 0.25),
            paint,
        )
        m.front(0.3 * length, -0.09, 0.09, 0.55, 0.7, (0.85, 0.85, 0.8), (1.0, 0.95, 0.8))
        m.rear(-0.385 * length, -0.08, 0.08, seat_z - 0.15, seat_z - 0.05, (0.5, 0.02, 0.02), (0.5, 0.02, 0.02))
    else:
        fork, axle = 0.5 - r / length, (-0.05, r)
        frame = (
            (axle, (-0.1, seat_z)),
            ((-0.1, 0.85 * seat_z), (0.24, 0.85 * seat_z)),
            (axle, (0.24, 0.85 * seat_z)),
            ((-fork, r), (-0.1, 0.8 * seat_z)),
            ((fork, r), (0.22, top - 0.03)),
        )
        for a, b in frame:
            _beam(m, (a[0] * length, a[1]), (b[0] * length, b[1]), 0.06, (-0.03, 0.03), paint)
        m.box(-0.16 * length, -0.02 * length, -0.08, 0.08, seat_z - 0.02, seat_z + 0.05, (0.04, 0.04, 0.04))
        m.rear(-0.45 * length, -0.05, 0.05, 0.6 * seat_z, 0.7 * seat_z, (0.5, 0.02, 0.02), (0.4, 0.02, 0.02))
    m.box(0.18 * length, 0.23 * length, -w, w, top - 0.08, top, (0.08, 0.08, 0.08))
    if rider:
        _person(m, -0.08 * length, height - seat_z, min(width, 0.6), rng, z=seat_z, seat=True)
    return m


def bicycle(length: float, width: float, height: float, rng: np.random.Generator, paint: Color, rider: bool = False) -> Mesh:
    """Bicycle, with a rider when ``rider``."""
    return _two_wheeler(length, width, height, rng, paint, motor=False, rider=rider)


def motorcycle(length: float, width: float, height: float, rng: np.random.Generator, paint: Color, rider: bool = False) -> Mesh:
    """Motorcycle or scooter, with a rider when ``rider``."""
    return _two_wheeler(length, width, height, rng, paint, motor=True, rider=rider)


def traffic_cone(length: float, width: float, height: float, rng: np.random.Generator, paint: Color) -> Mesh:
    """Orange cone with two white bands on a black foot."""
    m = Mesh()
    half = 0.5 * min(length, width)
    m.box(-half, half, -half, half, 0.0, 0.05, (0.05, 0.05, 0.05))
    bands: tuple[Color, ...] = ((0.85, 0.2, 0.02), (0.85, 0.85, 0.82), (0.85, 0.2, 0.02), (0.85, 0.85, 0.82), (0.85, 0.2, 0.02))
    edges = np.linspace(0.05, height, len(bands) + 1)
    radius = np.linspace(0.78 * half, 0.16 * half, len(bands) + 1)
    for i, color in enumerate(bands):
        a = np.arange(7) * np.pi / 3
        for k in range(6):
            p = [
                (radius[i], a[k], edges[i]),
                (radius[i], a[k + 1], edges[i]),
                (radius[i + 1], a[k + 1], edges[i + 1]),
                (radius[i + 1], a[k], edges[i + 1]),
            ]
            m.quad([[r * np.cos(t), r * np.sin(t), z] for r, t, z in p], color)
    return m


def barrier(length: float, width: float, height: float, rng: np.random.Generator, paint: Color) -> Mesh:
    """Red-white plank barrier or concrete block. Its wide side lies across the heading, as nuScenes labels it."""
    m = Mesh()
    el, w = length / 2, width / 2
    if rng.random() < 0.4:
        grey: Color = (0.5, 0.49, 0.46)
        m.frustum((-el, el, -w, w), 0.0, (-0.35 * el, 0.35 * el, -w, w), height, grey)
        for x, plate in ((0.66 * el, m.front), (-0.66 * el, m.rear)):
            for y in (-0.7 * w, 0.5 * w):
                plate(x, y, y + 0.2 * w, 0.35 * height, 0.5 * height, (0.7, 0.3, 0.05))
        return m
    for y in (-0.8 * w, 0.8 * w):
        m.frustum((-el, el, y - 0.06, y + 0.06), 0.0, (-0.05, 0.05, y - 0.06, y + 0.06), 0.5 * height, (0.12, 0.12, 0.12))
        m.box(-0.04, 0.04, y - 0.04, y + 0.04, 0.3 * height, height, (0.4, 0.4, 0.4))
    count = 7
    for z0, z1 in ((0.42 * height, 0.66 * height), (0.74 * height, 0.98 * height)):
        for i in range(count):
            y0 = -w + width * i / count
            m.box(-0.05, 0.05, y0, y0 + width / count, z0, z1, (0.75, 0.06, 0.05) if i % 2 == 0 else (0.85, 0.85, 0.83))
    return m


# Mean length, width, height of the nuScenes detection classes in metres, and the relative spread drawn around them.
SIZES: dict[str, tuple[tuple[float, float, float], float]] = {
    "car": ((4.62, 1.95, 1.73), 0.06),
    "truck": ((6.93, 2.51, 2.84), 0.12),
    "trailer": ((12.29, 2.9, 3.87), 0.1),
    "bus": ((11.19, 2.94, 3.47), 0.07),
    "construction_vehicle": ((6.37, 2.73, 3.19), 0.1),
    "bicycle": ((1.7, 0.6, 1.28), 0.07),
    "motorcycle": ((2.11, 0.77, 1.47), 0.07),
    "pedestrian": ((0.73, 0.67, 1.77), 0.07),
    "traffic_cone": ((0.41, 0.41, 1.07), 0.08),
    "barrier": ((0.5, 2.53, 0.98), 0.08),
}

_PAINTS: dict[str, tuple[Color, ...]] = {
    "car": (
        (0.7, 0.7, 0.7),
        (0.05, 0.05, 0.055),
        (0.25, 0.26, 0.28),
        (0.45, 0.03, 0.03),
        (0.05, 0.1, 0.35),
        (0.8, 0.8, 0.78),
        (0.12, 0.2, 0.14),
        (0.5, 0.42, 0.3),
        (0.75, 0.5, 0.02),
    ),
    "truck": ((0.7, 0.7, 0.7), (0.5, 0.04, 0.03), (0.06, 0.15, 0.4), (0.1, 0.3, 0.15), (0.75, 0.45, 0.05)),
    "trailer": ((0.72, 0.72, 0.7), (0.1, 0.2, 0.42), (0.45, 0.12, 0.06), (0.3, 0.33, 0.34), (0.15, 0.32, 0.2)),
    "bus": ((0.75, 0.7, 0.1), (0.6, 0.05, 0.05), (0.75, 0.75, 0.75), (0.1, 0.25, 0.5), (0.1, 0.4, 0.25)),
    "construction_vehicle": ((0.8, 0.5, 0.02), (0.75, 0.25, 0.02), (0.8, 0.62, 0.05)),
    "bicycle": ((0.05, 0.05, 0.05), (0.4, 0.04, 0.04), (0.05, 0.2, 0.45), (0.6, 0.6, 0.6), (0.1, 0.4, 0.2)),
    "motorcycle": ((0.05, 0.05, 0.05), (0.5, 0.03, 0.03), (0.05, 0.12, 0.4), (0.6, 0.6, 0.58)),
}

_BUILDERS: dict[str, Callable[..., Mesh]] = {
    "car": car,
    "truck": truck,
    "trailer": trailer,
    "bus": bus,
    "construction_vehicle": construction_vehicle,
    "bicycle": bicycle,
    "motorcycle": motorcycle,
    "pedestrian": pedestrian,
    "traffic_cone": traffic_cone,
    "barrier": barrier,
}


def build(
    label: str, rng: np.random.Generator, *, rider: bool = False, cars: Callable[..., Mesh] = car
) -> tuple[tuple[float, float, float], Mesh]:
    """Draws a size and a look for one object of a class; ``cars`` makes the cars.

    Returns (length, width, height) in metres and its quads.
    """
    mean, spread = SIZES[label]
    common = rng.normal(0.0, spread)
    factors = np.exp(np.clip(common + rng.normal(0.0, 0.45 * spread, 3), -2.5 * spread, 2.5 * spread))
    if label == "pedestrian":
        factors[0] = np.clip(factors[0] * rng.choice([0.75, 1.0, 1.15]), 0.7, 1.3)
    size = (mean[0] * factors[0], mean[1] * factors[1], mean[2] * factors[2])
    if label in ("bicycle", "motorcycle"):
        size = (
            size[0],
            size[1],
            size[2] * ((1.28 if label == "bicycle" else 1.12) if rider else (0.8 if label == "bicycle" else 0.86)),
        )
    paints = _PAINTS.get(label, ((0.5, 0.5, 0.5),))
    paint = paints[rng.integers(len(paints))]
    keywords = {"rider": rider} if label in ("bicycle", "motorcycle") else {}
    builder = cars if label == "car" else _BUILDERS[label]
    return size, builder(*size, rng, paint, **keywords)
