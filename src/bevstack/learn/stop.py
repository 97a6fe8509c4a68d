"""Ctrl-C and SIGTERM during a training: the step is finished and everything is saved before the program ends."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType


def stopped(step: int, checkpoint: Path) -> str:
    """The line that a trainer leaves."""
    return f"stopped after step {step}; all of it is in {checkpoint}: --resume goes on from there"


class StopSignals:
    """Inside ``with``, the first SIGINT or SIGTERM only sets ``received``; a second one acts as it did before.

    Nothing changes where a signal is ignored (``nohup``), outside the main thread, and in a run on several processes: those
    stop together or not at all.
    """

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> StopSignals:
        alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
        if alone and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                before = signal.getsignal(number)
                if before not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._restore()

    def leave(self) -> None:
        """Ends the program as the received signal would have: KeyboardInterrupt or exit code 143. Nothing if there was none."""
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt
        if self.received:
            raise SystemExit(128 + self.received)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before.clear()


def ignore_interrupts(worker: int = 0) -> None:
    """For processes that prepare data: Ctrl-C reaches the whole group, and the trainer still needs them. They end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
