"""Curved cars: inside their box, closed, symmetric, the same world around them; gloss that mirrors the sky."""

from __future__ import annotations

import numpy as np
import pytest

from bevstack.frames.sim.bodywork import curved_car
from bevstack.frames.sim.raster import Drawn, Scene, View
from bevstack.frames.sim.shading import Light, light_quads
from bevstack.frames.sim.shapes import GLASS, GLOSS, PLAIN, Mesh, build
from bevstack.frames.sim.world import World


def _cars(count: int) -> list[tuple[tuple[float, float, float], Mesh]]:
    rng = np.random.default_rng(0)
    return [build("car", rng, cars=curved_car) for _ in range(count)]


def test_every_part_is_inside_the_box() -> None:
    for size, mesh in _cars(80):
        quads = mesh.array()
        low, high = quads.min((0, 1)), quads.max((0, 1))
        np.testing.assert_array_less(np.abs(quads[..., :2]).max((0, 1)), np.array(size[:2]) / 2 + 0.01)
        assert low[2] >= -0.011
        assert high[2] <= size[2] + 0.005
        # And the box is not too large for it.
        np.testing.assert_allclose(high - low, size, rtol=0.05)


def test_faces_look_outwards_and_enclose_what_a_car_encloses() -> None:
    """Volume by the divergence theorem, from the faces' x: an open bottom counts for nothing, a face turned inwards does."""
    for size, mesh in _cars(40):
        q = mesh.array().astype(np.float64)
        normal = 0.5 * np.cross(q[:, 2] - q[:, 0], q[:, 3] - q[:, 1])  # times area
        for axis in (0, 1):
            volume = float((q[..., axis].mean(1) * normal[:, axis]).sum())
            assert 0.45 < volume / np.prod(size) < 0.85, axis


def test_left_and_right_are_alike() -> None:
    for _, mesh in _cars(20):
        corners = np.round(mesh.array().reshape(-1, 3), 4) + 0.0
        mirrored = corners * (1, -1, 1) + 0.0
        assert {tuple(c) for c in corners.tolist()} == {tuple(c) for c in mirrored.tolist()}


def test_no_two_cars_are_alike_and_the_same_draw_gives_the_same_car() -> None:
    first, second = _cars(12), _cars(12)
    for (size, mesh), (again, twin) in zip(first, second):
        assert size == again
        np.testing.assert_array_equal(mesh.array(), twin.array())
    assert len({mesh.array().tobytes() for _, mesh in first}) == 12


@pytest.mark.parametrize("seed", [1, 6])
def test_the_world_around_them_stays_the_same(seed: int) -> None:
    flat, curved = World(seed, duration=1.0), World(seed, duration=1.0, curved=True)
    np.testing.assert_array_equal(flat.label, curved.label)
    np.testing.assert_array_equal(flat.size, curved.size)
    np.testing.assert_array_equal(flat.item_states(0.5)[0], curved.item_states(0.5)[0])
    cars = flat.label == 0
    assert (curved.scene.number[cars] > 3 * flat.scene.number[cars]).all()
    np.testing.assert_array_equal(curved.scene.number[~cars], flat.scene.number[~cars])
    assert set(np.unique(curved.scene.kind)) >= {PLAIN, GLOSS, GLASS}
    assert not np.isin(flat.scene.kind, (GLOSS, GLASS)).any()


def _brightness(height: float, away: float) -> dict[int, float]:
    """Radiance of three black plates on the ground, one of each kind, seen from above."""
    kinds = (PLAIN, GLOSS, GLASS)
    plate = np.array([[0.5, -0.5, 0], [0.5, 0.5, 0], [-0.5, 0.5, 0], [-0.5, -0.5, 0]], np.float32)
    n = len(kinds)
    scene = Scene(
        first=np.arange(n),
        number=np.ones(n, np.int64),
        radius=np.ones(n),
        corners=np.stack([plate] * n),
        normal=np.tile(np.array([[0, 0, 1]], np.float32), (n, 1)),
        reach=np.ones(n, np.float32),
        color=np.full((n, 3), 0.01, np.float32),
        glow=np.zeros((n, 3), np.float32),
        kind=np.array(kinds, np.int64),
    )
    drawn = Drawn(
        np.zeros((1, 1), np.float32),
        np.zeros((1, 1), np.int32),
        np.arange(n),
        np.arange(n),
        np.zeros((n, 3), np.float32),
        np.zeros((n, 3), np.float32),
        np.zeros(n, np.int64),
    )
    light = Light(
        sun=np.array([0.0, 0.6, 0.8]),
        sun_color=np.zeros(3),
        ambient=np.full(3, 0.5),
        ground=np.full(3, 0.5),
        bounce=0.1,
        headlight=0.0,
        dimming=np.ones(256, np.float32),
        glass=np.zeros(3),
        windows=0.0,
    )
    view = View(np.eye(3), np.array([-away, 0.0, height]), 100.0, 100.0, 50.0, 50.0)
    light_quads(n, view, scene, np.zeros((n, 3)), np.zeros(n), light, np.zeros(3), drawn)
    return {kind: float(drawn.lit[k, 0]) ** 2 for k, kind in enumerate(kinds)}


def test_gloss_and_glass_mirror_the_sky_and_more_so_at_grazing_angles() -> None:
    above, aslant = _brightness(10.0, 0.1), _brightness(1.5, 4.0)
    assert above[PLAIN] == pytest.approx(aslant[PLAIN])
    assert above[PLAIN] < above[GLOSS] < above[GLASS]
    # Schlick: 4 % of a sky of 1.3 times 0.5, head on.
    assert above[GLOSS] - above[PLAIN] == pytest.approx(0.04 * 0.65, abs=0.002)
    assert aslant[GLOSS] > 2 * above[GLOSS]
    assert aslant[GLASS] > aslant[GLOSS]
