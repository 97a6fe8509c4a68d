"""Hot swap: what is alive when, which model runs a frame, and what happens when a rung cannot be had."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from bevstack.engine import HotSwap, RungError, SwapEvent

RUNGS = ("small", "medium", "large")
PATIENCE = 20.0


class Shop:
    """Makes models and counts the living ones."""

    def __init__(self) -> None:
        self.alive: list[Model] = []
        self.most = 0
        self.broken: set[str] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.loads: list[str] = []
        self.events: list[SwapEvent] = []

    def load(self, rung: str) -> Model:
        self.loads.append(rung)
        assert self.gate.wait(PATIENCE)
        if rung in self.broken:
            raise ValueError(f"{rung} is damaged")
        return Model(self, rung)


class Model:
    def __init__(self, shop: Shop, rung: str) -> None:
        self.shop, self.rung = shop, rung
        shop.alive.append(self)
        shop.most = max(shop.most, len(shop.alive))

    def run(self, frame: int) -> tuple[str, int]:
        assert self in self.shop.alive, f"frame {frame} runs on {self.rung}, which has been freed"
        return self.rung, frame

    def close(self) -> None:
        self.shop.alive.remove(self)


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture
def swap(shop: Shop) -> Iterator[HotSwap[Model]]:
    made = HotSwap(shop.load, RUNGS, "medium", on_event=shop.events.append)
    yield made
    shop.gate.set()
    made.close()
    assert not shop.alive


def test_a_rung_becomes_active_at_the_next_frame_and_the_old_one_is_freed(swap: HotSwap[Model], shop: Shop) -> None:
    first = swap.current()
    assert first.rung == "medium"
    swap.request("large")
    assert swap.settled(PATIENCE)
    assert swap.state().pending == "large"
    assert swap.rung == "medium"  # not inside a frame
    assert first.run(0) == ("medium", 0)
    assert swap.current().rung == "large"
    assert (swap.state().rung, swap.state().generation, swap.state().pending) == ("large", 1, None)
    for _ in range(4):
        swap.current()
    assert swap.settled(PATIENCE)
    assert [m.rung for m in shop.alive] == ["large"]
    assert [(e.kind, e.text) for e in shop.events] == [("active", "medium -> large")]


def test_a_failed_load_keeps_the_old_rung_and_says_why(swap: HotSwap[Model], shop: Shop) -> None:
    shop.broken.add("large")
    swap.request("large")
    assert swap.settled(PATIENCE)
    assert swap.current().rung == "medium"
    assert swap.state().failure == "rung large cannot be prepared, medium stays: ValueError: large is damaged"
    assert shop.events[-1].kind == "failed"
    shop.broken.clear()
    swap.request("large")
    assert swap.settled(PATIENCE)
    assert swap.current().rung == "large"
    assert swap.state().failure == ""


def test_a_failed_warm_up_is_a_failed_load_and_frees_the_model(shop: Shop) -> None:
    def warm_up(model: Model, rung: str) -> None:
        raise RuntimeError("values are not finite")

    swap = HotSwap(shop.load, RUNGS, "small", warm_up=warm_up)
    swap.request("large")
    assert swap.settled(PATIENCE)
    assert "values are not finite" in swap.state().failure
    assert [m.rung for m in shop.alive] == ["small"]
    swap.close()


def test_the_newest_request_counts(swap: HotSwap[Model], shop: Shop) -> None:
    shop.gate.clear()
    swap.request("large")
    swap.request("small")
    assert swap.state().pending == "small"
    shop.gate.set()
    assert swap.settled(PATIENCE)
    assert swap.current().rung == "small"
    assert shop.most <= 2


def test_asking_for_the_active_rung_cancels_what_is_being_loaded(swap: HotSwap[Model], shop: Shop) -> None:
    shop.gate.clear()
    swap.request("large")
    while "large" not in shop.loads:
        time.sleep(0.001)
    swap.request("medium")
    shop.gate.set()
    assert swap.settled(PATIENCE)
    assert swap.current().rung == "medium"
    assert swap.state().generation == 0
    assert [m.rung for m in shop.alive] == ["medium"]


def test_a_rung_that_fails_in_its_first_frames_is_taken_back_within_the_frame(swap: HotSwap[Model], shop: Shop) -> None:
    swap.request("large")
    assert swap.settled(PATIENCE)
    assert swap.current().rung == "large"
    back = swap.reject("cls is not finite")
    assert back is not None
    assert back.run(7) == ("medium", 7)
    assert swap.state().generation == 2
    assert "taken back: cls is not finite" in swap.state().failure
    assert swap.settled(PATIENCE)
    assert [m.rung for m in shop.alive] == ["medium"]
    assert swap.reject("again") is None


def test_a_resident_rung_is_loaded_once(shop: Shop) -> None:
    swap = HotSwap(shop.load, RUNGS, "small", resident=["small"], probation=1)
    for rung in ("large", "small", "medium", "small", "large", "small"):
        swap.request(rung)
        assert swap.settled(PATIENCE)
        assert [swap.current().rung for _ in range(3)] == [rung] * 3
        assert swap.settled(PATIENCE)
    assert shop.loads.count("small") == 1
    assert shop.most <= 3
    swap.close()
    assert not shop.alive


def test_all_others_can_be_prepared_before_the_first_frame(swap: HotSwap[Model], shop: Shop) -> None:
    assert swap.prepare_others() == {}
    assert shop.loads == ["medium", "small", "large"]
    assert [model.rung for model in shop.alive] == ["medium"]
    assert shop.most == 2, "one after the other"
    shop.broken.add("small")
    assert swap.prepare_others() == {"small": "ValueError: small is damaged"}
    assert shop.loads[-2:] == ["small", "large"]
    assert swap.state().rung == "medium"


def test_unknown_rungs_are_refused(swap: HotSwap[Model], shop: Shop) -> None:
    with pytest.raises(RungError, match="no rung 'huge': this ladder has small, medium, large"):
        swap.request("huge")
    with pytest.raises(RungError):
        HotSwap(shop.load, RUNGS, "huge")
    swap.close()
    with pytest.raises(RungError, match="closed"):
        swap.request("small")


def test_a_model_that_cannot_be_freed_does_not_end_the_ladder(shop: Shop) -> None:
    def close(model: Model) -> None:
        model.close()
        raise OSError("device is gone")

    swap = HotSwap(shop.load, RUNGS, "small", close=close, probation=0)
    for rung in ("large", "medium"):
        swap.request(rung)
        assert swap.settled(PATIENCE)
        assert swap.current().rung == rung
        swap.current()
    assert swap.settled(PATIENCE)
    assert "could not be freed" in swap.state().failure
    with pytest.raises(OSError, match="device is gone"):
        swap.close()


def test_soak_every_frame_runs_once_on_one_living_model(shop: Shop) -> None:
    swap = HotSwap(shop.load, RUNGS, "medium", probation=2)
    stop = threading.Event()

    def ask() -> None:
        n = 0
        while not stop.is_set():
            swap.request(RUNGS[n * 7 % 3])
            n += 1
            time.sleep(0.0005)

    asker = threading.Thread(target=ask)
    asker.start()
    results: list[tuple[str, int]] = []
    deadline = time.monotonic() + PATIENCE
    while swap.state().generation < 60 and time.monotonic() < deadline:
        results += [swap.current().run(frame) for frame in range(len(results), len(results) + 20)]
        time.sleep(0.0002)
    stop.set()
    asker.join()
    swap.close()
    assert [frame for _, frame in results] == list(range(len(results)))
    assert swap.state().generation >= 60
    assert {rung for rung, _ in results} == set(RUNGS)
    assert shop.most <= 2
    assert not shop.alive
