"""One seeded world: ground, scenery, labelled objects and their motion, and the ego vehicle's drive through it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from bevstack.errors import SourceError
from bevstack.geometry import DETECTION_CLASSES, Matrix, pose, rotation_z

from . import shapes
from .bodywork import curved_car
from .layout import EXTENT, PAVEMENT, Layout, Path, mip_chain, paint_ground
from .raster import Scene
from .styles import STYLES, Style
from .traffic import VEHICLE, WALKER, Trajectories

EGO_SIZE = (4.1, 1.75, 1.6)  # a compact car; it is never drawn
REAR_AXLE = 1.0  # metres from the rear bumper's inside to the ego origin

_PARKED = {"car": 1.0, "truck": 0.18, "trailer": 0.22, "bus": 0.14, "motorcycle": 0.0}
_DRIVING = {
    "car": 1.0,
    "truck": 0.2,
    "bus": 0.18,
    "trailer": 0.0,
    "motorcycle": 0.2,
    "bicycle": 0.24,
    "construction_vehicle": 0.06,
}


def seeded(seed: int, *tags: int) -> np.random.Generator:
    """The generator of one purpose (``tags``) of one seed; all randomness of this room comes from here."""
    return np.random.default_rng([0x51A, seed, *tags])


class _Items:
    """Collects drawable things: meshes, poses and labels."""

    def __init__(self) -> None:
        self.corners: list[NDArray[np.float32]] = []
        self.colors: list[NDArray[np.float32]] = []
        self.glow: list[NDArray[np.float32]] = []
        self.kinds: list[NDArray[np.int64]] = []
        self.poses: list[tuple[float, float, float]] = []
        self.labels: list[int] = []
        self.sizes: list[tuple[float, float, float]] = []
        self.agents: list[int] = []

    def add(
        self,
        mesh: shapes.Mesh,
        at: tuple[float, float, float],
        *,
        label: int = -1,
        size: tuple[float, float, float] = (0.0, 0.0, 0.0),
        agent: int = -1,
    ) -> None:
        self.corners.append(mesh.array())
        self.colors.append(np.array(mesh.colors, np.float32))
        self.glow.append(np.array(mesh.glow, np.float32))
        self.kinds.append(np.array(mesh.kinds, np.int64))
        self.poses.append(at)
        self.labels.append(label)
        self.sizes.append(size)
        self.agents.append(agent)


class World:
    """Everything that can be seen, at any time of the drive.

    Args:
        seed: any non-negative integer. Same seed and arguments: same world.
        style: a name from ``STYLES``; None draws one from the seed.
        duration: seconds of motion to prepare.
        density: multiplies the number of labelled objects.
        class_weights: multiplies the number of objects of single classes, by class name.
        curved: cars have curved, glossy bodies (``bodywork``), drawn more slowly; all else stays the same.

    Attributes:
        label: (M,) class index of each item, -1 for scenery. ``size``: (M, 3) length, width, height in metres.
        scene: the items' quads.

    Raises:
        SourceError: unknown style or class name, or a bad number.
    """

    def __init__(
        self,
        seed: int,
        *,
        style: str | None = None,
        duration: float = 30.0,
        density: float = 1.0,
        class_weights: Mapping[str, float] | None = None,
        curved: bool = False,
    ) -> None:
        if style is not None and style not in STYLES:
            raise SourceError(f"simulated drive: no style {style!r}; choose one of {', '.join(STYLES)}")
        unknown = sorted(set(class_weights or ()) - set(DETECTION_CLASSES))
        if unknown:
            raise SourceError(
                f"simulated drive: class_weights has no class {unknown[0]!r}; choose from {', '.join(DETECTION_CLASSES)}"
            )
        if not 0.0 <= density <= 10.0:
            raise SourceError(f"simulated drive: density is {density}; give 0 to 10")
        self.seed = seed
        names = list(STYLES)
        self.style: Style = STYLES[style] if style else STYLES[names[int(seeded(seed, 0).integers(len(names)))]]
        self.duration = duration
        self.density = density
        self._weights = {name: float((class_weights or {}).get(name, 1.0)) for name in DETECTION_CLASSES}
        self.layout = Layout(self.style, seeded(seed, 1))
        self.ground, self.ground_levels = mip_chain(paint_ground(self.layout, seeded(seed, 2)))
        self._build = partial(shapes.build, cars=curved_car if curved else shapes.car)
        items = _Items()
        self._lamps: list[tuple[float, float]] = []
        self._scenery(items, seeded(seed, 3))
        self._kerbside(items, seeded(seed, 4))
        self._moving(items, seeded(seed, 5))
        self._freeze(items)
        self.lamps = np.array(self._lamps).reshape(-1, 2)

    # Construction ---------------------------------------------------------------------------------------------------------

    def _edges(self) -> list[tuple[int, int, float, float, float]]:
        """Stretches of road between crossings: (axis, road index, centre position, from, to) in grid coordinates."""
        out = []
        for axis, own, other in ((0, self.layout.x_roads, self.layout.y_roads), (1, self.layout.y_roads, self.layout.x_roads)):
            cuts = [
                -EXTENT / 2 + 8,
                *[v for r in other for v in (r.position - r.half - 6, r.position + r.half + 6)],
                EXTENT / 2 - 8,
            ]
            for k, road in enumerate(own):
                out += [(axis, k, road.position, a, b) for a, b in zip(cuts[0::2], cuts[1::2], strict=True)]
        return out

    def _place(self, axis: int, across: float, along: float, toward: float = 1.0) -> tuple[float, float, float]:
        """World (x, y, yaw) of a grid point beside a road; yaw runs along the road (``toward`` -1: the other way)."""
        point = np.array([across, along]) if axis == 0 else np.array([along, across])
        direction = toward * (np.array([0.0, 1.0]) if axis == 0 else np.array([1.0, 0.0]))
        x, y = self.layout.bend(point)
        return float(x), float(y), self.layout.direction(point, direction)

    def _scenery(self, items: _Items, rng: np.random.Generator) -> None:
        style = self.style
        for axis, index, centre, a, b in self._edges():
            road = (self.layout.x_roads if axis == 0 else self.layout.y_roads)[index]
            for side in (-1.0, 1.0):
                q = a + rng.uniform(0, 4)
                face = centre + side * (road.half + PAVEMENT + style.setback)
                while q < b - 6:
                    width = float(min(rng.uniform(9, 26), b - q))
                    if width > 6 and rng.random() < style.building_fill:
                        depth = float(rng.uniform(8, 14))
                        x, y, yaw = self._place(axis, face + side * depth / 2, q + width / 2)
                        self._building(items, rng, (x, y, yaw), width, depth)
                    q += width + rng.uniform(0.0, 5.0)
                kerb = centre + side * (road.half + 0.8)
                for _ in range(rng.poisson(style.tree_fill * (b - a) / 10)):
                    x, y, yaw = self._place(axis, kerb + side * rng.choice([0.0, PAVEMENT + 0.3]), rng.uniform(a, b))
                    self._tree(items, rng, (x, y, yaw))
                for q in np.arange(a + 8, b - 4, 28.0):
                    if (side > 0) == (int(q / 28) % 2 == 0):
                        x, y, yaw = self._place(axis, centre + side * (road.half + 0.5), q)
                        self._lamp(items, (x, y, yaw + np.pi / 2 * (1 if side * (1 if axis == 0 else -1) > 0 else -1)))
                if rng.random() < 0.6:
                    x, y, yaw = self._place(axis, kerb, b - 1.0 if side * (1 if axis == 0 else -1) > 0 else a + 1.0)
                    self._sign(items, rng, (x, y, yaw))

    def _building(
        self, items: _Items, rng: np.random.Generator, at: tuple[float, float, float], width: float, depth: float
    ) -> None:
        style = self.style
        height = float(rng.uniform(*style.building_height))
        base = np.array(style.facades[rng.integers(len(style.facades))]) * rng.uniform(0.8, 1.15)
        color: shapes.Color = tuple(np.clip(base, 0.02, 0.9))  # type: ignore[assignment]
        m = shapes.Mesh()
        w, d = width / 2, depth / 2
        gable = style.building_height[1] < 10 and rng.random() < 0.7
        roof: shapes.Color = ((0.3, 0.12, 0.08), (0.15, 0.14, 0.14), (0.22, 0.16, 0.12))[rng.integers(3)]
        m.box(-w, w, -d, d, 0.0, height, color, top=roof, kind=shapes.FACADE)
        if gable:
            top = height + 0.35 * depth
            m.quad([[w, d, height], [-w, d, height], [-w, 0, top], [w, 0, top]], roof)
            m.quad([[-w, -d, height], [w, -d, height], [w, 0, top], [-w, 0, top]], roof)
            m.quad([[w, -d, height], [w, d, height], [w, 0, top], [w, 0, top]], color)
            m.quad([[-w, d, height], [-w, -d, height], [-w, 0, top], [-w, 0, top]], color)
        elif rng.random() < 0.5:
            m.box(-0.3 * w, 0.3 * w, -0.4 * d, 0.4 * d, height, height + 2.5, tuple(0.8 * c for c in color))  # type: ignore[arg-type]
        items.add(m, at)

    def _tree(self, items: _Items, rng: np.random.Generator, at: tuple[float, float, float]) -> None:
        m = shapes.Mesh()
        height = float(rng.uniform(4.5, 9.0))
        color = np.array(self.style.foliage[rng.integers(len(self.style.foliage))])
        m.box(-0.13, 0.13, -0.13, 0.13, 0.0, 0.45 * height, (0.16, 0.11, 0.07))
        conifer = rng.random() < 0.25
        for k in range(3 if conifer else 4):
            c: shapes.Color = tuple(np.clip(color * rng.uniform(0.75, 1.25), 0, 1))  # type: ignore[assignment]
            if conifer:
                r, z0, z1 = 1.7 - 0.45 * k, (0.2 + 0.24 * k) * height, (0.55 + 0.24 * k) * height
                m.frustum((-r, r, -r, r), z0, (-0.1, 0.1, -0.1, 0.1), z1, c, kind=shapes.FOLIAGE, bottom=True)
            else:
                r = rng.uniform(0.9, 1.5)
                x, y, z = rng.uniform(-0.8, 0.8), rng.uniform(-0.8, 0.8), height * rng.uniform(0.55, 0.85)
                for low, high, z0, z1 in (
                    (0.55 * r, r, z - r, z - 0.35 * r),
                    (r, r, z - 0.35 * r, z + 0.35 * r),
                    (r, 0.5 * r, z + 0.35 * r, z + r),
                ):
                    m.frustum(
                        (x - low, x + low, y - low, y + low),
                        z0,
                        (x - high, x + high, y - high, y + high),
                        z1,
                        c,
                        kind=shapes.FOLIAGE,
                        bottom=True,
                    )
        items.add(m, (at[0], at[1], float(rng.uniform(0, 6.28))))

    def _lamp(self, items: _Items, at: tuple[float, float, float]) -> None:
        m = shapes.Mesh()
        grey: shapes.Color = (0.25, 0.26, 0.27)
        m.box(-0.07, 0.07, -0.07, 0.07, 0.0, 7.0, grey)
        m.box(-0.05, 2.2, -0.05, 0.05, 6.9, 7.0, grey)
        lit = self.style.light != "day"
        m.box(1.6, 2.3, -0.14, 0.14, 6.75, 6.9, (0.7, 0.7, 0.65), glow=(2.0, 1.6, 0.9) if lit else (0.0, 0.0, 0.0), bottom=True)
        self._lamps.append((at[0] + 1.9 * np.cos(at[2]), at[1] + 1.9 * np.sin(at[2])))
        items.add(m, at)

    def _sign(self, items: _Items, rng: np.random.Generator, at: tuple[float, float, float]) -> None:
        m = shapes.Mesh()
        m.box(-0.03, 0.03, -0.03, 0.03, 0.0, 2.9, (0.4, 0.4, 0.4))
        color: shapes.Color = ((0.6, 0.03, 0.03), (0.05, 0.15, 0.5), (0.7, 0.55, 0.02))[rng.integers(3)]
        m.box(-0.04, 0.04, -0.32, 0.32, 2.2, 2.85, color)
        items.add(m, at)

    def _draw(
        self,
        items: _Items,
        rng: np.random.Generator,
        label: str,
        at: tuple[float, float, float],
        agent: int = -1,
        rider: bool = False,
    ) -> tuple[float, float, float]:
        size, mesh = self._build(label, rng, rider=rider)
        items.add(mesh, at, label=DETECTION_CLASSES.index(label), size=size, agent=agent)
        return size

    def _pick(self, rng: np.random.Generator, table: Mapping[str, float]) -> str | None:
        """A class by weight; None where all weights are zero. Weights above one raise a class's share, not the total."""
        names = list(table)
        weights = np.array([table[n] * self._weights[n] for n in names])
        if weights.sum() <= 0:
            return None
        return names[int(rng.choice(len(names), p=weights / weights.sum()))]

    def _kerbside(self, items: _Items, rng: np.random.Generator) -> None:
        """Parked vehicles, road works, bicycle racks, standing people."""
        style = self.style
        for axis, index, centre, a, b in self._edges():
            road = (self.layout.x_roads if axis == 0 else self.layout.y_roads)[index]
            for side in (-1.0, 1.0):
                toward = side if axis == 0 else -side  # traffic keeps right
                lane = centre + side * (road.half - 1.25)
                q, end = a + 3.0, b - 3.0
                works = rng.random() < min(0.9, 0.3 * style.works * self.density)
                if works and end - q > 24:
                    span = float(rng.uniform(18, min(40, end - q)))
                    start = float(rng.uniform(q, end - span))
                    self._works(items, rng, axis, centre + side * road.half, side, toward, start, start + span)
                    spans = [(q, start - 2), (start + span + 2, end)]
                else:
                    spans = [(q, end)]
                for q, stop in spans:
                    while q < stop - 4:
                        label = (
                            self._pick(rng, _PARKED) if rng.random() < min(0.95, 0.5 * style.parked * self.density) else None
                        )
                        if label is None:
                            q += rng.uniform(3, 8)
                            continue
                        size, mesh = self._build(label, rng)
                        if q + size[0] > stop:
                            break
                        way = toward if rng.random() < 0.9 else -toward
                        x, y, yaw = self._place(axis, lane + side * max(0.0, (size[1] - 2.1) * 0.5), q + size[0] / 2, way)
                        items.add(mesh, (x, y, yaw + rng.normal(0, 0.02)), label=DETECTION_CLASSES.index(label), size=size)
                        q += size[0] + rng.uniform(0.8, 3.0)
                walk = centre + side * (road.half + 0.9)
                for label, mean in (("bicycle", 0.5), ("motorcycle", 0.4)):
                    for _ in range(min(3, rng.poisson(mean * self._weights[label] * self.density))):
                        q = rng.uniform(a + 2, b - 6)
                        for k in range(int(rng.integers(1, 4))):
                            x, y, yaw = self._place(axis, walk + side * rng.uniform(0, 0.5), q + 1.0 * k, toward)
                            self._draw(items, rng, label, (x, y, yaw + np.pi / 2 + rng.normal(0, 0.2)))
                for _ in range(rng.poisson(0.7 * style.people * self._weights["pedestrian"] * self.density)):
                    x, y, yaw = self._place(
                        axis, centre + side * (road.half + rng.uniform(0.5, PAVEMENT + 0.5)), rng.uniform(a, b)
                    )
                    self._draw(items, rng, "pedestrian", (x, y, float(rng.uniform(-np.pi, np.pi))))

    def _works(
        self, items: _Items, rng: np.random.Generator, axis: int, kerb: float, side: float, toward: float, a: float, b: float
    ) -> None:
        """Road works on the parking lane from a to b: barriers towards traffic, cones at the ends, machines and workers."""
        edge = kerb - side * 2.75
        n = int((b - a - 6) / 2.9)
        planks = rng.random() < 0.75
        for k in range(n):
            if rng.random() < min(1.0, (0.8 if planks else 0.25) * self._weights["barrier"]):
                x, y, yaw = self._place(axis, edge, a + 4 + 2.9 * k, toward)
                self._draw(items, rng, "barrier", (x, y, yaw + np.pi / 2 + rng.normal(0, 0.04)))
            elif rng.random() < min(1.0, 0.8 * self._weights["traffic_cone"]):
                x, y, yaw = self._place(axis, edge, a + 4 + 2.9 * k, toward)
                self._draw(items, rng, "traffic_cone", (x, y, yaw))
        for end, sign in ((a, 1.0), (b, -1.0)):
            for k in range(4):
                if rng.random() < min(1.0, 0.85 * self._weights["traffic_cone"]):
                    x, y, yaw = self._place(axis, kerb - side * (0.4 + 0.75 * k), end + sign * 1.1 * k, toward)
                    self._draw(items, rng, "traffic_cone", (x, y, float(rng.uniform(0, 6))))
        q = a + 7.0
        while q < b - 9:
            label = self._pick(rng, {"construction_vehicle": 1.0, "truck": 0.15, "trailer": 0.15})
            if label is None:
                break
            size, mesh = self._build(label, rng)
            if q + size[0] > b - 4:
                break
            x, y, yaw = self._place(
                axis,
                kerb - side * 1.1 + side * max(0.0, 0.5 * size[1] - 1.2),
                q + size[0] / 2,
                toward if rng.random() < 0.5 else -toward,
            )
            items.add(mesh, (x, y, yaw + rng.normal(0, 0.1)), label=DETECTION_CLASSES.index(label), size=size)
            q += size[0] + rng.uniform(4, 10)
        for _ in range(rng.poisson(1.2 * self._weights["pedestrian"])):
            x, y, _ = self._place(axis, kerb - side * rng.uniform(0.3, 2.2), rng.uniform(a + 3, a + 6.5), toward)
            self._draw(items, rng, "pedestrian", (x, y, float(rng.uniform(-np.pi, np.pi))))

    def _moving(self, items: _Items, rng: np.random.Generator) -> None:
        style, layout = self.style, self.layout
        nx, ny = len(layout.x_roads), len(layout.y_roads)
        paths: list[Path] = []
        path_of, kinds, start, cruise, sizes = [], [], [], [], []

        def agent(path: Path, kind: int, s: float, v: float, size: tuple[float, float, float]) -> int:
            paths.append(path)
            path_of.append(len(paths) - 1)
            kinds.append(kind)
            start.append(s % path.length)
            cruise.append(v)
            sizes.append(size)
            return len(sizes) - 1

        def loop(lane: int, shift: float = 0.0) -> Path:
            i = np.sort(rng.choice(nx, 2, replace=False))
            j = np.sort(rng.choice(ny, 2, replace=False))
            return layout.loop((int(i[0]), int(i[1])), (int(j[0]), int(j[1])), bool(rng.random() < 0.5), lane, shift)

        ego_path = loop(0)
        agent(ego_path, VEHICLE, rng.uniform(0, ego_path.length), rng.uniform(7.0, 10.5), EGO_SIZE)
        loops = [loop(k % 2) for k in range(14)]
        bicycle_loops = [loop(1, 1.2) for _ in range(6)]
        used: list[list[tuple[float, float]]] = [[] for _ in range(20)]
        for _ in range(int(64 * style.traffic * self.density)):
            label = self._pick(rng, _DRIVING)
            if label is None:
                break
            slow = label == "bicycle"
            k = int(rng.integers(6)) + 14 if slow else int(rng.integers(14))
            path = bicycle_loops[k - 14] if slow else loops[k]
            s = float(rng.uniform(0, path.length))
            size, mesh = self._build(label, rng, rider=True)
            clear = 0.5 * size[0] + 4.0
            if any(min(abs(s - o), path.length - abs(s - o)) < clear + half for o, half in used[k]):
                continue
            here = path.points[int(s / path.length * len(path.points)) % len(path.points)]
            ego_at = ego_path.points[int(start[0] / ego_path.length * len(ego_path.points)) % len(ego_path.points)]
            if np.hypot(*(here - ego_at)) < 12:
                continue
            used[k].append((s, clear))
            v = {"bicycle": rng.uniform(3.0, 5.5), "construction_vehicle": 4.5}.get(label, rng.uniform(6.5, 12.0))
            number = agent(path, VEHICLE, s, float(v), size)
            items.add(mesh, (0.0, 0.0, 0.0), label=DETECTION_CLASSES.index(label), size=size, agent=number)
        people = style.people * self.density * self._weights["pedestrian"]
        for _ in range(int(85 * people)):
            i, j = int(rng.integers(nx - 1)), int(rng.integers(ny - 1))
            path = layout.block_walk(i, j, bool(rng.random() < 0.5), float(rng.uniform(0.7, PAVEMENT - 0.4)))
            s = float(rng.uniform(0, path.length))
            v = float(rng.uniform(0.8, 1.7))
            for k in range(1 + int(rng.random() < 0.2)):
                size, mesh = self._build("pedestrian", rng)
                number = agent(path, WALKER, s + 0.95 * k, v, size)
                items.add(mesh, (0.0, 0.0, 0.0), label=DETECTION_CLASSES.index("pedestrian"), size=size, agent=number)
        for _ in range(int(22 * people)):
            path = layout.crossing_walk(
                int(rng.integers(nx)), int(rng.integers(ny)), int(rng.integers(4)), float(rng.uniform(-1.2, 1.2))
            )
            size, mesh = self._build("pedestrian", rng)
            number = agent(path, WALKER, float(rng.uniform(0, path.length)), float(rng.uniform(0.8, 1.6)), size)
            items.add(mesh, (0.0, 0.0, 0.0), label=DETECTION_CLASSES.index("pedestrian"), size=size, agent=number)
        self.motion = Trajectories(
            paths,
            np.array(path_of, np.int64),
            np.array(kinds, np.int64),
            np.array(start),
            np.array(cruise),
            np.array(sizes),
            self.duration + 1.0,
        )

    def _freeze(self, items: _Items) -> None:
        count = np.array([len(c) for c in items.corners], np.int64)
        first = np.concatenate([[0], np.cumsum(count)[:-1]]).astype(np.int64)
        corners = np.concatenate(items.corners)
        a, b, c = (corners[:, k] - corners[:, 0] for k in (1, 2, 3))
        normal = np.cross(a, b) + np.cross(b, c)
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
        middle = corners.mean(axis=1, keepdims=True)
        self.scene = Scene(
            first,
            count,
            radius=np.maximum.reduceat(np.linalg.norm(corners, axis=2).max(axis=1), first).astype(np.float64),
            corners=corners,
            normal=normal.astype(np.float32),
            reach=np.linalg.norm(corners - middle, axis=2).max(axis=1).astype(np.float32),
            color=np.concatenate(items.colors),
            glow=np.concatenate(items.glow),
            kind=np.concatenate(items.kinds),
        )
        self.rest = np.array(items.poses, np.float64).reshape(-1, 3)
        self.label = np.array(items.labels, np.int64)
        self.size = np.array(items.sizes, np.float64).reshape(-1, 3)
        self.agent = np.array(items.agents, np.int64)

    # State at a time ------------------------------------------------------------------------------------------------------

    def item_states(self, t: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(M, 3) world x, y, yaw and (M, 2) world velocity of every item at ``t`` seconds."""
        states, velocity = self.rest.copy(), np.zeros((len(self.rest), 2))
        moving = self.agent >= 0
        p, yaw, v = self.motion.at(t)
        index = self.agent[moving]
        states[moving, :2], states[moving, 2], velocity[moving] = p[index], yaw[index], v[index]
        return states, velocity

    def ego_yaw_rate(self, t: float) -> float:
        """Radians per second, anticlockwise."""
        before, after = self.motion.at(t - 0.03, slice(0, 1))[1][0], self.motion.at(t + 0.03, slice(0, 1))[1][0]
        return float(np.arctan2(np.sin(after - before), np.cos(after - before)) / 0.06)

    def ego_pose(self, t: float) -> Matrix:
        """T_world_ego (4, 4): the rear axle on the ground, at ``t`` seconds."""
        p, yaw, _ = self.motion.at(t, slice(0, 1))
        back = 0.5 * EGO_SIZE[0] - REAR_AXLE
        heading = np.array([np.cos(yaw[0]), np.sin(yaw[0])])
        x, y = p[0] - back * heading
        return pose(rotation_z(float(yaw[0])), (x, y, 0.0))
