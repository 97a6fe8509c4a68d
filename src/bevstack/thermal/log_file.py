"""Recorded runs as CSV: what ``bevstack thermal check`` reads besides bags.

First column ``seconds``; then in any order ``zone <key>`` (degC, empty where there was no reading), ``power <unit>`` (watts),
``latency <model>`` and ``expected <model>`` (milliseconds, empty where nothing was finished).
"""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np

from .check import Log
from .config import GovernorError

_KINDS = ("zone", "power", "latency", "expected")


def read_log(path: Path) -> Log:
    """A log of a CSV file.

    Raises:
        GovernorError: one line: the file, the row, what is wrong with it.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise GovernorError(f"cannot read log {path}: {error}") from None
    if not rows or not rows[0] or rows[0][0].strip() != "seconds":
        raise GovernorError(f"{path}: the first column must be called seconds")
    if rows[0][1:2] == ["zone"]:
        why = "it has no power, and without power nothing can be checked"
        raise GovernorError(f"{path} is what thermal watch wrote: {why}; record the governor's state instead")
    names: list[tuple[str, str]] = []
    for cell in rows[0][1:]:
        kind, _, name = cell.strip().partition(" ")
        if kind not in _KINDS or not name:
            raise GovernorError(f"{path}: column {cell.strip()!r}: call it {', '.join(f'{kind} NAME' for kind in _KINDS)}")
        names.append((kind, name))
    table = np.full((len(rows) - 1, len(rows[0])), math.nan)
    for n, row in enumerate(rows[1:]):
        if len(row) != len(rows[0]):
            raise GovernorError(f"{path}: line {n + 2} has {len(row)} columns, the first line has {len(rows[0])}")
        for k, cell in enumerate(row):
            try:
                table[n, k] = float(cell) if cell.strip() else math.nan
            except ValueError:
                raise GovernorError(f"{path}: line {n + 2}: {cell[:40]!r} is no number") from None
    kinds: dict[str, dict[str, np.ndarray]] = {kind: {} for kind in _KINDS}
    for k, (kind, name) in enumerate(names):
        kinds[kind][name] = table[:, k + 1]
    return checked(Log(table[:, 0], kinds["zone"], kinds["power"], kinds["latency"], kinds["expected"]), str(path))


def checked(log: Log, source: str) -> Log:
    """The log, if it can be used.

    Raises:
        GovernorError: no rows, time that does not rise, gaps in power, no zone and no latency.
    """
    if len(log.time) < 2:
        raise GovernorError(f"{source}: {len(log.time)} rows are no log")
    if not np.isfinite(log.time).all() or (np.diff(log.time) <= 0).any():
        raise GovernorError(f"{source}: seconds must rise from row to row")
    if not log.celsius and not log.latency:
        raise GovernorError(f"{source}: there is neither a zone nor a latency in it")
    if log.celsius and not log.power:
        raise GovernorError(f"{source}: zones need the power of at least one unit: column 'power NAME'")
    for unit, watts in log.power.items():
        if not np.isfinite(watts).all():
            raise GovernorError(f"{source}: power {unit} has gaps: write the watts of every row")
    return log


def write_log(path: Path, log: Log) -> None:
    """The same format.

    Raises:
        GovernorError: the file cannot be written.
    """
    columns = {"seconds": log.time}
    for kind, values in zip(_KINDS, (log.celsius, log.power, log.latency, log.expected)):
        columns |= {f"{kind} {name}": column for name, column in values.items()}
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            for row in zip(*columns.values()):
                writer.writerow("" if math.isnan(value) else f"{value:.6g}" for value in row)
    except OSError as error:
        raise GovernorError(f"cannot write log {path}: {error.strerror}") from None
