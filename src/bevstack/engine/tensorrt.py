"""TensorRT, version 10 or newer, on one GPU. Memory and streams come from torch.

Written against NVIDIA's documentation of the Python API. It has not been run on a GPU yet: no machine with TensorRT was at hand
(docs/export.md); what needs none (versions, keys, fall-back, the operator check) is tested.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bevstack.errors import EngineError

from .api import Engine, Tensors, as_arrays, cache_dir
from .files import write_atomically
from .names import EngineMissing
from .onnx import OnnxEngine

logger = logging.getLogger("bevstack.engine")
LEAST = 10
WORKSPACE = 4 << 30  # bytes that a layer may use while it runs


def tensorrt_module() -> Any:
    """The package tensorrt.

    Raises:
        EngineMissing: it is missing, older than version 10, or its names are not those that are used here.
    """
    try:
        import tensorrt
    except ImportError as error:
        raise EngineMissing(f"TensorRT is not installed ({error}): pip install tensorrt, or use engine onnx") from error
    version = str(getattr(tensorrt, "__version__", "0"))
    major = version.split(".", maxsplit=1)[0]
    if not major.isdigit() or int(major) < LEAST:
        raise EngineMissing(f"TensorRT {version} is too old: version {LEAST} or newer is needed, or use engine onnx")
    needed = {
        "Builder": ("build_serialized_network", "create_network", "create_builder_config"),
        "IExecutionContext": ("execute_async_v3", "set_tensor_address"),
        "ICudaEngine": ("get_tensor_name", "get_tensor_mode", "get_tensor_shape", "get_tensor_dtype"),
    }
    for owner, names in needed.items():
        lacking = [name for name in names if not hasattr(getattr(tensorrt, owner, None), name)]
        if lacking:
            raise EngineMissing(f"TensorRT {version} has no {owner}.{lacking[0]}: this version is not known; use engine onnx")
    return tensorrt


def _cuda() -> Any:
    try:
        import torch
    except ImportError as error:
        raise EngineMissing("TensorRT's memory comes from torch, which is missing: pip install 'bevstack[torch]'") from error
    if not torch.cuda.is_available():
        raise EngineMissing("no CUDA GPU is available to torch: TensorRT needs one; use engine onnx")
    return torch


def engine_path(graph: bytes, gpu: str, capability: tuple[int, int], version: str) -> Path:
    """Where the built engine of a graph is kept: an engine is good for one GPU model, one TensorRT version and one graph
    (weights, precision and shapes are in its hash)."""
    name = "".join(c if c.isalnum() else "-" for c in gpu.lower()).strip("-")
    digest = hashlib.sha256(graph).hexdigest()[:20]
    return cache_dir() / "tensorrt" / f"{name}-sm{capability[0]}{capability[1]}-trt{version}-{digest}.engine"


class BuildProgress:
    """Turns TensorRT's phases into one line at most every ``every`` seconds; ``monitor(trt)`` is what a builder takes."""

    def __init__(self, report: Callable[[str], None], every: float = 2.0) -> None:
        self._report, self._every = report, every
        self._steps: dict[str, tuple[int, int]] = {}
        self._said = float("-inf")

    def start(self, phase: str, steps: int) -> None:
        self._steps[phase] = (0, steps)

    def advance(self, phase: str, step: int) -> None:
        steps = self._steps.get(phase, (0, 0))[1]
        self._steps[phase] = (step + 1, steps)
        now = time.monotonic()
        if now - self._said >= self._every:
            self._said = now
            self._report(f"building the TensorRT engine: {phase} {step + 1} of {steps}")

    def finish(self, phase: str) -> None:
        self._steps.pop(phase, None)

    def monitor(self, trt: Any) -> Any:
        """An object of TensorRT's own class that tells this one."""
        progress = self

        class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                trt.IProgressMonitor.__init__(self)

            def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
                progress.start(phase_name, num_steps)

            def step_complete(self, phase_name: str, step: int) -> bool:
                progress.advance(phase_name, step)
                return True  # go on

            def phase_finish(self, phase_name: str) -> None:
                progress.finish(phase_name)

        return Monitor()


