"""Both engines behind one contract."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bevstack.engine import Engine, cache_dir
from bevstack.engine.onnx import OnnxEngine
from bevstack.engine.torch import TorchEngine
from bevstack.errors import EngineError


class Sum(nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return a + b, a * 2


@pytest.fixture(params=["torch", "onnx"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Engine:
    if request.param == "torch":
        return TorchEngine(Sum(), ["a", "b"], ["sum", "twice"], 1)
    file = tmp_path / "sum.onnx"
    example = (torch.zeros(2, 3), torch.zeros(2, 3))
    torch.onnx.export(Sum(), example, file, input_names=["a", "b"], output_names=["sum", "twice"], dynamo=False)
    return OnnxEngine(file, 1)


@pytest.mark.filterwarnings("ignore")
def test_run(engine: Engine) -> None:
    a, b = np.ones((2, 3), np.float32), np.full((2, 3), 4, np.float32)
    first = engine.run({"a": a, "b": b, "unused": a})
    kept = first["sum"]
    second = engine.run({"a": a, "b": a})
    assert set(first) == {"sum", "twice"}
    assert kept.tolist() == [[5, 5, 5]] * 2, "an output is not overwritten by the next run"
    assert second["sum"].tolist() == [[2, 2, 2]] * 2
    assert engine.run({"a": a.T.copy().T, "b": b})["twice"].tolist() == [[2, 2, 2]] * 2


@pytest.mark.filterwarnings("ignore")
def test_faults_are_one_line(engine: Engine) -> None:
    a = np.ones((2, 3), np.float32)
    with pytest.raises(EngineError, match="input b is missing"):
        engine.run({"a": a})
    with pytest.raises(EngineError) as caught:
        engine.run({"a": a, "b": np.ones((2, 5), np.float32)})
    assert "\n" not in str(caught.value)
    engine.close()


def test_a_missing_or_damaged_graph_is_one_line(tmp_path: Path) -> None:
    for content in (None, b"", b"\x00" * 50):
        file = tmp_path / "graph.onnx"
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(EngineError, match=r"graph\.onnx") as caught:
            OnnxEngine(file)
        assert "\n" not in str(caught.value)


def test_cache_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BEVSTACK_CACHE", str(tmp_path / "here"))
    assert cache_dir() == tmp_path / "here"
    monkeypatch.delenv("BEVSTACK_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "bevstack"


@pytest.mark.parametrize("module", ["bevstack.engine", "bevstack.bev", "bevstack.bev.fastbev", "bevstack.bev.weights"])
def test_rooms_import_without_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit(any(m in sys.modules for m in ('torch', 'onnxruntime', 'onnx')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
