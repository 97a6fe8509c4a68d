"""Bringing the frames of several cameras to one instant, by exposure stamps alone.

Both synchronisers are deterministic: they never look at the machine's clock, so a bag gives the same instants at any speed.
Each frame is used at most once, the stamps of a set differ by no more than the tolerance, and instants come in ascending order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import insort
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from threading import RLock

import numpy as np

from bevstack.errors import SourceError

from .types import Frame, FrameSet

JUMP_NS = 1_000_000_000


@dataclass
class CameraCounters:
    """What became of one camera's frames: ``received == used + dropped + late + duplicate + pending``.

    Attributes:
        received: frames given to the synchroniser.
        used: frames that left in an instant.
        dropped: frames that found no partners, or left a full queue, or were overtaken by a newer instant.
        late: frames older than one of the same camera that has been used already.
        duplicate: frames with the stamp of one that is waiting or was used last.
        pending: frames that are still waiting.
        newest: largest stamp seen, nanoseconds; None before the first frame.
    """

    received: int = 0
    used: int = 0
    dropped: int = 0
    late: int = 0
    duplicate: int = 0
    pending: int = 0
    newest: int | None = None


def _ms(nanoseconds: int) -> str:
    return f"{nanoseconds / 1e6:.1f} ms"


def _stamp(frame: Frame) -> int:
    return frame.stamp


class Synchroniser(ABC):
    """What both synchronisers share: queues, counters, silent cameras, clock jumps. Thread-safe.

    Args:
        cameras: names, in rig order; the first one that is present gives an instant its stamp.
        tolerance_ns: largest difference between two stamps of one instant.
        queue: frames kept per camera; a full queue drops its oldest.
        missing_after_ns: a camera whose newest stamp lies further behind the rig's newest than this counts as silent, and
            instants go on without it; None: instants always hold every camera.
        min_cameras: fewest cameras that make an instant when some are silent.
        jump_ns: a stamp further behind the same camera's newest than this is a clock that jumped back (a bag that loops): all
            queues are emptied and counting of time starts afresh. Late frames of a running clock must be closer than this.
    """

    def __init__(
        self,
        cameras: Iterable[str],
        tolerance_ns: int,
        *,
        queue: int = 10,
        missing_after_ns: int | None = None,
        min_cameras: int = 1,
        jump_ns: int = JUMP_NS,
    ) -> None:
        self.cameras: tuple[str, ...] = tuple(cameras)
        if not self.cameras or len(set(self.cameras)) != len(self.cameras):
            raise SourceError(f"a synchroniser needs one or more different cameras, not {list(self.cameras)}")
        if tolerance_ns < 0 or queue < 1:
            raise SourceError(f"tolerance {tolerance_ns} ns and queue {queue} must be positive")
        self.tolerance_ns = tolerance_ns
        self.queue = queue
        self.missing_after_ns = missing_after_ns
        self.min_cameras = min_cameras
        self.jump_ns = jump_ns
        self.counters: dict[str, CameraCounters] = {name: CameraCounters() for name in self.cameras}
        self.skips = 0
        self.skip_reason = ""
        self.resets = 0
        self.instants = 0
        self._lock = RLock()
        self._clear()

    def _clear(self) -> None:
        self._queues: dict[str, deque[Frame]] = {name: deque() for name in self.cameras}
        self._last_used: dict[str, int] = {}
        self._newest: dict[str, int] = {}
        self._first: int | None = None
        self._last_instant: int | None = None

    def reset(self) -> None:
        """Forget all waiting frames (they count as dropped) and all stamps; counters go on."""
        with self._lock:
            for name, waiting in self._queues.items():
                self.counters[name].dropped += len(waiting)
                self.counters[name].pending = 0
            self._clear()
            self.resets += 1

    @property
    def drops(self) -> int:
        """Frames of all cameras that were received and will never leave in an instant."""
        return sum(c.dropped + c.late + c.duplicate for c in self.counters.values())

    def silent(self) -> list[str]:
        """Cameras whose newest stamp lies more than ``missing_after_ns`` behind the rig's newest."""
        if self.missing_after_ns is None or not self._newest:
            return []
        now = max(self._newest.values())
        start = self._first if self._first is not None else now
        return [name for name in self.cameras if now - self._newest.get(name, start) > self.missing_after_ns]

    def add(self, frame: Frame) -> FrameSet | None:
        """Take one frame; return the instant that it completes, if any.

        Where several instants become ready at once (a camera has just been declared silent), the newest is returned and the
        frames of the others count as dropped. Use ``push`` to get all.

        Raises:
            SourceError: if the frame's camera is not one of ``cameras``.
        """
        with self._lock:
            ready = self.push(frame)
            for old in ready[:-1]:
                self.instants -= 1
                for name in old.frames:
                    self.counters[name].used -= 1
                    self.counters[name].dropped += 1
            return ready[-1] if ready else None

    def push(self, frame: Frame) -> list[FrameSet]:
        """Take one frame; return every instant that is ready now, oldest first. Raises as ``add`` does."""
        name = frame.camera.name
        if name not in self.counters:
            raise SourceError(f"camera {name!r} is not one of {', '.join(self.cameras)}: name it in the rig or drop its frames")
        with self._lock:
            # Measured against the camera's own stamps: one that merely lags behind the others must not reset them.
            if frame.stamp < self._newest.get(name, frame.stamp) - self.jump_ns:
                self.reset()
            counter = self.counters[name]
            counter.received += 1
            counter.newest = frame.stamp if counter.newest is None else max(counter.newest, frame.stamp)
            self._first = frame.stamp if self._first is None else min(self._first, frame.stamp)
            self._newest[name] = max(self._newest.get(name, frame.stamp), frame.stamp)
            last = self._last_used.get(name)
            waiting = self._queues[name]
            if last is not None and frame.stamp <= last:
                if frame.stamp == last:
                    counter.duplicate += 1
                else:
                    counter.late += 1
                return self._match(None)
            if any(other.stamp == frame.stamp for other in waiting):
                counter.duplicate += 1
                return self._match(None)
            if waiting and frame.stamp < waiting[-1].stamp:
                insort(waiting, frame, key=_stamp)
            else:
                waiting.append(frame)
            counter.pending += 1
            if len(waiting) > self.queue:
                self._overflow(name)
                self._drop_oldest(name)
            return self._match(frame)

    def flush(self) -> list[FrameSet]:
        """End of the stream: the instants that waiting frames still make. What stays behind counts as dropped."""
        with self._lock:
            ready = self._match(None, final=True)
            for name in self.cameras:
                while self._queues[name]:
                    self._drop_oldest(name)
            return ready

    @abstractmethod
    def _match(self, arrived: Frame | None, *, final: bool = False) -> list[FrameSet]:
        """Every instant that the queues hold now. ``final``: no more frames will come."""

    def _overflow(self, name: str) -> None:  # noqa: B027 - only one of the two has something to say
        """Called before the oldest frame of a full queue is dropped."""

    def _drop_oldest(self, name: str) -> None:
        self._queues[name].popleft()
        self.counters[name].dropped += 1
        self.counters[name].pending -= 1

    def _skip(self, reason: str) -> None:
        self.skips += 1
        self.skip_reason = reason

    def _emit(self, chosen: Mapping[str, Frame]) -> FrameSet | None:
        """Take the chosen frames (and what is older) out of the queues and make an instant of them."""
        for name, frame in chosen.items():
            waiting, counter = self._queues[name], self.counters[name]
            while waiting and waiting[0].stamp < frame.stamp:
                self._drop_oldest(name)
            waiting.popleft()
            counter.pending -= 1
            counter.used += 1
            self._last_used[name] = frame.stamp
        frames = {name: chosen[name] for name in self.cameras if name in chosen}
        reference = next(iter(frames.values()))
        if self._last_instant is not None and reference.stamp <= self._last_instant:
            # Only possible when the reference camera fell silent or came back between two instants.
            for name in frames:
                self.counters[name].used -= 1
                self.counters[name].dropped += 1
            self._skip(f"instant at {reference.stamp} ns is not newer than the last one ({self._last_instant} ns)")
            return None
        self._last_instant = reference.stamp
        self.instants += 1
        # A camera whose pose is not known must not make the car jump: any of the same instant is nearer than none.
        pose = next((item.T_world_ego for item in frames.values() if item.T_world_ego is not None), None)
        return FrameSet(reference.stamp, frames, np.eye(4) if pose is None else pose)


