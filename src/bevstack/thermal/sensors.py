"""Which sensors can be believed now: filters, and the judgement lost, stuck, jumped or fine, over time.

A single reading is judged by `zones`; here is what only a history can show. Knows power only as a number per zone: how many
degrees of its reading our own load explains (`driven`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from .zones import Health, Reading, Zone

_GAIN = 0.4  # of the first-order filter, per sample of 0.5 s
_GLITCH = 15.0  # degC within one sample: needs a second sample
_FREEZE_DRIVEN = 2.5  # degC that the load must have moved a zone that did not move at all
_THAW = 2  # different values before a stuck zone is believed again
_CONTIGUOUS = 2.5  # s: a longer gap is no jump


@dataclass
class ZoneTracker:
    """History of one control zone.

    Attributes:
        zone: the sensor.
        celsius: filtered, degC; None before the first good reading. Last value while not `trusted`.
        raw: last accepted sample, unfiltered.
        health: ``ok``, or what is wrong.
        trusted: `celsius` can be steered by.
    """

    zone: Zone
    celsius: float | None = None
    raw: float | None = None
    health: str = "no reading yet"
    trusted: bool = False
    good_at: float | None = None
    since: float | None = None  # first moment of the present run of one value
    fresh: bool = False  # this step brought a sample
    quantum: float = 0.1
    _driven_low: float = 0.0
    _driven_high: float = 0.0
    _longest: float = 0.0
    _stuck: bool = False
    _thawed: int = 0
    _pending: float | None = None
    _last: float | None = None
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=3))

    def step(self, reading: Reading | None, now: float, driven: float | None, stale_s: float) -> None:
        """One period.

        Args:
            reading: this period's, None if there was none.
            now: seconds.
            driven: degC of the zone's temperature that the present loads explain; None without a model.
            stale_s: silence after which the zone is lost.
        """
        self.fresh = False
        if reading is None or reading.celsius is None or reading.health is not Health.OK:
            why = "no answer" if reading is None else f"{reading.health.value}: {reading.detail}"
            disabled = reading is not None and reading.health is Health.DISABLED
            if self.good_at is None or now - self.good_at > stale_s or disabled:
                self._lose(f"lost ({why})")
            return
        value = reading.celsius
        if not self._confirmed(value, now):
            return
        self._watch_freeze(value, now, driven)
        self.raw = value
        gap = self.good_at is None or now - self.good_at > _CONTIGUOUS
        self.good_at = now
        self.fresh = True
        self._recent.append(value)
        if self.celsius is None or gap or (not self.trusted and not self._stuck):
            self._recent.clear()
            self._recent.append(value)
            self.celsius = value
        else:
            self.celsius += _GAIN * (median(self._recent) - self.celsius)
        if self._stuck:
            self.trusted, self.health = False, "stuck (the value does not move although the load did)"
        else:
            self.trusted, self.health = True, "ok"

    def _lose(self, why: str) -> None:
        self.trusted, self.health = False, why
        self.since, self._pending = None, None

    def _confirmed(self, value: float, now: float) -> bool:
        """A jump of more than 15 degC between two samples counts when the next sample agrees: no die moves as fast as that."""
        reference = self.raw
        contiguous = self.good_at is not None and now - self.good_at <= _CONTIGUOUS and self.trusted
        if reference is None or not contiguous or abs(value - reference) <= _GLITCH:
            self._pending = None
            return True
        if self._pending is not None and abs(value - self._pending) <= _GLITCH:
            self._pending = None
            return True
        self._pending = value
        return False

    def _watch_freeze(self, value: float, now: float, driven: float | None) -> None:
        if self._last is not None and value != self._last:
            step = abs(value - self._last)
            if 0.01 <= step < 2.0:
                self.quantum = max(0.1, min(self.quantum if self.quantum > 0.1 else step, step))
            if self.since is not None:
                self._longest = max(self._longest * 0.98, now - self.since)
            self.since = now
            if driven is not None:
                self._driven_low = self._driven_high = driven
            if self._stuck:
                self._thawed += 1
                if self._thawed >= _THAW:
                    self._stuck, self._thawed, self.celsius = False, 0, None
                    self._recent.clear()
        elif self.since is None:
            self.since = now
            if driven is not None:
                self._driven_low = self._driven_high = driven
        elif driven is not None:
            self._driven_low = min(self._driven_low, driven)
            self._driven_high = max(self._driven_high, driven)
            moved = self._driven_high - self._driven_low
            if moved > max(_FREEZE_DRIVEN, 2.5 * self.quantum) and now - self.since >= 3.0:
                self._stuck = True
        self._last = value

    def declare_stuck(self) -> None:
        """Somebody else's judgement (the band policy has no model to judge by)."""
        self._stuck = True
        self.trusted, self.health = False, "stuck (the value does not move although the load did)"

    def still_for(self, now: float) -> float:
        """Seconds for which the value has been exactly the same."""
        return 0.0 if self.since is None or not self.trusted else now - self.since

    def suspicious(self, now: float) -> bool:
        """Unmoved for far longer than it ever was: worth a probe."""
        return self.still_for(now) > max(60.0, 6.0 * self._longest)


class SensorBank:
    """Trackers of all control zones; keeps them when zones are found again."""

    def __init__(self, zones: Sequence[Zone]) -> None:
        self.trackers: dict[str, ZoneTracker] = {}
        self.set_zones(zones)

    def set_zones(self, zones: Sequence[Zone]) -> None:
        """Known keys keep their history; new ones join; vanished ones stay, lost."""
        for zone in zones:
            if not zone.control:
                continue
            if zone.key in self.trackers:
                self.trackers[zone.key].zone = zone
            else:
                self.trackers[zone.key] = ZoneTracker(zone)

    def step(self, readings: Sequence[Reading], now: float, driven: Mapping[str, float], stale_s: float) -> None:
        """One period for all; zones without a reading count as silent."""
        by_zone = {reading.zone: reading for reading in readings}
        for key, tracker in self.trackers.items():
            tracker.step(by_zone.get(key), now, driven.get(key), stale_s)

    @property
    def trusted(self) -> list[ZoneTracker]:
        """Those that can be steered by."""
        return [tracker for tracker in self.trackers.values() if tracker.trusted]
