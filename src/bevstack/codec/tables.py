"""Probability tables of the entropy coder: integers from the first step to the last, so that every machine builds the same.

A table is a strictly rising row of cumulative frequencies, 0 to 2^16, over the symbols ``offset .. offset + size - 1`` and one
more slot, the escape, which opens the way to every other 16-bit value. Model files ship their tables (`CdfTables.to_arrays`);
the stream's model id covers them (`CdfTables.digest`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bevstack.errors import CheckpointError

from . import exact

if TYPE_CHECKING:
    from .rans import Lookup

PRECISION = 16
TOTAL = 1 << PRECISION
SYMBOL_MIN, SYMBOL_MAX = -(1 << 15), (1 << 15) - 1
MAX_TABLES = 1 << 16
MAX_TABLE_SIZE = 1 << 13
TAIL_BITS = 17  # a symbol less likely than 2^-17 is left to the escape


@dataclass(frozen=True, eq=False)
class CdfTables:
    """A family of integer tables that one index per symbol chooses from.

    Attributes:
        cumulative: (S,) uint32, all rows one after the other; row t has ``sizes[t] + 2`` entries, starts with 0 and ends with
            2^16.
        sizes: (T,) int32, number of directly coded symbols of each table, at least 1 (the escape is not counted).
        offsets: (T,) int32, the lowest directly coded symbol of each table.
        skip_below: tables 0 .. skip_below - 1 stand for "not coded": such a symbol takes no bits and decodes to 0 (skip by
            scale).

    Raises:
        CheckpointError: if the arrays do not describe valid tables.
    """

    cumulative: NDArray[np.uint32]
    sizes: NDArray[np.int32]
    offsets: NDArray[np.int32]
    skip_below: int = 0

    def __post_init__(self) -> None:
        for name, kind in (("cumulative", np.uint32), ("sizes", np.int32), ("offsets", np.int32)):
            array = np.array(getattr(self, name), dtype=kind, order="C", ndmin=1)
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        self._check()

    def _check(self) -> None:
        count = len(self.sizes)
        if not 1 <= count <= MAX_TABLES or self.sizes.ndim != 1 or self.offsets.shape != (count,) or self.cumulative.ndim != 1:
            raise CheckpointError(
                f"coding tables: {count} sizes and {len(self.offsets)} offsets; both must count 1 to {MAX_TABLES}"
            )
        if not 0 <= self.skip_below <= count:
            raise CheckpointError(f"coding tables: skip_below {self.skip_below} is outside 0..{count}")
        sizes, offsets = self.sizes.astype(np.int64), self.offsets.astype(np.int64)
        if sizes.min() < 1 or sizes.max() > MAX_TABLE_SIZE:
            raise CheckpointError(f"coding tables: sizes {sizes.min()}..{sizes.max()} are outside 1..{MAX_TABLE_SIZE}")
        if offsets.min() < SYMBOL_MIN or (offsets + sizes - 1).max() > SYMBOL_MAX:
            raise CheckpointError(f"coding tables: a table leaves the symbols {SYMBOL_MIN}..{SYMBOL_MAX}")
        if len(self.cumulative) != int((sizes + 2).sum()):
            raise CheckpointError(
                f"coding tables: {len(self.cumulative)} cumulative entries, the sizes need {int((sizes + 2).sum())}"
            )
        starts = self.starts.astype(np.int64)
        ends = starts + sizes + 1
        steps = np.diff(self.cumulative.astype(np.int64))
        inside = np.ones(len(steps), bool)
        inside[ends[:-1]] = False
        if self.cumulative[starts].any() or (self.cumulative[ends] != TOTAL).any() or (steps[inside] < 1).any():
            raise CheckpointError("coding tables: each row must rise strictly from 0 to 65536")

    def __len__(self) -> int:
        return len(self.sizes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CdfTables) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @cached_property
    def starts(self) -> NDArray[np.int32]:
        """(T,) where each row begins in ``cumulative``."""
        return np.concatenate([[0], np.cumsum(self.sizes[:-1].astype(np.int64) + 2)]).astype(np.int32)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over everything that parsing depends on, in little-endian order."""
        head = np.array([PRECISION, len(self), self.skip_below], "<u4")
        parts = (head, self.sizes.astype("<i4"), self.offsets.astype("<i4"), self.cumulative.astype("<u4"))
        return hashlib.sha256(b"".join(part.tobytes() for part in parts)).digest()

    @cached_property
    def lookup(self) -> Lookup:
        """What the compiled coder reads; built once per family."""
        from .rans import Lookup

        return Lookup.build(self)

    def row(self, table: int) -> NDArray[np.uint32]:
        """(sizes[table] + 2,) cumulative frequencies of one table."""
        start = int(self.starts[table])
        return self.cumulative[start : start + int(self.sizes[table]) + 2]

    def bits(self, symbols: NDArray[np.int32], cdf_index: NDArray[np.integer]) -> float:
        """What coding these symbols costs by the tables alone, in bits: escapes included, the coder's own overhead not."""
        from .rans import table_bits

        return table_bits(symbols, cdf_index, self)

    def with_skip(self, skip_below: int) -> CdfTables:
        """The same tables with another skip threshold."""
        return CdfTables(self.cumulative, self.sizes, self.offsets, skip_below)

    def to_arrays(self, prefix: str = "") -> dict[str, NDArray[np.int32]]:
        """Integer arrays for a model file; see `from_arrays`."""
        return {
            f"{prefix}cumulative": self.cumulative.astype(np.int32),
            f"{prefix}sizes": self.sizes.copy(),
            f"{prefix}offsets": self.offsets.copy(),
            f"{prefix}skip_below": np.array([self.skip_below], np.int32),
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[np.int32]], prefix: str = "") -> CdfTables:
        """Tables out of a model file, checked.

        Raises:
            CheckpointError: if an array is missing or the tables are not valid.
        """
        names = [f"{prefix}{name}" for name in ("cumulative", "sizes", "offsets", "skip_below")]
        if missing := [name for name in names if name not in arrays]:
            raise CheckpointError(f"coding tables: the model file has no {missing[0]!r}; export the model again")
        cumulative, sizes, offsets, skip = (np.asarray(arrays[name]) for name in names)
        if skip.size != 1:
            raise CheckpointError(f"coding tables: {names[3]!r} holds {skip.size} values instead of one")
        if cumulative.size and cumulative.min() < 0:
            raise CheckpointError("coding tables: each row must rise strictly from 0 to 65536")
        return cls(cumulative.astype(np.uint32), sizes.astype(np.int32), offsets.astype(np.int32), int(skip.reshape(-1)[0]))

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence[int]], offsets: Sequence[int], skip_below: int = 0) -> CdfTables:
        """Tables from rows of cumulative frequencies, each from 0 to 2^16 with the escape as its last step."""
        flat = np.array([value for row in rows for value in row], np.uint32)
        sizes = np.array([len(row) - 2 for row in rows], np.int32)
        return cls(flat, sizes, np.array(offsets, np.int32), skip_below)

    @classmethod
    def from_masses(cls, masses: Sequence[Sequence[int]], offsets: Sequence[int], skip_below: int = 0) -> CdfTables:
        """Tables from integer masses (any scale): per table the directly coded symbols, then the mass of the escape.

        Every slot keeps a frequency of at least 1.
        """
        return cls.from_rows([cumulate(quantise(row)) for row in masses], offsets, skip_below)

    @classmethod
    def from_pmf(cls, pmf: Sequence[NDArray[np.float64]], offsets: Sequence[int], skip_below: int = 0) -> CdfTables:
        """Tables from floating-point probabilities (a learned density), quantised to integers here and now.

        For the machine that exports a model. The result belongs into the model file: rebuilt from floats elsewhere it may
        differ.

        Args:
            pmf: per table, probabilities of the directly coded symbols; what they lack to 1 goes to the escape.
        """
        rows = []
        for row in pmf:
            values = np.asarray(row, np.float64)
            if values.ndim != 1 or not len(values) or not np.isfinite(values).all() or (values < 0).any() or values.sum() <= 0:
                raise CheckpointError("coding tables: a learned density has no, negative or non-finite probabilities")
            masses = [round(float(p) * (1 << 48)) for p in values]
            rows.append([*masses, max(0, (1 << 48) - sum(masses))])
        return cls.from_masses(rows, offsets, skip_below)

    @classmethod
    def gaussian(cls, levels: Sequence[int], skip_below: int = 0) -> CdfTables:
        """Zero-mean Gaussians, one table per scale.

        Args:
            levels: standard deviations in units of 2^-16, for example from `scale_levels`.
        """
        return cls._symmetric(levels, exact.gaussian_upper_tail, skip_below)

    @classmethod
    def laplace(cls, levels: Sequence[int], skip_below: int = 0) -> CdfTables:
        """Zero-mean Laplace distributions; ``levels`` are the diversities b in units of 2^-16."""
        return cls._symmetric(levels, exact.laplace_upper_tail, skip_below)

    @classmethod
    def mixture(cls, parts: Sequence[Sequence[tuple[int, str, int]]], skip_below: int = 0) -> CdfTables:
        """Zero-mean mixtures from a codebook, one table per entry.

        Args:
            parts: per table a list of (integer weight, "gaussian" or "laplace", level in units of 2^-16).
        """
        tails = {"gaussian": exact.gaussian_upper_tail, "laplace": exact.laplace_upper_tail}
        rows, offsets = [], []
        for table in parts:
            weight = sum(part[0] for part in table)

            def tail(k: int, table: Sequence[tuple[int, str, int]] = table, weight: int = weight) -> int:
                return sum(w * tails[family](2 * k + 1, level) for w, family, level in table) // weight

            masses, edge = _symmetric_masses(tail)
            rows.append(masses)
            offsets.append(-edge)
        return cls.from_masses(rows, offsets, skip_below)

    @classmethod
    def dependent(cls, parts: Sequence[tuple[int, str]], levels: Sequence[int], step: str, skip_below: int = 0) -> CdfTables:
        """One set of tables for each quantiser of ``bevstack.codec.dependent``: mixtures of Gaussians at every scale.

        Args:
            parts: weight and share of the scale of each Gaussian; the shares and ``step`` are decimal strings.
            levels: scales in units of 2^-16.
            step: distance of the quantisers' levels.
        """
        total = sum(weight for weight, _ in parts)
        rows, offsets = [], []
        for quantiser in (0, 1):
            for level in levels:
                spread = [(w, round(Fraction(share) * level / Fraction(step))) for w, share in parts]

                def tail(k: int, spread: list[tuple[int, int]] = spread, quantiser: int = quantiser) -> int:
                    # In half steps: cells end half way between the quantiser's levels.
                    edge = 4 * k + 2 if quantiser == 0 else max(1, 4 * k)
                    return sum(w * exact.gaussian_upper_tail(edge, scale) for w, scale in spread) // total

                masses, edge = _symmetric_masses(tail)
                rows.append(masses)
                offsets.append(-edge)
        return cls.from_masses(rows, offsets, skip_below)

    @classmethod
    def joined(cls, families: Sequence[CdfTables], skip_below: int = 0) -> CdfTables:
        """All tables of several families, one family after the other."""
        cumulative, sizes, offsets = (
            np.concatenate([getattr(f, name) for f in families]) for name in ("cumulative", "sizes", "offsets")
        )
        return cls(cumulative, sizes, offsets, skip_below)

    @classmethod
    def _symmetric(cls, levels: Sequence[int], upper_tail: exact.UpperTail, skip_below: int) -> CdfTables:
        rows, offsets = [], []
        for level in levels:
            masses, edge = _symmetric_masses(lambda k, level=level: upper_tail(2 * k + 1, int(level)))  # type: ignore[misc]
            rows.append(masses)
            offsets.append(-edge)
        return cls.from_masses(rows, offsets, skip_below)


