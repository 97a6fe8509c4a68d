"""Ladders from a YAML file: which node runs which model family, its rungs, and what they are worth and cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .rungs import LadderError, LadderInfo, RungInfo

BUILT_IN = Path(__file__).with_name("ladders.yaml")


@dataclass(frozen=True)
class GovernedLadder:
    """A ladder, the ROS node that runs it, and the message type of that node's ``~/status``."""

    node: str
    info: LadderInfo
    status: str = "stack_msgs/msg/PipelineStatus"


def read_ladders(path: Path | None = None, models: Sequence[str] = ()) -> list[GovernedLadder]:
    """The ladders of a file (None: the built-in one), all or only those of ``models``, in the file's order.

    Raises:
        LadderError: missing file, other format, a value that cannot be right, a model that the file does not have.
    """
    file = path or BUILT_IN
    try:
        loaded = yaml.safe_load(file.read_text())
    except OSError as error:
        raise LadderError(f"ladders {file} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise LadderError(f"ladders {file} is not YAML: {' '.join(str(error).split())[:200]}") from None
    entries = loaded.get("ladders") if isinstance(loaded, dict) else None
    if not isinstance(entries, list) or not entries:
        raise LadderError(f"ladders {file}: it must hold a list 'ladders' with at least one entry")
    found = [_ladder(entry, f"{file}: ladder {k + 1}") for k, entry in enumerate(entries)]
    names = [ladder.info.model for ladder in found]
    if len(set(names)) != len(names):
        raise LadderError(f"ladders {file}: a model stands there twice: {', '.join(names)}")
    unknown = [model for model in models if model not in names]
    if unknown:
        raise LadderError(f"ladders {file}: there is no model {unknown[0]!r}, only {', '.join(names)}")
    return [ladder for ladder in found if not models or ladder.info.model in models]


def _ladder(entry: Any, place: str) -> GovernedLadder:
    known = {"model", "node", "unit", "priority", "floor", "rates", "rungs", "status"}
    if not isinstance(entry, dict) or not isinstance(entry.get("rungs"), dict) or not isinstance(entry.get("model"), str):
        raise LadderError(f"{place}: it must have model, node and rungs")
    if unknown := sorted(set(map(str, entry)) - known):
        raise LadderError(f"{place}: unknown field {unknown[0]!r}, use {', '.join(sorted(known))}")
    place = f"{place} ({entry['model']})"
    rungs = []
    for name, values in entry["rungs"].items():
        if not isinstance(values, dict):
            raise LadderError(f"{place}: rung {name} must be {{quality: ..., power: ...}}")
        if unknown := sorted(set(map(str, values)) - {"quality", "power", "latency", "measured"}):
            raise LadderError(f"{place}: rung {name} has an unknown field {unknown[0]!r}")
        quality, power = _number(values, "quality", place), _number(values, "power", place)
        latency = _number(values, "latency", place, 0.0)
        rungs.append(RungInfo(str(name), quality, power, latency, bool(values.get("measured", False))))
    rates = entry.get("rates", [1.0, 0.5, 0.25])
    if not isinstance(rates, list) or not all(isinstance(r, int | float) for r in rates):
        raise LadderError(f"{place}: rates is {rates!r}: give a list of shares, 1.0 among them")
    floor = entry.get("floor")
    info = LadderInfo(
        entry["model"],
        tuple(rungs),
        _number(entry, "priority", place, 1.0),
        str(entry.get("unit", "gpu")),
        str(floor) if floor is not None else None,
        tuple(float(r) for r in rates),
    )
    node = str(entry.get("node") or f"{entry['model']}_node")
    return GovernedLadder(node, info, str(entry.get("status", GovernedLadder.status)))


def _number(values: dict[Any, Any], key: str, place: str, default: float | None = None) -> float:
    value = values.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise LadderError(f"{place}: {key} is {value!r}: give a number")
    return float(value)
