"""Commands about 2D boxes: train, score, export; a run with them; what is wrong with a request in one line."""

from __future__ import annotations

import json
from pathlib import Path
from subprocess import Popen
from typing import Any

import cv2
import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from typer.testing import CliRunner

from bevstack.cli.main import app
from bevstack.detect.letterbox import parse_canvas
from bevstack.errors import BevstackError

torch = pytest.importorskip("torch", reason="making test weights needs torch")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images with a bright car each."""
    folder = tmp_path_factory.mktemp("labelled")
    images, annotations = [], []
    for n in range(3):
        image = np.full((128, 256, 3), 90, np.uint8)
        image[40:90, 40 + 20 * n : 120 + 20 * n] = 250
        cv2.imwrite(str(folder / f"{n}.png"), image)
        images.append({"id": n, "file_name": f"{n}.png", "width": 256, "height": 128})
        annotations.append({"id": n, "image_id": n, "category_id": 3, "bbox": [40 + 20 * n, 40, 80, 50]})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 3, "name": "car"}]}
    (folder / "labels.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """giraffedet-nano with untrained weights that see something everywhere."""
    from bevstack.detect.config import DETECTORS
    from bevstack.detect.network import GiraffeDetNet
    from bevstack.detect.weights import save_weights

    torch.manual_seed(0)
    net = GiraffeDetNet(DETECTORS["giraffedet-nano"]).eval()
    with torch.no_grad():
        net.bbox_head.gfl_cls.bias.fill_(2.0)
    path = tmp_path_factory.mktemp("weights") / "untrained.safetensors"
    save_weights(path, net, {"origin": "untrained, for tests"})
    return path


def call(*words: str | Path) -> Any:
    return CliRunner().invoke(app, [str(w) for w in words])


def test_train_with_a_searched_backbone_then_score_and_export(labelled: Path, tmp_path: Path) -> None:
    from bevstack.detect.weights import read_info
    from bevstack.nn.superblocks import SuperBlock, SuperBlockConfig, save_backbone

    pytest.importorskip("pycocotools", reason="COCO metrics need pycocotools")
    blocks = tuple(SuperBlock(out, 3, 2, 1, 8) for out in (16, 16, 24, 32))
    save_backbone(tmp_path / "backbone.json", SuperBlockConfig(8, blocks), {"score": 1})
    data = f"{labelled}:{labelled / 'labels.json'}@2"
    run = tmp_path / "run"
    words: list[str | Path] = ["train", "giraffedet", run, "--data", data, "--steps", "2", "--batch", "1", "--threads", "1"]
    result = call(*words, "--size", "256x128", "--backbone", tmp_path / "backbone.json")
    assert result.exit_code == 0, result.output
    made = run / "weights.safetensors"
    assert read_info(made).config.name == "giraffedet-nano-searched"
    again = call(*words, "--resume", "--backbone", tmp_path / "backbone.json")
    assert again.exit_code == 0, again.output
    alone = call("train", "giraffedet", run, "--resume")
    assert alone.exit_code == 0, alone.output
    assert read_info(made).config.name == "giraffedet-nano-searched"
    save_backbone(tmp_path / "other.json", SuperBlockConfig(8, (*blocks[:3], SuperBlock(40, 3, 2, 1, 8))), {"score": 1})
    other = call(*words, "--resume", "--backbone", tmp_path / "other.json")
    assert other.exit_code == 2, other.output
    scores = tmp_path / "scores.json"
    words = [
        "eval",
        "giraffedet",
        "--coco",
        labelled / "labels.json",
        "--model",
        made,
        "--engine",
        "torch",
        "--size",
        "256x128",
    ]
    result = call(*words, "--threads", "1", "--json", scores)
    assert result.exit_code == 0, result.output
    assert json.loads(scores.read_text())["images"] == 3
    graph = tmp_path / "graph.onnx"
    result = call("export", "giraffedet", graph, "--model", made, "--size", "256x128")
    assert result.exit_code == 0, result.output
    result = call("eval", "giraffedet", "--coco", labelled / "labels.json", "--model", graph, "--threads", "1", "--limit", "1")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("text", ["640", "x384", "640x380", "640x", "0x0", "axb"])
def test_sizes_that_no_rung_takes(text: str) -> None:
    with pytest.raises(BevstackError):
        parse_canvas(text)
    assert parse_canvas("640x384") == (384, 640)


def test_requests_that_cannot_be_met(labelled: Path, tmp_path: Path) -> None:
    for words, message in (
        (["train", "giraffedet", tmp_path / "a", "--data", labelled / "none.json", "--steps", "1"], "cannot be read"),
        (["train", "giraffedet", tmp_path / "a", "--data", labelled / "labels.json"], "either in minutes or in steps"),
        (["eval", "giraffedet", "--coco", labelled / "labels.json", "--model", "none.safetensors"], "do not exist"),
        (["pseudo-label", labelled, tmp_path / "b", "--teacher", "none.onnx"], "does not exist"),
        (["pseudo-label", tmp_path, tmp_path / "b", "--teacher", "none.onnx"], "no images"),
    ):
        result = call(*words)
        assert result.exit_code == 2, (words, result.output)
        assert message in " ".join(result.output.split()), words


@pytest.mark.timeout(300)
def test_a_run_with_boxes_in_the_images_only(start: Any, weights: Path, tmp_path: Path) -> None:
    source = "sim:seed=3,duration=0.5,rate=4,image_width=320"
    words = ["--no-bev", "--detect", "--detect-model", weights, "--rate", "0", "--record", "out", "--json", "out.json"]
    process: Popen[str] = start("run", source, *words, "--picture", "out.png")
    _, err = process.communicate(timeout=250)
    assert process.returncode == 0, err
    assert "Traceback" not in err, err
    assert cv2.imread(str(tmp_path / "out.png")) is not None
    with AnyReader([tmp_path / "out"]) as reader:
        wanted = [c for c in reader.connections if c.topic.endswith("/cam_front/detections_2d")]
        messages = [reader.deserialize(data, c.msgtype) for c, _, data in reader.messages(wanted)]
    assert len(messages) == 2
    assert all(len(m.detections) == 100 for m in messages)  # the most that a rung gives
    box = messages[0].detections[0].bbox
    assert 0 <= box.center.position.x <= 320
    assert 0 <= box.center.position.y <= 180
    assert json.loads((tmp_path / "out.json").read_text())["instants_out"] >= 2
