"""The CPU engine against ONNX Runtime, operator by operator and on whole networks; what it does not do, it refuses."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("torch")

from onnx import TensorProto, helper  # noqa: E402
from onnx.numpy_helper import from_array  # noqa: E402

from bevstack.bev import FastBEV  # noqa: E402
from bevstack.bev.config import CONFIGS, BackboneConfig, EncoderConfig, FastBEVConfig, Level, VoxelGrid  # noqa: E402
from bevstack.bev.export import export_graph  # noqa: E402
from bevstack.bev.fastbev import _network  # noqa: E402
from bevstack.engine.cpu import CpuEngine, Unsupported  # noqa: E402
from bevstack.engine.onnx import OnnxEngine  # noqa: E402
from bevstack.errors import EngineError  # noqa: E402

RNG = np.random.default_rng(0)
SMALL = replace(
    CONFIGS["fastbev-m0"],
    name="small",
    image_hw=(64, 96),
    backbone=BackboneConfig("basic", (8,), (8, 16, 24, 32), (1, 1, 1, 1)),
    neck_channels=8,
    grid=VoxelGrid((20, 20, 2), (5.0, 5.0, 1.5)),
    encoder=EncoderConfig("m2bev", fuse=16, channels=8, layers=1),
)
SCALES = replace(
    SMALL,
    name="scales",
    backbone=BackboneConfig("bottleneck", (8,), (8, 16, 24, 32), (1, 1, 1, 1)),
    coarse=(Level(8, VoxelGrid((14, 14, 2), (7.0, 7.0, 1.5))),),
)


def weights(*shape: int) -> Any:
    return (RNG.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def graph(nodes: list[Any], constants: dict[str, Any], inputs: dict[str, Any], outputs: dict[str, Any]) -> bytes:
    def values(given: dict[str, Any]) -> list[Any]:
        kind = {np.dtype(np.uint8): TensorProto.UINT8, np.dtype(np.float32): TensorProto.FLOAT}
        return [helper.make_tensor_value_info(n, kind[v.dtype], v.shape) for n, v in given.items()]

    made = helper.make_graph(
        nodes, "test", values(inputs), values(outputs), [from_array(np.asarray(v), n) for n, v in constants.items()]
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return bytes(model.SerializeToString())


def node(kind: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(kind, inputs.split(), [output], name=output, **attributes)


def agree(content: bytes, feed: dict[str, Any], threads: int = 1, tolerance: float = 2e-5) -> dict[str, Any]:
    """Both engines' outputs, which must be equal; the CPU engine's."""
    wanted = OnnxEngine(content, 1).run(feed)
    found = CpuEngine(content, threads).run(feed)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name].shape == value.shape
        np.testing.assert_allclose(found[name], value, atol=tolerance * max(1.0, float(np.abs(value).max())))
    return found


@pytest.mark.parametrize(("height", "width"), [(1, 1), (4, 4), (5, 3), (6, 17), (9, 8)])
@pytest.mark.parametrize(("inputs", "outputs"), [(8, 8), (24, 40), (3, 16), (12, 5)])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_3x3_convolution_is_the_direct_one(height: int, width: int, inputs: int, outputs: int, threads: int) -> None:
    """Winograd where the channels allow it, patches elsewhere; edges, bias, residual and Relu included."""
    x = RNG.standard_normal((2, inputs, height, width)).astype(np.float32)
    y = RNG.standard_normal((2, outputs, height, width)).astype(np.float32)
    nodes = [
        node("Conv", "x w b", "c", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("Add", "c skip", "s"),
        node("Relu", "s", "out"),
        node("Conv", "y v", "skip", kernel_shape=[1, 1]),
    ]
    order = [nodes[3], *nodes[:3]]
    constants = {"w": weights(outputs, inputs, 3, 3), "b": weights(outputs), "v": weights(outputs, outputs, 1, 1)}
    agree(graph(order, constants, {"x": x, "y": y}, {"out": y}), {"x": x, "y": y}, threads)


@pytest.mark.parametrize(("size", "stride", "pad"), [(3, 2, 1), (7, 2, 3), (1, 2, 0), (5, 1, 2), (2, 2, 0)])
def test_other_convolutions(size: int, stride: int, pad: int) -> None:
    x = RNG.standard_normal((2, 8, 13, 18)).astype(np.float32)
    out = np.zeros((2, 8, *((s + 2 * pad - size) // stride + 1 for s in x.shape[2:])), np.float32)
    conv = node("Conv", "x w", "out", kernel_shape=[size] * 2, pads=[pad] * 4, strides=[stride] * 2)
    agree(graph([conv], {"w": weights(8, 8, size, size)}, {"x": x}, {"out": out}), {"x": x})


def test_pictures_norms_pools_and_pyramids() -> None:
    """8-bit pictures normalised, batch norm, max pooling, both kinds of enlarging with a sum, concatenation."""
    pictures = RNG.integers(0, 256, (2, 18, 26, 3), dtype=np.uint8)
    nodes = [
        node("Cast", "pictures", "f", to=TensorProto.FLOAT),
        node("Transpose", "f", "t", perm=[0, 3, 1, 2]),
        node("Sub", "t mean", "m"),
        node("Mul", "m scale", "n"),
        node("Conv", "n w", "c", kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2]),
        node("BatchNormalization", "c gain shift centre spread", "bn"),
        node("Relu", "bn", "r"),
        node("MaxPool", "r", "p", kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2]),
        node(
            "Resize", "p  none size", "near", mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
        ),
        node("Resize", "p  none size", "soft", mode="linear", coordinate_transformation_mode="half_pixel"),
        node("Add", "near r", "sum"),
        node("Concat", "sum soft r", "all", axis=1),
        node("Transpose", "all", "rows", perm=[0, 2, 3, 1]),
        node("Reshape", "rows flat", "out"),
    ]
    for n in nodes[8:10]:
        n.input[:] = ["p", "", "", "size"]
    constants = {
        "mean": np.full((1, 3, 1, 1), 110, np.float32),
        "scale": np.full((1, 3, 1, 1), 1 / 60, np.float32),
        "w": weights(8, 3, 3, 3),
        "gain": weights(8),
        "shift": weights(8),
        "centre": weights(8),
        "spread": np.abs(weights(8)) + 0.5,
        "size": np.array([2, 8, 9, 13], np.int64),
        "flat": np.array([-1, 24], np.int64),
    }
    out = np.zeros((2 * 9 * 13, 24), np.float32)
    agree(graph(nodes, constants, {"pictures": pictures}, {"out": out}), {"pictures": pictures})


@pytest.mark.parametrize("config", [SMALL, SCALES, CONFIGS["fastbev-micro"]], ids=lambda c: c.name)
@pytest.mark.parametrize("part", ["image", "bev"])
def test_whole_networks_agree(config: FastBEVConfig, part: Any) -> None:
    net = _network(config)
    content = export_graph(net, part)
    engine = OnnxEngine(content, 1)
    (name, (shape, kind)) = next(iter(engine.inputs.items()))
    given = RNG.integers(0, 256, shape) if "uint8" in kind else RNG.standard_normal(shape)
    agree(content, {name: given.astype(np.uint8 if "uint8" in kind else np.float32)}, threads=2)


def test_the_model_finds_the_same_on_both_engines() -> None:
    from bevstack.frames.sim import SimulatedDrive

    weights = Path(__file__).parents[2] / "weights/fastbev-micro.safetensors"
    ours, theirs = FastBEV(weights, "cpu", threads=1), FastBEV(weights, "onnx", threads=1)
    assert ours.engine == "cpu"
    with SimulatedDrive(1, duration=0.9, rate=2.0, image_width=400) as drive:
        for frame_set in drive:
            a, b = ours(frame_set), theirs(frame_set)
            assert len(a) == len(b) > 0
            np.testing.assert_allclose(a.score, b.score, atol=1e-4)
            for center, label in zip(a.center, a.label):  # boxes of equal score may come in another order
                assert np.abs(b.center[b.label == label] - center).max(axis=1).min() < 1e-3


def test_outputs_belong_to_the_caller_and_threads_may_share_an_engine() -> None:
    x = RNG.standard_normal((1, 8, 9, 9)).astype(np.float32)
    conv = node("Conv", "x w", "out", kernel_shape=[3, 3], pads=[1] * 4)
    engine = CpuEngine(graph([conv], {"w": weights(8, 8, 3, 3)}, {"x": x}, {"out": x}), 1)
    first = engine.run({"x": x})["out"]
    kept = first.copy()
    wrong: list[int] = []

    def again() -> None:
        for _ in range(30):
            if not np.array_equal(engine.run({"x": x})["out"], kept):
                wrong.append(1)

    workers = [threading.Thread(target=again) for _ in range(3)]
    for worker in workers:
        worker.start()
    engine.run({"x": -x})
    for worker in workers:
        worker.join()
    assert not wrong
    np.testing.assert_array_equal(first, kept)
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.run({"x": x})


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (node("Conv", "x w", "out", kernel_shape=[3, 3], pads=[1] * 4, group=8), "groups"),
        (node("Conv", "x w", "out", kernel_shape=[3, 3], pads=[2] * 4, dilations=[2, 2]), "dilation"),
        (node("Sigmoid", "x", "out"), "operator Sigmoid"),
    ],
)
def test_what_it_does_not_do_is_refused_when_it_is_loaded(made: Any, says: str) -> None:
    x = np.zeros((1, 8, 6, 6), np.float32)
    shape = (8, 1, 3, 3) if says == "groups" else (8, 8, 3, 3)
    with pytest.raises(Unsupported, match=says):
        CpuEngine(graph([made], {"w": weights(*shape)}, {"x": x}, {"out": x}), 1)


def test_wrong_inputs_are_one_line() -> None:
    x = np.zeros((1, 8, 6, 6), np.float32)
    engine = CpuEngine(graph([node("Relu", "x", "out")], {}, {"x": x}, {"out": x}), 1)
    with pytest.raises(EngineError, match="input x is missing"):
        engine.run({})
    with pytest.raises(EngineError, match=r"float64 \(1, 8, 6, 6\)"):
        engine.run({"x": x.astype(np.float64)})


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="cannot be read"):
        CpuEngine(tmp_path / "none.onnx")


def test_a_constant_per_channel_is_no_residual() -> None:
    """An enlarged map plus a constant of another shape: added per channel, not as a map."""
    x = RNG.standard_normal((1, 8, 3, 4)).astype(np.float32)
    nodes = [
        node("Resize", "x none none size", "big", mode="linear", coordinate_transformation_mode="half_pixel"),
        node("Add", "c big", "sum"),
        node("Relu", "sum", "out"),
    ]
    nodes[0].input[:] = ["x", "", "", "size"]
    constants = {"size": np.array([1, 8, 6, 8], np.int64), "c": weights(1, 8, 1, 1)}
    agree(graph(nodes, constants, {"x": x}, {"out": np.zeros((1, 8, 6, 8), np.float32)}), {"x": x})
