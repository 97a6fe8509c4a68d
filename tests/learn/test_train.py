"""The training loop: exact continuation, averaged weights, lanes, errors, and a whole tiny run."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from bevstack.bev import config
from bevstack.bev.config import FastBEVConfig
from bevstack.bev.weights import load_weights, read_info
from bevstack.cli.main import app
from bevstack.learn import train
from bevstack.learn.average import AveragedWeights
from bevstack.learn.run import TrainingError
from bevstack.learn.simulated import Batch, DriveStream, StreamOptions
from bevstack.learn.slim import SlimTrainer
from bevstack.learn.train import Trainer, TrainOptions, learning_rate, train_fastbev

STREAM = StreamOptions(batch=2, drives=2, clip=3, clips=2, span=12.0, density=0.3, workers=0)


@pytest.fixture
def batches(tiny: FastBEVConfig, worlds: None) -> list[Batch]:
    stream = DriveStream(tiny, STREAM)
    return [stream.batch(n) for n in range(6)]


def options(tiny: FastBEVConfig, folder: Path, **changes: object) -> TrainOptions:
    return replace(TrainOptions(folder, config=tiny, steps=6, batch=2, drives=2, workers=0, log_every=1, warmup=2), **changes)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("loss", ["dense", "freeanchor"])
def test_a_resumed_run_ends_in_the_same_weights(tiny: FastBEVConfig, tmp_path: Path, batches: list[Batch], loss: str) -> None:
    straight = Trainer(options(tiny, tmp_path, loss=loss))
    for batch in batches:
        straight.step(batch)
    first = Trainer(options(tiny, tmp_path, loss=loss))
    for batch in batches[:4]:  # in the middle of a clip: cached history has to survive, too
        first.step(batch)
    first.save(tmp_path / "checkpoint.pt")
    second = Trainer(options(tiny, tmp_path, loss=loss, seed=99))
    second.load(tmp_path / "checkpoint.pt")
    for batch in batches[4:]:
        second.step(batch)
    assert second.progress.step == 6
    assert same(straight.net.state_dict(), second.net.state_dict())
    assert same(straight.average.state, second.average.state)
    assert not same(straight.net.state_dict(), first.net.state_dict())


def test_steps_lower_the_loss(tiny: FastBEVConfig, tmp_path: Path, batches: list[Batch]) -> None:
    trainer = Trainer(options(tiny, tmp_path, steps=1000, learning_rate=5e-3))
    losses = [trainer.step(batches[0])["loss"] for _ in range(25)]
    assert losses[-1] < 0.8 * losses[0]


def test_lanes_share_parameters_and_halve_the_batch(tiny: FastBEVConfig, tmp_path: Path, batches: list[Batch]) -> None:
    trainer = Trainer(options(tiny, tmp_path, lanes=2))
    for batch in batches[:2]:
        trainer.step(batch)
    ours, theirs = trainer.lanes
    assert all(a.data_ptr() == b.data_ptr() for a, b in zip(ours.parameters, theirs.parameters))
    assert sorted(trainer.history) == [0, 1]


def test_batch_norms_keep_their_statistics_at_the_end(tiny: FastBEVConfig, tmp_path: Path, batches: list[Batch]) -> None:
    trainer = Trainer(options(tiny, tmp_path, freeze=0.5, lanes=2))
    for batch in batches[:3]:
        trainer.step(batch)
    before = [norm.running_mean.clone() for norm in trainer.lanes[0].norms if norm.running_mean is not None]
    trainer.step(batches[3])
    for lane in trainer.lanes:
        assert all(torch.equal(a, norm.running_mean) for a, norm in zip(before, lane.norms) if norm.running_mean is not None)


def test_a_loss_that_is_not_finite_stops_the_run(tiny: FastBEVConfig, tmp_path: Path, batches: list[Batch]) -> None:
    trainer = Trainer(options(tiny, tmp_path))
    with torch.no_grad():
        trainer.parameters[0].fill_(float("nan"))
    with pytest.raises(TrainingError, match="continue from the checkpoint"):
        trainer.step(batches[0])


def test_learning_rate_warms_up_and_ends_low(tiny: FastBEVConfig, tmp_path: Path) -> None:
    o = options(tiny, tmp_path, warmup=10, learning_rate=1.0)
    assert learning_rate(0, 0.0, o) == pytest.approx(0.1)
    assert learning_rate(10, 0.0, o) == pytest.approx(1.0)
    assert learning_rate(500, 0.5, o) == pytest.approx(0.505)
    assert learning_rate(1000, 1.0, o) == pytest.approx(0.01)


def test_averaged_weights_follow_quickly_at_first() -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    average = AveragedWeights(layer, 0.999)
    with torch.no_grad():
        layer.weight.fill_(5.0)
    for _ in range(60):
        average.update(layer)
    assert float(average.state["weight"]) == pytest.approx(5.0, abs=0.1)


def test_a_whole_run_and_its_continuation(
    tiny: FastBEVConfig, tmp_path: Path, worlds: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "StreamOptions", lambda **given: replace(STREAM, seed=given["seed"]))
    o = options(tiny, tmp_path / "run", steps=3)
    lines: list[str] = []
    path = train_fastbev(o, report=lines.append, statistics=2)
    assert len(lines) == 3
    assert load_weights(path).config == tiny
    assert read_info(path).card["steps"] == "3"
    assert {"options.json", "config.json", "environment.json", "log.csv", "checkpoint.pt"} <= {
        p.name for p in path.parent.iterdir()
    }
    with pytest.raises(TrainingError, match="already holds a run"):
        train_fastbev(o)
    train_fastbev(replace(o, steps=5, resume=True), report=lines.append, statistics=0)
    with (path.parent / "log.csv").open(encoding="utf-8") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize("slim", [False, True])
def test_resume_alone_goes_on_with_what_the_folder_holds(
    tiny: FastBEVConfig,
    tmp_path: Path,
    worlds: None,
    monkeypatch: pytest.MonkeyPatch,
    interrupt: Callable[[type[Any], int], None],
    slim: bool,
) -> None:
    monkeypatch.setattr(train, "StreamOptions", lambda **given: replace(STREAM, seed=given["seed"]))
    monkeypatch.setitem(config.CONFIGS, "fastbev-tiny", tiny)
    monkeypatch.setattr(config, "SLIM", replace(tiny, name="fastbev-tiny"))
    settle = SlimTrainer.settle  # sixty batches of statistics take half a minute
    monkeypatch.setattr(SlimTrainer, "settle", lambda self, batches, count: settle(self, batches, min(count, 2)))
    monkeypatch.chdir(tmp_path)

    def run(*line: str) -> str:
        result = CliRunner().invoke(app, ["train", "fastbev", *line])
        return f"{result.exit_code} {' '.join(result.output.split())}"

    asked = ["--slim"] if slim else ["--model", "fastbev-tiny", "--freeze", "0.5"]
    asked += ["--steps", "3", "--batch", "2", "--learning-rate", "3e-3", "--workers", "0"]
    assert run("whole", *asked).startswith("0 ")
    interrupt(SlimTrainer if slim else Trainer, 2)
    assert run("broken", *asked) == "130 interrupted"
    for line, said in (
        ("--model fastbev-nano", "begun with model fastbev-tiny, not fastbev-nano: continue it with --model fastbev-tiny"),
        ("--batch 4", "begun with batch 2, not 4: continue it with --batch 2, or choose another folder"),
        ("--seed 3", "begun with seed 0, not 3: continue it with --seed 0"),
    ):
        assert said in run("broken", "--resume", *line.split())
    assert run("broken", "--resume").startswith("0 ")
    assert read_info(Path("broken/weights.safetensors")).sha256 == read_info(Path("whole/weights.safetensors")).sha256
    (part,) = json.loads(Path("broken/parts.json").read_text())
    assert (part["step"], part["options"]["learning_rate"], part["options"]["freeze"]) == (2, 3e-3, 0.2 if slim else 0.5)
    assert run("broken", "--resume", "--steps", "4", "--learning-rate", "1e-3").startswith("0 ")
    after = json.loads(Path("broken/parts.json").read_text())[-1]
    assert (after["step"], after["options"]["steps"], after["options"]["learning_rate"]) == (3, 4, 1e-3)


def test_unusable_requests_are_refused_in_one_line(tiny: FastBEVConfig, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="minutes or in steps"):
        train_fastbev(options(tiny, tmp_path, minutes=1.0))
    with pytest.raises(TrainingError, match="no model is called"):
        train_fastbev(replace(options(tiny, tmp_path), config=None, model="fastbev-pico"))
    with pytest.raises(TrainingError, match="nothing to resume"):
        train_fastbev(options(tiny, tmp_path / "none", resume=True))
    assert not (tmp_path / "none").exists()
    other = Trainer(options(tiny, tmp_path))
    other.save(tmp_path / "checkpoint.pt")
    with pytest.raises(TrainingError, match="another model configuration"):
        Trainer(options(replace(tiny, neck_channels=6), tmp_path)).load(tmp_path / "checkpoint.pt")


def test_a_run_starts_from_other_weights_of_the_same_shapes(tiny: FastBEVConfig, tmp_path: Path, batches: list[Batch]) -> None:
    first = Trainer(options(tiny, tmp_path))
    first.step(batches[0])
    given = train.write_weights(first, tmp_path / "given.safetensors")
    larger = Trainer(options(replace(tiny, name="larger", image_hw=(64, 176)), tmp_path, init=given, lanes=2))
    expected = load_weights(given).state_dict()
    for lane in larger.lanes:
        assert same(expected, lane.net.state_dict())
    assert same(expected, larger.average.state)
    with pytest.raises(TrainingError, match=r"given\.safetensors does not fit tiny: .*size mismatch"):
        Trainer(options(replace(tiny, neck_channels=16), tmp_path, init=given))
