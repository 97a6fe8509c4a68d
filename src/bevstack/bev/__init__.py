"""Floor 2: Fast-BEV. Configs, lift, temporal cache, decoding and ``FastBEV`` itself; torch is imported only where needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .config import CAMERA_ORDER, CONFIGS, FastBEVConfig, PostConfig

if TYPE_CHECKING:
    from .fastbev import FastBEV

__all__ = ["CAMERA_ORDER", "CONFIGS", "FastBEV", "FastBEVConfig", "PostConfig"]


def __getattr__(name: str) -> Any:
    # FastBEV pulls in numba and image decoding (half a second): only those who use it pay for it.
    if name == "FastBEV":
        from .fastbev import FastBEV

        return FastBEV
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
