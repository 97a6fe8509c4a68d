"""The whole path: images of any sizes in, boxes in their own pixels out, the same from every engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bevstack.detect import Detector, PostConfig
from bevstack.detect.config import STRIDES, GiraffeDetConfig, official
from bevstack.detect.export import export_onnx
from bevstack.detect.graphs import DetectGraph, cell_centres, inference_net
from bevstack.detect.letterbox import letterbox
from bevstack.detect.network import GiraffeDetNet
from bevstack.detect.postprocess import boxes_of_image, level_cells
from bevstack.detect.weights import find_weights, load_weights, read_info, save_weights
from bevstack.errors import CheckpointError, EngineError

ALL = PostConfig(score_threshold=0.0, limit=50)


@pytest.fixture(scope="module")
def net(tiny: GiraffeDetConfig) -> GiraffeDetNet:
    torch.manual_seed(3)
    net = GiraffeDetNet(tiny)
    with torch.no_grad():
        for parameter in net.bbox_head.parameters():  # scores that differ
            parameter.add_(0.05 * torch.randn_like(parameter))
        for module in net.modules():  # statistics that matter
            if isinstance(module, torch.nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    return net.eval()


@pytest.fixture(scope="module")
def detectors(net: GiraffeDetNet) -> dict[str, Detector]:
    return {name: Detector(net, name, 1, post=ALL) for name in ("torch", "onnx")}  # type: ignore[arg-type]


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (9, 16, 3), dtype=np.uint8)
    return np.ascontiguousarray(np.kron(small, np.ones((-(-height // 9), -(-width // 16), 1), np.uint8))[:height, :width])


def test_engines_agree_with_each_other_and_with_the_network(detectors: dict[str, Detector], net: GiraffeDetNet) -> None:
    images = np.random.default_rng(1).integers(0, 256, (2, *net.config.canvas, 3), dtype=np.uint8)
    folded = DetectGraph(inference_net(net), net.config.canvas).eval()
    with torch.inference_mode():
        scores, boxes = folded(torch.from_numpy(images))
        planes = (torch.from_numpy(images).float() - torch.tensor(net.config.mean)) / torch.tensor(net.config.std)
        raw, logits = net(planes.permute(0, 3, 1, 2))
    assert torch.allclose(scores, torch.cat([r.flatten(2) for r in raw], 2).transpose(1, 2), rtol=1e-3, atol=1e-5)
    # Decoding once more, one cell by hand: level P4, row 3, column 5.
    side = logits[1][1, :, 3, 5].reshape(4, 17).softmax(1) @ torch.arange(17.0) * 16
    cell = level_cells(net.config.canvas)[0] + 3 * (net.config.canvas[1] // 16) + 5
    want = torch.tensor([5 * 16 - side[0], 3 * 16 - side[1], 5 * 16 + side[2], 3 * 16 + side[3]])
    assert torch.allclose(boxes[1, cell], want, atol=1e-2)
    found = detectors["onnx"]._network.run({"images": images})
    assert found["scores"] == pytest.approx(scores.numpy(), rel=1e-3, abs=1e-5)
    assert found["boxes"] == pytest.approx(boxes.numpy(), abs=0.02)


def test_a_batch_of_unequal_cameras_is_the_same_as_one_by_one(detectors: dict[str, Detector]) -> None:
    images = [picture(90, 160), picture(300, 100, 1), picture(128, 256, 2), picture(2160, 3840, 3), picture(64, 64, 4)[..., 0]]
    together = detectors["onnx"](images)
    assert list(detectors["onnx"].timings) == ["preprocess", "network", "postprocess", "total"]
    for image, boxes in zip(images, together):
        alone = detectors["onnx"]([image])[0]
        assert boxes.score == pytest.approx(alone.score, abs=1e-5)
        assert len(boxes) > 0
        assert boxes.xyxy.min() >= 0
        assert np.all(boxes.xyxy <= [image.shape[1], image.shape[0]] * 2)
        assert np.all(np.diff(boxes.score) <= 0)
        assert boxes.classes == detectors["onnx"].classes


def test_images_decoded_smaller_give_boxes_of_the_original(detectors: dict[str, Detector]) -> None:
    detector = detectors["onnx"]
    assert detector.decode_size(1600, 900) == (228, 128)
    small = picture(128, 228)
    boxes = detector([small], sizes=[(1600, 900)])[0]
    own = detector([small])[0]
    assert boxes.xyxy / np.array([1600, 900] * 2) == pytest.approx(own.xyxy / np.array([228, 128] * 2), abs=1e-2)
    with pytest.raises(EngineError, match="one size for each"):
        detector([small], sizes=[])


def test_no_image_and_no_box(detectors: dict[str, Detector], net: GiraffeDetNet) -> None:
    assert detectors["torch"]([]) == []
    silent = Detector(net, "torch", 1, post=replace(ALL, score_threshold=0.999))
    found = silent([picture(90, 160)])[0]
    assert len(found) == 0
    assert found.xyxy.shape == (0, 4)
    assert found.names() == []


def test_a_thousand_boxes(tiny: GiraffeDetConfig) -> None:
    canvas = (384, 640)
    cells = sum(level_cells(canvas))
    centres, strides = cell_centres(canvas)
    assert len(centres) == len(strides) == cells
    scores = np.zeros((cells, 10), np.float32)
    boxes = np.concatenate([(centres - 2).numpy(), (centres + 2).numpy()], 1)
    grid = np.flatnonzero((centres[:, 0] > 0).numpy() & (centres[:, 1] > 0).numpy() & (strides == 8).numpy())[:1000]
    scores[grid, np.arange(1000) % 10] = np.linspace(0.3, 0.9, 1000)
    post = PostConfig(limit=5000)
    found = boxes_of_image(scores, boxes, letterbox(1280, 720, canvas), tiny, post)
    assert len(found) == 1000
    assert found.xyxy[0] == pytest.approx(2 * boxes[grid[-1]])
    assert len(boxes_of_image(scores, boxes, letterbox(1280, 720, canvas), tiny, replace(post, limit=100))) == 100
    assert len(boxes_of_image(scores, boxes, letterbox(1280, 720, canvas), tiny, replace(post, candidates=300))) == 300


def test_centres_have_no_half_cell_offset() -> None:
    centres, strides = cell_centres((128, 256))
    assert centres[0].tolist() == [0, 0]
    assert centres[1].tolist() == [8, 0]
    assert centres[-1].tolist() == [128, 0]
    assert [int((strides == s).sum()) for s in STRIDES] == [512, 128, 32, 8, 2]


def test_weights_and_graphs_carry_their_config(net: GiraffeDetNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEVSTACK_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "tiny.safetensors"
    info = save_weights(file, net, {"data": "none"}, dtype="float32")
    assert read_info(file) == info
    first = Detector(file, "onnx", 1, post=ALL)
    assert first.weights_sha256 == info.sha256
    assert len(list((tmp_path / "cache" / "graphs").iterdir())) == 1
    graph = export_onnx(load_weights(file), tmp_path / "tiny.onnx", weights_sha256=info.sha256)
    second = Detector(graph, "onnx", 1, post=ALL)
    assert second.config.classes == net.config.classes
    assert second.weights_sha256 == info.sha256
    image = picture(90, 160)
    assert second([image])[0].xyxy == pytest.approx(first([image])[0].xyxy, abs=1e-3)
    with pytest.raises(EngineError, match="engine onnx"):
        Detector(graph, "torch")
    with pytest.raises(EngineError, match="exported for 256x128"):
        Detector(graph, "onnx", canvas=(256, 256))


def test_damaged_weights_are_refused(net: GiraffeDetNet, tmp_path: Path) -> None:
    file = tmp_path / "tiny.safetensors"
    save_weights(file, net)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="hash to"):
        load_weights(file)
    file.write_bytes(content[:5])
    with pytest.raises(CheckpointError, match="no safetensors file"):
        read_info(file)
    with pytest.raises(CheckpointError, match="known rungs are"):
        find_weights("giraffedet-d8")
    with pytest.raises(CheckpointError, match="do not exist"):
        find_weights(tmp_path / "none.safetensors")


def test_folding_keeps_the_released_kind_of_network() -> None:
    torch.manual_seed(0)
    config = replace(official(2, 0.0625, "small"), outputs=32, canvas=(128, 128))
    net = GiraffeDetNet(config).eval()
    x = torch.randn(1, 3, 128, 128)
    with torch.inference_mode():
        for a, b in zip(net.features(x), inference_net(net).features(x)):
            assert torch.allclose(a, b, rtol=1e-3, atol=1e-4)
