"""Executors wait, on a condition variable and never by polling, for ready entities of their nodes and run the callbacks."""

from __future__ import annotations

import inspect
import os
import threading
import time
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from .context import Context, get_default_context
from .entity import Call, Entity
from .exceptions import InvalidHandle, NotInitializedException, RCLError
from .task import Future, Task

if TYPE_CHECKING:
    from .node import Node


class TimeoutException(Exception):
    """The time given to wait has passed."""


class ShutdownException(Exception):
    """This executor was shut down."""


class ExternalShutdownException(Exception):
    """The context was shut down, by a signal or by other code, while something spun in it."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)


class ConditionReachedException(Exception):
    """What was waited for has happened."""


class TimeoutObject:
    """Seconds left of a timeout that is used in several steps; None means no limit."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout

    @property
    def timeout(self) -> float:
        """Seconds left."""
        return self._timeout

    @timeout.setter
    def timeout(self, timeout: float) -> None:
        self._timeout = timeout


def timeout_sec_to_nsec(timeout_sec: float | None) -> int:
    """Nanoseconds of a timeout; -1 (no limit) for None and negative numbers."""
    if timeout_sec is None or timeout_sec < 0:
        return -1
    return int(float(timeout_sec) * 10**9)


async def await_or_execute(callback: Callable[..., Any] | Coroutine[Any, Any, Any], *args: Any) -> Any:
    """Call a function, or await a coroutine function, with `args`."""
    assert callable(callback)
    result = callback(*args)
    return await result if inspect.iscoroutine(result) else result


