"""A codec's graphs on an engine: ``open_networks`` hides whether torch or ONNX Runtime runs them."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from bevstack.engine import Engine, cache_dir
from bevstack.errors import EngineError

from .config import CodecConfig
from .weights import Arrays, CodecInfo, index_sha256, net_from_arrays, self_test_input

if TYPE_CHECKING:
    from .model import CodecNet

EngineName = Literal["torch", "onnx"]
OPSET = 17
FORMAT = "bevstack-codec-graph-1"
REVISION = 2  # part of the cache key: raise it when the exported graphs change for the same weights


class Networks:
    """Named graphs, each on an engine of its own."""

    def __init__(self, engines: dict[str, Engine]) -> None:
        self._engines = engines

    @property
    def engine(self) -> str:
        return next(iter(self._engines.values())).name

    def run(self, graph: str, **inputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Outputs by name.

        Raises:
            EngineError: wrong inputs, or the run failed.
        """
        return self._engines[graph].run(inputs)

    def close(self) -> None:
        for engine in self._engines.values():
            engine.close()

    def self_test(self, config: CodecConfig, expected: str) -> None:
        """Compares the scale net's answer on this machine with the one stored at export.

        Raises:
            EngineError: another answer: streams would not parse.
        """
        z, plane = self_test_input(config)
        found = index_sha256(self.run("scales", z=z, plane=plane)["index"])
        if found != expected:
            raise EngineError(
                f"{config.name}: the integer network answers {found[:12]}... on {self.engine}, its weights file says "
                f"{expected[:12]}...: this engine is not exact here, streams would not be decodable; use another engine"
            )


def open_networks(info: CodecInfo, arrays: Arrays, engine: EngineName, threads: int) -> Networks:
    """Engines for all graphs of a model; runs the self-test.

    Raises:
        EngineError: unknown engine, a failed export, or a failed self-test.
        CheckpointError: tensors that do not fit the config.
    """
    if engine == "torch":
        networks = _torch_networks(net_from_arrays(info.config, arrays, info.config.name), threads)
    elif engine == "onnx":
        networks = _onnx_networks(info, arrays, threads)
    else:
        raise EngineError(f"unknown engine {engine!r}: choose torch or onnx")
    networks.self_test(info.config, info.self_test)
    return networks


def _torch_networks(net: CodecNet, threads: int) -> Networks:
    import torch

    from bevstack.engine.torch import TorchEngine

    from .graphs import graphs

    net = net.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Networks({name: TorchEngine(module, ins, outs, threads) for name, (module, ins, outs) in graphs(net).items()})


def _onnx_networks(info: CodecInfo, arrays: Arrays, threads: int) -> Networks:
    from bevstack.engine.onnx import OnnxEngine

    from .graph_names import graph_names

    folder = cache_dir() / "graphs"
    names = graph_names(info.config)
    paths = {n: folder / f"{info.config.name}-{info.sha256[:16]}-{n}-r{REVISION}.onnx" for n in names}
    if not all(path.is_file() for path in paths.values()):
        export_graphs(net_from_arrays(info.config, arrays, info.config.name), paths, info.sha256)
    return Networks({name: OnnxEngine(path, threads) for name, path in paths.items()})


def export_graphs(net: CodecNet, paths: dict[str, Path], weights_sha256: str = "") -> None:
    """Writes ONNX files with free height and width.

    Raises:
        EngineError: the torch or onnx packages are missing, torch cannot export, or a file cannot be written.
    """
    try:
        import onnx
        import torch
    except ImportError as error:
        raise EngineError(f"export needs the package {error.name}: pip install 'bevstack[export]'") from error
    from .graphs import graphs

    net = net.eval()
    for name, (module, inputs, outputs) in graphs(net).items():
        if name not in paths:
            continue
        example = _example(net, inputs)
        axes = {key: _free_axes(key) for key in (*inputs, *outputs)}
        with (
            torch.inference_mode(),
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            tempfile.TemporaryDirectory(prefix="bevstack-") as folder,
        ):
            file = Path(folder) / "graph.onnx"
            warnings.simplefilter("ignore")
            try:
                torch.onnx.export(
                    module.eval(),
                    example,
                    file,
                    input_names=inputs,
                    output_names=outputs,
                    opset_version=OPSET,
                    dynamic_axes=axes,
                    dynamo=False,
                )
            except (RuntimeError, TypeError, ValueError, torch.onnx.errors.OnnxExporterError) as error:
                raise EngineError(
                    f"torch cannot export {name} of {net.config.name}: {' '.join(str(error).split())[:200]}"
                ) from error
            model = onnx.load(file)
        about = {"format": FORMAT, "graph": name, "config": net.config.to_json(), "weights_sha256": weights_sha256}
        onnx.helper.set_model_props(model, about)
        _write(paths[name], bytes(model.SerializeToString()))


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise EngineError(f"the graph cannot be written to {path}: {error.strerror}") from error


def _free_axes(name: str) -> dict[int, str]:
    first = 1 if name == "rgb" else 2
    return {first: f"{name}_rows", first + 1: f"{name}_columns"}


def _example(net: CodecNet, inputs: list[str]) -> tuple[Any, ...]:
    import torch

    config, (a, b) = net.config, (3, 4)
    h, w = 4 * a - 1, 4 * b - 2
    widths: list[int] = list(net.synthesis.conditioned)  # type: ignore[arg-type]
    sizes: dict[str, tuple[int, ...]] = {
        "gained": (1, config.latent, h, w),
        "latent": (1, config.latent, h, w),
        "decoded": (1, config.latent, h, w),
        "features": (1, config.mean.features, h, w),
        "z": (1, config.hyper.channels, a, b),
        "plane": (1, 1, a, b),
    }
    for number, width in enumerate(widths):
        sizes |= {f"scale{number}": (1, width, 2 * h, 2 * w), f"shift{number}": (1, width, 2 * h, 2 * w)}
    random = np.random.default_rng(0)

    def value(name: str) -> Any:
        if name == "rgb":
            return torch.from_numpy(random.integers(0, 256, (1, 16 * h, 16 * w, 3), np.uint8))
        if name in ("z", "plane"):
            return torch.from_numpy(random.integers(0, 9, sizes[name]).astype(np.float32))
        return torch.from_numpy(random.standard_normal(sizes[name]).astype(np.float32))

    return tuple(value(name) for name in inputs)
