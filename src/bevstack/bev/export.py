"""Exported graphs: ONNX, static shapes, opset 17, float32; config and weights hash in the file's metadata.

One graph does everything (brief section 6). In: ``images`` (uint8 N x H x W x 3, normalised inside, or float32 N x 3 x H x W),
``tables`` (T, V) int32 rows of the feature stack (see ``graphs.WholeGraph``), T - 1 cached maps ``history1``.. (cells, C).
Out: ``cls``, ``reg``, ``dir`` and the current ``features`` to cache. The two halves, with the gather left to the caller, can be
exported as well.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bevstack.engine import cache_dir
from bevstack.errors import EngineError

from .config import FastBEVConfig

if TYPE_CHECKING:
    from .network import FastBEVNet

OPSET = 17
FORMAT = "bevstack-fastbev-graph-1"
# Part of the cache key: raise it when the exported graph changes for the same weights.
REVISION = 2
Part = Literal["whole", "image", "bev"]


def _module(
    net: FastBEVNet, part: Part, raw: bool, source: tuple[int, int] | None
) -> tuple[Any, tuple[Any, ...], list[str], list[str]]:
    """(module, example inputs, input names, output names) of a part."""
    import torch

    from .graphs import WHOLE_OUTPUTS, BevGraph, ImageGraph, WholeGraph, history_names, inference_net

    config, folded = net.config, inference_net(net)
    times, (height, width) = len(config.times), config.image_hw if source is None else source[::-1]
    images = (
        torch.zeros(config.cameras, height, width, 3, dtype=torch.uint8)
        if raw
        else torch.zeros(config.cameras, 3, height, width)
    )
    if part == "image":
        return ImageGraph(folded, raw, source), (images,), ["images"], ["features"]
    if part == "bev":
        volume = torch.zeros(config.voxels, times, config.neck_channels)
        return BevGraph(folded), (volume,), ["volume"], list(WHOLE_OUTPUTS[:3])
    tables = torch.full((times, config.voxels), config.cells, dtype=torch.int32)
    history = [torch.zeros(config.cells, config.neck_channels) for _ in range(times - 1)]
    names = ["images", "tables", *history_names(times)]
    return WholeGraph(folded, raw, source), (images, tables, *history), names, list(WHOLE_OUTPUTS)


def export_graph(
    net: FastBEVNet,
    part: Part = "whole",
    raw: bool = True,
    weights_sha256: str = "",
    source: tuple[int, int] | None = None,
) -> bytes:
    """An ONNX model file's bytes.

    Args:
        part: "whole", "image" or "bev".
        raw: uint8 images with the normalisation inside the graph; False: normalised float32 planes.
        weights_sha256: written into the metadata.
        source: (width, height) of the cameras: the graph then takes their whole pictures (uint8 only) and resizes them.

    Raises:
        EngineError: a size that the images cannot have; a package is missing; or torch cannot export this network.
    """
    try:
        import onnx
        import torch
    except ImportError as error:
        raise EngineError(f"export needs the package {error.name}: pip install 'bevstack[export]'") from error
    if source is not None and (
        not raw or min(source) < 1 or (net.config.resize_filter == "area" and source[0] < net.config.image_hw[1])
    ):
        raise EngineError(
            f"pictures of {source[0]}x{source[1]} cannot be resized inside the graph: give uint8 images that are larger than "
            f"{net.config.image_hw[1]}x{net.config.image_hw[0]}"
        )
    module, example, inputs, outputs = _module(net, part, raw, source)
    with (
        torch.inference_mode(),
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        tempfile.TemporaryDirectory(prefix="bevstack-") as folder,
    ):
        file = Path(folder) / "graph.onnx"
        warnings.simplefilter("ignore")  # shapes are static on purpose; the tracer warns about each
        try:
            torch.onnx.export(
                module.eval(), example, file, input_names=inputs, output_names=outputs, opset_version=OPSET, dynamo=False
            )
        except (RuntimeError, TypeError, ValueError, torch.onnx.errors.OnnxExporterError) as error:
            raise EngineError(f"torch cannot export {net.config.name}: {' '.join(str(error).split())[:200]}") from error
        model = onnx.load(file)
    about = {
        "format": FORMAT,
        "part": part,
        "raw": json.dumps(raw),
        "config": net.config.to_json(),
        "weights_sha256": weights_sha256,
        **({} if source is None else {"source": json.dumps(source)}),
    }
    onnx.helper.set_model_props(model, about)
    return bytes(model.SerializeToString())


def write_atomically(path: Path, content: bytes) -> None:
    """Whole file or none, also when two processes write at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def export_onnx(net: FastBEVNet, path: str | Path, part: Part = "whole", raw: bool = True, weights_sha256: str = "") -> Path:
    """Writes ``export_graph``'s result to ``path``.

    Raises:
        EngineError: see ``export_graph``; or the file cannot be written.
    """
    return save_graph(path, export_graph(net, part, raw, weights_sha256))


def save_graph(path: str | Path, content: bytes) -> Path:
    """Writes a file whole or not at all.

    Raises:
        EngineError: it cannot be written.
    """
    try:
        write_atomically(Path(path), content)
    except OSError as error:
        raise EngineError(f"the graph cannot be written to {path}: {error.strerror}") from error
    return Path(path)


def cached_graph_path(config: FastBEVConfig, weights_sha256: str, part: Part, raw: bool) -> Path:
    """Where the exported graph of these weights is kept in the user's cache."""
    key = f"{config.name}-{config.digest()[:8]}-{weights_sha256[:16]}-{part}-{'u8' if raw else 'f32'}-r{REVISION}.onnx"
    return cache_dir() / "graphs" / key


def config_of_graph(metadata: dict[str, str], label: str) -> FastBEVConfig:
    """Config of a loaded graph's metadata.

    Raises:
        EngineError: not one of our graphs.
    """
    if metadata.get("format") != FORMAT:
        raise EngineError(f"{label} is no graph of ours ({FORMAT}): export one from weights")
    return FastBEVConfig.from_json(metadata.get("config", ""))
