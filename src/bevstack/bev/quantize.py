"""INT8 and FP16 forms of an exported whole graph: ``bevstack export fastbev --int8`` and ``--fp16``; docs/export.md.

INT8 is post-training quantisation with ONNX Runtime's QDQ form: quantise and dequantise pairs around operators, weights per
channel, ranges of activations from instants like those of the training. Not every layer bears it: each one is first quantised
alone, and those that disturb the boxes most stay in float until the rest of the graph together stays below a limit.
Inputs and outputs keep their float types, so the file runs wherever the float graph did.
"""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from bevstack.engine.onnx_graph import prepared
from bevstack.errors import EngineError

from .config import FastBEVConfig

if TYPE_CHECKING:
    from bevstack.engine import Engine

Feed = dict[str, NDArray[Any]]
Maps = dict[str, NDArray[Any]]
Target = Literal["cpu", "tensorrt"]

# Training seeds start at 10 000; the weights that ship were trained on far fewer drives than lie below this one.
FIRST_SEED = 900_000
# Part of the name under which a node keeps its INT8 graph: raise it when the same options make another graph.
METHOD = 1
UNITS = ("Conv", "Gemm", "MatMul", "Add", "Concat", "Gather", "Resize")
KINDS = (*UNITS, "Relu")
_NO_INSTANTS = "no instants to take ranges from: give at least one for ranges and one for errors"


@dataclass(frozen=True)
class QuantizeOptions:
    """How a graph is quantised.

    Attributes:
        target: "cpu" takes unsigned activations with a zero point; "tensorrt" signed symmetric ones, as TensorRT asks for.
        instants: how many are looked at for the ranges. ``scan``: how many for the errors of single layers.
        first_seed: simulated drives from here on; never those of the evaluation (below 10 000).
        clip: share of an instant's values of a tensor that may lie beyond its range, at either end.
        limit: error (see ``disturbance``) up to which no further layer is kept in float.
        narrow: weights of 7 bits, for processors without VNNI, whose 8-bit products saturate.
    """

    target: Target = "cpu"
    instants: int = 24
    scan: int = 4
    first_seed: int = FIRST_SEED
    clip: float = 1e-5
    limit: float = 0.02
    narrow: bool = False


@dataclass(frozen=True)
class QuantizeReport:
    """What was done. ``alone``: error of each layer when it is the only one quantised, worst first; ``kept``: those in float;
    ``everything``: error with none kept; ``error``: with them kept."""

    kept: list[str]
    alone: dict[str, float]
    everything: float
    error: float
    bytes_before: int = 0
    bytes_after: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """All of it."""
        return json.dumps(vars(self), indent=1)


def instants_of_drives(count: int, first_seed: int, *, per_drive: int = 4, image_width: int = 800) -> Iterator[Any]:
    """``FrameSet`` or None: instants of simulated drives at 2 per second; None where a drive ends (forget the past there)."""
    from bevstack.frames.sim import SimulatedDrive

    seen, seed = 0, first_seed
    while seen < count:
        with SimulatedDrive(seed, rate=2.0, duration=per_drive / 2.0, image_width=image_width) as drive:
            for instant in drive:
                yield instant
                seen += 1
                if seen == count:
                    return
        yield None
        seed += 1


class _Recorder:
    """An engine that hands every call on and keeps copies of its inputs and outputs."""

    name = "recorder"

    def __init__(self, engine: Engine, keep: Callable[[Feed, Maps], None]) -> None:
        self._engine, self._keep = engine, keep

    def run(self, inputs: Any) -> Maps:
        out = self._engine.run(inputs)
        self._keep({k: np.array(v) for k, v in inputs.items()}, dict(out))
        return out

    def close(self) -> None:
        self._engine.close()


def recorded(graph: Path, instants: Iterable[Any]) -> Iterator[tuple[Feed, Maps]]:
    """(inputs, float outputs) of the whole graph for every instant, history included; one at a time, as it is asked for."""
    from .fastbev import FastBEV
    from .runner import WholeRunner

    found: list[tuple[Feed, Maps]] = []
    bev = FastBEV(graph)
    runner = bev.runner
    assert isinstance(runner, WholeRunner)
    runner.engine = _Recorder(runner.engine, lambda feed, maps: found.append((feed, maps)))
    try:
        for instant in instants:
            if instant is None:
                bev.reset()
            else:
                bev(instant)
            yield from found
            found.clear()
    finally:
        bev.close()


def disturbance(found: Maps, wanted: Maps, config: FastBEVConfig) -> float:
    """How far head maps are from the float graph's, where it matters: 0 is equal, 1 is useless.

    Sum of two parts: change of the scores above 0.02, relative to their sum; and mean change of the box deltas of anchors above
    the score threshold, weighted by score (a delta of 1 is an anchor's diagonal, its height, or a factor e).
    """
    kinds, classes = config.anchors.per_cell, len(config.classes)

    def scores(maps: Maps) -> NDArray[np.float64]:
        logits = np.clip(maps["cls"].astype(np.float64), -60, 60)
        return np.asarray(1.0 / (1.0 + np.exp(-logits))).reshape(kinds, classes, -1)

    theirs, ours = scores(wanted), scores(found)
    seen = np.maximum(theirs, ours) > 0.02
    score_error = float(np.abs(ours - theirs)[seen].sum() / max(1e-6, theirs[theirs > 0.02].sum()))
    weight = theirs.max(1)
    weight = np.where(weight > config.post.score_threshold, weight, 0.0)
    change = np.abs(found["reg"] - wanted["reg"]).reshape(kinds, config.anchors.code_size, -1).mean(1)
    return score_error + float((weight * change).sum() / max(1e-6, weight.sum()))


