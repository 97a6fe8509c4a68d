"""Weights files of any model family: safetensors, with the model's config, a hash of the tensors and a card inside."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bevstack.errors import CheckpointError

from .widths import split_width, weights_in

if TYPE_CHECKING:
    from torch import Tensor

_MAX_HEADER = 100_000_000  # safetensors' own limit


@dataclass(frozen=True)
class WeightsHeader:
    """``config``: JSON of the model's config. ``sha256``: hexadecimal, of names, types, shapes and bytes of all tensors."""

    config: str
    sha256: str
    card: dict[str, Any]


def weights_dirs() -> list[Path]:
    """Folders searched for weights, first match wins: $BEVSTACK_WEIGHTS, the user's own, the checkout's, the installed ones."""
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    folders = [data / "bevstack" / "weights", Path(__file__).resolve().parents[3] / "weights"]
    folders.append(Path(sys.prefix) / "share" / "bevstack" / "weights")
    given = os.environ.get("BEVSTACK_WEIGHTS")
    return [Path(given), *folders] if given else folders


def find_file(name: str | Path, known: Iterable[str], remedy: str) -> Path:
    """Path of a rung's weights: an existing .safetensors or .onnx path as it is, a name looked up in ``weights_dirs()``.

    A rung of a file of several widths comes back as the path of that file with ``@WIDTH`` behind it.

    Args:
        known: names of the family's rungs. ``remedy``: what to do about a known rung without weights.

    Raises:
        CheckpointError: nothing found.
    """
    path = Path(split_width(name)[0])
    rungs = sorted(known)
    if path.suffix in (".safetensors", ".onnx"):
        if path.is_file():
            return Path(name)
        raise CheckpointError(f"weights {path} do not exist: give a file or one of {', '.join(rungs)}")
    for folder in weights_dirs():
        candidate = weights_in(folder, str(name))
        if candidate is not None:
            return candidate
    hint = remedy if str(name) in rungs else f"known rungs are {', '.join(rungs)}"
    raise CheckpointError(f"no weights for {str(name)!r} in {', '.join(map(str, weights_dirs()))}: {hint}")


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Hash of names, types, shapes and bytes, in name order."""
    digest = hashlib.sha256()
    for key in sorted(tensors):
        value = tensors[key].detach().cpu().contiguous()
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def save_file(
    path: str | Path,
    state: Mapping[str, Tensor],
    kind: str,
    config: str,
    card: Mapping[str, Any] | None = None,
    dtype: Literal["float16", "float32"] = "float16",
) -> WeightsHeader:
    """Writes a state dict; the file appears complete or not at all.

    Args:
        kind: name and version of the format, for example "bevstack-giraffedet-1".
        card: anything JSON can say: data, recipe, metrics.
        dtype: of convolution weights. Tensors of less than two dimensions stay float32: they are small, and variances can be.

    Raises:
        CheckpointError: a weight is not finite or too large for float16, or the file cannot be written.
    """
    import torch
    from safetensors.torch import save

    half = torch.float16 if dtype == "float16" else torch.float32
    tensors = {}
    for key, value in state.items():
        stored = value.detach().cpu()
        if stored.is_floating_point():
            stored = stored.to(half if stored.dim() > 1 else torch.float32)
            if not bool(stored.isfinite().all()):
                raise CheckpointError(
                    f"weight {key} is not finite in {stored.dtype}: it cannot be saved; train again or use float32"
                )
        tensors[key] = stored.contiguous()
    header = WeightsHeader(config, tensors_sha256(tensors), dict(card or {}))
    metadata = {"format": kind, "config": config, "sha256": header.sha256, "card": json.dumps(header.card, sort_keys=True)}
    target = Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(save(tensors, metadata))
        os.replace(partial, target)
    except OSError as error:
        raise CheckpointError(f"weights cannot be written to {target}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)
    return header


def _metadata(file: Path) -> dict[str, str]:
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
    return {str(k): str(v) for k, v in metadata.items()} if isinstance(metadata, dict) else {}


def format_of(path: str | Path) -> str:
    """Name and version of a weights file's format, "" if it names none. A width behind the path (``@0.5``) does not matter.

    Raises:
        CheckpointError: missing or damaged.
    """
    return _metadata(Path(split_width(path)[0])).get("format", "")


def read_header(path: str | Path, kind: str, remedy: str) -> WeightsHeader:
    """What a weights file says about itself, without reading its tensors; needs no torch.

    Args:
        remedy: what to do with a file of another kind.

    Raises:
        CheckpointError: missing, damaged, or of another kind.
    """
    metadata = _metadata(Path(path))
    if metadata.get("format") != kind:
        raise CheckpointError(f"{path} is not a {kind} file: {remedy}")
    try:
        card = json.loads(metadata.get("card", "{}"))
    except ValueError as error:
        raise CheckpointError(f"{path}: the card inside is damaged ({error}): copy the file again") from error
    return WeightsHeader(metadata.get("config", ""), metadata.get("sha256", ""), card)


def read_tensors(path: str | Path, sha256: str) -> dict[str, Tensor]:
    """All tensors of a weights file.

    Raises:
        CheckpointError: damaged file, or tensors that do not hash to ``sha256``.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors: dict[str, Tensor] = load(Path(path).read_bytes())
    except (SafetensorError, OSError, KeyError) as error:
        raise CheckpointError(f"{path} is damaged ({' '.join(str(error).split())[:120]}): copy or download it again") from error
    found = tensors_sha256(tensors)
    if found != sha256:
        raise CheckpointError(f"{path}: tensors hash to {found[:12]}..., the file says {sha256[:12]}...: copy it again")
    return tensors
