"""Streets: a bent grid of two-way roads, the closed paths along them, and the painted ground seen from above."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .styles import Color, Style

F64 = NDArray[np.float64]

EXTENT = 400.0  # side of the square world, metres
TEXEL = 0.125  # ground map resolution, metres per texel
LANE = 3.6
PARKING = 2.8
PAVEMENT = 3.2


@dataclass(frozen=True)
class Road:
    """One straight road of the unbent grid: ``position`` of its centre line on the axis it does not run along."""

    position: float
    lanes: int  # per direction

    @property
    def carriageway(self) -> float:
        """Half width of the driven lanes."""
        return self.lanes * LANE

    @property
    def half(self) -> float:
        """Half width from kerb to kerb, with the parking lanes."""
        return self.carriageway + PARKING


@dataclass(frozen=True)
class Path:
    """A closed polyline sampled about every metre, in world metres.

    Attributes:
        points: (N, 2). ``tangent``: (N, 2) unit. ``length``: metres around.
        gate: (N,) distance in metres to the next stop line, and ``crossing``, ``approach``: (N,) which one (-1 none).
    """

    points: F64
    tangent: F64
    length: float
    gate: F64
    crossing: NDArray[np.int64]
    approach: NDArray[np.int64]


class Layout:
    """The road grid of one world. x-roads run along y at x = position; y-roads run along x."""

    def __init__(self, style: Style, rng: np.random.Generator) -> None:
        self.style = style
        self.x_roads = self._roads(rng)
        self.y_roads = self._roads(rng)
        self._phase = rng.uniform(0, 2 * np.pi, 4)
        self._wave = 2 * np.pi / rng.uniform(150, 230, 2)

    def _roads(self, rng: np.random.Generator) -> tuple[Road, ...]:
        gaps = rng.uniform(*self.style.block, size=3)
        positions = np.concatenate([[0.0], np.cumsum(gaps)])
        positions -= positions.mean()
        return tuple(Road(float(p), int(rng.choice(self.style.lanes))) for p in positions)

    def bend(self, points: F64) -> F64:
        """Grid coordinates (..., 2) to world metres."""
        x, y = points[..., 0], points[..., 1]
        a = self.style.warp
        dx = a * np.sin(self._wave[0] * y + self._phase[0])
        dy = a * np.sin(self._wave[1] * x + self._phase[1])
        return np.stack([x + dx, y + dy], axis=-1)

    def direction(self, point: F64, along: F64) -> float:
        """World heading of the grid direction ``along`` at a grid point, radians."""
        ends = self.bend(np.stack([point - 0.5 * along, point + 0.5 * along]))
        d = ends[1] - ends[0]
        return float(np.arctan2(d[1], d[0]))

    def loop(self, i: tuple[int, int], j: tuple[int, int], anticlockwise: bool, lane: int, shift: float = 0.0) -> Path:
        """Closed lane path around the rectangle of x-roads i[0], i[1] and y-roads j[0], j[1], on the right-hand side.

        ``lane`` counts from the centre line; ``shift`` moves further to the right (cyclists).
        """
        side = 1.0 if anticlockwise else -1.0

        def off(road: Road) -> float:
            return side * ((min(lane, road.lanes - 1) + 0.5) * LANE + shift)

        left, right = self.x_roads[i[0]], self.x_roads[i[1]]
        low, high = self.y_roads[j[0]], self.y_roads[j[1]]
        rectangle = (left.position - off(left), right.position + off(right), low.position - off(low), high.position + off(high))
        return self._closed(_rounded(rectangle, 11.0 if anticlockwise else 6.5), anticlockwise, gates=True)

    def block_walk(self, i: int, j: int, anticlockwise: bool, inset: float) -> Path:
        """Closed pavement path around the block between x-roads i, i+1 and y-roads j, j+1, ``inset`` metres from the kerb."""
        a, b, c, d = self.x_roads[i], self.x_roads[i + 1], self.y_roads[j], self.y_roads[j + 1]
        rectangle = (
            a.position + a.half + inset,
            b.position - b.half - inset,
            c.position + c.half + inset,
            d.position - d.half - inset,
        )
        return self._closed(_rounded(rectangle, 2.0), anticlockwise, gates=False)

    def crossing_walk(self, i: int, j: int, leg: int, shift: float) -> Path:
        """There and back over the zebra on one leg (0 east, 1 north, 2 west, 3 south) of crossing (i, j)."""
        xr, yr = self.x_roads[i], self.y_roads[j]
        sign = 1.0 if leg in (0, 1) else -1.0
        if leg in (0, 2):
            x, reach = xr.position + sign * (xr.half + 2.5) + shift, yr.half + 1.5
            ends = np.array([[x, yr.position - reach], [x, yr.position + reach]])
        else:
            y, reach = yr.position + sign * (yr.half + 2.5) + shift, xr.half + 1.5
            ends = np.array([[xr.position - reach, y], [xr.position + reach, y]])
        side = 0.4 * np.array([-(ends[1] - ends[0])[1], (ends[1] - ends[0])[0]]) / np.linalg.norm(ends[1] - ends[0])
        corners = np.stack([ends[0] + side, ends[0] - side, ends[1] - side, ends[1] + side])
        return self._closed(corners, True, gates=False)

    def _closed(self, corners: F64, anticlockwise: bool, gates: bool) -> Path:
        points = corners if anticlockwise else corners[::-1]
        points = _resample(points, 0.5)
        world = _resample(self.bend(points), 1.0)
        ahead, behind = np.roll(world, -1, axis=0), np.roll(world, 1, axis=0)
        tangent = ahead - behind
        norm = np.linalg.norm(tangent, axis=1, keepdims=True)
        tangent /= np.maximum(norm, 1e-9)
        length = float(np.linalg.norm(ahead - world, axis=1).sum())
        n = len(world)
        gate, crossing, approach = np.full(n, 1e9), np.full(n, -1, np.int64), np.full(n, -1, np.int64)
        if gates:
            self._find_gates(points, n, length, gate, crossing, approach)
        return Path(world, tangent, length, gate, crossing, approach)

    def _find_gates(
        self, grid: F64, n: int, length: float, gate: F64, crossing: NDArray[np.int64], approach: NDArray[np.int64]
    ) -> None:
        """Marks for every sample the distance to the stop line of the next crossing."""
        xs = np.array([r.position for r in self.x_roads])
        ys = np.array([r.position for r in self.y_roads])
        xh = np.array([r.half for r in self.x_roads]) + 4.8
        yh = np.array([r.half for r in self.y_roads]) + 4.8
        in_x = np.abs(grid[:, None, 0] - xs) < xh
        in_y = np.abs(grid[:, None, 1] - ys) < yh
        inside = np.where(in_x.any(1) & in_y.any(1), in_x.argmax(1) * len(ys) + in_y.argmax(1), -1)
        entries = np.nonzero((inside >= 0) & (np.roll(inside, 1) != inside))[0]
        if len(entries) == 0:
            return
        scale = n / len(grid)
        for e in entries:
            step = grid[e] - grid[e - 1]
            leg = (0 if step[0] > 0 else 2) if abs(step[0]) > abs(step[1]) else (1 if step[1] > 0 else 3)
            position = e * scale
            distance = (position - np.arange(n)) % n * (length / n)
            nearer = distance < gate
            gate[nearer], crossing[nearer], approach[nearer] = distance[nearer], inside[e], leg


def _rounded(rectangle: tuple[float, float, float, float], radius: float) -> F64:
    """Corners of (x0, x1, y0, y1), anticlockwise, with arcs."""
    x0, x1, y0, y1 = rectangle
    parts = []
    for cx, cy, start in (
        (x1 - radius, y0 + radius, -90),
        (x1 - radius, y1 - radius, 0),
        (x0 + radius, y1 - radius, 90),
        (x0 + radius, y0 + radius, 180),
    ):
        a = np.deg2rad(start + np.linspace(0, 90, 13))
        parts.append(np.stack([cx + radius * np.cos(a), cy + radius * np.sin(a)], axis=1))
    return np.concatenate(parts)


def _resample(points: F64, step: float) -> F64:
    """Closed polyline with equal steps of about ``step`` metres."""
    closed = np.vstack([points, points[:1]])
    s = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(closed, axis=0), axis=1))])
    n = max(8, round(s[-1] / step))
    t = np.arange(n) * s[-1] / n
    return np.stack([np.interp(t, s, closed[:, 0]), np.interp(t, s, closed[:, 1])], axis=1)


def paint_ground(layout: Layout, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Reflectance seen from above: (N, N, 3) uint8, square-root coded; row 0 is y = -EXTENT/2, column 0 x = -EXTENT/2."""
    style = layout.style
    size = int(EXTENT / TEXEL)

    def code(c: Color) -> Color:
        return 255.0 * float(np.sqrt(c[0])), 255.0 * float(np.sqrt(c[1])), 255.0 * float(np.sqrt(c[2]))

    def pixels(points: F64) -> NDArray[np.int32]:
        return np.round((layout.bend(points) + EXTENT / 2) / TEXEL * 8).astype(np.int32)  # 3 fractional bits

    def strip(a: F64, b: F64, half: float) -> NDArray[np.int32]:
        n = max(2, int(np.linalg.norm(b - a) / 4))
        t = np.linspace(0, 1, n)[:, None]
        line = a + (b - a) * t
        d = (b - a) / np.linalg.norm(b - a)
        normal = half * np.array([-d[1], d[0]])
        return pixels(np.vstack([line + normal, (line - normal)[::-1]]))

    image = np.empty((size, size, 3), np.uint8)
    image[:] = np.round(code(style.verge))
    # Patches in the blocks, so that open ground is not one colour.
    for _ in range(140):
        p = rng.uniform(-EXTENT / 2, EXTENT / 2, 2)
        shade = np.array(code(style.verge)) * rng.uniform(0.8, 1.2)
        at = tuple(int(v) for v in (p + EXTENT / 2) / TEXEL)
        axes = tuple(int(v) for v in rng.uniform(3, 14, 2) / TEXEL)
        cv2.ellipse(image, at, axes, float(rng.uniform(0, 180)), 0, 360, shade.tolist(), -1)
    ends = EXTENT / 2 + 20
    roads = [(np.array([r.position, -ends]), np.array([r.position, ends]), r) for r in layout.x_roads]
    roads += [(np.array([-ends, r.position]), np.array([ends, r.position]), r) for r in layout.y_roads]

    def fill(polygon: NDArray[np.int32], color: Color) -> None:
        cv2.fillPoly(image, [polygon], color, cv2.LINE_AA, 3)

    for a, b, r in roads:
        fill(strip(a, b, r.half + PAVEMENT), code(style.pavement))
    kerb = code(_scaled(style.pavement, 0.75))
    for a, b, r in roads:
        fill(strip(a, b, r.half + 0.15), kerb)
    for a, b, r in roads:
        fill(strip(a, b, r.half), code(_scaled(style.asphalt, 1.12)))
    for a, b, r in roads:
        fill(strip(a, b, r.carriageway), code(style.asphalt))
    # Repairs and stains on the carriageway.
    for a, b, r in roads:
        for _ in range(14):
            t = rng.uniform(0, 1)
            d = (b - a) / np.linalg.norm(b - a)
            n = np.array([-d[1], d[0]])
            p = a + (b - a) * t + n * rng.uniform(-r.carriageway + 1, r.carriageway - 1)
            patch = strip(p, p + d * rng.uniform(2, 9), float(rng.uniform(0.4, 1.4)))
            fill(patch, code(_scaled(style.asphalt, float(rng.uniform(0.75, 1.2)))))
    _markings(layout, fill, strip, code)
    _speckle(image, rng)
    return image