class ApproximateSync(Synchroniser):
    """Instants of frames whose stamps lie within ``slop_ns``, whatever camera comes first.

    As message_filters' ApproximateTime does, it takes the latest of the queues' oldest frames as pivot and gives up frames that
    can no longer meet it. Unlike it, it answers at once instead of waiting for proof that no closer match will come: where the
    slop is less than half a period both give the same sets.

    Args:
        cameras, queue, missing_after_ns, min_cameras, jump_ns: see ``Synchroniser``.
        slop_ns: largest difference between two stamps of one instant, nanoseconds.
    """

    def __init__(
        self,
        cameras: Iterable[str],
        slop_ns: int = 50_000_000,
        queue: int = 10,
        *,
        missing_after_ns: int | None = None,
        min_cameras: int = 1,
        jump_ns: int = JUMP_NS,
    ) -> None:
        super().__init__(
            cameras, slop_ns, queue=queue, missing_after_ns=missing_after_ns, min_cameras=min_cameras, jump_ns=jump_ns
        )

    def _match(self, arrived: Frame | None, *, final: bool = False) -> list[FrameSet]:
        ready: list[FrameSet] = []
        while True:
            absent = set(self.silent())
            if final and self.missing_after_ns is not None:
                absent |= {name for name in self.cameras if not self._queues[name]}
            needed = [name for name in self.cameras if name not in absent or self._queues[name]]
            active = [name for name in needed if self._queues[name]]
            if len(active) < len(needed) or not active:
                return ready
            if len(active) < self.min_cameras:
                self._skip(f"only {len(active)} of {len(self.cameras)} cameras deliver (silent: {', '.join(sorted(absent))})")
                for name in active:
                    self._drop_oldest(name)
                continue
            chosen = self._closest(active)
            stamps = [frame.stamp for frame in chosen.values()]
            spread = max(stamps) - min(stamps)
            if spread <= self.tolerance_ns:
                done = self._emit(chosen)
                if done is not None:
                    ready.append(done)
                continue
            # The oldest head can never meet the pivot's camera, whose own oldest frame is further away than the slop.
            oldest = min(active, key=lambda name: self._queues[name][0].stamp)
            self._skip(f"stamps of one instant differ by {_ms(spread)}, more than {_ms(self.tolerance_ns)} ({oldest})")
            self._drop_oldest(oldest)

    def _overflow(self, name: str) -> None:
        absent = [other for other in self.cameras if not self._queues[other]]
        behind = min(self.cameras, key=lambda other: self._newest.get(other, -1))
        reason = f"nothing of {', '.join(absent)}" if absent else f"{behind} is behind"
        self._skip(f"{name} waits with {self.queue} frames: {reason}")

    def _closest(self, active: Sequence[str]) -> dict[str, Frame]:
        """Of each queue the frame nearest to the pivot, the latest of the queues' oldest frames."""
        pivot = max(self._queues[name][0].stamp for name in active)
        chosen = {name: min(self._queues[name], key=lambda frame: abs(frame.stamp - pivot)) for name in active}
        stamps = [frame.stamp for frame in chosen.values()]
        if max(stamps) - min(stamps) > self.tolerance_ns:
            # Nearest on both sides of the pivot may be too far apart where all frames before it are close enough.
            before = {name: max((f for f in self._queues[name] if f.stamp <= pivot), key=_stamp) for name in active}
            if pivot - min(frame.stamp for frame in before.values()) <= self.tolerance_ns:
                return before
        return chosen


