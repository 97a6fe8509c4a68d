"""The published recipe: exact continuation, many processes as one, schedule, options."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bevstack.bev.config import BackboneConfig, EncoderConfig, FastBEVConfig
from bevstack.bev.weights import load_weights
from bevstack.learn.nuscenes.samples import NuScenesPool, SampleSet, TrainingSample, Views
from bevstack.learn.nuscenes.train import Recipe, RecipeOptions, rate, train_recipe
from bevstack.learn.run import TrainingError


def options(tiny: FastBEVConfig, tree: Path | None, output: Path, **changes: Any) -> RecipeOptions:
    base = RecipeOptions(
        output, config=tiny, data=tree, split="all", steps=6, batch=2, warmup=2, workers=0, log_every=2, checkpoint_steps=3
    )
    return replace(base, **{"norms": "frozen", **changes})


@pytest.fixture(scope="module")
def batch(tree: Path, tiny: FastBEVConfig) -> list[TrainingSample]:
    samples = SampleSet(NuScenesPool(tree), tiny)
    return [samples[n] for n in range(2)]


def state(folder: Path) -> dict[str, torch.Tensor]:
    return load_weights(folder / "weights.safetensors").state_dict()


class Killed(Exception):
    """Stands for the signal that ends a run between two steps."""


class Mortal:
    """Samples of a folder; the run dies when it asks for number ``until``."""

    def __init__(self, tree: Path, until: int) -> None:
        self.pool, self.until = NuScenesPool(tree), until

    def views(self, number: int, config: FastBEVConfig) -> Views:
        if number >= self.until:
            raise Killed
        return self.pool.views(number, config)


def test_a_killed_run_continues_bit_for_bit(tree: Path, tiny: FastBEVConfig, tmp_path: Path) -> None:
    lines: list[str] = []
    whole = options(tiny, tree, tmp_path / "whole", ema=0.9, norms="train")
    broken = replace(whole, output=tmp_path / "broken")
    assert train_recipe(whole, report=lines.append) == whole.output / "weights.safetensors"
    with pytest.raises(Killed):
        train_recipe(broken, pool=Mortal(tree, until=10), report=lines.append)  # in step 6; step 3 was saved
    assert not (broken.output / "weights.safetensors").exists()
    with pytest.raises(TrainingError, match="already holds a run"):
        train_recipe(broken)
    train_recipe(replace(broken, resume=True, seed=0), report=lines.append)
    a, b = state(whole.output), state(broken.output)
    assert all(torch.equal(a[k], b[k]) for k in a)
    saved = [torch.load(f / "checkpoint.pt", weights_only=True) for f in (whole.output, broken.output)]
    assert all(torch.equal(saved[0]["net"][k], saved[1]["net"][k]) for k in saved[0]["net"])
    with (broken.output / "log.csv").open(encoding="utf-8") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["2", "4", "6"]


class Terminated(Mortal):
    """Here SIGTERM comes instead, once."""

    def views(self, number: int, config: FastBEVConfig) -> Views:
        if number == self.until:
            os.kill(os.getpid(), signal.SIGTERM)
            self.until = -1
        return self.pool.views(number, config)


def test_a_signal_saves_the_step_that_was_running(tree: Path, tiny: FastBEVConfig, tmp_path: Path) -> None:
    lines: list[str] = []
    whole = options(tiny, tree, tmp_path / "whole", norms="train")
    stopped = replace(whole, output=tmp_path / "stopped", checkpoint_steps=100)
    train_recipe(whole, report=lambda line: None)
    with pytest.raises(SystemExit) as end:
        train_recipe(stopped, pool=Terminated(tree, until=4), report=lines.append)
    assert end.value.code == 143
    step = torch.load(stopped.output / "checkpoint.pt", weights_only=True)["step"]
    assert 0 < step < whole.steps
    assert lines[-1].startswith(f"stopped after step {step}; ")
    train_recipe(replace(stopped, resume=True), report=lambda line: None)
    a, b = state(whole.output), state(stopped.output)
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_averages_that_are_asked_for_later_start_from_the_weights_of_then(
    tree: Path, tiny: FastBEVConfig, tmp_path: Path
) -> None:
    plain = options(tiny, tree, tmp_path / "run", steps=3)
    train_recipe(plain, report=lambda line: None)
    later = Recipe(replace(plain, resume=True, ema=0.9))
    later.load(plain.output / "checkpoint.pt")
    assert later.average is not None
    trained = later.net.state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in later.average.state.items())


SCRIPT = """
import sys, torch
from dataclasses import replace
from pathlib import Path
from bevstack.bev.config import BackboneConfig, EncoderConfig, FastBEVConfig
from bevstack.learn.nuscenes.train import RecipeOptions, train_recipe
torch.set_num_threads(1)
config = FastBEVConfig.from_json(Path(sys.argv[1]).read_text())
train_recipe(RecipeOptions(Path(sys.argv[3]), config=config, data=Path(sys.argv[2]), split="all", steps=3, batch=4, warmup=1,
                           workers=0, log_every=1, norms="frozen", learning_rate=1e-3))
