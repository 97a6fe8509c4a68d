"""A wider rung starts where a narrower one ended: same outputs at first, and its new channels learn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bevstack.detect import DETECTORS
from bevstack.detect.config import GiraffeDetConfig, ImageBackboneConfig
from bevstack.detect.network import GiraffeDetNet
from bevstack.detect.weights import save_weights
from bevstack.learn.detect.train import start_from
from bevstack.learn.detect.widen import can_widen, widen


def wider(config: GiraffeDetConfig) -> GiraffeDetConfig:
    backbone = config.backbone
    assert isinstance(backbone, ImageBackboneConfig)
    grown = replace(backbone, stem=(backbone.stem[0] + 4, backbone.stem[1] + 8), levels=tuple(n + 8 for n in backbone.levels))
    return replace(config, name="wider", backbone=grown)


def settled(config: GiraffeDetConfig, seed: int) -> GiraffeDetNet:
    """A network whose norms are no identities and whose every class weight is alive."""
    torch.manual_seed(seed)
    net = GiraffeDetNet(config)
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2.0)
            elif name.endswith(("running_mean", "bn.bias")):
                value.normal_(0.0, 0.2)
            elif name.endswith("gfl_cls.weight"):
                value.normal_(0.0, 0.3)
    return net.eval()


def outputs(net: GiraffeDetNet, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        scores, logits = net.eval()(images)
    return torch.cat([t.flatten() for t in (*scores, *logits)])


def test_the_wider_network_computes_the_same(tiny: GiraffeDetConfig) -> None:
    source, net = settled(tiny, 1), settled(wider(tiny), 2)
    images = torch.randn(1, 3, 256, 128)
    before = outputs(net, images)
    widen(net, source)
    expected = outputs(source, images)
    torch.testing.assert_close(outputs(net, images), expected, atol=1e-5, rtol=1e-4)
    assert (before - expected).abs().max() > 0.01


def test_new_channels_get_gradients_within_two_steps(tiny: GiraffeDetConfig) -> None:
    net = settled(wider(tiny), 2)
    widen(net, settled(tiny, 1))
    new = net.backbone.get_submodule("focus_8x.conv.conv").weight
    old = new.detach().clone()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        scores, _ = net(torch.randn(2, 3, 128, 128))
        sum(s.square().sum() for s in scores).backward()
        optimizer.step()
    rows = int(tiny.backbone.levels[0])  # type: ignore[union-attr]
    assert (new.detach() - old)[rows:].abs().max() > 0


def test_start_from_widens_a_file_of_a_narrower_rung(tiny: GiraffeDetConfig, tmp_path: Path) -> None:
    source, net = settled(tiny, 1), settled(wider(tiny), 2)
    save_weights(tmp_path / "narrow.safetensors", source, dtype="float32")
    assert start_from(net, tmp_path / "narrow.safetensors") == len(source.state_dict())
    images = torch.randn(1, 3, 256, 128)
    torch.testing.assert_close(outputs(net, images), outputs(source, images), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("source", "target", "fits"),
    [
        ("giraffedet-nano", "giraffedet-lite-d2", True),
        ("giraffedet-lite-d2", "giraffedet-nano", False),  # narrower
        ("giraffedet-nano", "giraffedet-nano", False),  # nothing to widen
        ("giraffedet-nano", "giraffedet-lite-d3", False),  # another neck
        ("giraffedet-d7", "giraffedet-lite-d2", False),  # other classes
    ],
)
def test_what_can_be_widened(source: str, target: str, fits: bool) -> None:
    assert can_widen(DETECTORS[source], DETECTORS[target]) == fits
