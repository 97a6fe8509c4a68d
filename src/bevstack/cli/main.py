"""``bevstack``: one command per job. Each calls one function of the room that does the work, imported when it is needed.

Exit codes: 0 done; 1 finished, but something is wrong (``doctor``); 2 what was asked cannot be done (one line on stderr says
why); 130 interrupted (``run`` and ``demo`` finish cleanly and leave 0).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from . import codec, detect, models, rig, search, train_codec
from .plainly import plainly
from .thermal import thermal_app

app = typer.Typer(
    name="bevstack",
    help="Camera perception for vehicle computers: cameras in, boxes in bird's-eye view out, with and without ROS 2.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(models.weights_app, name="weights")
app.add_typer(models.eval_app, name="eval")
app.add_typer(train_codec.train_app, name="train")
app.add_typer(models.export_app, name="export")
app.add_typer(models.sim_app, name="sim")
app.add_typer(codec.codec_app, name="codec")
app.add_typer(rig.rig_app, name="rig")
app.add_typer(thermal_app, name="thermal")
app.add_typer(search.search_app, name="search")
app.command("pseudo-label")(detect.pseudo_label)


Model = Annotated[str, typer.Option(help="Bundled model (rung), for example fastbev-nano.")]
Engine = Annotated[
    str,
    typer.Option(
        help="What runs the network: onnx, cpu (own kernels, float32), onnx-cuda, tensorrt, torch or torch-cuda; onnx takes "
        "over, with a warning, where the machine lacks it."
    ),
]
Precision = Annotated[
    str, typer.Option(help="Numbers inside the BEV network: fp32, fp16 or int8, where the engine offers it; default: its own.")
]
View = Annotated[bool, typer.Option("--view", help="Serve the page (see --view-port).")]
ViewPort = Annotated[int, typer.Option(help="Port of the page; 0 takes any free one.")]
Stay = Annotated[
    bool | None,
    typer.Option(
        "--stay/--no-stay", help="Keep the page open at the end of the source; default: yes with --view in a terminal."
    ),
]


@app.command()
@plainly
def run(
    source: Annotated[
        str,
        typer.Argument(
            help="sim:seed=1,duration=30, a rosbag2 folder, .mcap or .db3 file, a video, /dev/video0, a nuScenes folder, "
            "ros: (live topics)."
        ),
    ],
    model: Model = "fastbev-nano",
    weights: Annotated[Path | None, typer.Option(help="Weights file to use instead of bundled ones.")] = None,
    engine: Engine = "onnx",
    precision: Precision = "",
    record: Annotated[Path | None, typer.Option(help="Record everything into this bag (a rosbag2 folder).")] = None,
    view: View = False,
    view_port: ViewPort = 8080,
    stay: Stay = None,
    rate: Annotated[float, typer.Option(help="Speed of recorded sources; 0 is as fast as possible.")] = 1.0,
    lockstep: Annotated[
        bool | None,
        typer.Option(
            "--lockstep/--realtime",
            help="Wait for the model, so that nothing is lost (default for recorded sources), or drop as a vehicle would.",
        ),
    ] = None,
    duration: Annotated[float | None, typer.Option(help="Stop after this many seconds of the source.")] = None,
    score_threshold: Annotated[float | None, typer.Option(help="Leave out boxes below this score.")] = None,
    rig: Annotated[Path | None, typer.Option(help="Rig file (YAML) with calibrations, for sources that have none.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw the instant with the most certain boxes (.png, .jpg).")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the summary as JSON.")] = None,
    detect: Annotated[
        bool, typer.Option("--detect/--no-detect", help="Look for boxes in the camera images, too (2D).")
    ] = False,
    detect_model: Annotated[str, typer.Option(help="2D model: bundled, a weights file, or an ONNX graph.")] = "giraffedet-nano",
    detect_size: Annotated[
        str | None, typer.Option(help="Input of the 2D model as 1280x768; larger finds smaller things. Default: its own.")
    ] = None,
    encode: Annotated[
        bool,
        typer.Option(
            "--encode/--no-encode", help="Make learned streams of the cameras; --record keeps them in place of the images."
        ),
    ] = False,
    codec: Annotated[str, typer.Option(help="Codec of the streams: bundled, or a weights file.")] = "codec-nano",
    codec_quality: Annotated[float | None, typer.Option(help="Quality of the streams, 0 to 100.")] = None,
    bev: Annotated[
        bool, typer.Option("--bev/--no-bev", help="Look for boxes in bird's-eye view; off for cameras without calibration.")
    ] = True,
    wire: Annotated[
        bool, typer.Option("--wire/--no-wire", help="Let ROS 2 nodes of other processes see and feed the topics.")
    ] = False,
    log_level: Annotated[
        str | None,
        typer.Option(help="Lowest severity that nodes log: debug, info, warn, error; default: warn, info with --view."),
    ] = None,
) -> None:
    """Run a source through the nodes: boxes out, live table, summary at the end. Ctrl-C ends cleanly."""
    from .run import RunOptions
    from .run import run as execute

    execute(
        RunOptions(
            source=source,
            model=str(weights) if weights is not None else model,
            engine=engine,
            precision=precision,
            rate=rate,
            lockstep=lockstep,
            duration=duration,
            record=record,
            view_port=view_port if view else None,
            stay=_stays(view, stay),
            picture=picture,
            json_file=json,
            rig=rig,
            score_threshold=score_threshold,
            log_level=log_level or ("info" if view else "warn"),
            wire=wire,
            bev=bev,
            detect=detect,
            detect_model=detect_model,
            detect_size=detect_size,
            encode=encode,
            codec=codec,
            codec_quality=codec_quality,
        )
    )


@app.command()
@plainly
def demo(
    seconds: Annotated[float, typer.Option(help="Length of the simulated drive.")] = 30.0,
    seed: Annotated[int, typer.Option(help="Which drive.")] = 1,
    rate: Annotated[float, typer.Option(help="Instants per simulated second.")] = 5.0,
    out: Annotated[Path, typer.Option(help="Folder for bag, picture and summary.")] = Path("out"),
    model: Model = "fastbev-nano",
    weights: Annotated[Path | None, typer.Option(help="Weights file to use instead of bundled ones.")] = None,
    engine: Engine = "onnx",
    precision: Precision = "",
    view: View = False,
    view_port: ViewPort = 8080,
    stay: Stay = None,
) -> None:
    """A simulated drive through the nodes, recorded; then the summary, the path of the bag and of a picture."""
    from .run import demo as execute

    execute(
        seed=seed,
        seconds=seconds,
        rate=rate,
        folder=out,
        model=str(weights) if weights is not None else model,
        engine=engine,
        precision=precision,
        view_port=view_port if view else None,
        stay=_stays(view, stay),
    )


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": False})
@plainly
def launch(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Graph: bev or replay.")],
    show_args: Annotated[bool, typer.Option("--show-args", "-s", help="List the arguments of the graph.")] = False,
) -> None:
    """Launch a graph of nodes: bevstack launch bev key:=value ... (as ros2 launch stack bev.launch.py)."""
    from bevstack.ros.launcher import launch as execute

    raise typer.Exit(execute(name, context.args, show_args))


@app.command()
@plainly
def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check this machine: Python, runtime, network, libraries, cameras, models; a fix beside each failure."""
    from bevstack.ros.doctor import main as execute

    raise typer.Exit(execute(json=json))


@app.command()
@plainly
def version() -> None:
    """Print the version."""
    from bevstack import __version__

    print(f"bevstack {__version__}")


def _stays(view: bool, stay: bool | None) -> bool:
    return (view and sys.stdin.isatty()) if stay is None else stay


if __name__ == "__main__":
    app()