"""


def test_two_processes_train_as_one(tree: Path, tiny: FastBEVConfig, tmp_path: Path) -> None:
    """Samples differ in their number of boxes, so this fails when each process divides its losses by its own."""
    script, config = tmp_path / "script.py", tmp_path / "config.json"
    script.write_text(SCRIPT)
    config.write_text(tiny.to_json())
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, str(script), str(config), str(tree), str(tmp_path / "two")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    one = options(tiny, tree, tmp_path / "one", steps=3, batch=4, warmup=1, log_every=1, learning_rate=1e-3)
    train_recipe(one, report=lambda line: None)
    a, b = (torch.load(tmp_path / k / "checkpoint.pt", weights_only=True)["net"] for k in ("one", "two"))
    start = Recipe(one).net.state_dict()
    moved = max(float((a[k].float() - start[k].float()).abs().max()) for k in a)
    apart = max(float((a[k].float() - b[k].float()).abs().max()) for k in a)
    assert moved > 1e-3
    assert apart < 1e-2 * moved
    logs = []
    for name in ("one", "two"):
        with (tmp_path / name / "log.csv").open(encoding="utf-8") as file:
            logs.append([float(row["loss"]) for row in csv.DictReader(file)])
    np.testing.assert_allclose(*logs, rtol=1e-4)


def test_schedule(tiny: FastBEVConfig) -> None:
    o = RecipeOptions(Path(), config=tiny, steps=10_000, learning_rate=4e-4)
    assert rate(0, o) == pytest.approx(4e-10)
    assert rate(500, o) == pytest.approx(4e-4 * 0.95 * 0.5, rel=1e-3)
    assert rate(1000, o) == pytest.approx(4e-4 * 0.9)
    assert rate(5000, o) == pytest.approx(2e-4)
    assert rate(10_000, o) == 0.0
    assert rate(2500, replace(o, schedule="cosine")) == pytest.approx(4e-4 * (0.5 + 0.5 * np.cos(np.pi / 4)))


def test_rates_and_frozen_parts(batch: list[TrainingSample], tiny: FastBEVConfig, tmp_path: Path) -> None:
    recipe = Recipe(options(tiny, None, tmp_path, freeze_stem=True, norms="backbone", warmup=1))
    before = {k: v.clone() for k, v in recipe.net.state_dict().items()}
    recipe.step(batch)
    recipe.step(batch)
    rates = [group["lr"] for group in recipe.optimizer.param_groups]
    assert rates[1] == pytest.approx(0.1 * rates[0])
    after = recipe.net.state_dict()
    same = {k for k in after if torch.equal(before[k], after[k])}
    assert {k for k in after if k.startswith(("backbone.stem.", "backbone.layer1."))} <= same
    assert "backbone.layer2.0.conv1.weight" not in same
    assert "backbone.layer2.0.bn1.running_mean" in same, "norms of the backbone keep their statistics"
    assert "neck_3d.out.bn.running_mean" not in same


def test_gradients_are_clipped_and_go_through_the_past(
    batch: list[TrainingSample], tiny: FastBEVConfig, tmp_path: Path
) -> None:
    recipe = Recipe(options(tiny, None, tmp_path, clip_norm=1e-3))
    recipe.step(batch)
    trained = [p for p in recipe.net.parameters() if p.grad is not None]
    assert float(torch.stack([p.grad.norm() for p in trained if p.grad is not None]).norm()) == pytest.approx(1e-3, rel=1e-2)
    # With the current instant's tables empty, only the past feeds the volume: its images still teach the backbone.
    blind = [replace(s, tables=np.stack([np.full_like(s.tables[0], tiny.cells), s.tables[1]])) for s in batch]
    recipe.optimizer.zero_grad(set_to_none=True)
    torch.stack(list(recipe.losses(blind).values())).sum().backward()
    assert float(next(recipe.net.backbone.parameters()).grad.abs().sum()) > 0  # type: ignore[union-attr]


def test_half_precision_and_averages(tree: Path, tiny: FastBEVConfig, tmp_path: Path) -> None:
    # torch 2.13 (CPU) corrupts its heap in the bfloat16 backward pass of 8 channels stored channels-last; 16 are sound.
    wide = replace(
        tiny,
        backbone=BackboneConfig("basic", (16, 16), (16, 16, 16, 16), (1, 1, 1, 1)),
        neck_channels=16,
        encoder=EncoderConfig("pyramid", fuse=16, channels=16, deep=16, outputs=16),
    )
    samples = SampleSet(NuScenesPool(tree), wide)
    batch = [samples[n] for n in range(2)]
    plain = Recipe(options(wide, None, tmp_path)).step(batch)
    half = Recipe(options(wide, None, tmp_path, amp="bf16", ema=0.9))
    first = half.step(batch)["loss"]
    assert first == pytest.approx(plain["loss"], rel=0.05)
    assert first != plain["loss"]
    half.step(batch)
    assert all(v.dtype == torch.float32 for v in half.net.state_dict().values() if v.is_floating_point())
    averaged, last = half.result().state_dict(), half.net.state_dict()
    assert not torch.equal(averaged["neck_3d.fuse.weight"], last["neck_3d.fuse.weight"])


def test_steps_lower_the_loss(batch: list[TrainingSample], tiny: FastBEVConfig, tmp_path: Path) -> None:
    recipe = Recipe(options(tiny, None, tmp_path, steps=400, warmup=1, learning_rate=3e-3, backbone_rate=1.0))
    losses = [recipe.step(batch)["loss"] for _ in range(25)]
    assert losses[-1] < 0.8 * losses[0]


def test_mistakes_are_one_line(batch: list[TrainingSample], tiny: FastBEVConfig, tree: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no model is called 'm9'"):
        Recipe(replace(options(tiny, None, tmp_path), config=None, model="m9"))
    with pytest.raises(TrainingError, match=r"mix is 1\.5"):
        options(tiny, tree, tmp_path, mix=1.5).pool()
    with pytest.raises(TrainingError, match="nothing to resume"):
        train_recipe(options(tiny, tree, tmp_path / "none", resume=True))
    recipe = Recipe(options(tiny, None, tmp_path))
    with torch.no_grad():
        next(recipe.net.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingError, match="continue from the checkpoint"):
        recipe.step(batch)


def test_tensorboard(tiny: FastBEVConfig, tree: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    train_recipe(options(tiny, tree, tmp_path / "run", steps=2, tensorboard=True), report=lambda line: None)
    assert list((tmp_path / "run" / "tensorboard").glob("events.out.tfevents.*"))


def test_tensorboard_that_is_missing_is_said_in_one_line(
    tiny: FastBEVConfig, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(TrainingError, match=r"pip install .bevstack\[tensorboard\]"):
        train_recipe(options(tiny, tree, tmp_path / "run", steps=2, tensorboard=True))
