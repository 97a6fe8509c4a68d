"""``bevstack codec``: pictures to learned streams and back, what a stream says about itself, and rate-distortion figures."""

from __future__ import annotations

import json as jsonlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bevstack.errors import BevstackError

from .models import eval_app
from .plainly import plainly

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from bevstack.codec.codec import Encoded
    from bevstack.codec.evaluate import Comparison, Evaluation, PictureCodec, Result

codec_app = typer.Typer(help="The learned image codec: encode, decode, look inside, measure.", no_args_is_help=True)

STREAM_SUFFIX = ".vtc"
Model = Annotated[str, typer.Option(help="Bundled codec (codec-nano, ...) or a weights file.")]
Engine = Annotated[Literal["onnx", "torch"], typer.Option(help="What runs the networks.")]
Threads = Annotated[int, typer.Option(help="Threads of the engine.", min=1)]


@codec_app.command("encode")
@plainly
def encode(
    source: Annotated[Path, typer.Argument(help="A picture, or a folder of pictures.")],
    target: Annotated[Path, typer.Argument(help="Stream to write (.vtc), or a folder for them.")],
    model: Model = "codec-nano",
    quality: Annotated[float | None, typer.Option(help="0 to 100; 50 where no other target is given.", min=0, max=100)] = None,
    max_bytes: Annotated[int | None, typer.Option(help="Instead: at most this many bytes per picture.", min=1)] = None,
    psnr: Annotated[float | None, typer.Option(help="Instead: at least this PSNR in dB.")] = None,
    roi: Annotated[
        Path | None,
        typer.Option(help="Picture of the same size whose grey level says where bits should go: 0 neutral, 255 most."),
    ] = None,
    roi_weight: Annotated[float, typer.Option(help="How much an error counts at grey level 255.", min=1, max=1000)] = 8.0,
    tile: Annotated[int, typer.Option(help="Side of independent tiles, a multiple of 64; 0: one tile.", min=0)] = 0,
    engine: Engine = "onnx",
    threads: Threads = 1,
) -> None:
    """Code pictures; every stream decodes on its own, to the same picture on every machine."""
    from bevstack.codec.codec import ImageCodec
    from bevstack.codec.evaluate import load_picture

    jobs = _jobs(source, target, STREAM_SUFFIX)
    codec = ImageCodec(model, engine, threads)

    def code(path: Path) -> Encoded:
        rgb = load_picture(path)
        weights = None if roi is None else _weights(roi, roi_weight, rgb.shape[:2])
        try:
            return codec.encode(rgb, quality=quality, max_bytes=max_bytes, psnr=psnr, roi=weights, tile=tile)
        except ValueError as error:
            raise BevstackError(f"{path}: {error}") from None

    bits = pixels = 0
    with _progress() as bar:
        for path, out in bar.track(jobs, description="encoding"):
            made = code(path)
            _write(out, made.data)
            bits += made.bits
            pixels += made.width * made.height
            stages = ", ".join(f"{name} {ms:.0f}" for name, ms in made.timings.items())
            print(f"{out}: {len(made.data)} bytes, {made.bpp:.3f} bpp, rate point {made.rate:.2f}; ms: {stages}")
    if len(jobs) > 1:
        print(f"{len(jobs)} pictures, {bits // 8} bytes, {bits / pixels:.3f} bpp")


@codec_app.command("decode")
@plainly
def decode(
    source: Annotated[Path, typer.Argument(help="A stream, or a folder of .vtc files.")],
    target: Annotated[Path, typer.Argument(help="Picture to write (.png, .jpg, ...), or a folder for .png files.")],
    model: Annotated[str, typer.Option(help="Codec or weights file; empty: the bundled one that the stream names.")] = "",
    engine: Engine = "onnx",
    threads: Threads = 1,
) -> None:
    """Decode streams. Damaged tiles are filled in and told on stderr."""
    from bevstack.codec.picture import Decoders

    jobs = _jobs(source, target, ".png")
    decoders = Decoders(model, engine, threads)
    with _progress() as bar:
        for path, out in bar.track(jobs, description="decoding"):
            shown = decoders.decode(_read(path))
            for line in shown.report:
                print(f"{path}: {line}", file=sys.stderr)
            if not shown.matched:
                print(f"{path}: made for other decoder weights than {model or 'the bundled ones'}", file=sys.stderr)
            _write_picture(out, shown.rgb)
            print(f"{out}: {shown.rgb.shape[1]}x{shown.rgb.shape[0]}")


