"""Proof of throttling from counters and states, and NVIDIA boards, with a library of the test's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bevstack.thermal.evidence import NO_EVIDENCE, EvidenceReader
from bevstack.thermal.nvml import HW_SLOWDOWN, HW_THERMAL, POWER_CAP, NvmlZone, nvml_zones
from bevstack.thermal.zones import Health


def put(path: Path, text: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def test_an_empty_tree_proves_nothing(tmp_path: Path) -> None:
    assert EvidenceReader(tmp_path).read() == NO_EVIDENCE


def test_cooling_devices_of_chips_count_and_fans_do_not(tmp_path: Path) -> None:
    thermal = tmp_path / "class" / "thermal"
    put(thermal / "cooling_device0" / "type", "pwm-fan")
    put(thermal / "cooling_device0" / "cur_state", 3)
    put(thermal / "cooling_device1" / "type", "cpufreq-cpu0")
    put(thermal / "cooling_device1" / "cur_state", 0)
    put(thermal / "cooling_device2" / "type", "devfreq-17000000.gpu")
    put(thermal / "cooling_device2" / "cur_state", 2)
    found = EvidenceReader(tmp_path).read()
    assert found.thermal == {"gpu"}
    assert found.lines == ("cooling device devfreq-17000000.gpu is at state 2",)


def test_a_limit_that_was_there_before_is_an_administrators(tmp_path: Path) -> None:
    limit = tmp_path / "devices" / "system" / "cpu" / "cpufreq" / "policy0" / "scaling_max_freq"
    put(limit, 1_800_000)
    reader = EvidenceReader(tmp_path)
    assert not reader.read().thermal
    put(limit, 1_200_000)
    assert reader.read().thermal == {"cpu"}
    put(limit, 1_800_000)
    assert not reader.read().thermal
    put(limit, 2_400_000)
    assert not reader.read().thermal
    put(limit, 2_000_000)
    assert reader.read().thermal == {"cpu"}, "what was highest counts"


def test_x86_counters_rise_once_and_empty_files_of_offline_cpus_do_not_matter(tmp_path: Path) -> None:
    cpu = tmp_path / "devices" / "system" / "cpu"
    for n in range(3):
        put(cpu / f"cpu{n}" / "thermal_throttle" / "package_throttle_count", 7)
    reader = EvidenceReader(tmp_path)
    assert not reader.read().thermal, "the past is no evidence"
    for n in range(3):
        put(cpu / f"cpu{n}" / "thermal_throttle" / "package_throttle_count", 9)
    (cpu / "cpu1" / "thermal_throttle" / "package_throttle_count").write_text("")
    found = reader.read()
    assert found.thermal == {"cpu"}
    assert found.lines == ("x86 package_throttle_count rose to 9",), "the maximum, not the sum"
    assert not reader.read().thermal


def test_over_current_is_power_and_not_heat(tmp_path: Path) -> None:
    chip = tmp_path / "class" / "hwmon" / "hwmon3"
    put(chip / "name", "ina3221")
    put(chip / "oc2_event_cnt", 0)
    reader = EvidenceReader(tmp_path)
    reader.read()
    put(chip / "oc2_event_cnt", 4)
    found = reader.read()
    assert not found.thermal
    assert found.power == {"soc"}


class NvmlError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(f"error {value}")
        self.value = value


class Library:
    """NVML with one board."""

    NVMLError = NvmlError
    NVML_TEMPERATURE_GPU = 0

    def __init__(self, **answers: Any) -> None:
        self.answers = {"Temperature": 71, "CurrentClocksEventReasons": 0, "PowerUsage": 55_000, **answers}
        self.init: int | None = None

    def nvmlInit(self) -> None:
        if self.init is not None:
            raise NvmlError(self.init)

    def nvmlDeviceGetCount(self) -> int:
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return f"board {index}"

    def _answer(self, name: str) -> Any:
        value = self.answers[name]
        if isinstance(value, Exception):
            raise value
        return value

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:
        return int(self._answer("Temperature"))

    def nvmlDeviceGetTemperatureV(self, handle: str, sensor: int) -> int:
        return int(self._answer("TemperatureV" if "TemperatureV" in self.answers else "Temperature"))

    def nvmlDeviceGetTemperatureThreshold(self, handle: str, kind: int) -> int:
        limits = {0: 98, 1: 93}
        if kind not in limits:
            raise NvmlError(3)
        return limits[kind]

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: str) -> int:
        return int(self._answer("CurrentClocksEventReasons"))

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        return int(self._answer("PowerUsage"))


def board(**answers: Any) -> NvmlZone:
    zones, line = nvml_zones(library=Library(**answers))
    assert line == "NVML: 1 board(s)"
    assert isinstance(zones[0], NvmlZone)
    return zones[0]


def test_a_board_tells_temperature_limits_and_power() -> None:
    zone = board()
    assert (zone.read().celsius, zone.key, zone.units) == (71.0, "nvml:0", ("gpu",))
    assert [(t.celsius, t.kind) for t in zone.trips] == [(93.0, "passive"), (98.0, "critical")]
    assert zone.power_w() == 55.0
    assert board(TemperatureV=NvmlError(13)).read().celsius == 71.0, "an older driver"


@pytest.mark.parametrize(
    ("error", "health"), [(15, Health.GONE), (10, Health.OFFLINE), (21, Health.OFFLINE), (3, Health.ERROR), (999, Health.ERROR)]
)
def test_errors_of_a_board_are_no_temperature(error: int, health: Health) -> None:
    reading = board(Temperature=NvmlError(error), PowerUsage=NvmlError(error)).read()
    assert (reading.celsius, reading.health) == (None, health)
    assert board(Temperature=0).read().health is Health.IMPLAUSIBLE


def test_no_driver_is_an_answer() -> None:
    library = Library()
    library.init = 9
    assert nvml_zones(library=library) == ([], "NVML: error 9")


@pytest.mark.parametrize(
    ("reasons", "celsius", "thermal", "power"),
    [(HW_THERMAL, 60, {"gpu"}, set()), (POWER_CAP, 60, set(), {"gpu"}), (HW_SLOWDOWN, 60, set(), {"gpu"}),
     (HW_SLOWDOWN, 91, {"gpu"}, set()), (0, 91, set(), set())],
)  # fmt: skip
def test_reasons_of_a_board(tmp_path: Path, reasons: int, celsius: int, thermal: set[str], power: set[str]) -> None:
    zone = board(CurrentClocksEventReasons=reasons, Temperature=celsius)
    found = EvidenceReader(tmp_path, [zone]).read()
    assert (set(found.thermal), set(found.power)) == (thermal, power)
