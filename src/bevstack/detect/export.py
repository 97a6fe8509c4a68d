"""Exported graphs: ONNX, opset 17, float32, fixed canvas and free batch; config and weights hash in the file's metadata."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from bevstack.engine import cache_dir
from bevstack.engine.files import write_atomically
from bevstack.errors import EngineError

from .config import GiraffeDetConfig
from .letterbox import check_canvas

if TYPE_CHECKING:
    from .network import GiraffeDetNet

OPSET = 17
FORMAT = "bevstack-giraffedet-graph-1"
# Part of the cache key: raise it when the exported graph changes for the same weights.
REVISION = 1


def export_graph(net: GiraffeDetNet, canvas: tuple[int, int] | None = None, weights_sha256: str = "") -> bytes:
    """An ONNX model file's bytes: ``images`` (N, H, W, 3) uint8 -> ``scores`` (N, A, K), ``boxes`` (N, A, 4).

    Args:
        canvas: (H, W); None: the rung's own.
        weights_sha256: written into the metadata.

    Raises:
        EngineError: the torch or onnx packages are missing, or torch cannot export this network.
        BevstackError: the canvas is no multiple of 128.
    """
    try:
        import onnx
        import torch
    except ImportError as error:
        raise EngineError(f"export needs the package {error.name}: pip install 'bevstack[export]'") from error
    from .graphs import OUTPUTS, DetectGraph, inference_net

    height, width = size = canvas or net.config.canvas
    check_canvas(size)
    module = DetectGraph(inference_net(net), size).eval()
    example = torch.zeros(1, height, width, 3, dtype=torch.uint8)
    with (
        torch.inference_mode(),
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        tempfile.TemporaryDirectory(prefix="bevstack-") as folder,
    ):
        file = Path(folder) / "graph.onnx"
        warnings.simplefilter("ignore")  # shapes are static on purpose; the tracer warns about each
        axes = {name: {0: "n"} for name in ("images", *OUTPUTS)}
        try:
            torch.onnx.export(
                module,
                (example,),
                file,
                input_names=["images"],
                output_names=list(OUTPUTS),
                dynamic_axes=axes,
                opset_version=OPSET,
                dynamo=False,
            )
        except (RuntimeError, TypeError, ValueError, torch.onnx.errors.OnnxExporterError) as error:
            raise EngineError(f"torch cannot export {net.config.name}: {' '.join(str(error).split())[:200]}") from error
        model = onnx.load(file)
    about = {
        "format": FORMAT,
        "canvas": json.dumps(list(size)),
        "config": net.config.to_json(),
        "weights_sha256": weights_sha256,
    }
    onnx.helper.set_model_props(model, about)
    return bytes(model.SerializeToString())


def export_onnx(net: GiraffeDetNet, path: str | Path, canvas: tuple[int, int] | None = None, weights_sha256: str = "") -> Path:
    """Writes ``export_graph``'s result to ``path``.

    Raises:
        EngineError: see ``export_graph``; or the file cannot be written.
    """
    content = export_graph(net, canvas, weights_sha256)
    try:
        write_atomically(Path(path), content)
    except OSError as error:
        raise EngineError(f"the graph cannot be written to {path}: {error.strerror}") from error
    return Path(path)


def cached_graph_path(config: GiraffeDetConfig, weights_sha256: str, canvas: tuple[int, int]) -> Path:
    """Where the exported graph of these weights is kept in the user's cache."""
    size = f"{canvas[1]}x{canvas[0]}"
    return cache_dir() / "graphs" / f"{config.name}-{config.digest()[:8]}-{weights_sha256[:16]}-{size}-r{REVISION}.onnx"


def about_graph(metadata: dict[str, str], label: str) -> tuple[GiraffeDetConfig, tuple[int, int]]:
    """Config and canvas of a loaded graph's metadata.

    Raises:
        EngineError: not one of our graphs.
    """
    if metadata.get("format") != FORMAT:
        raise EngineError(f"{label} is no graph of ours ({FORMAT}): export one from weights")
    try:
        height, width = (int(v) for v in json.loads(metadata.get("canvas", "")))
    except (ValueError, TypeError) as error:
        raise EngineError(f"{label}: its canvas {metadata.get('canvas')!r} cannot be read: export it again") from error
    return GiraffeDetConfig.from_json(metadata.get("config", "")), (height, width)
