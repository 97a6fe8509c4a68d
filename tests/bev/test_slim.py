"""Fast-BEV in several widths: one file, its rungs, and swaps that hand the past on."""

from __future__ import annotations

import json
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_fastbev import SMALL, instant, lively, same

from bevstack.bev import FastBEV
from bevstack.bev.complexity import complexity
from bevstack.bev.config import CONFIGS, SLIM, SLIM_WIDTHS, narrow
from bevstack.bev.ladder import FastBEVLadder, available, family
from bevstack.bev.slim import load_slim, save_slim, slimmable, sort_image_channels
from bevstack.bev.weights import find_weights, load_weights, read_info, save_weights
from bevstack.engine import shared
from bevstack.errors import CheckpointError, EngineError
from bevstack.frames import FrameSet
from bevstack.nn.widths import first_rung

PATIENCE = 60.0
WIDTHS = (0.5, 0.75, 1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of weights: all widths of a small network, and one network of one width."""
    place = tmp_path_factory.mktemp("weights")
    net = lively()
    slim = slimmable(SMALL, WIDTHS)
    slim.full.load_state_dict(net.state_dict())
    slim.copy_norms()
    save_slim(place / "fastbev-small.safetensors", slim, {"data": "none"})
    save_weights(place / "fastbev-one.safetensors", net)
    return place


@pytest.fixture
def file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BEVSTACK_WEIGHTS", str(folder))
    return folder / "fastbev-small.safetensors"


def ladder(file: Path, engine: str = "torch", resident: bool = False) -> FastBEVLadder:
    rungs = available(str(file))
    return FastBEVLadder(
        lambda name: FastBEV(rungs[name], engine, threads=1),  # type: ignore[arg-type]
        list(rungs),
        "fastbev-small@1.0",
        resident=list(rungs) if resident else (),
    )


def test_widths_of_the_catalogue_differ_in_the_image_backbone_only() -> None:
    macs = [complexity(CONFIGS[f"fastbev-slim@{w}"]) for w in SLIM_WIDTHS]
    assert [m.image for m in macs] == sorted({m.image for m in macs})
    assert macs[0].image < 0.5 * macs[-1].image
    assert len({m.bev for m in macs}) == 1
    full = CONFIGS["fastbev-slim@1.0"]
    assert full.backbone == SLIM.backbone == CONFIGS["fastbev-nano"].backbone
    assert len({(c.neck_channels, c.grid, c.times, c.image_hw) for c in (narrow(SLIM, w) for w in SLIM_WIDTHS)}) == 1
    assert family("fastbev-slim@0.5") == tuple(f"fastbev-slim@{w}" for w in SLIM_WIDTHS)
    assert family("fastbev-nano") == ("fastbev-micro", "fastbev-nano")


def test_one_file_is_several_rungs(file: Path) -> None:
    hashes = set()
    for width in WIDTHS:
        path = find_weights(f"fastbev-small@{width}")
        assert str(path) == f"{file}@{width}"
        info = read_info(path)
        assert info.config == narrow(SMALL, width)
        hashes.add(info.sha256)
        assert load_weights(path).config == info.config
    assert len(hashes) == 1
    assert read_info(file).config.name == "fastbev-small@1.0", "no width named: the largest"
    assert available("fastbev-small@0.5") == {f"fastbev-small@{w}": f"{file}@{w}" for w in WIDTHS}
    assert first_rung("fastbev-small@0.5", available("fastbev-small@0.5")) == "fastbev-small@0.5"
    assert first_rung("fastbev-small", available("fastbev-small")) == "fastbev-small@1.0"
    assert first_rung(f"{file}@0.75", available(f"{file}@0.75")) == "fastbev-small@0.75"


def test_widths_that_are_not_there_are_refused_in_one_line(file: Path, folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has the widths 0\.5, 0\.75, 1\.0, not 0\.6"):
        available("fastbev-small@0.6")
    with pytest.raises(CheckpointError, match=r"holds one width: use it without @0\.5"):
        read_info(f"{folder / 'fastbev-one.safetensors'}@0.5")
    with pytest.raises(CheckpointError, match="do not exist"):
        find_weights(f"{folder / 'none.safetensors'}@0.5")


def test_damaged_files_are_refused(file: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        about = opened.metadata()
    tensors = load_file(file)
    for key, change in (("config", "{}"), ("config", json.dumps({**json.loads(about["config"]), "widths": [2.0]}))):
        save_file(tensors, tmp_path / "bad.safetensors", {**about, key: change})
        with pytest.raises(CheckpointError, match="copy the file again"):
            read_info(tmp_path / "bad.safetensors")
    from bevstack.nn.weights import tensors_sha256

    short = {**tensors, "backbone.layer4.0.conv1.weight": tensors["backbone.layer4.0.conv1.weight"][:8].contiguous()}
    save_file(short, tmp_path / "short.safetensors", {**about, "sha256": tensors_sha256(short)})
    with pytest.raises(CheckpointError, match=r"short\.safetensors does not fit fastbev-small@0\.5"):
        load_weights(f"{tmp_path / 'short.safetensors'}@0.5")
    missing = {k: v for k, v in tensors.items() if k != "0.5/backbone.layer4.0.bn1.weight"}
    save_file(missing, tmp_path / "missing.safetensors", {**about, "sha256": tensors_sha256(missing)})
    with pytest.raises(CheckpointError, match="does not fit"):
        load_weights(f"{tmp_path / 'missing.safetensors'}@0.5")


def test_a_loaded_width_is_the_slimmable_network(file: Path) -> None:
    slim = load_slim(file).eval()
    images = torch.randn(6, 3, *SMALL.image_hw)
    with torch.no_grad():
        maps = {w: slim.at(w).image_features(images) for w in WIDTHS}
        for width in WIDTHS:
            assert torch.equal(load_weights(f"{file}@{width}").image_features(images), maps[width])
    assert not torch.allclose(maps[0.5], maps[1.0], atol=1e-2)
    assert maps[0.5].shape == maps[1.0].shape, "one contract of features"


def test_engines_agree_and_the_bev_graph_is_loaded_once(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEVSTACK_CACHE", str(tmp_path))
    models = [FastBEV(f"fastbev-small@{w}", "onnx", threads=1) for w in (0.5, 1.0)]
    assert len(shared._OPEN) == 1
    assert len(list((tmp_path / "graphs").glob("*-bev-*"))) == 1
    for model in models:
        reference = FastBEV(model.config.name, "torch", threads=1)
        for i in range(6):
            now = instant(i / 10, i, x=0.8 * i)
            assert same(model(now), reference(now))
    models[0].close()
    models[1](instant(0.6, 6))
    models[1].close()
    assert not shared._OPEN


def test_the_past_is_handed_on_without_looking_again(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, wide = ladder(file), FastBEV("fastbev-small@1.0", "torch", threads=1)
    for i in range(8):
        model(instant(i / 10, i, x=0.8 * i))
        wide(instant(i / 10, i, x=0.8 * i))
    assert not model._recent, "no instant has to be kept"
    looked = []
    monkeypatch.setattr(FastBEV, "remember", lambda self, frame_set: looked.append(frame_set))
    model.swap.request("fastbev-small@0.5")
    assert model.swap.settled(PATIENCE)
    now = instant(0.8, 8, x=6.4)
    boxes = model(now)
    assert (model.rung, model.carried, looked) == ("fastbev-small@0.5", 7, [])
    expected = FastBEV("fastbev-small@0.5", "torch", threads=1)
    expected.take_over(wide)
    assert same(boxes, expected(now)), "its own look at the instant, the wide rung's features of the past"
    alone = FastBEV("fastbev-small@0.5", "torch", threads=1)
    assert not same(boxes, alone(now)), "history does count"
    model.close()


def test_resident_widths_come_back_with_the_newest_past(file: Path) -> None:
    model = ladder(file, resident=True)
    for i in range(30):
        if i and i % 6 == 0:
            model.swap.request("fastbev-small@0.5" if model.rung.endswith("1.0") else "fastbev-small@1.0")
            assert model.swap.settled(PATIENCE)
        model(instant(i / 10, i, x=0.1 * i))
        assert model._last.cache.pick(round((i + 1) * 1e8))[0] is not None or i < 4
    assert model.swap.state().generation == 4
    model.close()


def test_a_width_that_fails_gives_the_instant_and_the_past_back(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, reference = ladder(file), FastBEV("fastbev-small@1.0", "torch", threads=1)
    for i in range(6):
        model(instant(i / 10, i))
        reference(instant(i / 10, i))
    model.swap.request("fastbev-small@0.5")
    assert model.swap.settled(PATIENCE)
    bad = model.swap._prepared
    assert bad is not None

    def fail(self: FastBEV, frame_set: FrameSet) -> None:
        raise EngineError("out of memory")

    monkeypatch.setattr(bad[1], "_fill_tables", fail.__get__(bad[1]))
    assert same(model(instant(0.6, 6)), reference(instant(0.6, 6)))
    assert model.rung == "fastbev-small@1.0"
    assert same(model(instant(0.7, 7)), reference(instant(0.7, 7)))
    model.close()


def test_widths_of_different_files_share_nothing(file: Path, folder: Path) -> None:
    wide, one = FastBEV("fastbev-small@1.0", "torch", threads=1), FastBEV("fastbev-one", "torch", threads=1)
    assert wide.shares_past(FastBEV("fastbev-small@0.5", "torch", threads=1))
    assert not wide.shares_past(one)
    assert not FastBEV(SMALL, "torch", threads=1).shares_past(FastBEV(SMALL, "torch", threads=1)), "random weights"


def test_swaps_lose_no_instant_and_hold_two_rungs_at_most(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEVSTACK_CACHE", str(tmp_path))
    for width in WIDTHS:  # export once
        FastBEV(f"fastbev-small@{width}", threads=1).close()
    alive: weakref.WeakSet[FastBEV] = weakref.WeakSet()
    most = [0]
    build = FastBEV.__init__

    def counted(self: FastBEV, *given: object, **named: object) -> None:
        build(self, *given, **named)  # type: ignore[arg-type]
        alive.add(self)
        most[0] = max(most[0], len(alive))

    monkeypatch.setattr(FastBEV, "__init__", counted)
    model = ladder(file, "onnx")
    stop = threading.Event()

    def ask() -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            model.swap.request(model.swap.rungs[turn % 3])
            model.swap.settled(PATIENCE)
            stop.wait(0.01)

    asker = threading.Thread(target=ask)
    asker.start()
    seen: list[str] = []
    i = 0
    while model.swap.state().generation < 6 and i < 4000:
        boxes = model(instant(i / 10, i % 10, x=0.1 * i))
        assert np.isfinite(boxes.center).all()
        assert i < 5 or model._last.cache.pick(round((i + 1) * 1e8))[0] is not None, "the past is there at every instant"
        seen.append(model.rung)
        i += 1
    stop.set()
    asker.join()
    assert len(seen) == i
    assert set(seen) == {f"fastbev-small@{w}" for w in WIDTHS}
    assert most[0] <= 3, "active, replaced and in preparation"
    assert len(shared._OPEN) == 1, "the BEV graph is there once"
    assert not model.swap.state().failure
    model.close()
    assert not shared._OPEN


def test_channels_are_sorted_without_a_change(file: Path) -> None:
    net = lively()
    images = torch.randn(6, 3, *SMALL.image_hw)
    with torch.no_grad():
        before = net.image_features(images)
        weights = net.backbone.layer2[0].conv1.weight.clone()
        sort_image_channels(net)
        assert torch.allclose(net.image_features(images), before, atol=1e-4)
    assert not torch.equal(net.backbone.layer2[0].conv1.weight, weights)


def test_another_familys_widths_are_told_apart(tmp_path: Path) -> None:
    from bevstack.detect.config import DETECTORS
    from bevstack.detect.slim import save_slim as save_detector
    from bevstack.detect.slim import slimmable as detector_widths

    path = tmp_path / "other.safetensors"
    save_detector(path, detector_widths(DETECTORS["giraffedet-nano"], (0.5, 1.0)))
    with pytest.raises(CheckpointError, match="is not a bevstack-fastbev-1 file"):
        read_info(f"{path}@0.5")
