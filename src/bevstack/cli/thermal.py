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
