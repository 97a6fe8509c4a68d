"""From a budget to a backbone, measured at the end: what ``bevstack search backbone`` does."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from bevstack.nn.superblocks import SuperBlockConfig

from .evolution import Budget, Found, SearchError, SearchSettings, search
from .operators import OperatorTable, measure_backbone
from .published import START

_ROUNDS = 4
_TIGHTER = 0.92  # fixed steps, so that noise in a measurement rarely changes the result
_TOLERANCE = 1.02
_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "ms": 1.0, "s": 1e3, "us": 1e-3}
_FIELDS = {"flops": "flops", "macs": "macs", "params": "parameters", "layers": "layers", "latency": "latency_ms"}


@dataclass(frozen=True)
class Outcome:
    """A found structure and, where latency was budgeted, what it really takes here (``measured_ms``, fastest run)."""

    found: Found
    budget: Budget
    measured_ms: float | None
    rounds: int


def parse_budget(text: str) -> Budget:
    """``flops=18.8G,layers=91`` or ``latency=20ms,params=3M``: limits separated by commas.

    Raises:
        SearchError: an unknown limit, or a value that is no positive number.
    """
    limits: dict[str, float | int] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, _, value = (s.strip().lower() for s in part.partition("="))
        match = re.fullmatch(r"(\d+(?:\.\d*)?(?:e\d+)?)\s*(k|m|g|t|ms|s|us|)", value)
        if name not in _FIELDS or match is None or not float(match[1]) > 0:
            raise SearchError(
                f"budget {part!r}: write {', '.join(_FIELDS)} as in flops=18.8G, params=3M, layers=91, latency=20ms"
            )
        timed = match[2] in ("ms", "s", "us")
        if timed != (name == "latency"):
            raise SearchError(f"budget {part!r}: latency has a unit of time (ms, s), the others none of time")
        number = float(match[1]) * _UNITS[match[2]]
        limits[_FIELDS[name]] = int(number) if name == "layers" else number
    if not limits:
        raise SearchError(f"budget {text!r} has no limit: write for example flops=18.8G,layers=91 or latency=20ms")
    return Budget(**limits)  # type: ignore[arg-type]


def find_backbone(
    budget: Budget,
    settings: SearchSettings,
    table: OperatorTable | None = None,
    *,
    start: SuperBlockConfig = START,
    on_progress: Callable[[int, float], None] | None = None,
) -> Outcome:
    """Search; with a latency budget, run the winner and search again with a tighter prediction while it is too slow,
    each time by 8 %.

    Args:
        table: of this machine; needed for a latency budget.

    Raises:
        SearchError: see ``search``; or the winner is still over the latency budget after four rounds.
    """
    if budget.latency_ms is None:
        return Outcome(search(budget, settings, start=start, on_progress=on_progress), budget, None, 1)
    if table is None:
        raise SearchError("a latency budget needs an operator table: measure one")
    limit = budget.latency_ms
    for n in range(1, _ROUNDS + 1):
        found = search(replace(budget, latency_ms=limit), settings, start=start, latency=table.latency, on_progress=on_progress)
        measured = measure_backbone(found.config, table.image_hw, table.engine, table.threads)
        if measured <= budget.latency_ms * _TOLERANCE:
            return Outcome(found, budget, measured, n)
        limit *= _TIGHTER
    raise SearchError(
        f"the best structure takes {measured:.1f} ms here, over the budget of {budget.latency_ms:g} ms, after {_ROUNDS} rounds"
        ": measure the operator table again on a quieter machine, or raise the budget"
    )
