"""Several widths trained at once: sandwich steps, what moves and what stays, continuation, the file, a whole tiny run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bevstack.bev import FastBEV
from bevstack.bev.config import FastBEVConfig
from bevstack.bev.weights import load_weights, read_info
from bevstack.learn import train
from bevstack.learn.run import TrainingError
from bevstack.learn.simulated import Batch, DriveStream, StreamOptions
from bevstack.learn.slim import SlimOptions, SlimTrainer
from bevstack.learn.train import Trainer, TrainOptions, train_fastbev, write_weights

STREAM = StreamOptions(batch=2, drives=2, clip=3, clips=2, span=12.0, density=0.3, workers=0)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def wide(tiny: FastBEVConfig) -> FastBEVConfig:
    backbone = replace(tiny.backbone, stem=(8, 16), widths=(16, 16, 24, 32))
    return replace(tiny, backbone=backbone)


@pytest.fixture
def batches(wide: FastBEVConfig, worlds: None) -> list[Batch]:
    stream = DriveStream(wide, STREAM)
    return [stream.batch(n) for n in range(4)]


def options(config: FastBEVConfig, folder: Path, **changes: object) -> SlimOptions:
    given = SlimOptions(folder, config=config, steps=6, batch=2, drives=2, workers=0, log_every=1, warmup=2)
    return replace(given, **changes)  # type: ignore[arg-type]


def test_a_step_trains_all_widths_and_shared_statistics_stay(wide: FastBEVConfig, tmp_path: Path, batches: list[Batch]) -> None:
    trainer = SlimTrainer(options(wide, tmp_path))
    before = {k: v.clone() for k, v in trainer.slim.state_dict().items()}
    parts = trainer.step(batches[0])
    assert {"loss", "heat", "features smallest", "features between", "outputs smallest", "outputs between"} <= parts.keys()
    after = trainer.slim.state_dict()
    moved = {k for k in before if not torch.equal(before[k], after[k])}
    assert not [k for k in moved if k.startswith("full.") and "running" in k], (
        "statistics of the largest and of the common part"
    )
    for width in ("0_5", "0_75"):
        assert [k for k in moved if k.startswith(f"own.{width}") and "running_mean" in k]
        assert [k for k in moved if k.startswith(f"own.{width}") and k.endswith("weight")]
    assert all(p.requires_grad for p in trainer.common)


@pytest.mark.slow
def test_narrow_widths_come_near_the_largest(wide: FastBEVConfig, tmp_path: Path, batches: list[Batch]) -> None:
    trainer = SlimTrainer(options(wide, tmp_path, steps=1000, learning_rate=5e-3))
    steps = [trainer.step(batches[0]) for _ in range(20)]
    assert steps[-1]["features smallest"] < 0.7 * steps[0]["features smallest"]
    assert steps[-1]["heat"] < 0.95 * steps[0]["heat"]


def test_only_labels_teach_what_is_common(wide: FastBEVConfig, tmp_path: Path, batches: list[Batch]) -> None:
    """One width beside the largest, weighed a thousand times: the encoder's gradient must not notice."""
    gradients = []
    for weight in (0.0, 1000.0):
        trainer = SlimTrainer(options(wide, tmp_path, features=weight, outputs=weight, clip_norm=1e9))
        trainer.step(batches[0])
        gradients.append([None if p.grad is None else p.grad.clone() for p in trainer.common])
        image = trainer.net.backbone.layer1[0].conv1.weight.grad
        assert image is not None
        gradients[-1].append(image.clone())
    pairs = list(zip(*gradients))
    assert all(torch.allclose(a, b) for a, b in pairs[:-1] if a is not None and b is not None)
    assert not torch.allclose(*pairs[-1])


def test_a_resumed_run_ends_in_the_same_weights(wide: FastBEVConfig, tmp_path: Path, batches: list[Batch]) -> None:
    four = (0.25, 0.5, 0.75, 1.0)  # two to draw from: the random state has to survive, too
    straight = SlimTrainer(options(wide, tmp_path, widths=four))
    for batch in batches:
        straight.step(batch)
    first = SlimTrainer(options(wide, tmp_path, widths=four))
    for batch in batches[:2]:
        first.step(batch)
    first.save(tmp_path / "checkpoint.pt")
    second = SlimTrainer(options(wide, tmp_path, widths=four, seed=99))
    second.load(tmp_path / "checkpoint.pt")
    for batch in batches[2:]:
        second.step(batch)
    assert same(straight.slim.state_dict(), second.slim.state_dict())
    assert same(straight.average.state, second.average.state)


def test_starting_from_one_width_keeps_what_it_computes(wide: FastBEVConfig, tmp_path: Path, batches: list[Batch]) -> None:
    one = Trainer(TrainOptions(tmp_path, config=wide, steps=6, batch=2, drives=2, warmup=2))
    one.step(batches[0])
    given = write_weights(one, tmp_path / "given.safetensors")
    slim = SlimTrainer(options(wide, tmp_path, init=given)).slim.eval()
    images = one.images(batches[1])
    with torch.no_grad():
        wanted = load_weights(given).image_features(images)
        assert torch.allclose(slim.full.image_features(images), wanted, atol=1e-4)
        assert slim.at(0.5).image_features(images).shape == wanted.shape


def test_a_whole_run_writes_one_file_of_all_widths(
    wide: FastBEVConfig, tmp_path: Path, worlds: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "StreamOptions", lambda **given: replace(STREAM, seed=given["seed"]))
    o = options(wide, tmp_path / "run", steps=2)
    path = train_fastbev(o, report=lambda line: None, statistics=1, make=SlimTrainer)
    train_fastbev(replace(o, steps=3, resume=True), report=lambda line: None, statistics=1, make=SlimTrainer)
    assert read_info(path).card["steps"] == "3"
    for width in (0.5, 0.75, 1.0):
        assert FastBEV(f"{path}@{width}", "torch", threads=1).rung == f"tiny@{width}"
    again = SlimTrainer(options(wide, tmp_path, init=path)).slim
    assert torch.equal(again.at(0.5).neck.out_conv.bn.weight, load_weights(f"{path}@0.5").neck.out_conv.bn.weight)
    assert torch.equal(again.at(0.5).neck.out_conv.conv.weight.half(), load_weights(path).neck.out_conv.conv.weight.half())


@pytest.mark.parametrize(
    ("change", "reason"), [({"lanes": 2}, "one lane"), ({"loss": "freeanchor"}, "dense"), ({"widths": (1.0,)}, "at least two")]
)
def test_unusable_requests(wide: FastBEVConfig, tmp_path: Path, change: dict[str, object], reason: str) -> None:
    with pytest.raises(TrainingError, match=reason):
        SlimTrainer(options(wide, tmp_path, **change))