class AnchorSync(Synchroniser):
    """One instant per frame of the anchor camera, for rigs whose cameras are not triggered together (Autoware's way).

    When the anchor's frame arrives, each other camera gives its frame nearest to it. If one of them is not there yet, the
    anchor waits for it until the next anchor frame arrives, or until that camera's newer frames show that it will not come;
    then the instant is skipped and counted, with a reason.

    Args:
        cameras, missing_after_ns, min_cameras, queue, jump_ns: see ``Synchroniser``.
        anchor: name of the reference camera (default: the first). If it falls silent, the next camera in order stands in for
            it.
        tolerance_ns: largest difference between two stamps of one instant (``max_camera_time_diff``).
    """

    def __init__(
        self,
        cameras: Iterable[str],
        anchor: str | None = None,
        tolerance_ns: int = 50_000_000,
        *,
        queue: int = 4,
        missing_after_ns: int | None = None,
        min_cameras: int = 1,
        jump_ns: int = JUMP_NS,
    ) -> None:
        names = tuple(cameras)
        if anchor is None:
            anchor = names[0] if names else ""
        if anchor not in names:
            raise SourceError(f"anchor camera {anchor!r} is not one of {', '.join(names)}")
        # The anchor goes first: it gives the instants their stamp.
        self._order = names
        super().__init__(
            [anchor, *(name for name in names if name != anchor)],
            tolerance_ns,
            queue=queue,
            missing_after_ns=missing_after_ns,
            min_cameras=min_cameras,
            jump_ns=jump_ns,
        )
        self.anchor = anchor

    def _match(self, arrived: Frame | None, *, final: bool = False) -> list[FrameSet]:
        ready: list[FrameSet] = []
        while True:
            absent = set(self.silent())
            if final and self.missing_after_ns is not None:
                absent |= {name for name in self.cameras if not self._queues[name]}
            active = [name for name in self.cameras if name not in absent]
            if not active:
                return ready
            acting = self.anchor if self.anchor in active else active[0]
            if not self._queues[acting]:
                return ready
            if len(active) < self.min_cameras:
                self._skip(f"only {len(active)} of {len(self.cameras)} cameras deliver (silent: {', '.join(sorted(absent))})")
                self._drop_oldest(acting)
                continue
            target = self._queues[acting][0].stamp
            chosen: dict[str, Frame] = {acting: self._queues[acting][0]}
            missing: list[str] = []
            for name in active:
                near = [f for f in self._queues[name] if abs(f.stamp - target) <= self.tolerance_ns]
                if name != acting and near:
                    chosen[name] = min(near, key=lambda frame: abs(frame.stamp - target))
                elif name != acting:
                    missing.append(name)
            stamps = [frame.stamp for frame in chosen.values()]
            spread = max(stamps) - min(stamps)
            if not missing and spread <= self.tolerance_ns:
                done = self._emit(chosen)
                if done is not None:
                    ready.append(done)
                continue
            overtaken = len(self._queues[acting]) > 1
            hopeless = [name for name in missing if self._newest.get(name, target) > target + self.tolerance_ns]
            if not (overtaken or hopeless or final):
                return ready  # the missing frames may still come
            if missing:
                self._skip(f"no frame of {', '.join(missing)} within {_ms(self.tolerance_ns)} of {acting} at {target} ns")
            else:
                self._skip(f"stamps around {acting} at {target} ns differ by {_ms(spread)}, more than {_ms(self.tolerance_ns)}")
            self._drop_oldest(acting)

    def _emit(self, chosen: Mapping[str, Frame]) -> FrameSet | None:
        done = super()._emit(chosen)
        if done is None:
            return None
        # The rig's own order, whatever camera is the anchor.
        return FrameSet(done.stamp, {n: done.frames[n] for n in self._order if n in done.frames}, done.T_world_ego, done.truth)
