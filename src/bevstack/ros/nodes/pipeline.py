"""Frames in, boxes out, without ROS: decode workers, synchroniser, ego poses, model, and a count of everything that is lost."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from bevstack.errors import BevstackError
from bevstack.frames.decode import DecodeFailure, DecodePool
from bevstack.frames.ego import PoseBuffer, PoseUnavailableError
from bevstack.frames.shared import PROCESS
from bevstack.frames.sync import Synchroniser
from bevstack.frames.types import Frame, FrameSet
from bevstack.geometry import Boxes3D, Camera

from .worker import NewestWins


class Model(Protocol):
    """What the pipeline needs of ``bev.FastBEV``."""

    @property
    def timings(self) -> Mapping[str, float]: ...

    def __call__(self, frame_set: FrameSet) -> Boxes3D: ...

    def decode_size(self, camera: Camera) -> tuple[int, int] | None: ...

    def reset(self) -> None: ...


@dataclass
class CameraCount:
    """Frames of one camera: received, and lost on the way to a published result.

    ``arrived`` and ``reason_at`` are monotonic seconds: of the last frame, and of the last loss with a reason.
    """

    frames: int = 0
    drops: int = 0
    arrived: float | None = None
    stamp: int | None = None
    reason: str = ""
    reason_at: float = 0.0


@dataclass
class Counts:
    """What became of the instants, and of each camera's frames."""

    instants_in: int = 0
    instants_out: int = 0
    instants_dropped: int = 0
    cameras: dict[str, CameraCount] = field(default_factory=dict)

    @property
    def frame_drop_ratio(self) -> float:
        """Lost frames over received frames, all cameras."""
        received = sum(c.frames for c in self.cameras.values())
        return sum(c.drops for c in self.cameras.values()) / received if received else 0.0


@dataclass(frozen=True)
class Result:
    """One finished instant.

    Attributes:
        frame_set: with decoded images and ego poses.
        boxes: None if the model failed; ``reason`` says why.
        stages: stage name to milliseconds: decode (the slowest image, from its arrival), wait (for the model), the model's own.
        arrived: monotonic seconds at which the reference camera's frame arrived, whose exposure stamps the instant.
        posed: the ego pose is known.
        reason: why there are no boxes, or "".
    """

    frame_set: FrameSet
    boxes: Boxes3D | None
    stages: Mapping[str, float]
    arrived: float
    posed: bool
    reason: str = ""


@dataclass(frozen=True)
class _Instant:
    frame_set: FrameSet
    ready: float


