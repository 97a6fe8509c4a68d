"""Names and channel counts of networks that come in several widths. Plain Python: names are read where no torch is."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

_WIDTH = re.compile(r"(?P<base>.+)@(?P<width>[01](?:\.\d{1,4})?)")


def scaled(channels: int, width: float, multiple: int = 8) -> int:
    """``channels`` at a width: the nearest multiple of ``multiple`` (halves upwards), at least one, at most ``channels``.

    Engines work on blocks of eight channels: counts in between would be padded and cost as much as the next block.
    """
    return min(channels, max(multiple, int(channels * width / multiple + 0.5) * multiple))


def with_width(name: str | Path, width: float) -> str:
    """``fastbev-slim`` and 0.5 -> ``fastbev-slim@0.5``; also for a path."""
    return f"{name}@{float(width)}"


def split_width(name: str | Path) -> tuple[str, float | None]:
    """Inverse of ``with_width``; None: no width is named."""
    match = _WIDTH.fullmatch(str(name))
    return (match["base"], float(match["width"])) if match else (str(name), None)


def weights_in(folder: Path, name: str) -> Path | None:
    """The weights of rung ``name`` in a folder: its own file, or the file of all widths with the width behind it."""
    own = folder / f"{name}.safetensors"
    if own.is_file():
        return own
    base, width = split_width(name)
    shared = folder / f"{base}.safetensors"
    return Path(with_width(shared, width)) if width is not None and shared.is_file() else None


def first_rung(model: str, rungs: Iterable[str]) -> str:
    """The one of ``rungs``, smallest first, that ``model`` stands for: itself, its width, else the largest."""
    names, (_, width) = list(rungs), split_width(model)
    if model in names:
        return model
    return next((name for name in names if width is not None and split_width(name)[1] == width), names[-1])