def scale_levels(count: int = 64, lowest: str = "0.11", highest: str = "64") -> list[int]:
    """``count`` scales in equal steps of the logarithm, in units of 2^-16; decimal strings in, exact arithmetic inside."""
    return exact.geometric_levels(count, lowest, highest)


def _symmetric_masses(tail: exact.Tail) -> tuple[list[int], int]:
    """Masses of -edge..edge and of both tails together; ``tail(k)`` is P(X > k + 1/2) in units of 2^-ONE_BITS."""
    one = 1 << exact.ONE_BITS
    cut = one >> TAIL_BITS
    tails = [tail(0)]
    while len(tails) < MAX_TABLE_SIZE // 2:
        following = tail(len(tails))
        if tails[-1] - following < cut and len(tails) > 1:
            break
        tails.append(following)
    edge = len(tails) - 1
    half = [tails[k - 1] - tails[k] for k in range(1, edge + 1)]
    return [*reversed(half), one - 2 * tails[0], *half, 2 * tails[edge]], edge


def quantise(masses: Sequence[int]) -> list[int]:
    """Integer masses to frequencies that sum to 2^16, none below 1: rounded, the most frequent slots settle the sum."""
    total = sum(masses)
    if total <= 0 or min(masses) < 0 or not 2 <= len(masses) <= MAX_TABLE_SIZE + 1:
        raise CheckpointError(
            f"coding tables: {len(masses)} masses with sum {total}; expected 2 to {MAX_TABLE_SIZE + 1}, none negative"
        )
    frequencies = [max(1, (2 * mass * TOTAL + total) // (2 * total)) for mass in masses]
    surplus = sum(frequencies) - TOTAL
    while surplus:
        step = 1 if surplus > 0 else -1
        for slot in sorted(range(len(frequencies)), key=lambda i: (-frequencies[i], i)):
            if surplus and frequencies[slot] - step >= 1:
                frequencies[slot] -= step
                surplus -= step
    return frequencies


def cumulate(frequencies: Sequence[int]) -> list[int]:
    """0, f0, f0 + f1, ... up to the sum."""
    row = [0]
    for frequency in frequencies:
        row.append(row[-1] + frequency)
    return row
