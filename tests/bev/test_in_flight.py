"""Two instants under way, on a device that does everything as late, and in as strange an order, as it is allowed to."""

from __future__ import annotations

import contextlib
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from bevstack.bev.in_flight import SLOTS, InFlight, Lane
from bevstack.errors import EngineError


@dataclass
class Event:
    recorded: int = 0
    happened: int = 0


@dataclass
class LateDevice:
    """``Lanes``: work lies on its lane until the host waits for something; then the lanes advance in a random order, and no
    further than the host needs."""

    seed: int
    lanes: dict[Lane, deque[tuple[Callable[[], bool], Callable[[], None]]]] = field(
        default_factory=lambda: {"copy": deque(), "compute": deque()}
    )
    current: Lane | None = None

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def event(self) -> Event:
        return Event()

    @contextlib.contextmanager
    def on(self, lane: Lane) -> Iterator[None]:
        self.current, before = lane, self.current
        yield
        self.current = before

    def launch(self, work: Callable[[], None]) -> None:
        assert self.current is not None, "launched on no lane"
        self.lanes[self.current].append((lambda: True, work))

    def record(self, event: Event, lane: Lane) -> None:
        event.recorded += 1
        number = event.recorded
        self.lanes[lane].append((lambda: True, lambda: setattr(event, "happened", number)))

    def hold(self, lane: Lane, event: Event) -> None:
        number = event.recorded
        self.lanes[lane].append((lambda: event.happened >= number, lambda: None))

    def wait(self, event: Event) -> None:
        number = event.recorded
        while event.happened < number:
            assert self.step(self.random.choice(["copy", "compute"])) or any(map(self.step, self.lanes)), "the lanes are stuck"

    def step(self, lane: Lane) -> bool:
        """One piece of work of a lane; False if it is empty or held."""
        if not self.lanes[lane] or not self.lanes[lane][0][0]():
            return False
        self.lanes[lane].popleft()[1]()
        return True

    def advance(self, lane: Lane, other: Lane | None = None) -> None:
        """As far as this lane (these lanes) can go alone."""
        while self.step(lane) or (other is not None and self.step(other)):
            pass


class Memory:
    """``Buffers`` of two words each, copied one by one, that notice when something is overwritten before it was read."""

    def __init__(self, device: LateDevice) -> None:
        self.device = device
        self.up, self.there, self.down = ([[0, 0] for _ in range(SLOTS)] for _ in range(3))
        self.input: list[Any] = [0, 0]
        self.output: list[Any] = [0, 0]
        # Copies that were launched, and that were done, by slot.
        self.sends, self.sent, self.takes, self.taken = ([0] * SLOTS for _ in range(4))
        self.log: list[str] = []
        with device.on("compute"):
            for there in self.there:
                self._copy([0, 0], there)

    def _copy(self, source: list[Any], target: list[Any]) -> None:
        for word in range(2):
            self.device.launch(lambda word=word: target.__setitem__(word, source[word]))  # type: ignore[misc]

    def fill(self, slot: int, value: int) -> None:
        assert self.sent[slot] == self.sends[slot], "the host writes memory that the device still sends from"
        self.up[slot][:] = [value, value]

    def send(self, slot: int) -> None:
        assert self.device.current == "copy"
        self.sends[slot] += 1
        before = self.takes[slot]

        def start() -> None:
            assert self.taken[slot] >= before, "sent over what the network has not taken"

        def end() -> None:
            self.sent[slot] += 1
            self.log.append(f"sent {self.there[slot][0]}")

        self.device.launch(start)
        self._copy(self.up[slot], self.there[slot])
        self.device.launch(end)

    def take(self, slot: int) -> None:
        assert self.device.current == "compute"
        self.takes[slot] += 1
        self._copy(self.there[slot], self.input)
        self.device.launch(lambda: self.taken.__setitem__(slot, self.taken[slot] + 1))

    def compute(self) -> None:
        assert self.device.current == "compute"

        def work() -> None:
            self.output[:] = [-word for word in self.input]
            self.log.append(f"computed {self.input[0]}")

        self.device.launch(work)

    def answer(self, slot: int) -> None:
        assert self.device.current == "compute"
        self._copy(self.output, self.down[slot])

    def read(self, slot: int) -> list[Any]:
        return list(self.down[slot])


