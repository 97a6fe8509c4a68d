"""Temperature sensors of this machine: Linux thermal zones, hwmon chips, NVIDIA boards. Reads only; writes nothing to sysfs,
ever.

An unreadable zone has no temperature. It is never 0, never the last value, never cold: `Reading.celsius` is None and
`Reading.health` says why.
"""

from __future__ import annotations

import errno
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Protocol

from .sysfs import describe, numbered, parse_integer, read_bytes, try_integer, try_text

Clock = Callable[[], float]
ReadBytes = Callable[[str | os.PathLike[str]], bytes]

PLAUSIBLE = (-40.0, 130.0)  # degC; outside are invalid marks, saturated converters and wrong units
PLAUSIBLE_TRIP = (20.0, 150.0)
_UNIT_VOTES = 10  # reads below 200 before a zone counts as one that answers in degrees
_NEAR_ZERO = 3.0  # degC: a zone that was as near as this may go on to 0
_MODE_EVERY = 10  # reads between two looks at `mode`


class Health(Enum):
    """What a reading is worth."""

    OK = "ok"
    OFFLINE = "offline"  # EAGAIN or empty: the domain is off for now
    DISABLED = "disabled"  # mode is "disabled": the kernel protects nothing here
    IMPLAUSIBLE = "implausible"  # answered, but not with a temperature
    ERROR = "error"  # EINVAL, EIO, ENODATA, ...
    GONE = "gone"  # its files are not there any more: look for it again
    STALE = "stale"  # did not answer in time (set by patience.PatientReader)


@dataclass(frozen=True)
class Trip:
    """Where something happens: ``passive`` (clocks go down), ``hot``, ``critical`` (shutdown), ``active`` (a fan). Degrees
    Celsius."""

    celsius: float
    kind: str


@dataclass(frozen=True)
class Reading:
    """One answer of one zone.

    Attributes:
        zone: key of the zone.
        celsius: None unless health is OK.
        health: what it is worth.
        at: when it was read, seconds of the clock given to `discover`.
        detail: why it is not OK, one line.
        raw: what the driver said, if it was a number.
    """

    zone: str
    celsius: float | None
    health: Health
    at: float
    detail: str = ""
    raw: int | None = None


class Zone(Protocol):
    """One sensor.

    Attributes:
        key: stable name: ``thermal:<type>`` or ``hwmon:<chip>:<label>`` or ``nvml:<index>``, with ``#<ordinal>`` from the
        second of a name.
        kind: ``thermal``, ``hwmon`` or ``nvml``.
        units: what it is on: ``cpu``, ``gpu``, ``dla``; ``soc`` is a die shared by all; empty if unknown.
        control: may steer the governor; zones that nobody knows are shown only.
        trips: plausible ones, ascending.
    """

    @property
    def key(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def units(self) -> tuple[str, ...]: ...
    @property
    def control(self) -> bool: ...
    @property
    def trips(self) -> tuple[Trip, ...]: ...
    def read(self) -> Reading:
        """One answer; never raises for anything that a sensor can do."""
        ...


# Names that drivers use, lower case: pattern, units. The first that matches counts.
_KNOWN: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"tj|tj-thermal|tjunction", ("soc",)),
    (r"(cv[0-9]*|dla[0-9]*|pva[0-9]*|apu|npu|nn)[-_]?(therm|thermal)?", ("dla",)),
    (r".*gpu.*|amdgpu.*|nouveau.*|radeon.*", ("gpu",)),
    (r"x86_pkg_temp|tcpu|.*cpu.*|coretemp:.*|k10temp:.*|zenpower:.*|mcpu.*|bcpu.*|little.*|big.*", ("cpu",)),
    (r"soc[0-9]*[-_]?(therm|thermal)?|soc_thermal|ao-therm|aoss.*|package.*|die.*", ("soc",)),
)


def units_of(name: str, extra: Mapping[str, Iterable[str]] | None = None, key: str = "") -> tuple[str, ...]:
    """Units that a zone's name speaks of; empty if nobody knows the name (then it is shown, not steered by).

    Args:
        name: zone type, or ``chip:label`` of a hwmon sensor.
        extra: regular expression (any case) to units; asked first. What matches the whole key (``thermal:acpitz#1``), with or
            without its kind, goes before what matches the name: several zones may share one. An empty list takes a zone out.
        key: of the zone.
    """
    for whole in dict.fromkeys((key, key.partition(":")[2], name)):
        for pattern, units in (extra or {}).items():
            if whole and re.fullmatch(pattern, whole, re.IGNORECASE):
                return tuple(units)
    for pattern, known in _KNOWN:
        if re.fullmatch(pattern, name, re.IGNORECASE):
            return known
    return ()


