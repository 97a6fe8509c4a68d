"""Commands about GiraffeDet: eval, train and export giraffedet, sim write-coco, pseudo-label."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from bevstack.errors import BevstackError

from .given import given
from .models import eval_app, export_app, parse_seeds, sim_app, train_app
from .plainly import plainly


@eval_app.command("giraffedet")
@plainly
def eval_giraffedet(
    coco: Annotated[Path, typer.Option(help="Annotations in COCO's format.")],
    images: Annotated[Path | None, typer.Option(help="Folder of the images; default: the annotations' own.")] = None,
    model: Annotated[str, typer.Option(help="Rung, weights file or exported .onnx graph.")] = "giraffedet-nano",
    engine: Annotated[Literal["onnx", "torch"], typer.Option(help="Inference engine.")] = "onnx",
    threads: Annotated[int | None, typer.Option(help="Threads of the engine.")] = None,
    size: Annotated[str | None, typer.Option(help="Input size WIDTHxHEIGHT instead of the rung's own.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many images.", min=1)] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the scores to this file.")] = None,
) -> None:
    """Score boxes per image with COCO's own metrics: AP at all overlaps, by size, per class."""
    from rich.console import Console
    from rich.progress import Progress

    from bevstack.detect.letterbox import parse_canvas
    from bevstack.learn.detect.evaluate import evaluate_coco

    canvas = parse_canvas(size) if size is not None else None
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("scoring", total=None)

        def advance(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        result = evaluate_coco(model, coco, images, engine, threads=threads, canvas=canvas, limit=limit, progress=advance)
    d = result.details
    title = f"{d['model']} on {d['data']}, {result.images} images, {d['ms_per_image']:.0f} ms each ({d['engine']})"
    Console(width=max(Console().width, 100)).print(result.table(title))
    if json_file is not None:
        result.save(json_file)


@train_app.command("giraffedet")
@plainly
def train_giraffedet(
    context: typer.Context,
    output: Annotated[Path, typer.Argument(help="Folder of the run: options, log, checkpoint, weights.")],
    data: Annotated[
        list[str] | None, typer.Option(help="Labelled set: COCO.json or IMAGES:COCO.json, with @WEIGHT; several times.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Rung to train; default: giraffedet-nano.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Budget in minutes of training.")] = None,
    steps: Annotated[int | None, typer.Option(help="Budget in steps, instead of minutes.", min=1)] = None,
    batch: Annotated[int, typer.Option(help="Images per step and process.", min=1)] = 8,
    size: Annotated[
        list[str] | None, typer.Option(help="Training image WIDTHxHEIGHT; several times: one is drawn per step.")
    ] = None,
    optimizer: Annotated[Literal["adamw", "sgd"], typer.Option(help="adamw, or sgd as published.")] = "adamw",
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 2e-3,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes that prepare images; 0: none.", min=0)] = 0,
    threads: Annotated[int | None, typer.Option(help="Threads of torch.", min=1)] = None,
    amp: Annotated[bool | None, typer.Option("--amp/--no-amp", help="Half precision; default: where there is a GPU.")] = None,
    init: Annotated[Path | None, typer.Option(help="Weights file to start from.")] = None,
    backbone: Annotated[
        Path | None, typer.Option(help="Structure of `bevstack search backbone` in place of the rung's backbone.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the run in this folder with its own options; those given here replace them."),
    ] = False,
    slim: Annotated[
        bool, typer.Option("--slim", help="Train several widths on one set of weights, best with --init; not with --model.")
    ] = False,
) -> None:
    """Train a detector on labelled images. Several processes: torchrun --nproc-per-node N -m bevstack.cli.main train ..."""
    from bevstack.detect.config import SLIM, with_backbone
    from bevstack.detect.letterbox import parse_canvas
    from bevstack.learn.detect.data import DataSpec
    from bevstack.learn.detect.slim import SlimOptions, SlimTrainer
    from bevstack.learn.detect.train import Trainer, TrainOptions
    from bevstack.learn.detect.train import train_giraffedet as execute
    from bevstack.learn.history import continued, last_options
    from bevstack.nn.superblocks import load_backbone

    if slim and model is not None:
        raise BevstackError(f"--slim trains the widths of {SLIM.name}, not {model}: leave out one of the two options")
    if slim and backbone is not None:
        raise BevstackError("a searched backbone has one width: leave out --slim or --backbone")
    slim = slim or (resume and "widths" in last_options(output))
    options = (SlimOptions if slim else TrainOptions)(
        output=output,
        data=tuple(DataSpec.parse(d) for d in data or ()),
        model=model or (SLIM.name if slim else TrainOptions.model),
        config=SLIM if slim else None,
        minutes=minutes,
        steps=steps,
        batch=batch,
        canvases=tuple(parse_canvas(s) for s in size or ()),
        optimizer=optimizer,
        learning_rate=learning_rate,
        seed=seed,
        workers=workers,
        threads=threads,
        amp=amp,
        init=init,
        resume=resume,
    )
    if backbone is not None:
        options = replace(options, config=with_backbone(options.network(), load_backbone(backbone)))
    if resume:
        options = continued(options, given(context, slim="model", size="canvases", backbone="config"))
    make = SlimTrainer if slim else Trainer
    print(execute(options, report=lambda line: print(line, file=sys.stderr, flush=True), make=make))


@export_app.command("giraffedet")
@plainly
def export_giraffedet(
    output: Annotated[Path, typer.Argument(help="ONNX file to write.")],
    model: Annotated[str, typer.Option(help="Rung or weights file.")] = "giraffedet-nano",
    size: Annotated[str | None, typer.Option(help="Input size WIDTHxHEIGHT instead of the rung's own.")] = None,
) -> None:
    """Write the network as one ONNX graph: uint8 images in, scores and boxes of all cells out."""
    from bevstack.detect.export import export_onnx
    from bevstack.detect.letterbox import parse_canvas
    from bevstack.detect.weights import find_weights, load_weights, read_info

    canvas = parse_canvas(size) if size is not None else None
    path = find_weights(model)
    print(export_onnx(load_weights(path), output, canvas, read_info(path).sha256))


@sim_app.command("write-coco")
@plainly
def sim_write_coco(
    output: Annotated[Path, typer.Argument(help="Folder for images and coco.json.")],
    seeds: Annotated[str, typer.Option(help="Drives: A-B, or several separated by commas; below 10000: for evaluation.")],
    instants: Annotated[int, typer.Option(help="Per drive; each gives six images.")] = 8,
    image_width: Annotated[int, typer.Option(help="Width of the images, pixels.")] = 640,
    view: Annotated[
        Literal["vehicle", "overhead"],
        typer.Option(help="Cameras of the vehicle, or cameras on masts and bridges that look down."),
    ] = "vehicle",
    curved: Annotated[bool, typer.Option("--curved", help="Cars with curved, glossy bodies; drawn more slowly.")] = False,
    spread: Annotated[
        float | None,
        typer.Option(min=0.0, max=0.6, help="From above: how far from the middle targets may lie, of the image; default 0.25."),
    ] = None,
    along: Annotated[bool, typer.Option("--along", help="From above: look along the vehicles, from behind or before.")] = False,
) -> None:
    """Write simulated drives as images with true 2D boxes, in COCO's format."""
    from bevstack.frames.sim.rig import SPREAD
    from bevstack.learn.detect.simulated import write_simulated

    if view == "vehicle" and (along or spread is not None):
        raise BevstackError(f"--{'along' if along else 'spread'} places cameras above the road: add --view overhead")

    def report(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    print(
        write_simulated(
            output,
            parse_seeds(seeds),
            instants=instants,
            width=image_width,
            view=view,
            curved=curved,
            spread=SPREAD if spread is None else spread,
            along=along,
            report=report,
        )
    )


@plainly
def pseudo_label(
    images: Annotated[Path, typer.Argument(help="Folder of images.")],
    output: Annotated[Path, typer.Argument(help="Folder for coco.json; the images stay where they are.")],
    teacher: Annotated[str, typer.Option(help="ONNX detector (ours, or of the YOLOX layout), or one of our rungs.")],
    classes: Annotated[
        Path | None, typer.Option(help="Names of a YOLOX graph's classes, one a line; default: COCO's 80.")
    ] = None,
    sure: Annotated[float, typer.Option(help="Boxes from this score on are learned.")] = 0.4,
    doubtful: Annotated[float, typer.Option(help="From this score on a region is left out.")] = 0.12,
    absent: Annotated[
        list[str] | None, typer.Option(help="Class unknown to the teacher that these images do not show; several times.")
    ] = None,
    tile: Annotated[int, typer.Option(help="Also look at tiles of this many pixels; 0: whole images only.")] = 640,
    keep_bonnet: Annotated[
        bool, typer.Option("--keep-bonnet", help="Keep vehicles that fill the lower part of the image from side to side.")
    ] = False,
    threads: Annotated[int | None, typer.Option(help="Threads of the engine.")] = None,
) -> None:
    """Let a teacher detector label images that nobody has labelled."""
    from bevstack.learn.detect.teacher import PseudoLabelOptions, image_files, open_teacher, write_pseudo_labels

    names = None
    if classes is not None:
        try:
            names = [line.strip() for line in classes.read_text(encoding="utf-8").splitlines() if line.strip()]
        except OSError as error:
            raise BevstackError(f"class names {classes} cannot be read: {error.strerror}") from error
    options = PseudoLabelOptions(sure=sure, doubtful=doubtful, tile=tile, absent=tuple(absent or ()), keep_bonnet=keep_bonnet)
    print(
        write_pseudo_labels(
            image_files(images),
            output,
            open_teacher(teacher, names, threads=threads),
            options,
            report=lambda line: print(line, file=sys.stderr, flush=True),
        )
    )
