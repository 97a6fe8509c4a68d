"""Engines by name: what each can run, and who takes over where a machine lacks one."""

from __future__ import annotations

import logging

import pytest

from bevstack.engine.names import ENGINES, OFFERED, EngineMissing, engine_name, or_onnx, precision_for
from bevstack.errors import EngineError


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_says_what_it_offers(engine: str) -> None:
    assert engine_name(engine) == engine
    assert precision_for(engine, "") == OFFERED[engine][0]
    for precision in OFFERED[engine]:
        assert precision_for(engine, precision) == precision


@pytest.mark.parametrize(
    ("engine", "precision", "says"),
    [
        ("torch", "int8", "engine torch does not run int8: use fp32"),
        ("onnx", "fp8", "'fp8' is unknown: use fp32, fp16 or int8"),
    ],
)
def test_a_precision_that_cannot_be_is_refused_in_one_line(engine: str, precision: str, says: str) -> None:
    with pytest.raises(EngineError, match=says):
        precision_for(engine, precision)


def test_an_unknown_engine_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(EngineError, match="'magic' is unknown: use onnx, cpu, onnx-cuda, tensorrt, torch or torch-cuda"):
        engine_name("magic")
    with pytest.raises(EngineError, match=r"use onnx or torch$"):
        engine_name("tensorrt", ("onnx", "torch"))


def test_onnx_takes_over_with_one_line_where_the_machine_lacks_something(caplog: pytest.LogCaptureFixture) -> None:
    def make(engine: str) -> str:
        if engine != "onnx":
            raise EngineMissing("there is no GPU")
        return engine

    with caplog.at_level(logging.WARNING):
        assert or_onnx("torch-cuda", make) == "onnx"
    assert [r.getMessage() for r in caplog.records] == [
        "engine torch-cuda cannot be used: there is no GPU; ONNX Runtime takes over"
    ]


def test_other_failures_are_not_hidden() -> None:
    def make(engine: str) -> str:
        raise EngineError("damaged graph")

    with pytest.raises(EngineError, match="damaged"):
        or_onnx("onnx-cuda", make)
