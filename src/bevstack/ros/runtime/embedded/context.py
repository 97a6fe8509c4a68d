"""Contexts: the time between `init()` and `shutdown()`."""

from __future__ import annotations

import atexit
import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from .arguments import RosArguments, parse_arguments
from .exceptions import RCLError

if TYPE_CHECKING:
    from .graph import Hub
    from .node import Node

#: Contexts that a signal shuts down.
_running: weakref.WeakSet[Context] = weakref.WeakSet()
_running_lock = threading.Lock()

#: Longest wait for another thread that ends the same context; it may itself wait for us in a callback.
_PATIENCE_SECONDS = 10.0

_default_context: Context | None = None
_default_lock = threading.RLock()


class Context(AbstractContextManager["Context"]):
    """Everything that is started by `init()` and ended by `shutdown()`. `with Context() as context:` does both."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._state = "new"  # -> "ok" -> "shut down"
        self._callbacks: list[Callable[[], None]] = []
        self._wakes: set[Callable[[], None]] = set()
        self._nodes: weakref.WeakSet[Node] = weakref.WeakSet()
        self._domain_id = 0
        self._arguments = RosArguments()
        self._hub: Hub | None = None
        self._ending_thread: int | None = None
        self._ended = threading.Event()

    def init(self, args: list[str] | None = None, *, initialize_logging: bool = True, domain_id: int | None = None) -> None:
        """Start. `args` (default `sys.argv`) may hold a `--ros-args` section; `domain_id` overrides ROS_DOMAIN_ID.

        Raises RuntimeError when it was started before, or for a domain that does not exist; `RCLInvalidROSArgsError` and
        `UnknownROSArgsError` for arguments.
        """
        from ..wire import domain_id_from_environment
        from .graph import acquire_hub
        from .logging import configure_logging

        if domain_id is not None and domain_id < 0:
            raise RuntimeError(f"Domain id ({domain_id}) should not be lower than zero.")
        with self._lock:
            if self._state != "new":
                raise RuntimeError("Context.init() must only be called once")
            self._arguments = parse_arguments(sys.argv if args is None else args)
            self._domain_id = domain_id_from_environment(domain_id)
            self._hub = acquire_hub(self._domain_id)
            self._state = "ok"
        if initialize_logging:
            configure_logging(self._arguments)
        with _running_lock:
            _running.add(self)

    def ok(self) -> bool:
        """True between start and shutdown."""
        return self._state == "ok"

    @property
    def handle(self) -> Context | None:
        """The context itself once it is started: the embedded runtime has no lower layer."""
        return None if self._state == "new" else self

    def get_domain_id(self) -> int:
        """The domain in use. Raises RuntimeError before `init()`."""
        if self._state == "new":
            raise RuntimeError("Context must be initialized before it can have a domain id")
        return self._domain_id

    def on_shutdown(self, callback: Callable[[], None]) -> None:
        """Call `callback()` once at shutdown (at once if that has happened). Raises TypeError if it is not callable."""
        if not callable(callback):
            raise TypeError("callback should be a callable, got {}", type(callback))
        with self._lock:
            if self._state != "shut down":
                self._callbacks.append(callback)
                return
        callback()

    def shutdown(self) -> None:
        """End: executors return, nodes stop to receive. Raises RuntimeError before `init()`, `RCLError` the second time."""
        if self._state == "new":
            raise RuntimeError("Context must be initialized before it can be shutdown")
        if not self._shut_down():
            raise RCLError("failed to shutdown: rcl_shutdown already called on the given context")

    def try_shutdown(self) -> None:
        """End, if it is running."""
        self._shut_down()

    def destroy(self) -> None:
        """Release what the context holds; ends it first if it is running."""
        self._shut_down()

    def _shut_down(self) -> bool:
        with self._lock:
            first = self._state == "ok"
            if first:
                self._state = "shut down"
                self._ending_thread = threading.get_ident()
        if first:
            try:
                self._end()
            finally:
                self._ended.set()
        elif self._ending_thread not in (None, threading.get_ident()):
            # A signal ends the context in a thread of its own: whoever asks next gets on only when that is complete.
            self._ended.wait(_PATIENCE_SECONDS)
        return first

    def _end(self) -> None:
        from .graph import release_hub

        with self._lock:
            callbacks, self._callbacks = self._callbacks, []
            wakes = list(self._wakes)
            nodes = list(self._nodes)
        for wake in wakes:
            wake()
        for callback in callbacks:
            callback()
        for node in nodes:
            node._detach()
        if self._hub is not None:
            release_hub(self._hub)
        with _running_lock:
            _running.discard(self)

    def _add_wake(self, wake: Callable[[], None]) -> None:
        """Internal: call `wake()` when the context ends; it must not take long."""
        with self._lock:
            self._wakes.add(wake)

    def _remove_wake(self, wake: Callable[[], None]) -> None:
        with self._lock:
            self._wakes.discard(wake)

    def __enter__(self) -> Context:
        if self._state == "new":
            self.init()
        return self

    def __exit__(self, *unused: Any) -> None:
        self.try_shutdown()


def get_default_context(*, shutting_down: bool = False) -> Context:
    """The context that is used when none is given; a fresh one after `shutdown()`."""
    global _default_context
    with _default_lock:
        if _default_context is None:
            _default_context = Context()
        context = _default_context
        if shutting_down:
            _default_context = None
        return context


def running_contexts() -> list[Context]:
    """All contexts between start and shutdown."""
    with _running_lock:
        return list(_running)


@atexit.register
def _leave() -> None:
    """A program that forgets to shut down still leaves the graph, so that other processes need not wait for its lease."""
    for context in running_contexts():
        context.try_shutdown()
