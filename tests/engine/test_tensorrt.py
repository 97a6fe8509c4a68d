"""TensorRT: everything that needs no GPU; and one run where there is one."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from bevstack.bev import FastBEV
from bevstack.bev.config import CONFIGS, BackboneConfig, EncoderConfig, VoxelGrid
from bevstack.bev.export import export_graph
from bevstack.bev.network import FastBEVNet
from bevstack.bev.quantize import QuantizeOptions, activation_ranges, half_precision, layers, quantised
from bevstack.engine import tensorrt as room
from bevstack.engine.onnx import OnnxEngine
from bevstack.engine.onnx_graph import prepared
from bevstack.engine.tensorrt import BuildProgress, TensorRTEngine, engine_path, tensorrt_module, tensorrt_or_onnx
from bevstack.engine.tensorrt_operators import SUPPORTED, problems
from bevstack.errors import EngineError

SMALL = replace(
    CONFIGS["fastbev-m0"],
    name="small",
    image_hw=(64, 96),
    backbone=BackboneConfig("basic", (8,), (8, 8, 8, 16), (1, 1, 1, 1)),
    neck_channels=8,
    grid=VoxelGrid((20, 20, 2), (5.0, 5.0, 1.5)),
    encoder=EncoderConfig("m2bev", fuse=16, channels=8, layers=1),
)
PYRAMID = replace(
    SMALL,
    name="pyramid",
    neck="topdown_sum",
    backbone=BackboneConfig("basic", (8, 8), (8, 8, 8, 16), (1, 1, 1, 1)),
    encoder=EncoderConfig("pyramid", fuse=8, channels=8, deep=8, outputs=8),
)


@pytest.fixture(scope="module")
def graph() -> bytes:
    torch.manual_seed(0)
    return export_graph(FastBEVNet(SMALL).eval())


def fake(version: str = "10.3.0", **missing: Any) -> Any:
    """A package with the names that are used, and nothing behind them."""

    def owner(*names: str) -> Any:
        return SimpleNamespace(**dict.fromkeys(names, print))

    names = {
        "Builder": owner("build_serialized_network", "create_network", "create_builder_config"),
        "IExecutionContext": owner("execute_async_v3", "set_tensor_address"),
        "ICudaEngine": owner("get_tensor_name", "get_tensor_mode", "get_tensor_shape", "get_tensor_dtype"),
    }
    return SimpleNamespace(__version__=version, **{**names, **missing})


@pytest.mark.parametrize(
    ("package", "reason"),
    [
        (None, "TensorRT is not installed"),
        (fake("8.6.1"), r"TensorRT 8\.6\.1 is too old: version 10 or newer"),
        (fake("dev"), "TensorRT dev is too old"),
        (
            fake("12.0", IExecutionContext=SimpleNamespace(set_tensor_address=print)),
            "has no IExecutionContext.execute_async_v3",
        ),
    ],
)
def test_packages_that_do_not_fit_are_named(package: Any, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", package)
    with pytest.raises(EngineError, match=reason):
        tensorrt_module()


@pytest.mark.parametrize("version", ["10.0.1", "10.16.1", "11.4.1"])
def test_newer_versions_are_taken(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", fake(version))
    assert tensorrt_module().__version__ == version


def test_onnx_runtime_takes_over_with_a_warning(
    graph: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with caplog.at_level("WARNING", logger="bevstack.engine"):
        engine = tensorrt_or_onnx(graph, 1)
    assert engine.name == "onnx"
    assert "TensorRT is not installed" in caplog.text
    assert "ONNX Runtime takes over" in caplog.text
    bev = FastBEV(SMALL, "tensorrt", threads=1)
    assert (bev.engine, bev.config) == ("onnx", SMALL)


def test_engines_are_kept_by_gpu_version_and_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEVSTACK_CACHE", str(tmp_path))
    base = engine_path(b"graph", "NVIDIA Orin (nvgpu)", (8, 7), "10.3.0")
    assert base.is_relative_to(tmp_path)
    assert base.name.startswith("nvidia-orin--nvgpu-sm87-trt10.3.0-")
    others = [
        engine_path(b"graph2", "NVIDIA Orin (nvgpu)", (8, 7), "10.3.0"),
        engine_path(b"graph", "Tesla T4", (8, 7), "10.3.0"),
        engine_path(b"graph", "NVIDIA Orin (nvgpu)", (7, 2), "10.3.0"),
        engine_path(b"graph", "NVIDIA Orin (nvgpu)", (8, 7), "10.4.0"),
    ]
    assert len({base, *others}) == 5
    assert engine_path(b"graph", "NVIDIA Orin (nvgpu)", (8, 7), "10.3.0") == base


def test_progress_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    clock = iter(range(100))
    monkeypatch.setattr(room.time, "monotonic", lambda: float(next(clock)))
    progress = BuildProgress(lines.append, every=3.0)
    monitor = progress.monitor(SimpleNamespace(IProgressMonitor=type("IProgressMonitor", (), {})))
    monitor.phase_start("Tactics", None, 10)
    assert all(monitor.step_complete("Tactics", step) for step in range(10))
    monitor.phase_finish("Tactics")
    assert lines == [f"building the TensorRT engine: Tactics {n} of 10" for n in (1, 4, 7, 10)]


def test_exported_graphs_use_only_what_tensorrt_takes(graph: bytes) -> None:
    """Float, FP16 and INT8 for TensorRT; both kinds of neck and encoder; also after folding constants."""
    pyramid = export_graph(FastBEVNet(PYRAMID).eval())
    model = prepared(pyramid)
    config = PYRAMID
    feed = {
        "images": np.zeros((6, *config.image_hw, 3), np.uint8),
        "tables": np.zeros((4, config.grid.voxels), np.int32),
        **{f"history{t}": np.ones((config.cells, config.neck_channels), np.float32) for t in (1, 2, 3)},
    }
    ranges = activation_ranges(model, [feed], 0.0)
    nodes = [n for group in layers(model).values() for n in group]
    int8 = {t: quantised(model, ranges, nodes, QuantizeOptions(target=t)).SerializeToString() for t in ("cpu", "tensorrt")}  # type: ignore[arg-type]
    for content in (graph, pyramid, model.SerializeToString(), half_precision(graph), int8["tensorrt"]):
        assert problems(content) == []
    assert any("quantise for target tensorrt" in line or "zero point" in line for line in problems(int8["cpu"]))


def _one(kind: str, inputs: list[Any], constants: dict[str, Any] | None = None, **attributes: Any) -> bytes:
    node = onnx.helper.make_node(kind, [i.name for i in inputs] + list(constants or {}), ["out"], "it", **attributes)
    stored = [onnx.numpy_helper.from_array(v, k) for k, v in (constants or {}).items()]
    out = onnx.helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, None)
    return bytes(onnx.helper.make_model(onnx.helper.make_graph([node], "g", inputs, [out], stored)).SerializeToString())


def test_what_it_would_refuse_is_named() -> None:
    value = onnx.helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, [1, 3, 4, 4])
    bytes8 = onnx.helper.make_tensor_value_info("a", onnx.TensorProto.UINT8, [1, 3, 4, 4])
    weights = onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [3, 3, 1, 1])
    scale = {"s": np.float32(0.1)}
    assert problems(_one("NonZero", [value])) == ["it (NonZero) is not supported"]
    assert problems(_one("Relu", [value])) == []
    assert "only Cast may" in problems(_one("Transpose", [bytes8]))[0]
    assert problems(_one("Cast", [bytes8], to=1)) == []
    assert "weights that are not constant" in problems(_one("Conv", [value, weights]))[0]
    assert problems(_one("Conv", [value], {"w": np.ones((3, 3, 1, 1), np.float32)})) == []
    assert "has mode cubic" in problems(_one("Resize", [value], {"r": np.zeros(0), "s": np.ones(4)}, mode="cubic"))[0]
    assert "zero point that is not zero" in problems(_one("QuantizeLinear", [value], {**scale, "z": np.int8(3)}))[0]
    assert "unsigned" in problems(_one("QuantizeLinear", [value], {**scale, "z": np.uint8(0)}))[0]
    assert problems(_one("QuantizeLinear", [value], {**scale, "z": np.int8(0)})) == []
    assert {"QLinearConv", "ConvInteger", "NonZero"}.isdisjoint(SUPPORTED)
    with pytest.raises(EngineError, match="no ONNX graph"):
        problems(b"\xff\xff")


def test_the_cuda_provider_is_used_when_asked_for_and_there(graph: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(EngineError, match="no CUDA provider: pip install onnxruntime-gpu"):
            OnnxEngine(graph, 1, "cuda")
        assert OnnxEngine(graph, 1, "auto").provider == "cpu"
    asked: list[list[str]] = []
    real = onnxruntime.InferenceSession

    def session(source: Any, options: Any, providers: list[str]) -> Any:
        asked.append(providers)
        return real(source, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    OnnxEngine(graph, 1, "auto")
    OnnxEngine(graph, 1)
    with pytest.raises(EngineError, match="cannot start its CUDA provider"):
        OnnxEngine(graph, 1, "cuda")  # listed, but the session came up on the CPU
    assert asked == [["CUDAExecutionProvider", "CPUExecutionProvider"], ["CPUExecutionProvider"], asked[0]]


def test_tensorrt_agrees_with_onnx_runtime(graph: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt", reason="TensorRT is not installed")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    monkeypatch.setenv("BEVSTACK_CACHE", str(tmp_path))
    rng = np.random.default_rng(0)
    feed = {
        "images": rng.integers(0, 256, (6, *SMALL.image_hw, 3), dtype=np.uint8),
        "tables": rng.integers(0, SMALL.cells, (4, SMALL.grid.voxels)).astype(np.int32),
        **{f"history{t}": rng.normal(size=(SMALL.cells, 8)).astype(np.float32) for t in (1, 2, 3)},
    }
    wanted = OnnxEngine(graph, 1).run(feed)
    for cuda_graph in (False, True):
        found = TensorRTEngine(graph, cuda_graph=cuda_graph).run(feed)
        assert all(np.abs(found[k] - wanted[k]).max() < 1e-2 for k in wanted)
    assert len(list((tmp_path / "tensorrt").iterdir())) == 1, "the second one was read, not built"