class Pipeline:
    """Runs one model on synchronised frames. ``submit`` never blocks.

    Args:
        model: called on one thread only.
        synchroniser: brings frames together; its counters are read, not changed.
        on_result: called on the model's thread with every instant that the model took.
        on_problem: called from any thread with one line: why a frame or an instant was lost.
        poses: where ego poses come from; None: the frames' own (or none).
        workers: decode threads.
        image_filter: "area", or "bicubic" for official weights.
        pose_wait: seconds that the model's thread waits for an ego pose that is a little late.
        on_thinned: called on a decode thread with every instant that ``share`` leaves out.

    Attributes:
        share: of the instants that the model works on, above 0 to 1, evenly spread; those left out are not drops. May be set at
            any time.
    """

    def __init__(
        self,
        model: Model,
        synchroniser: Synchroniser,
        *,
        on_result: Callable[[Result], None],
        on_problem: Callable[[str], None],
        poses: PoseBuffer | None = None,
        workers: int = 2,
        image_filter: str = "area",
        pose_wait: float = 0.03,
        on_thinned: Callable[[FrameSet], None] | None = None,
    ) -> None:
        self.share = 1.0
        self._on_thinned = on_thinned
        self._credit = 0.0
        self.model = model
        self.synchroniser = synchroniser
        self.poses = poses
        self._on_result, self._on_problem = on_result, on_problem
        self._pose_wait = pose_wait
        self._lock = threading.Lock()
        self._counts = Counts(cameras={name: CameraCount() for name in synchroniser.cameras})
        self._lost_by_sync: dict[str, int] = dict.fromkeys(synchroniser.cameras, 0)
        self._skips = 0
        # (camera, stamp) -> (arrival, decode ms); bounded, because frames that are dropped never come to be looked up.
        self._traces: OrderedDict[tuple[str, int], tuple[float, float]] = OrderedDict()
        self._reset_wanted = threading.Event()
        self._pool = DecodePool(workers, filter="bicubic" if image_filter == "bicubic" else "area", shared=PROCESS)
        self._worker: NewestWins[_Instant] = NewestWins("bev", self._run)

    def submit(self, frame: Frame) -> None:
        """Take one frame of a known camera: decode it in a worker, and go on from there."""
        now = time.monotonic()
        name = frame.camera.name
        with self._lock:
            count = self._counts.cameras[name]
            count.frames += 1
            count.arrived, count.stamp = now, frame.stamp
            self._traces[name, frame.stamp] = (now, 0.0)
            while len(self._traces) > 64 * len(self._counts.cameras):
                self._traces.popitem(last=False)
        self._pool.submit(frame, self.model.decode_size(frame.camera), self._decoded)

    def lost(self, name: str, reason: str) -> None:
        """Count a frame that could not even be submitted (no calibration, contradicting size)."""
        with self._lock:
            count = self._counts.cameras[name]
            count.frames += 1
            count.arrived = time.monotonic()
        self._lose(name, reason)

    def forget(self) -> None:
        """A calibration changed: before the next instant the model drops what it remembers of the past."""
        self._reset_wanted.set()

    def counts(self) -> Counts:
        """A snapshot of all counters; drops include those of the decode pool and of the synchroniser."""
        with self._lock:
            made = Counts(self._counts.instants_in, self._counts.instants_out, self._counts.instants_dropped)
            for name, count in self._counts.cameras.items():
                pool, sync = self._pool.counters.get(name), self.synchroniser.counters[name]
                more = (pool.dropped if pool else 0) + sync.dropped + sync.late + sync.duplicate
                made.cameras[name] = replace(count, drops=count.drops + more)
            return made

    @property
    def idle(self) -> bool:
        """Nothing is being decoded, and the model neither works nor has an instant waiting."""
        decoding = any(c.submitted != c.decoded + c.failed + c.dropped for c in self._pool.counters.values())
        return not (decoding or self._worker.busy)

    def close(self) -> bool:
        """Stop all threads; what waits is dropped. False if the model did not finish in time."""
        self._pool.close()
        return self._worker.close()

    def _lose(self, name: str, reason: str) -> None:
        with self._lock:
            count = self._counts.cameras[name]
            count.drops += 1
            count.reason, count.reason_at = reason, time.monotonic()
        self._on_problem(reason)

    def _decoded(self, result: Frame | DecodeFailure) -> None:
        """On a decode worker: hand the frame to the synchroniser, and a complete instant to the model's thread."""
        if isinstance(result, DecodeFailure):
            self._lose(result.camera, result.reason)
            return
        now = time.monotonic()
        key = (result.camera.name, result.stamp)
        with self._lock:
            if key in self._traces:
                arrived, _ = self._traces[key]
                self._traces[key] = (arrived, (now - arrived) * 1e3)
        for frame_set in self.synchroniser.push(result):
            if self._thin(frame_set):
                continue
            with self._lock:
                self._counts.instants_in += 1
            self._drop(
                self._worker.put(_Instant(frame_set, time.monotonic())), "the model is busy: a newer instant took its place"
            )
        if self.synchroniser.skips != self._skips:
            self._skips = self.synchroniser.skips
            self._on_problem(self.synchroniser.skip_reason)

    def _thin(self, frame_set: FrameSet) -> bool:
        """Whether ``share`` leaves this instant out."""
        with self._lock:
            self._credit += self.share
            thinned = self._credit < 1.0 - 1e-9
            if thinned:
                for name, frame in frame_set.frames.items():
                    self._traces.pop((name, frame.stamp), None)
            else:
                self._credit -= 1.0
        if thinned and self._on_thinned is not None:
            self._on_thinned(frame_set)
        return thinned

    def _drop(self, instant: _Instant | None, reason: str) -> None:
        if instant is None:
            return
        with self._lock:
            self._counts.instants_dropped += 1
            for name in instant.frame_set.frames:
                self._counts.cameras[name].drops += 1
        self._on_problem(reason)

    def _run(self, instant: _Instant) -> None:
        """On the model's thread: one instant."""
        started = time.monotonic()
        frame_set, posed = self._with_poses(instant.frame_set)
        with self._lock:
            traces = [self._traces.pop((n, f.stamp), (instant.ready, 0.0)) for n, f in frame_set.frames.items()]
        # Frames exposed before the reference may have arrived a whole period earlier, where the source is paced by its results.
        reference = [a for (a, _), f in zip(traces, frame_set.frames.values()) if f.stamp == frame_set.stamp]
        arrived = min(reference or [a for a, _ in traces])
        stages = {"decode": max(ms for _, ms in traces), "wait": (started - instant.ready) * 1e3}
        boxes, reason = None, ""
        try:
            if self._reset_wanted.is_set():
                self._reset_wanted.clear()
                self.model.reset()
            boxes = self.model(frame_set)
            # The model has a decoding stage of its own (of boxes): both are told.
            stages |= {f"model {name}" if name in stages else name: ms for name, ms in self.model.timings.items()}
        except BevstackError as error:
            reason = str(error)
        except Exception as error:  # noqa: BLE001 - one bad instant must not end the node; the reason is handed on and shown
            reason = f"the model failed on the instant at {frame_set.stamp} ns: {type(error).__name__}: {error}"
        if boxes is None:
            self._drop(instant, reason)
        else:
            with self._lock:
                self._counts.instants_out += 1
        self._on_result(Result(frame_set, boxes, stages, arrived, posed, reason))

    def _with_poses(self, frame_set: FrameSet) -> tuple[FrameSet, bool]:
        """The instant with ego poses at its stamp and at each image's stamp; identity and False where none is known."""
        if self.poses is None:
            posed = all(frame.T_world_ego is not None for frame in frame_set.frames.values())
            return frame_set, posed
        newest = max(frame.stamp for frame in frame_set.frames.values())
        deadline = time.monotonic() + self._pose_wait
        # Motion of the very instant often arrives a moment after its images; interpolation is better than extrapolation.
        while (span := self.poses.span()) is not None and span[1] < newest and time.monotonic() < deadline:
            time.sleep(0.002)
        try:
            reference = self.poses.at(frame_set.stamp)
            frames = {n: replace(f, T_world_ego=self.poses.at(f.stamp)) for n, f in frame_set.frames.items()}
        except PoseUnavailableError as error:
            if len(self.poses):
                self._on_problem(str(error))
            return replace(frame_set, T_world_ego=np.eye(4)), False
        return replace(frame_set, frames=frames, T_world_ego=reference), True
