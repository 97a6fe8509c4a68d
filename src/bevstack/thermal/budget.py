"""All combinations of rungs that the models of one machine can run together, and what each is worth and costs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .config import GovernorError
from .rungs import LadderInfo, RungInfo

Floats = NDArray[np.float64]
_MOST = 4096


@dataclass(frozen=True)
class Choice:
    """One model's part of a combination."""

    rung: str
    rate: float = 1.0


def _efficient(ladder: LadderInfo) -> list[RungInfo]:
    """Allowed rungs without those that cost no less than a better one, best first."""
    kept: list[RungInfo] = []
    for rung in ladder.allowed:
        if not kept or rung.power_w < kept[-1].power_w:
            kept.append(rung)
    return kept


class Budget:
    """Combinations, enumerated: a few models with a few rungs each need no solver.

    At full rate every combination of efficient rungs; below the smallest rungs, every combination of lower rates.

    Attributes:
        ladders: in the order given.
        units: what the ladders load.
        choices: (C,) combinations, each one `Choice` per ladder, best utility first.
        utility: (C,) sum of priority * log(relative quality * rate): proportional fairness, so nobody is starved.
        power: (C, U) watts per unit.
        busy_ms: (C, U) busy time per item period and unit at full clocks.
        full_rate: (C,) bool.
        absent: names of ladders whose models do not run now: they stay at their smallest rung, cost and count for nothing.
    """

    def __init__(
        self, ladders: Sequence[LadderInfo], units: Sequence[str] = (), *, absent: AbstractSet[str] = frozenset()
    ) -> None:
        names = [ladder.model for ladder in ladders]
        if not ladders or len(set(names)) != len(names):
            raise GovernorError(f"the governor needs ladders with different names, got {names}")
        self.ladders = tuple(ladders)
        self.units = tuple(dict.fromkeys([*units, *(ladder.unit for ladder in ladders)]))
        self.absent = frozenset(absent)
        lists = [[ladder.smallest] if ladder.model in self.absent else _efficient(ladder) for ladder in ladders]
        while math.prod(len(rungs) for rungs in lists) > _MOST:
            # Thin out the longest ladder from its middle; both ends stay.
            longest = max(lists, key=len)
            del longest[len(longest) // 2]
        combos = [tuple(Choice(rung.name) for rung in combo) for combo in itertools.product(*lists)]
        slow = [tuple(Choice(ladder.smallest.name, rate) for ladder, rate in zip(ladders, rates))
                for rates in itertools.product(*(self._rates(ladder) for ladder in ladders)) if min(rates) < 1]  # fmt: skip
        self._build(combos + slow)

    def _rates(self, ladder: LadderInfo) -> tuple[float, ...]:
        return (1.0,) if ladder.model in self.absent else ladder.rates

    @property
    def running(self) -> tuple[LadderInfo, ...]:
        """Ladders whose models run now."""
        return tuple(ladder for ladder in self.ladders if ladder.model not in self.absent)

    def _build(self, combos: list[tuple[Choice, ...]]) -> None:
        utility = [self._utility(combo) for combo in combos]
        order = sorted(range(len(combos)), key=lambda n: -utility[n])
        self.choices = [combos[n] for n in order]
        self.index = {combo: n for n, combo in enumerate(self.choices)}
        self.utility: Floats = np.array([utility[n] for n in order])
        self.power: Floats = np.array([self.power_of(combo) for combo in self.choices])
        self.busy_ms: Floats = np.array([self._busy(combo) for combo in self.choices])
        self.full_rate: NDArray[np.bool_] = np.array([all(c.rate == 1.0 for c in combo) for combo in self.choices])
        self.total: Floats = self.power.sum(axis=1)
        self._fits_period: float | None = -1.0
        self._fits: NDArray[np.bool_] = self.full_rate
        self.smallest: tuple[Choice, ...] = tuple(Choice(ladder.smallest.name) for ladder in self.ladders)

    def _utility(self, combo: tuple[Choice, ...]) -> float:
        return sum(
            ladder.priority * math.log(ladder.rung(c.rung).quality / ladder.rungs[0].quality * c.rate)
            for ladder, c in zip(self.ladders, combo)
            if ladder.model not in self.absent
        )

    def power_of(self, combo: Sequence[Choice]) -> Floats:
        """(U,) watts."""
        power = np.zeros(len(self.units))
        for ladder, c in zip(self.ladders, combo):
            if ladder.model in self.absent:
                continue
            power[self.units.index(ladder.unit)] += ladder.rung(c.rung).power_w * c.rate
        return power

    def _busy(self, combo: Sequence[Choice]) -> Floats:
        busy = np.zeros(len(self.units))
        for ladder, c in zip(self.ladders, combo):
            if ladder.model in self.absent:
                continue
            busy[self.units.index(ladder.unit)] += ladder.rung(c.rung).latency_ms * c.rate
        return busy

    def allowed(self, quarantined: set[tuple[str, str]], period_ms: float | None) -> NDArray[np.bool_]:
        """(C,) combinations without quarantined (model, rung) pairs that fit the item period; if none fits, all healthy
        ones."""
        if not quarantined and period_ms == self._fits_period:
            return self._fits
        healthy = np.array(
            [not any((ladder.model, c.rung) in quarantined for ladder, c in zip(self.ladders, combo)) for combo in self.choices]
        )
        fits = healthy
        if period_ms is not None:
            in_time = healthy & (self.busy_ms.max(axis=1) * 1.1 <= period_ms)
            fits = in_time if in_time.any() else healthy
        if not quarantined:
            self._fits_period, self._fits = period_ms, fits
        return fits

    def lower(self, combo: tuple[Choice, ...], n: int) -> tuple[Choice, ...] | None:
        """One step down for ladder ``n``: the next efficient rung with less power; at the smallest, the next rate."""
        ladder, c = self.ladders[n], combo[n]
        if ladder.model in self.absent:
            return None
        power = ladder.rung(c.rung).power_w
        below = [rung for rung in _efficient(ladder) if rung.power_w < power]
        if below:
            return (*combo[:n], Choice(below[0].name, c.rate), *combo[n + 1 :])
        slower = [rate for rate in ladder.rates if rate < c.rate]
        return (*combo[:n], Choice(c.rung, slower[0]), *combo[n + 1 :]) if slower else None

    def higher(self, combo: tuple[Choice, ...], n: int) -> tuple[Choice, ...] | None:
        """One step up for ladder ``n``: first back to full rate, then the next efficient rung; None at the top."""
        ladder, c = self.ladders[n], combo[n]
        if ladder.model in self.absent:
            return None
        faster = [rate for rate in ladder.rates if rate > c.rate]
        if faster:
            return (*combo[:n], Choice(c.rung, faster[-1]), *combo[n + 1 :])
        quality = ladder.rung(c.rung).quality
        above = [rung for rung in _efficient(ladder) if rung.quality > quality]
        return (*combo[:n], Choice(above[-1].name, 1.0), *combo[n + 1 :]) if above else None

    def utility_of(self, combo: tuple[Choice, ...]) -> float:
        """As `utility`, for any combination."""
        return self._utility(combo)

    def busy_of(self, combo: tuple[Choice, ...]) -> Floats:
        """As `busy_ms`, for any combination."""
        return self._busy(combo)
