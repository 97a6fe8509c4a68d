"""Floor 1: runs one network on arrays, whatever it is made of. ``torch`` and ``onnxruntime`` are imported only when used."""

from .api import Engine, Tensors, cache_dir

__all__ = ["Engine", "Tensors", "cache_dir"]
