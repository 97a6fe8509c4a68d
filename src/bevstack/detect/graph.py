"""The neck's graph: which node reads which, and in which order (brief section 3.1). Plain Python."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LEVELS = 5

Resample = Literal["same", "up", "down"]


@dataclass(frozen=True)
class Source:
    """One input of a node: ``node`` number (0..4 are the backbone's P3..P7) and how it is brought to the node's stride."""

    node: int
    resample: Resample


@dataclass(frozen=True)
class Node:
    """One node: ``number`` (counted on from the backbone's five), ``layer``, ``level`` (0 is P3), inputs in concat order."""

    number: int
    layer: int
    level: int
    inputs: tuple[Source, ...]


def skip_layers(layer: int, link: Literal["log2n", "dense"]) -> list[int]:
    """Earlier layers whose same-level node feeds ``layer``, ascending: all of them, or those 1, 2, 4, ... layers before."""
    if link == "dense":
        return list(range(layer))
    back, found = 1, []
    while back <= layer:
        found.append(layer - back)
        back *= 2
    return sorted(found)


def giraffe_graph(layers: int, link: Literal["log2n", "dense"] = "log2n") -> list[Node]:
    """Nodes in the order of evaluation: ``layers`` layers of five, then the output layer (P3 to P7, one input each).

    Even layers run from P7 to P3, odd layers from P3 to P7. "Queen fusion": besides its own level a node reads its neighbour of
    the same layer that was evaluated just before, and both neighbours of the layer before.

    Raises:
        ValueError: fewer than one layer.
    """
    if layers < 1:
        raise ValueError(f"a neck of {layers} layers: give at least 1")
    number: dict[tuple[int, int], int] = {(-1, level): level for level in range(LEVELS)}
    nodes: list[Node] = []
    for layer in range(layers):
        order = range(LEVELS - 1, -1, -1) if layer % 2 == 0 else range(LEVELS)
        previous: int | None = None
        for level in order:
            skips = skip_layers(layer, link) if layer else [-1]
            inputs = [Source(number[skip, level], "same") for skip in skips]
            if previous is not None:
                inputs.append(Source(number[layer, previous], "up" if previous > level else "down"))
            for neighbour, how in ((level + 1, "up"), (level - 1, "down")):
                if 0 <= neighbour < LEVELS:
                    source = Source(number[layer - 1, neighbour], "up" if how == "up" else "down")
                    if source.node not in {s.node for s in inputs}:
                        inputs.append(source)
            number[layer, level] = LEVELS + len(nodes)
            nodes.append(Node(number[layer, level], layer, level, tuple(inputs)))
            previous = level
    for level in range(LEVELS):
        source = Source(number[layers - 1, level], "same")
        nodes.append(Node(LEVELS + len(nodes), layers, level, (source,)))
    return nodes
