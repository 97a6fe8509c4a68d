"""GiraffeDet in several widths out of one weights file: ``giraffedet-slim@0.5``, ``@0.75``, ``@1.0``; see docs/slimmable.md.

Backbone and the inside of the neck are slimmable (``bevstack.nn.slimmable``) with norms of their own for each width; the neck's
output layer and the head are one and the same for all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bevstack.nn.slim_files import SlimHeader, fill_all, fill_one, holds_widths, read_slim_header, save_slim_file
from bevstack.nn.widths import split_width

from .config import GiraffeDetConfig, narrow
from .graph import giraffe_graph

if TYPE_CHECKING:
    from bevstack.nn.slimmable import Parts, Slimmable

    from .network import GiraffeDetNet

FORMAT = "bevstack-giraffedet-slim-1"


def is_slim(path: str | Path) -> bool:
    """Whether a weights file, with or without ``@WIDTH`` behind its name, holds several widths.

    Raises:
        CheckpointError: missing or damaged.
    """
    return holds_widths(path, FORMAT)


def read_width(path: str | Path) -> tuple[GiraffeDetConfig, SlimHeader]:
    """Config of the width that ``path`` names (default: the largest), and the head of the file.

    Raises:
        CheckpointError: missing, damaged, of another kind, or without that width.
    """
    header = read_slim_header(path, FORMAT)
    return narrow(GiraffeDetConfig.from_json(header.config), header.width(split_width(path)[1])), header


def _own_norm(name: str) -> bool:
    return name.startswith(("backbone.", "neck."))


def fusion_parts(config: GiraffeDetConfig, width: float) -> dict[str, Parts]:
    """Inputs of the neck's nodes at a width of ``config``: they read concatenations, of which each map is narrower."""
    thin = narrow(config, width)
    channels = list(zip(config.backbone.levels, thin.backbone.levels))
    found = {}
    for index, node in enumerate(giraffe_graph(config.layers, config.link)):
        name = f"neck.cell.giraffeNeck.fnode.{index}.after_combine.conv1x1"
        found[name] = tuple(channels[s.node] for s in node.inputs)
        last = node.layer == config.layers
        channels.append((config.outputs, config.outputs) if last else (config.inner, thin.inner))
    return found


def slimmable(config: GiraffeDetConfig, widths: Sequence[float]) -> Slimmable[GiraffeDetNet]:
    """Networks of all ``widths`` of ``config`` on one set of (random) weights."""
    from bevstack.nn.slimmable import Slimmable

    from .network import GiraffeDetNet

    return Slimmable(lambda w: GiraffeDetNet(narrow(config, w)), widths, _own_norm, lambda w: fusion_parts(config, w))


def save_slim(
    path: str | Path,
    slim: Slimmable[GiraffeDetNet],
    card: Mapping[str, Any] | None = None,
    dtype: Literal["float16", "float32"] = "float16",
) -> SlimHeader:
    """Writes all widths into one file; see ``bevstack.nn.weights.save_file``.

    Raises:
        CheckpointError: a weight is not finite in ``dtype``, or the file cannot be written.
    """
    config = replace(slim.full.config, name=split_width(slim.full.config.name)[0])
    return save_slim_file(path, slim.tensors(), FORMAT, config.to_json(), slim.widths, card, dtype)


def load_slim(path: str | Path) -> Slimmable[GiraffeDetNet]:
    """All widths of a file, float32, for training on.

    Raises:
        CheckpointError: missing or damaged file, or tensors that do not fit the config inside.
    """
    header = read_slim_header(path, FORMAT)
    config = GiraffeDetConfig.from_json(header.config)
    slim = slimmable(config, header.widths)
    fill_all(slim, header, config.name)
    return slim


def load_width(path: str | Path) -> GiraffeDetNet:
    """The ordinary network of the width that ``path`` names, float32, eval mode; see ``read_width``.

    Raises:
        CheckpointError: missing or damaged file, no such width, or tensors that do not fit.
    """
    from .network import GiraffeDetNet

    config, header = read_width(path)
    width = header.width(split_width(path)[1])
    net = GiraffeDetNet(config)
    fill_one(net, header, width, _own_norm, fusion_parts(GiraffeDetConfig.from_json(header.config), width), config.name)
    return net.eval()


def rungs_of(path: str | Path) -> dict[str, str]:
    """Rungs in a file of several widths, smallest first: name to the path that loads it.

    Raises:
        CheckpointError: missing, damaged, of another kind, or without the width that ``path`` names.
    """
    config, header = read_width(path)
    return header.rungs(split_width(config.name)[0])
