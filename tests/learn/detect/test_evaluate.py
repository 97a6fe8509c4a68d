"""Scores on labelled folders: known answers, ignored regions, unknown classes, and the command with its JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bevstack.detect.config import GiraffeDetConfig
from bevstack.detect.detector import Detector
from bevstack.detect.network import GiraffeDetNet
from bevstack.detect.weights import read_info, save_weights
from bevstack.errors import BevstackError
from bevstack.geometry import Boxes2D
from bevstack.learn.detect.card import from_checkpoint, publish
from bevstack.learn.detect.coco import CocoData, CocoImage, Labels, read_coco
from bevstack.learn.detect.data import DataSpec
from bevstack.learn.detect.evaluate import evaluate_coco, score_boxes
from bevstack.learn.detect.train import TrainOptions, train_giraffedet
from bevstack.learn.run import TrainingError

pytest.importorskip("pycocotools", reason="COCO metrics need pycocotools")
CLASSES = ("car", "pedestrian")
WIDE = (128, 256)  # torch's group norm refuses a single value per group, which one 128x128 image of 32 channels is on P7
SQUARE = [10.0, 10.0, 60.0, 60.0]


def data(*labels: Labels) -> CocoData:
    images = [CocoImage(n + 1, Path(f"{n}.png"), (100, 100), entry) for n, entry in enumerate(labels)]
    return CocoData(images, CLASSES, (1, 2), Path("coco.json"))


def truth(boxes: list[list[float]], ignore: bool = False, unknown: tuple[bool, bool] = (False, False)) -> Labels:
    count = len(boxes)
    xyxy = np.array(boxes, np.float32).reshape(-1, 4)
    return Labels(xyxy, np.zeros(count, np.int64), np.full(count, ignore), np.array(unknown))


def found(boxes: list[list[float]], scores: list[float], label: int = 0) -> Boxes2D:
    xyxy = np.array(boxes, np.float32).reshape(-1, 4)
    return Boxes2D(xyxy, np.array(scores, np.float32), np.full(len(boxes), label, np.int64), CLASSES)


def test_exact_boxes_score_one_and_shifted_ones_less() -> None:
    labels = [truth([SQUARE]), truth([])]
    exact = score_boxes(data(*labels), [found([SQUARE], [0.9]), found([], [])])
    assert exact.statistics["AP"] == pytest.approx(1.0)
    assert exact.classes["car"] == {"AP": pytest.approx(1.0), "AP50": pytest.approx(1.0), "truths": 1}
    assert exact.classes["pedestrian"]["AP"] is None
    moved = [v + 6.0 for v in SQUARE]  # overlap 44 * 44 / (2 * 2500 - 44 * 44) = 0.63: right at 0.50, 0.55 and 0.60
    shifted = score_boxes(data(*labels), [found([moved], [0.9]), found([], [])])
    assert shifted.statistics["AP"] == pytest.approx(0.3)
    assert shifted.statistics["AP50"] == pytest.approx(1.0)


def test_better_scored_false_boxes_cost_precision() -> None:
    result = score_boxes(data(truth([SQUARE])), [found([[70, 70, 90, 90], SQUARE], [0.9, 0.5])])
    assert result.statistics["AP50"] == pytest.approx(0.5)
    other = score_boxes(data(truth([SQUARE])), [found([SQUARE], [0.9], label=1)])
    assert other.statistics["AP50"] == pytest.approx(0.0)


def test_boxes_in_ignored_regions_and_of_unknown_classes_are_no_errors() -> None:
    labels = [truth([SQUARE]), truth([SQUARE], ignore=True)]
    result = score_boxes(data(*labels), [found([SQUARE], [0.5]), found([SQUARE], [0.9])])
    assert result.statistics["AP50"] == pytest.approx(1.0)
    assert result.classes["car"]["truths"] == 1
    labels = [truth([SQUARE]), truth([], unknown=(True, False))]
    result = score_boxes(data(*labels), [found([SQUARE], [0.5]), found([SQUARE], [0.9])])
    assert result.statistics["AP50"] == pytest.approx(1.0)


def test_nothing_found_and_nothing_in_common() -> None:
    nothing = score_boxes(data(truth([SQUARE])), [found([], [])])
    assert nothing.statistics["AP"] == 0.0
    assert score_boxes(data(truth([])), [found([], [])]).statistics["AP"] is None
    boats = Boxes2D(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), ("boat",))
    with pytest.raises(BevstackError, match="no class of the detector"):
        score_boxes(data(truth([SQUARE])), [boats])
    with pytest.raises(BevstackError, match="give one for each image"):
        score_boxes(data(truth([SQUARE])), [])


def test_a_folder_by_command(tiny: GiraffeDetConfig, folder: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from bevstack.cli.main import app

    weights = tmp_path / "tiny.safetensors"
    info = save_weights(weights, GiraffeDetNet(replace(tiny, canvas=WIDE)).eval())
    words = ["eval", "giraffedet", "--coco", folder / "coco.json", "--images", folder, "--model", weights, "--engine", "torch"]
    target = tmp_path / "scores.json"
    result = CliRunner().invoke(app, [*map(str, words), "--threads", "1", "--json", str(target)])
    assert result.exit_code == 0, result.output
    scores = json.loads(target.read_text())
    assert scores["weights_sha256"] == info.sha256
    assert scores["images"] == 9
    assert scores["classes"]["car"]["truths"] == 8
    assert 0.0 <= scores["AP"] < 0.5
    assert scores["canvas"] == [128, 256]
    broken = CliRunner().invoke(app, ["eval", "giraffedet", "--coco", str(folder / "0.png")])
    assert broken.exit_code == 2
    assert "cannot be read as JSON" in broken.output


def test_first_images_only_and_other_sizes(tiny: GiraffeDetConfig, folder: Path) -> None:
    detector = Detector(GiraffeDetNet(tiny).eval(), "torch", 1, canvas=WIDE)
    assert evaluate_coco(detector, folder / "coco.json", limit=2).images == 2
    with pytest.raises(BevstackError, match="lists no images"):
        evaluate_coco(detector, folder / "coco.json", limit=0)


def test_card_and_weights_are_published_together(tiny: GiraffeDetConfig, folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = TrainOptions(run, (DataSpec(folder / "coco.json"),), config=tiny, steps=4, batch=2, log_every=2, threads=1)
    train_giraffedet(options, report=lambda line: None)
    source = from_checkpoint(run, tmp_path / "now.safetensors")
    assert read_info(source).sha256 == read_info(run / "weights.safetensors").sha256
    scores = tmp_path / "scores.json"
    evaluate_coco(source, folder / "coco.json", engine="torch", threads=1, canvas=WIDE).save(scores)
    target = tmp_path / "weights" / "tiny.safetensors"
    page = publish(run, source, target, [("Squares", scores)], data=["red squares"], note="Only squares.")
    text = page.read_text()
    info = read_info(target)
    assert info.sha256 == read_info(source).sha256
    assert info.sha256 in text
    for part in ("# tiny", "- red squares", "## Squares", "| car |", "8 in 4 steps", "Only squares.", "@1"):
        assert part in text, part
    assert info.card["metrics"]["Squares"]["images"] == 9
    assert "## Parts" not in text
    train_giraffedet(replace(options, steps=6, batch=3, resume=True), report=lambda line: None)
    evaluate_coco(run / "weights.safetensors", folder / "coco.json", engine="torch", threads=1, canvas=WIDE).save(scores)
    text = publish(run, run / "weights.safetensors", target, [("Squares", scores)]).read_text()
    for part in ("## Parts", "| 1 to 4 |", "| 5 to 6 |", "`--steps 6`, `--batch 3`", "14 in 6 steps"):
        assert part in text, part
    other = replace(tiny, name="other")
    save_weights(tmp_path / "other.safetensors", GiraffeDetNet(other).eval(), info.card)
    with pytest.raises(TrainingError, match="other weights"):
        publish(run, tmp_path / "other.safetensors", target, [("Squares", scores)])
    with pytest.raises(TrainingError, match="does not exist"):
        from_checkpoint(tmp_path, target)
    assert read_coco(folder / "coco.json").classes == CLASSES
