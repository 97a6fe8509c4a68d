"""The loop that trainers have in common: steps until the budget is used up, a log, a checkpoint now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

from .run import Budget, CsvLog, Means, Progress, RunFolder
from .stop import StopSignals, stopped

BatchT = TypeVar("BatchT", contravariant=True)


class Pace(Budget, Protocol):
    """Options of a loop: the budget, steps per line of the log, minutes between checkpoints."""

    @property
    def log_every(self) -> int: ...

    @property
    def checkpoint_minutes(self) -> float: ...


class Steps(Protocol[BatchT]):
    """What trains: ``step`` counts ``progress.step`` up and returns what the log shows; ``save`` writes everything."""

    progress: Progress

    def step(self, batch: BatchT, /) -> dict[str, float]: ...

    def save(self, path: Path, /) -> None: ...


def run_steps(
    trainer: Steps[BatchT],
    pace: Pace,
    batches: Iterator[BatchT],
    folder: RunFolder,
    report: Callable[[str], None],
    *,
    clock: Callable[[float], float] = float,
    between: Callable[[bool], None] = lambda finished: None,
) -> None:
    """Trains to the end of the budget and saves. Only the first process of a run writes.

    Args:
        batches: endless, from the step on at which the trainer stands.
        report: receives one line per log entry.
        clock: what a step that took so many seconds here counts: all processes of a run must stop at the same step.
        between: called before every step, and once more at the end with True; its time does not count.

    Raises:
        KeyboardInterrupt, SystemExit: Ctrl-C or SIGTERM came; the last step was finished and saved. See `StopSignals`.
    """
    progress = trainer.progress
    log = CsvLog(folder.log, progress.step) if folder.first else None
    means = Means()
    saved = time.monotonic()
    with StopSignals() as stop:
        while progress.fraction(pace) < 1.0 and not stop.received:
            between(False)
            began = time.monotonic()
            try:
                batch = next(batches)
            except Exception:
                if stop.received:  # Ctrl-C reaches those who prepare the data, too
                    break
                raise
            waiting = time.monotonic() - began
            means.add({**trainer.step(batch), "waiting": waiting})
            progress.seconds += clock(time.monotonic() - began)
            if log is None:
                continue
            if progress.step % pace.log_every == 0:
                report(log.write({"step": progress.step, "minutes": progress.seconds / 60, **means.take()}))
            if time.monotonic() - saved > 60 * pace.checkpoint_minutes:
                trainer.save(folder.checkpoint)
                saved = time.monotonic()
        if not stop.received:
            between(True)
        if folder.first:
            trainer.save(folder.checkpoint)
    if stop.received:
        report(stopped(progress.step, folder.checkpoint))
        stop.leave()
