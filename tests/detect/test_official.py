"""The released models: names, shapes, counts, graph and forward values of the brief."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bevstack.detect.complexity import complexity
from bevstack.detect.config import DETECTORS, GiraffeDetConfig, official
from bevstack.detect.graph import giraffe_graph
from bevstack.detect.network import GiraffeDetNet
from bevstack.detect.weights import import_checkpoint, import_weights, load_weights
from bevstack.errors import CheckpointError

SIZE = (768, 1280)


@pytest.fixture(scope="module")
def listing(shared: Path) -> list[str]:
    return (shared / "briefs" / "giraffedet-d7-state-dict.txt").read_text().splitlines()


@pytest.fixture
def flushed() -> Iterator[None]:
    """Random networks run into denormal numbers, which are many times slower."""
    torch.set_flush_denormal(True)
    yield
    torch.set_flush_denormal(False)


def fill(net: GiraffeDetNet) -> None:
    """The brief's weights (section 8, check 3)."""
    rs = np.random.RandomState(0)
    state = net.state_dict()
    for name, value in state.items():
        if value.dim() == 4:
            fan_in = int(np.prod(value.shape[1:]))
            new = (rs.standard_normal(tuple(value.shape)) * np.sqrt(2 / fan_in)).astype(np.float32)
            state[name] = torch.from_numpy(new)
        elif name.endswith(("bias", "running_mean")):
            state[name] = torch.zeros_like(value)
        elif name.endswith(("weight", "running_var", "scale")):
            state[name] = torch.ones_like(value)
    net.load_state_dict(state)


@pytest.mark.parametrize(("name", "parameters", "gmac"), [("d7", 48_266_535, 190.677), ("d11", 68_819_136, 271.937)])
def test_parameters_and_macs(name: str, parameters: int, gmac: float) -> None:
    found = complexity(DETECTORS[f"giraffedet-{name}"], SIZE)
    assert found.parameters == parameters
    assert (found.macs + found.biases) / 1e9 == pytest.approx(gmac, abs=6e-4)


def test_parts_of_d7() -> None:
    found = complexity(DETECTORS["giraffedet-d7"], SIZE)
    assert found.backbone / 1e9 == pytest.approx(3.86, abs=5e-3)
    assert (found.head + found.biases) / 1e9 == pytest.approx(55.3, abs=0.05)


# Computed with a formula that reproduces D7 and D11: GMAC and million parameters at 1280x768 (brief, section 6).
@pytest.mark.parametrize(
    ("depth", "width", "gmac", "millions"),
    [(7, 0.6, 158.9, 40.1), (7, 1.0, 313.6, 79.9), (14, 0.7, 334.4, 84.6), (16, 0.8, 466.5, 118.2), (25, 0.75, 649.9, 164.3),
     (29, 0.7, 662.9, 167.5), (29, 1.0, 1279.4, 323.7)],
)  # fmt: skip
def test_the_rest_of_the_family(depth: int, width: float, gmac: float, millions: float) -> None:
    found = complexity(official(depth, width), SIZE)
    assert found.macs / 1e9 == pytest.approx(gmac, abs=0.06)
    assert found.parameters / 1e6 == pytest.approx(millions, abs=0.06)


def test_every_name_and_shape_of_the_released_checkpoint(listing: list[str]) -> None:
    want = dict(line.split("\t") for line in listing if "\t" in line and not line.startswith("#"))
    with torch.device("meta"):
        state = GiraffeDetNet(DETECTORS["giraffedet-d7"]).state_dict()
    assert len(want) == 558
    assert {k: str(tuple(v.shape)) for k, v in state.items()} == want
    assert list(state) == list(want)


def test_the_graph_of_d7_is_the_released_one(listing: list[str]) -> None:
    lines = [line for line in listing if line.startswith("fnode[")]
    nodes = giraffe_graph(13)
    assert len(lines) == len(nodes) == 70
    symbol = {"same": "=", "up": "up", "down": "down"}
    for line, node in zip(lines, nodes):
        inputs = re.findall(r" (\d+)\(L[-\d]+/P\d,(=|up|down)\)", line)
        assert inputs == [(str(s.node), symbol[s.resample]) for s in node.inputs]
        assert f"node {node.number:3d} " in line
        assert f" P{node.level + 3} " in line


