"""One loaded network for several users: rungs whose networks have a part in common hold it once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any

from numpy.typing import NDArray

from bevstack.errors import EngineError

from .api import Engine, Tensors

_LOCK = threading.Lock()
_OPEN: dict[Hashable, tuple[Engine, int]] = {}  # key to engine and number of its users


class SharedEngine:
    """A user's handle on an engine. The last one to close frees the network.

    Args:
        key: users that give the same key get the same engine.
        make: loads the engine for the first user; it must bear being run by several threads at a time, as ONNX Runtime's does.

    Raises:
        Exception: whatever ``make`` raises.
    """

    def __init__(self, key: Hashable, make: Callable[[], Engine]) -> None:
        self._key = key
        with _LOCK:
            engine, users = _OPEN.get(key) or (make(), 0)
            _OPEN[key] = (engine, users + 1)
        self._engine: Engine | None = engine

    @property
    def name(self) -> str:
        """See ``Engine``."""
        return self._engine.name if self._engine is not None else "closed"

    def run(self, inputs: Tensors) -> dict[str, NDArray[Any]]:
        """See ``Engine.run``."""
        if self._engine is None:
            raise EngineError("the network has been closed: open it again")
        return self._engine.run(inputs)

    def close(self) -> None:
        """Gives the engine back; it is freed when nobody else uses it."""
        if self._engine is None:
            return
        with _LOCK:
            engine, users = _OPEN.pop(self._key)
            if users > 1:
                _OPEN[self._key] = (engine, users - 1)
        self._engine = None
        if users == 1:
            engine.close()
