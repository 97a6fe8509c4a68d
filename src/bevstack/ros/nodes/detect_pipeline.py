"""Images in, boxes per image out, without ROS: decode workers, one slot per camera, batches in the order of the schedule."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bevstack.errors import BevstackError
from bevstack.frames.decode import DecodeFailure, DecodePool
from bevstack.frames.shared import PROCESS
from bevstack.frames.types import Frame
from bevstack.geometry import Boxes2D

from .camera_schedule import CameraSchedule
from .pipeline import CameraCount

_SKEW_NS = 25_000_000  # images of one moment differ by less
_QUIET = 0.1  # seconds without any image after which no more of the same moment is expected


class Images2D(Protocol):
    """What the pipeline needs of ``detect.Detector``."""

    @property
    def timings(self) -> Mapping[str, float]: ...

    def __call__(
        self, images: Sequence[NDArray[np.uint8]], sizes: Sequence[tuple[int, int]] | None = None
    ) -> list[Boxes2D]: ...

    def decode_size(self, width: int, height: int) -> tuple[int, int]: ...


@dataclass(frozen=True)
class Seen:
    """One image and what was found in it. ``arrived``: monotonic seconds."""

    frame: Frame
    boxes: Boxes2D
    arrived: float


@dataclass(frozen=True)
class BatchResult:
    """One run of the model.

    Attributes:
        seen: per image; empty if the model failed, ``reason`` says why.
        stamps: exposures of the batch by camera.
        stages: stage name to milliseconds: decode (the slowest image, from its arrival), wait, the model's own.
        answered: newest exposure up to which nothing waits any more.
        reason: why there are no boxes, or "".
    """

    seen: tuple[Seen, ...]
    stamps: Mapping[str, int]
    stages: Mapping[str, float]
    answered: int
    reason: str = ""


@dataclass
class DetectCounts:
    """Images admitted by the schedule, published and lost; all arrivals and losses per camera."""

    images_in: int = 0
    images_out: int = 0
    images_dropped: int = 0
    skipped: int = 0
    batches: int = 0
    cameras: dict[str, CameraCount] = field(default_factory=dict)

    @property
    def frame_drop_ratio(self) -> float:
        """Lost images over admitted images, all cameras."""
        return self.images_dropped / self.images_in if self.images_in else 0.0


@dataclass(frozen=True)
class _Waiting:
    frame: Frame
    arrived: float
    ready: float
    since: float


class DetectPipeline:
    """Runs one detector on the newest image of each camera. ``submit`` never blocks.

    Args:
        model: called on one thread only.
        schedule: rates and order; changed only through ``reschedule``.
        on_result: called on the model's thread.
        on_problem: called from any thread with one line: why an image was lost.
        workers: decode threads.
        batch: most images per run; 0: all that wait.
        gather: seconds to wait for the other cameras' images of the same moment, where a batch has room.
        slack: images may be decoded up to this share smaller than the network's input and are enlarged then: JPEGs shrink in
            steps of an eighth, and a step more is often the one that another node decodes anyway.
    """

    def __init__(
        self,
        model: Images2D,
        schedule: CameraSchedule,
        *,
        on_result: Callable[[BatchResult], None],
        on_problem: Callable[[str], None],
        workers: int = 1,
        batch: int = 0,
        gather: float = 0.02,
        slack: float = 0.1,
    ) -> None:
        self.model = model
        self._schedule = schedule
        self._on_result, self._on_problem = on_result, on_problem
        self._batch, self._gather, self._slack = batch, gather, slack
        self._condition = threading.Condition()
        self._counts = DetectCounts(cameras={name: CameraCount() for name in schedule.cameras})
        self._slots: dict[str, _Waiting] = {}
        self._decoding: dict[str, dict[int, float]] = {name: {} for name in schedule.cameras}
        self._running: dict[str, int] = {}
        self._newest = self._settled = 0
        self._last_arrival = 0.0
        self._closed = False
        # Boxes are in pixels of the image as it came: lenses stay as they are.
        self._pool = DecodePool(workers, rectify=False, exact=False, shared=PROCESS)
        self._thread = threading.Thread(target=self._work, name="detect", daemon=True)
        self._thread.start()

    def submit(self, frame: Frame) -> bool:
        """Take one image of a known camera; False where the schedule leaves it out (which is no loss)."""
        name = frame.camera.name
        with self._condition:
            now = self._arrive(name, frame.stamp)
            if not self._schedule.admit(name, frame.stamp):
                self._counts.skipped += 1
                return False
            self._counts.images_in += 1
            # Decoded in order, the newest wins: what waited for a worker is overtaken.
            overtaken = self._decoding[name]
            self._decoding[name] = {**dict(list(overtaken.items())[-1:]), frame.stamp: now}
        width, height = self.model.decode_size(frame.camera.width, frame.camera.height)
        least = (max(1, round(width * (1 - self._slack))), max(1, round(height * (1 - self._slack))))
        self._pool.submit(frame, least, self._decoded)
        return True

    def lost(self, name: str, stamp: int, reason: str) -> None:
        """Count an image that could not even be submitted."""
        with self._condition:
            self._arrive(name, stamp)
            self._counts.images_in += 1
        self._lose(name, reason)

    def _arrive(self, name: str, stamp: int) -> float:
        """Notes that an image has come; monotonic seconds."""
        now, count = time.monotonic(), self._counts.cameras[name]
        if count.stamp is not None and count.stamp - stamp > 1_000_000_000:
            self._newest = self._settled = stamp - 1  # a bag began again
        count.frames += 1
        count.arrived, count.stamp = now, stamp
        self._last_arrival = now
        self._newest = max(self._newest, stamp)
        return now

    def reschedule(self, change: Callable[[CameraSchedule], None]) -> None:
        """Change rates, priorities or share while running."""
        with self._condition:
            change(self._schedule)

    def counts(self) -> DetectCounts:
        """A snapshot; drops include those of the decode pool."""
        with self._condition:
            cameras = {}
            for name, count in self._counts.cameras.items():
                pool = self._pool.counters.get(name)
                cameras[name] = replace(count, drops=count.drops + (pool.dropped if pool else 0))
            more = sum(c.dropped for c in self._pool.counters.values())
            return replace(self._counts, images_dropped=self._counts.images_dropped + more, cameras=cameras)

    @property
    def idle(self) -> bool:
        """Nothing is being decoded, waits, or is being worked on."""
        with self._condition:
            decoding = any(c.submitted != c.decoded + c.failed + c.dropped for c in self._pool.counters.values())
            return not (decoding or self._slots or self._running)

    def answered(self) -> int:
        """Newest exposure up to which nothing waits, is decoded, or is worked on, and nothing more is expected: every camera
        has delivered an image of that moment, or none has come for a while."""
        with self._condition:
            return self._answered()

    def close(self) -> bool:
        """Stop all threads; what waits is dropped. False if the model did not finish in time."""
        self._pool.close()
        with self._condition:
            self._closed = True
            self._slots.clear()
            self._condition.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join(10.0)
        return not self._thread.is_alive()

    def _answered(self) -> int:
        newest = self._newest
        stamps = [count.stamp for count in self._counts.cameras.values()]
        complete = all(stamp is not None and newest - stamp <= _SKEW_NS for stamp in stamps)
        pending = [w.frame.stamp for w in self._slots.values()] + list(self._running.values())
        pending += [stamp for stamps in self._decoding.values() for stamp in stamps]
        if pending:
            return min(min(pending) - 1, self._settled)
        if complete or time.monotonic() - self._last_arrival > _QUIET:
            self._settled = newest
        return self._settled

    def _lose(self, name: str, reason: str) -> None:
        with self._condition:
            count = self._counts.cameras[name]
            count.drops += 1
            count.reason, count.reason_at = reason, time.monotonic()
            self._counts.images_dropped += 1
        self._on_problem(reason)

    def _decoded(self, result: Frame | DecodeFailure) -> None:
        """On a decode worker: into the camera's slot."""
        name = result.camera if isinstance(result, DecodeFailure) else result.camera.name
        now = time.monotonic()
        with self._condition:
            stamps = self._decoding[name]
            arrived = stamps.get(result.stamp, now)
            self._decoding[name] = {stamp: at for stamp, at in stamps.items() if stamp > result.stamp}
            replaced = None
            if isinstance(result, Frame):
                replaced = self._slots.get(name)
                # Who waits longest is known from the first image that has waited, not from the newest.
                self._slots[name] = _Waiting(result, arrived, now, replaced.since if replaced else now)
                self._condition.notify_all()
        if isinstance(result, DecodeFailure):
            self._lose(name, result.reason)
        elif replaced is not None:
            self._lose(name, f"{name}: the model is busy, a newer image took its place")

    def _next(self) -> list[_Waiting]:
        """The next batch; empty when closed."""
        with self._condition:
            while not self._slots and not self._closed:
                self._condition.wait()
            room = self._batch or len(self._schedule.cameras)
            until = time.monotonic() + self._gather
            while not self._closed and len(self._slots) < room and any(self._decoding.values()):
                left = until - time.monotonic()
                if left <= 0:
                    break
                self._condition.wait(left)
            if self._closed:
                return []
            order = self._schedule.order(((n, w.since) for n, w in self._slots.items()), time.monotonic())
            chosen = [self._slots.pop(name) for name in order[:room]]
            self._running = {w.frame.camera.name: w.frame.stamp for w in chosen}
            return chosen

    def _work(self) -> None:
        while chosen := self._next():
            self._run(chosen)

    def _run(self, chosen: Sequence[_Waiting]) -> None:
        started = time.monotonic()
        stages = {
            "decode": max((w.ready - w.arrived) * 1e3 for w in chosen),
            "wait": max((started - w.ready) * 1e3 for w in chosen),
        }
        found: list[Boxes2D] = []
        reason = ""
        try:
            images = [w.frame.image for w in chosen if w.frame.image is not None]
            found = self.model(images, [(w.frame.camera.width, w.frame.camera.height) for w in chosen])
            stages |= {name: ms for name, ms in self.model.timings.items() if name != "total"}
        except BevstackError as error:
            reason = str(error)
        except Exception as error:  # noqa: BLE001 - one bad batch must not end the node; the reason is handed on and shown
            reason = f"the model failed: {type(error).__name__}: {error}"
        with self._condition:
            self._running = {}
            self._counts.batches += 1
            if not reason:
                self._counts.images_out += len(chosen)
            answered = self._answered()
        if reason:
            for w in chosen:
                self._lose(w.frame.camera.name, f"{w.frame.camera.name}: {reason}")
        seen = tuple(Seen(w.frame, boxes, w.arrived) for w, boxes in zip(chosen, found))
        stamps = {w.frame.camera.name: w.frame.stamp for w in chosen}
        self._on_result(BatchResult(seen, stamps, stages, answered, reason))
