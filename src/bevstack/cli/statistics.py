"""What became of a run: counts, rates, and how long each stage took."""

from __future__ import annotations

import threading
import time
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from bevstack.geometry import Boxes2D, Boxes3D
from bevstack.viewer.learned import StreamStatus
from bevstack.viewer.state import Status

from .matches import Matches

# A run of ten hours at 10 Hz fits; beyond that the oldest are forgotten.
_KEPT = 400_000


@dataclass(frozen=True)
class Spread:
    """Median, 95th percentile and maximum of durations in milliseconds."""

    p50: float
    p95: float
    max: float

    @staticmethod
    def of(values: array[float]) -> Spread:
        data = np.frombuffer(values, np.float32)
        p50, p95 = np.percentile(data, [50, 95])
        return Spread(round(float(p50), 3), round(float(p95), 3), round(float(data.max()), 3))


@dataclass
class _Coded:
    """What one camera's learned stream has come to; stamps in nanoseconds."""

    first: int
    last: int = 0
    frames: int = 0
    bytes: int = 0
    pixels: int = 0

    def add(self, status: StreamStatus) -> None:
        self.last = status.stamp
        self.frames += 1
        self.bytes += status.bytes
        self.pixels += status.width * status.height

    def summary(self) -> dict[str, float]:
        seconds = (self.last - self.first) / 1e9
        period = seconds / (self.frames - 1) if self.frames > 1 else 0.0
        return {
            "frames": self.frames,
            "bytes": self.bytes,
            "bits_per_pixel": round(8 * self.bytes / max(1, self.pixels), 4),
            "bits_per_second": round(8 * self.bytes / (self.frames * period), 1) if period > 0 else 0.0,
        }


@dataclass(frozen=True)
class Summary:
    """The end of a run, as printed and as JSON.

    Attributes:
        source, model, engine: what ran. ``model`` is the rung that the pipeline named.
        seconds: wall time from the first to the last instant worked off.
        sent: instants that the source sent; None for live cameras of others.
        instants_in, instants_out, instants_dropped: the pipeline's own counts.
        frame_drop_ratio: dropped frames over received frames of all cameras.
        rate: instants per second that came out.
        boxes: found in all instants together. ``boxes2d``: the same in the camera images.
        truth: how many true objects were found; None where the source does not know them.
        stages: per stage; ``latency`` is the whole, from exposure (or arrival, for recorded data) to publication.
        cameras: per camera {frames, drops}.
        reason: the last problem that the pipeline named, "" if none.
        files: what was written: bag, picture.
        streams: per camera {frames, bytes, bits_per_pixel, bits_per_second} of learned streams, where they are made; the last
            counts the source's own seconds.
    """

    source: str
    model: str
    engine: str
    seconds: float
    sent: int | None
    instants_in: int
    instants_out: int
    instants_dropped: int
    frame_drop_ratio: float
    rate: float
    boxes: int
    truth: Matches | None
    stages: Mapping[str, Spread]
    cameras: Mapping[str, Mapping[str, int]]
    reason: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    boxes2d: int = 0
    streams: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data; durations in milliseconds."""
        stages = {name: {"p50": s.p50, "p95": s.p95, "max": s.max} for name, s in self.stages.items()}
        truth = None if self.truth is None else vars(self.truth)
        return {**self.__dict__, "truth": truth, "stages": stages, "cameras": dict(self.cameras), "files": dict(self.files)}


class Statistics:
    """Adds up the statuses of a run. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()
        self._clock = clock
        self._stages: dict[str, array[float]] = {}
        self._latency: array[float] = array("f")
        self._status = Status()
        self._first: float | None = None
        self._last: float | None = None
        self._instants = 0
        self._boxes = self._boxes2d = 0
        self._matches = Matches()
        self._streams: dict[str, _Coded] = {}
        self._reason = ""

    def add(self, status: Status) -> None:
        """One instant has been worked off (or given up)."""
        now = self._clock()
        with self._lock:
            self._first = now if self._first is None else self._first
            self._last = now
            self._instants += 1
            if status.reason:
                self._reason = status.reason
            if status.instants_out > self._status.instants_out:
                for name, ms in status.stages:
                    self._push(self._stages.setdefault(name, array("f")), ms)
                self._push(self._latency, status.latency_ms)
            self._status = status

    def add_boxes(self, boxes: Boxes3D, truth: Boxes3D | None = None) -> None:
        """Boxes of one instant, and its truth where the source knows it."""
        with self._lock:
            self._boxes += len(boxes)
            if truth is not None:
                self._matches.add(boxes, truth)

    def add_boxes2d(self, boxes: Boxes2D) -> None:
        """2D boxes of one image."""
        with self._lock:
            self._boxes2d += len(boxes)

    def add_coded(self, status: StreamStatus) -> None:
        """A frame of a learned stream (or its loss)."""
        with self._lock:
            if status.bytes:
                self._streams.setdefault(status.camera, _Coded(status.stamp)).add(status)
            elif status.reason:
                self._reason = f"{status.camera}: {status.reason}"

    @property
    def status(self) -> Status:
        """The newest."""
        return self._status

    def summary(self, source: str, *, model: str = "", engine: str = "", sent: int | None = None, **files: str) -> Summary:
        """Everything so far."""
        with self._lock:
            status = self._status
            seconds = self._last - self._first if self._first is not None and self._last is not None else 0.0
            stages = {name: Spread.of(values) for name, values in self._stages.items() if values}
            if self._latency:
                stages["latency"] = Spread.of(self._latency)
            return Summary(
                source=source,
                model=status.rung or model,
                engine=status.engine or engine,
                seconds=round(seconds, 3),
                sent=sent,
                instants_in=status.instants_in,
                instants_out=status.instants_out,
                instants_dropped=status.instants_dropped,
                frame_drop_ratio=round(status.frame_drop_ratio, 5),
                rate=round((self._instants - 1) / seconds, 3) if seconds > 0 and self._instants > 1 else 0.0,
                boxes=self._boxes,
                truth=replace(self._matches) if self._matches.instants else None,
                stages=stages,
                cameras={
                    name: {"frames": frames, "drops": status.camera_drops.get(name, 0)}
                    for name, frames in status.camera_frames.items()
                },
                reason=self._reason,
                files=files,
                boxes2d=self._boxes2d,
                streams={name: coded.summary() for name, coded in self._streams.items()},
            )

    @staticmethod
    def _push(values: array[float], value: float) -> None:
        values.append(value)
        if len(values) > _KEPT:
            del values[: _KEPT // 10]
