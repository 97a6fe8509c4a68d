"""The simulated drive as a source of frames, with the truth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from bevstack.errors import SourceError
from bevstack.geometry import Boxes3D, Camera, Matrix, invert, transform_points, yaw_of

from ..types import Frame, FrameSet
from .jpeg import encode_jpeg
from .lens import Lens, ideal_lens
from .renderer import Renderer
from .rig import STAGGER_MS, nuscenes_rig
from .world import World

TRUTH_RANGE = 50.0  # metres from the ego origin
MIN_VISIBLE_PIXELS = 150  # over all cameras, in pixels of a 1600-pixel-wide image
MIN_VISIBLE_SHARE = 0.07  # of the pixels that the object's front faces would fill if nothing stood before it
_VISIBILITY_WIDTH = 400


class SimulatedDrive:
    """A drive through a seeded world, seen by a rig. Implements ``Source``.

    Args:
        seed: any non-negative integer; same seed and arguments give the same bytes.
        cameras: rig by name, as ``nuscenes_rig``; the default is that rig at ``image_width``.
        rate: instants per second. ``duration``: seconds; there are round(rate * duration) instants.
        image_width: pixels, for the default rig.
        style: a name from ``STYLES``; None draws one from the seed.
        jpeg: frames carry JPEG bytes (``jpeg_quality`` 1..100) instead of images.
        start_stamp: nanoseconds of the first instant.
        stagger: cameras expose up to 43 ms apart, as on nuScenes, each with its own exact ego pose.
        density, class_weights, curved: see ``World``.

    Raises:
        SourceError: an option is out of range.
    """

    def __init__(
        self,
        seed: int,
        *,
        cameras: Mapping[str, Camera] | None = None,
        rate: float = 10.0,
        duration: float = 30.0,
        image_width: int = 800,
        style: str | None = None,
        jpeg: bool = False,
        jpeg_quality: int = 90,
        start_stamp: int = 1_700_000_000_000_000_000,
        stagger: bool = True,
        noise: bool = True,
        density: float = 1.0,
        class_weights: Mapping[str, float] | None = None,
        curved: bool = False,
    ) -> None:
        if seed < 0:
            raise SourceError(f"simulated drive: seed is {seed}; give 0 or more")
        if not 0.1 <= rate <= 100.0:
            raise SourceError(f"simulated drive: rate is {rate}; give 0.1 to 100 instants per second")
        if not 0.0 < duration <= 1800.0:
            raise SourceError(f"simulated drive: duration is {duration}; give more than 0 and at most 1800 seconds")
        if not 64 <= image_width <= 3840:
            raise SourceError(f"simulated drive: image_width is {image_width}; give 64 to 3840 pixels")
        if not 1 <= jpeg_quality <= 100:
            raise SourceError(f"simulated drive: jpeg_quality is {jpeg_quality}; give 1 to 100")
        if cameras is not None and not cameras:
            raise SourceError("simulated drive: the rig has no camera; leave cameras out for the default rig")
        self.seed = seed
        self.cameras: Mapping[str, Camera] = dict(cameras) if cameras is not None else nuscenes_rig(image_width)
        self.rate: float | None = float(rate)
        self.duration = float(duration)
        self.count = max(1, round(rate * duration))
        self.world = World(
            seed, style=style, duration=duration + 0.2, density=density, class_weights=class_weights, curved=curved
        )
        self.name = f"sim:seed={seed},style={self.world.style.name}"
        self.style = self.world.style.name
        self.start_stamp = int(start_stamp)
        self._jpeg, self._quality, self._noise = jpeg, int(jpeg_quality), noise
        self._reference = "cam_front" if "cam_front" in self.cameras else next(iter(self.cameras))
        lag = STAGGER_MS.get(self._reference, 0.0)
        #: Nanoseconds after the instant at which each camera exposes.
        self.lags = {n: round(1e6 * (STAGGER_MS.get(n, 0.0) - lag)) if stagger else 0 for n in self.cameras}
        self._renderer = Renderer(self.world)
        self._lenses: dict[tuple[str, int, int, bytes, bytes], Lens] = {}
        self._small = [self._visibility_camera(c) for c in self.cameras.values()]
        self._closed = False

    # Time -----------------------------------------------------------------------------------------------------------------

    def _seconds(self, stamp: int) -> float:
        """Time in the world. It starts 0.1 s late, so that cameras that expose before the reference have a past."""
        return (stamp - self.start_stamp) * 1e-9 + 0.1

    def stamp(self, t: float) -> int:
        """Nanoseconds of the instant ``t`` seconds after the start."""
        return self.start_stamp + round(t * 1e9)

    def _require(self, t: float) -> None:
        """Outside the simulated span everything would stand still."""
        if not -1e-6 <= t <= self.duration + 1e-6:
            raise SourceError(f"simulated drive: no instant at {t} s; the drive lasts {self.duration} s")

    def ego_pose(self, stamp: int) -> Matrix:
        """T_world_ego (4, 4) at a stamp in nanoseconds, exact."""
        return self.world.ego_pose(self._seconds(stamp))

    # Truth ----------------------------------------------------------------------------------------------------------------

    def _visibility_camera(self, camera: Camera) -> Camera:
        small = camera.resized(_VISIBILITY_WIDTH, max(1, round(camera.height * _VISIBILITY_WIDTH / camera.width)))
        return self._lens(small).ideal if small.distorted else small

    def objects(self, t: float) -> Boxes3D:
        """All objects within ``TRUTH_RANGE`` of the ego origin ``t`` seconds after the start, seen or not; ego frame."""
        self._require(t)
        world = self.world
        seconds = self._seconds(self.stamp(t))
        states, velocity = world.item_states(seconds)
        T = world.ego_pose(seconds)
        centre = np.column_stack([states[:, :2], 0.5 * world.size[:, 2]])
        local = transform_points(invert(T), centre)
        near = np.nonzero((world.label >= 0) & (np.hypot(local[:, 0], local[:, 1]) <= TRUTH_RANGE))[0]
        turn = yaw_of(T)
        c, s = np.cos(turn), np.sin(turn)
        v = velocity[near] @ np.array([[c, -s], [s, c]])
        yaw = states[near, 2] - turn
        return Boxes3D(
            local[near],
            world.size[near],
            np.arctan2(np.sin(yaw), np.cos(yaw)),
            v,
            np.ones(len(near)),
            world.label[near],
            near.astype(np.int64),
        )

    def truth_with_visibility(self, t: float) -> tuple[Boxes3D, NDArray[np.int64]]:
        """True boxes ``t`` seconds after the start, and (N,) the pixels in which each is seen, scaled to 1600-wide images."""
        boxes = self.objects(t)
        counted, area = self._renderer.visible(self._small, self._seconds(self.stamp(t)))
        pixels = counted[boxes.id] * (1600 // _VISIBILITY_WIDTH) ** 2
        seen = (pixels >= MIN_VISIBLE_PIXELS) & (counted[boxes.id] >= MIN_VISIBLE_SHARE * area[boxes.id])
        return boxes[seen], pixels[seen]

    def truth(self, t: float) -> Boxes3D:
        """True boxes ``t`` seconds after the start, in the ego frame of that time.

        Objects whose centre is within 50 m of the ego origin and that are seen, over all cameras together, in at least
        ``MIN_VISIBLE_PIXELS`` pixels of a 1600x900 image and in at least ``MIN_VISIBLE_SHARE`` of the pixels of their front
        faces. Pixels are counted on 400x225 renderings of the rig, whatever the image size, all taken at ``t``.
        """
        return self.truth_with_visibility(t)[0]

    # Images ---------------------------------------------------------------------------------------------------------------

    def _lens(self, camera: Camera) -> Lens:
        key = (camera.name, camera.width, camera.height, camera.K.tobytes(), camera.distortion.tobytes())
        if key not in self._lenses:
            self._lenses[key] = ideal_lens(camera)
        return self._lenses[key]

    def _image(self, camera: Camera, stamp: int, noise: bool) -> NDArray[np.uint8]:
        own = self.cameras.get(camera.name)
        scale = camera.K[0, 0] / own.K[0, 0] if own is not None else 1.0
        scale_y = camera.K[1, 1] / own.K[1, 1] if own is not None else 1.0
        full = camera.K[0, 0] / 1266.4  # about the scale to a 1600-wide image
        index = list(self.cameras).index(camera.name) if own is not None else 97
        key = (stamp // 1000) * 8 + index
        style = self.world.style
        # Averaging over the area of a native pixel lowers its noise; downscaling lowers it further.
        phase = (0.5 - 0.5 * scale, 0.5 - 0.5 * scale_y)
        ss = 2 if camera.width < 600 else 1
        if camera.distorted:
            lens = self._lens(camera)
            image = lens.bend(self._renderer.image(lens.ideal, self._seconds(stamp), ss=ss))
        else:
            image = self._renderer.image(camera, self._seconds(stamp), phase=phase, ss=ss)
        return self._renderer.expose(
            image,
            noise_key=int(key) if noise else None,
            noise_gain=float(min(1.0, max(0.25, 1.4 * full))),
            blur=style.defocus * full,
        )

    def render_instant(
        self, t: float, cameras: Mapping[str, Camera] | None = None, *, stagger: bool = False, noise: bool = True
    ) -> dict[str, NDArray[np.uint8]]:
        """Pictures (H, W, 3) uint8 RGB of all cameras at ``t`` seconds after the start, without JPEG.

        Args:
            cameras: the drive's cameras resized or cropped (``Camera.resized``, ``cropped``): drawn directly at that size.
                Cameras with the name of one of the rig's are drawn as a downscaled image of that one would look.
            stagger: expose the cameras one after the other, as ``instant`` does; otherwise all at ``t``.
        """
        self._require(t)
        stamp = self.stamp(t)
        return {
            name: self._image(camera, stamp + (self.lags.get(name, 0) if stagger else 0), noise and self._noise)
            for name, camera in (cameras or self.cameras).items()
        }

    def object_mask(self, t: float, camera: Camera) -> NDArray[np.int32]:
        """(H, W) int32: the ``Boxes3D.id`` that each pixel of an undistorted camera shows; -1 for scenery, ground and sky."""
        mask = self._renderer.item_mask(camera, self._seconds(self.stamp(t)))
        return np.where((mask >= 0) & (self.world.label[mask] >= 0), mask, -1).astype(np.int32)

    def _frame(self, name: str, stamp: int) -> Frame:
        camera = self.cameras[name]
        image = self._image(camera, stamp, self._noise)
        pose = self.ego_pose(stamp)
        if not self._jpeg:
            return Frame(camera, stamp, image=image, T_world_ego=pose)
        return Frame(camera, stamp, encoded=encode_jpeg(image, self._quality, name), T_world_ego=pose)

    def instant(self, t: float) -> FrameSet:
        """The whole rig ``t`` seconds after the start (0 <= t <= duration), with truth."""
        self._require(t)
        stamp = self.stamp(t)
        frames = {name: self._frame(name, stamp + self.lags[name]) for name in self.cameras}
        return FrameSet(stamp, frames, self.ego_pose(stamp), self.truth(t))

    def times(self) -> NDArray[np.float64]:
        """Seconds of all instants."""
        return np.arange(self.count) / float(self.rate or 1.0)

    def __iter__(self) -> Iterator[FrameSet]:
        for t in self.times():
            if self._closed:
                return
            yield self.instant(float(t))

    def frames(self) -> Iterator[Frame]:
        """All frames in the order of their stamps."""
        plan = [(self.stamp(float(t)) + lag, name) for t in self.times() for name, lag in self.lags.items()]
        for stamp, name in sorted(plan):
            if self._closed:
                return
            yield self._frame(name, stamp)

    def close(self) -> None:
        """Ends running iterations."""
        self._closed = True

    def __enter__(self) -> SimulatedDrive:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
