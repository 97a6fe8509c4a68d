"""Reading other people's checkpoint files without running code from them."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bevstack.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor, nn


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors by name from a ``torch.save`` file: a state dict, or a dict that holds one under "state_dict" (mmcv's layout).

    A leading "module." is taken off. Only tensors and plain containers are unpickled (``weights_only``).

    Raises:
        CheckpointError: no such file, not a checkpoint, or one that needs code to be run.
    """
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols: what cannot be read is an error below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"checkpoint {path} does not exist: give the path of a .pth file") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"checkpoint {path} holds more than tensors or is damaged, and was not opened ({_line(error)}): "
            "save its state_dict alone with torch.save and import that"
        ) from error
    except Exception as error:  # torch's unpickler lets almost any exception out when bytes are damaged
        raise CheckpointError(f"{path} is no readable torch checkpoint ({_line(error)}): download it again") from error
    state = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(f"checkpoint {path} has no state_dict: expected a mapping of names to tensors")
    strangers = [str(k) for k, v in state.items() if not isinstance(v, torch.Tensor)]
    if strangers:
        raise CheckpointError(f"checkpoint {path}: entry {strangers[0]!r} is no tensor; expected a plain state_dict")
    return {str(k).removeprefix("module."): v for k, v in state.items()}


def load_exactly(net: nn.Module, state: Mapping[str, Tensor], what: str, model: str) -> None:
    """Copies every entry of ``state`` into ``net``; nothing may be left over on either side.

    Args:
        what: the file, for the message.
        model: the model's name, for the message.

    Raises:
        CheckpointError: missing, unknown or wrongly shaped entries, or values that are not finite; the net is untouched then.
    """
    own = net.state_dict()
    # A norm's step counter carries nothing that inference needs; some exports drop it.
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    unknown = [k for k in state if k not in own]
    wrong = [
        f"{k} is {_shape(state[k])}, needs {_shape(v)}" for k, v in own.items() if k in state and state[k].shape != v.shape
    ]
    bad = [k for k, v in state.items() if v.is_floating_point() and not bool(v.isfinite().all())]
    problems = [
        f"{len(items)} {label} ({', '.join(items[:3])}{', ...' if len(items) > 3 else ''})"
        for label, items in (("missing", missing), ("unknown", unknown), ("misshapen", wrong), ("not finite", bad))
        if items
    ]
    if problems:
        raise CheckpointError(f"{what} does not fit {model}: {'; '.join(problems)}; choose the model that it was trained as")
    net.load_state_dict({**own, **state}, strict=True)


def _shape(tensor: Tensor) -> str:
    return "x".join(str(n) for n in tensor.shape) or "scalar"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160]
