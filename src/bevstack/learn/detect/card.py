"""From a run's folder to published weights and the page beside them, so that no number in it is typed by hand."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bevstack.detect.config import GiraffeDetConfig
from bevstack.detect.network import GiraffeDetNet
from bevstack.detect.weights import load_weights, read_info, save_weights
from bevstack.learn.history import Spelling, command, parts_section, plain, read_parts, samples, software
from bevstack.learn.run import TrainingError

from .train import TrainOptions


def _json(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


def from_checkpoint(run: Path, target: Path) -> Path:
    """Writes the averaged weights of a run that has not ended (or was stopped) to ``target``.

    Raises:
        TrainingError: the run has no checkpoint yet.
    """
    checkpoint = run / "checkpoint.pt"
    if not checkpoint.is_file():
        raise TrainingError(f"{checkpoint} does not exist: a run writes its first checkpoint after some minutes")
    state: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
    net = GiraffeDetNet(GiraffeDetConfig.from_json(state["config"]))
    net.load_state_dict(state["average"])
    progress = state["progress"]
    save_weights(target, net.eval(), {"steps": str(progress["step"]), "minutes": f"{progress['seconds'] / 60:.1f}"})
    return target


def publish(
    run: Path,
    source: Path,
    target: Path,
    scores: Sequence[tuple[str, Path]],
    *,
    data: Sequence[str] = (),
    note: str = "",
) -> Path:
    """Puts weights at ``target`` (``weights/NAME.safetensors``) with recipe and metrics inside, and their card beside them.

    Args:
        run: folder of ``train_giraffedet``. ``source``: its weights.
        scores: (heading, what ``bevstack eval giraffedet --json`` wrote for exactly these weights).
        data: one line per training set: what, how many images, licence.
        note: closing paragraphs of the card.

    Returns:
        Path of the card.

    Raises:
        TrainingError: scores belong to other weights.
    """
    info = read_info(source)
    results = [(heading, _json(path)) for heading, path in scores]
    for heading, result in results:
        if result["weights_sha256"] != info.sha256:
            raise TrainingError(f"the scores {heading!r} were measured with other weights than {source}: score these")
    begun = read_parts(run)[0]
    environment = begun.environment
    with (run / "log.csv").open(newline="", encoding="utf-8") as file:
        first, *_, last = [*csv.DictReader(file)] * 2  # a short run has one line
    net = load_weights(source)
    metrics = {heading: {k: r[k] for k in ("AP", "AP50", "images")} for heading, r in results}
    saved = save_weights(target, net, {**info.card, "data": list(data), "metrics": metrics})
    steps = int(info.card["steps"])
    lines = [
        f"# {info.config.name}",
        "",
        f"Boxes in camera images: {', '.join(info.config.classes)}.",
        "",
        "| | |",
        "| --- | --- |",
        f"| parameters | {sum(p.numel() for p in net.parameters()):,} |",
        f"| input | {info.config.canvas[1]}x{info.config.canvas[0]} |",
        f"| sha256 of the tensors | `{saved.sha256}` |",
        f"| samples seen | {samples(run, steps):,} in {steps:,} steps |",
        f"| time, machine | {float(info.card['minutes']):.0f} min on {_threads(begun.options)}{environment['cores']} vCPU "
        f"{environment['processor']}, shared with other programs |",
        f"| software | {software(environment)} |",
        f"| recipe | `{recipe(begun.options)}` |",
        f"| loss | {float(first['loss']):.2f} at step {first['step']}, {float(last['loss']):.2f} at step {last['step']} |",
        "",
    ]
    if parts := parts_section(run, steps, SPELLED):
        lines += [*parts, ""]
    if data:
        lines += ["## Training data", "", *(f"- {line}" for line in data), ""]
    for heading, result in results:
        lines += [*_table(heading, result), ""]
    if note:
        lines += [note, ""]
    page = target.with_suffix(".md")
    page.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return page


def _threads(options: dict[str, Any]) -> str:
    count = options.get("threads")
    return "" if count is None else "one thread of " if count == 1 else f"{count} threads of "


def recipe(options: Mapping[str, Any]) -> str:
    """The command that began a run with these ``options`` (as ``history.plain`` says them), without what is default."""
    defaults = plain(TrainOptions(Path())) | {"model": None}
    return command("giraffedet", options, defaults, SPELLED)


def _size(canvas: Sequence[int]) -> str:
    return f"{canvas[1]}x{canvas[0]}"


def _set(spec: Mapping[str, Any]) -> str:
    images, file = ("/".join(Path(spec[k] or "").parts[-2:]) for k in ("images", "file"))
    return f"{images + ':' if images else ''}{file}@{spec['weight']:g}"


SPELLED: Mapping[str, tuple[str, Spelling]] = {"canvases": ("size", _size), "data": ("data", _set)}


def _table(heading: str, result: dict[str, Any]) -> list[str]:
    def cell(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    sizes = ", ".join(f"{size} {cell(result[f'AP_{size}'])}" for size in ("small", "medium", "large"))
    rows = [
        f"| {n} | {cell(c['AP'])} | {cell(c['AP50'])} | {c['truths']} |" for n, c in result["classes"].items() if c["truths"]
    ]
    return [
        f"## {heading}",
        "",
        f"**AP {cell(result['AP'])}, AP50 {cell(result['AP50'])}**, AP75 {cell(result['AP75'])}; {sizes}; "
        f"AR100 {cell(result['AR100'])}; {result['images']} images (pycocotools).",
        "",
        "| class | AP | AP50 | boxes |",
        "| --- | --- | --- | --- |",
        *rows,
    ]
