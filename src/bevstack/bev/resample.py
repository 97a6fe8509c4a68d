"""Resizing as two products with constant matrices, so that it can stand inside an exported graph.

The released weights are trained on Pillow's bicubic, which widens its kernel when it shrinks. ONNX knows such a resize from
opset 18 on, TensorRT does not. A matrix says exactly what is meant, and every runtime multiplies.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray


def _bicubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' kernel with a = -0.5, which Pillow uses."""
    a, x = -0.5, np.abs(x)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def resize_matrix(source: int, target: int, how: Literal["bicubic", "area"]) -> NDArray[np.float32]:
    """(target, source) weights of one axis: rows add up to 1.

    Args:
        how: "bicubic" is Pillow's, widened by the shrink factor; "area" averages what each target pixel covers, as OpenCV's
            INTER_AREA does (only for shrinking).

    Raises:
        ValueError: "area" is asked to enlarge.
    """
    scale = source / target
    if how == "area":
        if scale < 1:
            raise ValueError(f"an area average cannot enlarge {source} to {target} pixels")
        edges = np.arange(target)[:, None] * scale
        pixels = np.arange(source)[None, :]
        weights = np.clip(np.minimum(pixels + 1, edges + scale) - np.maximum(pixels, edges), 0.0, 1.0)
    else:
        wide = max(scale, 1.0)
        centres = (np.arange(target)[:, None] + 0.5) * scale
        weights = _bicubic((np.arange(source)[None, :] + 0.5 - centres) / wide)
        # Pillow only looks at whole pixels within the kernel's support.
        first, last = np.floor(centres - 2 * wide + 0.5), np.floor(centres + 2 * wide + 0.5)
        weights *= (np.arange(source)[None, :] >= first) & (np.arange(source)[None, :] < last)
    return np.asarray(weights / weights.sum(1, keepdims=True), np.float32)


def rows_of_input(matrix: NDArray[np.float32], top: int, rows: int) -> NDArray[np.float32]:
    """The matrix's rows from ``top`` on, ``rows`` of them; zero rows (black) above and below it."""
    result = np.zeros((rows, matrix.shape[1]), np.float32)
    first, last = max(0, top), min(len(matrix), top + rows)
    result[first - top : last - top] = matrix[first:last]
    return result
