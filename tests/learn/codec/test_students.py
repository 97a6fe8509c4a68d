"""Student decoders: they read the teacher's streams; a run that is killed goes on as if it had never stopped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.codec.tiny import tiny_config
from typer.testing import CliRunner

from bevstack.cli.main import app
from bevstack.codec.codec import ImageCodec
from bevstack.codec.config import QuantiserConfig
from bevstack.codec.model import CodecNet
from bevstack.codec.weights import load_weights, read_info, save_weights
from bevstack.learn.codec import students
from bevstack.learn.codec.crops import CropStream, find_images, read_rgb
from bevstack.learn.codec.distill import DistillOptions
from bevstack.learn.codec.fit import write_fitted
from bevstack.learn.codec.initial import principal_start
from bevstack.learn.codec.students import train_students
from bevstack.learn.run import RunFolder, TrainingError

TINY = tiny_config(latent=32, quantiser=QuantiserConfig("dependent"))


class Killed(Exception):
    """Stands for the signal that ends a run between two steps."""


@pytest.fixture(scope="module")
def teacher(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    net = CodecNet(TINY)
    crops = CropStream([read_rgb(p) for p in find_images([pictures])], 64, 8, 0, (1.0,))
    principal_start(net, torch.from_numpy(crops(0)).permute(0, 3, 1, 2).float())
    net.update()
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    write_fitted(path, net, {}, [read_rgb(p) for p in find_images([pictures])][:2])
    return path


@pytest.fixture
def options(teacher: Path, pictures: Path, tmp_path: Path) -> DistillOptions:
    return DistillOptions(
        tmp_path / "whole",
        str(teacher),
        (pictures,),
        steps=4,
        blocks=1,
        batch=2,
        crop=64,
        threads=1,
        log_every=1,
        checkpoint_minutes=0.0,
    )


@pytest.fixture
def whole(options: DistillOptions) -> dict[str, Path]:
    return train_students(options, report=lambda line: None)


def kill_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Lets the run die in that step."""
    taken, original = 0, students.distillation_loss

    def loss(*given: Any) -> torch.Tensor:
        nonlocal taken
        if taken == step:
            raise Killed
        taken += 1
        return original(*given)

    monkeypatch.setattr(students, "distillation_loss", loss)


def test_students_learn_and_read_the_teachers_streams(
    options: DistillOptions, whole: dict[str, Path], teacher: Path, pictures: Path
) -> None:
    picture = read_rgb(find_images([pictures])[0])[:128, :192]
    stream = ImageCodec(teacher).encode(picture, quality=70).data
    for name, blocks in (("twin", 2), ("small", 1)):
        info = read_info(whole[name])
        assert info.config.transform.decoder_blocks == blocks
        assert info.model_id == read_info(teacher).model_id
        assert info.reconstruction_id != read_info(teacher).reconstruction_id
        assert info.card["teacher"] == read_info(teacher).sha256
        assert np.abs(ImageCodec(whole[name]).decode(stream).rgb.astype(int) - picture).mean() < 20
    run = options.output
    assert {"options.json", "config.json", "environment.json", "log.csv", "checkpoint.pt"} <= {p.name for p in run.iterdir()}
    rows = [line.split(",") for line in (run / "log.csv").read_text().splitlines()]
    blocks_column = rows[0].index("blocks")
    assert [row[blocks_column] for row in rows[1:]] == ["2"] * 4 + ["1"] * 4


@pytest.mark.parametrize("step", [2, 4, 7], ids=["twin", "between", "small"])
def test_a_killed_run_continues_bit_for_bit(
    options: DistillOptions, whole: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    broken = replace(options, output=tmp_path / "broken")
    with monkeypatch.context() as patch:
        kill_at(patch, step)
        with pytest.raises(Killed):
            train_students(broken, report=lambda line: None)
    assert torch.load(broken.output / "checkpoint.pt", weights_only=True)["progress"]["step"] == step
    assert not list(broken.output.glob("*.safetensors"))
    with pytest.raises(TrainingError, match="already holds a run: pass --resume"):
        train_students(broken)
    again = train_students(replace(broken, resume=True), report=lambda line: None)
    a, b = (torch.load(f / "checkpoint.pt", weights_only=True) for f in (options.output, broken.output))
    for part in ("twin", "small"):
        assert read_info(again[part]).sha256 == read_info(whole[part]).sha256
        assert all(torch.equal(a[part][k], b[part][k]) for k in a[part])
        assert not all(torch.equal(v, load_weights(options.teacher).state_dict()[k]) for k, v in a["twin"].items())
    moments = [[s["exp_avg"] for s in state["optimizer"]["state"].values()] for state in (a, b)]
    assert all(torch.equal(x, y) for x, y in zip(*moments, strict=True))
    first = json.loads((broken.output / "parts.json").read_text())[0]
    assert first["step"] == step


def test_the_command_goes_on_with_what_is_stored(
    options: DistillOptions, whole: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = replace(options, output=tmp_path / "broken")
    with monkeypatch.context() as patch:
        kill_at(patch, 5)
        with pytest.raises(Killed):
            train_students(broken, report=lambda line: None)
    result = CliRunner().invoke(app, ["train", "codec-students", options.teacher, str(broken.output), "--resume"])
    assert result.exit_code == 0, result.output
    assert "broken/codec-tiny-small.safetensors" in result.output.replace("\n", "")
    for part in ("twin", "small"):
        file = broken.output / f"codec-tiny-{part}.safetensors"
        assert read_info(file).sha256 == read_info(whole[part]).sha256


def test_what_cannot_be_done_is_one_line(options: DistillOptions, whole: dict[str, Path], tmp_path: Path) -> None:
    resumed = replace(options, resume=True)
    with pytest.raises(TrainingError, match="begun with steps 4, not 9: continue it with --steps 4, or choose another"):
        train_students(replace(resumed, steps=9))
    with pytest.raises(TrainingError, match="begun with blocks 1, not 2"):
        train_students(replace(resumed, blocks=2))
    torch.manual_seed(1)
    other = CodecNet(TINY)
    other.update()
    save_weights(tmp_path / "other.safetensors", other)
    with pytest.raises(TrainingError, match=r"was begun with the teacher [0-9a-f]{16}\.\.\., not [0-9a-f]{16}\.\.\.: give"):
        train_students(replace(resumed, teacher=str(tmp_path / "other.safetensors")))
    with RunFolder(tmp_path / "live", resume=False), pytest.raises(TrainingError, match="live is in use"):
        train_students(replace(options, output=tmp_path / "live"))
    with pytest.raises(TrainingError, match="with 3 blocks cannot be made of a teacher with 2: choose 1 to 2"):
        train_students(replace(options, output=tmp_path / "new", blocks=3))
    with pytest.raises(TrainingError, match="--crop 100 is no multiple of 64"):
        train_students(replace(options, output=tmp_path / "new", crop=100))
    assert not (tmp_path / "new").exists()
