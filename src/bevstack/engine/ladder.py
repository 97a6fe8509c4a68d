"""Rungs of one model family, exchanged between two frames while the stack runs.

One thread runs frames, anybody may ask for another rung. The frame thread takes a snapshot of the model at the start of each
frame (``HotSwap.current``) and uses only that; a background thread loads and warms up what was asked for. Nothing is loaded,
freed or waited for in the frame path: it costs one uncontended lock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from bevstack.errors import EngineError

M = TypeVar("M")


class RungError(EngineError):
    """A rung that does not exist, or a ladder that is closed."""


@dataclass(frozen=True)
class SwapEvent:
    """Something that happened on a ladder: a rung became active, could not be prepared, or failed in its first frames."""

    kind: Literal["active", "failed", "rejected"]
    rung: str
    generation: int
    text: str


@dataclass(frozen=True)
class SwapState:
    """A snapshot. ``pending``: the rung that is being prepared or waits for the next frame, else None."""

    rung: str
    generation: int
    pending: str | None
    failure: str


class HotSwap(Generic[M]):
    """The active rung of a ladder, and the next one in preparation.

    At most two models are alive at any time (the active one, and one that is being prepared, waits for its first frame, or has
    just been replaced), plus those in ``resident``.

    Args:
        load: makes the model of a rung, ready to run; called on the background thread (for the first rung: here). Any exception
            means that the old rung stays.
        rungs: names, smallest first.
        rung: the one to start with; loaded before this returns.
        warm_up: called on the background thread with a freshly loaded (or resident) model and its rung: first runs, history. An
            exception counts as a failed load.
        close: frees a model; called on the background thread. None: ``model.close()`` where there is one.
        resident: rungs that stay loaded once they are (for instance the smallest, which must be there at once).
        probation: frames for which the replaced model is kept, so that ``reject`` can bring it back at once.
        on_event: called from the frame thread ("active", "rejected") or the background thread ("failed"); must be quick.

    Raises:
        RungError: ``rung`` or a resident is not among ``rungs``.
        Exception: whatever ``load`` raises for the first rung.
    """

    def __init__(
        self,
        load: Callable[[str], M],
        rungs: Sequence[str],
        rung: str,
        *,
        warm_up: Callable[[M, str], None] | None = None,
        close: Callable[[M], None] | None = None,
        resident: Iterable[str] = (),
        probation: int = 3,
        on_event: Callable[[SwapEvent], None] | None = None,
    ) -> None:
        self.rungs = tuple(rungs)
        self._load, self._warm_up, self._free = load, warm_up, close or _close
        self._on_event = on_event
        self._probation = probation
        self._residents = {self._known(name) for name in resident}
        self._kept: dict[str, M] = {}
        self._condition = threading.Condition()
        self._wanted: str | None = None  # asked for, not yet taken up by the background thread
        self._loading: str | None = None
        self._prepared: tuple[str, M] | None = None
        self._previous: tuple[str, M] | None = None
        self._retired: list[tuple[str, M]] = []
        self._frames = 0
        self._failure = ""
        self._closed = False
        self._active: tuple[str, M] = (self._known(rung), load(rung))
        self._target = rung  # what the newest request wants, in the end
        if rung in self._residents:
            self._kept[rung] = self._active[1]
        self._generation = 0
        self._thread = threading.Thread(target=self._run, name="ladder", daemon=True)
        self._thread.start()

    def request(self, rung: str) -> None:
        """Ask for a rung; returns at once. The newest request counts; asking for the active one cancels what is pending.

        Raises:
            RungError: there is no such rung, or the ladder is closed.
        """
        self._known(rung)
        with self._condition:
            if self._closed:
                raise RungError(f"rung {rung!r} is asked of a ladder that is closed: ask a running node")
            self._failure, self._target = "", rung
            if rung == self._active[0]:
                self._wanted = None
                self._discard_prepared()
            elif rung == self._loading or (self._prepared is not None and self._prepared[0] == rung):
                self._wanted = None
            else:
                self._wanted = rung
            self._condition.notify_all()

    def current(self) -> M:
        """Frame thread, once at the start of each frame: the model for this frame. A prepared rung becomes active here."""
        event = None
        with self._condition:
            if self._prepared is not None and not self._closed:
                if self._previous is not None:
                    self._retired.append(self._previous)
                self._previous, self._active, self._prepared = self._active, self._prepared, None
                self._generation += 1
                self._frames = 0
                event = SwapEvent("active", self._active[0], self._generation, f"{self._previous[0]} -> {self._active[0]}")
            elif self._previous is not None and self._frames >= self._probation:
                self._retired.append(self._previous)
                self._previous = None
            self._frames += 1
            model = self._active[1]
            if self._retired:
                self._condition.notify_all()
        self._tell(event)
        return model

    def reject(self, reason: str) -> M | None:
        """Frame thread: the model of this frame failed. In its first frames the one before it comes back and is returned, so
        that the same frame can be run again; later (or without one) None is returned and nothing changes."""
        with self._condition:
            if self._previous is None:
                return None
            bad, self._active, self._previous = self._active, self._previous, None
            self._retired.append(bad)
            self._kept.pop(bad[0], None)
            self._target = self._active[0]
            self._generation += 1
            self._failure = f"rung {bad[0]} failed in its first frames and was taken back: {reason}"
            event = SwapEvent("rejected", bad[0], self._generation, self._failure)
            model = self._active[1]
            self._condition.notify_all()
        self._tell(event)
        return model

    def prepare_others(self) -> dict[str, str]:
        """Loads and frees every rung but the active one, one after the other, here: what their engines keep on disk is there
        when one of them is asked for. Before the first frame; returns why a rung could not be had, by rung."""
        failures = {}
        for rung in self.rungs:
            if rung != self.rung:
                try:
                    self._free(self._load(rung))
                except Exception as error:  # noqa: BLE001 - as in the background: the other rungs are not to blame
                    failures[rung] = _line(error)
        return failures

    @property
    def rung(self) -> str:
        """Name of the active rung."""
        with self._condition:
            return self._active[0]

    @property
    def active(self) -> M:
        """The active model, for questions that are not about a frame (its config, its sizes). Never switches."""
        with self._condition:
            return self._active[1]

    def state(self) -> SwapState:
        """Where the ladder stands; ``failure`` is the last one, "" after the next request."""
        with self._condition:
            pending = self._wanted or self._loading or (self._prepared[0] if self._prepared else None)
            return SwapState(self._active[0], self._generation, pending, self._failure)

    def settled(self, timeout: float | None = None) -> bool:
        """Wait until nothing is loaded or freed any more (a prepared rung may still wait for its frame); False: ``timeout`` s
        were over first."""
        with self._condition:
            return self._condition.wait_for(lambda: self._closed or not self._work(), timeout)

    def close(self, timeout: float = 10.0) -> None:
        """Stop the background thread and free every model. Stop the frame thread before."""
        with self._condition:
            if self._closed:
                return
            self._closed = True
            self._condition.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)
        with self._condition:
            models = [self._active, *filter(None, (self._previous, self._prepared)), *self._retired]
            models += list(self._kept.items())
            self._previous = self._prepared = None
            self._retired, self._kept = [], {}
        for model in {id(m): m for _, m in models}.values():
            self._free(model)

    # --- background thread --------------------------------------------------------------------------------------------------

    def _known(self, rung: str) -> str:
        if rung not in self.rungs:
            raise RungError(f"there is no rung {rung!r}: this ladder has {', '.join(self.rungs)}")
        return rung

    def _tell(self, event: SwapEvent | None) -> None:
        if event is not None and self._on_event is not None:
            self._on_event(event)

    def _discard_prepared(self) -> None:
        if self._prepared is not None:
            self._retired.append(self._prepared)
            self._prepared = None

    def _work(self) -> bool:
        return self._wanted is not None or self._loading is not None or bool(self._retired)

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._closed or self._wanted is not None or self._retired)
                if self._closed:
                    return
                wanted, self._wanted = self._wanted, None
                if wanted is not None:  # room first: what waits or is on probation goes before anything is loaded
                    self._discard_prepared()
                    if self._previous is not None:
                        self._retired.append(self._previous)
                        self._previous = None
                self._loading = wanted
                retired, self._retired = self._retired, []
            for name, model in retired:
                self._retire(name, model)
            retired.clear()
            if wanted is not None:
                self._prepare(wanted)
            with self._condition:
                self._loading = None
                self._condition.notify_all()

    def _retire(self, name: str, model: M) -> None:
        if self._kept.get(name) is model:
            return
        try:
            self._free(model)
        except Exception as error:  # noqa: BLE001 - whatever a model raises while it goes must not end the ladder
            self._fail(name, f"rung {name} could not be freed: {_line(error)}")

    def _prepare(self, rung: str) -> None:
        model = self._kept.get(rung)
        try:
            if model is None:
                model = self._load(rung)
                if rung in self._residents:
                    self._kept[rung] = model
            if self._warm_up is not None:
                self._warm_up(model, rung)
        except Exception as error:  # noqa: BLE001 - a rung that cannot be prepared, for whatever reason, leaves the old one running
            if model is not None:
                self._kept.pop(rung, None)
                self._retire(rung, model)
            self._fail(rung, f"rung {rung} cannot be prepared, {self.rung} stays: {_line(error)}")
            return
        with self._condition:
            # Asked for something else in the meantime, or to stay: then this one is not wanted any more.
            wanted = self._target == rung and not self._closed
            if wanted:
                self._prepared = (rung, model)
        if not wanted:
            self._retire(rung, model)

    def _fail(self, rung: str, text: str) -> None:
        with self._condition:
            self._failure = text
            if self._target == rung:
                self._target = self._active[0]
            event = SwapEvent("failed", rung, self._generation, text)
        self._tell(event)


def _close(model: object) -> None:
    close = getattr(model, "close", None)
    if close is not None:
        close()


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, EngineError) else f"{type(error).__name__}: {text}"
