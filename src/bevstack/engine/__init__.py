"""Floor 1: runs one network on arrays, whatever it is made of. ``torch`` and ``onnxruntime`` are imported only when used."""

from .api import Engine, Tensors, cache_dir
from .ladder import HotSwap, RungError, SwapEvent, SwapState

__all__ = ["Engine", "HotSwap", "RungError", "SwapEvent", "SwapState", "Tensors", "cache_dir"]
