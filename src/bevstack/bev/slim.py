"""Fast-BEV in several widths out of one weights file: ``fastbev-slim@0.5``, ``@0.75``, ``@1.0``; see docs/slimmable.md.

The image backbone is slimmable (``bevstack.nn.slimmable``); every norm up to the lifted features is each width's own. The BEV
encoder and the head are one and the same for all widths, norms included, so a running ladder needs them once and a cached
feature map is good for every width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bevstack.nn.slim_files import SlimHeader, fill_all, fill_one, holds_widths, read_slim_header, save_slim_file
from bevstack.nn.widths import split_width

from .config import FastBEVConfig, narrow

if TYPE_CHECKING:
    from bevstack.nn.slimmable import Slimmable

    from .network import FastBEVNet

FORMAT = "bevstack-fastbev-slim-1"
_IMAGE = ("backbone.", "neck.")  # names of what runs on images


def is_slim(path: str | Path) -> bool:
    """Whether a weights file, with or without ``@WIDTH`` behind its name, holds several widths.

    Raises:
        CheckpointError: missing or damaged.
    """
    return holds_widths(path, FORMAT)


def read_width(path: str | Path) -> tuple[FastBEVConfig, SlimHeader]:
    """Config of the width that ``path`` names (``weights/fastbev-slim.safetensors@0.5``; default: the largest), and the head of
    the file.

    Raises:
        CheckpointError: missing, damaged, of another kind, or without that width.
    """
    header = read_slim_header(path, FORMAT)
    return narrow(FastBEVConfig.from_json(header.config), header.width(split_width(path)[1])), header


def slimmable(config: FastBEVConfig, widths: Sequence[float]) -> Slimmable[FastBEVNet]:
    """Networks of all ``widths`` of ``config`` on one set of (random) weights."""
    from bevstack.nn.slimmable import Slimmable

    from .network import FastBEVNet

    return Slimmable(lambda width: FastBEVNet(narrow(config, width)), widths, _own_norm)


def _own_norm(name: str) -> bool:
    return name.startswith(_IMAGE)


def sort_image_channels(net: FastBEVNet) -> None:
    """Important channels of the image backbone first, in place; same outputs up to rounding. See ``nn.channel_order``."""
    from torch import nn

    from bevstack.nn.channel_order import sort_channels
    from bevstack.nn.layers import ConvBN
    from bevstack.nn.resnet import ResNet

    laterals = net.neck.lateral_convs
    if not isinstance(net.backbone, ResNet) or not isinstance(laterals, nn.ModuleList):
        raise ValueError(f"{net.config.name} has no residual backbone: its channels stay as they are")
    sort_channels(net.backbone, [m.conv for m in laterals if isinstance(m, ConvBN)])


def save_slim(
    path: str | Path,
    slim: Slimmable[FastBEVNet],
    card: Mapping[str, Any] | None = None,
    dtype: Literal["float16", "float32"] = "float16",
) -> SlimHeader:
    """Writes all widths into one file; see ``bevstack.nn.weights.save_file``.

    Raises:
        CheckpointError: a weight is not finite in ``dtype``, or the file cannot be written.
    """
    config = replace(slim.full.config, name=split_width(slim.full.config.name)[0])
    return save_slim_file(path, slim.tensors(), FORMAT, config.to_json(), slim.widths, card, dtype)


def load_slim(path: str | Path) -> Slimmable[FastBEVNet]:
    """All widths of a file, float32, for training on.

    Raises:
        CheckpointError: missing or damaged file, or tensors that do not fit the config inside.
    """
    header = read_slim_header(path, FORMAT)
    config = FastBEVConfig.from_json(header.config)
    slim = slimmable(config, header.widths)
    fill_all(slim, header, config.name)
    return slim


def load_width(path: str | Path) -> FastBEVNet:
    """The ordinary network of the width that ``path`` names, float32, eval mode; see ``read_width``.

    Raises:
        CheckpointError: missing or damaged file, no such width, or tensors that do not fit.
    """
    from .network import FastBEVNet

    config, header = read_width(path)
    width = header.width(split_width(path)[1])
    net = FastBEVNet(config)
    fill_one(net, header, width, _own_norm, {}, config.name)
    return net.eval()


def rungs_of(path: str | Path) -> dict[str, str]:
    """Rungs in a file of several widths, smallest first: name to the path that loads it.

    Raises:
        CheckpointError: missing, damaged, of another kind, or without the width that ``path`` names.
    """
    config, header = read_width(path)
    return header.rungs(split_width(config.name)[0])
