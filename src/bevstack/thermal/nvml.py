"""NVIDIA boards through NVML (package nvidia-ml-py, extra ``gpu``). Imported and initialised lazily; absence is an answer,
not an error."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from .zones import PLAUSIBLE, PLAUSIBLE_TRIP, Clock, Health, Reading, Trip, Zone

# Clock event reasons, bit mask of nvmlDeviceGetCurrentClocksEventReasons.
POWER_CAP, HW_SLOWDOWN, SW_THERMAL, HW_THERMAL, POWER_BRAKE = 0x4, 0x8, 0x20, 0x40, 0x80
_GONE = {15}  # NVML_ERROR_GPU_IS_LOST
_OFFLINE = {10, 21}  # TIMEOUT, NO_DATA
_UNKNOWN = {3, 13}  # NOT_SUPPORTED, FUNCTION_NOT_FOUND: the driver is older than the package


@dataclass
class NvmlZone:
    """The die of one NVIDIA board. Use `nvml_zones`."""

    key: str
    index: int
    library: Any
    handle: Any
    units: tuple[str, ...] = ("gpu",)
    kind: str = "nvml"
    control: bool = True
    trips: tuple[Trip, ...] = ()
    clock: Clock = time.monotonic

    def read(self) -> Reading:
        """See `Zone.read`."""
        try:
            celsius = self._celsius()
        except self.library.NVMLError as error:
            code = getattr(error, "value", None)
            health = Health.GONE if code in _GONE else Health.OFFLINE if code in _OFFLINE else Health.ERROR
            return Reading(self.key, None, health, self.clock(), f"NVML: {error}")
        if not PLAUSIBLE[0] <= celsius <= PLAUSIBLE[1] or celsius == 0:
            return Reading(self.key, None, Health.IMPLAUSIBLE, self.clock(), f"{celsius:g} degC", int(celsius))
        return Reading(self.key, celsius, Health.OK, self.clock(), raw=int(celsius))

    def _celsius(self) -> float:
        sensor = self.library.NVML_TEMPERATURE_GPU
        newer = getattr(self.library, "nvmlDeviceGetTemperatureV", None)
        if newer is not None:
            try:
                return float(newer(self.handle, sensor))
            except self.library.NVMLError as error:
                if getattr(error, "value", None) not in _UNKNOWN:
                    raise
        return float(self.library.nvmlDeviceGetTemperature(self.handle, sensor))

    def reasons(self) -> int | None:
        """Why clocks are down right now (bit mask), None where the board does not say."""
        for name in ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"):
            call: Callable[[Any], int] | None = getattr(self.library, name, None)
            if call is None:
                continue
            try:
                return int(call(self.handle))
            except self.library.NVMLError:
                continue
        return None

    def power_w(self) -> float | None:
        """Board power, watts, averaged by the board; None where it does not say."""
        try:
            return float(self.library.nvmlDeviceGetPowerUsage(self.handle)) / 1000.0
        except self.library.NVMLError:
            return None


def _thresholds(library: Any, handle: Any) -> tuple[Trip, ...]:
    trips = []
    for kind, name in ((1, "passive"), (3, "passive"), (0, "critical")):  # slowdown, GPU max, shutdown
        try:
            celsius = float(library.nvmlDeviceGetTemperatureThreshold(handle, kind))
        except library.NVMLError:
            continue
        if PLAUSIBLE_TRIP[0] <= celsius <= PLAUSIBLE_TRIP[1]:
            trips.append(Trip(celsius, name))
    return tuple(sorted(trips, key=lambda trip: trip.celsius))


def nvml_zones(clock: Clock = time.monotonic, library: Any = None) -> tuple[list[Zone], str]:
    """Boards, and one line that says what was found or why there is none.

    Args:
        clock: stamps readings.
        library: a module with NVML's functions, for tests; None imports pynvml.
    """
    if library is None:
        try:
            library = import_module("pynvml")
        except ImportError:
            return [], "NVML: package nvidia-ml-py is not installed (pip install bevstack[gpu])"
    try:
        library.nvmlInit()
        count = int(library.nvmlDeviceGetCount())
    except library.NVMLError as error:
        return [], f"NVML: {error}"
    zones: list[Zone] = []
    for index in range(count):
        try:
            handle = library.nvmlDeviceGetHandleByIndex(index)
        except library.NVMLError:
            continue
        zones.append(NvmlZone(f"nvml:{index}", index, library, handle, trips=_thresholds(library, handle), clock=clock))
    return zones, f"NVML: {len(zones)} board(s)"
