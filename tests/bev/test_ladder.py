"""Rungs of Fast-BEV exchanged between two instants: history, faults, images decoded for another size."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
from test_fastbev import RIG, SMALL, instant, lively, same

from bevstack.bev import FastBEV
from bevstack.bev.ladder import FastBEVLadder, available, family
from bevstack.bev.network import FastBEVNet
from bevstack.engine import SwapEvent
from bevstack.errors import CheckpointError, EngineError
from bevstack.frames import FrameSet
from bevstack.frames.sim.jpeg import encode_jpeg

PATIENCE = 30.0
# Names of the catalogue, sizes of a test.
CONFIGS = {
    "fastbev-micro": replace(SMALL, name="fastbev-micro"),
    "fastbev-nano": replace(SMALL, name="fastbev-nano", image_hw=(96, 264)),
}


@pytest.fixture(scope="module")
def nets() -> dict[str, FastBEVNet]:
    return {name: lively(config) for name, config in CONFIGS.items()}


def ladder(nets: dict[str, FastBEVNet], events: list[SwapEvent] | None = None) -> FastBEVLadder:
    return FastBEVLadder(
        lambda name: FastBEV(nets[name], "torch", threads=1),
        list(nets),
        "fastbev-micro",
        on_event=events.append if events is not None else None,
    )


def test_families_and_what_is_there() -> None:
    assert family("fastbev-nano") == ("fastbev-micro", "fastbev-nano")
    assert family("fastbev-m2")[0] == "fastbev-m0"
    assert available("random:fastbev-nano") == {n: f"random:{n}" for n in family("fastbev-nano")}
    assert "fastbev-nano" in available("fastbev-nano")
    with pytest.raises(CheckpointError, match="only fastbev-micro"):
        available("random:fastbev-giant")


def test_history_is_there_at_the_first_instant_after_a_swap(nets: dict[str, FastBEVNet]) -> None:
    model, reference = ladder(nets), FastBEV(nets["fastbev-nano"], "torch", threads=1)
    size = (264, 149)  # large enough for both
    for i in range(8):
        model(instant(i / 10, i, x=0.8 * i, size=size))
        reference(instant(i / 10, i, x=0.8 * i, size=size))
    assert model.rung == "fastbev-micro"
    model.swap.request("fastbev-nano")
    assert model.swap.settled(PATIENCE)
    assert model.carried == 7, "the instants of the last 0.65 s"
    now = instant(0.8, 8, x=6.4, size=size)
    boxes = model(now)
    assert (model.rung, model.config.image_hw) == ("fastbev-nano", (96, 264))
    assert same(boxes, reference(now)), "as if this rung had run all along"
    alone = FastBEV(nets["fastbev-nano"], "torch", threads=1)
    assert not same(boxes, alone(now)), "history does count"
    model.close()


def test_images_decoded_for_the_small_rung_are_decoded_again_for_the_large_one(nets: dict[str, FastBEVNet]) -> None:
    """What the compressed bytes still hold is not lost with the small rung's images."""

    def both(i: int) -> tuple[FrameSet, FrameSet]:
        full = instant(i / 10, i, x=0.8 * i, size=(800, 450))
        encoded = {
            n: replace(f, image=None, encoded=encode_jpeg(f.image, 90, n))
            for n, f in full.frames.items()
            if f.image is not None
        }
        from bevstack.frames.decode import decode_frame

        small = {n: decode_frame(f, (176, 99), "area") for n, f in encoded.items()}
        return replace(full, frames=small), replace(full, frames=encoded)

    model, reference = ladder(nets), FastBEV(nets["fastbev-nano"], "torch", threads=1)
    for i in range(6):
        small, encoded = both(i)
        model(small)
        reference(encoded)
    model.swap.request("fastbev-nano")
    assert model.swap.settled(PATIENCE)
    now = both(6)[1]
    assert same(model(now), reference(now))
    model.close()


def test_a_rung_that_answers_nonsense_never_becomes_active(nets: dict[str, FastBEVNet]) -> None:
    broken = FastBEVNet(CONFIGS["fastbev-nano"]).eval()
    for parameter in broken.parameters():
        parameter.data.fill_(float("nan"))
    events: list[SwapEvent] = []
    model = ladder({**nets, "fastbev-nano": broken}, events)
    model(instant(0.0))
    model.swap.request("fastbev-nano")
    assert model.swap.settled(PATIENCE)
    model(instant(0.1))
    assert model.rung == "fastbev-micro"
    assert "not finite" in model.swap.state().failure
    assert [e.kind for e in events] == ["failed"]
    model.close()


def test_the_instant_on_which_a_new_rung_fails_is_run_on_the_one_before(
    nets: dict[str, FastBEVNet], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ladder(nets)
    model(instant(0.0))
    model.swap.request("fastbev-nano")
    assert model.swap.settled(PATIENCE)

    def fail(self: FastBEV, frame_set: FrameSet) -> None:
        raise EngineError("out of memory")

    bad = model.swap._prepared
    assert bad is not None
    monkeypatch.setattr(bad[1], "_fill_tables", fail.__get__(bad[1]))
    boxes = model(instant(0.1, 1))
    assert model.rung == "fastbev-micro"
    fresh = FastBEV(nets["fastbev-micro"], "torch", threads=1)
    fresh(instant(0.0))
    assert same(boxes, fresh(instant(0.1, 1)))
    assert "out of memory" in model.swap.state().failure
    model.close()


@pytest.mark.slow
def test_swaps_under_way_lose_no_instant(nets: dict[str, FastBEVNet]) -> None:
    """Every instant gets its answer, from one rung, while rungs change all the time."""
    model, seen = ladder(nets), []
    stop = threading.Event()

    def ask() -> None:
        while not stop.wait(0.02):
            rung = model.swap.rung
            model.swap.request("fastbev-nano" if rung == "fastbev-micro" else "fastbev-micro")
            model.swap.settled(PATIENCE)

    asker = threading.Thread(target=ask)
    asker.start()
    i = 0
    while model.swap.state().generation < 4 and i < 3000:
        boxes = model(instant(i / 10, i, x=0.1 * i))
        assert np.isfinite(boxes.center).all()
        seen.append(model.rung)
        i += 1
    stop.set()
    asker.join()
    assert len(seen) == i
    assert set(seen) == set(CONFIGS)
    model.reset()
    assert model.decode_size(RIG["cam_front"]) in ((176, 99), (264, 148))
    model.close()
