"""Reading zones whose drivers may hang: one that does not answer in time is STALE, and the others are read all the same."""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass, field

from .zones import Clock, Health, Reading, Zone

DEADLINE_S = 0.2


@dataclass
class _Job:
    zone: Zone
    since: float
    done: threading.Event = field(default_factory=threading.Event)
    reading: Reading | None = None


class _Worker:
    """Reads one zone after another on its own thread; a thread that a driver holds ends by itself once it is let go."""

    def __init__(self) -> None:
        self.jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="zone reader", daemon=True).start()

    def _run(self) -> None:
        while (job := self.jobs.get()) is not None:
            job.reading = job.zone.read()
            job.done.set()


class PatientReader:
    """Callable for ``ZoneSet(ask=...)``: a reading within the deadline, or STALE. At most one thread per hanging zone.

    Args:
        deadline: seconds that a driver may take.
        clock: monotonic seconds of the readings.
    """

    def __init__(self, deadline: float = DEADLINE_S, clock: Clock = time.monotonic) -> None:
        self._deadline, self._clock = deadline, clock
        self._hanging: dict[str, _Job] = {}
        self._worker: _Worker | None = None

    def __call__(self, zone: Zone) -> Reading:
        """One answer of one zone, or that there is none."""
        job = self._hanging.get(zone.key)
        if job is not None:
            if not job.done.is_set():
                return self._stale(job)
            del self._hanging[zone.key]
        job = _Job(zone, self._clock())
        if self._worker is None:
            self._worker = _Worker()
        self._worker.jobs.put(job)
        if job.done.wait(self._deadline) and job.reading is not None:
            return job.reading
        self._hanging[zone.key] = job
        self.close()
        return self._stale(job)

    def close(self) -> None:
        """Ends the thread after what it is at."""
        if self._worker is not None:
            self._worker.jobs.put(None)
            self._worker = None

    def _stale(self, job: _Job) -> Reading:
        now = self._clock()
        return Reading(job.zone.key, None, Health.STALE, now, f"no answer for {now - job.since:.1f} s: its driver hangs")