@dataclass
class SysfsZone:
    """A zone behind one file that holds millidegrees. Use `discover`."""

    key: str
    kind: str
    path: Path
    units: tuple[str, ...]
    control: bool
    trips: tuple[Trip, ...] = ()
    name: bytes | None = None  # content of `type`; another content means that the kernel renumbered its zones
    mode_path: Path | None = None
    fault_path: Path | None = None
    place: str = ""  # its device, as far as the kernel tells
    clock: Clock = time.monotonic
    read_bytes: ReadBytes = read_bytes
    degrees: bool = False  # this driver answers in degrees, learnt from its answers
    _small: int = field(default=0, repr=False)
    _large: int = field(default=0, repr=False)
    _before: float = field(default=math.inf, repr=False)  # degC of the last answer that was no small number
    _reads: int = field(default=0, repr=False)
    _disabled: bool = field(default=False, repr=False)

    def _bad(self, health: Health, detail: str, raw: int | None = None) -> Reading:
        return Reading(self.key, None, health, self.clock(), detail, raw)

    def _look_at_flags(self) -> str | None:
        """Why the driver itself says that the value means nothing."""
        if self.mode_path is not None:
            self._disabled = try_text(self.mode_path) == "disabled"
        if self.fault_path is not None and try_integer(self.fault_path) == 1:
            return "its driver reports a fault (temp_fault is 1)"
        return None

    def read(self) -> Reading:
        """See `Zone.read`."""
        fault = self._look_at_flags() if self._reads % _MODE_EVERY == 0 else None
        self._reads += 1
        if fault:
            return self._bad(Health.ERROR, fault)
        try:
            if self.name is not None and self.read_bytes(self.path.parent / "type") != self.name:
                return self._bad(Health.GONE, "another zone has its number now")
            raw = parse_integer(self.read_bytes(self.path))
        except BlockingIOError as error:
            return self._bad(Health.OFFLINE, describe(error))
        except OSError as error:
            # ACPI firmware that fails answers ENODEV, too, and is still there.
            gone = error.errno in (errno.ENOENT, errno.ENOTDIR) or (error.errno == errno.ENODEV and not self.path.exists())
            if not gone and self.mode_path is not None and try_text(self.mode_path) == "disabled":
                return self._bad(Health.DISABLED, f"mode is disabled, {describe(error)}")
            return self._bad(Health.GONE if gone else Health.ERROR, describe(error))
        except ValueError as error:
            empty = str(error) == "empty"
            return self._bad(Health.OFFLINE if empty else Health.IMPLAUSIBLE, f"answer is {error}")
        if self._disabled:
            return self._bad(Health.DISABLED, "mode is disabled: the kernel does not protect this zone", raw)
        return self._judge(raw)

    def _judge(self, raw: int) -> Reading:
        # A zone that has long answered in millidegrees and comes down to 0 is cold; any other small number is a wrong unit.
        freezing = self._large >= _UNIT_VOTES and abs(self._before) <= _NEAR_ZERO
        if abs(raw) >= 200:
            self._small, self.degrees, self._large, self._before = 0, False, self._large + 1, raw / 1000.0
        elif not freezing:
            self._large = 0
            if raw == 0:
                return self._bad(Health.IMPLAUSIBLE, "exactly 0: a default, not a measurement", raw)
            self._small += 1  # 45 instead of 45000; one answer proves nothing
            self.degrees = self.degrees or self._small >= _UNIT_VOTES
            if not self.degrees:
                return self._bad(Health.IMPLAUSIBLE, f"{raw} is no plausible number of millidegrees", raw)
        celsius = float(raw) if self.degrees else raw / 1000.0
        if not PLAUSIBLE[0] <= celsius <= PLAUSIBLE[1]:
            return self._bad(Health.IMPLAUSIBLE, f"{celsius:g} degC is outside {PLAUSIBLE[0]:g}..{PLAUSIBLE[1]:g}", raw)
        return Reading(self.key, celsius, Health.OK, self.clock(), "answers in degrees" if self.degrees else "", raw)


