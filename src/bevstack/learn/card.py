"""The page beside a weights file: written from a run's folder and a scores file, so that no number in it is typed by hand."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

from bevstack.bev.weights import load_weights, read_info, save_weights

from .history import Part, command, parts_section, plain, read_parts, samples, software
from .nuscenes_metrics import TP_NAMES
from .train import TrainOptions


def _json(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


def publish(run: Path, scores: Path, target: Path, *, note: str = "") -> Path:
    """Puts a run's weights at ``target`` (``weights/NAME.safetensors``) with recipe and metrics inside, and its card beside
    them.

    Args:
        run: folder of ``train_fastbev``. ``scores``: what ``bevstack eval fastbev --json`` wrote for exactly these weights.
        note: a paragraph for the card.

    Returns:
        Path of the card.

    Raises:
        ValueError: the scores belong to other weights.
    """
    source = run / "weights.safetensors"
    info, result = read_info(source), _json(scores)
    if result["weights_sha256"] != info.sha256:
        raise ValueError(f"{scores} was measured with other weights than {source}: score these")
    begun = read_parts(run)[0]
    with (run / "log.csv").open(newline="", encoding="utf-8") as file:
        last = list(csv.DictReader(file))[-1]
    net = load_weights(source)
    metrics = {k: result[k] for k in ("mAP", "NDS", "instants", "seeds", "seconds", "rate")}
    card = {**info.card, "data": "simulated drives", "first_training_seed": begun.options["first_drive"], "metrics": metrics}
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    saved = save_weights(target, net, card)
    page = target.with_suffix(".md")
    parameters = sum(p.numel() for p in net.parameters())
    page.write_text(_page(run, begun, saved.sha256, parameters, last, result, note), encoding="utf-8")
    return page


def _page(
    run: Path,
    begun: Part,
    sha256: str,
    parameters: int,
    last: dict[str, str],
    result: dict[str, Any],
    note: str,
) -> str:
    options, environment = begun.options, begun.environment
    seeds = result["seeds"]
    steps = int(last["step"])
    recipe = command("fastbev", options, plain(TrainOptions(Path())) | {"model": None})
    rows = []
    for name, c in result["classes"].items():
        values = [c["AP"], *c["AP_by_distance"].values(), *(c[k] for k in TP_NAMES.values())]
        cells = " | ".join("-" if v is None else f"{v:.3f}" for v in values)
        rows.append(f"| {name} | {cells} | {c['truths']} |")
    errors = ", ".join(f"m{k} {result['m' + k]:.3f}" for k in TP_NAMES.values())
    lines = [
        f"# {result['model']}",
        "",
        "Bird's-eye-view boxes of the ten nuScenes classes from six cameras, small enough for a CPU. "
        "Trained on **simulated drives only**.",
        "",
        "**Not for real roads.** The network has never seen a real image: it is there to try, test and measure the stack.",
        "",
        "| | |",
        "| --- | --- |",
        f"| parameters | {parameters:,} |",
        f"| sha256 of the tensors | `{sha256}` |",
        f"| training data | `bevstack.frames.sim`, world seeds from {options['first_drive']} on; seeds 0 to 9999 never |",
        f"| samples seen | {samples(run, steps):,} instants in {steps:,} steps |",
        f"| time, machine | {float(last['minutes']):.0f} min on {environment['cores']} vCPU {environment['processor']}, "
        "shared with other programs |",
        f"| software | {software(environment)} |",
        f"| recipe | `{recipe}`; see docs/training.md |",
        "",
        *([*parts, ""] if (parts := parts_section(run, steps)) else []),
        f"## Scores on simulated drives {seeds[0]} to {seeds[-1]}",
        "",
        f"{len(seeds)} drives of {result['seconds']:g} s at {result['rate']:g} instants per second "
        f"({result['instants']} instants), "
        "none of them trained on; nuScenes' own metrics (`detection_cvpr_2019`):",
        "",
        f"**mAP {result['mAP']:.3f}, NDS {result['NDS']:.3f}**; {errors}.",
        "",
        "| class | AP | AP@0.5m | AP@1m | AP@2m | AP@4m | ATE | ASE | AOE | AVE | AAE | true boxes |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *rows,
        "",
        f"Measured by `bevstack eval fastbev --simulated --seeds {seeds[0]}-{seeds[-1]} --json scores.json`.",
    ]
    if note:
        lines += ["", note]
    return "\n".join(lines) + "\n"
