"""The card beside published weights: its numbers come from the run and the scores, which must belong together."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bevstack.bev.config import FastBEVConfig
from bevstack.bev.weights import load_weights, read_info
from bevstack.learn.card import publish
from bevstack.learn.run import CsvLog, Progress, RunFolder
from bevstack.learn.train import Trainer, TrainOptions, write_weights


def test_card_and_weights_are_published_together(tiny: FastBEVConfig, tmp_path: Path) -> None:
    options = TrainOptions(tmp_path / "run", config=tiny, steps=5)
    trainer = Trainer(options)
    with RunFolder(options.output, resume=False) as folder:
        folder.begin(options, tiny.to_json())
        write_weights(trainer, folder.weights)
        folder.checkpoint.touch()
        CsvLog(folder.log, 0).write({"step": 5, "minutes": 2.0, "loss": 1.0})
    errors = {"ATE": 0.5, "ASE": 0.2, "AOE": None, "AVE": None, "AAE": None}
    scores = {
        "model": "tiny",
        "weights_sha256": read_info(options.output / "weights.safetensors").sha256,
        "mAP": 0.321,
        "NDS": 0.4,
        **{"m" + k: 0.25 for k in errors},
        "instants": 40,
        "seeds": [3, 4],
        "seconds": 10.0,
        "rate": 2.0,
        "classes": {"car": {"AP": 0.3, "AP_by_distance": {"0.5": 0.1, "1": 0.2, "2": 0.3, "4": 0.6}, **errors, "truths": 7}},
    }
    file = tmp_path / "scores.json"
    file.write_text(json.dumps(scores), encoding="utf-8")
    page = publish(options.output, file, tmp_path / "weights" / "tiny.safetensors")
    text = page.read_text(encoding="utf-8")
    assert "mAP 0.321" in text
    assert "| car | 0.300 | 0.100 | 0.200 | 0.300 | 0.600 | 0.500 | 0.200 | - | - | - | 7 |" in text
    assert "--steps 5" in text
    info = read_info(tmp_path / "weights" / "tiny.safetensors")
    assert info.card["metrics"]["NDS"] == 0.4
    assert info.sha256 == scores["weights_sha256"]
    assert info.sha256 in text
    assert load_weights(tmp_path / "weights" / "tiny.safetensors").config == replace(tiny)
    assert "## Parts" not in text
    assert "20 instants in 5 steps" in text
    with RunFolder(options.output, resume=True) as folder:
        folder.begin(replace(options, steps=9, learning_rate=1e-3), "", progress=Progress(3))
    text = publish(options.output, file, tmp_path / "weights" / "tiny.safetensors").read_text(encoding="utf-8")
    assert "| 1 to 3 |" in text
    assert [line.split(" | ")[2] for line in text.splitlines() if line.startswith("| 4 to 5 |")] == [
        "`--steps 9`, `--learning-rate 0.001`"
    ]
    file.write_text(json.dumps({**scores, "weights_sha256": "0"}), encoding="utf-8")
    with pytest.raises(ValueError, match="other weights"):
        publish(options.output, file, tmp_path / "weights" / "tiny.safetensors")
