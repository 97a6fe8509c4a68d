"""A table of operators, measured on this machine, that predicts the latency of any structure of the search space.

Units are measured as chains: the difference between a long and a short chain is free of what an engine does once per run
(layout changes, call overhead). The table holds multiply-accumulates per second, which change slowly with widths, and is read
between its grid points by interpolation over the logarithms of the widths. What is not in the table (the overlap of operators,
the caches between them) is taken in by one factor: whole reference networks are measured beside it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from math import log2
from pathlib import Path
from typing import Any

from bevstack.errors import BevstackError
from bevstack.nn.superblocks import SuperBlock, SuperBlockConfig

from .programs import Op, backbone_program, chain, milliseconds

FORMAT = "bevstack-operators-1"
_STRIDES = (4, 8, 16, 32)
_WIDE = (16, 32, 64, 128, 256, 512, 1024, 2048)
_NARROW = (8, 16, 32, 64, 128, 256, 512)
_STEMS = (8, 16, 32)
_LARGEST = 0.4e9  # MACs of one unit that are still measured; larger ones run at the speed of their largest measured neighbour


class TableError(BevstackError):
    """A table that cannot be read, or that was measured for something else."""


@dataclass(frozen=True)
class OperatorTable:
    """Attributes of one measurement.

    Attributes:
        engine, threads, image_hw, device: what was measured, and on what.
        speeds: unit name -> {(wider, narrower) channels: multiply-accumulates per millisecond}. Units: ``pair@S`` (1x1 down
            and up again, with the sum and both ReLUs), ``kK@S`` and ``kKs2@S`` (bottleneck convolutions that leave stride S),
            ``pool@S`` (input elements per millisecond), ``stem``.
        factor: whole networks take this many times the sum of their units.
        spread: largest relative error of the reference networks after that.
    """

    engine: str
    threads: int
    image_hw: tuple[int, int]
    device: str
    speeds: dict[str, dict[tuple[int, int], float]]
    factor: float = 1.0
    spread: float = 0.0
    _cache: dict[tuple[str, int, int], float] = field(default_factory=dict, compare=False, repr=False)

    def speed(self, unit: str, wide: int, narrow: int) -> float:
        """Multiply-accumulates per millisecond of a unit, between the grid's points as described above."""
        key = (unit, wide, narrow)
        if key not in self._cache:
            self._cache[key] = _interpolate(self.speeds[unit], wide, narrow)
        return self._cache[key]

    def latency(self, config: SuperBlockConfig) -> float:
        """Milliseconds of one image of the table's size."""
        h, w = -(-self.image_hw[0] // 2), -(-self.image_hw[1] // 2)
        stride, pixels, channels = 2, h * w, config.stem
        total = 27 * channels * pixels / self.speed("stem", channels, channels)
        for block in config.blocks:
            m, out, k2 = block.bottleneck, block.out, block.kernel**2
            before = pixels
            if block.stride == 2:
                h, w, stride = -(-h // 2), -(-w // 2), stride * 2
                pixels = h * w
                first = channels * m * before / self._pair(max(stride // 2, _STRIDES[0]), channels, m)
                first += channels * before / self.speed(f"pool@{stride}", channels, channels)
                first += m * m * k2 * pixels / self.speed(f"k{block.kernel}s2@{stride}", m, m)
            else:
                first = channels * m * pixels / self._pair(stride, channels, m)
                first += m * m * k2 * pixels / self.speed(f"k{block.kernel}@{stride}", m, m)
            first += channels * out * pixels / self._pair(stride, channels, out)
            first += m * out * pixels / self._pair(stride, out, m)
            each = 2 * m * out * pixels / self._pair(stride, out, m)
            each += m * m * k2 * pixels / self.speed(f"k{block.kernel}@{stride}", m, m)
            total += first + (block.layers - 1) * each
            channels = out
        return total * self.factor

    def _pair(self, stride: int, a: int, b: int) -> float:
        return self.speed(f"pair@{stride}", max(a, b), min(a, b))

    def save(self, path: str | Path) -> None:
        """Writes JSON.

        Raises:
            TableError: the file cannot be written.
        """
        content: dict[str, Any] = {"format": FORMAT, **asdict(self)}
        del content["_cache"]
        content["speeds"] = {u: [[a, b, round(v, 1)] for (a, b), v in t.items()] for u, t in self.speeds.items()}
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text(json.dumps(content) + "\n")
        except OSError as error:
            raise TableError(f"operator table cannot be written to {path}: {error.strerror}") from error

    @staticmethod
    def load(path: str | Path) -> OperatorTable:
        """Inverse of ``save``.

        Raises:
            TableError: no such file, or no operator table.
        """
        try:
            content = json.loads(Path(path).read_text())
            if content.pop("format") != FORMAT:
                raise ValueError("another format")
            speeds = {u: {(int(a), int(b)): float(v) for a, b, v in rows} for u, rows in content.pop("speeds").items()}
            return OperatorTable(speeds=speeds, **{**content, "image_hw": tuple(content["image_hw"])})
        except OSError as error:
            raise TableError(f"operator table {path} cannot be read: {error.strerror}") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise TableError(f"{path} is no operator table ({error}): measure one without --table") from error


def measure_backbone(
    config: SuperBlockConfig, image_hw: tuple[int, int], engine: str = "onnx", threads: int = 1, seconds: float = 1.0
) -> float:
    """Milliseconds of the fastest run of a whole structure with random weights on this machine."""
    return milliseconds(backbone_program(config, image_hw), engine, threads, seconds, clock_for(threads))


def clock_for(threads: int) -> Callable[[], float]:
    """Seconds. One thread is timed by what it computed, so that other programs on the machine count less; several by the wall
    clock. On a quiet machine both agree."""
    return time.thread_time if threads == 1 else time.perf_counter


def measure_table(
    image_hw: tuple[int, int],
    engine: str = "onnx",
    threads: int = 1,
    *,
    seconds: float = 0.02,
    on_progress: Callable[[int, int], None] | None = None,
) -> OperatorTable:
    """Measure this machine: about a minute on one core.

    Args:
        image_hw: of the camera image at the backbone, pixels.
        engine: "onnx" or "torch".
        threads: of the engine.
        seconds: per chain.
        on_progress: called with (units measured, units in all).
    """
    todo = list(_units(image_hw))
    speeds: dict[str, dict[tuple[int, int], float]] = {}
    for n, (name, widths, unit, repeats, hw, work) in enumerate(todo):
        channels = unit[0].inputs
        long = milliseconds(chain(unit, repeats, channels, hw), engine, threads, seconds, clock_for(threads))
        if repeats > 1:
            short = milliseconds(chain(unit, 1, channels, hw), engine, threads, seconds, clock_for(threads))
            once = (long - short) / (repeats - 1)
            # Where both chains take about the same time, their difference is noise: the short one is then all that is known.
            spent = once if once > 0.1 * short else short
        else:
            spent = long
        speeds.setdefault(name, {})[widths] = work / spent
        if on_progress is not None:
            on_progress(n + 1, len(todo))
    table = OperatorTable(engine, threads, image_hw, device_name(), speeds)
    return calibrated(table, seconds=max(0.3, 10 * seconds))


def calibrated(table: OperatorTable, references: Sequence[SuperBlockConfig] = (), seconds: float = 0.3) -> OperatorTable:
    """The table with ``factor`` and ``spread`` from whole networks measured now."""
    factors = []
    plain = replace(table, factor=1.0, _cache={})
    for config in references or REFERENCES:
        real = measure_backbone(config, table.image_hw, table.engine, table.threads, seconds)
        factors.append(real / plain.latency(config))
    factor = sorted(factors)[len(factors) // 2]
    return replace(plain, factor=factor, spread=max(abs(f / factor - 1) for f in factors))


def _reference(stem: int, *blocks: tuple[int, int, int, int]) -> SuperBlockConfig:
    return SuperBlockConfig(stem, tuple(SuperBlock(out, k, 2, layers, m) for out, k, layers, m in blocks))


REFERENCES = (
    _reference(16, (32, 3, 1, 8), (64, 3, 2, 16), (128, 3, 2, 32), (256, 3, 1, 64)),
    _reference(16, (48, 5, 1, 16), (96, 3, 2, 32), (256, 5, 3, 48), (512, 3, 2, 96)),
    _reference(24, (64, 3, 2, 24), (160, 5, 3, 40), (384, 3, 4, 64), (768, 5, 2, 96)),
)
"""Small, middling and larger networks for the factor."""


def device_name() -> str:
    """Processor of this machine, as it calls itself."""
    import platform

    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


Unit = tuple[str, tuple[int, int], tuple[Op, ...], int, tuple[int, int], float]


def _units(image_hw: tuple[int, int]) -> Iterator[Unit]:
    """(name, widths, operators, repeats, map size, multiply-accumulates or elements of one repeat)."""
    for c in _STEMS:
        h, w = -(-image_hw[0] // 2), -(-image_hw[1] // 2)
        yield "stem", (c, c), (Op("conv", 0, 3, c, 3, 2),), 1, image_hw, 27.0 * c * h * w
    for stride in _STRIDES:
        h, w = (-(-n // stride) for n in image_hw)
        h2, w2 = (-(-n // (stride // 2)) for n in image_hw)
        for a in _WIDE:
            for b in _WIDE:
                if a / 16 <= b <= a and 2 * a * b * h * w <= _LARGEST:
                    pair = (Op("conv", 0, a, b), Op("conv", 1, b, a, add=0))
                    yield f"pair@{stride}", (a, b), pair, 4, (h, w), 2.0 * a * b * h * w
        for m in _NARROW:
            for k in (3, 5):
                work = float(m * m * k * k * h * w)
                if work > _LARGEST:
                    continue
                yield f"k{k}@{stride}", (m, m), (Op("conv", 0, m, m, k),), 4, (h, w), work
                # A strided convolution cannot be chained: behind a 1x1, and the same without it.
                yield f"k{k}s2@{stride}", (m, m), (Op("conv", 0, m, m, k, 2),), 1, (h2, w2), work
        for c in (16, 64, 256, 1024):
            if c * h2 * w2 <= 4e6:
                yield f"pool@{stride}", (c, c), (Op("pool", 0, c, c),), 1, (h2, w2), float(c * h2 * w2)


def _interpolate(points: dict[tuple[int, int], float], wide: int, narrow: int) -> float:
    """Bilinear over log2 of the widths inside the grid, the nearest point outside it."""
    if all(a == b for a, b in points):  # a line, not a grid
        return _line([(log2(a), points[a, b]) for a, b in sorted(points)], log2(wide))
    x, y = log2(wide), log2(narrow)
    x0, y0 = 2 ** int(x), 2 ** int(y)
    corners = [(x0, y0), (2 * x0, y0), (x0, 2 * y0), (2 * x0, 2 * y0)]
    if all(c in points for c in corners):
        fx, fy = x - int(x), y - int(y)
        low = points[corners[0]] * (1 - fx) + points[corners[1]] * fx
        high = points[corners[2]] * (1 - fx) + points[corners[3]] * fx
        return low * (1 - fy) + high * fy
    # At the rim (narrow equals wide, or the largest units) fewer corners were measured: their distance weighs them.
    some = sorted(points, key=lambda p: abs(log2(p[0] / wide)) + abs(log2(p[1] / narrow)))[:3]
    weights = [1.0 / (1e-3 + abs(log2(p[0] / wide)) + abs(log2(p[1] / narrow))) for p in some]
    return sum(w * points[p] for w, p in zip(weights, some)) / sum(weights)


def _line(points: Sequence[tuple[float, float]], x: float) -> float:
    if x <= points[0][0]:
        return points[0][1]
    for (x0, y0), (x1, y1) in pairwise(points):
        if x <= x1:
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    return points[-1][1]
