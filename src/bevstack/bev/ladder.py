"""Fast-BEV on a ladder: the rung may change between two instants, and the past is carried over as far as it can be.

Features of one rung mean nothing to another (other weights, other sizes), so the cache of past features never crosses a swap.
Instead the new rung looks at the last instants itself, in the background, before its first frame: its cache then holds what it
would have held had it run all along, up to the images' resolution. What it could not see in time is missing there and the
current instant is repeated, as after a start; nothing is made up.

Widths of one weights file (``bevstack.bev.slim``) are the exception: their features mean the same, so the cache goes from one
to the next as it is, complete, and nobody looks at an instant twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bevstack.engine import HotSwap, SwapEvent
from bevstack.errors import CheckpointError, EngineError
from bevstack.frames import Frame, FrameSet
from bevstack.geometry import Boxes3D, Camera
from bevstack.nn.widths import split_width

from .config import CONFIGS, FastBEVConfig

if TYPE_CHECKING:
    from .fastbev import FastBEV

RANDOM = "random:"
_MARGIN = 0.15  # seconds beyond the oldest age that a rung looks back (TemporalCache's tolerance)
_MOST = 63  # instants kept, whatever their rate
_PATIENCE = 3.0  # seconds after which a rung stops catching up with frames that come faster than it can look at them


def family(name: str) -> tuple[str, ...]:
    """Names of all rungs that are of one family with rung ``name``, smallest first: same neck, image filter and classes, and
    widths of the same network or no widths at all."""
    kind = _kind(CONFIGS[name])
    return tuple(other for other, config in CONFIGS.items() if _kind(config) == kind)


def _kind(config: FastBEVConfig) -> tuple[object, ...]:
    base, width = split_width(config.name)
    return config.neck, config.resize_filter, config.classes, base if width is not None else ""


def available(model: str) -> dict[str, str]:
    """The rungs of ``model``'s family that can be loaded here, smallest first: rung name to what loads it.

    ``model``: name of bundled weights, ``random:`` and a name, or the path of a file: a ladder of one, or of the widths in it.

    Raises:
        CheckpointError: ``model`` itself is not there.
    """
    from .slim import is_slim, rungs_of
    from .weights import find_weights, read_info

    if model.startswith(RANDOM):
        name = model.removeprefix(RANDOM)
        if name not in CONFIGS:
            raise CheckpointError(f"model {model!r}: there is no {name!r}, only {', '.join(CONFIGS)}")
        return {other: RANDOM + other for other in family(name)}
    path = find_weights(model)
    if path.suffix != ".onnx" and is_slim(path):
        return rungs_of(path)
    if model not in CONFIGS:
        return {read_info(path).config.name if path.suffix == ".safetensors" else path.stem: model}
    found = {}
    for other in family(model):
        try:
            find_weights(other)
        except CheckpointError:
            continue
        found[other] = other
    return found


class FastBEVLadder:
    """Called as ``FastBEV`` is, from one thread at a time; ``request`` may come from any thread.

    Args:
        load: makes the model of a rung, by name.
        rungs: names, smallest first.
        rung: the first one.
        resident: rungs that stay loaded.
        on_event: see ``HotSwap``.

    Raises:
        RungError: ``rung`` is not among ``rungs``.
        BevstackError: the first rung cannot be loaded.
    """

    def __init__(
        self,
        load: Callable[[str], FastBEV],
        rungs: Sequence[str],
        rung: str,
        *,
        resident: Iterable[str] = (),
        on_event: Callable[[SwapEvent], None] | None = None,
    ) -> None:
        # Replaced, never changed: the background thread reads it while frames run. A ladder of one rung has no use for it.
        self._recent: tuple[FrameSet, ...] = ()
        ages = [max(CONFIGS[name].times) for name in rungs if name in CONFIGS] if len(rungs) > 1 else []
        self._window = round((max(ages) + _MARGIN) * 1e9) if ages else 0
        self.carried = 0
        """Past instants that the newest rung had looked at before its first frame."""
        self._swap = HotSwap(load, rungs, rung, warm_up=self._warm_up, resident=resident, on_event=on_event)
        self._last = self._swap.active
        if self._last.weights_sha256 and len({split_width(name)[0] for name in rungs}) == 1:
            self._window = 0  # widths of one file hand the cache on: no instant has to be kept for a rung to come

    @property
    def swap(self) -> HotSwap[FastBEV]:
        """The ladder itself: ``request``, ``state``, ``rungs``."""
        return self._swap

    @property
    def rung(self) -> str:
        """Name of the rung that worked on the last instant."""
        return self._last.rung

    @property
    def engine(self) -> str:
        """What runs that rung's network."""
        return self._last.engine

    @property
    def precision(self) -> str:
        """Of the numbers inside it."""
        return self._last.precision

    @property
    def config(self) -> FastBEVConfig:
        """Config of that rung."""
        return self._last.config

    @property
    def timings(self) -> Mapping[str, float]:
        """See ``FastBEV``."""
        return self._last.timings

    def decode_size(self, camera: Camera) -> tuple[int, int]:
        """See ``FastBEV``. Images decoded for the rung before a swap are resized once more, none is lost."""
        return self._swap.active.decode_size(camera)

    def reset(self) -> None:
        """Forgets the past. From the thread that calls the model."""
        self._recent = ()
        self._swap.active.reset()

    def close(self) -> None:
        """Frees all rungs."""
        self._swap.close()

    def __call__(self, frame_set: FrameSet) -> Boxes3D:
        """See ``FastBEV``. A rung that fails in its first instants is taken back, and the one before runs the same instant."""
        model = self._swap.current()
        if model is not self._last and model.shares_past(self._last):
            model.take_over(self._last)
            self.carried = len(model.cache)
        self._last = model
        try:
            boxes = self._last(frame_set)
        except EngineError as error:
            before = self._swap.reject(str(error))
            if before is None:
                raise
            self._last = before
            boxes = before(frame_set)
        self._keep(frame_set)
        return boxes

    def _keep(self, frame_set: FrameSet) -> None:
        """Remember the instant for a rung to come, as long as any rung looks back. A bag that loops forgets by itself."""
        if self._window:
            kept = [f for f in self._recent[-_MOST:] if 0 < frame_set.stamp - f.stamp <= self._window]
            self._recent = (*kept, frame_set)

    def _warm_up(self, model: FastBEV, rung: str) -> None:
        """On the ladder's thread: first runs, then the last instants, oldest first, those that came meanwhile as well."""
        model.take_over(None)  # not reset: a resident rung may still hold the cache that frames are using
        model.warm_up()
        self.carried, done = 0, -1
        if model.shares_past(self._swap.active):
            self.carried = len(self._swap.active.cache)
            return
        until = time.monotonic() + _PATIENCE
        while waiting := [f for f in self._recent if f.stamp > done]:
            started = time.monotonic()
            if started > until:
                return
            done = waiting[0].stamp
            model.remember(_undecoded(waiting[0], model))
            self.carried += 1
            # Half of the time belongs to the frames that are running meanwhile.
            time.sleep(min(0.2, time.monotonic() - started))


def _undecoded(frame_set: FrameSet, model: FastBEV) -> FrameSet:
    """The instant as the model should see it: images that were decoded smaller than it wants are decoded once more."""

    def wanted(frame: Frame) -> Frame:
        if frame.image is None or frame.encoded is None or frame.rectified:
            return frame
        small = frame.image.shape[1] < model.decode_size(frame.camera)[0]
        return replace(frame, image=None) if small else frame

    return replace(frame_set, frames={name: wanted(frame) for name, frame in frame_set.frames.items()})
