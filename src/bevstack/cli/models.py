"""Commands about models and their data: weights, eval, train, export, sim."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from bevstack.errors import BevstackError

from .given import given
from .plainly import plainly

weights_app = typer.Typer(help="Trained weights: import official checkpoints, list, look inside.", no_args_is_help=True)
eval_app = typer.Typer(help="Score models.", no_args_is_help=True)
train_app = typer.Typer(help="Train models.", no_args_is_help=True)
export_app = typer.Typer(help="Export networks for inference engines.", no_args_is_help=True)
sim_app = typer.Typer(help="The simulated drive.", no_args_is_help=True)


@weights_app.command("import")
@plainly
def weights_import(
    checkpoint: Annotated[Path, typer.Argument(help="Official Fast-BEV or GiraffeDet checkpoint (.pth).")],
    model: Annotated[str, typer.Option(help="Rung that the checkpoint is for.")] = "fastbev-m0",
    output: Annotated[Path | None, typer.Option(help="File to write; default: where --model NAME finds it.")] = None,
) -> None:
    """Turn an official checkpoint into a weights file that runs no code when loaded."""
    from bevstack.bev.weights import import_weights
    from bevstack.detect.config import DETECTORS
    from bevstack.detect.weights import import_weights as import_detector

    print((import_detector if model in DETECTORS else import_weights)(checkpoint, model, output))


@weights_app.command("list")
@plainly
def weights_list() -> None:
    """Known rungs and where their weights lie."""
    from bevstack.bev.config import CONFIGS
    from bevstack.codec.config import CODECS
    from bevstack.detect.config import DETECTORS
    from bevstack.errors import CheckpointError
    from bevstack.nn.weights import find_file

    known = (*CONFIGS, *DETECTORS, *CODECS)
    for name in known:
        try:
            place = str(find_file(name, known, "train it"))
        except CheckpointError:
            place = "not here"
        print(f"{name:<18} {place}")


@weights_app.command("sizes")
@plainly
def weights_sizes() -> None:
    """Parameters and multiply-accumulates of every Fast-BEV rung, counted on the network itself (no weights needed)."""
    from rich.console import Console
    from rich.table import Table

    from bevstack.bev.complexity import complexity
    from bevstack.bev.config import CONFIGS

    table = Table()
    for column in ("rung", "input", "voxels", "parameters M", "image GMAC", "BEV GMAC", "total"):
        table.add_column(column, justify="left" if column == "rung" else "right")
    for name, config in CONFIGS.items():
        c = complexity(config)
        counts = (f"{value / 1e9:.1f}" if value > 1e10 else f"{value / 1e9:.2f}" for value in (c.image, c.bev, c.total))
        size = "x".join(map(str, config.image_hw))
        table.add_row(name, size, "x".join(map(str, config.grid.n)), f"{c.parameters / 1e6:.3f}", *counts)
    out = Console(width=max(Console().width, 100))
    out.print(table)
    out.print("image: the six current images, features of the past come from the cache; BEV: encoder and head")


@weights_app.command("info")
@plainly
def weights_info(weights: Annotated[str, typer.Argument(help="Weights file, or name of a rung.")]) -> None:
    """What a weights file says about itself: model, hash, card."""
    import json

    from bevstack.bev.config import CONFIGS
    from bevstack.codec.config import CODECS
    from bevstack.detect.config import DETECTORS
    from bevstack.nn.weights import find_file
    from bevstack.ros.doctor import weights_room

    known = (*CONFIGS, *DETECTORS, *CODECS)
    path = find_file(weights, known, "train it, or import an official checkpoint: bevstack weights import")
    info = weights_room(path).read_info(path)
    card = {"file": str(path), "model": info.config.name, "sha256": info.sha256, "card": info.card}
    print(json.dumps(card, indent=2))


def parse_size(text: str) -> tuple[int, int]:
    """``1600x900`` as (1600, 900).

    Raises:
        BevstackError: anything else.
    """
    width, cross, height = text.lower().partition("x")
    if not cross or not width.isdigit() or not height.isdigit() or not int(width) or not int(height):
        raise BevstackError(f"size {text!r}: write WIDTHxHEIGHT, for example 1600x900")
    return int(width), int(height)


@export_app.command("fastbev")
@plainly
def export_fastbev(
    output: Annotated[Path, typer.Argument(help="ONNX file to write.")],
    model: Annotated[str, typer.Option(help="Bundled model.")] = "fastbev-nano",
    weights: Annotated[Path | None, typer.Option(help="Weights file to use instead of bundled ones.")] = None,
    fp16: Annotated[bool, typer.Option("--fp16", help="Weights and everything inside in half precision.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Quantise, with ranges from simulated drives.")] = False,
    camera_size: Annotated[
        str | None, typer.Option(help="WIDTHxHEIGHT of the cameras: the graph takes their whole pictures and resizes them.")
    ] = None,
    target: Annotated[Literal["cpu", "tensorrt"], typer.Option(help="What the INT8 graph is for.")] = "cpu",
    narrow: Annotated[bool, typer.Option("--narrow", help="INT8: 7-bit weights, for CPUs without VNNI.")] = False,
    instants: Annotated[int, typer.Option(help="INT8: simulated instants that the ranges are taken from.")] = 24,
    first_drive: Annotated[int, typer.Option(help="INT8: smallest seed of those drives.")] = 900_000,
    limit: Annotated[float, typer.Option(help="INT8: change of the answer up to which layers are quantised.")] = 0.02,
) -> None:
    """Write the network as one ONNX graph: images, tables and cached features in, raw heads out."""
    from bevstack.bev.export import export_graph, save_graph
    from bevstack.bev.quantize import QuantizeOptions, export_int8, half_precision
    from bevstack.bev.weights import find_weights, load_weights, read_info

    if fp16 and int8:
        raise BevstackError("--fp16 and --int8 are two different files: give one of them")
    path = find_weights(weights if weights is not None else model)
    net = load_weights(path)
    source = None if camera_size is None else parse_size(camera_size)
    content = export_graph(net, weights_sha256=read_info(path).sha256, source=source)
    if fp16:
        content = half_precision(content)
    if int8:
        options = QuantizeOptions(target=target, narrow=narrow, instants=instants, first_seed=first_drive, limit=limit)
        content, report = export_int8(
            content, net.config, options, report=lambda line: print(line, file=sys.stderr, flush=True)
        )
        save_graph(output.with_suffix(".json"), (report.to_json() + "\n").encode())
        kept = ", ".join(f"{name} ({report.alone[name]:.3f})" for name in report.kept) or "none"
        print(f"in float: {kept}; change of the answer {report.error:.4f} ({report.everything:.4f} with all in INT8)")
        print(
            f"{report.bytes_before} bytes before, {report.bytes_after} after; every layer's figure is beside the graph (.json)"
        )
    print(save_graph(output, content))


@train_app.command("fastbev")
@plainly
def train_fastbev(
    context: typer.Context,
    output: Annotated[Path, typer.Argument(help="Folder of the run: options, log, checkpoint, weights.")],
    model: Annotated[str | None, typer.Option(help="Rung to train; default: fastbev-nano.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Budget in minutes of training.")] = None,
    steps: Annotated[int | None, typer.Option(help="Budget in steps, instead of minutes.", min=1)] = None,
    batch: Annotated[int, typer.Option(help="Instants per step, each of another drive; divides 16.", min=1)] = 4,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 2e-3,
    loss: Annotated[Literal["dense", "freeanchor"], typer.Option(help="dense, or freeanchor as published.")] = "dense",
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes that render drives.", min=0)] = 1,
    lanes: Annotated[int, typer.Option(help="Threads that share each batch; 1 for exact repeatability.", min=1)] = 1,
    threads: Annotated[
        int | None, typer.Option(help="Threads of torch inside an operation; default 1 with several lanes.", min=1)
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the run in this folder with its own options; those given here replace them."),
    ] = False,
    init: Annotated[Path | None, typer.Option(help="Weights file to start from instead of random weights.")] = None,
    freeze: Annotated[
        float | None,
        typer.Option(help="Share of the budget after which batch norms keep their statistics; default 0.55, with --slim 0.2."),
    ] = None,
    first_drive: Annotated[int, typer.Option(help="Smallest seed of the training drives.")] = 10_000,
    amp: Annotated[
        bool, typer.Option("--amp/--no-amp", help="Forward passes in bfloat16: faster where the processor has it.")
    ] = False,
    slim: Annotated[
        bool, typer.Option("--slim", help="Train several widths on one set of weights, best with --init; not with --model.")
    ] = False,
) -> None:
    """Train Fast-BEV on simulated drives. Ctrl-C ends it after the running step; --resume goes on from there."""
    from bevstack.bev.config import SLIM
    from bevstack.learn.history import continued, last_options
    from bevstack.learn.slim import SlimOptions, SlimTrainer
    from bevstack.learn.train import Trainer, TrainOptions
    from bevstack.learn.train import train_fastbev as execute

    if slim and model is not None:
        raise BevstackError(f"--slim trains the widths of {SLIM.name}, not {model}: leave out one of the two options")
    slim = slim or (resume and "widths" in last_options(output))
    kind = SlimOptions if slim else TrainOptions
    options = kind(
        output=output,
        model=model or (SLIM.name if slim else TrainOptions.model),
        config=SLIM if slim else None,
        minutes=minutes,
        steps=steps,
        batch=batch,
        learning_rate=learning_rate,
        loss=loss,
        seed=seed,
        workers=workers,
        lanes=lanes,
        threads=threads,
        resume=resume,
        init=init,
        freeze=freeze if freeze is not None else kind.freeze,
        first_drive=first_drive,
        amp=amp,
    )
    if resume:
        options = continued(options, given(context, slim="model"))
    make = SlimTrainer if slim else Trainer
    print(execute(options, report=lambda line: print(line, file=sys.stderr, flush=True), make=make))


@train_app.command("nuscenes")
@plainly
def train_nuscenes(
    context: typer.Context,
    output: Annotated[Path, typer.Argument(help="Folder of the run: options, log, checkpoint, weights.")],
    data: Annotated[Path | None, typer.Option(help="nuScenes folder; without it: simulated drives only.")] = None,
    version: Annotated[str | None, typer.Option(help="Which v1.0-* folder, if there are several.")] = None,
    split: Annotated[str, typer.Option(help="Official split, or all.")] = "train",
    mix: Annotated[float, typer.Option(help="Share of the samples that come from simulated drives.")] = 0.0,
    model: Annotated[str, typer.Option(help="Rung to train.")] = "fastbev-m0",
    steps: Annotated[int, typer.Option(help="Steps; published: 20 epochs of 3862 steps of 32 samples.", min=1)] = 77_000,
    batch: Annotated[int, typer.Option(help="Samples per step, over all processes.", min=1)] = 32,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate; scale it with the batch.")] = 4e-4,
    backbone_rate: Annotated[float, typer.Option(help="Factor on it for the backbone.")] = 0.1,
    warmup: Annotated[int, typer.Option(help="Steps of linear warm-up.", min=0)] = 1000,
    schedule: Annotated[Literal["poly", "cosine"], typer.Option(help="How the rate falls.")] = "poly",
    clip_norm: Annotated[float, typer.Option(help="Largest norm of the gradient.")] = 35.0,
    freeze_stem: Annotated[
        bool, typer.Option("--freeze-stem", help="Keep stem and first stage, for a pretrained --init.")
    ] = False,
    norms: Annotated[
        Literal["train", "sync", "backbone", "frozen"], typer.Option(help="Batch norms: which keep their statistics.")
    ] = "train",
    ema: Annotated[float, typer.Option(help="Decay of averaged weights; 0: none.")] = 0.0,
    amp: Annotated[Literal["off", "fp16", "bf16"], typer.Option(help="Half precision: fp16 on GPUs only.")] = "off",
    balance: Annotated[bool, typer.Option("--balance/--no-balance", help="Class-balanced sampling.")] = True,
    augment: Annotated[bool, typer.Option("--augment/--no-augment", help="Augmentation of images and view.")] = True,
    workers: Annotated[int, typer.Option(help="Loading processes, for each training process.", min=0)] = 4,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    log_every: Annotated[int, typer.Option(help="Steps per line of the log.", min=1)] = 50,
    checkpoint_steps: Annotated[int, typer.Option(help="Steps between checkpoints.", min=1)] = 500,
    tensorboard: Annotated[bool, typer.Option("--tensorboard/--no-tensorboard", help="Write TensorBoard events too.")] = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the run in this folder with its own options; those given here replace them."),
    ] = False,
    init: Annotated[Path | None, typer.Option(help="Weights file to start from instead of random weights.")] = None,
) -> None:
    """Train Fast-BEV by the published recipe, on nuScenes, simulated drives or both; on many GPUs with torchrun."""
    import os

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from bevstack.learn.history import continued
    from bevstack.learn.nuscenes.train import RecipeOptions, train_recipe

    options = RecipeOptions(
        output=output,
        model=model,
        data=data,
        version=version,
        split=split,
        mix=mix,
        steps=steps,
        batch=batch,
        learning_rate=learning_rate,
        backbone_rate=backbone_rate,
        warmup=warmup,
        schedule=schedule,
        clip_norm=clip_norm,
        freeze_stem=freeze_stem,
        norms=norms,
        ema=ema,
        amp=amp,
        balance=balance,
        augment=augment,
        workers=workers,
        seed=seed,
        log_every=log_every,
        checkpoint_steps=checkpoint_steps,
        tensorboard=tensorboard,
        resume=resume,
        init=init,
    )
    if resume:
        options = continued(options, given(context))
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    shown = os.environ.get("RANK", "0") == "0"
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not shown) as bar:
        task = bar.add_task("training", total=options.steps)
        written = train_recipe(
            options,
            report=lambda line: bar.console.print(line, highlight=False, soft_wrap=True),
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if written is not None:
        print(written)


def parse_seeds(text: str) -> list[int]:
    """``3``, ``1-5`` (both included) or ``1-3,7`` as a list.

    Raises:
        BevstackError: anything else.
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        last = last if dash else first
        if not first.isdigit() or not last.isdigit() or int(last) < int(first):
            raise BevstackError(f"seeds {text!r}: write one number, a range A-B, or several separated by commas")
        seeds += range(int(first), int(last) + 1)
    if len(seeds) > 10_000:
        raise BevstackError(f"seeds {text!r} are {len(seeds)} drives: give at most 10000")
    return seeds


