"""Weights files of several widths, for any model family; readable without torch. Tensors: ``Slimmable.tensors``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bevstack.errors import CheckpointError

from . import weights as files
from .widths import split_width, with_width

if TYPE_CHECKING:
    from torch import Tensor, nn

    from .slimmable import Parts, Slimmable


@dataclass(frozen=True)
class SlimHeader:
    """What a file of several widths says about itself. ``config``: JSON, of no width in particular; ``widths`` ascending."""

    path: str
    config: str
    widths: tuple[float, ...]
    sha256: str
    card: dict[str, Any]

    def width(self, wanted: float | None) -> float:
        """``wanted``, or the largest where nothing is wanted.

        Raises:
            CheckpointError: the file has no such width.
        """
        if wanted is None:
            return self.widths[-1]
        if wanted not in self.widths:
            raise CheckpointError(f"{self.path} has the widths {', '.join(map(str, self.widths))}, not {wanted}")
        return wanted

    def rungs(self, name: str) -> dict[str, str]:
        """Rungs in the file, smallest first, for the family ``name``: rung name to the path that loads it."""
        return {with_width(name, w): with_width(self.path, w) for w in self.widths}


def holds_widths(path: str | Path, kind: str) -> bool:
    """Whether a weights file, with or without ``@WIDTH`` behind its name, is one of several widths of format ``kind``.

    Raises:
        CheckpointError: missing or damaged.
    """
    return files.format_of(path) == kind


def read_slim_header(path: str | Path, kind: str) -> SlimHeader:
    """Head of a file of several widths; a width behind its name does not matter.

    Raises:
        CheckpointError: missing, damaged, or of another kind.
    """
    base, _ = split_width(path)
    header = files.read_header(base, kind, "it holds one width: use it without @")
    try:
        about = json.loads(header.config)
        widths = tuple(sorted(float(w) for w in about["widths"]))
        text = json.dumps(about["config"])
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{base}: its list of widths cannot be read ({error}): copy the file again") from error
    if not widths or not all(0.0 < w <= 1.0 for w in widths):
        raise CheckpointError(f"{base}: widths {widths} cannot be: copy the file again")
    return SlimHeader(base, text, widths, header.sha256, header.card)


def save_slim_file(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    kind: str,
    config: str,
    widths: Sequence[float],
    card: Mapping[str, Any] | None = None,
    dtype: Literal["float16", "float32"] = "float16",
) -> SlimHeader:
    """Writes all widths into one file; see ``bevstack.nn.weights.save_file``.

    Raises:
        CheckpointError: a weight is not finite in ``dtype``, or the file cannot be written.
    """
    about = json.dumps({"config": json.loads(config), "widths": list(widths)}, sort_keys=True)
    header = files.save_file(path, tensors, kind, about, card, dtype)
    return SlimHeader(str(path), config, tuple(sorted(widths)), header.sha256, header.card)


def fill_all(slim: Slimmable[Any], header: SlimHeader, name: str) -> None:
    """Gives all widths the tensors of their file, float32. ``name``: of the model, for errors.

    Raises:
        CheckpointError: damaged file, or tensors that do not fit.
    """
    from .checkpoint import load_exactly

    load_exactly(slim, slim.named_as_state(files.read_tensors(header.path, header.sha256)), header.path, name)


def fill_one(
    net: nn.Module, header: SlimHeader, width: float, own_norm: Callable[[str], bool], parts: dict[str, Parts], name: str
) -> None:
    """Gives an ordinary network of one width its share of the tensors, float32; see ``bevstack.nn.slimmable.narrow_state``.

    Raises:
        CheckpointError: damaged file, or tensors that do not fit.
    """
    from .checkpoint import load_exactly
    from .slimmable import narrow_state

    try:
        tensors = files.read_tensors(header.path, header.sha256)
        state = narrow_state(tensors, net, width, header.widths[-1], own_norm, parts)
    except ValueError as error:
        raise CheckpointError(f"{header.path} does not fit {name}: {error}; copy the file again") from error
    load_exactly(net, state, header.path, name)
