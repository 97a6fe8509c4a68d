"""Small inference graphs as plain data, for measuring: any structure, or a chain of equal operators, on any engine.

Weights are random: only shapes matter for time. Batch norms are folded into convolutions, as they are when a network is run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bevstack.engine import Engine
from bevstack.errors import EngineError
from bevstack.nn.superblocks import SuperBlockConfig

_INPUT, _OUTPUT = "image", "out"


@dataclass(frozen=True)
class Op:
    """A convolution with bias ("conv") or a 2x2 average pooling ("pool") of value ``source``.

    Value 0 is the graph's input, value n the result of operator n - 1. ``add``: a value that is added before the ReLU.
    """

    kind: str
    source: int
    inputs: int
    outputs: int
    kernel: int = 1
    stride: int = 1
    relu: bool = True
    add: int | None = None


@dataclass(frozen=True)
class Program:
    """Operators in order; the last one's result is the output. Input: (1, ``channels``, *``hw``) float32."""

    channels: int
    hw: tuple[int, int]
    ops: tuple[Op, ...]


def backbone_program(config: SuperBlockConfig, image_hw: tuple[int, int]) -> Program:
    """The whole backbone; C5 is the output (engines would cut off what nobody reads, and everything leads to C5)."""
    ops = [Op("conv", 0, 3, config.stem, 3, 2)]
    channels = config.stem
    for block in config.blocks:
        for index in range(block.layers):
            x = len(ops)
            stride = block.stride if index == 0 else 1
            shortcut = x
            if stride == 2:
                ops.append(Op("pool", x, channels, channels))
                shortcut = len(ops)
            if index == 0:
                ops.append(Op("conv", shortcut, channels, block.out, relu=False))
                shortcut = len(ops)
            ops.append(Op("conv", x, channels, block.bottleneck))
            ops.append(Op("conv", len(ops), block.bottleneck, block.bottleneck, block.kernel, stride))
            ops.append(Op("conv", len(ops), block.bottleneck, block.out, add=shortcut))
            channels = block.out
    return Program(3, image_hw, tuple(ops))


def _weights(op: Op, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    shape = (op.outputs, op.inputs, op.kernel, op.kernel)
    scale = (op.inputs * op.kernel**2) ** -0.5
    return rng.standard_normal(shape, np.float32) * np.float32(scale), np.zeros(op.outputs, np.float32)


def to_onnx(program: Program) -> bytes:
    """An ONNX model file's bytes.

    Raises:
        EngineError: package onnx is missing.
    """
    try:
        from onnx import TensorProto, helper, numpy_helper
    except ImportError as error:
        raise EngineError(
            "measuring operators with ONNX Runtime needs the package onnx: pip install 'bevstack[export]'"
        ) from error
    rng = np.random.default_rng(0)
    nodes, constants = [], []
    for n, op in enumerate(program.ops, start=1):
        source, name = f"v{op.source}" if op.source else _INPUT, f"v{n}"
        if op.kind == "pool":
            # Odd sizes round up, and what lies outside does not count, as in the network.
            nodes.append(helper.make_node("AveragePool", [source], [name], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1))
            continue
        weight, bias = _weights(op, rng)
        constants += [numpy_helper.from_array(weight, f"w{n}"), numpy_helper.from_array(bias, f"b{n}")]
        pad = [op.kernel // 2] * 4
        steps: list[tuple[str, list[str], dict[str, Any]]] = [
            ("Conv", [source, f"w{n}", f"b{n}"], {"kernel_shape": [op.kernel] * 2, "strides": [op.stride] * 2, "pads": pad})
        ]
        if op.add is not None:
            steps.append(("Add", ["", f"v{op.add}" if op.add else _INPUT], {}))
        if op.relu:
            steps.append(("Relu", [""], {}))
        last = ""
        for index, (kind, inputs, attributes) in enumerate(steps):
            output = name if index == len(steps) - 1 else f"{name}_{index}"
            nodes.append(helper.make_node(kind, [i or last for i in inputs], [output], **attributes))
            last = output
    nodes[-1].output[0] = _OUTPUT
    image = helper.make_tensor_value_info(_INPUT, TensorProto.FLOAT, [1, program.channels, *program.hw])
    result = helper.make_tensor_value_info(_OUTPUT, TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "program", [image], [result], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def to_torch(program: Program) -> Any:
    """The same as a torch module: one tensor in, one out."""
    import torch
    from torch import Tensor, nn
    from torch.nn.functional import avg_pool2d

    rng = np.random.default_rng(0)

    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convs = nn.ModuleList()
            for op in program.ops:
                conv = nn.Conv2d(op.inputs, op.outputs, op.kernel, op.stride, op.kernel // 2) if op.kind == "conv" else None
                if conv is not None:
                    conv.weight.data = torch.from_numpy(_weights(op, rng)[0])
                    nn.init.zeros_(conv.get_parameter("bias"))
                self.convs.append(conv if conv is not None else nn.Identity())

        def forward(self, image: Tensor) -> Tensor:
            values: list[Tensor] = [image]
            for op, conv in zip(program.ops, self.convs):
                x = values[op.source]
                if op.kind == "pool":
                    values.append(avg_pool2d(x, 2, 2, ceil_mode=True, count_include_pad=False))
                    continue
                y: Tensor = conv(x)
                if op.add is not None:
                    y = y + values[op.add]
                values.append(y.relu_() if op.relu else y)
            return values[-1]

    return Module()


def build(program: Program, engine: str, threads: int) -> Engine:
    """A runnable program.

    Raises:
        EngineError: an unknown engine, or one whose packages are missing.
    """
    if engine == "onnx":
        from bevstack.engine.onnx import OnnxEngine

        return OnnxEngine(to_onnx(program), threads)
    if engine == "torch":
        from bevstack.engine.torch import TorchEngine

        return TorchEngine(to_torch(program), [_INPUT], [_OUTPUT], threads)
    raise EngineError(f"unknown engine {engine!r}: choose onnx or torch")


def milliseconds(
    program: Program, engine: str, threads: int, seconds: float, clock: Callable[[], float], least: int = 3
) -> float:
    """Fastest run of a program: what it takes when nothing else wants the processor.

    Args:
        seconds: how long to try; at least ``least`` runs and one before them.
        clock: seconds; ``time.perf_counter``.
    """
    runner = build(program, engine, threads)
    image = {_INPUT: np.random.default_rng(1).standard_normal((1, program.channels, *program.hw), np.float32)}
    try:
        runner.run(image)
        times: list[float] = []
        end = clock() + seconds
        while len(times) < least or clock() < end:
            start = clock()
            runner.run(image)
            times.append(clock() - start)
    finally:
        runner.close()
    return min(times) * 1e3


def chain(unit: Sequence[Op], repeats: int, channels: int, hw: tuple[int, int]) -> Program:
    """``unit`` again and again; sources count from the unit's input (0)."""
    ops: list[Op] = []
    for _ in range(repeats):
        base = len(ops)
        for op in unit:
            add = None if op.add is None else base + op.add
            ops.append(Op(op.kind, base + op.source, op.inputs, op.outputs, op.kernel, op.stride, op.relu, add))
    return Program(channels, hw, tuple(ops))