def _trips(folder: Path) -> tuple[Trip, ...]:
    """Trip points of a thermal zone that can be meant: 20..150 degC."""
    trips: list[Trip] = []
    for n in range(32):
        raw = try_integer(folder / f"trip_point_{n}_temp")
        kind = try_text(folder / f"trip_point_{n}_type")
        if raw is None or kind is None:
            if n and not (folder / f"trip_point_{n}_type").exists():
                break
            continue
        if PLAUSIBLE_TRIP[0] <= raw / 1000.0 <= PLAUSIBLE_TRIP[1]:
            trips.append(Trip(raw / 1000.0, kind))
    return tuple(sorted(trips, key=lambda trip: trip.celsius))


def _type_of(folder: Path) -> bytes | None:
    try:
        return read_bytes(folder / "type")
    except OSError:
        return None


@dataclass(frozen=True)
class _Sensor:
    """Where a sensor was found: what its key begins with, and which device it is on as far as the kernel tells."""

    base: str
    place: str


def _place(folder: Path, suffix: str = "") -> str:
    """A sensor's device, which keeps its name when zones and chips are numbered anew; without one, its folder."""
    device = folder / "device"
    return f"{device.resolve() if device.exists() else folder}{suffix}"


def _keys(sensors: Sequence[_Sensor], known: Mapping[str, str]) -> list[str]:
    """Stable keys: the second sensor of a name gets ``#1``. One that is known keeps its key, whoever has vanished; another
    one takes the first that is free.

    Args:
        sensors: in the kernel's order.
        known: place to key, of this and of earlier looks.
    """
    kept = [known[s.place] if known.get(s.place, "").partition("#")[0] == s.base else "" for s in sensors]
    taken = set(kept)
    for n, sensor in enumerate(sensors):
        ordinal = 0
        while not kept[n]:
            key = f"{sensor.base}#{ordinal}" if ordinal else sensor.base
            if key not in taken:
                kept[n] = key
                taken.add(key)
            ordinal += 1
    return kept


def _thermal_zones(
    root: Path, known: Mapping[str, str], clock: Clock, units: Mapping[str, Iterable[str]] | None
) -> list[SysfsZone]:
    folders = [folder for _, folder in numbered(root / "class" / "thermal", "thermal_zone")]
    kinds = [try_text(folder / "type") or f"unnamed{folder.name.removeprefix('thermal_zone')}" for folder in folders]
    sensors = [_Sensor(f"thermal:{kind}", _place(folder)) for kind, folder in zip(kinds, folders)]
    found = []
    for kind, folder, sensor, key in zip(kinds, folders, sensors, _keys(sensors, known)):
        on = units_of(kind, units, key)
        mode = folder / "mode"
        found.append(
            SysfsZone(
                key,
                "thermal",
                folder / "temp",
                on,
                bool(on),
                _trips(folder),
                name=_type_of(folder),
                mode_path=mode if mode.exists() else None,
                place=sensor.place,
                clock=clock,
            )
        )
    return found


def _is_zones_view(chip: Path) -> bool:
    """The kernel shows thermal zones as hwmon chips once more: the same sensors are not read, and not believed, twice."""
    return (chip / "device").resolve().name.startswith("thermal_zone")


def _inputs(chip: Path) -> list[int]:
    """Numbers of a chip's temperatures."""
    present = [n for n in range(1, 65) if n <= 16 or (chip / f"temp{n - 1}_input").exists()]
    return [n for n in present if (chip / f"temp{n}_input").exists()]


def _hwmon_zones(
    root: Path, known: Mapping[str, str], clock: Clock, units: Mapping[str, Iterable[str]] | None
) -> list[SysfsZone]:
    places: list[tuple[Path, int, str]] = []
    sensors: list[_Sensor] = []
    for number, folder in numbered(root / "class" / "hwmon", "hwmon"):
        if _is_zones_view(folder):
            continue
        chip = try_text(folder / "name") or f"unnamed{number}"
        for n in _inputs(folder):
            name = f"{chip}:{try_text(folder / f'temp{n}_label') or f'temp{n}'}"
            places.append((folder, n, name))
            sensors.append(_Sensor(f"hwmon:{name}", _place(folder, f"/temp{n}")))
    found = []
    for (folder, n, name), sensor, key in zip(places, sensors, _keys(sensors, known)):
        trips = []
        for suffix, kind in (("max", "hot"), ("crit", "critical")):
            raw = try_integer(folder / f"temp{n}_{suffix}")
            if raw is not None and PLAUSIBLE_TRIP[0] <= raw / 1000.0 <= PLAUSIBLE_TRIP[1]:
                trips.append(Trip(raw / 1000.0, kind))
        on = units_of(name, units, key)
        fault = folder / f"temp{n}_fault"
        found.append(
            SysfsZone(
                key,
                "hwmon",
                folder / f"temp{n}_input",
                on,
                bool(on),
                tuple(sorted(trips, key=lambda t: t.celsius)),
                fault_path=fault if fault.exists() else None,
                place=sensor.place,
                clock=clock,
            )
        )
    return found


