"""Limits and times of the governor; brief reasons stand beside the numbers, measurements in docs/governor.md."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from bevstack.errors import BevstackError


class GovernorError(BevstackError):
    """The governor was given something that cannot be right."""


@dataclass(frozen=True)
class GovernorConfig:
    """Degrees Celsius and seconds.

    Attributes:
        ceiling: never let a zone go above this, whatever the trip files say.
        ceilings: zone key to a limit that the integrator states; wins over trips and over `ceiling`.
        margin: kept below the ceiling by the predictive policy in calm air.
        reserve: extra margin at the start, against bursts of other loads that nobody has seen yet; it halves every
            `reserve_half_life_s` without a surprise, and an observed surge puts it up to what would have been needed.
        reserve_least: what of it stays for ever: the first surge comes unannounced. reserve_max: most that surges can add.
        up_margin: an up-shift must be forecast to stay this far below the target.
        up_horizon_s, horizon_s: how long an up-shift must be good for; how far ahead the present is checked.
        dwell_down_s, dwell_up_s: least time between changes of one direction.
        back_off_max: `dwell_up_s` doubles up to this factor when an up-shift is undone within `undone_s`.
        lost_margin: extra margin while a zone is carried by its siblings or by the model alone.
        band_down, band_up: band policy: down at ceiling - band_down, up below ceiling - band_up.
        stale_s, stale_step_s, stale_floor_s: without any sensor and model: freeze, one rung down every, smallest after.
        stretch: measured latency over expected that counts as slowed down, when it lasts `stretch_s`.
        throttle_hold_s: no up-shift after throttling was seen.
        quarantine_s: a rung that failed is not asked for.
        period_ms: item period; combinations whose busy times on one unit, times 1.1, exceed it are not chosen. None: unchecked.
    """

    ceiling: float = 95.0
    ceilings: tuple[tuple[str, float], ...] = ()
    margin: float = 2.0
    reserve: float = 3.0
    reserve_least: float = 2.5
    reserve_max: float = 12.0
    reserve_half_life_s: float = 600.0
    up_margin: float = 1.0
    up_horizon_s: float = 90.0
    horizon_s: float = 20.0
    dwell_down_s: float = 2.0
    dwell_up_s: float = 30.0
    first_up_s: float = 5.0
    undone_s: float = 60.0
    back_off_max: float = 8.0
    lost_margin: float = 3.0
    band_down: float = 5.0
    band_up: float = 10.0
    stale_s: float = 2.0
    stale_step_s: float = 5.0
    stale_floor_s: float = 15.0
    stretch: float = 1.15
    stretch_s: float = 2.0
    throttle_hold_s: float = 60.0
    quarantine_s: float = 600.0
    period_ms: float | None = None

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name in ("ceilings", "period_ms"):
                continue
            if not (isinstance(value, (int, float)) and math.isfinite(value) and value >= 0):
                raise GovernorError(f"governor setting {item.name} is {value!r}: give a number of 0 or more")
        if self.band_up <= self.band_down:
            raise GovernorError(f"band_up {self.band_up} must be above band_down {self.band_down}, or the bands flap")
