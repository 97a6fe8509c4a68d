"""A board as a thermal engineer draws it: its plate, its chips with their spreaders, and the blocks that our models load.

Format (YAML), lengths in metres, docs/thermal-tools.md explains every field:

    board: {width: 0.2, height: 0.1, cell: 0.0025, spread: 0.06, convection: 400, ambient: 45, margin: 3}
    chips:
      soc: {x: [0.02, 0.09], y: [0.02, 0.08], spread: 0.12}
    blocks:
      gpu: {chip: soc, x: [0.03, 0.05], y: [0.03, 0.05], limit: 95, max_power: 40}
    ladders:
      - {model: fastbev, block: gpu, priority: 2, rungs: {fastbev-nano: {quality: 0.41, power: 12}, ...}}
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from .elliptic import Floats, PlanError, Sparse, board
from .rungs import LadderInfo, RungInfo
from .schwarz import Subdomain, grown

MOST_CELLS = 250_000


@dataclass(frozen=True)
class Rect:
    """Cells ``rows`` x ``columns``, each (first, one past the last)."""

    rows: tuple[int, int]
    columns: tuple[int, int]

    @property
    def cells(self) -> int:
        return (self.rows[1] - self.rows[0]) * (self.columns[1] - self.columns[0])

    def mask(self, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """True inside."""
        made = np.zeros(shape, bool)
        made[self.rows[0] : self.rows[1], self.columns[0] : self.columns[1]] = True
        return made


@dataclass(frozen=True)
class Chip:
    """A package on the board. ``spread``: k t over its area, W/K."""

    name: str
    rect: Rect
    spread: float


@dataclass(frozen=True)
class Block:
    """A part of a chip that turns power into heat. ``limit``: degC that its mean temperature is to stay at; ``max_power``:
    W."""

    name: str
    chip: str
    rect: Rect
    limit: float
    max_power: float


@dataclass(frozen=True)
class Floorplan:
    """A board.

    Attributes:
        shape: (rows, columns) of cells. cell: side, m.
        spread, convection: of the bare board, W/K and W/(m^2 K).
        ambient: degC. margin: kept below every limit, degC.
        chips, blocks: in file order.
        ladders: block to the ladders of the models that load it.
    """

    shape: tuple[int, int]
    cell: float
    spread: float
    convection: float
    ambient: float
    margin: float
    chips: tuple[Chip, ...]
    blocks: tuple[Block, ...]
    ladders: Mapping[str, tuple[LadderInfo, ...]]

    def operator(self) -> Sparse:
        """A (N, N), W/K: temperature over ambient to power."""
        spread = np.full(self.shape, self.spread)
        for chip in self.chips:
            spread[chip.rect.mask(self.shape)] = chip.spread
        return board(spread, np.full(self.shape, self.convection), self.cell)

    def means(self) -> Sparse:
        """C (K, N): mean over each block's cells; its transpose spreads 1 W evenly over a block."""
        from scipy import sparse

        rows = [block.rect.mask(self.shape).reshape(-1) / block.rect.cells for block in self.blocks]
        return sparse.csr_matrix(np.array(rows))

    @property
    def targets(self) -> Floats:
        """(K,) kelvin over ambient that the blocks are to stay at."""
        return np.array([block.limit - self.margin - self.ambient for block in self.blocks])

    @property
    def limits(self) -> Floats:
        """(K,) most power of each block, W."""
        return np.array([block.max_power for block in self.blocks])

    def subdomains(self, overlap: int) -> list[Subdomain]:
        """One per chip: every cell belongs to the nearest chip; then each is grown by ``overlap`` cells."""
        if not self.chips:
            raise PlanError("the board has no chips: name at least one")
        r, c = np.indices(self.shape)
        distance = []
        for chip in self.chips:
            (r0, r1), (c0, c1) = chip.rect.rows, chip.rect.columns
            across = np.maximum(np.maximum(r0 - r, r - (r1 - 1)), 0)
            along = np.maximum(np.maximum(c0 - c, c - (c1 - 1)), 0)
            distance.append(across**2 + along**2)
        owner = np.argmin(np.array(distance), axis=0).astype(np.intp)
        return grown(self.shape, owner, overlap, [chip.name for chip in self.chips])


