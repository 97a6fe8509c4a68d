"""`bevstack train ...`: requests that cannot be met are one line that says what to do, and leave nothing behind."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from bevstack.cli.main import app
from bevstack.learn.run import RunFolder


@pytest.fixture(autouse=True)
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of photographs, an empty COCO file, and a folder that holds a run."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    cv2.imwrite("photos/a.png", np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    Path("black").mkdir()
    cv2.imwrite("black/a.png", np.zeros((64, 64, 3), np.uint8))
    image = {"id": 1, "file_name": "photos/a.png", "width": 64, "height": 64}
    category = {"id": 1, "name": "car"}
    Path("coco.json").write_text(str({"images": [image], "annotations": [], "categories": [category]}).replace("'", '"'))
    Path("used").mkdir()
    Path("used/checkpoint.pt").touch()


DATA = {"fastbev": "", "nuscenes": "", "giraffedet": "--data coco.json", "codec": "--images photos --crop 64"}


def refused(line: str) -> str:
    result = CliRunner().invoke(app, ["train", *line.split()])
    assert result.exit_code == 2, result.output
    said = " ".join(result.output.split())
    assert "Traceback" not in said
    return said


@pytest.mark.parametrize("kind", DATA)
def test_folders_models_and_budgets(kind: str) -> None:
    command = f"{kind} %s --steps 2 {DATA[kind]}"
    assert "used already holds a run: pass --resume to continue it" in refused(command % "used")
    assert "nothing to resume: new/checkpoint.pt does not exist" in refused(command % "new" + " --resume")
    assert "is called 'big': choose one of" in refused(command % "new" + " --model big")
    assert "new.safetensors do not exist: give a .safetensors file" in refused(command % "new" + " --init new.safetensors")
    assert "Invalid value for '--batch'" in refused(command % "new" + " --batch 0")
    assert "Invalid value for '--steps'" in refused(command.replace("2", "0") % "new")
    assert "coco.json cannot be used: File exists; choose another" in refused(command % "coco.json")
    with RunFolder(Path("live"), resume=False):
        assert f"live is in use: process {os.getpid()} is training there; wait" in refused(command % "live")
    assert not Path("new").exists()
    if kind != "nuscenes":
        assert "--minutes 90 or --steps 3000" in refused(f"{kind} new {DATA[kind]}")
        assert "--minutes is -1.0: give a budget above 0" in refused(f"{kind} new {DATA[kind]} --minutes -1")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("nuscenes new --data none", "none has no folder v1.0-*: give the folder"),
        ("giraffedet new --steps 2 --data none.json", "none.json cannot be read: No such file or directory; give a COCO"),
        ("giraffedet new --steps 2 --data none:coco.json", "image folder none does not exist: give the folder"),
        ("giraffedet new --steps 2 --data coco.json --slim --model giraffedet-nano", "leave out one of the two options"),
        ("giraffedet new --steps 2 --data coco.json --batch 1 --size 128x128", "give a larger --batch or --size"),
        ("fastbev new --steps 2 --slim --model fastbev-nano", "leave out one of the two options"),
        ("fastbev new --steps 2 --slim --lanes 2", "trained in one lane, so leave --lanes out"),
        ("fastbev new --steps 2 --batch 3", "16 drives cannot take turns in batches of 3: choose 1, 2, 4, 8, 16"),
        ("fastbev new --steps 2 --first-drive 5", "first_drive is 5: give 10000 or more"),
        ("codec new --steps 2 --images none", "image folder none does not exist: give a folder of photographs"),
        ("codec new --steps 2 --images black --crop 64", "every image is of one colour all over: give photographs"),
        ("codec-students codec-nano coco.json --images photos", "coco.json is a file: give a folder"),
        ("codec new --steps 2 --images photos --crop 100", "--crop 100 is no multiple of 64: choose 64"),
        ("codec new --steps 2 --images photos", "no image is at least 256 pixels high and wide: choose a smaller --crop"),
    ],
)
def test_other_mistakes(line: str, said: str) -> None:
    assert said in refused(line)


def test_rate_and_distortion_are_found_under_eval_as_well() -> None:
    result = CliRunner().invoke(app, ["eval", "codec", "--images", "none"])
    assert result.exit_code == 2
    assert "picture folder none does not exist: give a folder of pictures" in result.output
