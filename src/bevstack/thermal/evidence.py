"""Proof that the kernel, the firmware or the board is slowing us down already: counters and states, not temperatures."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from .nvml import HW_SLOWDOWN, HW_THERMAL, POWER_BRAKE, POWER_CAP, SW_THERMAL, NvmlZone
from .sysfs import numbered, try_integer, try_text
from .zones import Clock, Zone


@dataclass(frozen=True)
class Evidence:
    """What points at throttling since the previous look.

    Attributes:
        thermal: units that are being slowed down because of heat; ``soc`` stands for all.
        power: units slowed down by a power cap or over-current.
        lines: one per finding, for logs.
    """

    thermal: frozenset[str] = frozenset()
    power: frozenset[str] = frozenset()
    lines: tuple[str, ...] = ()


NO_EVIDENCE = Evidence()


@dataclass
class EvidenceReader:
    """Reads cooling devices, cpufreq limits, x86 throttle counters, over-current counters and NVML reasons.

    Limits that are already there at the first look are an administrator's and do not count; what comes on top does.
    """

    root: Path = Path("/sys")
    zones: list[Zone] = field(default_factory=list)
    clock: Clock = time.monotonic
    _first_limit: dict[str, int] = field(default_factory=dict, repr=False)
    _counters: dict[str, int] = field(default_factory=dict, repr=False)
    _looked: bool = field(default=False, repr=False)

    def _rising(self, key: str, value: int) -> bool:
        before = self._counters.get(key)
        self._counters[key] = value
        return before is not None and value > before

    def read(self) -> Evidence:
        """One look. Files that do not answer prove nothing and are left out."""
        thermal: set[str] = set()
        power: set[str] = set()
        lines: list[str] = []
        self._cooling(thermal, lines)
        self._cpufreq(thermal, lines)
        self._x86(thermal, lines)
        self._over_current(power, lines)
        self._nvml(thermal, power, lines)
        return Evidence(frozenset(thermal), frozenset(power), tuple(lines))

    def _cooling(self, thermal: set[str], lines: list[str]) -> None:
        for _, folder in numbered(self.root / "class" / "thermal", "cooling_device"):
            kind = (try_text(folder / "type") or "").lower()
            if not any(word in kind for word in ("processor", "cpu", "gpu", "devfreq", "cluster")):
                continue  # fans may run
            state = try_integer(folder / "cur_state")
            if state is not None and state > 0:
                unit = "gpu" if "gpu" in kind or "devfreq" in kind else "cpu"
                thermal.add(unit)
                lines.append(f"cooling device {kind} is at state {state}")

    def _cpufreq(self, thermal: set[str], lines: list[str]) -> None:
        for number, folder in numbered(self.root / "devices" / "system" / "cpu" / "cpufreq", "policy"):
            limit = try_integer(folder / "scaling_max_freq")
            if limit is None:
                continue
            first = self._first_limit.setdefault(folder.name, limit)
            if limit < first:
                thermal.add("cpu")
                lines.append(f"cpufreq policy{number} is limited to {limit / 1e6:.2f} GHz, was {first / 1e6:.2f}")
            elif limit > first:
                self._first_limit[folder.name] = limit

    def _x86(self, thermal: set[str], lines: list[str]) -> None:
        # Package counters repeat on every core and an offline CPU reads as empty: the maximum, never the sum.
        for name in ("core_throttle_count", "package_throttle_count"):
            values = [
                value
                for _, cpu in numbered(self.root / "devices" / "system" / "cpu", "cpu")
                if (value := try_integer(cpu / "thermal_throttle" / name)) is not None
            ]
            if values and self._rising(name, max(values)):
                thermal.add("cpu")
                lines.append(f"x86 {name} rose to {max(values)}")

    def _over_current(self, power: set[str], lines: list[str]) -> None:
        for _, folder in numbered(self.root / "class" / "hwmon", "hwmon"):
            for n in range(1, 5):
                value = try_integer(folder / f"oc{n}_event_cnt")
                if value is not None and self._rising(f"{folder.name}/oc{n}", value):
                    power.add("soc")
                    lines.append(f"over-current event {n} of {try_text(folder / 'name')} rose to {value}")

    def _nvml(self, thermal: set[str], power: set[str], lines: list[str]) -> None:
        for zone in self.zones:
            if not isinstance(zone, NvmlZone):
                continue
            reasons = zone.reasons() or 0
            if reasons & (SW_THERMAL | HW_THERMAL):
                thermal.add("gpu")
                lines.append(f"{zone.key} slows down because of heat")
            elif reasons & (POWER_CAP | POWER_BRAKE):
                power.add("gpu")
                lines.append(f"{zone.key} slows down because of power")
            elif reasons & HW_SLOWDOWN:
                # Ambiguous on older boards: heat only if the die is near its limit.
                reading = zone.read()
                limit = min((trip.celsius for trip in zone.trips if trip.kind == "passive"), default=None)
                hot = reading.celsius is not None and limit is not None and reading.celsius > limit - 5
                (thermal if hot else power).add("gpu")
                lines.append(f"{zone.key} reports a hardware slowdown")
