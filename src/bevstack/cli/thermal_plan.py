"""``bevstack thermal plan``: budgets as a table, the board as a map, both as files."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bevstack.thermal.elliptic import PlanError
from bevstack.thermal.plan import Plan


def show_plan(
    path: Path | None,
    *,
    alpha: float,
    overlap: int,
    mode: str,
    parallel: bool,
    picture: Path | None,
    json_file: Path | None,
    console: Console | None = None,
) -> Plan:
    """Reads the floorplan (None: the built-in example), plans, prints.

    Raises:
        PlanError: a file that cannot be read or written, or numbers no plan can be made for.
    """
    try:
        import scipy  # noqa: F401 - asked for before anything is read
    except ImportError:
        raise PlanError("thermal plan needs scipy: pip install 'bevstack[plan]'") from None
    from bevstack.thermal.floorplan import read_floorplan
    from bevstack.thermal.plan import make_plan, text_map

    out = console or Console()
    file = path or Path(__file__).parents[1] / "thermal" / "example_board.yaml"
    board = read_floorplan(file)
    made = make_plan(board, alpha=alpha, overlap=overlap, mode=mode, kind="restricted" if parallel else "multiplicative")
    if path is None:
        out.print("Example board with invented numbers: give a floorplan file for yours (docs/thermal-tools.md).")
    for line in text_map(made.field, board, width=max(20, min(96, out.width - 4))):
        out.print(line, markup=False, highlight=False)
    meaning = {
        "at-most": "no block's mean above its limit",
        "hottest": "no cell of a block above its limit",
        "track": "means as near to their limits as can be",
    }
    table = Table(title=f"power budgets: {meaning[mode]} (limits less margin)")
    for title in ("block", "chip", "budget W", "of W", "mean C", "peak C", "limit C", "rungs", "need W"):
        table.add_column(title, justify="left" if title in ("block", "chip", "rungs") else "right")
    for b in made.budgets:
        rungs = ", ".join(f"{c.model} {c.rung.name}{'' if c.fits else ' (does not fit)'}" for c in b.rungs)
        values = (f"{b.power:.2f}", f"{b.most:g}", f"{b.celsius:.1f}", f"{b.hottest:.1f}", f"{b.limit:.1f}")
        table.add_row(b.block, b.chip, *values, rungs, f"{b.used:g}" if b.rungs else "")
    out.print(table)
    out.print(
        f"alpha {alpha:g} (K/W)^2, scaled {made.alpha_scaled:.3g}. Control problem: {made.method}, {made.sweeps} sweeps in"
    )
    agree = "" if math.isnan(made.difference) else f", differs from the influence matrix by at most {made.difference:.1e} W"
    out.print(f"{made.rounds} active sets{agree}")
    if picture is not None:
        from bevstack.thermal.heatmap import draw, write

        write(picture, draw(made, board))
        out.print(f"picture: {picture}")
    if json_file is not None:
        report = {
            "alpha": alpha,
            "method": made.method,
            "sweeps": made.sweeps,
            "budgets": [asdict(b) for b in made.budgets],
            "influence_K_per_W": made.influence.tolist(),
        }
        try:
            json_file.write_text(json.dumps(report, indent=2) + "\n")
        except OSError as error:
            raise PlanError(f"{json_file} cannot be written: {error.strerror}") from None
    return made