def discover(
    root: Path = Path("/sys"),
    *,
    clock: Clock = time.monotonic,
    units: Mapping[str, Iterable[str]] | None = None,
    nvml: bool | None = None,
    known: Mapping[str, str] | None = None,
) -> list[Zone]:
    """Every sensor that this machine shows now. An empty list is legal: most virtual machines have none.

    Args:
        root: mount point of sysfs, or a fake tree.
        clock: monotonic seconds that readings are stamped with.
        units: see `units_of`.
        nvml: ask NVIDIA's library for boards; None asks only with the real sysfs.
        known: keys of sensors that were found earlier, by their places (`SysfsZone.place`): they keep them.
    """
    known = known or {}
    zones: list[Zone] = [*_thermal_zones(root, known, clock, units), *_hwmon_zones(root, known, clock, units)]
    if nvml if nvml is not None else root == Path("/sys"):
        from .nvml import nvml_zones

        zones += nvml_zones(clock=clock)[0]
    return zones


class ZoneSet:
    """The machine's zones over time: finds them again every ``rediscover_s`` and whenever one has gone.

    Zones keep their keys when the kernel renumbers them. A zone that has vanished stays in `read`'s answer as GONE.

    ``ask`` reads a zone (`patience.PatientReader` where drivers may hang); None reads it directly.
    """

    def __init__(
        self,
        root: Path = Path("/sys"),
        *,
        clock: Clock = time.monotonic,
        units: Mapping[str, Iterable[str]] | None = None,
        nvml: bool | None = None,
        rediscover_s: float = 10.0,
        ask: Callable[[Zone], Reading] | None = None,
    ) -> None:
        self._known: dict[str, str] = {}
        self._discover: Callable[[], list[Zone]] = lambda: discover(
            root, clock=clock, units=units, nvml=nvml, known=self._known
        )
        self._clock = clock
        self._ask: Callable[[Zone], Reading] = ask if ask is not None else lambda zone: zone.read()
        self._period = rediscover_s
        self._missing: dict[str, Zone] = {}
        self.zones: list[Zone] = self._discover()
        self._remember()
        self._looked = clock()

    def _remember(self) -> None:
        """Zones that share a name keep their keys when one of them vanishes."""
        self._known |= {zone.place: zone.key for zone in self.zones if isinstance(zone, SysfsZone)}

    def refresh(self) -> None:
        """Looks for zones now. Known ones whose file did not move keep what they learnt."""
        old = {zone.key: zone for zone in [*self.zones, *self._missing.values()]}
        new = {zone.key: zone for zone in self._discover()}
        for key, zone in new.items():
            before = old.get(key)
            if isinstance(zone, SysfsZone) and isinstance(before, SysfsZone) and before.path == zone.path:
                before.trips = zone.trips
                new[key] = before
        self.zones = list(new.values())
        self._remember()
        self._missing = {key: zone for key, zone in old.items() if key not in new}
        self._looked = self._clock()

    def read(self) -> list[Reading]:
        """One reading per zone, known ones that have vanished included."""
        readings = [self._ask(zone) for zone in self.zones]
        now = self._clock()
        gone = any(reading.health is Health.GONE for reading in readings)
        if now - self._looked >= (1.0 if gone else self._period):
            self.refresh()
            if gone:
                readings = [self._ask(zone) for zone in self.zones]
        for key in self._missing:
            readings.append(Reading(key, None, Health.GONE, now, "vanished"))
        return readings

    def describe(self) -> str:
        """What there is, one line; without control zones also what that means."""
        control = [zone.key for zone in self.zones if zone.control]
        if control:
            return f"{len(self.zones)} zones, steering by {', '.join(control)}"
        if lost := [key for key, zone in self._missing.items() if zone.control]:
            return f"{len(self.zones)} zones, none to steer by until one comes back that has vanished: {', '.join(lost)}"
        if self.zones:
            what = f"{len(self.zones)} zones, none of a known kind (zone_units says what a zone is on)"
            return f"{what}: governing by measured latency alone"
        return "this machine shows no thermal zones (usual for virtual machines): governing by measured latency alone"
