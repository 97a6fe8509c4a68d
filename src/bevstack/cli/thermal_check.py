"""``bevstack thermal check``: is the stored thermal model, and the latency model, still right on a recorded run?"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from bevstack.thermal.calibration import Calibration
from bevstack.thermal.check import CheckConfig, Log, Report, check_latency, check_log, references, references_from_log
from bevstack.thermal.config import GovernorError
from bevstack.thermal.log_file import checked, read_log

STATE = "stack_msgs/msg/GovernorState"
_FRAMES = 400  # per window of the latency check


def show_check(
    path: Path,
    *,
    calibration: Path | None,
    reference: Path | None,
    topic: str,
    window: float,
    frame_ms: float,
    json_file: Path | None,
    console: Console | None = None,
) -> list[Report]:
    """Checks a log and prints one line per window.

    Raises:
        BevstackError: a file that cannot be read or written, or nothing in it that could be checked.
    """
    out = console or Console()
    log = load_log(path, topic)
    config = CheckConfig(window=window)
    reports: list[Report] = []
    if calibration is not None and reference is not None:
        raise GovernorError("give --calibration or --reference, not both")
    if calibration is not None:
        stored = Calibration.load(calibration)
        known = [r for r in references(stored, _spans(log)) if r.zone in log.celsius]
        if not known:
            raise GovernorError(f"no zone of {calibration} is in {path}: it has {', '.join(log.celsius) or 'none'}")
        _units_there(known[0].units, log, path)
        reports += check_log(log, known, config)
    elif reference is not None:
        before = load_log(reference, topic)
        stored_taus = (3.0, 25.0, 150.0)
        known = [r for r in references_from_log(before, stored_taus) if r.zone in log.celsius]
        _units_there(known[0].units if known else (), log, path)
        reports += check_log(log, known, config)
    elif log.celsius:
        out.print("no --calibration and no --reference: temperatures are not checked", style="yellow")
    reports += latency_reports(log, frame_ms)
    if not reports:
        length = float(log.time[-1] - log.time[0])
        raise GovernorError(
            f"{path}: {length:.0f} s are too short for one window: temperatures need {config.settle:g} s of history and "
            f"{window:g} s, latencies {_FRAMES} rows with an expectation"
        )
    _print(out, reports)
    if json_file is not None:
        try:
            json_file.write_text(json.dumps([_plain(report) for report in reports], indent=1) + "\n")
        except OSError as error:
            raise GovernorError(f"cannot write {json_file}: {error.strerror}") from None
    return reports


def load_log(path: Path, topic: str = "") -> Log:
    """A CSV file, or the governor's states in a bag.

    Args:
        path: ``.csv``, or a bag's folder or file. topic: of the states; empty: the only one in the bag.

    Raises:
        BevstackError: it is neither, or holds no states.
    """
    from bevstack.frames.bag_reader import BagReader, is_bag

    if path.suffix == ".csv":
        return read_log(path)
    if not path.exists() or not is_bag(path):
        raise GovernorError(f"{path} is neither a .csv log nor a bag: record the governor's ~/state, or write a CSV")
    from bevstack.ros.runtime.typestore import typestore

    with BagReader(path) as bag:
        found = [name for name, known in bag.topics.items() if known.type == STATE and (not topic or name == topic)]
        if len(found) != 1:
            what = f"{len(found)} topics" if found else "no topic"
            raise GovernorError(
                f"{path} has {what} of type {STATE}{f' called {topic}' if topic else ''}: say which with --topic"
            )
        states = [typestore().deserialize_cdr(m.raw, STATE) for m in bag.messages([found[0]])]
    return checked(log_of_states(states), str(path))


def log_of_states(states: Sequence[Any]) -> Log:
    """Rows of a log from GovernorState messages, in time order; what a message does not tell is NaN (power: 0)."""
    times = [s.header.stamp.sec + s.header.stamp.nanosec * 1e-9 for s in states]
    order: list[int] = []
    for n, t in enumerate(times):
        if not order or t > times[order[-1]]:  # states that came twice, or a clock that was set back
            order.append(n)
    kept = [states[n] for n in order]
    begin = times[order[0]] if order else 0.0

    def columns(names: str, values: str, only: str = "", missing: float = math.nan) -> dict[str, np.ndarray]:
        made: dict[str, np.ndarray] = {}
        for row, state in enumerate(kept):
            flags = getattr(state, only) if only else [True] * len(getattr(state, names))
            for name, value, flag in zip(getattr(state, names), getattr(state, values), flags):
                if flag:
                    made.setdefault(name, np.full(len(kept), missing))[row] = value
        return made

    return Log(
        np.array([times[n] - begin for n in order]),
        columns("zones", "celsius", "control"),
        columns("units", "unit_power", missing=0.0),
        columns("models", "latency", "alive"),
        columns("models", "expected", "alive"),
    )


def latency_reports(log: Log, frame_ms: float) -> list[Report]:
    """Latency = a + b * what the rung should take: one report per model and 400 items.

    A misfit that goes with temperature shows heat or other programs that the model does not know.
    """
    reports = []
    hottest = np.full(len(log.time), math.nan)
    for values in log.celsius.values():
        hottest = np.fmax(hottest, values)
    for model, latency in log.latency.items():
        expected = log.expected.get(model, np.full(len(latency), math.nan))
        good = np.isfinite(latency) & np.isfinite(expected)
        with_heat = bool(np.isfinite(hottest[good]).all()) and bool(good.any())
        rows = np.flatnonzero(good)
        for n in range(len(rows) // _FRAMES):
            part = rows[n * _FRAMES : (n + 1) * _FRAMES]
            x = np.column_stack([expected[part], *([hottest[part]] if with_heat else [])])
            z = np.column_stack([np.ones(len(part)), expected[part]])
            start = float(log.time[part[0]])
            reports.append(check_latency(latency[part], z, x, subject=f"latency {model}", budget=frame_ms, seed=n, start=start))
    return reports


def _spans(log: Log) -> dict[str, float]:
    return {unit: float(np.ptp(watts)) for unit, watts in log.power.items()}


def _units_there(units: Sequence[str], log: Log, path: Path) -> None:
    missing = [unit for unit in units if unit not in log.power]
    if missing:
        raise GovernorError(f"{path} has no power of unit {missing[0]!r}: it has {', '.join(log.power) or 'none'}")


def _print(out: Console, reports: Sequence[Report]) -> None:
    table = Table()
    for title in ("what", "from s", "samples", "T", "p", "S", "rms refit", "rms stored", "effect", "verdict"):
        words = title in ("what", "verdict")
        table.add_column(title, justify="left" if words else "right", no_wrap=words)
    for r in reports:
        verdict = f"{'ALARM ' if r.alarm else ''}{r.verdict.value}"
        numbers = (r.statistic, r.p, r.cumulative, r.rms_refit, r.rms_frozen, r.effect)
        cells = ["" if math.isnan(v) else f"{v:.2g}" if k == 1 else f"{v:.2f}" for k, v in enumerate(numbers)]
        table.add_row(r.subject, f"{r.start:.0f}", str(r.samples), *cells, verdict)
    out.print(table)
    for r in reports:
        if r.verdict.value != "OK" or r.alarm:
            out.print(f"{r.subject} from {r.start:.0f} s: {r.why}", highlight=False)
    alarms = sorted({r.subject for r in reports if r.alarm})
    out.print(f"ALARM: {', '.join(alarms)}: do not use the model" if alarms else "no alarm", highlight=False)


def _plain(report: Report) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else getattr(value, "value", value)
        for key, value in asdict(report).items()
    }
