"""What the governor chooses from: the sizes (rungs) of each model family and how much they matter."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from bevstack.errors import BevstackError


class LadderError(BevstackError):
    """A ladder of model sizes cannot be right."""


@dataclass(frozen=True)
class RungInfo:
    """One size of a model.

    Attributes:
        name: what the node's parameter ``model.rung`` is set to.
        quality: relative quality, above 0; only ratios within one ladder count (mAP, PSNR gain, any one scale).
        power_w: mean power that the rung adds to its unit at the ladder's full rate, watts. Only differences and ratios
            matter to a model that was calibrated on these numbers, so a declared figure (for example GMAC times a constant)
            will do.
        latency_ms: busy time per item at full clocks, milliseconds.
        measured: the figures were measured on this machine, not declared.
    """

    name: str
    quality: float
    power_w: float
    latency_ms: float
    measured: bool = False

    def __post_init__(self) -> None:
        if not self.name:
            raise LadderError("a rung has no name: give each one the name that model.rung takes")
        if not (math.isfinite(self.quality) and self.quality > 0):
            raise LadderError(f"rung {self.name}: quality {self.quality} must be above 0")
        if not (math.isfinite(self.power_w) and self.power_w >= 0):
            raise LadderError(f"rung {self.name}: power_w {self.power_w} must be 0 or more watts")
        if not (math.isfinite(self.latency_ms) and self.latency_ms >= 0):
            raise LadderError(f"rung {self.name}: latency_ms {self.latency_ms} must be 0 or more milliseconds")


@dataclass(frozen=True)
class LadderInfo:
    """The rungs of one model family, best quality first (sorted here).

    Attributes:
        model: family or node name, for example ``fastbev``.
        rungs: at least one.
        priority: weight in the shared budget, above 0.
        unit: what it loads: ``cpu``, ``gpu``, ``dla``, or the name of a chip (``zones`` maps zones to units).
        floor: name of the smallest rung that may be chosen; None allows all.
        rates: shares of its items that may be processed, 1.0 first; the second lever, used when the smallest rungs are still
        too hot.
    """

    model: str
    rungs: tuple[RungInfo, ...]
    priority: float = 1.0
    unit: str = "gpu"
    floor: str | None = None
    rates: tuple[float, ...] = field(default=(1.0, 0.5, 0.25))

    def __post_init__(self) -> None:
        if not self.rungs:
            raise LadderError(f"ladder {self.model}: no rungs")
        names = [rung.name for rung in self.rungs]
        if len(set(names)) != len(names):
            raise LadderError(f"ladder {self.model}: two rungs have the same name in {names}")
        if not (math.isfinite(self.priority) and self.priority > 0):
            raise LadderError(f"ladder {self.model}: priority {self.priority} must be above 0")
        if not self.rates or any(not 0 < rate <= 1 for rate in self.rates) or max(self.rates) != 1.0:
            raise LadderError(f"ladder {self.model}: rates {self.rates} must be in (0, 1] and contain 1.0")
        if self.floor is not None and self.floor not in names:
            raise LadderError(f"ladder {self.model}: floor {self.floor} is none of its rungs {names}")
        object.__setattr__(self, "rungs", tuple(sorted(self.rungs, key=lambda r: (-r.quality, r.power_w))))
        object.__setattr__(self, "rates", tuple(sorted(set(self.rates), reverse=True)))

    @property
    def allowed(self) -> tuple[RungInfo, ...]:
        """Rungs from the best down to the floor."""
        if self.floor is None:
            return self.rungs
        return self.rungs[: self.names.index(self.floor) + 1]

    @property
    def names(self) -> tuple[str, ...]:
        """Rung names, best quality first."""
        return tuple(rung.name for rung in self.rungs)

    @property
    def smallest(self) -> RungInfo:
        """The allowed rung with the least power (of equals, the better one)."""
        return min(self.allowed, key=lambda r: (r.power_w, -r.quality))

    def rung(self, name: str) -> RungInfo:
        """By name.

        Raises:
            LadderError: no such rung.
        """
        for rung in self.rungs:
            if rung.name == name:
                return rung
        raise LadderError(f"ladder {self.model} has no rung {name}: take one of {', '.join(self.names)}")
