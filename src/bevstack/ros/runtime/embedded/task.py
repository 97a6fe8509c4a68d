"""Futures and tasks: results that arrive while an executor spins, and coroutines that wait for them."""

from __future__ import annotations

import inspect
import threading
import warnings
import weakref
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .executors import Executor


class Future:
    """The outcome of a task that may not have finished yet. `await` it in a coroutine that an executor runs."""

    def __init__(self, *, executor: Executor | None = None) -> None:
        self._done = False
        self._cancelled = False
        self._result: Any = None
        self._exception: BaseException | None = None
        self._exception_fetched = False
        self._callbacks: list[Callable[[Any], Any]] = []
        self._direct_callbacks: list[Callable[[Any], Any]] = []
        self._lock = threading.Lock()
        self._executor: weakref.ref[Executor] | None = None
        self._set_executor(executor)

    def __del__(self) -> None:
        if getattr(self, "_exception", None) is not None and not self._exception_fetched:
            warnings.warn(f"The following exception was never retrieved: {self._exception}", stacklevel=2)

    def __await__(self) -> Generator[Future, None, Any]:
        while not self._done:
            yield self
        return self.result()

    def cancel(self) -> None:
        """Cancel, unless it is done already."""
        with self._lock:
            if self._done:
                return
            self._done = True
            self._cancelled = True
        self._finish()

    def cancelled(self) -> bool:
        """True if it was cancelled."""
        return self._cancelled

    def done(self) -> bool:
        """True if there is a result, an exception, or it was cancelled."""
        return self._done

    def result(self) -> Any:
        """The result (None while there is none). Raises the exception of the task if it has one."""
        if self._exception is not None:
            self._exception_fetched = True
            raise self._exception
        return self._result

    def exception(self) -> BaseException | None:
        """The exception of the task, or None."""
        self._exception_fetched = True
        return self._exception

    def _fetch_exception(self) -> BaseException:
        self._exception_fetched = True
        assert self._exception is not None
        return self._exception

    def set_result(self, result: Any) -> None:
        """Finish with a result."""
        with self._lock:
            self._result = result
            self._done = True
            self._cancelled = False
        self._finish()

    def set_exception(self, exception: BaseException) -> None:
        """Finish with an exception."""
        with self._lock:
            self._exception = exception
            self._exception_fetched = False
            self._done = True
            self._cancelled = False
        self._finish()

    def _finish(self) -> None:
        with self._lock:
            direct, self._direct_callbacks = self._direct_callbacks, []
            callbacks, self._callbacks = self._callbacks, []
        for callback in direct:
            callback(self)
        for callback in callbacks:
            self._call_back(callback)

    def _call_back(self, callback: Callable[[Any], Any]) -> None:
        executor = self._executor() if self._executor is not None else None
        if executor is not None:
            executor.create_task(callback, self)
        else:
            callback(self)

    def _set_executor(self, executor: Executor | None) -> None:
        self._executor = None if executor is None else weakref.ref(executor)

    def add_done_callback(self, callback: Callable[[Any], Any]) -> None:
        """Call `callback(self)` when done: by the executor if there is one, else in the thread that finishes it.

        If it is done already, it is called at once (by the executor if there is one).
        """
        with self._lock:
            if not self._done:
                self._callbacks.append(callback)
                return
        self._call_back(callback)

    def _when_done(self, callback: Callable[[Any], Any]) -> None:
        """Internal: call `callback(self)` in the thread that finishes it, never through the executor."""
        with self._lock:
            if not self._done:
                self._direct_callbacks.append(callback)
                return
        callback(self)


class Task(Future):
    """A function or coroutine that an executor runs; call it to make one step."""

    def __init__(
        self,
        handler: Callable[..., Any] | Any,
        args: Any = None,
        kwargs: Any = None,
        executor: Executor | None = None,
    ) -> None:
        super().__init__(executor=executor)
        self._args = tuple(args) if args is not None else ()
        self._kwargs = dict(kwargs) if kwargs is not None else {}
        if inspect.iscoroutine(handler):
            if self._args or self._kwargs:
                raise ValueError("a coroutine object takes no arguments; give a coroutine function instead")
            self._coroutine: Any = handler
        else:
            self._coroutine = None
        self._handler = handler
        self._task_lock = threading.Lock()
        self._executing = False

    def __call__(self) -> None:
        """Run the function, or the coroutine up to its next wait. Does nothing if it is done or runs right now."""
        if self._done or self._executing or not self._task_lock.acquire(blocking=False):
            return
        waiting_for: Future | None = None
        rescheduled = False
        try:
            if self._done:
                return
            self._executing = True
            try:
                if self._coroutine is None:
                    result = self._handler(*self._args, **self._kwargs)
                    if not inspect.iscoroutine(result):
                        self.set_result(result)
                        self._drop_references()
                        return
                    self._coroutine = result
                waiting_for = self._coroutine.send(None)
                rescheduled = True
            except StopIteration as stop:
                self.set_result(stop.value)
                self._drop_references()
            except Exception as error:  # noqa: BLE001 - kept in the task; whoever runs it raises it
                self.set_exception(error)
                self._drop_references()
        finally:
            self._executing = False
            self._task_lock.release()
        if rescheduled:
            self._reschedule(waiting_for)

    def _reschedule(self, waiting_for: Future | None) -> None:
        executor = self._executor() if self._executor is not None else None
        if executor is None:
            return
        if isinstance(waiting_for, Future):
            waiting_for._when_done(lambda _: executor._enqueue_task(self))
        else:
            executor._enqueue_task(self)

    def executing(self) -> bool:
        """True while a step runs."""
        return self._executing

    def cancel(self) -> None:
        """Cancel; a coroutine that waits is closed."""
        super().cancel()
        if self._cancelled and self._coroutine is not None and self._task_lock.acquire(blocking=False):
            try:
                self._coroutine.close()
            finally:
                self._task_lock.release()

    def _drop_references(self) -> None:
        self._handler = None
        self._args = ()
        self._kwargs = {}
        self._coroutine = None
