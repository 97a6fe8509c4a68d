"""Order of the latent's symbols on the wire: layer, tile, channel, row, column (docs/bitstream.md)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .tiles import TileGrid

Positions = NDArray[np.int64]


class SymbolOrder:
    """Where every symbol of a picture's latent goes.

    Args:
        passes: of the mean model; with 2, layer 0 holds the anchors (row + column even) and layer 1 the others, otherwise
            there is one layer.
    """

    def __init__(self, grid: TileGrid, passes: int) -> None:
        h, w = grid.latent_shape
        flat = np.arange(h * w).reshape(h, w)
        odd = np.add.outer(np.arange(h), np.arange(w)) % 2
        self.layers: list[list[Positions]] = []
        for parity in (0, 1) if passes == 2 else (None,):
            layer = []
            for y0, y1, x0, x1 in grid.windows():
                cells = flat[y0:y1, x0:x1]
                layer.append(cells.reshape(-1) if parity is None else cells[odd[y0:y1, x0:x1] == parity])
            self.layers.append(layer)

    def bounds(self, layer: int, channels: int) -> NDArray[np.int64]:
        """(T + 1,) where each tile's segment begins among the layer's symbols."""
        sizes = [channels * len(positions) for positions in self.layers[layer]]
        return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    def gather(self, values: NDArray[Any], layer: int) -> NDArray[Any]:
        """(C, h, w) values -> the layer's, in wire order."""
        flat = values.reshape(values.shape[0], -1)
        return np.concatenate([flat[:, positions].reshape(-1) for positions in self.layers[layer]])

    def scatter(self, symbols: NDArray[Any], layer: int, into: NDArray[Any]) -> None:
        """Inverse of ``gather``: writes the layer's symbols to their places in (C, h, w) ``into``, which must be contiguous."""
        flat = into.reshape(into.shape[0], -1)
        at = 0
        for positions in self.layers[layer]:
            size = flat.shape[0] * len(positions)
            flat[:, positions] = symbols[at : at + size].reshape(flat.shape[0], -1)
            at += size
