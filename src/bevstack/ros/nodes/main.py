"""``main`` of every node: start, spin, leave with exit code 0 on SIGINT and SIGTERM."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from bevstack.errors import BevstackError
from bevstack.ros.runtime import ExternalShutdownException, SingleThreadedExecutor, init, ok, try_shutdown


@contextmanager
def until_shutdown(node: Any) -> Iterator[None]:
    """For threads that publish: a signal ends the context at any moment, and what fails then has failed for that reason."""
    try:
        yield
    except Exception:
        if node.context.ok():
            raise


@contextmanager
def no_keyboard_interrupt() -> Iterator[None]:
    """SIGINT ends the context as SIGTERM does, and raises nothing: KeyboardInterrupt could hit while a bag is being closed.

    Enter it before ``init``, which passes SIGINT on to the handler that it finds. Does nothing outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def run_node(factory: Callable[[], Any], args: Sequence[str] | None = None) -> int:
    """Create the node, start it (``autostart`` where it has one), and spin until it is told to stop or has finished.

    A node has finished when its ``finished`` event is set and its parameter ``exit_when_finished`` is true.

    Returns:
        0 after a signal or a finished source; 2 if the node refuses its parameters (one line on stderr), or could not start and
        has nothing else to do (``fails_for_good``).
    """
    with no_keyboard_interrupt():
        init(args=list(sys.argv if args is None else [sys.argv[0], *args]))
        return _run(factory)


def _run(factory: Callable[[], Any]) -> int:
    node = None
    try:
        try:
            node = factory()
        except (BevstackError, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        start = getattr(node, "autostart", None)
        if start is not None and not start() and getattr(node, "fails_for_good", False):
            return 2
        while ok():
            executor.spin_once(timeout_sec=0.2)
            if getattr(node, "exit_now", False):
                break
    except ExternalShutdownException:
        pass  # the usual end of a node
    except Exception:
        if ok():
            raise  # else a signal came while something was being published: the usual end, too
    finally:
        if node is not None:
            node.destroy_node()
        try_shutdown()  # also after a signal: only then can the same process start again
    return 0
