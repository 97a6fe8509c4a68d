"""From a run's folder to published codec weights and the page beside them, so that no number in it is typed by hand."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bevstack.codec.weights import load_arrays, net_from_arrays, read_info, save_weights
from bevstack.learn.history import command, parts_section, plain, read_parts, software
from bevstack.learn.run import TrainingError

from .train import CodecTrainOptions

METRICS = {"psnr": "PSNR-RGB", "ms_ssim_db": "MS-SSIM"}


def publish(run: Path, scores: Path, target: Path, *, data: Sequence[str] = (), note: str = "") -> Path:
    """Puts a run's weights at ``target`` (``weights/NAME.safetensors``) with their scores inside, and their card beside them.

    Args:
        run: folder of ``train_codec``. ``scores``: what ``bevstack codec eval --json`` wrote for exactly these weights.
        data: one line per source of photographs: what, how many, licence. note: closing paragraphs of the card.

    Returns:
        Path of the card.

    Raises:
        TrainingError: the scores belong to other weights.
    """
    source = run / "weights.safetensors"
    info, arrays, tables = load_arrays(source)
    measured: dict[str, Any] = json.loads(scores.read_text(encoding="utf-8"))
    names = [name for name, sha256 in measured.get("weights_sha256", {}).items() if sha256 == info.sha256]
    if not names:
        raise TrainingError(f"{scores} was measured with other weights than {source}: score these")
    rates = [row for row in measured["bd_rate"] if row["codec"] == names[0] and row["percent"] is not None]
    net = net_from_arrays(info.config, arrays, str(source))
    metrics = {f"{row['anchor']}, {row['metric']}": row["percent"] for row in rates}
    save_weights(target, net, {**info.card, "metrics": metrics}, tables=tables)
    saved, steps = read_info(target), int(info.card["steps"])
    first = read_parts(run)[0]
    known = first.environment
    lines = [
        f"# {info.config.name}",
        "",
        "Image codec; use: docs/codec.md, training: docs/codec-training.md.",
        "",
        "| | |",
        "| --- | --- |",
        f"| parameters | {sum(p.numel() for p in net.parameters()):,} |",
        f"| sha256 of the tensors | `{saved.sha256}` |",
        f"| model id | `{saved.model_id.hex()}` |",
        f"| time, machine | {float(info.card['minutes']):.0f} min ({steps:,} steps), {known.get('cores', '?')} vCPU "
        f"{known.get('processor', '?')} |",
        f"| software | {software(known)} |",
        f"| recipe | `{_recipe(first.options)}` |",
        "",
    ]
    lines += _section(parts_section(run, steps))
    if data:
        lines += ["## Photographs", "", *(f"- {line}" for line in data), ""]
    lines += [f"## Scores on {len(measured['pictures'])} pictures", "", "| against | metric | BD-rate |", "| --- | --- | --- |"]
    for row in rates:
        low, high = row["range_db"]
        metric = METRICS.get(row["metric"], row["metric"])
        lines.append(f"| {row['anchor']} | {metric} | {row['percent']:+.1f} % ({low:.1f} to {high:.1f} dB) |")
    lines += ["", *_section(_validation(run / "validation.csv"))]
    if note:
        lines += [note, ""]
    page = target.with_suffix(".md")
    page.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return page


def _recipe(options: Mapping[str, Any]) -> str:
    defaults = plain(CodecTrainOptions(Path()))
    if options.get("latent_batch") == options.get("batch"):  # as the command has it
        options = {k: v for k, v in options.items() if k != "latent_batch"}
    return command("codec", options, defaults)


def _section(lines: Sequence[str]) -> list[str]:
    return [*lines, ""] if lines else []


def _validation(file: Path) -> list[str]:
    """First and last BD-rates on the photographs that were held out; nothing where there were none."""
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as rows:
        first, *_, last = [*csv.DictReader(rows)] * 2
    changes = [
        f"{name.removeprefix('bd_')} {float(first[name]):+.1f} to {float(last[name]):+.1f} %"
        for name in last
        if name.startswith("bd_")
    ]
    return [f"BD-rate on the held-out photographs, step {first['step']} to step {last['step']}: {', '.join(changes)}."]
