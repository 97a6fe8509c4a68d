"""`bevstack train nuscenes` and `bevstack eval fastbev --data`, on a tiny folder."""

from __future__ import annotations

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
from bevstack.bev.weights import read_info
from bevstack.cli.main import app
from bevstack.learn.evaluate import evaluate_source
from bevstack.learn.nuscenes.train import Recipe


def test_train_and_score(tree: Path, tiny: FastBEVConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(config.CONFIGS, "fastbev-micro", replace(tiny, name="fastbev-micro"))
    run = tmp_path / "run"
    asked = [str(run), "--data", str(tree), "--split", "all", "--model", "fastbev-micro", "--steps", "2", "--batch", "2"]
    result = CliRunner().invoke(app, ["train", "nuscenes", *asked, "--workers", "0", "--warmup", "1", "--log-every", "1"])
    assert result.exit_code == 0, result.output
    assert str(run / "weights.safetensors") in result.output
    options = json.loads((run / "options.json").read_text())
    assert (options["data"], options["schedule"], options["clip_norm"]) == (str(tree), "poly", 35.0)
    assert {"config.json", "environment.json", "log.csv", "checkpoint.pt"} <= {p.name for p in run.iterdir()}
    again = CliRunner().invoke(app, ["train", "nuscenes", *asked])
    assert again.exit_code == 2
    missing = CliRunner().invoke(app, ["train", "nuscenes", str(tmp_path / "b"), "--data", str(tmp_path), "--split", "all"])
    assert missing.exit_code == 2
    pytest.importorskip("nuscenes.eval", reason="nuscenes-devkit is not installed")
    scores = tmp_path / "scores.json"
    scored = CliRunner().invoke(
        app,
        [
            "eval",
            "fastbev",
            "--model",
            str(run / "weights.safetensors"),
            "--data",
            str(tree),
            "--engine",
            "torch",
            "--threads",
            "1",
            "--json",
            str(scores),
        ],
    )
    assert scored.exit_code == 0, scored.output
    assert json.loads(scores.read_text())["instants"] == 6


def test_resume_alone_goes_on_with_what_the_folder_holds(
    tree: Path,
    tiny: FastBEVConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    interrupt: Callable[[type[Any], int], None],
) -> None:
    monkeypatch.setitem(config.CONFIGS, "fastbev-micro", replace(tiny, name="fastbev-micro"))
    monkeypatch.chdir(tmp_path)

    def train(*line: str) -> str:
        result = CliRunner().invoke(app, ["train", "nuscenes", *line])
        return f"{result.exit_code} {' '.join(result.output.split())}"

    asked = ["--data", str(tree), "--split", "all", "--model", "fastbev-micro", "--steps", "4", "--batch", "2", "--ema", "0.5"]
    asked += ["--workers", "0", "--warmup", "1", "--backbone-rate", "0.5", "--no-augment", "--schedule", "cosine"]
    assert train("whole", *asked).startswith("0 ")
    interrupt(Recipe, 2)
    assert train("broken", *asked) == "130 interrupted"
    for line, said in (
        ("--model fastbev-m0", "begun with model fastbev-micro, not fastbev-m0: continue it with --model fastbev-micro"),
        ("--freeze-stem", "begun with freeze_stem False, not True: continue it without --freeze-stem"),
    ):
        assert said in train("broken", "--resume", *line.split())
    assert train("broken", "--resume").startswith("0 ")
    assert read_info(Path("broken/weights.safetensors")).sha256 == read_info(Path("whole/weights.safetensors")).sha256
    (part,) = json.loads(Path("broken/parts.json").read_text())
    assert (part["step"], part["options"]["augment"], part["options"]["ema"]) == (2, False, 0.5)
    assert train("broken", "--resume", "--steps", "5", "--backbone-rate", "0.1").startswith("0 ")
    state = torch.load("broken/checkpoint.pt", weights_only=True)
    assert (state["step"], state["optimizer"]["param_groups"][1]["factor"]) == (5, 0.1)


def test_boxes_without_points_do_not_count(tree: Path, tiny: FastBEVConfig, tmp_path: Path) -> None:
    pytest.importorskip("nuscenes.eval", reason="nuscenes-devkit is not installed")
    from bevstack.bev.network import FastBEVNet

    torch.manual_seed(0)
    result = evaluate_source(FastBEVNet(tiny).eval(), str(tree), "torch", threads=1)
    truths = {c.name: c.truths for c in result.classes}
    assert truths["barrier"] == 6
    assert truths["car"] == 6, "one of the two cars has no LiDAR point, but a radar point"
    table = tree / "v1.0-tiny" / "sample_annotation.json"
    content = table.read_text()
    copy = tmp_path / "copy"
    (copy / "v1.0-tiny").mkdir(parents=True)
    for file in (tree / "v1.0-tiny").iterdir():
        (copy / "v1.0-tiny" / file.name).write_text(file.read_text())
    for folder in ("samples", "sweeps"):
        (copy / folder).symlink_to(tree / folder)
    rows = json.loads(content)
    for row in rows:
        if row["num_lidar_pts"] == 0:
            row["num_radar_pts"] = 0
    (copy / "v1.0-tiny" / "sample_annotation.json").write_text(json.dumps(rows))
    again = evaluate_source(FastBEVNet(tiny).eval(), str(copy), "torch", threads=1)
    assert {c.name: c.truths for c in again.classes}["car"] == 3
