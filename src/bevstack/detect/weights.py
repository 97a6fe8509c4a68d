"""Weights of GiraffeDet rungs: our files, and official checkpoints brought in by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bevstack.errors import CheckpointError
from bevstack.nn import weights as files

from .config import DETECTORS, GiraffeDetConfig

if TYPE_CHECKING:
    from .network import GiraffeDetNet

FORMAT = "bevstack-giraffedet-1"
_OTHER = "official checkpoints are brought in by `bevstack weights import FILE --model giraffedet-d7`"


@dataclass(frozen=True)
class WeightsInfo:
    """What a weights file says about itself. ``sha256``: hexadecimal, of names, shapes and bytes of all tensors."""

    config: GiraffeDetConfig
    sha256: str
    card: dict[str, Any]


def find_weights(name: str | Path) -> Path:
    """Path of a rung's weights; see ``bevstack.nn.weights.find_file``.

    Raises:
        CheckpointError: nothing found.
    """
    return files.find_file(
        name, DETECTORS, f"train it, or import an official checkpoint: bevstack weights import FILE --model {name}"
    )


def save_weights(
    path: str | Path,
    net: GiraffeDetNet,
    card: Mapping[str, Any] | None = None,
    dtype: Literal["float16", "float32"] = "float16",
) -> WeightsInfo:
    """Writes ``net``; see ``bevstack.nn.weights.save_file``.

    Raises:
        CheckpointError: a weight is not finite in ``dtype``, or the file cannot be written.
    """
    header = files.save_file(path, net.state_dict(), FORMAT, net.config.to_json(), card, dtype)
    return WeightsInfo(net.config, header.sha256, header.card)


def read_info(path: str | Path) -> WeightsInfo:
    """Config, hash and card of a weights file, without torch; of several widths: see ``bevstack.detect.slim.read_width``.

    Raises:
        CheckpointError: missing, damaged or another kind of file, or without the width that ``path`` names.
    """
    from . import slim

    if slim.is_slim(path):
        config, head = slim.read_width(path)
        return WeightsInfo(config, head.sha256, head.card)
    header = files.read_header(path, FORMAT, _OTHER)
    return WeightsInfo(GiraffeDetConfig.from_json(header.config), header.sha256, header.card)


def load_weights(path: str | Path) -> GiraffeDetNet:
    """The network of a weights file, float32, eval mode.

    Raises:
        CheckpointError: missing or damaged file, a hash that does not match, or tensors that do not fit the config inside.
    """
    from bevstack.nn.checkpoint import load_exactly

    from . import slim
    from .network import GiraffeDetNet

    if slim.is_slim(path):
        return slim.load_width(path)
    info = read_info(path)
    net = GiraffeDetNet(info.config)
    load_exactly(net, files.read_tensors(path, info.sha256), str(path), info.config.name)
    return net.eval()


def import_checkpoint(path: str | Path, model: str | GiraffeDetConfig) -> GiraffeDetNet:
    """Network of ``model`` with an official checkpoint's weights; every entry is used, none is left unset.

    Raises:
        CheckpointError: unreadable file, or names or shapes that are not this model's.
    """
    from bevstack.nn.checkpoint import load_exactly, read_state_dict

    from .network import GiraffeDetNet

    if isinstance(model, str):
        if model not in DETECTORS:
            raise CheckpointError(f"unknown model {model!r}: known rungs are {', '.join(sorted(DETECTORS))}")
        model = DETECTORS[model]
    state = read_state_dict(Path(path))
    net = GiraffeDetNet(model)
    load_exactly(net, state, f"checkpoint {path}", model.name)
    return net.eval()


def import_weights(checkpoint: str | Path, model: str, output: str | Path | None = None) -> Path:
    """Imports an official checkpoint and saves it (float32: bit for bit) where ``find_weights`` finds it.

    Returns:
        The file written: ``output``, or ``<model>.safetensors`` in the user's weights folder.

    Raises:
        CheckpointError: see ``import_checkpoint`` and ``save_weights``.
    """
    net = import_checkpoint(checkpoint, model)
    target = Path(output) if output is not None else files.weights_dirs()[0] / f"{model}.safetensors"
    card = {"origin": f"imported from {Path(checkpoint).name}", "licence": "the licence of the imported checkpoint applies"}
    save_weights(target, net, card, dtype="float32")
    return target
