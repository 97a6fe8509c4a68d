"""The plain policy: temperature bands with hysteresis, one rung at a time: fallback and baseline of the other."""

from __future__ import annotations

from .decision import Mode
from .governor import Governor, Proposal


class BandPolicy(Governor):
    """Down one rung above ceiling - band_down, up one below ceiling - band_up; needs no model."""

    def _propose(self, throttled: frozenset[str], now: float) -> Proposal | None:
        return self._bands(throttled, now)

    def _bands(self, throttled: frozenset[str], now: float) -> Proposal | None:
        if not self.sensors.trackers:
            return self._by_latency(throttled, now)
        trusted = self.sensors.trusted
        if not trusted:
            return self._stale(now)
        self.mode = Mode.BANDS
        lost = len(trusted) < len(self.sensors.trackers)
        if lost:
            self.condition = self.condition if self.condition != "ok" else "DEGRADED: a zone is lost"
        extra = self.config.lost_margin if lost else 0.0
        urgent = self._emergency(now)
        if urgent is not None:
            return urgent
        down = self.config.band_down + extra
        over = {tracker.zone.key: self._over(tracker, now, down) for tracker in trusted}
        worst = max(trusted, key=lambda tracker: over[tracker.zone.key])
        self._note_sustainability(over[worst.zone.key], now)
        if throttled and now - self._changed_down >= self.config.dwell_down_s:
            combo = self._neighbour_down(set(throttled))
            if combo is not None:
                return Proposal(combo, f"{', '.join(sorted(throttled))} is being throttled")
        if over[worst.zone.key] > 0 and now - self._changed_down >= self.config.dwell_down_s:
            combo = self._neighbour_down(self._affected(worst.zone))
            full_rate = combo is not None and all(c.rate == 1.0 for c in combo)
            if combo is not None and (full_rate or self._needs_rate(over[worst.zone.key] - down, now)):
                return Proposal(combo, f"{worst.zone.key} at {worst.celsius:.1f} degC is in the upper band")
        if self._may_go_up(now):
            free = set(self.budget.units)
            for tracker in trusted:
                if self._over(tracker, now, self.config.band_up + extra) > 0:
                    free -= self._affected(tracker.zone)
            combo = self._neighbour_up(free, now)
            if combo is not None:
                return Proposal(combo, f"{worst.zone.key} at {worst.celsius:.1f} degC is in the lower band")
        return None

    def _needs_rate(self, over_ceiling: float, now: float) -> bool:
        """Rates are touched only when the smallest rungs have been too hot for a while and the ceiling is near."""
        return over_ceiling > -2.0 and self._over_since is not None and now - self._over_since >= 10.0