def _scaled(color: Color, factor: float) -> Color:
    return color[0] * factor, color[1] * factor, color[2] * factor


def _markings(
    layout: Layout,
    fill: Callable[[NDArray[np.int32], Color], None],
    strip: Callable[[F64, F64, float], NDArray[np.int32]],
    code: Callable[[Color], Color],
) -> None:
    """Lane lines between crossings, stop lines, zebras; crossings themselves stay bare."""
    white, yellow = code((0.72, 0.72, 0.7)), code((0.65, 0.45, 0.08))
    for axis in (0, 1):
        own, other = (layout.x_roads, layout.y_roads) if axis == 0 else (layout.y_roads, layout.x_roads)

        def at(p: float, q: float, axis: int = axis) -> F64:
            return np.array([p, q]) if axis == 0 else np.array([q, p])

        cuts = [
            -EXTENT / 2 - 20,
            *[v for r in other for v in (r.position - r.half - 5.5, r.position + r.half + 5.5)],
            EXTENT / 2 + 20,
        ]
        for road in own:
            p = road.position
            for a, b in zip(cuts[0::2], cuts[1::2], strict=True):
                for off in (-0.12, 0.12):
                    fill(strip(at(p + off, a), at(p + off, b), 0.06), yellow if road.lanes > 1 else white)
                for side in (-1, 1):
                    fill(strip(at(p + side * road.carriageway, a), at(p + side * road.carriageway, b), 0.06), white)
                    for lane in range(1, road.lanes):
                        for q in np.arange(a, b - 3, 9.0):
                            fill(strip(at(p + side * lane * LANE, q), at(p + side * lane * LANE, q + 3), 0.07), white)
            for cross in other:
                for side in (-1, 1):
                    q = cross.position + side * (cross.half + 2.5)
                    for x in np.arange(-road.half + 0.5, road.half - 0.4, 1.0):
                        fill(strip(at(p + x, q - 1.5), at(p + x + 1e-6, q + 1.5), 0.25), white)
                    stop = cross.position + side * (cross.half + 5.0)
                    # Traffic keeps right: towards the crossing it drives on the side that depends on axis and direction.
                    x_side = side if axis == 0 else -side
                    x_side = -x_side
                    lo, hi = sorted((0.15 * x_side, x_side * road.carriageway))
                    fill(strip(at(p + lo, stop), at(p + hi, stop), 0.2), white)


