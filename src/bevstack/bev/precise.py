"""Whole graphs in half precision or INT8, made from weights on first use and kept in the user's cache."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from bevstack.engine.names import EngineName, Precision
from bevstack.engine.progress import Seldom
from bevstack.errors import EngineError

from .config import FastBEVConfig
from .export import cached_graph_path, config_of_graph, export_graph, write_atomically
from .runner import precision_of

if TYPE_CHECKING:
    from .network import FastBEVNet
    from .quantize import QuantizeOptions

logger = logging.getLogger("bevstack.bev")


def precise_graph(weights: Path, config: FastBEVConfig, sha256: str, engine: EngineName, precision: Precision) -> Path | bytes:
    """The whole graph of a weights file in ``precision`` ("fp16" or "int8") for ``engine``.

    Raises:
        EngineError: a package is missing, or the graph cannot be made.
    """
    plain = cached_graph_path(config, sha256, "whole", raw=True)
    path = plain.with_name(f"{plain.stem}-{_form(engine, precision)}.onnx")
    if path.is_file():
        return path
    try:
        from .weights import load_weights

        graph = export_graph(load_weights(weights), weights_sha256=sha256)
    except ImportError as error:
        raise EngineError(f"making a graph in {precision} needs {error.name}: pip install 'bevstack[export]'") from error
    content = in_precision(graph, config, engine, precision)
    try:
        write_atomically(path, content)
    except OSError:
        return content  # a cache that cannot be written costs only time
    return path


def precise_network(net: FastBEVNet, engine: EngineName, precision: Precision) -> bytes:
    """The same for a network in memory; nothing is kept."""
    return in_precision(export_graph(net), net.config, engine, precision)


def in_precision(graph: bytes, config: FastBEVConfig, engine: EngineName, precision: Precision) -> bytes:
    """A float32 whole graph turned into ``precision``."""
    from .quantize import export_int8, half_precision

    if precision == "fp16":
        return half_precision(graph)
    logger.warning("making the INT8 graph of %s: this takes minutes, once", config.name)
    say = Seldom(lambda line: logger.warning("INT8 graph of %s: %s", config.name, line))
    content, report = export_int8(graph, config, _options(engine), say)
    logger.info("%d layers stay in float; change of the answer %.4f", len(report.kept), report.error)
    return content


def check_graph(metadata: dict[str, str], precision: str, label: str) -> None:
    """Whether an exported file has the precision that was asked for ("": any).

    Raises:
        EngineError: it has another one.
    """
    config_of_graph(metadata, label)
    found = precision_of(metadata)
    if precision and found != precision:
        raise EngineError(f"{label} was exported in {found}, not {precision}: leave precision out, or export it again")


def _options(engine: EngineName) -> QuantizeOptions:
    from .quantize import QuantizeOptions

    return QuantizeOptions(target="tensorrt" if engine == "tensorrt" else "cpu")


def _form(engine: EngineName, precision: Precision) -> str:
    """Part of a file's name: other ways to calibrate make other files."""
    if precision == "fp16":
        return "fp16"
    from .quantize import METHOD

    options = _options(engine)
    digest = hashlib.sha256(json.dumps({"method": METHOD, **vars(options)}, sort_keys=True).encode()).hexdigest()
    return f"int8-{options.target}-{digest[:8]}"
