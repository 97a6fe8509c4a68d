"""The steps that do the work: which rows or tiles a thread takes, and what is done to a block while it is in the cache."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import kernels

Array = NDArray[Any]
Feed = dict[str, Array]
Source = Callable[[Feed], Array]
Step = Callable[[Feed], None]
Pair = tuple[int, int]
CACHE = 600_000  # bytes of a block's intermediate values that stay in the second level cache


class Team:
    """Threads that share the blocks of a step; one thread: the caller's."""

    def __init__(self, threads: int) -> None:
        self.threads = max(1, threads)
        self._pool = ThreadPoolExecutor(self.threads, "network") if self.threads > 1 else None

    def share(self, work: Callable[[int, int, int], None], total: int, block: int) -> None:
        """``work(worker, first, last)`` for all blocks of 0..total."""
        if self._pool is None or total <= block:
            for first in range(0, total, block):
                work(0, first, min(total, first + block))
            return
        numbers = count()  # the next block goes to whoever is free: neighbours on a core must not hold all up

        def take(worker: int) -> None:
            while (first := next(numbers) * block) < total:
                work(worker, first, min(total, first + block))

        for job in [self._pool.submit(take, worker) for worker in range(self.threads)]:
            job.result()

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()


@dataclass
class Buffers:
    """Memory of the intermediate values, used again as soon as nobody reads it any more; and scratch of each worker."""

    free: list[Array] = field(default_factory=list)
    owner: dict[str, Array] = field(default_factory=dict)
    bytes: int = 0
    scratch_size: int = 0
    scratch: list[Array] = field(default_factory=list)

    def take(self, name: str, shape: tuple[int, ...]) -> Array:
        size = int(np.prod(shape))
        fitting = [b for b in self.free if b.size >= size]
        if fitting:
            flat = min(fitting, key=lambda b: b.size)
            self.free = [b for b in self.free if b is not flat]
        else:
            flat = np.zeros(size, np.float32)
            self.bytes += flat.nbytes
        self.owner[name] = flat
        return flat[:size].reshape(shape)

    def give_back(self, name: str) -> None:
        flat = self.owner.pop(name, None)
        if flat is not None:
            self.free.append(flat)

    def reserve(self, size: int) -> None:
        self.scratch_size = max(self.scratch_size, size)


@dataclass
class Steps:
    """A network as a list of steps, each from inputs and buffers to a buffer."""

    team: Team
    buffers: Buffers = field(default_factory=Buffers)
    all: list[Step] = field(default_factory=list)

    def product(
        self,
        x: Source,
        matrix: Array,
        bias: Array,
        more: Source | None,
        relu: bool,
        out: Array,
        window: tuple[Pair, Pair, Pair] | None,
    ) -> None:
        """Step: rows of x, or the patches that a window sees, times ``matrix``."""
        depth, width = matrix.shape
        rows = out.reshape(-1, width)
        block = max(16, min(4096, CACHE // (4 * (depth + width))))
        repeated = np.tile(bias, block)
        out_hw = out.shape[1:3]
        if window is not None:
            self.buffers.reserve(block * depth)

        def work(feed: Feed) -> None:
            given = x(feed)
            other = more(feed).reshape(rows.shape) if more is not None else rows
            flat = given.reshape(-1, depth) if window is None else rows

            def part(worker: int, a: int, b: int) -> None:
                if window is None:
                    seen = flat[a:b]
                else:
                    seen = self.buffers.scratch[worker][: (b - a) * depth].reshape(b - a, depth)
                    kernels.patches(given, *window, out_hw, a, seen)
                found = rows[a:b]
                np.matmul(seen, matrix, out=found)
                kernels.finish(found.reshape(-1), repeated, other[a:b].reshape(-1), more is not None, relu)

            self.team.share(part, len(rows), block)

        self.all.append(work)

    def turned_product(self, x: Source, weights: Array, bias: Array, name: str, hw: Pair) -> None:
        """Step: a 1x1 convolution whose result (K, W, H) is an output: computed in that order, nothing is transposed."""
        shape = (len(weights), hw[1], hw[0])
        block = max(1, CACHE // (4 * hw[0] * sum(weights.shape)))

        def work(feed: Feed) -> None:
            columns = x(feed)[0].transpose(1, 2, 0)  # (W, C, H)
            out = feed[name] = np.empty(shape, np.float32)

            def part(worker: int, a: int, b: int) -> None:
                np.matmul(weights, columns[a:b], out=out[:, a:b].transpose(1, 0, 2))
                out[:, a:b] += bias[:, None, None]

            self.team.share(part, hw[1], block)

        self.all.append(work)

    def winograd(
        self,
        x: Source,
        weights: Array,
        bias: Array,
        more: Source | None,
        relu: bool,
        out: Array,
    ) -> None:
        """Step: a 3x3 convolution of stride 1."""
        moved = kernels.winograd_weights(weights)
        _, c, k = moved.shape
        n, h, w, _ = out.shape
        columns, rows = -(-w // 4), n * -(-h // 4)
        # A block fits the cache; where the weights do not, it is large enough to make their way from memory worth it.
        wanted = max(CACHE // (144 * (c + k)), min(192, moved.nbytes // 12_000), 24)
        block = -(-rows // max(1, round(rows * columns / wanted)))
        tiles = block * columns
        repeated = np.tile(bias, columns)
        self.buffers.reserve(36 * tiles * (c + k) + 48 * (columns + 1) * max(c, k))

        def work(feed: Feed) -> None:
            given = x(feed)
            other = more(feed) if more is not None else out

            def part(worker: int, a: int, b: int) -> None:
                scratch, count = self.buffers.scratch[worker], (b - a) * columns
                seen = scratch[: 36 * count * c].reshape(36, count, c)
                found = scratch[36 * count * c : 36 * count * (c + k)].reshape(36, count, k)
                spare = scratch[36 * count * (c + k) :]
                kernels.winograd_forward(given, a, b, seen, spare)
                np.matmul(seen, moved, out=found)
                kernels.winograd_backward(found, a, b, repeated, other, more is not None, relu, out, spare)

            self.team.share(part, rows, block)

        self.all.append(work)
