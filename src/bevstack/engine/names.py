"""Engines by name, the precisions that each can run, and what happens where a machine lacks one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Literal, TypeVar, get_args

from bevstack.errors import EngineError

EngineName = Literal["onnx", "cpu", "onnx-cuda", "tensorrt", "torch", "torch-cuda"]
Precision = Literal["", "fp32", "fp16", "int8"]
ENGINES: tuple[EngineName, ...] = get_args(EngineName)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
# What each engine can run; the first is its own choice where none is asked for.
OFFERED: dict[str, tuple[Precision, ...]] = {
    "onnx": ("fp32", "fp16", "int8"),
    "cpu": ("fp32",),
    "onnx-cuda": ("fp32", "fp16"),
    "tensorrt": ("fp32", "fp16", "int8"),
    "torch": ("fp32",),
    "torch-cuda": ("fp16", "fp32"),
}

logger = logging.getLogger("bevstack.engine")
M = TypeVar("M")


class EngineMissing(EngineError):
    """This machine lacks what the engine needs: a package, a GPU, a driver."""


def engine_name(name: str, known: Collection[EngineName] = ENGINES) -> EngineName:
    """``name`` itself.

    Raises:
        EngineError: it is none of ``known``.
    """
    for engine in known:
        if name == engine:
            return engine
    raise EngineError(f"engine {name!r} is unknown: use {listed(list(known))}")


def precision_for(engine: str, precision: str) -> Precision:
    """The precision that ``engine`` runs when ``precision`` is asked for ("" : the engine's own).

    Raises:
        EngineError: no such precision, or this engine does not offer it.
    """
    offered = OFFERED[engine]
    for known in PRECISIONS:
        if precision == known and (known == "" or known in offered):
            return known or offered[0]
    if precision in PRECISIONS:
        raise EngineError(f"engine {engine} does not run {precision}: use {listed(offered)}, or another engine")
    raise EngineError(f"precision {precision!r} is unknown: use {listed(PRECISIONS[1:])}")


def or_onnx(engine: EngineName, make: Callable[[EngineName], M]) -> M:
    """What ``make`` makes with ``engine``; with ONNX Runtime on the CPU, and one line that says why, where that is missing.

    Raises:
        EngineError: whatever ``make`` raises for another reason.
    """
    try:
        return make(engine)
    except EngineMissing as error:
        logger.warning("engine %s cannot be used: %s; ONNX Runtime takes over", engine, error)
        return make("onnx")


def listed(names: Collection[str]) -> str:
    """``a, b or c``."""
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last
