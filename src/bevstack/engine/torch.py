"""PyTorch, eager."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bevstack.errors import EngineError

from .api import Tensors
from .names import EngineMissing

if TYPE_CHECKING:
    from torch import nn


def share_cores() -> None:
    """Lets torch's waiting threads sleep instead of spin. Call before torch is first imported; later it does nothing.

    Spinning threads hold the cores that the thread they wait for needs: where other programs run beside a small network, it is
    several times slower (`benchmarks/bev.py` with and without OMP_WAIT_POLICY=ACTIVE). A policy set by the user stays.
    """
    if "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def need_torch() -> None:
    """Says plainly where torch is missing.

    Raises:
        EngineMissing: it cannot be imported.
    """
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise EngineMissing(f"{error.name} is not installed: pip install 'bevstack[torch]'") from error


class TorchEngine:
    """One torch module that takes its tensors in ``inputs``' order and returns a tuple in ``outputs``' order.

    Args:
        module: put into eval mode here.
        threads: torch knows only one number per process: this sets it for everything in it. None leaves it.
    """

    name = "torch"

    def __init__(self, module: nn.Module, inputs: Sequence[str], outputs: Sequence[str], threads: int | None = None) -> None:
        import torch

        if threads:
            torch.set_num_threads(threads)
        self._module = module.eval()
        self.input_names, self.outputs = list(inputs), list(outputs)

    def run(self, inputs: Tensors) -> dict[str, NDArray[Any]]:
        """See ``Engine.run``."""
        import torch

        missing = [k for k in self.input_names if k not in inputs]
        if missing:
            raise EngineError(f"network input {missing[0]} is missing; it needs {sorted(self.input_names)}")
        tensors = [torch.from_numpy(np.ascontiguousarray(inputs[k])) for k in self.input_names]
        try:
            with torch.inference_mode():
                results = self._module(*tensors)
        except (RuntimeError, IndexError, ValueError) as error:
            raise EngineError(f"torch failed: {' '.join(str(error).split())[:300]}") from error
        if isinstance(results, torch.Tensor):
            results = (results,)
        return {name: value.contiguous().numpy() for name, value in zip(self.outputs, results)}

    def close(self) -> None:
        """Frees the module; ``run`` fails afterwards."""
        del self._module
