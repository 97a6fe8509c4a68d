"""Pictures of a world: one camera, one time, any size and crop."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from bevstack.geometry import Camera, Matrix, yaw_of

from . import raster
from .layout import EXTENT, TEXEL
from .world import World, seeded

_TONE_STEPS = 4096
_NOISE_SHIFT = 192


class Renderer:
    """Draws one world. Not thread-safe: it reuses its buffers; make one per thread (the world may be shared)."""

    def __init__(self, world: World) -> None:
        self.world = world
        style = world.style
        rng = seeded(world.seed, 7)
        elevation, strength = style.sun
        azimuth = float(rng.uniform(-np.pi, np.pi))
        e = np.deg2rad(elevation)
        self._sun = np.array([np.cos(e) * np.cos(azimuth), np.cos(e) * np.sin(azimuth), np.sin(e)])
        warm = np.array([1.0, 0.93, 0.82]) if style.light == "day" else np.array([1.0, 0.62, 0.35])
        self._sun_color = strength * warm * (1.0 if style.light != "night" else 0.8)
        self._ambient = np.array(style.ambient)
        direct = self._sun_color * self._sun[2]
        self._ground_light = self._ambient + direct
        self._sun_share = float(np.mean(direct) / np.mean(self._ground_light)) if strength > 0 else 0.0
        # A shadow value of 255 takes the whole sun away; contact shadow uses the same scale.
        self._sun_shade = 255.0 * self._sun_share if self._sun_share > 0.12 else 0.0
        self._dimming = np.sqrt(1.0 - 0.97 * np.arange(256) / 255.0).astype(np.float32)
        self._sky_low, self._sky_top = np.sqrt(style.sky_low), np.sqrt(style.sky_top)
        self._glass = np.sqrt(0.22 * np.array(style.sky_top) + 0.015)
        reach = min(6.0, np.cos(e) / max(np.sin(e), 0.05))
        self._shift = -reach * np.array([np.cos(azimuth), np.sin(azimuth)])
        self._headlight = {"day": 0.0, "dusk": 0.25, "night": 1.1}[style.light]
        self._lit_windows = {"day": 0.0, "dusk": 0.3, "night": 0.35}[style.light]
        self.exposure = float(rng.uniform(0.9, 1.12)) * {"day": 1.15, "dusk": 2.0, "night": 2.2}[style.light]
        self._tone = _tone_table(self.exposure)
        self._clouds = _clouds(rng)
        self._grain = rng.normal(0, 1, (512, 512)).astype(np.float32)
        self._tiles: dict[tuple[int, int, float], NDArray[np.int16]] = {}
        self._extent = _shadow_extents(world)
        self._lamps = _lamp_light(world)
        self._exposure_time = {"day": 0.006, "dusk": 0.014, "night": 0.022}[style.light]
        total = len(world.quads)
        self._active_quad = np.empty(total, np.int64)
        self._active_item = np.empty(total, np.int64)
        self._lit = np.empty((total, 3), np.float32)
        self._bay = np.empty((total, 3), np.float32)
        self._last: tuple[float, NDArray[np.float64], Matrix, float] | None = None
        self._buffers: dict[tuple[int, int], tuple[NDArray[np.float32], NDArray[np.int32]]] = {}

    def _states(self, t: float) -> tuple[NDArray[np.float64], Matrix, float]:
        """Items, ego pose and yaw rate at ``t``; the last answer is kept, for rigs whose cameras expose together."""
        if self._last is None or self._last[0] != t:
            self._last = (t, self.world.item_states(t)[0], self.world.ego_pose(t), self.world.ego_yaw_rate(t))
        return self._last[1], self._last[2], self._last[3]

    def _layers(self, height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        if (height, width) not in self._buffers:
            self._buffers[height, width] = (np.zeros((height, width), np.float32), np.zeros((height, width), np.int32))
        zbuf, pid = self._buffers[height, width]
        zbuf[:] = 0.0
        return zbuf, pid

    def _noise_tile(self, height: int, width: int, sigma: float) -> NDArray[np.int16]:
        """Normal noise of ``sigma`` grey levels, larger than the picture, so that each picture can take its own window."""
        key = (height, width, round(sigma, 3))
        if key not in self._tiles:
            rng = seeded(self.world.seed, 9, height, width)
            noise = rng.standard_normal((height + _NOISE_SHIFT, width + _NOISE_SHIFT), dtype=np.float32)
            self._tiles[key] = np.round(noise * np.float32(sigma)).astype(np.int16)
        return self._tiles[key]

    def _view(
        self, camera: Camera, T_world_ego: Matrix, states: NDArray[np.float64], ss: int, phase: tuple[float, float], far: float
    ) -> tuple[Matrix, Matrix, NDArray[np.int64], tuple[float, float, float, float]]:
        T = T_world_ego @ camera.T_ego_camera
        rotation, origin = np.ascontiguousarray(T[:3, :3].T), np.ascontiguousarray(T[:3, 3])
        distance = np.hypot(states[:, 0] - origin[0], states[:, 1] - origin[1]) - self.world.radius
        order = np.argsort(distance, kind="stable")
        order = order[distance[order] < far]
        K = camera.K
        return (
            rotation,
            origin,
            order,
            (
                ss * K[0, 0],
                ss * K[1, 1],
                (K[0, 2] - phase[0] + 0.5) * ss - 0.5,
                (K[1, 2] - phase[1] + 0.5) * ss - 0.5,
            ),
        )

    def image(
        self,
        camera: Camera,
        t: float,
        *,
        ss: int = 2,
        phase: tuple[float, float] = (0.0, 0.0),
        far: float = 260.0,
    ) -> NDArray[np.uint8]:
        """The picture (H, W, 3) uint8 RGB of ``camera`` (without lens distortion) at ``t`` seconds.

        Args:
            ss: samples per pixel and axis of the objects' edges.
            phase: image coordinates of the first pixel's centre: an image that stands for a downscaled one samples at
                0.5 - 0.5 s, where s is its scale.
            far: items further away than this many metres are left out.
        """
        world, style = self.world, self.world.style
        states, T_world_ego, yaw_rate = self._states(t)
        rotation, origin, order, (fx, fy, cx, cy) = self._view(camera, T_world_ego, states, ss, phase, far)
        zbuf, pid = self._layers(camera.height * ss, camera.width * ss)
        n = raster.draw_quads(
            rotation, origin, fx, fy, cx, cy, order, states, world.first, world.count, world.radius, world.quads, world.normal,
            world.reach, 0.3 * ss, zbuf, pid, self._active_quad, self._active_item,
        )  # fmt: skip
        shade = np.zeros((camera.height, camera.width), np.uint8)
        near = order[np.hypot(states[order, 0] - origin[0], states[order, 1] - origin[1]) < 110.0]
        K = camera.K
        raster.draw_shadows(
            rotation, origin, K[0, 0], K[1, 1], K[0, 2] - phase[0], K[1, 2] - phase[1], near, states, self._extent,
            float(self._shift[0]), float(self._shift[1]), self._sun_shade, 150.0, shade,
        )  # fmt: skip
        ego = np.array([T_world_ego[0, 3], T_world_ego[1, 3], yaw_of(T_world_ego)])
        at = np.clip((states[:, :2] + EXTENT / 2).astype(np.int64), 0, len(self._lamps) - 1)
        item_light = self._lamps[at[:, 1], at[:, 0]].astype(np.float64)
        raster.light_quads(
            n, self._active_quad, self._active_item, states, world.normal, world.color, world.glow, world.kind, origin, self._sun, self._sun_color,
            self._ambient, 0.25 * float(self._ground_light.mean()), item_light, self._headlight, ego, self._lit, self._bay,
        )  # fmt: skip
        rays = rotation.T @ np.linalg.inv(camera.K)
        rays[:, 2] += rays[:, 0] * phase[0] + rays[:, 1] * phase[1]
        out = np.empty((camera.height, camera.width, 3), np.uint8)
        raster.shade_pixels(
            rays, origin, ss, zbuf, pid, shade, self._lit, self._bay, self._active_quad, self._active_item, world.kind, world.ground,
            world.ground_levels, TEXEL, EXTENT, self._ground_light, self._dimming, self._headlight, self._lamps, ego, self._sky_low, self._sky_top, self._glass,
            style.clouds, self._clouds, 1.0 / style.visibility, self._grain, self._lit_windows, self._tone, out,
        )  # fmt: skip
        if style.light != "day":
            raster.draw_glow(
                n, rotation, origin, K[0, 0], K[1, 1], K[0, 2] - phase[0], K[1, 2] - phase[1], ss, self._active_quad, self._active_item, states,
                world.quads, world.glow, pid, zbuf, 110.0 if style.light == "night" else 50.0, out,
            )  # fmt: skip
        smear = round(abs(yaw_rate) * self._exposure_time * K[0, 0])
        if smear > 1:  # the rig turns while the shutter is open
            out = cv2.blur(out, (smear, 1))  # type: ignore[assignment]
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
            out = cv2.GaussianBlur(out, (side, side), blur)  # type: ignore[assignment]
        if noise_key is not None:
            row, column = seeded(self.world.seed, 8, noise_key).integers(0, _NOISE_SHIFT, 2)
            flat = out.reshape(len(out), -1)
            tile = self._noise_tile(*flat.shape, noise_gain * self.world.style.noise)[
                row : row + flat.shape[0], column : column + flat.shape[1]
            ]
            cv2.add(flat, tile, dst=flat, dtype=cv2.CV_8U)
        return out

    def item_mask(self, camera: Camera, t: float, *, ss: int = 1) -> NDArray[np.int32]:
        """(ss H, ss W) index of the item that is seen at each sample, -1 where ground or sky is."""
        world = self.world
        states, T, _ = self._states(t)
        rotation, origin, order, k = self._view(camera, T, states, ss, (0.0, 0.0), 260.0)
        zbuf, pid = self._layers(camera.height * ss, camera.width * ss)
        raster.draw_quads(
            rotation, origin, *k, order, states, world.first, world.count, world.radius, world.quads, world.normal,
            world.reach, 0.0, zbuf, pid, self._active_quad, self._active_item,
        )  # fmt: skip
        return np.where(zbuf > 0, self._active_item[pid], -1).astype(np.int32)

    def visible(self, cameras: list[Camera], t: float) -> NDArray[np.int64]:
        """(M,) number of pixels, over all cameras, in which each item is seen at ``t`` seconds."""
        world = self.world
        states, T, _ = self._states(t)
        counts = np.zeros(len(states), np.int64)
        for camera in cameras:
            rotation, origin, order, k = self._view(camera, T, states, 1, (0.0, 0.0), 75.0)
            zbuf, pid = self._layers(camera.height, camera.width)
            raster.draw_quads(
                rotation, origin, *k, order, states, world.first, world.count, world.radius, world.quads, world.normal,
                world.reach, 0.0, zbuf, pid, self._active_quad, self._active_item,
            )  # fmt: skip
            raster.count_items(pid, zbuf, self._active_item, counts)
        return counts


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
    flat = world.quads.reshape(-1, 3).astype(np.float64)
    starts = world.first * 4
    low, high = np.minimum.reduceat(flat, starts), np.maximum.reduceat(flat, starts)
    extent = np.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1], low[:, 2], high[:, 2]], axis=1)
    tree = np.array([bool(np.any(world.kind[a : a + c] == 2)) for a, c in zip(world.first, world.count, strict=True)])
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
