"""Guard conditions: a callback that any thread can ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .callback_groups import CallbackGroup
from .context import Context
from .entity import Call, Entity, Owner


class GuardCondition(Entity):
    """Calls `callback()` in the executor after `trigger()`. Several triggers before it runs count as one."""

    def __init__(
        self, callback: Callable[[], Any] | None, callback_group: CallbackGroup | None, context: Context | None = None
    ) -> None:
        self.callback = callback
        self.callback_group = callback_group
        self._context = context
        self._owner = Owner()
        self._triggered = False

    def trigger(self) -> None:
        """Ask for the callback. Safe in any thread."""
        self._triggered = True
        self._wake()

    @property
    def handle(self) -> GuardCondition:
        """The guard condition itself: the embedded runtime has no lower layer."""
        return self

    def destroy(self) -> None:
        """No more callbacks."""
        self._triggered = False
        self.callback = None

    def _pending(self) -> bool:
        return self._triggered

    def _take(self) -> Call | None:
        if not self._triggered:
            return None
        self._triggered = False
        return None if self.callback is None else (self.callback, ())
