"""``bevstack search``: fits a backbone to a budget (MAE-DET)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bevstack.errors import BevstackError

from .plainly import plainly

if TYPE_CHECKING:
    from bevstack.detect.search.operators import OperatorTable

search_app = typer.Typer(help="Fit a network to this machine.", no_args_is_help=True)


@search_app.command()
@plainly
def backbone(
    budget: Annotated[
        str, typer.Option(help="Limits, all of which hold: flops, macs, params, layers, latency, as in flops=18.8G,layers=91.")
    ],
    out: Annotated[Path, typer.Option(help="File for the structure (JSON).")] = Path("backbone.json"),
    image: Annotated[str, typer.Option(help="Image that FLOPs and latency are for, WIDTHxHEIGHT.")] = "640x384",
    engine: Annotated[str, typer.Option(help="What latency is measured on: onnx or torch.")] = "onnx",
    threads: Annotated[int, typer.Option(help="Threads that latency is measured with.")] = 1,
    table: Annotated[Path | None, typer.Option(help="Operator table: read if it is there, else measured and kept.")] = None,
    evaluations: Annotated[int, typer.Option(help="Structures to look at.")] = 100_000,
    seed: Annotated[int, typer.Option(help="Same seed, budget and table: same structure.")] = 0,
    weights: Annotated[
        str, typer.Option(help="Weights of the stages C1 to C5; more on C3 favours small objects.")
    ] = "0,0,1,1,6",
    narrowest: Annotated[
        int,
        typer.Option(help="A bottleneck has at least 1/n of its block's width; 10 as published, 6 fills processors better."),
    ] = 10,
    stem: Annotated[int, typer.Option(help="Most channels of the stem.")] = 32,
) -> None:
    """Search an image backbone for a budget: no training, no data, minutes on one core.

    The file goes to ``bevstack train giraffedet --backbone FILE`` and, in Python, to ``FastBEVConfig.backbone``.
    """
    from bevstack.detect.search.evolution import SearchSettings
    from bevstack.detect.search.find import find_backbone, parse_budget
    from bevstack.nn.superblocks import save_backbone

    limits = parse_budget(budget)
    width, height = _size(image)
    if threads < 1 or evaluations < 1 or narrowest < 1 or stem < 8:
        raise BevstackError("threads, evaluations and narrowest must be at least 1, and stem at least 8")
    settings = SearchSettings(
        image_hw=(height, width),
        evaluations=evaluations,
        seed=seed,
        weights=_weights(weights),
        narrowest=narrowest,
        stem_cap=stem,
    )
    measured = None
    if limits.latency_ms is not None:
        measured = _table(table, (height, width), engine, threads)
    elif table is not None:
        raise BevstackError("--table is for latency: add latency=...ms to --budget, or leave --table out")
    outcome = find_backbone(limits, settings, measured, on_progress=_progress(evaluations))
    found = outcome.found
    about: dict[str, Any] = {
        "budget": budget,
        "image": f"{width}x{height}",
        "seed": seed,
        "evaluations": evaluations,
        "weights": list(settings.weights),
        "score": round(found.score, 4),
        "flops": found.cost.flops,
        "macs": found.cost.macs,
        "parameters": found.cost.parameters,
        "layers": found.cost.layers,
    }
    print(f"backbone   {found.config.label}")
    print(f"score      {found.score:.2f} after {evaluations} structures")
    print(
        f"cost       {found.cost.flops / 1e9:.3f} GFLOPs, {found.cost.macs / 1e9:.3f} GMAC at {width}x{height}; "
        f"{found.cost.parameters / 1e6:.3f} M parameters, {found.cost.layers} layers"
    )
    if measured is not None and outcome.measured_ms is not None and found.latency_ms is not None:
        about |= {
            "latency_ms": round(outcome.measured_ms, 3),
            "predicted_ms": round(found.latency_ms, 3),
            "engine": engine,
            "threads": threads,
            "device": measured.device,
        }
        print(
            f"latency    {outcome.measured_ms:.2f} ms measured, {found.latency_ms:.2f} ms predicted "
            f"({engine}, {threads} thread{'s' if threads > 1 else ''}, {measured.device})"
        )
    save_backbone(out, found.config, about)
    print(f"written    {out}")


def _table(path: Path | None, image_hw: tuple[int, int], engine: str, threads: int) -> OperatorTable:
    from bevstack.detect.search.operators import OperatorTable, TableError, measure_table

    if path is not None and path.exists():
        table = OperatorTable.load(path)
        if (table.image_hw, table.engine, table.threads) != (image_hw, engine, threads):
            raise TableError(
                f"operator table {path} is for {table.image_hw[1]}x{table.image_hw[0]}, {table.engine}, {table.threads} threads"
                ": give the same --image, --engine and --threads, or another file"
            )
        return table
    show = sys.stderr.isatty()
    table = measure_table(
        image_hw,
        engine,
        threads,
        on_progress=lambda n, total: print(f"\rmeasuring operators {n}/{total}", end="", file=sys.stderr) if show else None,
    )
    if show:
        print(file=sys.stderr)
    print(f"operators  measured on {table.device}; whole networks were within {100 * table.spread:.0f} % of the prediction")
    if path is not None:
        table.save(path)
    return table


def _progress(total: int) -> Any:
    if not sys.stderr.isatty():
        return None
    return lambda n, best: print(f"\r{n}/{total} structures, score {best:.1f} ", end="", file=sys.stderr)


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and height.isdigit() and 32 <= int(width) <= 8192 and 32 <= int(height) <= 8192):
        raise BevstackError(f"image {text!r}: write WIDTHxHEIGHT in pixels, from 32x32 to 8192x8192")
    return int(width), int(height)


def _weights(text: str) -> tuple[float, float, float, float, float]:
    try:
        c1, c2, c3, c4, c5 = (float(part) for part in text.split(","))
    except ValueError:
        raise BevstackError(f"weights {text!r}: write five numbers, for example 0,0,1,1,6") from None
    if min(c1, c2, c3, c4, c5) < 0 or max(c1, c2, c3, c4, c5) <= 0:
        raise BevstackError(f"weights {text!r}: none may be negative, and one must be more than 0")
    return c1, c2, c3, c4, c5
