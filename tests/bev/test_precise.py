"""``precision="int8"`` straight from weights: the network that runs is INT8, and was calibrated on the right instants."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import pytest
from rosbags.highlevel import AnyReader
from test_quantize import TINY, network

from bevstack.bev import FastBEV, quantize
from bevstack.bev.export import export_graph
from bevstack.bev.quantize import FIRST_SEED, QuantizeOptions, activation_ranges, disturbance, prepared, recorded
from bevstack.bev.runner import WholeRunner
from bevstack.bev.weights import load_weights, read_info, save_weights
from bevstack.cli.run import RunOptions, run
from bevstack.engine.onnx import OnnxEngine
from bevstack.engine.progress import Seldom
from bevstack.errors import EngineError
from bevstack.frames import sim
from bevstack.ros.nodes.bev_node import load_ladder

INSTANTS, SCAN = 6, 1  # four to a drive: the ranges come from two drives
FEW = partial(QuantizeOptions, instants=INSTANTS, scan=SCAN, limit=0.1)
WIDTH = 200


class Drives(sim.SimulatedDrive):
    """Small pictures, and a list of the seeds."""

    seeds: list[int]

    def __init__(self, seed: int, **options: Any) -> None:
        self.seeds.append(seed)
        super().__init__(seed, **{**options, "image_width": WIDTH, "density": 0.2})


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(path, network(TINY), {"origin": "for tests"})
    return path


@pytest.fixture
def drives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Few and small instants; the seeds of all drives that are made for a calibration."""
    monkeypatch.setenv("BEVSTACK_CACHE", str(tmp_path / "cache"))
    return few_drives(monkeypatch)