def drive(device: LateDevice, instants: int, failing: float = 0.0) -> tuple[list[list[int]], list[list[int]]]:
    """(answers, what they must be) of instants that begin and finish in a random order; some networks cannot be launched."""
    memory, found, wanted, slots = Memory(device), [], [], deque[int]()
    turns = InFlight[list[int]](device, memory)
    for number in range(1, instants + 1):
        while slots and (len(slots) == SLOTS or device.random.random() < 0.3):
            found.append(turns.finish(slots.popleft()))
        fails = device.random.random() < failing

        def compute(fails: bool = fails) -> None:
            if fails:
                raise EngineError("out of memory")
            memory.compute()

        try:
            slots.append(turns.begin(lambda slot, number=number: memory.fill(slot, number), compute))  # type: ignore[misc]
        except EngineError:
            assert fails
        else:
            wanted.append([-number, -number])
        for _ in range(device.random.randrange(6)):  # a device also goes on by itself
            device.step(device.random.choice(("copy", "compute")))
    found += [turns.finish(slot) for slot in slots]
    return found, wanted


@pytest.mark.parametrize("failing", [0.0, 0.4])
def test_every_instant_gets_its_own_answer_in_order(failing: float) -> None:
    for seed in range(300):
        found, wanted = drive(LateDevice(seed), 9, failing)
        assert found == wanted, f"device {seed}"


class Careless(LateDevice):
    """Forgets one kind of waiting; ``when`` counts the calls in one instant."""

    forgets = ""

    def hold(self, lane: Lane, event: Event) -> None:
        if self.forgets != lane:
            super().hold(lane, event)

    def wait(self, event: Event) -> None:
        if self.forgets != "host":
            super().wait(event)


@pytest.mark.parametrize("forgets", ["copy", "compute", "host"])
def test_no_wait_is_superfluous(forgets: str) -> None:
    """The device above finds out about every kind of waiting that is left out."""

    def goes_wrong(seed: int) -> bool:
        device = Careless(seed)
        device.forgets = forgets
        try:
            found, wanted = drive(device, 9, 0.4)
        except AssertionError:
            return True
        return found != wanted

    assert any(goes_wrong(seed) for seed in range(300))


def begin(turns: InFlight[list[int]], memory: Memory, value: int) -> int:
    return turns.begin(lambda slot: memory.fill(slot, value), memory.compute)


def test_the_next_upload_runs_while_the_last_instant_is_computed() -> None:
    device = LateDevice(0)
    memory = Memory(device)
    device.advance("compute")  # the buffers' first contents
    turns = InFlight[list[int]](device, memory)
    device.advance("compute")
    first, second = begin(turns, memory, 1), begin(turns, memory, 2)
    device.advance("copy")
    assert memory.log == ["sent 1", "sent 2"], "both are there before the network has started"
    assert turns.finish(first) == [-1, -1]
    assert "computed 2" not in memory.log
    third = begin(turns, memory, 3)
    device.advance("copy")
    assert memory.log == ["sent 1", "sent 2", "computed 1", "sent 3"], "and the third before the second is computed"
    assert [turns.finish(second), turns.finish(third)] == [[-2, -2], [-3, -3]]


def test_a_first_upload_waits_for_the_buffers() -> None:
    device = LateDevice(0)
    memory = Memory(device)
    turns = InFlight[list[int]](device, memory)
    slot = begin(turns, memory, 1)
    device.advance("copy")
    assert memory.log == [], "their first contents, zeros, would be written over the images"
    device.advance("compute", "copy")
    assert memory.there[slot] == [1, 1]


def test_a_third_instant_and_another_order_are_refused() -> None:
    device = LateDevice(0)
    memory = Memory(device)
    turns = InFlight[list[int]](device, memory)
    first, second = begin(turns, memory, 1), begin(turns, memory, 2)
    with pytest.raises(EngineError, match="2 instants are under way: finish the older one"):
        begin(turns, memory, 3)
    with pytest.raises(EngineError, match="in the order in which they were begun"):
        turns.finish(second)
    assert [turns.finish(first), turns.finish(second)] == [[-1, -1], [-2, -2]]
    with pytest.raises(EngineError, match="each once"):
        turns.finish(second)


def test_draining_ends_all_use_of_the_buffers() -> None:
    for seed in range(50):
        device = LateDevice(seed)
        memory = Memory(device)
        turns = InFlight[list[int]](device, memory)
        begin(turns, memory, 1)
        slot = begin(turns, memory, 2)
        turns.drain()
        assert not any(device.lanes.values())
        with pytest.raises(EngineError, match="each once"):
            turns.finish(slot)
