"""Whether TensorRT's ONNX parser takes a graph: checked on the file, without TensorRT.

Facts from the parser's operator table (onnx/onnx-tensorrt, docs/operators.md, state of TensorRT 8.4; newer versions only added
to it) and from TensorRT 10's rules for types: 8-bit unsigned values may enter a network but must be cast first; quantisation is
signed and symmetric.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from bevstack.errors import EngineError

SUPPORTED = frozenset(json.loads(resources.files(__package__).joinpath("tensorrt_operators.json").read_text(encoding="utf-8")))
_RESIZE = {
    "mode": {"nearest", "linear"},
    "coordinate_transformation_mode": {
        "half_pixel",
        "pytorch_half_pixel",
        "tf_half_pixel_for_nn",
        "asymmetric",
        "align_corners",
    },
    "nearest_mode": {"floor", "ceil", "round_prefer_floor", "round_prefer_ceil"},
}
_DEFAULTS = {"mode": "nearest", "coordinate_transformation_mode": "half_pixel", "nearest_mode": "round_prefer_floor"}


def problems(graph: bytes) -> list[str]:
    """What TensorRT would refuse in an ONNX graph, one line each; empty: nothing that is known.

    Raises:
        EngineError: no ONNX graph, or the package onnx is missing.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise EngineError(f"checking a graph needs the package {error.name}: pip install 'bevstack[export]'") from error
    try:
        model = onnx.load_from_string(graph)
    except DecodeError as error:
        raise EngineError(f"this is no ONNX graph ({error}): export it again") from error
    constants = {i.name: i for i in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            constants.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
    makers = {name: node for node in model.graph.node for name in node.output}
    found = [line for node in model.graph.node for line in _of_node(node, constants, makers)]
    unsigned = {v.name for v in model.graph.input if v.type.tensor_type.elem_type == onnx.TensorProto.UINT8}
    for node in model.graph.node:
        if node.op_type != "Cast" and unsigned & set(node.input):
            found.append(f"{node.name} ({node.op_type}) reads the 8-bit input {node.input[0]}: only Cast may")
    return found


def _of_node(node: Any, constants: dict[str, Any], makers: dict[str, Any]) -> list[str]:
    import onnx

    if node.domain not in ("", "ai.onnx"):
        return [f"{node.name} ({node.domain}.{node.op_type}) is no standard operator"]
    if node.op_type not in SUPPORTED:
        return [f"{node.name} ({node.op_type}) is not supported"]
    lines = []
    if node.op_type == "Resize":
        given = {a.name: a.s.decode() for a in node.attribute if a.name in _RESIZE}
        for key, allowed in _RESIZE.items():
            value = given.get(key, _DEFAULTS[key])
            if value not in allowed and (key != "nearest_mode" or given.get("mode", "nearest") == "nearest"):
                lines.append(f"{node.name} (Resize) has {key} {value}: only {', '.join(sorted(allowed))}")
    if node.op_type in ("Conv", "ConvTranspose"):
        source = makers.get(node.input[1])
        folded = source is not None and source.op_type in ("DequantizeLinear", "Identity") and source.input[0] in constants
        if node.input[1] not in constants and not folded:
            lines.append(f"{node.name} ({node.op_type}) has weights that are not constant")
    if node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(node.input) > 2 and node.input[2]:
        zero = constants.get(node.input[2])
        value = None if zero is None else onnx.numpy_helper.to_array(zero)
        if value is None or value.any():
            lines.append(f"{node.name} ({node.op_type}) has a zero point that is not zero")
        elif value.dtype.kind == "u":
            lines.append(f"{node.name} ({node.op_type}) is unsigned: quantise for target tensorrt")
    return lines
