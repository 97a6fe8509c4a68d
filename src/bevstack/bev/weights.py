"""Weights files: safetensors, with the rung's config, a hash of the tensors and the model card inside."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bevstack.errors import CheckpointError
from bevstack.nn.widths import split_width, weights_in

from .config import CONFIGS, FastBEVConfig

if TYPE_CHECKING:
    from torch import Tensor

    from .network import FastBEVNet

FORMAT = "bevstack-fastbev-1"
_MAX_HEADER = 100_000_000  # safetensors' own limit


@dataclass(frozen=True)
class WeightsInfo:
    """What a weights file says about itself. ``sha256``: hexadecimal, of names, shapes and bytes of all tensors."""

    config: FastBEVConfig
    sha256: str
    card: dict[str, Any]


def weights_dirs() -> list[Path]:
    """Folders searched for weights, first match wins: $BEVSTACK_WEIGHTS, the user's own, the checkout's, the installed ones."""
    import sys

    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    folders = [data / "bevstack" / "weights", Path(__file__).resolve().parents[3] / "weights"]
    folders.append(Path(sys.prefix) / "share" / "bevstack" / "weights")
    given = os.environ.get("BEVSTACK_WEIGHTS")
    return [Path(given), *folders] if given else folders


def find_weights(name: str | Path) -> Path:
    """Path of a rung's weights: a path that exists is returned as it is, a name is looked up in ``weights_dirs()``.

    ``fastbev-slim@0.5`` becomes the path of the file of all widths with ``@0.5`` behind it, which is what ``read_info`` and
    ``load_weights`` take.

    Raises:
        CheckpointError: nothing found.
    """
    path = Path(split_width(name)[0])
    if path.suffix in (".safetensors", ".onnx"):
        if path.is_file():
            return Path(name)
        raise CheckpointError(f"weights {path} do not exist: give a file or one of {sorted(CONFIGS)}")
    for folder in weights_dirs():
        candidate = weights_in(folder, str(name))
        if candidate is not None:
            return candidate
    hint = "train it, or import an official checkpoint: bevstack weights import FILE --model " + str(name)
    if str(name) not in CONFIGS:
        hint = f"known rungs are {', '.join(sorted(CONFIGS))}"
    raise CheckpointError(f"no weights for {str(name)!r} in {', '.join(map(str, weights_dirs()))}: {hint}")


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Hash of names, types, shapes and bytes, in name order."""
    digest = hashlib.sha256()
    for key in sorted(tensors):
        value = tensors[key].detach().cpu().contiguous()
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def save_weights(
    path: str | Path,
    net: FastBEVNet,
    card: Mapping[str, Any] | None = None,
    dtype: Literal["float16", "float32"] = "float16",
) -> WeightsInfo:
    """Writes ``net``'s state dict and config; the file appears complete or not at all.

    Args:
        card: anything JSON can say: data, recipe, metrics.
        dtype: of convolution weights. One-dimensional tensors (batch norms, biases) stay float32: they are small, and variances
            can be.

    Raises:
        CheckpointError: a weight is not finite or too large for float16, or the file cannot be written.
    """
    import torch
    from safetensors.torch import save

    half = torch.float16 if dtype == "float16" else torch.float32
    tensors = {}
    for key, value in net.state_dict().items():
        stored = value.detach().cpu()
        if stored.is_floating_point():
            stored = stored.to(half if stored.dim() > 1 else torch.float32)
            if not bool(stored.isfinite().all()):
                raise CheckpointError(
                    f"weight {key} is not finite in {stored.dtype}: it cannot be saved; train again or use float32"
                )
        tensors[key] = stored.contiguous()
    info = WeightsInfo(net.config, tensors_sha256(tensors), dict(card or {}))
    metadata = {
        "format": FORMAT,
        "config": net.config.to_json(),
        "sha256": info.sha256,
        "card": json.dumps(info.card, sort_keys=True),
    }
    target = Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(save(tensors, metadata))
        os.replace(partial, target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise CheckpointError(f"weights cannot be written to {target}: {error.strerror}") from error
    return info


def read_info(path: str | Path) -> WeightsInfo:
    """Config, hash and card of a weights file, without torch and without reading the tensors.

    Of a file of several widths (``bevstack.bev.slim``): those of the width named behind it (``@0.5``), else of the largest. The
    hash is the whole file's, the same for all widths.

    Raises:
        CheckpointError: missing, damaged, not one of our files, or without that width.
    """
    from . import slim

    base, width = split_width(path)
    if slim.is_slim(base):
        config, header = slim.read_width(path)
        return WeightsInfo(config, header.sha256, header.card)
    if width is not None:
        raise CheckpointError(f"{base} holds one width: use it without @{width}")
    file = Path(path)
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if not 2 <= length <= min(_MAX_HEADER, file.stat().st_size):
                raise ValueError("its header length is impossible")
            metadata = json.loads(stream.read(length)).get("__metadata__", {})
    except FileNotFoundError as error:
        raise CheckpointError(f"weights {file} do not exist: give a .safetensors file") from error
    except (OSError, struct.error, ValueError, AttributeError) as error:
        raise CheckpointError(f"{file} is no safetensors file ({error}): copy or download it again") from error
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{file} is not a {FORMAT} file: official checkpoints are brought in by `bevstack weights import FILE --model NAME`"
        )
    try:
        card = json.loads(metadata.get("card", "{}"))
    except ValueError as error:
        raise CheckpointError(f"{file}: the card inside is damaged ({error}): copy the file again") from error
    return WeightsInfo(FastBEVConfig.from_json(metadata.get("config", "")), metadata.get("sha256", ""), card)


def load_weights(path: str | Path) -> FastBEVNet:
    """The network of a weights file, float32, eval mode; of one of several widths: the ordinary network of that width.

    Raises:
        CheckpointError: missing or damaged file, a hash that does not match, or tensors that do not fit the config inside.
    """
    from . import slim

    if slim.is_slim(path):
        return slim.load_width(path)
    from safetensors import SafetensorError
    from safetensors.torch import load

    from bevstack.nn.checkpoint import load_exactly

    from .network import FastBEVNet

    info = read_info(path)
    try:
        tensors = load(Path(path).read_bytes())
    except (SafetensorError, OSError, KeyError) as error:
        raise CheckpointError(f"{path} is damaged ({' '.join(str(error).split())[:120]}): copy or download it again") from error
    found = tensors_sha256(tensors)
    if found != info.sha256:
        raise CheckpointError(f"{path}: tensors hash to {found[:12]}..., the file says {info.sha256[:12]}...: copy it again")
    net = FastBEVNet(info.config)
    load_exactly(net, tensors, str(path), info.config.name)
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