def few_drives(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    monkeypatch.setattr(quantize, "QuantizeOptions", FEW)
    monkeypatch.setattr(sim, "SimulatedDrive", Drives)
    monkeypatch.setattr(Drives, "seeds", [], raising=False)
    return Drives.seeds


@dataclass(frozen=True)
class Calibrated:
    """What the first start with ``precision="int8"`` did."""

    cache: Path
    file: Path
    seeds: list[int]
    said: list[str]
    ran: str


@pytest.fixture(scope="module")
def calibrated(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Calibrated:
    """The ladder of a node, started once; the cache stays for the module."""
    cache = tmp_path_factory.mktemp("cache")
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("BEVSTACK_CACHE", str(cache))
        seeds = few_drives(monkeypatch)
        logging.getLogger("bevstack.bev").addHandler(handler)
        ladder = load_ladder(str(weights), "onnx", precision="int8")
        logging.getLogger("bevstack.bev").removeHandler(handler)
        assert isinstance(ladder.swap.active.runner, WholeRunner)
        ran = f"{ladder.engine} {ladder.precision}"
        ladder.close()
        (file,) = (cache / "graphs").glob("*")
        made = list(seeds)
    return Calibrated(cache, file, made, said, ran)


def scales(model: Any) -> dict[str, float]:
    """Name of a quantised activation to the size of its step."""
    values = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    return {n.input[0]: float(values[n.input[1]]) for n in model.graph.node if n.op_type == "QuantizeLinear"}


def share_of_integer_convolutions(model: Any) -> float:
    made_by = {n.output[0]: n.op_type for n in model.graph.node}
    kinds = [[made_by.get(name) for name in n.input[:2]] for n in model.graph.node if n.op_type == "Conv"]
    return sum(kind == ["DequantizeLinear"] * 2 for kind in kinds) / len(kinds)


@pytest.mark.timeout(900)
def test_int8_from_weights_is_int8(weights: Path, calibrated: Calibrated) -> None:
    """What is kept is what runs, and most of it is integers."""
    assert calibrated.ran == "onnx int8"
    assert calibrated.said[0] == "making the INT8 graph of tiny: this takes minutes, once"
    model = onnx.load(calibrated.file)
    assert share_of_integer_convolutions(model) > 0.8
    metadata = {p.key: p.value for p in model.metadata_props}
    assert (metadata["precision"], metadata["weights_sha256"]) == ("int8-cpu", read_info(weights).sha256)


@pytest.mark.timeout(900)
def test_int8_from_weights_is_calibrated_on_drives_of_its_own(
    weights: Path, calibrated: Calibrated, drives: list[int], tmp_path: Path
) -> None:
    """Ranges from drives of the calibration, errors from others, none of them an evaluation's."""
    assert sorted(calibrated.seeds) == [FIRST_SEED, FIRST_SEED + 1, FIRST_SEED + 50_000]
    plain = tmp_path / "float.onnx"
    plain.write_bytes(export_graph(load_weights(weights)))
    own = list(recorded(plain, quantize.instants_of_drives(INSTANTS, FIRST_SEED)))
    others = list(recorded(plain, quantize.instants_of_drives(INSTANTS, 0)))
    float_graph = prepared(plain.read_bytes())
    found = scales(onnx.load(calibrated.file))
    right, wrong = (activation_ranges(float_graph, [f for f, _ in feeds], 1e-5) for feeds in (own, others))
    # Further on, what only moves values has the step of what it moves.
    watched = [name for name in found if name.startswith("/image/backbone/") and right[name][1] > 0]
    assert len(watched) > 5

    def step(ranges: dict[str, tuple[float, float]], name: str) -> float:
        return (max(ranges[name][1], 0.0) - min(ranges[name][0], 0.0)) / 255

    for name in watched:
        assert found[name] == pytest.approx(step(right, name), rel=1e-3), name
    assert sum(abs(found[n] / step(wrong, n) - 1) > 1e-2 for n in watched) > len(watched) / 2, "the test could tell"
    feed, maps = own[-1]
    assert 1e-4 < disturbance(OnnxEngine(calibrated.file).run(feed), maps, TINY) < 0.3


@pytest.mark.timeout(900)
def test_a_run_with_int8_publishes_the_boxes_of_int8(
    weights: Path, calibrated: Calibrated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``bevstack run ... --precision int8``, from the option to the recorded boxes: those of the kept file, not float32's; and
    the second start calibrates nothing."""
    monkeypatch.setenv("BEVSTACK_CACHE", str(calibrated.cache))
    monkeypatch.setattr(quantize, "QuantizeOptions", FEW)
    monkeypatch.setattr(quantize, "export_int8", lambda *_: pytest.fail("calibrated twice"))

    def boxes_of(name: str, model: Path, precision: str = "") -> list[bytes]:
        options = RunOptions(
            source="sim:seed=3,duration=1,rate=4,image_width=200",
            model=str(model),
            precision=precision,
            rate=0.0,
            score_threshold=0.05,
            record=tmp_path / name,
        )
        summary = run(options)
        assert (summary.instants_in, summary.instants_out) == (4, 4)
        assert summary.engine == ("onnx" if name == "plain" else "onnx int8")
        assert summary.boxes > 4
        with AnyReader([tmp_path / name]) as reader:
            chosen = [c for c in reader.connections if c.topic == "/bev_node/detections"]
            return [bytes(data) for _, _, data in reader.messages(chosen)]

    int8 = boxes_of("int8", weights, "int8")
    assert "tiny on onnx int8" in capsys.readouterr().out
    assert len(int8) == 4
    # Without a past yet: where the machine is busy, a pose of the past may come late and be extrapolated.
    assert boxes_of("file", calibrated.file)[:2] == int8[:2]
    assert all(a != b for a, b in zip(boxes_of("plain", weights), int8, strict=True))


def test_other_options_make_another_file(weights: Path, drives: list[int], tmp_path: Path, monkeypatch: Any) -> None:
    """A graph that was calibrated another way, by an older bevstack for instance, is not taken for today's."""
    made: list[int] = []

    def quick(graph: bytes, config: Any, options: QuantizeOptions, report: Any) -> tuple[bytes, quantize.QuantizeReport]:
        made.append(options.instants)
        model = onnx.load_from_string(graph)
        onnx.helper.set_model_props(model, {**{p.key: p.value for p in model.metadata_props}, "precision": "int8-cpu"})
        return model.SerializeToString(), quantize.QuantizeReport([], {}, 0.0, 0.0)

    monkeypatch.setattr(quantize, "export_int8", quick)
    for instants in (2, 3, 2):
        monkeypatch.setattr(quantize, "QuantizeOptions", partial(QuantizeOptions, instants=instants))
        FastBEV(weights, precision="int8").close()
    monkeypatch.setattr(quantize, "METHOD", quantize.METHOD + 1)
    FastBEV(weights, precision="int8").close()
    assert made == [2, 3, 2]
    assert len(list((tmp_path / "cache" / "graphs").glob("*-int8-cpu-*.onnx"))) == 3


def test_a_kept_graph_of_another_precision_is_found_out(weights: Path, drives: list[int], monkeypatch: Any) -> None:
    """Whatever lies under the name of the INT8 graph: a float one is refused, never run in its place."""
    unchanged = lambda graph, *_: (graph, quantize.QuantizeReport([], {}, 0.0, 0.0))  # noqa: E731
    monkeypatch.setattr(quantize, "export_int8", unchanged)
    with pytest.raises(EngineError, match=r"tiny\.safetensors was exported in fp32, not int8"):
        FastBEV(weights, precision="int8")


def test_long_work_is_heard_of_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    now = [100.0]
    monkeypatch.setattr("bevstack.engine.progress.time.monotonic", lambda: now[0])
    seldom = Seldom(said.append, every=10.0)
    for second in range(25):
        now[0] = 100.0 + second
        seldom(f"layer {second}")
    assert said == ["layer 10", "layer 20"]
