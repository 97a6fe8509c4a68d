"""Training of a detector: lower loss, resumed runs, half precision, refused requests; what is trained finds its objects."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from bevstack.cli.main import app
from bevstack.detect import config
from bevstack.detect.config import GiraffeDetConfig
from bevstack.detect.detector import Detector
from bevstack.detect.weights import read_info
from bevstack.learn.detect.data import AugmentOptions, DataSpec, TrainingSet
from bevstack.learn.detect.teacher import read_rgb
from bevstack.learn.detect.train import Batch, Trainer, TrainOptions, learning_rate, start_from, train_giraffedet
from bevstack.learn.run import RunFolder, TrainingError


def options(tiny: GiraffeDetConfig, folder: Path, output: Path, **changes: object) -> TrainOptions:
    base = TrainOptions(
        output,
        (DataSpec(folder / "coco.json"),),
        config=tiny,
        steps=6,
        batch=2,
        warmup=2,
        threads=1,
        log_every=2,
        augment=AugmentOptions(colour=0.3),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def batch_of(tiny: GiraffeDetConfig, folder: Path, count: int = 4) -> Batch:
    data = TrainingSet(tiny, [DataSpec(folder / "coco.json")], 0, AugmentOptions(colour=0.0))
    return Batch.of([data.sample(n, tiny.canvas) for n in range(count)])


@pytest.mark.parametrize("amp", [False, True])
def test_steps_lower_the_loss(tiny: GiraffeDetConfig, folder: Path, tmp_path: Path, amp: bool) -> None:
    torch.manual_seed(0)
    trainer = Trainer(options(tiny, folder, tmp_path, steps=100, learning_rate=4e-3, amp=amp))
    batch = batch_of(tiny, folder)
    values = [trainer.step(batch) for _ in range(25)]
    assert np.isfinite([v["loss"] for v in values]).all()
    assert values[-1]["loss"] < 0.85 * values[0]["loss"]
    assert values[-1]["box"] < 0.9 * values[0]["box"]
    assert all(p.dtype == torch.float32 for p in trainer.net.parameters())


def test_a_batch_without_any_box_trains(tiny: GiraffeDetConfig, folder: Path, tmp_path: Path) -> None:
    trainer = Trainer(options(tiny, folder, tmp_path))
    batch = batch_of(tiny, folder, 2)
    empty = [replace(t, boxes=t.boxes[:0], labels=t.labels[:0]) for t in batch.targets]
    values = trainer.step(Batch(batch.images, empty))
    assert values["box"] == values["dfl"] == 0.0
    assert all(torch.isfinite(p).all() for p in trainer.net.parameters())


def test_a_resumed_run_ends_in_the_same_weights(tiny: GiraffeDetConfig, folder: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    whole = train_giraffedet(options(tiny, folder, tmp_path / "a"), report=lines.append)
    assert [line.split()[1] for line in lines] == ["2", "4", "6"]
    assert (tmp_path / "a" / "log.csv").read_text().count("\n") == 4
    # Interrupted after three steps: the rate follows the whole budget, so the first part is asked for the same one.
    first = Trainer(options(tiny, folder, tmp_path / "b"))
    data = TrainingSet(tiny, first.options.data, 0, first.options.augment)
    for step in range(3):
        first.step(Batch.of([data.sample(2 * step + n, tiny.canvas) for n in range(2)]))
    (tmp_path / "b").mkdir()
    first.save(tmp_path / "b" / "checkpoint.pt")
    rest = train_giraffedet(options(tiny, folder, tmp_path / "b", resume=True), report=lines.append)
    assert read_info(rest).sha256 == read_info(whole).sha256
    assert read_info(whole).card["steps"] == "6"


def test_rates_of_both_recipes(tiny: GiraffeDetConfig, folder: Path, tmp_path: Path) -> None:
    adam = options(tiny, folder, tmp_path, learning_rate=1.0, warmup=10)
    assert learning_rate(0, 0.0, adam) == pytest.approx(0.19)
    assert learning_rate(50, 0.0, adam) == pytest.approx(1.0)
    assert learning_rate(50, 1.0, adam) == pytest.approx(0.01)
    sgd = replace(adam, optimizer="sgd")
    assert [learning_rate(50, f, sgd) for f in (0.5, 0.91, 0.98)] == pytest.approx([1.0, 0.1, 0.01])


def test_unusable_requests_are_refused_in_one_line(tiny: GiraffeDetConfig, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="either in minutes or in steps"):
        train_giraffedet(options(tiny, folder, tmp_path, minutes=1.0))
    with pytest.raises(TrainingError, match="nothing to resume"):
        train_giraffedet(options(tiny, folder, tmp_path, resume=True))
    with pytest.raises(TrainingError, match="no detector is called 'giraffe'"):
        train_giraffedet(options(tiny, folder, tmp_path, config=None, model="giraffe"))
    (tmp_path / "checkpoint.pt").write_bytes(b"")
    with pytest.raises(TrainingError, match="already holds a run"):
        train_giraffedet(options(tiny, folder, tmp_path))


def test_starts_from_other_weights_of_the_same_shapes(tiny: GiraffeDetConfig, folder: Path, tmp_path: Path) -> None:
    weights = train_giraffedet(options(tiny, folder, tmp_path / "a", steps=2), report=lambda line: None)
    fewer = replace(tiny, classes=("car",))
    trainer = Trainer(options(fewer, folder, tmp_path / "b"))
    taken = start_from(trainer.net, weights)
    assert taken == len(trainer.net.state_dict()) - 2  # all but the class output's weight and bias
    wider = replace(tiny, outputs=64, inner=24, head=replace(tiny.head, channels=64))
    assert start_from(Trainer(options(wider, folder, tmp_path / "c")).net, weights) > 0  # the backbone fits


def test_resume_alone_goes_on_with_what_the_folder_holds(
    tiny: GiraffeDetConfig,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    interrupt: Callable[[type[Any], int], None],
) -> None:
    monkeypatch.setitem(config.DETECTORS, "giraffedet-micro", replace(tiny, name="giraffedet-micro"))
    monkeypatch.chdir(tmp_path)

    def train(*line: str) -> str:
        result = CliRunner().invoke(app, ["train", "giraffedet", *line])
        return f"{result.exit_code} {' '.join(result.output.split())}"

    asked = ["--data", f"{folder}/coco.json@2", "--model", "giraffedet-micro", "--steps", "5", "--batch", "2"]
    asked += ["--size", "128x128", "--size", "256x128", "--learning-rate", "3e-3", "--seed", "3", "--optimizer", "sgd"]
    assert train("whole", *asked).startswith("0 ")
    interrupt(Trainer, 3)
    assert train("broken", *asked) == "130 interrupted"
    for line, said in (
        ("--model giraffedet-nano", "begun with model giraffedet-micro, not giraffedet-nano: continue it with --model"),
        ("--slim", "begun with model giraffedet-micro, not giraffedet-slim"),
        ("--optimizer adamw", "begun with optimizer sgd, not adamw: continue it with --optimizer sgd"),
        ("--init other.safetensors", "begun without init, not other.safetensors: continue it without --init"),
    ):
        assert said in train("broken", "--resume", *line.split())
    assert not Path("broken/parts.json").exists()
    assert train("broken", "--resume").startswith("0 ")
    assert read_info(Path("broken/weights.safetensors")).sha256 == read_info(Path("whole/weights.safetensors")).sha256
    (part,) = json.loads(Path("broken/parts.json").read_text())
    ignored = {"output", "resume"}
    begun = json.loads(Path("broken/options.json").read_text())
    assert part["step"] == 3
    assert {k: v for k, v in part["options"].items() if k not in ignored} == {
        k: v for k, v in begun.items() if k not in ignored
    }
    assert train("broken", "--resume", "--minutes", "0.0001", "--batch", "4", "--size", "256x256").startswith("0 ")
    after = json.loads(Path("broken/parts.json").read_text())[-1]["options"]
    assert (after["minutes"], after["steps"], after["batch"], after["seed"]) == (0.0001, None, 4, 3)
    assert after["canvases"] == [[256, 256]]
    assert begun["canvases"] == [[128, 128], [128, 256]], "height first"
    with RunFolder(Path("broken"), resume=True):
        assert "is in use" in train("broken", "--resume")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_trained_on_squares_it_finds_squares(tiny: GiraffeDetConfig, folder: Path, tmp_path: Path) -> None:
    # Two channels in each of the 32 groups: a group norm over one value, as the coarsest map would have, says nothing.
    config = replace(tiny, outputs=64, head=replace(tiny.head, channels=64))
    asked = options(config, folder, tmp_path, steps=400, batch=4, learning_rate=4e-3, ema=0.98)
    detector = Detector(train_giraffedet(asked, report=lambda line: None), "torch", 1)
    right = 0
    for n in range(8):
        image = read_rgb(folder / f"{n}.png")
        rows, columns = np.nonzero((image[..., 0] == 220) & (image[..., 1] == 30))
        true = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        found = detector([image])[0]
        right += int(len(found) > 0 and np.abs(found.xyxy[0] - true).max() < 6)
    assert right >= 6
    assert len(found) < 5


def test_emulated_half_precision_is_called_slow(
    tiny: GiraffeDetConfig, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bevstack.learn.half.native_bfloat16", lambda: False)
    lines: list[str] = []
    train_giraffedet(options(tiny, folder, tmp_path / "a", steps=1, amp=True), report=lines.append)
    assert any(line.startswith("warning: half precision") for line in lines)
