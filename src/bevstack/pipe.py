"""How a program ends whose reader has gone."""

from __future__ import annotations

import signal


def end_with_reader() -> None:
    """From now on, writing to a pipe whose reader has left (``| head``) ends this process at once and in silence, as it ends
    shell tools. For small programs that only print; does nothing where there is no SIGPIPE."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
