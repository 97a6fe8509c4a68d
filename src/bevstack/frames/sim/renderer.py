"""Pictures of a world: one camera, one time, any size and crop."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from bevstack.geometry import Camera, Matrix, yaw_of

from . import raster, shading
from .layout import EXTENT, TEXEL
from .raster import Drawn, View
from .shading import Ground, Light, Sky
from .shapes import FOLIAGE
from .world import World, seeded

_TONE_STEPS = 4096
_NOISE_SHIFT = 192
_SHADOW_RANGE = 110.0  # metres
_VISIBLE_RANGE = 75.0  # metres: objects of the truth and what may hide them
_CONTACT_SHADE = 150.0


class Renderer:
    """Draws one world. Buffers are reused, so calls wait for each other; for parallel drawing make one per thread."""

    def __init__(self, world: World) -> None:
        self.world = world
        style = world.style
        rng = seeded(world.seed, 7)
        elevation, strength = style.sun
        azimuth = float(rng.uniform(-np.pi, np.pi))
        e = np.deg2rad(elevation)
        sun = np.array([np.cos(e) * np.cos(azimuth), np.cos(e) * np.sin(azimuth), np.sin(e)])
        warm = np.array([1.0, 0.93, 0.82]) if style.light == "day" else np.array([1.0, 0.62, 0.35])
        sun_color = strength * warm * (1.0 if style.light != "night" else 0.8)
        ambient = np.array(style.ambient)
        direct = sun_color * sun[2]
        ground_light = ambient + direct
        share = float(np.mean(direct) / np.mean(ground_light))
        # A shadow value of 255 takes the whole sun away; contact shadow uses the same scale.
        self._sun_shade = 255.0 * share if share > 0.12 else 0.0
        reach = min(6.0, float(np.cos(e) / max(np.sin(e), 0.05)))
        self._shift = (-reach * float(np.cos(azimuth)), -reach * float(np.sin(azimuth)))
        self.exposure = float(rng.uniform(0.9, 1.12)) * {"day": 1.15, "dusk": 2.0, "night": 2.2}[style.light]
        self._exposure_time = {"day": 0.006, "dusk": 0.014, "night": 0.022}[style.light]
        self._halo = {"day": 0.0, "dusk": 50.0, "night": 110.0}[style.light]
        self._tone = _tone_table(self.exposure)
        self._light = Light(
            sun,
            sun_color,
            ambient,
            ground_light,
            bounce=0.25 * float(ground_light.mean()),
            headlight={"day": 0.0, "dusk": 0.25, "night": 1.1}[style.light],
            dimming=np.sqrt(1.0 - 0.97 * np.arange(256) / 255.0).astype(np.float32),
            glass=np.sqrt(0.22 * np.array(style.sky_top) + 0.015),
            windows={"day": 0.0, "dusk": 0.3, "night": 0.35}[style.light],
        )
        self._sky = Sky(
            np.sqrt(style.sky_low), np.sqrt(style.sky_top), float(style.clouds), _clouds(rng), 1.0 / style.visibility
        )
        grain = rng.normal(0, 1, (512, 512)).astype(np.float32)
        self._lamps = _lamp_light(world)
        self._ground = Ground(world.ground, world.ground_levels, TEXEL, EXTENT, self._lamps, grain)
        self._extent = _shadow_extents(world)
        self._tiles: dict[tuple[int, int, float], NDArray[np.int16]] = {}
        total = len(world.scene.corners)
        self._quad, self._item = np.empty(total, np.int64), np.empty(total, np.int64)
        self._lit, self._bay = np.empty((total, 3), np.float32), np.empty((total, 3), np.float32)
        self._lock = threading.Lock()
        self._area = np.zeros(len(world.label), np.int64)
        self._last: tuple[float, NDArray[np.float64], Matrix, float] | None = None
        self._buffers: dict[tuple[int, int], tuple[NDArray[np.float32], NDArray[np.int32]]] = {}

    def _states(self, t: float) -> tuple[NDArray[np.float64], Matrix, float]:
        """Items, ego pose and yaw rate at ``t``; the last answer is kept, for rigs whose cameras expose together."""
        if self._last is None or self._last[0] != t:
            self._last = (t, self.world.item_states(t)[0], self.world.ego_pose(t), self.world.ego_yaw_rate(t))
        return self._last[1], self._last[2], self._last[3]

    def _drawn(self, height: int, width: int) -> Drawn:
        """An empty object layer; the buffers of each size are kept."""
        if (height, width) not in self._buffers:
            self._buffers[height, width] = (np.zeros((height, width), np.float32), np.zeros((height, width), np.int32))
        depth, piece = self._buffers[height, width]
        depth[:] = 0.0
        return Drawn(depth, piece, self._quad, self._item, self._lit, self._bay, self._area)

    def _noise_tile(self, height: int, width: int, sigma: float) -> NDArray[np.int16]:
        """Normal noise of ``sigma`` grey levels, larger than the picture, so that each picture can take its own window."""
        key = (height, width, round(sigma, 3))
        if key not in self._tiles:
            rng = seeded(self.world.seed, 9, height, width)
            noise = rng.standard_normal((height + _NOISE_SHIFT, width + _NOISE_SHIFT), dtype=np.float32)
            self._tiles[key] = np.round(noise * np.float32(sigma)).astype(np.int16)
        return self._tiles[key]

    def _draw(
        self,
        camera: Camera,
        t: float,
        ss: int,
        *,
        phase: tuple[float, float] = (0.0, 0.0),
        far: float = 260.0,
        tiny: float = 0.0,
    ) -> tuple[int, Drawn, View, NDArray[np.int64]]:
        """Rasterises all objects: the number of drawn quads, the layer, the view in pixels and the items, nearest first."""
        states, T_world_ego, _ = self._states(t)
        T = T_world_ego @ camera.T_ego_camera
        rotation, origin = np.ascontiguousarray(T[:3, :3].T), np.ascontiguousarray(T[:3, 3])
        distance = np.hypot(states[:, 0] - origin[0], states[:, 1] - origin[1]) - self.world.scene.radius
        order = np.argsort(distance, kind="stable")
        order = order[distance[order] < far]
        fx, fy, cx, cy = (float(v) for v in camera.K[[0, 1, 0, 1], [0, 1, 2, 2]])
        cx, cy = cx - phase[0], cy - phase[1]
        samples = View(rotation, origin, ss * fx, ss * fy, (cx + 0.5) * ss - 0.5, (cy + 0.5) * ss - 0.5)
        drawn = self._drawn(camera.height * ss, camera.width * ss)
        n = raster.draw_quads(samples, self.world.scene, order, states, tiny, drawn)
        return n, drawn, View(rotation, origin, fx, fy, cx, cy), order

    def image(
        self, camera: Camera, t: float, *, ss: int = 2, phase: tuple[float, float] = (0.0, 0.0), far: float = 260.0
    ) -> NDArray[np.uint8]:
        """The picture (H, W, 3) uint8 RGB of ``camera`` (without lens distortion) at ``t`` seconds.

        Args:
            ss: samples per pixel and axis of the objects' edges.
            phase: image coordinates of the first pixel's centre: an image that stands for a downscaled one samples at
                0.5 - 0.5 s, where s is its scale.
            far: items further away than this many metres are left out.
        """
        with self._lock:
            return self._image(camera, t, ss, phase, far)

    def _image(self, camera: Camera, t: float, ss: int, phase: tuple[float, float], far: float) -> NDArray[np.uint8]:
        scene = self.world.scene
        states, T_world_ego, yaw_rate = self._states(t)
        n, drawn, view, order = self._draw(camera, t, ss, phase=phase, far=far, tiny=0.3 * ss)
        shade = np.zeros((camera.height, camera.width), np.uint8)
        near = order[np.hypot(states[order, 0] - view.origin[0], states[order, 1] - view.origin[1]) < _SHADOW_RANGE]
        raster.draw_shadows(view, near, states, self._extent, self._shift, self._sun_shade, _CONTACT_SHADE, shade)
        ego = np.array([T_world_ego[0, 3], T_world_ego[1, 3], yaw_of(T_world_ego)])
        at = np.clip((states[:, :2] + EXTENT / 2).astype(np.int64), 0, len(self._lamps) - 1)
        item_light = self._lamps[at[:, 1], at[:, 0]].astype(np.float64)
        shading.light_quads(n, view, scene, states, item_light, self._light, ego, drawn)
        rays = view.rotation.T @ np.linalg.inv(camera.K)
        rays[:, 2] += rays[:, 0] * phase[0] + rays[:, 1] * phase[1]
        out = np.empty((camera.height, camera.width, 3), np.uint8)
        shading.shade_pixels(
            rays, view.origin, ss, scene.kind, drawn, shade, self._ground, self._sky, self._light, ego, self._tone, out
        )
        if self._halo > 0:
            raster.draw_glow(n, view, ss, scene, states, drawn, self._halo, out)
        smear = round(abs(yaw_rate) * self._exposure_time * view.fx)
        if smear > 1:  # the rig turns while the shutter is open
            out = np.asarray(cv2.blur(out, (smear, 1)), dtype=np.uint8)
        return out

    def expose(
        self, image: NDArray[np.uint8], *, noise_key: int | None = None, noise_gain: float = 1.0, blur: float = 0.0
    ) -> NDArray[np.uint8]:
        """``image`` (H, W, 3) after lens blur and sensor noise; the input may be changed.

        Args:
            noise_key: seed of the sensor noise; None for a noiseless picture. ``noise_gain`` scales the style's noise.
            blur: standard deviation of the lens blur, pixels of this image; below 0.15 none.
        """
        out = image
        if blur > 0.15:
            side = 3 if blur < 0.7 else 2 * round(2 * blur) + 1
            out = np.asarray(cv2.GaussianBlur(out, (side, side), blur), dtype=np.uint8)
        if noise_key is not None:
            row, column = seeded(self.world.seed, 8, noise_key).integers(0, _NOISE_SHIFT, 2)
            flat = out.reshape(len(out), -1)
            tile = self._noise_tile(*flat.shape, noise_gain * self.world.style.noise)[
                row : row + flat.shape[0], column : column + flat.shape[1]
            ]
            cv2.add(flat, tile, dst=flat, dtype=cv2.CV_8U)
        return out

    def item_mask(self, camera: Camera, t: float) -> NDArray[np.int32]:
        """(H, W) index of the item that is seen in each pixel, -1 where ground or sky is."""
        with self._lock:
            _, drawn, _, _ = self._draw(camera, t, 1)
            return np.where(drawn.depth > 0, self._item[drawn.piece], -1).astype(np.int32)

    def visible(self, cameras: Sequence[Camera], t: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """At ``t`` seconds, over all cameras: (M,) pixels that show each item, (M,) pixels that its front faces would fill."""
        counts = np.zeros(len(self.world.label), np.int64)
        with self._lock:
            self._area[:] = 0
            for camera in cameras:
                _, drawn, _, _ = self._draw(camera, t, 1, far=_VISIBLE_RANGE)
                raster.count_items(drawn, counts)
            return counts, self._area.copy()


def _tone_table(exposure: float) -> NDArray[np.uint8]:
    """Square-root radiance 0..2 to grey levels: exposure, shoulder, gamma 2.2."""
    x = (np.linspace(0, 2, _TONE_STEPS) ** 2) * exposure
    y = x * (1 + x / 6.0) / (1 + x * 0.55)
    return np.round(255 * np.clip(y, 0, 1) ** (1 / 2.2)).astype(np.uint8)


def _clouds(rng: np.random.Generator) -> NDArray[np.float32]:
    """(256, 256) periodic smooth noise in 0..1."""
    n = 256
    f = np.hypot(np.fft.fftfreq(n)[:, None], np.fft.rfftfreq(n)[None]) + 1.5 / n
    field = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(n, n))) / f**1.6, s=(n, n))
    low, high = np.percentile(field, (2, 98))
    return np.clip((field - low) / (high - low), 0, 1).astype(np.float32)


def _shadow_extents(world: World) -> NDArray[np.float64]:
    """(M, 6) box that casts each item's shadow, from its quads."""
    scene = world.scene
    flat = scene.corners.reshape(-1, 3).astype(np.float64)
    starts = scene.first * 4
    low, high = np.minimum.reduceat(flat, starts), np.maximum.reduceat(flat, starts)
    extent = np.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1], low[:, 2], high[:, 2]], axis=1)
    tree = np.array([bool(np.any(scene.kind[a : a + c] == FOLIAGE)) for a, c in zip(scene.first, scene.number, strict=True)])
    extent[tree, 4] = 0.35 * extent[tree, 5]  # only the crown; the trunk's shadow is thin
    return extent


def _lamp_light(world: World) -> NDArray[np.float32]:
    """(400, 400) light of the street lamps on the ground, one cell per metre, row 0 at y = -EXTENT/2."""
    cells = int(EXTENT)
    light = np.zeros((cells, cells), np.float32)
    if world.style.light == "day":
        return light
    strength = 0.4 if world.style.light == "night" else 0.15
    offsets = np.arange(-24, 25)
    spot = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / 60.0).astype(np.float32)
    for x, y in world.lamps:
        column, row = int(x + EXTENT / 2), int(y + EXTENT / 2)
        if 24 <= column < cells - 25 and 24 <= row < cells - 25:
            light[row - 24 : row + 25, column - 24 : column + 25] += strength * spot
    return light
