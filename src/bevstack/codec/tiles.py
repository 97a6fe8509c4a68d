"""Tiles: which part of the latent each coded segment holds, and the order of its symbols."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TILE_UNIT = 64  # pixels
LATENT_STRIDE = 16  # pixels per latent sample


@dataclass(frozen=True)
class TileGrid:
    """Tiles over a picture, left to right, then top to bottom; the last column and row may be smaller.

    Attributes:
        width, height: of the picture, in pixels.
        tile_size: side of a tile in units of 64 pixels; 0 means one tile for the whole picture.
    """

    width: int
    height: int
    tile_size: int = 0

    @property
    def columns(self) -> int:
        return -(-self.width // (self.tile_size * TILE_UNIT)) if self.tile_size else 1

    @property
    def rows(self) -> int:
        return -(-self.height // (self.tile_size * TILE_UNIT)) if self.tile_size else 1

    def __len__(self) -> int:
        return self.rows * self.columns

    @property
    def latent_shape(self) -> tuple[int, int]:
        """Rows and columns of the latent that are coded: ceil(size / 16)."""
        return -(-self.height // LATENT_STRIDE), -(-self.width // LATENT_STRIDE)

    def windows(self, stride: int = LATENT_STRIDE) -> NDArray[np.int64]:
        """(T, 4) first row, end row, first column, end column of each tile in samples of ``stride`` pixels, a divisor of 64."""
        rows, columns = -(-self.height // stride), -(-self.width // stride)
        side = self.tile_size * TILE_UNIT // stride if self.tile_size else max(rows, columns)
        return np.array(
            [
                (y, min(y + side, rows), x, min(x + side, columns))
                for y in range(0, rows, side)
                for x in range(0, columns, side)
            ],
            np.int64,
        )

    def pixels(self, tile: int) -> tuple[slice, slice]:
        """Rows and columns of the picture that a tile covers."""
        if not 0 <= tile < len(self):
            raise IndexError(f"tile {tile} of {len(self)}")
        side = self.tile_size * TILE_UNIT if self.tile_size else max(self.width, self.height)
        row, column = divmod(tile, self.columns)
        return (
            slice(row * side, min((row + 1) * side, self.height)),
            slice(column * side, min((column + 1) * side, self.width)),
        )