@pytest.mark.parametrize("layers", [3, 5, 9, 13, 21, 27, 31, 49, 57])
def test_nodes_have_as_many_inputs_as_published(layers: int) -> None:
    nodes = giraffe_graph(layers)
    assert [len(n.inputs) for n in nodes[:5]] == [2, 4, 4, 4, 3]
    if layers >= 13:
        assert max(len(n.inputs) for n in nodes) == {13: 7, 21: 8, 27: 8, 31: 8, 49: 9, 57: 9}[layers]
    for node in nodes:
        assert all(s.node < node.number for s in node.inputs)
        assert len({s.node for s in node.inputs}) == len(node.inputs)


def test_a_graph_needs_a_layer() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        giraffe_graph(0)


def check(config: GiraffeDetConfig, neck: list[float], cls: list[float]) -> tuple[GiraffeDetNet, torch.Tensor]:
    net = GiraffeDetNet(config).eval()
    fill(net)
    images = torch.from_numpy(np.random.RandomState(123).standard_normal((1, 3, 128, 256)).astype(np.float32))
    with torch.inference_mode():
        levels = net.features(images)
        scores, _ = net.bbox_head(levels)
    assert [float(x.std()) for x in levels] == pytest.approx(neck, rel=1e-3)
    assert [float(x.mean()) for x in scores] == pytest.approx(cls, rel=1e-3)
    return net, images


def test_forward_values_of_d7(flushed: None) -> None:
    neck = [8.609315, 8.128562, 6.277043, 2.685867, 0.727966]
    net, images = check(DETECTORS["giraffedet-d7"], neck, [0.21893, 0.214044, 0.217304, 0.220344, 0.235951])
    with torch.inference_mode():
        maps = net.backbone(images)
        scores, logits = net(images)
    std, mean = [0.61822, 0.521636, 0.449531, 0.367309, 0.288281], [0.232271, 0.204601, 0.164975, 0.109828, 0.07481]
    assert [float(x.std()) for x in maps] == pytest.approx(std, rel=1e-3)
    assert [float(x.mean()) for x in maps] == pytest.approx(mean, rel=1e-3)
    first = [0.234121, 0.228947, 0.275938, 0.225919, 0.198394]
    assert [float(x[0, 0, 0, 0]) for x in scores] == pytest.approx(first, rel=1e-3)
    assert [float(x.std()) for x in logits] == pytest.approx([0.940589, 0.906269, 0.931332, 0.756621, 0.441898], rel=1e-3)
    corner = [-0.65707, -0.577309, -0.843608, -0.87773, -0.32308]
    assert [float(x[0, 0, 0, 0]) for x in logits] == pytest.approx(corner, rel=1e-3)


def test_forward_values_of_small_members(flushed: None) -> None:
    neck, cls = [1.805118, 1.918031, 1.18661, 0.362167, 0.094733], [0.25993, 0.252072, 0.262847, 0.257768, 0.247197]
    assert sum(p.numel() for p in check(official(2, 0.25), neck, cls)[0].parameters()) == 18_294_715
    neck, cls = [1.985758, 1.94224, 1.632919, 0.722807, 0.088424], [0.289101, 0.290403, 0.289416, 0.280555, 0.265914]
    dense = replace(official(3, 0.25), link="dense")
    assert sum(p.numel() for p in check(dense, neck, cls)[0].parameters()) == 18_906_299


SMALL = replace(official(2, 0.0625, "small"), outputs=32, canvas=(128, 128))


def test_a_checkpoint_comes_in_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net = GiraffeDetNet(SMALL)
    file = tmp_path / "released.pth"
    torch.save({"meta": {"epoch": 73}, "state_dict": {f"module.{k}": v for k, v in net.state_dict().items()}}, file)
    loaded = import_checkpoint(file, SMALL)
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in net.state_dict().items())
    monkeypatch.setitem(DETECTORS, "small", SMALL)
    saved = load_weights(import_weights(file, "small", tmp_path / "small.safetensors"))
    assert all(torch.equal(v, saved.state_dict()[k]) for k, v in net.state_dict().items())


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "released.pth"
    state = GiraffeDetNet(SMALL).state_dict()
    torch.save({"state_dict": {k: v for k, v in state.items() if "gfl_cls" not in k}}, file)
    with pytest.raises(CheckpointError, match=r"2 missing \(bbox_head.gfl_cls"):
        import_checkpoint(file, SMALL)
    torch.save({"state_dict": state}, file)
    with pytest.raises(CheckpointError, match="misshapen"):
        import_checkpoint(file, replace(SMALL, head=replace(SMALL.head, spare_class=False)))
    with pytest.raises(CheckpointError, match="known rungs are"):
        import_checkpoint(file, "giraffedet-d8")
