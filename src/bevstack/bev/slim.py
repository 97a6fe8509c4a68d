"""Fast-BEV in several widths out of one weights file: ``fastbev-slim@0.5``, ``@0.75``, ``@1.0``; see docs/slimmable.md.

The image backbone is slimmable (``bevstack.nn.slimmable``); every norm up to the lifted features is each width's own. The BEV
encoder and the head are one and the same for all widths, norms included, so a running ladder needs them once and a cached
feature map is good for every width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bevstack.errors import CheckpointError
from bevstack.nn import weights as files
from bevstack.nn.widths import split_width, with_width

from .config import FastBEVConfig, narrow

if TYPE_CHECKING:
    from bevstack.nn.slimmable import Slimmable

    from .network import FastBEVNet

FORMAT = "bevstack-fastbev-slim-1"
_IMAGE = ("backbone.", "neck.")  # names of what runs on images


@dataclass(frozen=True)
class SlimInfo:
    """What a file of several widths says about itself. ``config``: of no width in particular; ``widths`` ascending."""

    config: FastBEVConfig
    widths: tuple[float, ...]
    sha256: str
    card: dict[str, Any]

    def width(self, wanted: float | None, label: str) -> float:
        """``wanted``, or the largest where nothing is wanted.

        Raises:
            CheckpointError: the file has no such width.
        """
        if wanted is None:
            return self.widths[-1]
        if wanted not in self.widths:
            raise CheckpointError(f"{label} has the widths {', '.join(map(str, self.widths))}, not {wanted}")
        return wanted


def is_slim(path: str | Path) -> bool:
    """Whether a weights file, with or without ``@WIDTH`` behind its name, holds several widths.

    Raises:
        CheckpointError: missing or damaged.
    """
    return files.format_of(split_width(path)[0]) == FORMAT


def read_slim_info(path: str | Path) -> SlimInfo:
    """Head of a file of several widths, without torch.

    Raises:
        CheckpointError: missing, damaged, or of another kind.
    """
    base, _ = split_width(path)
    header = files.read_header(base, FORMAT, "it holds one width: use it without @")
    try:
        about = json.loads(header.config)
        widths = tuple(sorted(float(w) for w in about["widths"]))
        text = json.dumps(about["config"])
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{base}: its list of widths cannot be read ({error}): copy the file again") from error
    if not widths or not all(0.0 < w <= 1.0 for w in widths):
        raise CheckpointError(f"{base}: widths {widths} cannot be: copy the file again")
    return SlimInfo(FastBEVConfig.from_json(text), widths, header.sha256, header.card)


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
) -> SlimInfo:
    """Writes all widths into one file; see ``bevstack.nn.weights.save_file``.

    Raises:
        CheckpointError: a weight is not finite in ``dtype``, or the file cannot be written.
    """
    config = replace(slim.full.config, name=split_width(slim.full.config.name)[0])
    about = json.dumps({"config": json.loads(config.to_json()), "widths": list(slim.widths)}, sort_keys=True)
    header = files.save_file(path, slim.tensors(), FORMAT, about, card, dtype)
    return SlimInfo(config, slim.widths, header.sha256, header.card)


def load_slim(path: str | Path) -> Slimmable[FastBEVNet]:
    """All widths of a file, float32, for training on.

    Raises:
        CheckpointError: missing or damaged file, or tensors that do not fit the config inside.
    """
    from bevstack.nn.checkpoint import load_exactly

    base, _ = split_width(path)
    info = read_slim_info(base)
    slim = slimmable(info.config, info.widths)
    tensors = files.read_tensors(base, info.sha256)
    load_exactly(slim, slim.named_as_state(tensors), base, info.config.name)
    return slim


def load_width(path: str | Path) -> FastBEVNet:
    """The ordinary network of the width that ``path`` names (``weights/fastbev-slim.safetensors@0.5``; default: the largest),
    float32, eval mode.

    Raises:
        CheckpointError: missing or damaged file, no such width, or tensors that do not fit.
    """
    from bevstack.nn.checkpoint import load_exactly
    from bevstack.nn.slimmable import narrow_state

    from .network import FastBEVNet

    base, wanted = split_width(path)
    info = read_slim_info(base)
    width = info.width(wanted, base)
    net = FastBEVNet(narrow(info.config, width))
    try:
        state = narrow_state(files.read_tensors(base, info.sha256), net, width, info.widths[-1], _own_norm, {})
    except ValueError as error:
        raise CheckpointError(f"{base} does not fit {net.config.name}: {error}; copy the file again") from error
    load_exactly(net, state, base, net.config.name)
    return net.eval()


def rungs_of(path: str | Path) -> dict[str, str]:
    """Rungs in a file of several widths, smallest first: name to the path that loads it.

    Raises:
        CheckpointError: missing, damaged, or of another kind.
    """
    base, _ = split_width(path)
    info = read_slim_info(base)
    return {with_width(info.config.name, w): with_width(base, w) for w in info.widths}