def build(trt: Any, graph: bytes, report: Callable[[str], None]) -> bytes:
    """A serialised engine. The network is strongly typed: its precision is what the graph says (float, FP16 or INT8 file).

    Raises:
        EngineError: the parser or the builder refuses the graph.
    """
    log = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(log)
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(1 << int(flag) if flag is not None else 0)
    parser = trt.OnnxParser(network, log)
    if not parser.parse(graph):
        reasons = "; ".join(str(parser.get_error(i)) for i in range(min(3, parser.num_errors)))
        raise EngineError(f"TensorRT {trt.__version__} cannot read the graph: {' '.join(reasons.split())[:300]}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE)
    if hasattr(trt, "IProgressMonitor"):
        config.progress_monitor = BuildProgress(report, every=10.0).monitor(trt)
    report("building the TensorRT engine: this takes minutes, once per GPU, version and weights")
    content = builder.build_serialized_network(network, config)
    if content is None:
        raise EngineError(f"TensorRT {trt.__version__} could not build an engine: see its log; use engine onnx")
    return bytes(content)


class TensorRTEngine:
    """One ONNX graph as a TensorRT engine, built on first use and kept in the user's cache.

    Args:
        graph: ONNX file, or its bytes.
        report: receives progress lines while it is built. None: the log.
        cuda_graph: record the launches once and replay them.

    Raises:
        EngineError: no TensorRT, no GPU, a graph that it does not take.
    """

    name = "tensorrt"

    def __init__(self, graph: Path | bytes, *, report: Callable[[str], None] | None = None, cuda_graph: bool = True) -> None:
        trt, torch = tensorrt_module(), _cuda()
        from .tensorrt_operators import problems

        content = graph if isinstance(graph, bytes) else graph.read_bytes()
        refused = problems(content)
        if refused:
            raise EngineError(f"TensorRT does not take this graph: {refused[0]} ({len(refused)} in all)")
        self.metadata = _metadata(content)
        device = torch.cuda.current_device()
        path = engine_path(
            content, torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device), trt.__version__
        )
        runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        built = runtime.deserialize_cuda_engine(path.read_bytes()) if path.is_file() else None
        if built is None:
            serialised = build(trt, content, report or logger.warning)
            try:
                write_atomically(path, serialised)
            except OSError as error:
                logger.warning("the TensorRT engine cannot be kept in %s (%s): it is built again next time", path, error)
            built = runtime.deserialize_cuda_engine(serialised)
        if built is None:
            raise EngineError("TensorRT cannot load the engine that it has just built: report its log; use engine onnx")
        self._torch, self._runtime, self._engine = torch, runtime, built
        self._context = built.create_execution_context()
        self._stream = torch.cuda.Stream()
        self.inputs: dict[str, tuple[tuple[int, ...], str]] = {}
        self.outputs: list[str] = []
        self._host: dict[str, Any] = {}
        self._device: dict[str, Any] = {}
        for index in range(built.num_io_tensors):
            name = built.get_tensor_name(index)
            shape = tuple(built.get_tensor_shape(name))
            kind = torch.from_numpy(np.zeros(0, trt.nptype(built.get_tensor_dtype(name)))).dtype
            self._host[name] = torch.empty(shape, dtype=kind, pin_memory=True)
            self._device[name] = torch.empty(shape, dtype=kind, device="cuda")
            self._context.set_tensor_address(name, self._device[name].data_ptr())
            if built.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
                self.inputs[name] = (shape, str(kind).removeprefix("torch."))
            else:
                self.outputs.append(name)
        self._graph = self._record() if cuda_graph else None

    def _record(self) -> Any:
        """The launches of one run as a CUDA graph; None where they cannot be recorded."""
        torch = self._torch
        with torch.cuda.stream(self._stream):
            self._context.execute_async_v3(self._stream.cuda_stream)  # the first run may allocate
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self._stream):
                self._context.execute_async_v3(self._stream.cuda_stream)
        except RuntimeError as error:
            logger.warning(
                "CUDA cannot record this engine (%s): it is launched layer by layer", " ".join(str(error).split())[:120]
            )
            return None
        return graph

    def run(self, inputs: Tensors) -> dict[str, NDArray[Any]]:
        """See ``Engine.run``. Inputs go through pinned memory."""
        torch = self._torch
        missing = sorted(set(self.inputs) - set(inputs))
        if missing:
            raise EngineError(f"network input {missing[0]} is missing; it needs {sorted(self.inputs)}")
        for name, value in as_arrays({k: v for k, v in inputs.items() if k in self.inputs}).items():
            given = torch.from_numpy(value)
            if tuple(given.shape) != self.inputs[name][0] or given.dtype != self._host[name].dtype:
                raise EngineError(f"network input {name} is {value.dtype} {value.shape}; it needs {self.inputs[name]}")
            self._host[name].copy_(given)
        try:
            with torch.cuda.stream(self._stream):
                for name in self.inputs:
                    self._device[name].copy_(self._host[name], non_blocking=True)
                if self._graph is not None:
                    self._graph.replay()
                elif not self._context.execute_async_v3(self._stream.cuda_stream):
                    raise EngineError("TensorRT failed to launch the network: see its log")
                for name in self.outputs:
                    self._host[name].copy_(self._device[name], non_blocking=True)
            self._stream.synchronize()
        except RuntimeError as error:
            raise EngineError(f"TensorRT failed: {' '.join(str(error).split())[:300]}") from error
        return {name: self._host[name].numpy().copy() for name in self.outputs}

    def close(self) -> None:
        """Frees engine and buffers; ``run`` fails afterwards."""
        del self._graph, self._context, self._engine, self._runtime, self._host, self._device


def _metadata(graph: bytes) -> dict[str, str]:
    import onnx

    return {p.key: p.value for p in onnx.load_from_string(graph).metadata_props}


def usable() -> bool:
    """Whether TensorRT and a GPU are there; a warning says what is missing. Asked before a graph is made for it."""
    try:
        tensorrt_module()
        _cuda()
    except EngineMissing as error:
        logger.warning("%s; ONNX Runtime takes over", error)
        return False
    return True


def tensorrt_or_onnx(graph: Path | bytes, threads: int | None = None) -> Engine:
    """TensorRT where it can be used, else ONNX Runtime (CUDA where that is there), with a warning that says why.

    Raises:
        EngineError: neither can load the graph.
    """
    try:
        return TensorRTEngine(graph)
    except EngineError as error:
        logger.warning("%s; ONNX Runtime takes over", error)
        return OnnxEngine(graph, threads, device="auto")
