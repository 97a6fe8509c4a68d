"""Weights files and imported checkpoints: round trip, damage, and checkpoints of another model."""

from __future__ import annotations

import collections
import json
import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bevstack.bev.config import CONFIGS, EncoderConfig, FastBEVConfig, VoxelGrid
from bevstack.bev.network import FastBEVNet
from bevstack.bev.weights import find_weights, import_checkpoint, import_weights, load_weights, read_info, save_weights
from bevstack.errors import CheckpointError
from bevstack.nn.seed import seed_everything

# The official structure, small enough to write many times.
TINY = replace(
    CONFIGS["fastbev-micro"],
    name="fastbev-tiny",
    image_hw=(32, 64),
    grid=VoxelGrid((8, 8, 2), (12.5, 12.5, 3.0)),
    encoder=EncoderConfig("pyramid", fuse=8, channels=8, deep=8, outputs=8),
)


def net_of(config: FastBEVConfig = TINY, seed: int = 0) -> FastBEVNet:
    seed_everything(seed)
    return FastBEVNet(config).eval()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    save_weights(path, net_of(), {"mAP": 0.5})
    return path


def refused(call: object, *words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        call()  # type: ignore[operator]
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def test_round_trip(file: Path) -> None:
    net, again = net_of(), load_weights(file)
    assert again.config == TINY
    assert not again.training
    for key, value in net.state_dict().items():
        other = again.state_dict()[key]
        assert other.dtype == value.dtype
        exact = value.dim() <= 1
        assert torch.equal(other, value) if exact else torch.equal(other, value.half().float()), key
    info = read_info(file)
    assert (info.card, len(info.sha256)) == ({"mAP": 0.5}, 64)


def test_float32_is_exact_and_has_another_hash(tmp_path: Path, file: Path) -> None:
    exact = save_weights(tmp_path / "exact.safetensors", net_of(), dtype="float32")
    assert exact.sha256 != read_info(file).sha256
    again = load_weights(tmp_path / "exact.safetensors").state_dict()
    assert all(torch.equal(v, again[k]) for k, v in net_of().state_dict().items())


def test_weights_that_float16_cannot_hold_are_refused(tmp_path: Path) -> None:
    net = net_of()
    with torch.no_grad():
        net.bbox_head.conv_cls.weight[0] = 1e6
    refused(lambda: save_weights(tmp_path / "w.safetensors", net), "conv_cls.weight", "float16")
    assert list(tmp_path.iterdir()) == []


def test_changed_bytes_are_noticed(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[-5] ^= 0x10
    file.write_bytes(raw)
    refused(lambda: load_weights(file), "hash")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_files_end_in_one_line(file: Path, data: st.DataObject) -> None:
    good = file.read_bytes()
    cut = data.draw(st.integers(0, len(good) - 1))
    kind = data.draw(st.sampled_from(["cut", "noise", "header"]))
    damaged = file.with_name("damaged.safetensors")
    if kind == "cut":
        damaged.write_bytes(good[:cut])
    elif kind == "noise":
        damaged.write_bytes(data.draw(st.binary(max_size=200)))
    else:
        at = data.draw(st.integers(0, 2000))
        damaged.write_bytes(good[:at] + bytes([good[at] ^ data.draw(st.integers(1, 255))]) + good[at + 1 :])
    message = ""
    try:
        load_weights(damaged)
    except CheckpointError as error:
        message = str(error)
    assert "\n" not in message


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    refused(lambda: load_weights(tmp_path / "none.safetensors"), "do not exist")
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    refused(lambda: load_weights(tmp_path / "other.safetensors"), "bevstack weights import")


def test_find_weights(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("BEVSTACK_WEIGHTS", str(tmp_path))
    assert find_weights("tiny") == file
    assert find_weights(file) == file
    refused(lambda: find_weights("fastbev-m3"), "bevstack weights import FILE --model fastbev-m3")
    refused(lambda: find_weights("fastbev-x9"), "known rungs are", "fastbev-m0")
    refused(lambda: find_weights(tmp_path / "gone.safetensors"), "do not exist")


def checkpoint(tmp_path: Path, state: object, **more: object) -> Path:
    path = tmp_path / "epoch_20.pth"
    torch.save({"meta": {"epoch": 20}, "state_dict": state, **more}, path)
    return path


def test_import_takes_every_entry(tmp_path: Path) -> None:
    state = net_of(seed=3).state_dict()
    wrapped = collections.OrderedDict((f"module.{k}", v) for k, v in state.items())
    path = checkpoint(tmp_path, wrapped, optimizer={"state": {}, "param_groups": [{"lr": 0.1}]})
    loaded = import_checkpoint(path, TINY).state_dict()
    assert all(torch.equal(v, loaded[k]) for k, v in state.items())


def test_import_saves_where_weights_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEVSTACK_WEIGHTS", str(tmp_path / "mine"))
    monkeypatch.setitem(CONFIGS, TINY.name, TINY)
    state = net_of(seed=3).state_dict()
    target = import_weights(checkpoint(tmp_path, state), TINY.name)
    assert find_weights(TINY.name) == target
    loaded = load_weights(target).state_dict()
    assert all(torch.equal(v, loaded[k]) for k, v in state.items())


def test_checkpoints_that_do_not_fit(tmp_path: Path) -> None:
    state = dict(net_of().state_dict())
    refused(lambda: import_checkpoint("x.pth", "fastbev-m9"), "unknown model", "fastbev-m0")
    refused(lambda: import_checkpoint(tmp_path / "none.pth", TINY), "does not exist")
    short = {k: v for k, v in state.items() if not k.startswith("bbox_head.conv_reg")}
    refused(lambda: import_checkpoint(checkpoint(tmp_path, short), TINY), "2 missing (bbox_head.conv_reg.weight")
    refused(lambda: import_checkpoint(checkpoint(tmp_path, {**state, "ema.x": torch.zeros(1)}), TINY), "1 unknown (ema.x)")
    wide = {**state, "bbox_head.conv_cls.weight": torch.zeros(81, 8, 1, 1)}
    refused(lambda: import_checkpoint(checkpoint(tmp_path, wide), TINY), "conv_cls.weight is 81x8x1x1, needs 80x8x1x1")
    broken = {**state, "bbox_head.conv_cls.bias": torch.full((80,), torch.nan)}
    refused(lambda: import_checkpoint(checkpoint(tmp_path, broken), TINY), "not finite")
    refused(lambda: import_checkpoint(checkpoint(tmp_path, {**state, "epoch": 3}), TINY), "'epoch' is no tensor")
    refused(lambda: import_checkpoint(checkpoint(tmp_path, {}), TINY), "no state_dict")
    refused(lambda: import_checkpoint(checkpoint(tmp_path, state), "fastbev-m0"), "does not fit fastbev-m0", "missing", "...")


class Bomb:
    """Unpickling this writes a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.path,)


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    target = tmp_path / "exploded"
    path = checkpoint(tmp_path, net_of().state_dict(), hook=Bomb(str(target)))
    refused(lambda: import_checkpoint(path, TINY), "more than tensors")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Bomb(str(target))))
    refused(lambda: import_checkpoint(tmp_path / "raw.pth", TINY))
    assert not target.exists()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
@example(b"J")
def test_noise_is_no_checkpoint(tmp_path: Path, noise: bytes) -> None:
    (tmp_path / "noise.pth").write_bytes(noise)
    refused(lambda: import_checkpoint(tmp_path / "noise.pth", TINY))


def test_the_card_survives_as_json(file: Path) -> None:
    assert json.loads(json.dumps(read_info(file).card)) == {"mAP": 0.5}
