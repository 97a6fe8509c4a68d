"""INT8 and FP16 graphs: near the float one, in the same places, with the same inputs and outputs."""

from __future__ import annotations

import gc
import json
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from bevstack.bev import FastBEV
from bevstack.bev.config import CONFIGS, BackboneConfig, EncoderConfig, FastBEVConfig, VoxelGrid
from bevstack.bev.export import export_graph
from bevstack.bev.network import FastBEVNet
from bevstack.bev.quantize import (
    QuantizeOptions,
    activation_ranges,
    disturbance,
    export_int8,
    half_precision,
    layers,
    layers_to_keep,
    prepared,
    quantise_graph,
    quantised,
    recorded,
)
from bevstack.engine.onnx import OnnxEngine
from bevstack.errors import EngineError
from bevstack.frames.sim import SimulatedDrive
from bevstack.nn.seed import seed_everything

TINY = replace(
    CONFIGS["fastbev-micro"],
    name="tiny",
    image_hw=(32, 88),
    backbone=BackboneConfig("basic", (8, 8), (8, 8, 8, 16), (1, 1, 1, 1)),
    neck_channels=8,
    grid=VoxelGrid((26, 26, 2), (4.0, 4.0, 1.5)),
    encoder=EncoderConfig("pyramid", fuse=8, channels=8, deep=8, outputs=8),
)
HEAD = "/bev/bbox_head/conv_reg/Conv"


def network(config: FastBEVConfig) -> FastBEVNet:
    seed_everything(3)
    net = FastBEVNet(config).eval()
    with torch.no_grad():
        net.bbox_head.conv_cls.weight.normal_(std=0.3)
        net.bbox_head.conv_reg.weight.normal_(std=0.1)
        assert net.bbox_head.conv_cls.bias is not None
        net.bbox_head.conv_cls.bias.fill_(-2.0)  # enough scores to compare
    return net


@pytest.fixture(scope="module")
def graph() -> bytes:
    return export_graph(network(TINY), weights_sha256="abc")


