"""Compiled loops. Maps are (N, H, W, C) float32, channels fastest; no allocation, interpreter lock released.

3x3 convolutions of stride 1 by Winograd's F(4x4, 3x3): tiles of 6x6 inputs become 36 products of matrices (tiles x C) (C x K),
a quarter of the multiplications of the direct form. The transforms' constants are those of the points 0, 1, -1, 2, -2.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
_TWO, _FOUR, _FIVE, _EIGHT = np.float32(2), np.float32(4), np.float32(5), np.float32(8)
_ZERO, _LEAST = np.float32(0), np.float32(-np.inf)
_WEIGHTS = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24.0


def winograd_weights(weights: Floats) -> Floats:
    """(K, C, 3, 3) -> (36, C, K), transformed in float64."""
    w = weights.astype(np.float64)
    moved = np.einsum("ai,kcij,bj->abck", _WEIGHTS, w, _WEIGHTS)
    return np.ascontiguousarray(moved.reshape(36, w.shape[1], w.shape[0]).astype(np.float32))


@numba.njit(cache=True, nogil=True, fastmath={"contract", "nsz"}, error_model="numpy")
def _mix(
    p0: Floats, p1: Floats, p2: Floats, p3: Floats, p4: Floats, p5: Floats, out: Floats, step: int, first: int
) -> None:  # pragma: no cover  (compiled)
    """The input transform of one direction, for many values at once: out[0], out[step], .. out[5 step], from ``first`` on."""
    last = first + p0.shape[0]
    o0, o1, o2 = out[0, first:last], out[step, first:last], out[2 * step, first:last]
    o3, o4, o5 = out[3 * step, first:last], out[4 * step, first:last], out[5 * step, first:last]
    for c in range(p0.shape[0]):
        a0, a1, a2, a3, a4, a5 = p0[c], p1[c], p2[c], p3[c], p4[c], p5[c]
        u, v, w, z = a4 - _FOUR * a2, a3 - _FOUR * a1, a4 - a2, _TWO * (a3 - a1)
        o0[c] = _FOUR * a0 - _FIVE * a2 + a4
        o1[c] = u + v
        o2[c] = u - v
        o3[c] = w + z
        o4[c] = w - z
        o5[c] = _FOUR * a1 - _FIVE * a3 + a5


@numba.njit(cache=True, nogil=True, error_model="numpy")
def winograd_forward(x: Floats, first: int, last: int, V: Floats, scratch: Floats) -> None:  # pragma: no cover  (compiled)
    """Rows of tiles first..last (image by image) of x into V (36, tiles, C). Beyond the edge: zeros.

    A row of tiles is sorted by column modulo 4 first: both directions are then long runs over tiles and channels, whatever the
    number of channels. ``scratch``: at least 48 (tiles of a row + 1) C values.
    """
    H, W, C = x.shape[1], x.shape[2], x.shape[3]
    columns, lines = (W + 3) // 4, (H + 3) // 4
    run, length = columns * C, (columns + 1) * C
    sorted_rows = scratch[: 24 * length].reshape(24, length)  # [4 i + m]: row i, columns of remainder m
    mixed = scratch[24 * length : 48 * length].reshape(24, length)
    flat = V.reshape(36, -1)
    for tile_row in range(first, last):
        n, line = divmod(tile_row, lines)
        for i in range(6):
            y = line * 4 - 1 + i
            if y < 0 or y >= H:
                sorted_rows[4 * i : 4 * i + 4] = _ZERO
                continue
            sorted_rows[4 * i, :C] = _ZERO  # the column before the first
            for column in range(W, 4 * columns + 3):  # those after the last
                q, m = divmod(column + 1, 4)
                sorted_rows[4 * i + m, q * C : q * C + C] = _ZERO
            for column in range(W):
                q, m = divmod(column + 1, 4)
                seen, kept = x[n, y, column], sorted_rows[4 * i + m, q * C : q * C + C]
                for c in range(C):
                    kept[c] = seen[c]
        for m in range(4):
            _mix(
                sorted_rows[m],
                sorted_rows[4 + m],
                sorted_rows[8 + m],
                sorted_rows[12 + m],
                sorted_rows[16 + m],
                sorted_rows[20 + m],
                mixed[m:],
                4,
                0,
            )
        start = (tile_row - first) * run
        for i in range(6):
            r = mixed[4 * i : 4 * i + 4]
            _mix(r[0, :run], r[1, :run], r[2, :run], r[3, :run], r[0, C:], r[1, C:], flat[6 * i :], 1, start)


@numba.njit(cache=True, nogil=True, fastmath={"contract", "nsz"}, error_model="numpy")
def _unmix(
    p0: Floats, p1: Floats, p2: Floats, p3: Floats, p4: Floats, p5: Floats, out: Floats
) -> None:  # pragma: no cover  (compiled)
    """The output transform of one direction: out[0] to out[3]."""
    o0, o1, o2, o3 = out[0], out[1], out[2], out[3]
    for k in range(p0.shape[0]):
        a, d, e, f = p1[k] + p2[k], p1[k] - p2[k], p3[k] + p4[k], p3[k] - p4[k]
        o0[k] = p0[k] + a + e
        o1[k] = d + _TWO * f
        o2[k] = a + _FOUR * e
        o3[k] = d + _EIGHT * f + p5[k]


@numba.njit(cache=True, nogil=True, fastmath={"contract", "nsz"}, error_model="numpy")
def _unmix_last(
    p0: Floats, p1: Floats, p2: Floats, p3: Floats, p4: Floats, p5: Floats, out: Floats, bias: Floats, low: np.float32
) -> None:  # pragma: no cover  (compiled)
    """The same with step 1, + bias, at least ``low``."""
    o0, o1, o2, o3 = out[0], out[1], out[2], out[3]
    for k in range(p0.shape[0]):
        a, d, e, f, g = p1[k] + p2[k], p1[k] - p2[k], p3[k] + p4[k], p3[k] - p4[k], bias[k]
        o0[k] = max(p0[k] + a + e + g, low)
        o1[k] = max(d + _TWO * f + g, low)
        o2[k] = max(a + _FOUR * e + g, low)
        o3[k] = max(d + _EIGHT * f + p5[k] + g, low)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def winograd_backward(
    M: Floats,
    first: int,
    last: int,
    bias: Floats,
    added: Floats,
    add: bool,
    relu: bool,
    out: Floats,
    scratch: Floats,
) -> None:  # pragma: no cover  (compiled)
    """Products M (36, tiles, K) to rows of tiles of ``out``: + bias (+ ``added``, a map of out's shape), cut at 0 if ``relu``.

    ``bias``: repeated for every tile of a row. ``scratch``: at least 40 (tiles of a row) K values.
    """
    H, W, K = out.shape[1], out.shape[2], out.shape[3]
    columns, lines = (W + 3) // 4, (H + 3) // 4
    run = columns * K
    half = scratch[: 24 * run].reshape(24, run)  # [4 i + j]: line i of the products, column j of the tile
    done = scratch[24 * run : 40 * run].reshape(16, run)  # [4 j + i]: column j, row i of the tile
    flat = M.reshape(36, -1)
    low = _ZERO if relu else _LEAST
    before = _LEAST if add else low
    for tile_row in range(first, last):
        n, line = divmod(tile_row, lines)
        start = (tile_row - first) * run
        for i in range(6):
            p = flat[6 * i : 6 * i + 6, start : start + run]
            _unmix(p[0], p[1], p[2], p[3], p[4], p[5], half[4 * i :])
        for j in range(4):
            _unmix_last(
                half[j], half[4 + j], half[8 + j], half[12 + j], half[16 + j], half[20 + j], done[4 * j :], bias, before
            )
        for i in range(min(4, H - 4 * line)):
            y = 4 * line + i
            for column in range(W):
                q, j = divmod(column, 4)
                value, wanted = done[4 * j + i, q * K : q * K + K], out[n, y, column]
                if add:
                    more = added[n, y, column]
                    for k in range(K):
                        wanted[k] = max(value[k] + more[k], low)
                else:
                    for k in range(K):
                        wanted[k] = value[k]


@numba.njit(cache=True, nogil=True)
def patches(
    x: Floats,
    size: tuple[int, int],
    stride: tuple[int, int],
    pad: tuple[int, int],
    out_hw: tuple[int, int],
    first: int,
    rows: Floats,
) -> None:  # pragma: no cover  (compiled)
    """Output pixels ``first``.. of a convolution: what each sees of x, (kh, kw, C) in a row. Beyond the edge: zeros."""
    H, W, C = x.shape[1], x.shape[2], x.shape[3]
    kh, kw = size
    pixels = x.reshape(-1)
    n, place = divmod(first, out_hw[0] * out_hw[1])
    oy, ox = divmod(place, out_hw[1])
    for r in range(rows.shape[0]):
        y0, x0 = oy * stride[0] - pad[0], ox * stride[1] - pad[1]
        row = rows[r]
        left, right = max(0, -x0), min(kw, W - x0)  # columns of the patch that are inside
        for i in range(kh):
            y = y0 + i
            b = i * kw * C
            if y < 0 or y >= H:
                row[b : b + kw * C] = _ZERO
                continue
            if left > 0 or right < kw:
                row[b : b + kw * C] = _ZERO
            start, length = ((n * H + y) * W + x0 + left) * C, (right - left) * C
            seen, wanted = pixels[start : start + length], row[b + left * C : b + left * C + length]
            for k in range(length):  # on slices from 0 on, so that it becomes a copy of whole vectors
                wanted[k] = seen[k]
        ox += 1
        if ox == out_hw[1]:
            ox, oy = 0, oy + 1
            if oy == out_hw[0]:
                oy, n = 0, n + 1


@numba.njit(cache=True, nogil=True)
def finish(values: Floats, bias: Floats, added: Floats, add: bool, relu: bool) -> None:  # pragma: no cover  (compiled)
    """values += bias (+ added), cut at zero if ``relu``; in place, all of one length: the bias is repeated for every row."""
    low = _ZERO if relu else _LEAST
    if add:
        for k in range(values.shape[0]):
            values[k] = max(values[k] + bias[k] + added[k], low)
    else:
        for k in range(values.shape[0]):
            values[k] = max(values[k] + bias[k], low)


@numba.njit(cache=True, nogil=True)
def affine_rows(
    x: NDArray[np.generic], scale: Floats, shift: Floats, relu: bool, out: Floats
) -> None:  # pragma: no cover  (compiled)
    """out = x * scale + shift per channel, rows (R, C) of float32 or uint8."""
    low = _ZERO if relu else _LEAST
    for r in range(out.shape[0]):
        for c in range(out.shape[1]):
            out[r, c] = max(np.float32(x[r, c]) * scale[c] + shift[c], low)


@numba.njit(cache=True, nogil=True)
def add_rows(a: Floats, b: Floats, relu: bool, out: Floats) -> None:  # pragma: no cover  (compiled)
    """out = a + b, cut at zero if ``relu``."""
    low = _ZERO if relu else _LEAST
    for r in range(out.shape[0]):
        for c in range(out.shape[1]):
            out[r, c] = max(a[r, c] + b[r, c], low)


@numba.njit(cache=True, nogil=True)
def largest(
    x: Floats, size: tuple[int, int], stride: tuple[int, int], pad: tuple[int, int], first: int, last: int, out: Floats
) -> None:  # pragma: no cover  (compiled)
    """Max pooling of the output rows first..last, all images' rows one after the other."""
    H, W, C = x.shape[1], x.shape[2], x.shape[3]
    for line in range(first, last):
        n, oy = divmod(line, out.shape[1])
        y0 = oy * stride[0] - pad[0]
        for ox in range(out.shape[2]):
            x0 = ox * stride[1] - pad[1]
            o = out[n, oy, ox]
            o[:] = _LEAST
            for y in range(max(0, y0), min(H, y0 + size[0])):
                for column in range(max(0, x0), min(W, x0 + size[1])):
                    p = x[n, y, column]
                    for c in range(C):
                        o[c] = max(o[c], p[c])


@numba.njit(cache=True, nogil=True)
def resize(
    x: Floats,
    y0: NDArray[np.int64],
    wy: Floats,
    x0: NDArray[np.int64],
    wx: Floats,
    smooth: bool,
    added: Floats,
    add: bool,
    relu: bool,
    first: int,
    last: int,
    out: Floats,
) -> None:  # pragma: no cover  (compiled)
    """Rows first..last of x in another size (+ ``added``): cell (y0, x0), or between it and the next by weights wy and wx."""
    H, W, C = x.shape[1], x.shape[2], x.shape[3]
    low = _ZERO if relu else _LEAST
    for line in range(first, last):
        n, oy = divmod(line, out.shape[1])
        ya, yb = y0[oy], min(y0[oy] + 1, H - 1)
        fy = wy[oy]
        for ox in range(out.shape[2]):
            xa, xb = x0[ox], min(x0[ox] + 1, W - 1)
            fx = wx[ox]
            o = out[n, oy, ox]
            p00 = x[n, ya, xa]
            if smooth:
                p01, p10, p11 = x[n, ya, xb], x[n, yb, xa], x[n, yb, xb]
                for c in range(C):
                    top, bottom = p00[c] + fx * (p01[c] - p00[c]), p10[c] + fx * (p11[c] - p10[c])
                    o[c] = top + fy * (bottom - top)
            else:
                for c in range(C):
                    o[c] = p00[c]
            if add:
                more = added[n, oy, ox]
                for c in range(C):
                    o[c] += more[c]
            if relu:
                for c in range(C):
                    o[c] = max(o[c], low)