def read_floorplan(path: Path) -> Floorplan:
    """A floorplan file.

    Raises:
        PlanError: missing, not YAML, or a field that is missing or cannot be right: which one, and what it must be.
    """
    try:
        loaded = yaml.safe_load(path.read_text())
    except OSError as error:
        raise PlanError(f"floorplan {path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PlanError(f"floorplan {path} is not YAML: {' '.join(str(error).split())[:200]}") from None
    return parse_floorplan(loaded, str(path))


def parse_floorplan(loaded: Any, name: str = "floorplan") -> Floorplan:
    """As ``read_floorplan``, from loaded YAML."""
    top = _Reader(loaded, name)
    plate = top.section("board", ("width", "height", "cell", "spread", "convection", "ambient", "margin"))
    cell = plate.number("cell", low=0.0)
    shape = (round(plate.number("height", low=0.0) / cell), round(plate.number("width", low=0.0) / cell))
    if min(shape) < 2 or shape[0] * shape[1] > MOST_CELLS:
        raise PlanError(f"{name}: board is {shape[0]} x {shape[1]} cells: choose cell so that there are 2 x 2 to {MOST_CELLS}")
    spread = plate.number("spread", low=0.0)
    chips = tuple(
        Chip(key, entry.rect(cell, shape), entry.number("spread", spread, low=0.0))
        for key, entry in top.entries("chips", ("x", "y", "spread"))
    )
    names = [chip.name for chip in chips]
    blocks = []
    for key, entry in top.entries("blocks", ("chip", "x", "y", "limit", "max_power")):
        chip = entry.text("chip")
        if chip not in names:
            raise PlanError(f"{entry.name}: chip {chip!r} is none of {', '.join(names)}")
        rect, home = entry.rect(cell, shape), chips[names.index(chip)].rect
        if (rect.mask(shape) & ~home.mask(shape)).any():
            raise PlanError(f"{entry.name}: the block reaches beyond its chip {chip}")
        blocks.append(Block(key, chip, rect, entry.number("limit"), entry.number("max_power", low=0.0)))
    ambient, margin = plate.number("ambient"), plate.number("margin", 3.0, low=-1e-9)
    for block in blocks:
        if block.limit - margin <= ambient:
            raise PlanError(
                f"{name}: block {block.name} must stay at {block.limit - margin:g} degC and ambient is {ambient:g}: "
                "no power would do"
            )
    plan = Floorplan(
        shape, cell, spread, plate.number("convection", low=0.0), ambient, margin, chips, tuple(blocks), top.ladders(blocks)
    )
    return plan


class _Reader:
    """A mapping of the file, whose complaints say where."""

    def __init__(self, values: Any, name: str, known: Sequence[str] = ()) -> None:
        if not isinstance(values, Mapping):
            raise PlanError(f"{name}: it must hold fields, it is {type(values).__name__}")
        unknown = [key for key in values if known and key not in known]
        if unknown:
            raise PlanError(f"{name}: unknown field {unknown[0]!r}, use {', '.join(known)}")
        self.values, self.name = values, name

    def section(self, key: str, known: Sequence[str]) -> _Reader:
        if key not in self.values:
            raise PlanError(f"{self.name}: field {key} is missing")
        return _Reader(self.values[key], f"{self.name}: {key}", known)

    def entries(self, key: str, known: Sequence[str]) -> list[tuple[str, _Reader]]:
        found = self.section(key, ()).values
        if not found:
            raise PlanError(f"{self.name}: {key} is empty")
        return [(str(k), _Reader(v, f"{self.name}: {key} {k}", known)) for k, v in found.items()]

    def number(self, key: str, default: float | None = None, *, low: float = -math.inf) -> float:
        value = self.values.get(key, default)
        if value is None:
            raise PlanError(f"{self.name}: field {key} is missing")
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= low:
            raise PlanError(f"{self.name}: {key} is {value!r}: it must be a number{f' above {low:g}' if low > -1e-6 else ''}")
        return float(value)

    def text(self, key: str) -> str:
        value = self.values.get(key)
        if not isinstance(value, str) or not value:
            raise PlanError(f"{self.name}: {key} is {value!r}: it must be a name")
        return value

    def rect(self, cell: float, shape: tuple[int, int]) -> Rect:
        spans = []
        for key, n in (("y", shape[0]), ("x", shape[1])):
            value = self.values.get(key)
            if not (isinstance(value, list) and len(value) == 2 and all(isinstance(v, int | float) for v in value)):
                raise PlanError(f"{self.name}: {key} is {value!r}: it must be [from, to] in metres")
            first, last = round(value[0] / cell), round(value[1] / cell)
            if not 0 <= first < last <= n:
                raise PlanError(f"{self.name}: {key} {value} is not on the board, or less than a cell of {cell:g} m wide")
            spans.append((first, last))
        return Rect(spans[0], spans[1])

    def ladders(self, blocks: Sequence[Block]) -> dict[str, tuple[LadderInfo, ...]]:
        found: dict[str, tuple[LadderInfo, ...]] = {}
        names = [block.name for block in blocks]
        for k, raw in enumerate(self.values.get("ladders") or []):
            entry = _Reader(raw, f"{self.name}: ladder {k + 1}", ("model", "block", "priority", "rungs"))
            block = entry.text("block")
            if block not in names:
                raise PlanError(f"{entry.name}: block {block!r} is none of {', '.join(names)}")
            rungs = tuple(
                RungInfo(name, r.number("quality", low=0.0), r.number("power", low=-1e-9), r.number("latency", 0.0))
                for name, r in entry.entries("rungs", ("quality", "power", "latency"))
            )
            made = LadderInfo(entry.text("model"), rungs, priority=entry.number("priority", 1.0, low=0.0), unit=block)
            found[block] = (*found.get(block, ()), made)
        return found