def _speckle(image: NDArray[np.uint8], rng: np.random.Generator) -> None:
    """Multiplies the map by a slowly and a quickly varying texture, in place."""
    n = len(image)
    coarse = cv2.resize(rng.normal(0, 9.0, (n // 40, n // 40)).astype(np.float32), (n, n), interpolation=cv2.INTER_LINEAR)
    fine = np.tile(rng.normal(0, 12.8, (n // 8, n // 8)).astype(np.int16), (8, 8))
    # In 256ths of the brightness, so that the whole map is done in integers.
    factor = (256 + fine + coarse.astype(np.int16)).astype(np.float32)
    cv2.multiply(image, cv2.merge([factor, factor, factor]), dst=image, scale=1 / 256, dtype=cv2.CV_8U)


def mip_chain(image: NDArray[np.uint8], levels: int = 8) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Halved copies in one flat buffer (red in the low byte, then green, blue), and (levels, 2) offset and side of each."""
    parts: list[NDArray[np.uint32]] = []
    table: list[tuple[int, int]] = []
    offset, current = 0, image
    for _ in range(levels):
        side = len(current)
        parts.append(cv2.cvtColor(current, cv2.COLOR_RGB2RGBA).view(np.uint32).reshape(-1))
        table.append((offset, side))
        offset += side * side
        current = np.asarray(cv2.resize(current, (side // 2, side // 2), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    return np.concatenate(parts), np.array(table, np.int64)
