"""``bevstack train codec`` and ``bevstack train codec-students``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from bevstack.errors import BevstackError

from .given import given
from .models import train_app as train_app
from .plainly import plainly


@train_app.command("codec")
@plainly
def train_codec(
    context: typer.Context,
    output: Annotated[Path, typer.Argument(help="Folder of the run.")],
    images: Annotated[list[Path] | None, typer.Option(help="Folder of photographs; may be given several times.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Shell pattern of file names to leave out; several times.")] = None,
    model: Annotated[str, typer.Option(help="Codec to train.")] = "codec-nano",
    minutes: Annotated[float | None, typer.Option(help="Budget in minutes of training.")] = None,
    steps: Annotated[int | None, typer.Option(help="Budget in steps, instead of minutes.", min=1)] = None,
    batch: Annotated[int, typer.Option(help="Crops per step.", min=1)] = 8,
    crop: Annotated[int, typer.Option(help="Side of the crops, a multiple of 64.", min=64)] = 256,
    optimizer: Annotated[Literal["soap", "adam"], typer.Option(help="Optimiser.")] = "soap",
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-3,
    flat: Annotated[float, typer.Option(help="Share of the budget before the learning rate starts to fall.")] = 0.3,
    hold_out: Annotated[int, typer.Option(help="Every so-many-th photograph validates; 0: none.", min=0)] = 40,
    validate_minutes: Annotated[float, typer.Option(help="Minutes between two validations.")] = 8.0,
    latent_steps: Annotated[
        int, typer.Option(help="First steps that train only the entropy model, on principal axes.", min=0)
    ] = 3000,
    metric: Annotated[Literal["mse", "ms-ssim"], typer.Option(help="Distortion.")] = "mse",
    sparsity: Annotated[float, typer.Option(help="Weight of the L1 norm of the latent: empties channels.")] = 0.0,
    visibility: Annotated[float, typer.Option(help="Share of steps in which parts of the latent are lost.")] = 0.0,
    colour: Annotated[float, typer.Option(help="Share of crops with another saturation and hue.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Of weights, crops and noise.")] = 0,
    threads: Annotated[int | None, typer.Option(help="CPU threads.", min=1)] = None,
    amp: Annotated[bool, typer.Option("--amp/--no-amp", help="Residual blocks in bfloat16.")] = False,
    init: Annotated[Path | None, typer.Option(help="Weights file to start from.")] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the run in this folder with its own options; those given here replace them."),
    ] = False,
) -> None:
    """Train a learned image codec on folders of photographs."""
    from bevstack.learn.codec.train import CodecTrainOptions
    from bevstack.learn.codec.train import train_codec as execute
    from bevstack.learn.history import continued

    options = CodecTrainOptions(
        output=output,
        images=tuple(images or ()),
        exclude=tuple(exclude or ()),
        model=model,
        minutes=minutes,
        steps=steps,
        batch=batch,
        crop=crop,
        optimizer=optimizer,
        learning_rate=learning_rate,
        flat=flat,
        hold_out=hold_out,
        validate_minutes=validate_minutes,
        latent_steps=latent_steps,
        latent_batch=batch,
        metric=metric,
        sparsity=sparsity,
        visibility=visibility,
        colour=colour,
        seed=seed,
        threads=threads,
        amp=amp,
        init=init,
        resume=resume,
    )
    if resume:
        options = continued(options, given(context, batch=("batch", "latent_batch")))
    print(execute(options))


@train_app.command("codec-students")
@plainly
def train_students(
    context: typer.Context,
    teacher: Annotated[str, typer.Argument(help="Weights of the teacher: name or file.")],
    output: Annotated[Path, typer.Argument(help="Folder of the run and of the students' weights files.")],
    images: Annotated[list[Path] | None, typer.Option(help="Folder of photographs; may be given several times.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Shell pattern of file names to leave out; several times.")] = None,
    steps: Annotated[int, typer.Option(help="Steps of each of the two trainings.", min=1)] = 1000,
    blocks: Annotated[int, typer.Option(help="Residual blocks that the small decoder keeps.", min=1)] = 2,
    batch: Annotated[int, typer.Option(help="Crops per step.", min=1)] = 8,
    crop: Annotated[int, typer.Option(help="Side of the crops, a multiple of 64.", min=64)] = 256,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 5e-4,
    seed: Annotated[int, typer.Option(help="Of crops and rates.")] = 0,
    threads: Annotated[int | None, typer.Option(help="CPU threads.", min=1)] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the run in this folder with its own options; those given here replace them."),
    ] = False,
) -> None:
    """Distil decoders that read the teacher's streams: one of its size, one with fewer blocks."""
    from bevstack.learn.codec.distill import DistillOptions
    from bevstack.learn.codec.students import train_students as execute
    from bevstack.learn.history import continued

    if output.exists() and not output.is_dir():
        raise BevstackError(f"{output} is a file: give a folder for the students' weights")
    options = DistillOptions(
        output=output,
        teacher=teacher,
        images=tuple(images or ()),
        exclude=tuple(exclude or ()),
        steps=steps,
        blocks=blocks,
        batch=batch,
        crop=crop,
        learning_rate=learning_rate,
        seed=seed,
        threads=threads,
        resume=resume,
    )
    if resume:
        options = continued(options, given(context))
    for path in execute(options).values():
        print(path)
