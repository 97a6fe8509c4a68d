"""What the page shows: the newest of everything, thread-safe, without ROS and without a web server."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bevstack.geometry import Boxes2D, Boxes3D, Camera
from bevstack.geometry.overlay import Outline, box_outlines
from bevstack.geometry.palette import CLASS_COLOURS, class_name

from .boxes2d import Recent2D, boxes2d_json
from .heat import Heat
from .layout import looks_back, optical_yaw, rig_rows
from .learned import LearnedStreams
from .received import Picture

LOG_LEVELS = ("debug", "info", "warn", "error", "fatal")
DIAGNOSTIC_LEVELS = ("ok", "warn", "error", "stale")

# Per camera: 2.4 s at 10 Hz, to find the image that belongs to boxes that come later; raw images are kept for a shorter time.
_KEPT_IMAGES = 24
_KEPT_BYTES = 16_000_000
_PAIR_NS = 100_000_000
_BOXES_STALE_S = 2.0


@dataclass(frozen=True)
class Status:
    """The pipeline's own account of itself, as stack_msgs/PipelineStatus carries it. Times in milliseconds."""

    stamp: int = 0
    rung: str = ""
    engine: str = ""
    instants_in: int = 0
    instants_out: int = 0
    instants_dropped: int = 0
    frame_drop_ratio: float = 0.0
    stages: tuple[tuple[str, float], ...] = ()
    latency_ms: float = 0.0
    camera_frames: Mapping[str, int] = field(default_factory=dict)
    camera_drops: Mapping[str, int] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class LogLine:
    """One line of /rosout. ``level`` is one of ``LOG_LEVELS``, ``time`` seconds since 1970."""

    time: float
    level: str
    name: str
    text: str


@dataclass(frozen=True)
class Diagnostic:
    """One status of /diagnostics. ``level`` is one of ``DIAGNOSTIC_LEVELS``."""

    name: str
    level: str
    message: str
    values: Mapping[str, str] = field(default_factory=dict)


class RateMeter:
    """Events per second over the last ``window`` seconds; falls to zero when events stop."""

    def __init__(self, window: float = 3.0) -> None:
        self.window = window
        self.count = 0
        self._times: deque[float] = deque()

    def tick(self, now: float) -> None:
        self.count += 1
        self._times.append(now)
        self._trim(now)

    def rate(self, now: float) -> float:
        self._trim(now)
        if len(self._times) < 2:
            return 0.0
        # Up to the newest event while they come; up to now once they are late, so that a stopped camera's rate falls.
        gap = (self._times[-1] - self._times[0]) / (len(self._times) - 1)
        span = max(self._times[-1], now - 1.5 * gap) - self._times[0]
        return (len(self._times) - 1) / span if span > 0 else 0.0

    def _trim(self, now: float) -> None:
        while self._times and now - self._times[0] > self.window:
            self._times.popleft()


class _CameraState:
    def __init__(self, name: str) -> None:
        self.name = name
        self.camera: Camera | None = None
        self.pictures: deque[Picture] = deque(maxlen=_KEPT_IMAGES)
        self.meter = RateMeter()
        self.last_arrival: float | None = None
        self.recent2d = Recent2D()
        self.arrival2d: float | None = None
        self.meter2d = RateMeter()

    def keep(self, picture: Picture) -> None:
        if self.pictures and picture.stamp < self.pictures[-1].stamp:
            self.pictures.clear()  # time went back: a bag began again
        self.pictures.append(picture)
        while len(self.pictures) > 2 and sum(p.nbytes for p in self.pictures) > _KEPT_BYTES:
            self.pictures.popleft()

    def arrived(self, now: float) -> None:
        self.meter.tick(now)
        self.last_arrival = now

    def fresh_2d(self, now: float) -> bool:
        """2D boxes still come for this camera (or its newest picture is the one that they belong to)."""
        if self.arrival2d is None:
            return False
        newest = self.recent2d.newest
        return now - self.arrival2d < _BOXES_STALE_S or (bool(self.pictures) and newest == self.pictures[-1].stamp)

    def of_2d(self, now: float) -> Picture | None:
        """The picture of the newest 2D boxes, where they come."""
        newest = self.recent2d.newest
        return self.nearest(newest) if newest is not None and self.fresh_2d(now) else None

    def nearest(self, stamp: int) -> Picture | None:
        if not self.pictures:
            return None
        best = min(self.pictures, key=lambda p: abs(p.stamp - stamp))
        return best if abs(best.stamp - stamp) <= _PAIR_NS else None


