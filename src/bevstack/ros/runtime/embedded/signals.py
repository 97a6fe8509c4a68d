"""SIGINT and SIGTERM end all contexts.

The Python signal handler only writes one byte into a pipe: it may interrupt a thread that holds any lock. A daemon thread reads
the pipe and shuts the contexts down. SIGINT then goes on to the handler that was there before (Python's raises
KeyboardInterrupt in the main thread), as with rclpy; SIGTERM does not, so that a spinning program gets
`ExternalShutdownException` and ends in order.
"""

from __future__ import annotations

import os
import signal
import threading
from enum import Enum
from types import FrameType
from typing import Any

from .context import running_contexts


class SignalHandlerOptions(Enum):
    """Which signals end the contexts."""

    NO = 0
    SIGINT = 1
    SIGTERM = 2
    ALL = 3


_lock = threading.RLock()
_previous: dict[int, Any] = {}
_pipe: tuple[int, int] | None = None
_thread: threading.Thread | None = None


def _watch(read_end: int) -> None:
    while os.read(read_end, 1):
        for context in running_contexts():
            context.try_shutdown()


def _handle(number: int, frame: FrameType | None) -> None:
    if _pipe is not None:
        os.write(_pipe[1], bytes([number]))
    previous = _previous.get(number)
    if number == signal.SIGINT and callable(previous):
        previous(number, frame)


def install_signal_handlers(options: SignalHandlerOptions = SignalHandlerOptions.ALL) -> None:
    """Install the handlers. Only the main thread can; from any other thread this does nothing."""
    global _pipe, _thread
    if threading.current_thread() is not threading.main_thread():
        return
    with _lock:
        if _pipe is None or (_thread is not None and not _thread.is_alive()):
            _pipe = os.pipe()
            _thread = threading.Thread(target=_watch, args=(_pipe[0],), name="bevstack-signals", daemon=True)
            _thread.start()
        wanted = {
            signal.SIGINT: options in (SignalHandlerOptions.SIGINT, SignalHandlerOptions.ALL),
            signal.SIGTERM: options in (SignalHandlerOptions.SIGTERM, SignalHandlerOptions.ALL),
        }
        for number, install in wanted.items():
            if install and number not in _previous:
                _previous[number] = signal.signal(number, _handle)
            elif not install and number in _previous:
                _restore(number)


def uninstall_signal_handlers() -> None:
    """Put the previous handlers back."""
    if threading.current_thread() is not threading.main_thread():
        return
    with _lock:
        for number in list(_previous):
            _restore(number)


def get_current_signal_handlers_options() -> SignalHandlerOptions:
    """What is installed now."""
    return SignalHandlerOptions(
        (SignalHandlerOptions.SIGINT.value if signal.SIGINT in _previous else 0)
        + (SignalHandlerOptions.SIGTERM.value if signal.SIGTERM in _previous else 0)
    )


def _restore(number: int) -> None:
    previous = _previous.pop(number)
    # Somebody else may have put a handler on top of ours since: leave that one alone.
    if signal.getsignal(number) is _handle:
        signal.signal(number, signal.SIG_DFL if previous is None else previous)
