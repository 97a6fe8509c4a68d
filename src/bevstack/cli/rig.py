"""``bevstack rig`` and ``bevstack eval calibration``: is this rig near enough, and what does a wrong calibration cost."""

from __future__ import annotations

import json as jsonlib
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from .models import eval_app, parse_seeds
from .plainly import plainly

rig_app = typer.Typer(help="Camera rigs: compare one with what a network was trained with.", no_args_is_help=True)


@rig_app.callback()
def _group() -> None:
    """Keeps ``compare`` a word of its own while it is the only command."""


@rig_app.command()
@plainly
def compare(
    source: Annotated[
        str, typer.Argument(help="Anything with calibrated cameras: a bag, a rig file's videos, ros:, sample.json.")
    ],
    model: Annotated[str, typer.Option(help="Rung that will look through it.")] = "fastbev-nano",
    rig: Annotated[Path | None, typer.Option(help="Rig file (YAML) with calibrations, for sources that have none.")] = None,
    json: Annotated[Path | None, typer.Option(help="Also write the numbers to this file.")] = None,
) -> None:
    """Say how far a rig is from the training rig (nuScenes' six cameras): view, height, angles, scale, overlap."""
    from rich.console import Console
    from rich.table import Table

    from bevstack.bev import CONFIGS
    from bevstack.bev.rig_distance import compare_rigs, rig_view
    from bevstack.errors import BevstackError
    from bevstack.frames.sim import nuscenes_rig
    from bevstack.frames.source import open_source

    if model not in CONFIGS:
        raise BevstackError(f"model {model!r} is unknown: use one of {', '.join(CONFIGS)}")
    config = CONFIGS[model]
    with open_source(source, rig=rig) as opened:
        mine, trained = rig_view(opened.cameras, config), rig_view(nuscenes_rig(), config)
    table = Table(title=f"{source} as {model} sees it ({config.image_hw[1]}x{config.image_hw[0]} pixels)")
    heads = ("camera", "view h x v, deg", "yaw", "pitch", "roll, deg", "height m", "focal px", "of grid")
    for column in heads:
        table.add_column(column, justify="left" if column == "camera" else "right")
    for view in mine.cameras.values():
        table.add_row(
            view.name,
            f"{view.horizontal:.0f} x {view.vertical:.0f}",
            *(f"{angle:+.1f}" for angle in (view.yaw, view.pitch, view.roll)),
            f"{view.height:.2f}",
            f"{view.focal:.0f}",
            f"{view.voxels:.1%}",
        )
    out = Console(width=max(Console().width, 100))
    out.print(table)
    out.print(
        f"grid seen {mine.covered:.1%} (training {trained.covered:.1%}), twice {mine.overlap:.1%} ({trained.overlap:.1%})"
    )
    differences = compare_rigs(mine, trained)
    for difference in differences:
        out.print(f"{'far:  ' if difference.serious else 'note: '}{difference.text}", highlight=False)
    if not differences:
        out.print("nothing differs from the training rig by more than a quarter of what is called far")
    if json is not None:
        content = {"mine": asdict(mine), "trained": asdict(trained), "differences": [asdict(d) for d in differences]}
        try:
            json.write_text(jsonlib.dumps(content, indent=2) + "\n")
        except OSError as error:
            raise BevstackError(f"{json} cannot be written: {error.strerror or error}") from None


@eval_app.command("calibration")
@plainly
def eval_calibration(
    errors: Annotated[
        str, typer.Option(help="kind=size,size ... with kinds pitch, roll, mounts (degrees) and height (metres).")
    ] = "pitch=0.5,1,2 roll=1 mounts=0.25,0.5 height=0.2",
    model: Annotated[str, typer.Option(help="Rung or weights file.")] = "fastbev-nano",
    seeds: Annotated[str, typer.Option(help="Drives: A-B, or several separated by commas.")] = "0-3",
    seconds: Annotated[float, typer.Option(help="Length of each drive.")] = 10.0,
    engine: Annotated[Literal["onnx", "torch"], typer.Option(help="Inference engine.")] = "onnx",
    threads: Annotated[int | None, typer.Option(help="Threads of the engine.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the scores to this file.")] = None,
) -> None:
    """Score simulated drives whose cameras are not where the network is told: mAP against calibration error."""
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from bevstack.learn.calibration_error import evaluate_calibration, parse_disturbances

    wanted, numbers = parse_disturbances(errors), parse_seeds(seeds)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("scoring drives", total=None)
        base, losses = evaluate_calibration(
            model,
            wanted,
            numbers,
            engine,
            seconds=seconds,
            threads=threads,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    table = Table(title=f"{model}, simulated drives {seeds}, {base.instants} instants each")
    for column in ("true rig", "mAP", "loss", "corrected mAP", "NDS", "corrected NDS"):
        table.add_column(column, justify="left" if column == "true rig" else "right")
    table.add_row("as told", f"{base.mean_ap:.3f}", "", "", f"{base.nds:.3f}", "")
    for loss in losses:
        table.add_row(
            str(loss.disturbance),
            f"{loss.told.mean_ap:.3f}",
            f"{100 * (base.mean_ap - loss.told.mean_ap):.1f}",
            f"{loss.corrected.mean_ap:.3f}",
            f"{loss.told.nds:.3f}",
            f"{loss.corrected.nds:.3f}",
        )
    Console(width=max(Console().width, 100)).print(table)
    if json_file is not None:
        content = {"model": model, "seeds": numbers, "seconds": seconds, "mAP": base.mean_ap, "NDS": base.nds}
        json_file.write_text(jsonlib.dumps({**content, "errors": [loss.to_json() for loss in losses]}, indent=2) + "\n")
