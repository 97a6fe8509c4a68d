"""Fast-BEV weights files; see ``bevstack.nn.weights`` for what is inside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bevstack.errors import CheckpointError
from bevstack.nn import weights as files
from bevstack.nn.weights import weights_dirs
from bevstack.nn.widths import split_width

from .config import CONFIGS, FastBEVConfig

if TYPE_CHECKING:
    from .network import FastBEVNet

FORMAT = "bevstack-fastbev-1"
_OTHER = "official checkpoints are brought in by `bevstack weights import FILE --model NAME`"


@dataclass(frozen=True)
class WeightsInfo:
    """What a weights file says about itself. ``sha256``: hexadecimal, of names, shapes and bytes of all tensors."""

    config: FastBEVConfig
    sha256: str
    card: dict[str, Any]


def find_weights(name: str | Path) -> Path:
    """Path of a rung's weights, a name being looked up in ``weights_dirs()``; see ``bevstack.nn.weights.find_file``.

    ``fastbev-slim@0.5`` becomes the path of the file of all widths with ``@0.5`` behind it, which is what ``read_info`` and
    ``load_weights`` take.

    Raises:
        CheckpointError: nothing found.
    """
    remedy = f"train it, or import an official checkpoint: bevstack weights import FILE --model {name}"
    return files.find_file(name, CONFIGS, remedy)


def save_weights(
    path: str | Path,
    net: FastBEVNet,
    card: Mapping[str, Any] | None = None,
    dtype: Literal["float16", "float32"] = "float16",
) -> WeightsInfo:
    """Writes ``net``; see ``bevstack.nn.weights.save_file``.

    Raises:
        CheckpointError: a weight is not finite or too large for float16, or the file cannot be written.
    """
    header = files.save_file(path, net.state_dict(), FORMAT, net.config.to_json(), card, dtype)
    return WeightsInfo(net.config, header.sha256, header.card)


def read_info(path: str | Path) -> WeightsInfo:
    """Config, hash and card of a weights file, without torch and without reading the tensors.

    Of a file of several widths (``bevstack.bev.slim``): those of the width named behind it (``@0.5``), else of the largest. The
    hash is the whole file's, the same for all widths.

    Raises:
        CheckpointError: missing, damaged, not one of our files, or without that width.
    """
    from . import slim

    if slim.is_slim(path):
        config, head = slim.read_width(path)
        return WeightsInfo(config, head.sha256, head.card)
    base, width = split_width(path)
    header = files.read_header(base, FORMAT, _OTHER)
    if width is not None:
        raise CheckpointError(f"{base} holds one width: use it without @{width}")
    return WeightsInfo(FastBEVConfig.from_json(header.config), header.sha256, header.card)


def load_weights(path: str | Path) -> FastBEVNet:
    """The network of a weights file, float32, eval mode; of one of several widths: the ordinary network of that width.

    Raises:
        CheckpointError: missing or damaged file, a hash that does not match, or tensors that do not fit the config inside.
    """
    from bevstack.nn.checkpoint import load_exactly

    from . import slim
    from .network import FastBEVNet

    if slim.is_slim(path):
        return slim.load_width(path)
    info = read_info(path)
    net = FastBEVNet(info.config)
    load_exactly(net, files.read_tensors(path, info.sha256), str(path), info.config.name)
    return net.eval()


def import_checkpoint(path: str | Path, model: str | FastBEVConfig) -> FastBEVNet:
    """Network of ``model`` ("fastbev-m0" ...) with an official checkpoint's weights; every entry is used, none is left unset.

    Raises:
        CheckpointError: unreadable file, or names or shapes that are not this model's.
    """
    from bevstack.nn.checkpoint import load_exactly, read_state_dict

    from .network import FastBEVNet

    if isinstance(model, str):
        if model not in CONFIGS:
            raise CheckpointError(f"unknown model {model!r}: known rungs are {', '.join(sorted(CONFIGS))}")
        model = CONFIGS[model]
    state = read_state_dict(Path(path))
    net = FastBEVNet(model)
    load_exactly(net, state, f"checkpoint {path}", model.name)
    return net.eval()


def import_weights(checkpoint: str | Path, model: str, output: str | Path | None = None) -> Path:
    """Imports an official checkpoint and saves it as weights (float32: bit for bit) where ``find_weights`` finds it.

    Returns:
        The file written: ``output``, or ``<model>.safetensors`` in the user's weights folder.

    Raises:
        CheckpointError: see ``import_checkpoint`` and ``save_weights``.
    """
    net = import_checkpoint(checkpoint, model)
    target = Path(output) if output is not None else weights_dirs()[0] / f"{model}.safetensors"
    card = {"origin": f"imported from {Path(checkpoint).name}", "licence": "the licence of the imported checkpoint applies"}
    save_weights(target, net, card, dtype="float32")
    return target
