"""One thread that waits in C for everything that can happen on a participant and calls the handlers."""

from __future__ import annotations

import ctypes as ct
import itertools
import logging
import threading
from collections.abc import Callable

from bevstack.ros.runtime.dds.library import ANY_STATE, NEVER, Library
from bevstack.ros.runtime.wire import WireError

_log = logging.getLogger("bevstack.wire")
_BATCH = 64


def check(library: Library, code: int, what: str) -> int:
    """`code` if it is no error.

    :raises WireError: names what was done and why it failed.
    """
    if code < 0:
        raise WireError(f"{what}: {library.text(code)}")
    return code


class Loop:
    """A C waitset and its thread. The interpreter lock is free while it waits."""

    def __init__(self, library: Library, participant: int) -> None:
        self._library = library
        self._keys = itertools.count(1)
        self._handlers: dict[int, Callable[[], None]] = {}
        self._attached: dict[int, list[tuple[int, int]]] = {}  # owner -> (key, entity)
        self._waitset = check(library, library.dds_create_waitset(participant), "waitset")
        self._stop = check(library, library.dds_create_guardcondition(participant), "guard condition")
        check(library, library.dds_waitset_attach(self._waitset, self._stop, 0), "waitset")
        self._running = True
        self._thread = threading.Thread(target=self._run, name="bevstack-wire", daemon=True)
        self._thread.start()

    @property
    def is_current_thread(self) -> bool:
        return threading.current_thread() is self._thread

    def on_data(self, owner: object, reader: int, handler: Callable[[], None]) -> None:
        """Calls `handler` while the reader has samples."""
        condition = check(self._library, self._library.dds_create_readcondition(reader, ANY_STATE), "read condition")
        self._attach(owner, condition, handler)

    def on_status(self, owner: object, entity: int, mask: int, handler: Callable[[], None]) -> None:
        """Calls `handler` when one of the statuses in `mask` changes."""
        check(self._library, self._library.dds_set_status_mask(entity, mask), "status mask")
        self._attach(owner, entity, handler)

    def _attach(self, owner: object, entity: int, handler: Callable[[], None]) -> None:
        key = next(self._keys)
        self._handlers[key] = handler
        self._attached.setdefault(id(owner), []).append((key, entity))
        check(self._library, self._library.dds_waitset_attach(self._waitset, entity, key), "waitset")

    def forget(self, owner: object) -> None:
        """Detaches all that `owner` attached."""
        for key, entity in self._attached.pop(id(owner), ()):
            self._library.dds_waitset_detach(self._waitset, entity)
            self._handlers.pop(key, None)

    def _run(self) -> None:
        keys = (ct.c_int64 * _BATCH)()
        while self._running:
            count = self._library.dds_waitset_wait(self._waitset, keys, _BATCH, NEVER)
            if count < 0:
                if self._running:
                    _log.error("the wire stopped: %s", self._library.text(count))
                return
            for key in keys[: min(count, _BATCH)]:
                handler = self._handlers.get(key)
                if handler is None:
                    continue
                try:
                    handler()
                except Exception:  # noqa: BLE001 - a user's callback must not end the thread that serves all others
                    _log.exception("a callback of the wire failed")

    def close(self) -> None:
        """Ends the thread. May be called from it."""
        self._running = False
        self._library.dds_set_guardcondition(self._stop, True)
        if not self.is_current_thread:
            self._thread.join(timeout=5)
