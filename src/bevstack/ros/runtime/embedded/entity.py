"""What an executor runs: things that become ready and then have one callback to call.

Readiness is pushed, not polled: whoever makes an entity ready calls `_wake()`, which puts it into the queue of the executor
that spins its node. Nothing is locked while a callback runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .callback_groups import CallbackGroup
    from .executors import Executor

#: A callback with its arguments, taken from an entity and ready to be called.
Call = tuple[Callable[..., Any], tuple[Any, ...]]


class Owner:
    """Connects the entities of one node with the executor that spins it (None while nobody does)."""

    __slots__ = ("executor",)

    def __init__(self) -> None:
        self.executor: Executor | None = None


class Entity:
    """Base of subscriptions, timers, services, clients, guard conditions and event handlers."""

    callback_group: CallbackGroup | None = None
    _owner: Owner
    _queued: bool = False  # it stands in its executor's queue; written by the executor only

    def _pending(self) -> bool:
        """True if `_take()` would give something."""
        raise TypeError(f"{type(self).__name__} must say when it is ready")

    def _take(self) -> Call | None:
        """Take one piece of work; None if there is none. Called with the executor's lock held: be quick, call nothing."""
        raise TypeError(f"{type(self).__name__} must give its work")

    def _wake(self) -> None:
        """Tell the executor, if any, that there may be work."""
        executor = self._owner.executor
        if executor is not None:
            executor._enqueue(self)
