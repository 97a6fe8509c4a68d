"""The contract of an engine, and where exported graphs are kept."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Tensors = Mapping[str, NDArray[Any]]


class Engine(Protocol):
    """One network with named inputs and outputs of fixed shapes. Not shared between threads at the same time."""

    @property
    def name(self) -> str:
        """For people and logs: "torch", "onnx"."""

    def run(self, inputs: Tensors) -> dict[str, NDArray[Any]]:
        """Outputs by name. Arrays belong to the caller and are not overwritten by the next run.

        Raises:
            EngineError: missing input, wrong shape or type, or the run failed.
        """

    def close(self) -> None:
        """Frees the network."""


def cache_dir() -> Path:
    """Folder for files that can be made again, such as exported graphs: $BEVSTACK_CACHE, else the user's cache."""
    base = os.environ.get("BEVSTACK_CACHE")
    if base:
        return Path(base)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bevstack"


def as_arrays(values: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Plain contiguous arrays."""
    return {k: np.ascontiguousarray(v) for k, v in values.items()}
