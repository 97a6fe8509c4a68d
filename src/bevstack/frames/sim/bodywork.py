"""Cars with curved bodies: lofts of some hundred small faces, glossy paint and glass, mirrors, sunroofs, roof rails.

The flat cars of ``shapes`` have a fourteenth of the faces and do for 3D boxes. Seen from near or above they are far from real
ones, whose bonnets and boots are round and mirror the sky.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .shapes import GLASS, GLOSS, Color, Mesh

Face = tuple[Color, Color, int]  # reflectance, own light, surface kind

_BLACK: Color = (0.03, 0.03, 0.033)
_PANE: Color = (0.035, 0.045, 0.05)
_DARK: Color = (0.0, 0.0, 0.0)
_STEEL: Color = (0.45, 0.45, 0.47)
_MIRROR = 0.1  # metres that a mirror stands out

# Lines along the body: share of its width at which each runs, and how far it lies between its upper and its lower edge.
_ACROSS = np.array([0.0, 0.5, 0.86, 0.96, 1.0, 1.0, 0.985, 0.95, 0.86])
_DOWN = np.array([0.0, 0.0, 0.0, 0.1, 0.28, 0.5, 0.72, 0.92, 1.0])


@dataclass(frozen=True)
class Form:
    """Proportions of a car. ``x`` values are fractions of the length from the middle, ``z`` values of the height.

    Attributes:
        cowl, header: foot and head of the windscreen. ``deck``, ``crest``: foot and head of the rear window.
        nose, bonnet, belt, tail: heights of the front's edge, the bonnet at the windscreen, the window sill, the boot's edge.
        taper: (front, rear) share of the width that the corners lose. ``lean``: share of it that the roof is narrower.
    """

    cowl: float
    header: float
    crest: float
    deck: float
    nose: float
    bonnet: float
    belt: float
    tail: float
    taper: tuple[float, float] = (0.3, 0.22)
    lean: float = 0.13


FORMS: tuple[Form, ...] = (
    Form(0.23, 0.06, -0.2, -0.36, 0.45, 0.6, 0.62, 0.6),  # saloon
    Form(0.22, 0.05, -0.38, -0.475, 0.45, 0.6, 0.61, 0.57),  # estate
    Form(0.25, 0.07, -0.3, -0.465, 0.46, 0.6, 0.61, 0.55, (0.34, 0.3)),  # hatchback
    Form(0.34, 0.2, -0.43, -0.485, 0.42, 0.52, 0.55, 0.5, (0.26, 0.14), 0.09),  # van
)
_VARIED = ("cowl", "header", "crest", "deck", "nose", "bonnet", "belt", "tail")


def _varied(form: Form, rng: np.random.Generator) -> Form:
    values = {name: getattr(form, name) + float(rng.normal(0.0, 0.012)) for name in _VARIED}
    values["deck"] = max(values["deck"], -0.488)
    values["crest"] = max(values["crest"], values["deck"] + 0.03)
    taper = (float(form.taper[0] * rng.uniform(0.7, 1.2)), float(form.taper[1] * rng.uniform(0.7, 1.2)))
    return Form(**values, taper=taper, lean=float(form.lean * rng.uniform(0.8, 1.2)))


def _loft(m: Mesh, rings: NDArray[np.float64], face: Callable[[int, int], Face]) -> None:
    """Quads between neighbouring rings (N, R, 3), each from the middle outwards on the left; and the same on the right."""
    for i in range(len(rings) - 1):
        for j in range(rings.shape[1] - 1):
            color, glow, kind = face(i, j)
            left = [rings[i, j], rings[i + 1, j], rings[i + 1, j + 1], rings[i, j + 1]]
            right = [p * (1.0, -1.0, 1.0) for p in left]
            m.quad([p.tolist() for p in left], color, glow, kind)
            m.quad([p.tolist() for p in right[::-1]], color, glow, kind)


def _cap(m: Mesh, ring: NDArray[np.float64], bow: float, forward: bool, face: Callable[[int, int], Face]) -> None:
    """Closes one end below the edge ``ring[:5]`` with a front that is bowed by ``bow`` metres: rows down, columns outwards."""
    f = _ACROSS[:5]
    rows = [ring[:5]]
    for low in ring[5:]:
        rows.append(np.column_stack([ring[0, 0] - bow * f**2, f * low[1], np.full(5, low[2])]))
    _loft(m, np.array(rows if forward else rows[::-1]), face if forward else lambda i, j: face(len(rows) - 2 - i, j))


def curved_car(length: float, width: float, height: float, rng: np.random.Generator, paint: Color) -> Mesh:
    """Saloon, estate, hatchback or van, by draw (one draw of ``rng``, as ``shapes.car``; the details have their own).

    Args:
        length, width, height: of the box that encloses it, mirrors included, metres. paint: reflectance, linear RGB.

    Returns:
        Quads in the object's frame, as all of ``shapes``.
    """
    which = int(rng.integers(len(FORMS)))
    own = np.random.default_rng([which, *(int(1e6 * v) for v in (length, width, height))])
    form = _varied(FORMS[which], own)
    m = Mesh()
    el, half = 0.5 * length - 0.03, 0.5 * width - _MIRROR
    lit = bool(own.random() < 0.45)
    trim: Color = paint if own.random() < 0.6 else _BLACK  # lower edge, mirrors
    top: Color = paint if own.random() < 0.8 else _BLACK

    def wide(x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Half the width at x (fraction of the length): round corners in plan."""
        s = np.abs(x) / 0.5
        loss = np.where(x > 0, form.taper[0], form.taper[1])
        return np.asarray(half * (1.0 - loss * np.clip((s - 0.45) / 0.55, 0.0, 1.0) ** 3))

    # The lower body: nine lines from the middle of the bonnet over the shoulder to the sill.
    x = np.array(
        [-0.5, -0.488, -0.46, -0.42, -0.37, -0.3, -0.2, -0.08, 0.08, 0.18, 0.26, 0.32, 0.37, 0.41, 0.445, 0.47, 0.49, 0.5]
    )
    z = np.interp(
        x,
        [-0.5, -0.46, form.deck, form.cowl, 0.42, 0.47, 0.5],
        [form.tail - 0.07, form.tail, form.belt, form.bonnet, form.nose + 0.06, form.nose, form.nose - 0.08],
    )
    low = np.interp(x, [-0.5, -0.44, 0.42, 0.5], [0.2, 0.12, 0.12, 0.17])
    w = wide(x)
    crown = 0.045 * np.clip((0.5 - np.abs(x)) / 0.1, 0.0, 1.0)
    rise = np.array([1.0, 0.7, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    bow = np.array([-float(own.uniform(0.08, 0.2)), float(own.uniform(0.15, 0.38))])
    bowed = np.where(x > 0, bow[1], bow[0]) * np.clip((np.abs(x) - 0.25) / 0.25, 0.0, 1.0) ** 2
    rings = np.empty((len(x), len(_ACROSS), 3))
    rings[..., 0] = (x * 2 * el)[:, None] - bowed[:, None] * np.where(np.arange(9) < 5, _ACROSS, 1.0) ** 2
    rings[..., 1] = w[:, None] * _ACROSS
    rings[..., 2] = height * (z[:, None] + (low - z)[:, None] * _DOWN) + crown[:, None] * rise
    tone = float(own.uniform(0.85, 1.0))
    lamp: Color = (0.75, 0.76, 0.74)

    lamp_face: Face = (lamp, (0.9, 0.88, 0.75) if lit else _DARK, GLASS)
    tail_face: Face = ((0.4, 0.02, 0.02), (0.4, 0.02, 0.01) if lit else (0.04, 0.0, 0.0), GLASS)
    coat: Face = (paint, _DARK, GLOSS)
    bonnet: Face = (tuple(tone * c for c in paint), _DARK, GLOSS)  # type: ignore[assignment]
    black: Face = (_BLACK, _DARK, GLASS)

    def body(i: int, j: int) -> Face:
        if j == 7:
            return trim, _DARK, GLOSS
        if i >= len(x) - 3 and j in (3, 4):
            return lamp_face
        if i <= 1 and j in (3, 4):
            return tail_face
        return bonnet if j < 2 and x[i] >= form.cowl - 0.02 else coat

    grille = int(own.integers(3))

    def front(i: int, j: int) -> Face:
        if i == 0:
            return lamp_face if j >= 2 else (black if grille else coat)
        return black if (i == 2 and j < 3) or (i == 1 and j == 0 and grille == 2) else coat

    def rear(i: int, j: int) -> Face:
        return tail_face if i == 0 and j >= 2 else ((trim, _DARK, GLOSS) if i == 3 else coat)

    _loft(m, rings, body)
    _cap(m, rings[-1], bow[1], True, front)
    _cap(m, rings[0], bow[0], False, rear)
    plate: Color = (0.75, 0.75, 0.72)
    m.front(el + 0.012, -0.26, 0.26, 0.27 * height, 0.27 * height + 0.11, plate)
    m.rear(-el - 0.012, -0.26, 0.26, 0.4 * height, 0.4 * height + 0.11, plate)
    _cabin(m, form, el, height, wide, own, paint, top)
    for s in (-1.0, 1.0):
        for at in (0.305, -0.29):
            radius = 0.5 * 0.37 * height
            m.wheel(at * length, s * (half + 0.006), 1.12 * radius, hub=_BLACK)
            m.wheel(at * length, s * (half + 0.016), radius, hub=_STEEL if own.random() < 0.7 else _BLACK)
        foot = (form.cowl - 0.035) * 2 * el
        inside, outside = float(wide(np.array(form.cowl))) * 0.93, half + _MIRROR
        a, b = sorted((s * inside, s * outside))
        m.box(foot - 0.1, foot + 0.06, a, b, form.belt * height + 0.02, form.belt * height + 0.17, trim, kind=GLOSS)
    return m


def _cabin(
    m: Mesh,
    form: Form,
    el: float,
    height: float,
    wide: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    rng: np.random.Generator,
    paint: Color,
    top: Color,
) -> None:
    """Windscreen, roof, windows and pillars above the window sill."""
    front = np.linspace(form.cowl, form.header, 8)
    roof = np.linspace(form.header, form.crest, 9)[1:-1]
    back = np.linspace(form.crest, form.deck, 7)
    x = np.concatenate([front, roof, back])[::-1]
    rise = np.interp(x, [form.deck, form.crest, form.header, form.cowl], [0.0, 0.97, 0.97, 0.0])
    inside = np.clip((x - form.crest) / (form.header - form.crest), 0.0, 1.0)
    arch = 4 * inside * (1 - inside)
    # Glass is curved: it bulges between its foot and its head.
    for lo, hi in ((form.deck, form.crest), (form.cowl, form.header)):
        s = np.clip((x - lo) / (hi - lo), 0.0, 1.0)
        rise = rise + 0.1 * s * (1 - s)
    base = np.interp(x, [form.deck, form.cowl], [form.belt, form.bonnet]) - 0.01
    z = height * (base + (0.985 - base) * np.clip(rise + 0.03 * arch, 0.0, 1.0))
    sill = height * np.minimum(base, form.belt)
    foot = 0.93 * wide(x)
    # The higher, the narrower.
    brow = foot * (1.0 - form.lean * (z - sill) / (0.4 * height)) - 0.02
    across = (0.0, 0.3, 0.55, 0.75, 0.87, 0.95)
    crown = 0.015 * height
    rings = np.empty((len(x), 9, 3))
    rings[..., 0] = (x * 2 * el)[:, None]
    for j in range(6):
        rings[:, j, 1] = brow * across[j]
        rings[:, j, 2] = z - crown * (across[j] / 0.95) ** 2
    for j, share in ((6, 0.08), (7, 0.55), (8, 1.0)):
        y0, z0 = brow, z - 0.025 * height * (rise > 0.2)
        bulge = 0.02 * (4 * share * (1 - share))
        rings[:, j, 1] = y0 + (foot - y0) * share + bulge
        rings[:, j, 2] = np.maximum(sill, z0 + (sill - z0) * share)
    pillar = float(rng.uniform(-0.04, 0.02))
    third = float(rng.uniform(-0.24, -0.19)) if form.crest < -0.25 else np.inf  # the pillar behind the rear doors; none
    clear = float(rng.uniform(1.0, 4.0))
    pane: Color = tuple(clear * c for c in _PANE)  # type: ignore[assignment]
    glass_roof = rng.random() < 0.12
    frame = paint if rng.random() < 0.55 else _BLACK
    centre = 0.5 * (x[:-1] + x[1:])

    def face(i: int, j: int) -> Face:
        at = centre[i]
        if j >= 6:  # the sides
            if at > form.header + 0.6 * (form.cowl - form.header) or at < form.crest - 0.4 * (form.crest - form.deck):
                return paint, _DARK, GLOSS
            if min(abs(at - pillar), abs(at - third)) < 0.022:
                return frame, _DARK, GLOSS
            return pane, _DARK, GLASS
        if j >= 4:
            return (top if form.crest < at < form.header else paint), _DARK, GLOSS
        if at > form.header:
            return (_BLACK if i == len(centre) - 1 or j == 3 else pane), _DARK, GLASS
        if at < form.crest:
            return (paint, _DARK, GLOSS) if i == 0 and form.deck < -0.42 else (pane, _DARK, GLASS)
        if glass_roof and j < 3:
            return _PANE, _DARK, GLASS
        return top, _DARK, GLOSS

    _loft(m, rings, face)
    level = 0.992 * height
    if not glass_roof and rng.random() < 0.25:
        m.box(*_patch(form, el, 0.55, 0.85), -0.36, 0.36, level - 0.03, level, _PANE, kind=GLASS)
    if rng.random() < 0.35 and form.crest < -0.25:
        x0, x1 = _patch(form, el, 0.06, 0.92)
        rail = _STEEL if rng.random() < 0.5 else _BLACK
        for centre_y in (-0.86 * float(brow.max()), 0.86 * float(brow.max())):
            m.box(x0, x1, centre_y - 0.025, centre_y + 0.025, 0.96 * height, height, rail, kind=GLOSS)


def _patch(form: Form, el: float, a: float, b: float) -> tuple[float, float]:
    """x of two places along the roof, 0 its rear and 1 its front edge."""
    return (form.crest + a * (form.header - form.crest)) * 2 * el, (form.crest + b * (form.header - form.crest)) * 2 * el
