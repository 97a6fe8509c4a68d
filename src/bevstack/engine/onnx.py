"""ONNX Runtime, on the CPU or on a CUDA GPU."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bevstack.errors import EngineError

from .api import Tensors, as_arrays
from .names import EngineMissing


class OnnxEngine:
    """One ONNX graph.

    Args:
        model: file, or its bytes.
        threads: for one operator; None takes the CPUs that this process may use.
        device: "cpu"; "cuda" (needs the package onnxruntime-gpu); "auto": CUDA where it is there.

    Raises:
        EngineError: the file is missing, damaged, or uses operators that this ONNX Runtime does not know; or "cuda" cannot be
            had (EngineMissing).
    """

    name = "onnx"

    def __init__(
        self, model: str | Path | bytes, threads: int | None = None, device: Literal["cpu", "cuda", "auto"] = "cpu"
    ) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
        options.inter_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        # Waiting threads sleep: decode workers and other nodes of the process need the cores between two runs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        source = model if isinstance(model, bytes) else str(model)
        try:
            self._session = ort.InferenceSession(source, options, providers=_providers(device, ort.get_available_providers()))
        except EngineError:
            raise
        except Exception as error:  # ONNX Runtime raises many unrelated types
            label = "graph" if isinstance(model, bytes) else str(model)
            raise EngineError(f"ONNX Runtime cannot load {label}: {_line(error)}; export it again") from error
        self.provider = str(self._session.get_providers()[0]).removesuffix("ExecutionProvider").lower()
        if device == "cuda" and self.provider != "cuda":  # ONNX Runtime only warns, and would run on the CPU
            raise EngineMissing("ONNX Runtime cannot start its CUDA provider: check the driver and CUDA, or use engine onnx")
        self.inputs = {i.name: (tuple(i.shape), i.type) for i in self._session.get_inputs()}
        self.outputs = [o.name for o in self._session.get_outputs()]
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)

    def run(self, inputs: Tensors) -> dict[str, NDArray[Any]]:
        """See ``Engine.run``."""
        missing = sorted(set(self.inputs) - set(inputs))
        if missing:
            raise EngineError(f"network input {missing[0]} is missing; it needs {sorted(self.inputs)}")
        feed = as_arrays({k: v for k, v in inputs.items() if k in self.inputs})
        try:
            results = self._session.run(self.outputs, feed)
        except Exception as error:  # ONNX Runtime raises many unrelated types
            raise EngineError(f"ONNX Runtime failed: {_line(error)}") from error
        return {name: np.asarray(value) for name, value in zip(self.outputs, results)}

    def close(self) -> None:
        """Frees the session; ``run`` fails afterwards."""
        del self._session


def need_cuda() -> None:
    """Says plainly where this ONNX Runtime is built without CUDA.

    Raises:
        EngineMissing: it is.
    """
    import onnxruntime as ort

    _providers("cuda", ort.get_available_providers())


def _providers(device: str, available: list[str]) -> list[str]:
    """Execution providers in order of preference.

    Raises:
        EngineMissing: CUDA is asked for, and this ONNX Runtime is built without it.
    """
    cuda = "CUDAExecutionProvider"
    if device == "cuda" and cuda not in available:
        raise EngineMissing("this ONNX Runtime has no CUDA provider: pip install onnxruntime-gpu, or use engine onnx")
    return [cuda, "CPUExecutionProvider"] if device != "cpu" and cuda in available else ["CPUExecutionProvider"]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
