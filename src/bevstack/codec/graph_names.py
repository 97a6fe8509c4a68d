"""Which graphs a config has; without torch."""

from __future__ import annotations

from .config import CodecConfig


def passes_of(config: CodecConfig) -> int:
    """Passes of a config's mean model."""
    return {"none": 0, "hyper": 1}.get(config.mean.kind, 2)


def graph_names(config: CodecConfig) -> tuple[str, ...]:
    """Names of the graphs in ``bevstack.codec.graphs``."""
    extra = (("first",), ("first", "second"))[passes_of(config) - 1] if passes_of(config) else ()
    return ("analysis", "hyper", "scales", "synthesis", *extra)
