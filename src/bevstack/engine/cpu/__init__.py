"""Convolutional networks on CPUs, without a runtime: Winograd's convolutions, products by BLAS, everything channels last.

An exported graph is turned into a list of steps over buffers that are allocated once. 3x3 convolutions of stride 1, which are
most of the work of our networks, take a quarter of the multiplications; the others are products of matrices. Bias, residual and
Relu are applied to a block while it is in the cache. Results differ from the direct form by rounding (about 1e-5 of a map's
spread). Operators and attributes that are not handled are refused when the graph is loaded, so that ONNX Runtime can be taken.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np

from bevstack.engine.api import Tensors, as_arrays
from bevstack.engine.blas import one_thread
from bevstack.errors import EngineError

from .plan import Plan, Unsupported
from .steps import Array, Feed, Team

__all__ = ["CpuEngine", "Unsupported"]


class CpuEngine:
    """One ONNX graph of convolutions, see above.

    Args:
        model: file, or its bytes.
        threads: that share each layer; None takes the CPUs that this process may use.

    Raises:
        EngineMissing: the graph has something that this engine does not do, or the package onnx is missing.
        EngineError: the file cannot be read.
    """

    name = "cpu"

    def __init__(self, model: str | Path | bytes, threads: int | None = None) -> None:
        one_thread()
        self._team = Team(threads or len(os.sched_getaffinity(0)))
        self._lock = threading.Lock()
        try:
            content = model if isinstance(model, bytes) else Path(model).read_bytes()
        except OSError as error:
            raise EngineError(f"the graph {model!s} cannot be read: {error.strerror}") from error
        self._plan: Plan | None = Plan(content, self._team)
        self.outputs, self.metadata = self._plan.outputs, self._plan.metadata
        self.inputs = {name: (shape, str(kind)) for name, (shape, kind) in self._plan.inputs.items()}
        self.run({name: np.zeros(shape, kind) for name, (shape, kind) in self._plan.inputs.items()})  # compiles, allocates

    def run(self, inputs: Tensors) -> dict[str, Array]:
        """See ``Engine.run``."""
        plan = self._plan
        if plan is None:
            raise EngineError("the network has been closed: open it again")
        missing = sorted(set(plan.inputs) - set(inputs))
        if missing:
            raise EngineError(f"network input {missing[0]} is missing; it needs {sorted(plan.inputs)}")
        feed: Feed = as_arrays({name: inputs[name] for name in plan.inputs})
        for name, (shape, kind) in plan.inputs.items():
            if feed[name].shape != shape or feed[name].dtype != kind:
                raise EngineError(f"network input {name} is {feed[name].dtype} {feed[name].shape}; it needs {kind} {shape}")
        with self._lock:  # the buffers are one instant's
            for step in plan.steps.all:
                step(feed)
            return {name: feed[name] if name in feed else _own(plan.values[name].of(feed)) for name in plan.outputs}

    def close(self) -> None:
        """Frees the network; ``run`` fails afterwards."""
        self._plan = None
        self._team.close()


def _own(array: Array) -> Array:
    """A copy in the graph's own order of axes."""
    return np.array(array, order="C")
