"""Callback groups: which callbacks of a node may run at the same time."""

from __future__ import annotations

import threading
import weakref
from typing import Any


class CallbackGroup:
    """Base of the groups. Entities are held weakly."""

    def __init__(self) -> None:
        self._entities: weakref.WeakSet[Any] = weakref.WeakSet()

    def add_entity(self, entity: Any) -> None:
        """Put an entity into the group."""
        self._entities.add(entity)

    def has_entity(self, entity: Any) -> bool:
        """True if the entity is in the group."""
        return entity in self._entities

    def can_execute(self, entity: Any) -> bool:
        """True if a callback of the entity may run now."""
        raise TypeError(f"{type(self).__name__} has no rule: derive from it and say when an entity may run")

    def beginning_execution(self, entity: Any) -> bool:
        """Ask for a callback to run; False if it may not."""
        raise TypeError(f"{type(self).__name__} has no rule: derive from it and say when an entity may run")

    def ending_execution(self, entity: Any) -> None:
        """Tell that the callback has run."""
        raise TypeError(f"{type(self).__name__} has no rule: derive from it and say when an entity may run")


class ReentrantCallbackGroup(CallbackGroup):
    """Callbacks may run in parallel, also several of one entity."""

    def __init__(self) -> None:
        super().__init__()

    def can_execute(self, entity: Any) -> bool:
        return True

    def beginning_execution(self, entity: Any) -> bool:
        return True

    def ending_execution(self, entity: Any) -> None:
        pass


class MutuallyExclusiveCallbackGroup(CallbackGroup):
    """One callback at a time."""

    def __init__(self) -> None:
        super().__init__()
        self._active_entity: Any = None
        self._lock = threading.Lock()

    def can_execute(self, entity: Any) -> bool:
        with self._lock:
            return self._active_entity is None

    def beginning_execution(self, entity: Any) -> bool:
        with self._lock:
            if self._active_entity is None:
                self._active_entity = entity
                return True
            return False

    def ending_execution(self, entity: Any) -> None:
        with self._lock:
            assert self._active_entity is entity
            self._active_entity = None
