"""Any engine may be asked for: where this machine lacks it, ONNX Runtime runs the nodes' networks and they say so."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from bevstack.bev.config import CONFIGS  # noqa: E402
from bevstack.bev.fastbev import _network  # noqa: E402
from bevstack.bev.precise import check_graph  # noqa: E402
from bevstack.bev.runner import WholeRunner  # noqa: E402
from bevstack.bev.weights import save_weights  # noqa: E402
from bevstack.detect.ladder import load_detector  # noqa: E402
from bevstack.errors import EngineError  # noqa: E402
from bevstack.ros.graph import BEV, resolve  # noqa: E402
from bevstack.ros.nodes.bev_node import load_ladder, load_model  # noqa: E402

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there: nothing has to take over")
NANO = "random:fastbev-micro"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BEVSTACK_CACHE", str(tmp_path))
    return tmp_path


@no_gpu
@pytest.mark.parametrize("engine", ["onnx-cuda", "tensorrt", "torch-cuda"])
def test_bev_falls_back_to_onnx_with_one_line(engine: str, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        model: Any = load_model(NANO, engine)
    assert model.engine == "onnx"
    warnings = [r.getMessage() for r in caplog.records]
    assert len(warnings) == 1
    assert warnings[0].endswith("ONNX Runtime takes over")
    model.warm_up(1)
    model.close()


@no_gpu
@pytest.mark.parametrize("engine", ["onnx-cuda", "tensorrt", "torch-cuda", "cpu"])
def test_the_detector_falls_back_to_onnx_with_one_line(engine: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        detector = load_detector("random:giraffedet-nano", engine)
    assert detector.engine == "onnx"
    assert len(caplog.records) == 1
    detector.close()


@pytest.mark.parametrize("engine", ["torch", "cpu"])
def test_the_ladder_says_what_runs(engine: str) -> None:
    ladder = load_ladder(NANO, engine)
    assert ladder.engine == engine
    ladder.close()


def test_half_precision_is_made_once_and_kept(cache: Path, tmp_path: Path) -> None:
    weights = tmp_path / "micro.safetensors"
    save_weights(weights, _network(CONFIGS["fastbev-micro"]))
    for _ in range(2):
        model: Any = load_model(str(weights), "onnx", precision="fp16")
        assert isinstance(model.runner, WholeRunner)
        model.warm_up(1)
        model.close()
    made = list(cache.glob("graphs/*"))
    assert [p.name.endswith("-fp16.onnx") for p in made] == [True]
    half: Any = load_model(str(made[0]), "onnx", precision="fp16")
    half.close()
    with pytest.raises(EngineError, match="was exported in fp16, not int8"):
        load_model(str(made[0]), "onnx", precision="int8")


def test_a_precision_that_the_engine_lacks_is_refused() -> None:
    with pytest.raises(EngineError, match="engine torch does not run int8"):
        load_model(NANO, "torch", precision="int8")
    with pytest.raises(EngineError, match="engine onnx-cuda does not run int8"):
        load_model(NANO, "onnx-cuda", precision="int8")


def test_a_foreign_file_has_no_precision() -> None:
    with pytest.raises(EngineError, match="no graph of ours"):
        check_graph({}, "fp16", "foreign.onnx")


def test_launch_hands_engine_and_precision_to_the_nodes() -> None:
    nodes = {n.name: n for n in resolve(BEV, {"engine": "tensorrt", "precision": "int8", "detect": "true"})}
    assert nodes["bev_node"].parameters["engine"] == nodes["detect_node"].parameters["engine"] == "tensorrt"
    assert nodes["bev_node"].parameters["precision"] == "int8"
    assert "precision" not in nodes["detect_node"].parameters


@pytest.mark.parametrize("kind", ["bev", "detect"])
def test_a_signal_while_the_model_loads_is_one_line(
    kind: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Publishers cannot be made once the context is down: that is the usual end, not a failure with a traceback."""
    from bevstack.ros.nodes import bev_node, detect_node
    from bevstack.ros.runtime import TransitionCallbackReturn, init, ok, try_shutdown

    def slow(*_: Any, **__: Any) -> Any:
        try_shutdown()  # what SIGINT does, in the middle
        return object()

    monkeypatch.setenv("BEVSTACK_WIRE", "off")
    monkeypatch.setattr(bev_node, "load_ladder", slow)
    monkeypatch.setattr(detect_node.DetectNode, "_load", slow)
    init(args=[])
    node: Any = bev_node.BevNode() if kind == "bev" else detect_node.DetectNode()
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    assert not ok()
    node.destroy_node()
    said = capfd.readouterr()
    assert "Traceback" not in said.out + said.err
    assert (said.out + said.err).count("stopped while it was being configured") == 1
