"""Live values of this machine's sensors, for people: ``bevstack thermal zones``."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bevstack.errors import BevstackError

from .evidence import EvidenceReader
from .nvml import nvml_zones
from .zones import Reading, Zone, ZoneSet


def _row(zone: Zone, reading: Reading) -> str:
    value = f"{reading.celsius:6.1f} degC" if reading.celsius is not None else f"{reading.health.value:>11}"
    trips = ", ".join(f"{trip.kind} {trip.celsius:g}" for trip in zone.trips) or "no trips"
    role = "/".join(zone.units) if zone.control else "shown only"
    return f"{zone.key:32} {value}  {role:10} {trips}{'  ' + reading.detail if reading.detail else ''}"


def table(zones: Sequence[Zone], readings: Sequence[Reading]) -> list[str]:
    """One line per zone; zones that have vanished last."""
    by_key = {reading.zone: reading for reading in readings}
    lines = [_row(zone, by_key[zone.key]) for zone in zones if zone.key in by_key]
    known = {zone.key for zone in zones}
    return lines + [
        f"{reading.zone:32} {reading.health.value:>11}  {reading.detail}" for reading in readings if reading.zone not in known
    ]


def show(
    root: Path,
    *,
    seconds: float,
    period: float,
    csv: Path | None,
    write: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Prints what the sensors say for a while.

    Args:
        root: mount point of sysfs.
        seconds: how long; 0 shows values once.
        period: seconds between readings, at least 0.1.
        csv: file for every reading: seconds, zone, degC (empty if none), health.
        write: takes one line.
        sleep, clock: for tests.

    Returns:
        Number of readings taken.

    Raises:
        BevstackError: the root is no folder, the period is too short, or the file cannot be written.
    """
    if not root.is_dir():
        raise BevstackError(f"no folder {root}: give the mount point of sysfs, usually /sys")
    if period < 0.1:
        raise BevstackError(f"--period {period:g} is too short: sensors are slow, give 0.1 s or more")
    zones = ZoneSet(root, clock=clock)
    evidence = EvidenceReader(root, zones.zones, clock)
    write(zones.describe())
    if root == Path("/sys"):
        write(nvml_zones()[1])
    start, taken = clock(), 0
    rows: list[str] = ["seconds,zone,celsius,health"]
    while True:
        readings = zones.read()
        taken += len(readings)
        now = clock() - start
        if zones.zones or readings:
            write(f"-- {now:.1f} s")
            for line in table(zones.zones, readings):
                write(line)
        for finding in evidence.read().lines:
            write(f"throttling: {finding}")
        rows += [f"{now:.3f},{r.zone},{'' if r.celsius is None else f'{r.celsius:.3f}'},{r.health.value}" for r in readings]
        if not zones.zones and not readings:
            break
        if now + period > seconds:
            break
        sleep(period)
    if csv is not None:
        try:
            csv.write_text("\n".join(rows) + "\n")
        except OSError as error:
            raise BevstackError(f"cannot write {csv}: {error.strerror}") from None
        write(f"{len(rows) - 1} readings in {csv}")
    return taken
