"""Scoring the real inference object on drives with known truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bevstack.bev import FastBEV
from bevstack.bev.config import CAMERA_ORDER, CONFIGS, FastBEVConfig
from bevstack.bev.decode import decode_maps
from bevstack.bev.network import FastBEVNet
from bevstack.frames.sim import SimulatedDrive
from bevstack.learn.evaluate import EvaluationError, detect, evaluate_simulated, evaluate_source, evaluate_together
from bevstack.learn.simulated import input_camera
from bevstack.learn.train import Trainer, TrainOptions

pytest.importorskip("nuscenes", reason="nuscenes-devkit is not installed: pip install --no-deps nuscenes-devkit")


@pytest.fixture
def net(tiny: FastBEVConfig) -> FastBEVNet:
    torch.manual_seed(3)
    net = FastBEVNet(tiny).eval()
    assert net.bbox_head.conv_cls.bias is not None
    torch.nn.init.normal_(net.bbox_head.conv_cls.weight, std=3.0)  # a net that says something
    torch.nn.init.constant_(net.bbox_head.conv_cls.bias, -3.5)
    return net


def test_scores_say_what_was_measured(net: FastBEVNet) -> None:
    seen: list[tuple[int, int]] = []
    result = evaluate_simulated(
        net, [1], "torch", seconds=1.0, image_width=160, threads=1, progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(1, 2), (2, 2)]
    plain = result.to_json()
    assert plain["instants"] == 2
    assert plain["seeds"] == [1]
    assert plain["engine"] == "torch"
    assert 0.0 <= result.mean_ap < 0.2  # random weights
    assert result.table().row_count == 10


def test_several_models_are_scored_on_the_same_pictures(net: FastBEVNet, tiny: FastBEVConfig) -> None:
    torch.manual_seed(4)
    other = FastBEVNet(tiny).eval()
    models = [FastBEV(n, "torch", threads=1) for n in (net, other)]
    both = evaluate_together(models, [1, 2], seconds=1.0, image_width=160)
    for one, together in zip((net, other), both):
        alone = evaluate_simulated(one, [1, 2], "torch", seconds=1.0, image_width=160, threads=1)
        assert together.mean_ap == alone.mean_ap
        assert together.instants == alone.instants == 4


def test_nothing_to_score_is_an_error(net: FastBEVNet) -> None:
    with pytest.raises(EvaluationError, match="no seeds"):
        evaluate_simulated(net, [], "torch")


def test_a_source_without_truth_is_an_error(net: FastBEVNet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bevstack.learn.evaluate.detect", lambda model, instants, watch: ([], []))
    with pytest.raises(EvaluationError, match="no true boxes"):
        evaluate_source(net, "sim:seed=1,duration=0.2", "torch")


def test_a_nuscenes_sample_can_be_scored(shared: Path) -> None:
    found = sorted(shared.glob("data/**/sample.json"))
    if not found:
        pytest.skip("no sample.json below the shared data folder")
    net = FastBEVNet(CONFIGS["fastbev-micro"]).eval()
    result = evaluate_source(net, str(found[0]), "torch", threads=1)
    assert result.instants == 1
    assert sum(c.truths for c in result.classes) > 10


def test_training_and_inference_see_the_same_instant(net: FastBEVNet, tiny: FastBEVConfig, tmp_path: Path) -> None:
    """The network's input drawn for training, through the training-time path, gives the maps and boxes that FastBEV gives."""
    drive = SimulatedDrive(2, rate=2.0, duration=1.0, image_width=320, density=0.3, stagger=False)
    bev = FastBEV(net, "torch", threads=1)
    pairs, _ = detect(bev, drive)
    trainer = Trainer(TrainOptions(tmp_path, config=tiny, steps=1))
    views = {name: input_camera(drive.cameras[name], tiny) for name in CAMERA_ORDER}
    features = []
    for t in (0.5, 0.0):
        pictures = np.stack(list(drive.render_instant(t, views).values()))[None]
        flat = torch.from_numpy(pictures).flatten(0, 1).float()
        with torch.no_grad():
            features.append(net.image_features(((flat - trainer._mean) / trainer._std).permute(0, 3, 1, 2)))
    tables = torch.from_numpy(bev._tables[None].copy())
    with torch.no_grad():
        cls, reg, turn = net.head_maps(net.lift(features, tables))
    found = decode_maps(cls.numpy(), reg.numpy(), turn.numpy(), tiny)
    boxes, _ = pairs[1]
    assert len(found.scores) == pytest.approx(len(boxes), rel=0.2, abs=3)
    assert len(boxes) > 20
    assert np.sort(found.scores)[-3:] == pytest.approx(np.sort(boxes.score)[-3:], abs=0.03)