@eval_app.command("fastbev")
@plainly
def eval_fastbev(
    model: Annotated[str, typer.Option(help="Rung or weights file.")] = "fastbev-nano",
    simulated: Annotated[bool, typer.Option("--simulated", help="Score on simulated drives.")] = False,
    seeds: Annotated[str, typer.Option(help="Drives: A-B, or several separated by commas.")] = "0-15",
    seconds: Annotated[float, typer.Option(help="Length of each drive.")] = 10.0,
    data: Annotated[str | None, typer.Option(help="Instead: a nuScenes folder or a sample.json.")] = None,
    split: Annotated[str, typer.Option(help="Of a nuScenes folder: val, mini_val, train, ... or all.")] = "all",
    engine: Annotated[
        Literal["onnx", "cpu", "onnx-cuda", "tensorrt", "torch", "torch-cuda"], typer.Option(help="Inference engine.")
    ] = "onnx",
    threads: Annotated[int | None, typer.Option(help="Threads of the engine.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the scores to this file.")] = None,
    two_sided: Annotated[
        bool, typer.Option("--two-sided", help="Test-time augmentation: look at every instant in a mirror as well.")
    ] = False,
    report: Annotated[Path | None, typer.Option(help="Folder for a page with curves, best and worst instants.")] = None,
) -> None:
    """Score boxes with nuScenes' own metrics: mAP, NDS, errors, per class."""
    if simulated == (data is not None):
        raise BevstackError("say what to score on: either --simulated or --data PATH")
    numbers = parse_seeds(seeds)
    from rich.console import Console
    from rich.progress import Progress

    from bevstack.learn.evaluate import evaluate_simulated, evaluate_source
    from bevstack.learn.report import SHOWN, Gallery, write_report

    opened: Any = model
    if two_sided:
        from bevstack.bev import FastBEV
        from bevstack.bev.mirror import TwoSided

        opened = TwoSided(lambda: FastBEV(model, engine, threads=threads))

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("scoring", total=None)

        def advance(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total or None)

        gallery = Gallery() if report is not None else None
        if data is not None:
            result = evaluate_source(opened, data, engine, split=split, threads=threads, progress=advance, watch=gallery)
        else:
            result = evaluate_simulated(
                opened, numbers, engine, seconds=seconds, threads=threads, progress=advance, watch=gallery
            )
    # Twelve columns do not fit 80 characters: a table that goes to a file or a narrow terminal keeps its numbers whole.
    Console(width=max(Console().width, 110)).print(
        result.table(f"{result.details['model']} on {result.details['data']}, {result.instants} instants")
    )
    if json_file is not None:
        result.save(json_file)
    if report is not None and gallery is not None:
        from bevstack.viewer.picture import compose

        page = write_report(
            result,
            report,
            gallery,
            lambda instant, boxes, title: compose(
                instant.frames, boxes[boxes.score >= SHOWN], truth=instant.truth, title=title
            ),
        )
        print(page)


