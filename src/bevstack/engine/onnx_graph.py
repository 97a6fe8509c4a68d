"""ONNX graphs as plain standard operators."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from bevstack.errors import EngineError


def prepared(graph: bytes) -> Any:
    """The graph with constants folded and shapes inferred (a model proto): plain standard operators only.

    Raises:
        EngineError: the package onnx is missing, or folding gave operators of ONNX Runtime's own.
    """
    try:
        import onnx
    except ImportError as error:
        raise EngineError(f"reading a graph needs the package {error.name}: pip install 'bevstack[export]'") from error
    import onnxruntime as ort

    original = onnx.load_from_string(graph)
    with tempfile.TemporaryDirectory(prefix="bevstack-") as folder:
        file = Path(folder) / "basic.onnx"
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(file)
        ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        model = onnx.load(file)
    # ONNX Runtime lists its own domains although none of their operators is used; other runtimes refuse unknown ones.
    standard = [entry for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if any(node.domain not in ("", "ai.onnx") for node in model.graph.node):
        raise EngineError("folding constants gave operators outside ONNX: report this, with the version of onnxruntime")
    del model.opset_import[:]
    model.opset_import.extend(standard)
    model = onnx.shape_inference.infer_shapes(model)
    onnx.helper.set_model_props(model, {p.key: p.value for p in original.metadata_props})
    return model
