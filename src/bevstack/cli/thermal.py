"""``bevstack thermal``: what the machine's sensors say."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from .plainly import plainly

thermal_app = typer.Typer(help="Heat: live zones, model check, power plan.", no_args_is_help=True)


@thermal_app.command()
@plainly
def zones(
    seconds: Annotated[float, typer.Option(help="How long to show values; 0 shows them once.")] = 0.0,
    period: Annotated[float, typer.Option(help="Seconds between readings.")] = 1.0,
    root: Annotated[Path, typer.Option(help="Where sysfs is mounted.")] = Path("/sys"),
    csv: Annotated[Path | None, typer.Option(help="Also write every reading to this file.")] = None,
) -> None:
    """Show every temperature sensor, its trip points, and signs of throttling."""
    from bevstack.thermal.live import show

    show(root, seconds=seconds, period=period, csv=csv, write=typer.echo, sleep=time.sleep)


@thermal_app.command()
@plainly
def plan(
    board: Annotated[Path | None, typer.Argument(help="Floorplan file (YAML); none: a built-in example.")] = None,
    alpha: Annotated[float, typer.Option(help="Price of power in the control problem, (K/W)^2.")] = 1e-3,
    overlap: Annotated[int, typer.Option(min=0, help="Cells by which each chip's subdomain reaches into its neighbours.")] = 4,
    mode: Annotated[
        str, typer.Option(help="at-most: no block's mean above its limit. hottest: no cell. track: as near to it as can be.")
    ] = "at-most",
    parallel: Annotated[bool, typer.Option(help="All subdomains at once, as separate computers would.")] = False,
    picture: Annotated[Path | None, typer.Option(help="Write the map as PNG or JPEG.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write budgets and rungs to this file.")] = None,
) -> None:
    """Power budgets of a board's blocks that keep its dies at their temperatures, and the rungs that fit them."""
    from .thermal_plan import show_plan

    show_plan(board, alpha=alpha, overlap=overlap, mode=mode, parallel=parallel, picture=picture, json_file=json_file)