@sim_app.command("write-bag")
@plainly
def sim_write_bag(
    output: Annotated[Path, typer.Argument(help="Bag folder to write (rosbag2).")],
    seed: Annotated[int, typer.Option(help="Which drive.")] = 1,
    seconds: Annotated[float, typer.Option(help="Length of the drive.")] = 10.0,
    rate: Annotated[float, typer.Option(help="Instants per second.")] = 10.0,
    image_width: Annotated[int, typer.Option(help="Width of the images, pixels.")] = 800,
    style: Annotated[str | None, typer.Option(help="Weather and time of day; default: drawn from the seed.")] = None,
    storage: Annotated[Literal["mcap", "sqlite3"], typer.Option(help="Storage of the bag.")] = "mcap",
    truth: Annotated[bool, typer.Option("--truth/--no-truth", help="Write true boxes too.")] = True,
) -> None:
    """Write a simulated drive as a bag that ros2 bag play, Foxglove and bevstack run open."""
    from bevstack.frames.sim import SimulatedDrive
    from bevstack.frames.sim.bag import write_bag

    with SimulatedDrive(seed, rate=rate, duration=seconds, image_width=image_width, style=style) as drive:
        count = write_bag(drive, output, storage=storage, truth=truth)
    print(f"{output}: {count} messages")