class _Work:
    """One callback that was taken from an entity, or one step of a task."""

    __slots__ = ("args", "entity", "function")

    def __init__(self, entity: Entity | None, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.entity = entity
        self.function = function
        self.args = args


class Executor(AbstractContextManager["Executor"]):
    """Common part of the executors; use `SingleThreadedExecutor` or `MultiThreadedExecutor`.

    Raises `NotInitializedException` when the context (default: the default context) is not running.
    """

    def __init__(self, *, context: Context | None = None) -> None:
        self._context = get_default_context() if context is None else context
        if not self._context.ok():
            raise NotInitializedException("the executor's context is not running, call init() first")
        self._cv = threading.Condition(threading.Lock())
        self._nodes: list[Node] = []
        self._ready: deque[Entity | Task] = deque()
        self._is_shutdown = False
        self._errors: deque[BaseException] = deque()
        self._watched: weakref.WeakSet[Future] = weakref.WeakSet()  # futures that wake this executor when they are done
        self._active: dict[int, int] = {}  # thread id -> callbacks that it is in, for shutdown()
        self._context._add_wake(self.wake)

    @property
    def context(self) -> Context:
        """The context in which this executor spins."""
        return self._context

    def __exit__(self, *unused: Any) -> None:
        self.shutdown()

    # nodes -------------------------------------------------------------------------------------------------------------

    def add_node(self, node: Node) -> bool:
        """Spin this node too. False if it is here already. A node leaves the executor that it was in."""
        with self._cv:
            if node in self._nodes:
                return False
        previous = node._owner.executor
        if previous is not None and previous is not self:
            previous.remove_node(node)
        with self._cv:
            self._nodes = [*self._nodes, node]
            node._owner.executor = self
        for entity in node._entities():
            if entity._pending():
                self._enqueue(entity)
        self.wake()
        return True

    def remove_node(self, node: Node) -> None:
        """Stop to spin this node."""
        with self._cv:
            if node not in self._nodes:
                return
            self._nodes = [other for other in self._nodes if other is not node]
            if node._owner.executor is self:
                node._owner.executor = None
            kept: deque[Entity | Task] = deque()
            for item in self._ready:
                if isinstance(item, Entity) and item._owner is node._owner:
                    item._queued = False
                else:
                    kept.append(item)
            self._ready = kept
            self._cv.notify_all()

    def get_nodes(self) -> list[Node]:
        """The nodes that this executor spins."""
        return list(self._nodes)

    # readiness ---------------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Make a waiting spin look again at everything."""
        with self._cv:
            self._cv.notify_all()

    def _enqueue(self, entity: Entity) -> None:
        # Reading the flag without the lock is safe: data was queued before; whoever clears the flag looks at the data after.
        if entity._queued:
            return
        with self._cv:
            if not entity._queued and entity._owner.executor is self:
                entity._queued = True
                self._ready.append(entity)
                self._cv.notify()

    def _enqueue_task(self, task: Task) -> None:
        with self._cv:
            self._ready.append(task)
            self._cv.notify()

    def create_task(self, callback: Callable[..., Any] | Coroutine[Any, Any, Any], *args: Any, **kwargs: Any) -> Task:
        """Run a function or coroutine in this executor."""
        task = Task(callback, args, kwargs, executor=self)
        self._enqueue_task(task)
        return task

    def can_execute(self, entity: Any) -> bool:
        """True if the entity's callback group lets it run now."""
        group = entity.callback_group
        return not getattr(entity, "_executor_event", False) and (group is None or group.can_execute(entity))

    # waiting -----------------------------------------------------------------------------------------------------------

    def _may_start(self) -> bool:
        """False while all threads are busy (multi-threaded only)."""
        return True

    def _pick(self) -> _Work | None:
        """Next work, with the lock held. Entities whose group is busy keep their place in the queue."""
        for node in self._nodes:
            for timer in node._timers:
                if not timer._queued and timer._pending():
                    timer._queued = True
                    self._ready.append(timer)
        if not self._may_start():
            return None
        ready = self._ready
        blocked: list[Entity | Task] = []
        work: _Work | None = None
        while ready and work is None:
            item = ready.popleft()
            if isinstance(item, Task):
                work = _Work(None, item, ())
                continue
            group = item.callback_group
            if group is not None and not group.beginning_execution(item):
                blocked.append(item)
                continue
            item._queued = False
            call: Call | None = item._take()
            if call is None:
                if group is not None:
                    group.ending_execution(item)
                continue
            # An entity that has more goes to the back of the queue, so that nobody starves.
            if not item._queued and item._pending():
                item._queued = True
                ready.append(item)
            work = _Work(item, call[0], call[1])
        if blocked:
            ready.extendleft(reversed(blocked))
        return work

    def _time_to_next_timer(self) -> float | None:
        soonest: float | None = None
        for node in self._nodes:
            for timer in node._timers:
                left = None if timer._queued else timer._seconds_left()
                if left is not None and (soonest is None or left < soonest):
                    soonest = left
        return soonest

    def _next(self, timeout_sec: float | None, until: Callable[[], bool] | None = None) -> _Work:
        """Wait for work.

        Raises `TimeoutException`, `ShutdownException`, `ExternalShutdownException`, `ConditionReachedException`, or what a
        callback raised in another thread.
        """
        limit = None if timeout_sec is None or timeout_sec < 0 else time.monotonic() + timeout_sec
        with self._cv:
            while True:
                if self._errors:
                    raise self._errors.popleft()
                if self._is_shutdown:
                    raise ShutdownException
                if not self._context.ok():
                    raise ExternalShutdownException
                if until is not None and until():
                    raise ConditionReachedException
                work = self._pick()
                if work is not None:
                    thread = threading.get_ident()
                    self._active[thread] = self._active.get(thread, 0) + 1
                    return work
                wait = self._time_to_next_timer()
                if limit is not None:
                    left = limit - time.monotonic()
                    if left <= 0:
                        raise TimeoutException
                    wait = left if wait is None else min(wait, left)
                self._cv.wait(None if wait is None else max(wait, 0.0))

    def _run(self, work: _Work) -> None:
        """Run the callback. Whatever it raises goes on to the caller."""
        entity = work.entity
        try:
            if entity is None:
                task: Any = work.function
                task()
                if task.done() and task._exception is not None:
                    raise task._fetch_exception()
                return
            result = work.function(*work.args)
        except BaseException:
            if entity is not None:
                self._release(entity)
            raise
        if inspect.iscoroutine(result):
            # The group stays taken until the coroutine has run to its end.
            task = Task(result, executor=self)
            task._when_done(lambda _: self._release(entity))
            task()
            if task.done() and task._exception is not None:
                raise task._fetch_exception()
        else:
            self._release(entity)

    def _release(self, entity: Entity) -> None:
        group = entity.callback_group
        if group is None:
            return
        with self._cv:
            group.ending_execution(entity)
            self._cv.notify()

    def _left(self, thread: int) -> None:
        with self._cv:
            count = self._active.get(thread, 1) - 1
            if count:
                self._active[thread] = count
            else:
                self._active.pop(thread, None)
            if self._is_shutdown:
                self._cv.notify_all()

    def wait_for_ready_callbacks(self, *args: Any, **kwargs: Any) -> tuple[Task, Entity | None, Node | None]:
        """Wait (`timeout_sec` first) and give a task that runs the next callback, its entity and its node.

        Raises `TimeoutException`, `ShutdownException` or `ExternalShutdownException`.
        """
        timeout_sec = kwargs.get("timeout_sec", args[0] if args else None)
        work = self._next(timeout_sec)
        thread = threading.get_ident()

        def run() -> None:
            try:
                self._run(work)
            finally:
                self._left(thread)

        node = next((n for n in self._nodes if work.entity is not None and n._owner is work.entity._owner), None)
        return Task(run, executor=self), work.entity, node

    def _others_run(self, me: int) -> bool:
        """True while a callback runs in any thread but `me` (with the lock held)."""
        return any(thread != me for thread in self._active)

    def _explain(self, work: _Work, error: Exception) -> Exception | None:
        """A callback that runs while the context ends, or its node is destroyed, finds its publishers closed: no fault."""
        if not self._context.ok():
            return ExternalShutdownException(str(error))
        node_is_gone = work.entity is not None and work.entity._owner.executor is not self
        return None if node_is_gone and isinstance(error, InvalidHandle) else error

    # spinning ----------------------------------------------------------------------------------------------------------

    def _execute(self, work: _Work) -> None:
        raise TypeError("use SingleThreadedExecutor or MultiThreadedExecutor: a plain Executor runs nothing")

    def _once(self, timeout_sec: float | None, until: Callable[[], bool] | None = None) -> None:
        try:
            work = self._next(timeout_sec, until)
        except (ShutdownException, TimeoutException, ConditionReachedException):
            return
        self._execute(work)

    def spin(self) -> None:
        """Run callbacks until the context ends or this executor is shut down.

        Raises `ExternalShutdownException` when the context ends while it waits, and whatever a callback raises.
        """
        while self._context.ok() and not self._is_shutdown:
            self.spin_once()

    def spin_once(self, timeout_sec: float | None = None) -> None:
        """Run one callback, or none if there is none within `timeout_sec` (None: wait without limit)."""
        self._once(timeout_sec)

    def _watch(self, future: Future) -> None:
        if future not in self._watched:
            self._watched.add(future)
            future._when_done(lambda _: self.wake())

    def spin_once_until_future_complete(self, future: Future, timeout_sec: float | TimeoutObject | None = None) -> None:
        """Run one callback unless the future is done before."""
        self._watch(future)
        self._once(timeout_sec.timeout if isinstance(timeout_sec, TimeoutObject) else timeout_sec, future.done)

    def spin_until_future_complete(self, future: Future, timeout_sec: float | None = None) -> None:
        """Run callbacks until the future is done, the time has passed, or everything is shut down."""
        self._watch(future)
        limit = None if timeout_sec is None or timeout_sec < 0 else time.monotonic() + timeout_sec
        while self._context.ok() and not future.done() and not self._is_shutdown:
            left = None if limit is None else limit - time.monotonic()
            if left is not None and left < 0:
                return
            self._once(left, future.done)

    def shutdown(self, timeout_sec: float | None = None) -> bool:
        """Stop: no new callbacks; wait for those that run. False if they have not ended within `timeout_sec`."""
        self._context._remove_wake(self.wake)
        limit = None if timeout_sec is None or timeout_sec < 0 else time.monotonic() + timeout_sec
        me = threading.get_ident()
        with self._cv:
            self._is_shutdown = True
            self._cv.notify_all()
            while self._others_run(me):
                left = None if limit is None else limit - time.monotonic()
                if left is not None and left <= 0:
                    return False
                self._cv.wait(left)
        for node in self.get_nodes():
            self.remove_node(node)
        return True


class SingleThreadedExecutor(Executor):
    """Runs callbacks in the thread that spins."""

    def __init__(self, *, context: Context | None = None) -> None:
        super().__init__(context=context)

    def _execute(self, work: _Work) -> None:
        try:
            self._run(work)
        except (RCLError, InvalidHandle) as error:
            explained = self._explain(work, error)
            if explained is not None:
                raise explained from error
        finally:
            self._left(threading.get_ident())


class MultiThreadedExecutor(Executor):
    """Runs callbacks in a pool of threads. Raises in `spin` what a callback raised; the end of the context just ends it.

    Other than rclpy's it takes a message from its queue only when a thread is free for it: a slow callback sees the newest
    messages, and none pile up in the pool.
    """

    def __init__(self, num_threads: int | None = None, *, context: Context | None = None) -> None:
        super().__init__(context=context)
        if num_threads is None:
            num_threads = max(os.cpu_count() or 2, 2)
        if num_threads == 1:
            warnings.warn(
                "MultiThreadedExecutor is used with a single thread.\nUse the SingleThreadedExecutor instead.", stacklevel=2
            )
        self._num_threads = num_threads
        self._busy = 0
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="bevstack-executor")

    def _may_start(self) -> bool:
        return self._busy < self._num_threads

    def _once(self, timeout_sec: float | None, until: Callable[[], bool] | None = None) -> None:
        try:
            super()._once(timeout_sec, until)
        except ExternalShutdownException:
            return  # as rclpy's: `spin` sees that the context has ended

    def _execute(self, work: _Work) -> None:
        self._left(threading.get_ident())
        with self._cv:
            self._busy += 1
        self._pool.submit(self._work, work)

    def _others_run(self, me: int) -> bool:
        return super()._others_run(me) or self._busy > (1 if me in self._active else 0)

    def _work(self, work: _Work) -> None:
        thread = threading.get_ident()
        with self._cv:
            self._active[thread] = self._active.get(thread, 0) + 1
        try:
            self._run(work)
        except (RCLError, InvalidHandle) as error:
            explained = self._explain(work, error)
            if explained is not None:
                self._errors.append(explained)
        except BaseException as error:  # noqa: BLE001 - handed to the thread that spins, which raises it
            self._errors.append(error)
        finally:
            with self._cv:
                self._busy -= 1
                self._cv.notify_all()
            self._left(thread)

    def shutdown(self, timeout_sec: float | None = None) -> bool:
        done = super().shutdown(timeout_sec)
        self._pool.shutdown(wait=False)
        return done