@dataclass(frozen=True)
class View:
    """One consistent instant for one client: ``data`` is JSON-ready; ``pictures`` by camera name belong to its boxes."""

    version: int
    data: dict[str, Any]
    pictures: dict[str, Picture]


class PageState:
    """Collects what arrives and gives out one consistent view. Every method may be called from any thread and returns at once.

    Images are kept for a moment: boxes come later than the images that they were found in, and the page shows both of the same
    instant. When no boxes come, the newest images are shown.

    Args:
        clock: monotonic seconds (for tests).
    """

    def __init__(self, *, log_lines: int = 400, history: int = 240, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()
        self._clock = clock
        self._started = clock()
        self._cameras: dict[str, _CameraState] = {}
        self._boxes: Boxes3D | None = None
        self._boxes_stamp = 0
        self._boxes_arrival: float | None = None
        self._truths: deque[tuple[int, Boxes3D]] = deque(maxlen=_KEPT_IMAGES)
        self._status = Status()
        self._status_known = False
        self._status2d: Status | None = None
        self._history: deque[tuple[int, float]] = deque(maxlen=history)
        self._history_count = 0
        self._logs: deque[tuple[int, LogLine]] = deque(maxlen=log_lines)
        self._log_count = 0
        self._diagnostics: dict[str, tuple[Diagnostic, float]] = {}
        self._output = RateMeter()
        self._about: dict[str, Any] = {}
        self._ended = False
        self._version = 0
        self._listeners: list[Callable[[], None]] = []
        self.learned = LearnedStreams(self.picture_of, self._changed, clock)
        """Learned streams, if there are any."""
        self.heat = Heat(self._changed, clock)
        """What the governor tells, if there is one."""

    # -- input -----------------------------------------------------------------------------------------------------------

    def set_about(self, **facts: Any) -> None:
        """Facts that do not change while running, shown in the page's head: source, runtime, ..."""
        with self._lock:
            self._about.update(facts)
        self._changed()

    def set_ended(self) -> None:
        """The source has no more images: their absence is no fault. The next image takes it back."""
        with self._lock:
            self._ended = True
        self._changed()

    def add_camera(self, name: str) -> None:
        """Announces a camera, so that the page shows its place before its first image."""
        with self._lock:
            self._cameras.setdefault(name, _CameraState(name))
        self._changed()

    def set_camera(self, camera: Camera) -> None:
        with self._lock:
            self._cameras.setdefault(camera.name, _CameraState(camera.name)).camera = camera
        self._changed()

    def add_picture(self, name: str, picture: Picture) -> None:
        now = self._clock()
        with self._lock:
            state = self._cameras.setdefault(name, _CameraState(name))
            state.keep(picture)
            state.arrived(now)
            self._ended = False
        self._changed()

    def picture_of(self, name: str, stamp: int) -> Picture | None:
        """A camera's image of exactly this instant, while it is kept."""
        with self._lock:
            state = self._cameras.get(name)
            return next((p for p in state.pictures if p.stamp == stamp), None) if state is not None else None

    def count_picture(self, name: str) -> None:
        """An image has arrived that nobody will see: only its rate is of interest."""
        now = self._clock()
        with self._lock:
            self._cameras.setdefault(name, _CameraState(name)).arrived(now)
        self._changed()

    def set_boxes(self, stamp: int, boxes: Boxes3D) -> None:
        """Boxes in the ego frame; rows with numbers that are not finite are left out (JSON cannot say them)."""
        now, boxes = self._clock(), _finite(boxes)
        with self._lock:
            self._boxes, self._boxes_stamp, self._boxes_arrival = boxes, stamp, now
            self._output.tick(now)
        self._changed()

    def set_boxes2d(self, name: str, stamp: int, boxes: Boxes2D) -> None:
        """2D boxes of one camera's image, in its pixels."""
        now = self._clock()
        with self._lock:
            state = self._cameras.setdefault(name, _CameraState(name))
            state.recent2d.keep(stamp, boxes)
            state.arrival2d = now
            state.meter2d.tick(now)
        self._changed()

    def set_status2d(self, status: Status) -> None:
        """The 2D node's own account of itself."""
        with self._lock:
            self._status2d = status
        self._changed()

    def set_velocity(self, stamp: int, velocity: NDArray[np.float64]) -> None:
        """Velocities (N, 2) of the boxes of ``stamp``, in ego axes; ignored when other boxes are shown by now."""
        with self._lock:
            boxes = self._boxes
            if boxes is None or stamp != self._boxes_stamp or len(boxes) != len(velocity):
                return
            self._boxes = replace(boxes, velocity=velocity)
        self._changed()

    def set_truth(self, stamp: int, boxes: Boxes3D) -> None:
        with self._lock:
            self._truths.append((stamp, _finite(boxes)))
        self._changed()

    def set_status(self, status: Status) -> None:
        with self._lock:
            new = status.stamp != self._status.stamp
            self._status, self._status_known = status, True
            if new and status.latency_ms > 0:
                self._history_count += 1
                self._history.append((self._history_count, status.latency_ms))
        self._changed()

    def add_log(self, line: LogLine) -> None:
        with self._lock:
            self._log_count += 1
            self._logs.append((self._log_count, line))
        self._changed()

    def set_diagnostics(self, statuses: Iterable[Diagnostic]) -> None:
        now = self._clock()
        with self._lock:
            for status in statuses:
                self._diagnostics[status.name] = (status, now)
        self._changed()

    # -- output ----------------------------------------------------------------------------------------------------------

    def listen(self, listener: Callable[[], None]) -> None:
        """``listener`` is called after every change, on the thread that made it: it must only set a flag."""
        self._listeners.append(listener)

    @property
    def version(self) -> int:
        """Grows with every change."""
        return self._version

    def view(self, *, logs_after: int = 0, history_after: int = 0, heat_after: int = 0) -> View:
        """One consistent view.

        Args:
            logs_after, history_after: an earlier view's ``log_count`` and ``history_count``: only what is newer comes.
            heat_after: as these, of ``heat.count``.
        """
        now = self._clock()
        with self._lock:
            fresh = self._boxes_arrival is not None and now - self._boxes_arrival < _BOXES_STALE_S
            stamp, boxes = self._boxes_stamp, self._boxes
            pictures: dict[str, Picture] = {}
            paired: set[str] = set()
            for state in self._cameras.values():
                match = state.nearest(stamp) if boxes is not None else None
                if match is not None and (fresh or match is state.pictures[-1]):
                    pictures[state.name] = match
                    paired.add(state.name)
                elif state.pictures:
                    pictures[state.name] = state.of_2d(now) or state.pictures[-1]
            truth = min(self._truths, key=lambda t: abs(t[0] - stamp), default=None)
            if truth is not None and abs(truth[0] - stamp) > _PAIR_NS:
                truth = None
            current = boxes if boxes is not None and (fresh or paired) else None
            calibrations = {name: state.camera for name, state in self._cameras.items()}
            found2d = {
                name: state.recent2d.nearest(pictures[name].stamp)
                for name, state in self._cameras.items()
                if name in pictures and state.fresh_2d(now)
            }
            data: dict[str, Any] = {
                "about": dict(self._about),
                "ended": self._ended,
                "uptime_s": round(now - self._started, 3),
                "stamp": str(stamp) if current is not None else None,
                "output_rate": round(self._output.rate(now), 2),
                "status": _status_json(self._status) if self._status_known else None,
                "status2d": _status_json(self._status2d) if self._status2d is not None else None,
                "history": [round(ms, 2) for number, ms in self._history if number > history_after],
                "history_count": self._history_count,
                "logs": [_log_json(n, line) for n, line in self._logs if n > logs_after],
                "log_count": self._log_count,
                "diagnostics": [_diagnostic_json(d, now - at) for d, at in self._diagnostics.values()],
                "cameras": [self._camera_json(s, pictures.get(s.name), now) for s in self._in_rig_order()],
            }
            version = self._version
        data["learned"] = self.learned.json()
        data["heat"] = self.heat.json(heat_after)
        # Geometry is done outside the lock: arrays never change once they are here.
        data["boxes"] = boxes_json(current)
        data["truth"] = boxes_json(truth[1]) if truth is not None and current is not None else []
        for camera in data["cameras"]:
            calibration = calibrations[camera["name"]]
            drawable = current is not None and calibration is not None and camera["name"] in paired
            outlines = box_outlines(calibration, current) if drawable and calibration and current else []
            shown = pictures.get(camera["name"])
            flat, missed = boxes2d_json(
                found2d.get(camera["name"]),
                shown.size if shown is not None else None,
                calibration if drawable else None,
                current,
                outlines,
                stamp,
            )
            camera["outlines"] = outlines_json(outlines, set(missed))
            camera["boxes2d"] = flat
            camera["disagreements"] = len(missed) + sum(bool(row["flag"]) for row in flat)
        return View(version, data, pictures)

    def instant(self, stamp: int) -> tuple[dict[str, Picture], Boxes3D | None]:
        """The images that belong to ``stamp`` by camera, and the truth of that instant where it is known."""
        with self._lock:
            found = {name: state.nearest(stamp) for name, state in self._cameras.items()}
            truth = min(self._truths, key=lambda t: abs(t[0] - stamp), default=None)
        near = truth is not None and abs(truth[0] - stamp) <= _PAIR_NS
        return {name: picture for name, picture in found.items() if picture is not None}, truth[1] if truth and near else None

    def boxes2d_of(self, name: str, stamp: int) -> Boxes2D | None:
        """2D boxes of a camera at about this moment."""
        with self._lock:
            state = self._cameras.get(name)
            found = state.recent2d.nearest(stamp) if state is not None else None
        return found[1] if found is not None else None

    def truth_of(self, stamp: int) -> Boxes3D | None:
        """The true boxes of exactly this instant, None where they are not known."""
        with self._lock:
            return next((boxes for at, boxes in self._truths if at == stamp), None)

    def summary(self) -> dict[str, Any]:
        """The view without drawing: what ``/api/state`` answers."""
        data = self.view().data
        for camera in data["cameras"]:
            camera["visible"] = len(camera.pop("outlines"))
            camera["visible2d"] = len(camera.pop("boxes2d"))
        return data

    # -- inside ----------------------------------------------------------------------------------------------------------

    def _changed(self) -> None:
        self._version += 1
        for listener in self._listeners:
            listener()

    def _in_rig_order(self) -> list[_CameraState]:
        """As they sit on the vehicle once all calibrations are known, until then as they were announced."""
        known = [state.camera for state in self._cameras.values() if state.camera is not None]
        if len(known) < len(self._cameras):
            return list(self._cameras.values())
        return [self._cameras[camera.name] for row in rig_rows(known) for camera in row]

    def _camera_json(self, state: _CameraState, picture: Picture | None, now: float) -> dict[str, Any]:
        camera = state.camera
        return {
            "name": state.name,
            "width": camera.width if camera else None,
            "height": camera.height if camera else None,
            "yaw": round(optical_yaw(camera), 4) if camera else None,
            "position": [round(float(v), 3) for v in camera.T_ego_camera[:2, 3]] if camera else None,
            "fov": round(float(2 * np.arctan2(camera.width / 2, camera.K[0, 0])), 4) if camera else None,
            "rear": bool(camera and looks_back(camera)),
            "rate": round(state.meter.rate(now), 2),
            "rate2d": round(state.meter2d.rate(now), 2) if state.arrival2d is not None else None,
            "received": state.meter.count,
            "frames": self._status.camera_frames.get(state.name),
            "drops": self._status.camera_drops.get(state.name),
            "age_s": round(now - state.last_arrival, 3) if state.last_arrival is not None else None,
            "stamp": str(picture.stamp) if picture else None,
        }


def _finite(boxes: Boxes3D) -> Boxes3D:
    rows = np.column_stack([boxes.center, boxes.size, boxes.yaw, boxes.velocity, boxes.score])
    keep = np.isfinite(rows).all(axis=1)
    return boxes if keep.all() else boxes[keep]


def boxes_json(boxes: Boxes3D | None) -> list[dict[str, Any]]:
    """Boxes as the page's script wants them; metres, radians, ego frame."""
    if boxes is None:
        return []
    return [
        {
            "x": round(float(boxes.center[i, 0]), 3),
            "y": round(float(boxes.center[i, 1]), 3),
            "z": round(float(boxes.center[i, 2]), 3),
            "length": round(float(boxes.size[i, 0]), 3),
            "width": round(float(boxes.size[i, 1]), 3),
            "height": round(float(boxes.size[i, 2]), 3),
            "yaw": round(float(boxes.yaw[i]), 4),
            "vx": round(float(boxes.velocity[i, 0]), 3),
            "vy": round(float(boxes.velocity[i, 1]), 3),
            "score": round(float(boxes.score[i]), 3),
            "class": class_name(int(boxes.label[i])),
            "id": int(boxes.id[i]) if boxes.id[i] >= 0 else None,
        }
        for i in range(len(boxes))
    ]


def outlines_json(outlines: Iterable[Outline], missed: set[int] | None = None) -> list[dict[str, Any]]:
    """Per visible box: its index, depth, and polylines as flat lists of image fractions; ``front`` is the leading face.

    ``missed``: boxes that the 2D detector should have seen; they carry ``alone``.
    """
    return [
        {
            "box": outline.index,
            "depth": round(outline.depth, 2),
            "lines": [line.round(4).ravel().tolist() for line in outline.lines],
            "front": [line.round(4).ravel().tolist() for line in outline.front],
            **({"alone": True} if missed and outline.index in missed else {}),
        }
        for outline in outlines
    ]


def hello_json() -> dict[str, Any]:
    """What never changes: classes and their colours, level names."""
    return {"type": "hello", "classes": CLASS_COLOURS, "log_levels": LOG_LEVELS, "diagnostic_levels": DIAGNOSTIC_LEVELS}


def _status_json(status: Status) -> dict[str, Any]:
    return {
        "rung": status.rung,
        "engine": status.engine,
        "instants_in": status.instants_in,
        "instants_out": status.instants_out,
        "instants_dropped": status.instants_dropped,
        "frame_drop_ratio": round(status.frame_drop_ratio, 4),
        "latency_ms": round(status.latency_ms, 2),
        "stages": [{"name": name, "ms": round(ms, 3)} for name, ms in status.stages],
        "reason": status.reason,
    }


def _log_json(number: int, line: LogLine) -> dict[str, Any]:
    return {"n": number, "time": round(line.time, 3), "level": line.level, "name": line.name, "text": line.text}


def _diagnostic_json(status: Diagnostic, age: float) -> dict[str, Any]:
    return {
        "name": status.name,
        "level": status.level if age < 5.0 else "stale",
        "message": status.message,
        "values": dict(status.values),
        "age_s": round(age, 1),
    }
