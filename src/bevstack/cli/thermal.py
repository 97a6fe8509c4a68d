"""``bevstack thermal``: what the machine's sensors say, whether the model still holds, what a board can carry."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from .plainly import plainly

thermal_app = typer.Typer(help="Heat: live zones, model check, power plan.", no_args_is_help=True)

Period = Annotated[float, typer.Option(help="Seconds between readings.")]
Root = Annotated[Path, typer.Option(help="Where sysfs is mounted.")]
Readings = Annotated[Path | None, typer.Option(help="Also write every reading to this file.")]


@thermal_app.command()
@plainly
def zones(
    seconds: Annotated[float, typer.Option(help="How long to show values; 0 shows them once.")] = 0.0,
    period: Period = 1.0,
    root: Root = Path("/sys"),
    csv: Readings = None,
) -> None:
    """Show every temperature sensor, its trip points, and signs of throttling."""
    from bevstack.thermal.live import show

    show(root, seconds=seconds, period=period, csv=csv, write=typer.echo, sleep=time.sleep)


@thermal_app.command()
@plainly
def watch(
    seconds: Annotated[float, typer.Option(help="How long to watch.")] = 60.0,
    period: Period = 1.0,
    root: Root = Path("/sys"),
    csv: Readings = None,
) -> None:
    """Show live values of every temperature sensor for a minute."""
    from bevstack.thermal.live import show

    show(root, seconds=seconds, period=period, csv=csv, write=typer.echo, sleep=time.sleep)


@thermal_app.command()
@plainly
def check(
    log: Annotated[Path, typer.Argument(help="Recorded run: a bag with the governor's states, or a CSV file.")],
    calibration: Annotated[Path | None, typer.Option(help="The stored thermal calibration that is to be checked.")] = None,
    reference: Annotated[Path | None, typer.Option(help="Instead: a log of a healthy run with alternating rungs.")] = None,
    topic: Annotated[str, typer.Option(help="Topic of the states; empty: the only one in the bag.")] = "",
    window: Annotated[float, typer.Option(min=60.0, help="Seconds per test.")] = 600.0,
    frame_ms: Annotated[float, typer.Option(min=1.0, help="Frame budget, ms: 5 % of it do not matter.")] = 100.0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all reports to this file.")] = None,
) -> None:
    """Is the thermal and latency model still right? Exit code 1 if an alarm is raised."""
    from .thermal_check import show_check

    reports = show_check(
        log,
        calibration=calibration,
        reference=reference,
        topic=topic,
        window=window,
        frame_ms=frame_ms,
        json_file=json_file,
    )
    if any(report.alarm for report in reports):
        raise typer.Exit(1)


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
