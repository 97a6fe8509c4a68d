"""Weights files of codecs: safetensors with config, hash, model id, self-test and card inside."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bevstack.errors import CheckpointError
from bevstack.nn.weights import find_file

from .config import CODECS, CodecConfig
from .tables import CdfTables

if TYPE_CHECKING:
    from .model import CodecNet

FORMAT = "bevstack-codec-1"
TABLES = "tables."
_MAX_HEADER = 100_000_000
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class CodecInfo:
    """What a weights file says about itself.

    Attributes:
        sha256: hexadecimal, of names, types, shapes and bytes of all tensors.
        model_id: 8 bytes; streams with the same id parse.
        reconstruction_id: of the synthesis side, 32 bits.
        self_test: SHA-256 of the scale net's answer to ``self_test_input``.
    """

    config: CodecConfig
    sha256: str
    model_id: bytes
    reconstruction_id: int
    self_test: str
    card: dict[str, Any]


def find_weights(name: str | Path) -> Path:
    """Path of a codec's weights; see ``bevstack.nn.weights.find_file``.

    Raises:
        CheckpointError: nothing found.
    """
    return find_file(name, CODECS, "train it: bevstack train codec")


def arrays_sha256(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Hash of names, types, shapes and bytes, in name order."""
    digest = hashlib.sha256()
    for key in sorted(arrays):
        value = np.ascontiguousarray(arrays[key])
        digest.update(f"{key} {value.dtype} {value.shape}\n".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def tables_of(config: CodecConfig) -> CdfTables:
    """The coding tables that a config asks for, built in exact arithmetic."""
    from .exact import geometric_levels

    d, quantiser = config.distribution, config.quantiser
    levels = geometric_levels(d.count, d.lowest, d.highest)
    plain = CdfTables.gaussian(levels, d.skip_below)
    if quantiser.kind == "scalar":
        return plain
    # Residuals have longer tails than a Gaussian: shares fitted to codec-small's on photographs.
    parts = ((73, "0.8"), (27, "1.4"))
    return CdfTables.joined([plain, CdfTables.dependent(parts, levels, quantiser.step)], d.skip_below)


def model_id(config: CodecConfig, arrays: Mapping[str, NDArray[Any]], tables: CdfTables) -> bytes:
    """First 8 bytes of a SHA-256 over everything that parsing depends on."""
    parsing = {k: v for k, v in arrays.items() if (k.startswith("scales.") and "knots" not in k) or k == "z_table"}
    exact = {k: v.astype(np.float64) for k, v in parsing.items()}
    parts: list[Any] = [config.latent, config.hyper.kind, config.mean.kind, config.rate.levels, config.coder]
    if config.quantiser.kind != "scalar":
        parts += [config.quantiser.kind, config.quantiser.step]
    names = json.dumps(parts)
    return hashlib.sha256(f"{FORMAT} {names} {arrays_sha256(exact)}".encode() + tables.digest).digest()[:8]


def reconstruction_id(arrays: Mapping[str, NDArray[Any]]) -> int:
    """32 bits that identify the means, gains and synthesis."""
    side = {k: v for k, v in arrays.items() if k.split(".")[0] in ("synthesis", "means", "rate")}
    return int(arrays_sha256(side)[:8], 16)


def self_test_input(config: CodecConfig) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A fixed hyper latent (1, Z, 6, 8) and rate plane (1, 1, 6, 8), from integer arithmetic: the same everywhere."""
    count = config.hyper.channels * 48
    state, values = 12345, np.empty(count, np.float32)
    for i in range(count):
        state = (state * 1103515245 + 12345) % (1 << 31)
        values[i] = ((state >> 16) % 41 - 20) * (1 if i % 7 else 6)
    plane = (np.arange(48) * (config.rate.levels - 1) // 47).astype(np.float32)
    return values.reshape(1, config.hyper.channels, 6, 8), plane.reshape(1, 1, 6, 8)


def index_sha256(index: NDArray[Any]) -> str:
    """Hash of table indices as bytes."""
    return hashlib.sha256(np.ascontiguousarray(index).astype(np.uint8).tobytes()).hexdigest()


def snap(net: CodecNet) -> None:
    """Writes the scale net's integers back as its parameters: they survive any rounding of the file (k / 2^s is exact)."""
    import torch

    with torch.no_grad():
        for layer, _ in net.scales.layers():  # type: ignore[operator]
            weight, bias = layer.integers()
            layer.weight.copy_(weight / layer.weight_scale)
            layer.bias.copy_(bias / layer.bias_scale)


def stored_arrays(net: CodecNet, half: bool = True) -> Arrays:
    """State dict as it is stored: convolution weights float16, the rest float32.

    Raises:
        CheckpointError: a weight is not finite in its type.
    """
    result: Arrays = {}
    for key, value in net.state_dict().items():
        array = value.detach().cpu().numpy()
        keep = array.ndim < 3 or not half  # vectors, gains, priors and tables
        array = np.ascontiguousarray(array, np.float32 if keep else np.float16)
        if not np.isfinite(array).all():
            raise CheckpointError(
                f"weight {key} is not finite in {array.dtype}: it cannot be saved; train again or use float32"
            )
        result[key] = array
    return result


def save_weights(
    path: str | Path,
    net: CodecNet,
    card: Mapping[str, Any] | None = None,
    half: bool = True,
    tables: CdfTables | None = None,
) -> CodecInfo:
    """Writes a trained network (after ``update``) with its coding tables; the file appears complete or not at all.

    Args:
        tables: fitted ones in place of those that the config asks for.

    Raises:
        CheckpointError: a weight is not finite, the scale net is not exact, or the file cannot be written.
    """
    import torch
    from safetensors.numpy import save

    net.scales.check()  # type: ignore[operator]
    snap(net)
    arrays = stored_arrays(net, half)
    tables = tables or tables_of(net.config)
    net.eval()
    with torch.no_grad():
        z, plane = (torch.from_numpy(a) for a in self_test_input(net.config))
        answer = index_sha256(net.scales(z, plane).numpy())
    identity, reconstruction = model_id(net.config, arrays, tables), reconstruction_id(arrays)
    arrays |= tables.to_arrays(TABLES)
    info = CodecInfo(net.config, arrays_sha256(arrays), identity, reconstruction, answer, dict(card or {}))
    metadata = {
        "format": FORMAT,
        "config": net.config.to_json(),
        "sha256": info.sha256,
        "model_id": identity.hex(),
        "reconstruction_id": str(reconstruction),
        "self_test": answer,
        "card": json.dumps(info.card, sort_keys=True),
    }
    target = Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(save(arrays, metadata))
        os.replace(partial, target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise CheckpointError(f"weights cannot be written to {target}: {error.strerror}") from error
    return info


def read_info(path: str | Path) -> CodecInfo:
    """What a weights file says about itself, without reading the tensors.

    Raises:
        CheckpointError: missing, damaged, or not a codec's.
    """
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
        raise CheckpointError(f"{file} is not a {FORMAT} file: give a codec's weights")
    try:
        return CodecInfo(
            CodecConfig.from_json(metadata["config"]),
            metadata["sha256"],
            bytes.fromhex(metadata["model_id"]),
            int(metadata["reconstruction_id"]),
            metadata["self_test"],
            json.loads(metadata.get("card", "{}")),
        )
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"{file}: the description inside is damaged ({error}): copy the file again") from error


def load_arrays(path: str | Path) -> tuple[CodecInfo, Arrays, CdfTables]:
    """Description, state dict and coding tables, all checked; needs no torch.

    Raises:
        CheckpointError: missing or damaged file, or a hash that does not match.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    info = read_info(path)
    try:
        arrays: Arrays = load(Path(path).read_bytes())
    except (SafetensorError, OSError, KeyError) as error:
        raise CheckpointError(f"{path} is damaged ({' '.join(str(error).split())[:120]}): copy or download it again") from error
    found = arrays_sha256(arrays)
    if found != info.sha256:
        raise CheckpointError(f"{path}: tensors hash to {found[:12]}..., the file says {info.sha256[:12]}...: copy it again")
    tables = CdfTables.from_arrays(arrays, TABLES)
    arrays = {k: v for k, v in arrays.items() if not k.startswith(TABLES)}
    needed = info.config.distribution.count * (1 if info.config.quantiser.kind == "scalar" else 3)
    if len(tables) != needed:
        raise CheckpointError(f"{path}: {len(tables)} coding tables, its config needs {needed}: export the model again")
    if model_id(info.config, arrays, tables) != info.model_id:
        raise CheckpointError(f"{path}: the model id does not match the tensors: export the model again")
    return info, arrays, tables


def load_weights(path: str | Path) -> CodecNet:
    """The network of a weights file, float32, eval mode.

    Raises:
        CheckpointError: see ``load_arrays``; or tensors that do not fit the config inside.
    """
    info, arrays, _ = load_arrays(path)
    return net_from_arrays(info.config, arrays, str(path))


def net_from_arrays(config: CodecConfig, arrays: Arrays, what: str) -> CodecNet:
    """A network with the given state.

    Raises:
        CheckpointError: names or shapes do not fit.
    """
    import torch

    from bevstack.nn.checkpoint import load_exactly

    from .model import CodecNet

    net = CodecNet(config)
    load_exactly(net, {k: torch.from_numpy(v.astype(np.float32)) for k, v in arrays.items()}, what, config.name)
    return net.eval()