@codec_app.command("info")
@plainly
def info(
    stream: Annotated[Path, typer.Argument(help="A stream (.vtc), or a codec's name or weights file.")],
    json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """What a stream or a weights file says about itself. A stream needs no weights to be looked at."""
    if stream.suffix == ".safetensors" or not stream.exists():
        facts = _weights_facts(str(stream))
    else:
        facts = _stream_facts(_read(stream))
    if json:
        print(jsonlib.dumps(facts, indent=2))
        return
    for key, value in facts.items():
        print(f"{key:<22} {value}")


@eval_app.command("codec")
@codec_app.command("eval")
@plainly
def evaluate(
    images: Annotated[Path, typer.Option(help="Folder of pictures.")],
    model: Annotated[list[str] | None, typer.Option(help="Codec or weights file; may be given several times.")] = None,
    qualities: Annotated[str, typer.Option(help="Operating points of the learned codecs, comma separated.")] = "",
    baselines: Annotated[str, typer.Option(help="Classical codecs, comma separated; none: leave them out.")] = "all",
    published: Annotated[
        Path | None, typer.Option(help="Published curves to compare with, instead of the bundled ones.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Take only the first so many pictures.", min=1)] = None,
    engine: Engine = "onnx",
    threads: Threads = 1,
    json: Annotated[Path | None, typer.Option(help="Write everything measured to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the curves (.png, .svg).")] = None,
) -> None:
    """Rate and distortion over a folder: real files, written and read back, beside JPEG, WebP and AVIF of the same run."""
    from rich.console import Console

    from bevstack.codec import evaluate as rd
    from bevstack.codec.bd_rate import MIN_POINTS
    from bevstack.codec.codec import ImageCodec
    from bevstack.codec.published import published_curves

    points = _numbers(qualities)
    if points and len(set(points)) < MIN_POINTS:
        raise BevstackError(f"--qualities {qualities!r} are {len(set(points))} points: BD-rate needs at least {MIN_POINTS}")
    if points and not all(0 <= p <= 100 for p in points):
        raise BevstackError(f"--qualities {qualities!r}: each is from 0 to 100")
    chosen = classical(baselines)
    pictures = rd.find_pictures(images)[:limit]
    known = published_curves(published)
    learned = [
        rd.Learned(ImageCodec(name, engine, threads), Path(name).stem)
        for name in (model if model is not None else ["codec-nano"])
    ]
    with _progress() as bar:
        task = bar.add_task("evaluating", total=None)

        def advance(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, description=what)

        result = rd.evaluate([*learned, *chosen], pictures, qualities=points or None, progress=advance)
    names = {codec.name for codec in learned}
    tests = [e.curve for e in result.evaluations if e.name in names]
    anchors = [e.curve for e in result.evaluations if e.name not in names]
    shown = list(known.values()) if result.is_kodak or published is not None else []
    comparisons = rd.compare(tests or anchors, [*anchors, *shown])
    # Tables keep their numbers whole where they go to a file or a narrow terminal.
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    print_evaluation(console, result, comparisons)
    if not shown:
        console.print("The set is not Kodak's 24 pictures: published curves are not compared with.", style="dim")
    if plot is not None:
        from bevstack.codec.plot import plot_curves

        plot_curves(plot, [*tests, *anchors], shown, title=f"{images.name or images}, {len(pictures)} pictures")
        console.print(f"plot: {plot}", soft_wrap=True)
    if json is not None:
        hashes = {codec.name: codec.codec.info.sha256 for codec in learned}
        figures = {**rd.as_json(result, comparisons), "engine": engine, "threads": threads, "weights_sha256": hashes}
        _write(json, jsonlib.dumps(figures, indent=1).encode())
        console.print(f"figures: {json}", soft_wrap=True)


def classical(names: str) -> list[PictureCodec]:
    """The baselines that a comma separated list names; "all" those that this Pillow has, "none" or "" none.

    Raises:
        BevstackError: an unknown name.
    """
    from bevstack.codec.baselines import BASELINES
    from bevstack.codec.evaluate import Classical

    if names in ("", "none"):
        return []
    if names == "all":
        missing = [b.name for b in BASELINES.values() if not b.available]
        if missing:
            print(f"this Pillow cannot write {', '.join(missing)}: left out", file=sys.stderr)
        return [Classical(b) for b in BASELINES.values() if b.available]
    made: list[PictureCodec] = []
    for name in (part.strip() for part in names.split(",")):
        if name not in BASELINES:
            raise BevstackError(f"there is no baseline {name!r}: use some of {', '.join(BASELINES)}, all or none")
        made.append(Classical(BASELINES[name]))
    return made


def print_evaluation(console: Console, result: Result, comparisons: Sequence[Comparison]) -> None:
    """R-D tables, stage times, BD-rates."""
    for evaluation in result.evaluations:
        console.print()
        console.print(f"[bold]{evaluation.name}[/bold]")
        console.print(_rd_table(evaluation))
    console.print()
    console.print(_time_table(result.evaluations))
    loads = " to ".join(f"{load:.1f}" for load in result.load)
    console.print(
        f"Medians over {len(result.pictures)} pictures of {result.pixels} pixels and all qualities; load {loads}.", style="dim"
    )
    for metric, label in (("psnr", "PSNR"), ("ms_ssim_db", "MS-SSIM")):
        chosen = [c for c in comparisons if c.metric == metric]
        if chosen:
            console.print()
            console.print(f"[bold]BD-rate, {label}[/bold] (bits more or less than the anchor at equal quality)")
            console.print(_bd_table(chosen))
    reasons = dict.fromkeys(f"{c.metric}: {c.reason}" for c in comparisons if c.result is None)
    for reason in reasons:
        console.print(reason, style="yellow", soft_wrap=True)


def _table(*columns: str) -> Any:
    from rich.table import Table

    table = Table(header_style="dim", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number == 0 else "right", no_wrap=True)
    return table


def _rd_table(evaluation: Evaluation) -> Any:
    table = _table("quality", "bpp", "PSNR dB", "MS-SSIM", "MS-SSIM dB", "estimated bpp", "encode ms", "decode ms")
    for row in evaluation.rows:
        table.add_row(
            f"{row.quality:g}",
            f"{row.bpp:.4f}",
            f"{row.psnr:.3f}",
            "" if row.ms_ssim is None else f"{row.ms_ssim:.5f}",
            "" if row.ms_ssim_db is None else f"{row.ms_ssim_db:.3f}",
            "" if row.estimated_bpp is None else f"{row.estimated_bpp:.4f}",
            f"{row.encode_ms.get('total', float('nan')):.1f}",
            f"{row.decode_ms.get('total', float('nan')):.1f}",
        )
    return table


def _time_table(evaluations: Sequence[Evaluation]) -> Any:
    table = _table("codec", "", "total ms", "stages, ms")
    table.columns[3].justify = "left"
    for evaluation in evaluations:
        for way, stages in zip(("encode", "decode"), evaluation.stages()):
            parts = ", ".join(f"{name} {ms:.1f}" for name, ms in stages.items() if name != "total")
            table.add_row(evaluation.name, way, f"{stages.get('total', float('nan')):.1f}", parts)
    return table


def _bd_table(comparisons: Sequence[Comparison]) -> Any:
    tests = list(dict.fromkeys(c.codec for c in comparisons))
    table = _table("against", *tests)
    for anchor in dict.fromkeys(c.anchor for c in comparisons):
        by_test = {c.codec: c.result for c in comparisons if c.anchor == anchor}
        found = (by_test[t] for t in tests)
        table.add_row(anchor, *("" if r is None else f"{r.percent:+.1f} % ({r.low:.1f}–{r.high:.1f} dB)" for r in found))
    return table


def _jobs(source: Path, target: Path, suffix: str) -> list[tuple[Path, Path]]:
    """(from, to) for one file or all of a folder."""
    from bevstack.codec.evaluate import find_pictures

    if source.is_dir():
        if suffix == STREAM_SUFFIX:
            found = find_pictures(source)
        else:
            found = sorted(p for p in source.iterdir() if p.suffix == STREAM_SUFFIX)
            if not found:
                raise BevstackError(f"folder {source} holds no {STREAM_SUFFIX} files")
        stems = [path.stem for path in found]
        twice = next((s for s in stems if stems.count(s) > 1), None)
        if twice is not None:
            raise BevstackError(f"folder {source} has several files named {twice}: they would overwrite each other")
        return [(path, target / f"{path.stem}{suffix}") for path in found]
    if not source.is_file():
        raise BevstackError(f"{source} does not exist")
    return [(source, target / f"{source.stem}{suffix}" if target.is_dir() else target)]


def _weights(path: Path, most: float, shape: tuple[int, ...]) -> Any:
    """Grey picture to distortion weights (H, W): 0 -> 1, 255 -> ``most``, in equal steps of the logarithm."""
    import numpy as np

    from bevstack.codec.evaluate import load_picture

    grey = load_picture(path).mean(axis=2) / 255.0
    if grey.shape != shape:
        raise BevstackError(f"--roi {path} has {grey.shape[1]}x{grey.shape[0]} pixels, the picture {shape[1]}x{shape[0]}")
    return np.asarray(most**grey, dtype=np.float32)


def _stream_facts(data: bytes) -> dict[str, Any]:
    from bevstack.codec.bitstream import read
    from bevstack.codec.gains import RATE_UNIT
    from bevstack.codec.picture import known_models

    stream = read(data)
    header = stream.header
    names = [name for name, found in known_models().items() if found.model_id == header.model_id]
    capture = header.capture
    segments = [*stream.hyper, *(segment for layer in stream.layers for segment in layer)]
    used = sum(len(segment) for segment in segments if segment is not None)
    return {
        "bytes": len(data),
        "size": f"{header.width}x{header.height}",
        "bits per pixel": round(8 * len(data) / (header.width * header.height), 4),
        "model": header.model_id.hex() + (f" ({', '.join(names)})" if names else " (no such weights here)"),
        "decoder weights": "not said" if header.reconstruction_id is None else f"{header.reconstruction_id:08x}",
        "rate point": header.rate / RATE_UNIT,
        "tiles": len(header.grid),
        "layers": len(stream.layers),
        "tile side": 64 * header.tile_size or "one tile",
        "quality map": "none" if header.quality is None else f"{header.quality.shape[1]}x{header.quality.shape[0]} cells",
        "capture": "none"
        if capture is None
        else f"camera {capture.camera}, frame {capture.frame}, {capture.timestamp_us} us since 1970",
        "header bytes": len(data) - used,
        "damage": "; ".join(str(d) for d in stream.damage) or "none",
    }


def _weights_facts(name: str) -> dict[str, Any]:
    from bevstack.codec.weights import find_weights, read_info

    path = find_weights(name)
    found = read_info(path)
    return {
        "file": str(path),
        "codec": found.config.name,
        "model": found.model_id.hex(),
        "decoder weights": f"{found.reconstruction_id:08x}",
        "sha256": found.sha256,
        "config": found.config.to_json(),
        "card": jsonlib.dumps(found.card),
    }


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise BevstackError(f"{text!r}: write numbers separated by commas") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BevstackError(f"{path} cannot be read: {error.strerror or error}") from None


def _write(path: Path, data: bytes) -> None:
    """The whole file or nothing of it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise BevstackError(f"{path} cannot be written: {error.strerror or error}") from None


def _write_picture(path: Path, rgb: Any) -> None:
    import io

    from PIL import Image as pil

    buffer = io.BytesIO()
    formats = pil.registered_extensions()
    if path.suffix.lower() not in formats:
        raise BevstackError(f"{path}: unknown kind of picture; end the name in .png, .jpg or another that Pillow writes")
    try:
        pil.fromarray(rgb).save(buffer, format=formats[path.suffix.lower()])
    except (OSError, KeyError, ValueError) as error:
        raise BevstackError(f"{path} cannot be written: {error}") from None
    _write(path, buffer.getvalue())


def _progress() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)