@pytest.fixture(scope="module")
def feeds(graph: bytes, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    file = tmp_path_factory.mktemp("graph") / "float.onnx"
    file.write_bytes(graph)
    with SimulatedDrive(900_000, rate=2.0, duration=2.0, image_width=200, density=0.2) as drive:
        return list(recorded(file, drive))


def operators(content: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(content).graph.node]


def test_history_is_recorded_as_the_network_sees_it(feeds: list[Any]) -> None:
    assert len(feeds) == 4
    (_, first), (second, _) = feeds[0], feeds[1]
    assert set(second) == {"images", "tables", "history1"}
    np.testing.assert_array_equal(second["history1"], first["features"])  # 0.5 s earlier


def test_instants_are_recorded_when_asked_for_and_not_kept(graph: bytes, tmp_path: Path) -> None:
    """A whole calibration of a large rung would not fit into memory."""
    file = tmp_path / "float.onnx"
    file.write_bytes(graph)
    drawn = []

    def drive() -> Any:
        with SimulatedDrive(900_000, rate=2.0, duration=2.0, image_width=200, density=0.2) as source:
            for instant in source:
                drawn.append(instant.stamp)
                yield instant

    feeds = recorded(file, drive())
    alive = []
    for number, (feed, _) in enumerate(feeds, start=1):
        assert len(drawn) == number
        alive.append(weakref.ref(feed["images"]))
        del feed
    gc.collect()
    assert len(alive) == 4
    assert all(image() is None for image in alive)


@pytest.fixture(scope="module")
def spiky(feeds: list[Any]) -> tuple[bytes, list[Any]]:
    """A graph one of whose layers bears quantisation badly: the velocities that the box head answers lie near 1000, so that one
    step of its 8 bits is larger than all other answers; and its instants."""
    net = network(TINY)
    with torch.no_grad():
        net.bbox_head.conv_reg.weight.normal_(std=3.0)
        assert net.bbox_head.conv_reg.bias is not None
        net.bbox_head.conv_reg.bias[7::9] = 1000.0
    graph = export_graph(net, weights_sha256="abc")
    run = OnnxEngine(graph).run
    return graph, [(feed, run(feed)) for feed, _ in feeds]


def test_int8_is_near_float_and_runs_as_the_float_graph_does(spiky: tuple[bytes, list[Any]], tmp_path: Path) -> None:
    graph, wanted = spiky
    content, report = quantise_graph(graph, TINY, wanted[:3], wanted[3:], QuantizeOptions(limit=0.12))
    assert set(report.alone) == set(layers(prepared(graph)))
    assert next(iter(report.alone)) == HEAD, "the layer that bears it least comes first"
    assert report.kept[0] == HEAD
    assert len(report.kept) < len(report.alone)
    assert report.error <= 0.12 < report.everything
    assert json.loads(report.to_json())["options"]["limit"] == 0.12
    assert operators(content).count("QuantizeLinear") > 10
    file = tmp_path / "int8.onnx"
    file.write_bytes(content)
    before, after = OnnxEngine(graph), OnnxEngine(file)
    assert after.inputs == before.inputs
    assert {**before.metadata, "precision": "int8-cpu"} == after.metadata
    assert disturbance(after.run(wanted[3][0]), wanted[3][1], TINY) == pytest.approx(report.error, abs=1e-4)
    bev = FastBEV(file)
    assert bev.config == TINY
    with SimulatedDrive(900_000, rate=2.0, duration=1.0, image_width=200, density=0.2) as drive:
        assert all(np.isfinite(bev(instant).center).all() for instant in drive)


@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
def test_types_of_activations(graph: bytes, feeds: list[Any], target: Any) -> None:
    model = prepared(graph)
    ranges = activation_ranges(model, [feed for feed, _ in feeds[:3]], 0.0)
    nodes = [n for group in layers(model).values() for n in group]
    result = quantised(model, ranges, nodes, QuantizeOptions(target=target))
    found = OnnxEngine(result.SerializeToString()).run(feeds[3][0])
    assert 1e-4 < disturbance(found, feeds[3][1], TINY) < 0.15
    zeros = [i for i in result.graph.initializer if i.name.endswith("zero_point")]
    unsigned = any(i.data_type == onnx.TensorProto.UINT8 for i in zeros)
    assert unsigned == (target == "cpu"), "TensorRT takes signed activations only"
    if target == "tensorrt":
        assert not any(onnx.numpy_helper.to_array(i).any() for i in zeros), "and no zero points"


def test_nothing_quantised_is_the_float_graph(graph: bytes, feeds: list[Any]) -> None:
    model = prepared(graph)
    same = quantised(model, {}, [], QuantizeOptions())
    assert disturbance(OnnxEngine(same.SerializeToString()).run(feeds[3][0]), feeds[3][1], TINY) < 1e-5


def test_layers_are_kept_in_float_until_the_limit_is_met() -> None:
    worth = {"a": 0.5, "b": 0.2, "c": 0.05, "d": 0.01, "e": 0.0}

    def together(kept: Any) -> float:
        return sum(v for k, v in worth.items() if k not in kept)

    assert layers_to_keep(list(worth), together, 1.0) == ([], 0.76, 0.76)
    kept, everything, found = layers_to_keep(list(worth), together, 0.07)
    assert (kept, everything) == (["a", "b"], pytest.approx(0.76))
    assert found == pytest.approx(0.06)
    assert layers_to_keep(list(worth), lambda kept: 1.0, 0.5)[0] == list(worth)


def test_single_layers_are_quantised_alone(graph: bytes, feeds: list[Any]) -> None:
    model = prepared(graph)
    ranges = activation_ranges(model, [feeds[0][0]], 0.0)
    alone = quantised(model, ranges, layers(model)[HEAD], QuantizeOptions())
    readers = [n for n in alone.graph.node if n.op_type == "QuantizeLinear"]
    assert len(readers) == 2  # what goes into the layer and what comes out of it
    narrow = quantised(model, ranges, layers(model)[HEAD], QuantizeOptions(narrow=True))
    weights = next(i for i in narrow.graph.initializer if i.name.endswith("conv_reg.weight_quantized"))
    assert np.abs(onnx.numpy_helper.to_array(weights).astype(int)).max() <= 64


def test_ranges_are_the_widest_of_the_instants_and_can_leave_extremes_out(graph: bytes, feeds: list[Any]) -> None:
    model = prepared(graph)
    one = activation_ranges(model, [feeds[0][0]], 0.0)
    both = activation_ranges(model, [f for f, _ in feeds[:2]], 0.0)
    clipped = activation_ranges(model, [f for f, _ in feeds[:2]], 0.01)
    low, high = one["features"]
    assert (low, high) == (pytest.approx(feeds[0][1]["features"].min()), pytest.approx(feeds[0][1]["features"].max()))
    assert all(both[k][0] <= one[k][0] and both[k][1] >= one[k][1] for k in one)
    assert clipped["features"][1] < both["features"][1]
    assert "history1" in both
    assert "images" not in both


def test_the_measure_of_change(feeds: list[Any]) -> None:
    maps = feeds[3][1]
    assert disturbance(maps, maps, TINY) == 0.0
    assert disturbance({**maps, "reg": maps["reg"] + 0.1}, maps, TINY) == pytest.approx(0.1, rel=1e-3)
    assert disturbance({**maps, "cls": maps["cls"] - 20}, maps, TINY) == pytest.approx(1.0, rel=0.01)


def test_half_precision(graph: bytes, feeds: list[Any]) -> None:
    content = half_precision(graph)
    model = onnx.load_from_string(content)
    assert len(content) < 0.7 * len(graph)
    assert any(i.data_type == onnx.TensorProto.FLOAT16 for i in model.graph.initializer)
    engine = OnnxEngine(content)
    assert engine.inputs == OnnxEngine(graph).inputs
    assert engine.metadata["precision"] == "fp16"
    assert engine.metadata["weights_sha256"] == "abc"
    for feed, wanted in feeds:
        found = engine.run(feed)
        assert found["cls"].dtype == np.float32
        assert disturbance(found, wanted, TINY) < 0.02


def test_drives_of_the_evaluation_and_no_drives_are_refused(graph: bytes) -> None:
    with pytest.raises(EngineError, match="kept for evaluation"):
        export_int8(graph, TINY, QuantizeOptions(first_seed=15))
    with pytest.raises(EngineError, match="no instants"):
        quantise_graph(graph, TINY, [], [])