def _session(model: Any, outputs: Sequence[str] | None = None) -> Callable[[Feed], Maps]:
    """Runs a model proto; ``outputs`` instead of its own."""
    from bevstack.engine.onnx import OnnxEngine

    engine = OnnxEngine(model.SerializeToString())
    if outputs is not None:
        engine.outputs = list(outputs)
    return engine.run


def _float_tensors(model: Any) -> list[str]:
    """Names of all float32 values: graph inputs, intermediate values, outputs."""
    import onnx

    wanted = onnx.TensorProto.FLOAT
    values = [*model.graph.input, *model.graph.value_info, *model.graph.output]
    return list(dict.fromkeys(v.name for v in values if v.type.tensor_type.elem_type == wanted))


def activation_ranges(model: Any, feeds: Iterable[Feed], clip: float) -> dict[str, tuple[float, float]]:
    """(lowest, highest) of every float value: the widest over the feeds of each one's ``clip`` quantiles."""
    import onnx

    names = _float_tensors(model)
    inputs = {v.name for v in model.graph.input}
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    own = {v.name for v in model.graph.output}
    inner = [n for n in names if n not in inputs]
    watched.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in inner if n not in own)
    run = _session(watched, inner)
    found: dict[str, tuple[float, float]] = {}
    for feed in feeds:
        values = {**{k: v for k, v in feed.items() if k in names}, **run(feed)}
        for name, value in values.items():
            low, high = _extent(np.asarray(value).reshape(-1), clip)
            before = found.get(name, (low, high))
            found[name] = (min(low, before[0]), max(high, before[1]))
    return found


def _extent(values: NDArray[Any], clip: float) -> tuple[float, float]:
    if not values.size:
        return 0.0, 0.0
    beyond = int(clip * values.size)
    if beyond:
        ordered = np.partition(values, (beyond, values.size - 1 - beyond))
        return float(ordered[beyond]), float(ordered[-1 - beyond])
    return float(values.min()), float(values.max())


