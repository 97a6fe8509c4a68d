"""Two instants under way on a device: the next one's images go up while the last one is computed.

A device works through lanes (CUDA: streams). What is put on one lane happens in order; lanes know nothing of each other, and
the host knows nothing of either, until an event says so. Everything that must not happen too early stands here, in one place,
and is tested on a device that delays whatever it may (``tests/bev/test_in_flight.py``); ``cuda_runner`` adds only the copies.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Generic, Literal, Protocol, TypeVar

from bevstack.errors import EngineError

Lane = Literal["copy", "compute"]
SLOTS = 2
T_co = TypeVar("T_co", covariant=True)


class Lanes(Protocol):
    """What is needed of a device. An event that was never recorded has happened."""

    def event(self) -> Any:
        """A new event."""

    def on(self, lane: Lane) -> AbstractContextManager[object]:
        """Work that is launched inside goes onto this lane."""

    def record(self, event: Any, lane: Lane) -> None:
        """``event`` happens when everything that is on the lane by now is done."""

    def hold(self, lane: Lane, event: Any) -> None:
        """What is put on the lane from now on starts after ``event``, as recorded last."""

    def wait(self, event: Any) -> None:
        """The host waits until ``event``, as recorded last, has happened."""


class Buffers(Protocol[T_co]):
    """The copies of a slot. Each has pinned memory to send from, memory on the device, and pinned memory for the answer.

    All but ``fill`` and ``read`` only launch; none of them waits.
    """

    def send(self, slot: int) -> None:
        """Copy lane: pinned memory -> the slot's memory on the device."""

    def take(self, slot: int) -> None:
        """Compute lane: the slot's memory on the device -> where the network reads."""

    def answer(self, slot: int) -> None:
        """Compute lane: what the network wrote -> the slot's pinned memory."""

    def read(self, slot: int) -> T_co:
        """Host: the answer, copied out of the slot's pinned memory."""


class InFlight(Generic[T_co]):
    """Begins instants and finishes them in the same order; at most ``SLOTS`` are under way.

    Args:
        lanes: of the device. ``buffers``: ready to be written; whatever made them is on the compute lane.
    """

    def __init__(self, lanes: Lanes, buffers: Buffers[T_co]) -> None:
        self._lanes, self._buffers = lanes, buffers
        self._sent = [lanes.event() for _ in range(SLOTS)]
        self._taken = [lanes.event() for _ in range(SLOTS)]
        self._answered = [lanes.event() for _ in range(SLOTS)]
        self._begun: deque[int] = deque()
        self._next = 0
        for event in self._taken:  # the buffers' first contents are written on the compute lane as well
            lanes.record(event, "compute")

    def begin(self, fill: Callable[[int], None], compute: Callable[[], None]) -> int:
        """Launches an instant and returns its slot; nothing is waited for but the slot's last upload.

        Args:
            fill: host: writes the slot's pinned memory. ``compute``: launches the network, on the compute lane.

        Raises:
            EngineError: ``SLOTS`` instants are under way, and none of them was finished.
        """
        if len(self._begun) == SLOTS:
            raise EngineError(f"{SLOTS} instants are under way: finish the older one before another begins")
        lanes, slot = self._lanes, self._next
        lanes.wait(self._sent[slot])  # the device still reads this memory while it goes up
        fill(slot)
        lanes.hold("copy", self._taken[slot])  # the network may not have taken the instant before last yet
        with lanes.on("copy"):
            self._buffers.send(slot)
        lanes.record(self._sent[slot], "copy")
        lanes.hold("compute", self._sent[slot])
        with lanes.on("compute"):
            self._buffers.take(slot)
        lanes.record(self._taken[slot], "compute")
        with lanes.on("compute"):
            compute()
            self._buffers.answer(slot)
        lanes.record(self._answered[slot], "compute")
        # Only now: where the network could not be launched the slot stays free, and its events say what still reads it.
        self._begun.append(slot)
        self._next = (slot + 1) % SLOTS
        return slot

    def finish(self, slot: int) -> T_co:
        """Waits for the oldest instant under way and reads its answer, which frees its slot.

        Raises:
            EngineError: ``slot`` is not the oldest.
        """
        if not self._begun or self._begun[0] != slot:
            raise EngineError("instants are finished in the order in which they were begun, each once")
        self._lanes.wait(self._answered[slot])
        self._begun.popleft()
        return self._buffers.read(slot)

    def drain(self) -> None:
        """Waits until the device reads and writes none of the buffers any more; what is under way is forgotten."""
        for events in (self._sent, self._taken, self._answered):
            for event in events:
                self._lanes.wait(event)
        self._begun.clear()