def layers(model: Any) -> dict[str, list[str]]:
    """What is quantised or kept as one: an operator of ``UNITS`` and the Relu that alone reads it, by the operator's name.

    Head maps end in a selection of the single instant, which is left out: it would quantise the answer.
    """
    readers: dict[str, list[Any]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {v.name for v in model.graph.output}
    floats = set(_float_tensors(model)) | {i.name for i in model.graph.initializer}
    found: dict[str, list[str]] = {}
    for node in model.graph.node:
        if node.op_type not in UNITS or node.input[0] not in floats:
            continue
        if node.op_type in ("Gather", "Concat") and node.output[0] in outputs:
            continue
        after = readers.get(node.output[0], [])
        follower = [after[0].name] if len(after) == 1 and after[0].op_type == "Relu" else []
        found[node.name] = [node.name, *follower]
    return found


def quantised(model: Any, ranges: dict[str, tuple[float, float]], nodes: Iterable[str], options: QuantizeOptions) -> Any:
    """``model`` with exactly ``nodes`` in INT8 (a new model proto)."""
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType, TensorsData

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    chosen = list(nodes)
    if not chosen:  # to the quantiser an empty list means everything
        return copy
    signed = options.target == "tensorrt"
    kind = QuantType.QInt8 if signed else QuantType.QUInt8
    limits = {k: (np.array(low, np.float32), np.array(high, np.float32)) for k, (low, high) in ranges.items()}
    with _quiet():
        quantizer = QDQQuantizer(
            copy,
            per_channel=True,
            reduce_range=options.narrow,
            weight_qType=QuantType.QInt8,
            activation_qType=kind,
            tensors_range=TensorsData(CalibrationMethod.MinMax, limits),
            nodes_to_quantize=chosen,
            nodes_to_exclude=[],
            op_types_to_quantize=list(KINDS),
            # TensorRT fuses Relu itself and has no integer bias; elsewhere an unsigned type makes most of them superfluous.
            extra_options={"ActivationSymmetric": signed, "QDQKeepRemovableActivations": signed, "QuantizeBias": not signed},
        )
        quantizer.quantize_model()
    result = quantizer.model.model
    onnx.helper.set_model_props(result, {p.key: p.value for p in model.metadata_props})
    return result


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """ONNX Runtime's quantiser warns through the root logger about every tensor that it leaves alone."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def quantise_graph(
    graph: bytes,
    config: FastBEVConfig,
    ranging: Iterable[tuple[Feed, Maps]],
    checking: Sequence[tuple[Feed, Maps]],
    options: QuantizeOptions | None = None,
    report: Callable[[str], None] | None = None,
) -> tuple[bytes, QuantizeReport]:
    """INT8 form of a whole graph.

    Args:
        graph: an exported whole graph (float32).
        ranging: recorded inputs (and outputs) for the ranges; each is looked at once and not kept. ``checking``: others, for
            the errors.
        report: told what is being done, line by line.

    Raises:
        EngineError: a package is missing, or nothing was recorded.
    """
    options = options or QuantizeOptions()
    say = report or (lambda line: None)
    if not checking:
        raise EngineError(_NO_INSTANTS)
    try:
        import onnxruntime.quantization  # noqa: F401
    except ImportError as missing:
        raise EngineError(f"INT8 export needs the package {missing.name}: pip install 'bevstack[export]'") from missing
    model = prepared(graph)
    ranges = activation_ranges(model, (feed for feed, _ in ranging), options.clip)
    if not ranges:
        raise EngineError(_NO_INSTANTS)
    units = layers(model)

    def error(nodes: Iterable[str]) -> float:
        run = _session(quantised(model, ranges, nodes, options))
        return float(np.mean([disturbance(run(feed), maps, config) for feed, maps in checking]))

    alone: dict[str, float] = {}
    for number, (name, nodes) in enumerate(units.items(), start=1):
        alone[name] = error(nodes)
        say(f"layer {number} of {len(units)}: {name} {alone[name]:.4f}")

    def together(kept: Sequence[str]) -> float:
        found = error(n for name, nodes in units.items() if name not in kept for n in nodes)
        say(f"{len(kept)} layers in float: {found:.4f}")
        return found

    worst = sorted(alone, key=lambda name: -alone[name])
    kept, everything, found = layers_to_keep(worst, together, options.limit)
    content = _final(model, ranges, [n for name, nodes in units.items() if name not in kept for n in nodes], options)
    about = QuantizeReport(
        kept=kept,
        alone={name: round(alone[name], 5) for name in worst},
        everything=round(everything, 5),
        error=round(found, 5),
        bytes_before=len(graph),
        bytes_after=len(content),
        options=dict(vars(options)),
    )
    return content, about


def layers_to_keep(
    worst: Sequence[str], together: Callable[[Sequence[str]], float], limit: float
) -> tuple[list[str], float, float]:
    """Which layers stay in float: more and more of ``worst`` (most sensitive first) until ``together(kept)`` meets the limit.

    Returns:
        The layers, the error with none kept, the error with these kept.
    """
    kept = 0
    everything = found = together([])
    while found > limit and kept < len(worst):
        kept = min(len(worst), kept + max(1, kept // 4))
        found = together(worst[:kept])
    return list(worst[:kept]), everything, found


def _final(model: Any, ranges: dict[str, tuple[float, float]], nodes: list[str], options: QuantizeOptions) -> bytes:
    import onnx

    result = quantised(model, ranges, nodes, options)
    props = {p.key: p.value for p in result.metadata_props}
    onnx.helper.set_model_props(result, {**props, "precision": f"int8-{options.target}"})
    return bytes(result.SerializeToString())


def export_int8(
    graph: bytes,
    config: FastBEVConfig,
    options: QuantizeOptions | None = None,
    report: Callable[[str], None] | None = None,
) -> tuple[bytes, QuantizeReport]:
    """``quantise_graph`` with instants of simulated drives.

    Raises:
        EngineError: see ``quantise_graph``; or seeds that belong to the evaluation.
    """
    options = options or QuantizeOptions()
    say = report or (lambda line: None)
    if options.first_seed < 10_000:
        raise EngineError(f"first seed {options.first_seed}: seeds below 10000 are kept for evaluation")
    with tempfile.TemporaryDirectory(prefix="bevstack-") as folder:
        file = Path(folder) / "float.onnx"
        file.write_bytes(graph)
        say(f"simulated drives from seed {options.first_seed} on: {options.instants + options.scan} instants")
        checking = list(recorded(file, instants_of_drives(options.scan, options.first_seed + 50_000)))
        ranging = recorded(file, instants_of_drives(options.instants, options.first_seed))
        return quantise_graph(graph, config, ranging, checking, options, report)


def half_precision(graph: bytes) -> bytes:
    """FP16 form: weights and everything inside in float16, normalisation of the images, inputs and outputs as they were.

    Raises:
        EngineError: a package is missing.
    """
    try:
        import onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16
    except ImportError as error:
        raise EngineError(f"FP16 export needs the package {error.name}: pip install 'bevstack[export]'") from error
    model = prepared(graph)
    # Up to 255 before the mean is taken off: half precision would round that to a tenth of a grey level.
    keep = [n.name for n in model.graph.node if n.op_type in ("Sub", "Mul", "Cast") and n.name.startswith("/image/")]
    with _quiet():
        result = convert_float_to_float16(model, keep_io_types=True, node_block_list=keep)
    onnx.helper.set_model_props(result, {**{p.key: p.value for p in model.metadata_props}, "precision": "fp16"})
    return bytes(result.SerializeToString())
