"""Every row of the trap table: a zone that cannot be read is never a cold zone, and one bad zone hides no other."""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
from pathlib import Path

import pytest

from bevstack.thermal.live import show
from bevstack.thermal.zones import Health, SysfsZone, ZoneSet, discover, units_of

from .trees import add_zone


def only(root: Path) -> SysfsZone:
    zones = discover(root)
    assert len(zones) == 1
    assert isinstance(zones[0], SysfsZone)
    return zones[0]


def test_no_zones_is_legal_and_says_so(tmp_path: Path) -> None:
    assert discover(tmp_path) == []
    zones = ZoneSet(tmp_path)
    assert zones.read() == []
    assert "no thermal zones" in zones.describe()
    assert "latency alone" in zones.describe()


def test_a_good_zone(tmp_path: Path) -> None:
    add_zone(tmp_path, 3, "gpu-thermal", "45250\n", trips=[("104500", "critical"), ("99000", "passive")])
    zone = only(tmp_path)
    reading = zone.read()
    assert (reading.celsius, reading.health) == (45.25, Health.OK)
    assert zone.key == "thermal:gpu-thermal"
    assert zone.units == ("gpu",)
    assert zone.control
    assert [(trip.celsius, trip.kind) for trip in zone.trips] == [(99.0, "passive"), (104.5, "critical")]


@pytest.mark.parametrize("celsius", ["0", "-274000", "-5000", "200000", "19000", "N/A"])
def test_trips_that_cannot_be_meant_are_ignored(tmp_path: Path, celsius: str) -> None:
    add_zone(tmp_path, 0, "cpu-thermal", "45000", trips=[(celsius, "passive"), ("95000", "passive")])
    assert [trip.celsius for trip in only(tmp_path).trips] == [95.0]


@pytest.mark.parametrize(
    ("text", "health"),
    [
        ("45000", Health.OK),
        ("  45000", Health.OK),
        ("-5000\n", Health.OK),
        ("", Health.OFFLINE),
        ("\n", Health.OFFLINE),
        ("N/A\n", Health.IMPLAUSIBLE),
        ("45.5\n", Health.IMPLAUSIBLE),
        ("4_5000\n", Health.IMPLAUSIBLE),
        ("45000\x00\x00", Health.IMPLAUSIBLE),
        ("0\n", Health.IMPLAUSIBLE),
        ("-256000\n", Health.IMPLAUSIBLE),
        ("-274000\n", Health.IMPLAUSIBLE),
        ("255000\n", Health.IMPLAUSIBLE),
        ("45000000\n", Health.IMPLAUSIBLE),
        ("99999999999999999999\n", Health.IMPLAUSIBLE),
        ("٤٥٠٠٠\n", Health.IMPLAUSIBLE),
    ],
)
def test_content(tmp_path: Path, text: str, health: Health) -> None:
    add_zone(tmp_path, 0, "cpu-thermal", text)
    reading = only(tmp_path).read()
    assert reading.health is health
    assert (reading.celsius is not None) == (health is Health.OK)


def test_eagain_is_offline_and_not_zero(tmp_path: Path) -> None:
    folder = add_zone(tmp_path, 0, "cv0-thermal", None)
    os.mkfifo(folder / "temp")
    fd = os.open(folder / "temp", os.O_RDWR | os.O_NONBLOCK)
    try:
        reading = only(tmp_path).read()
    finally:
        os.close(fd)
    assert reading.health is Health.OFFLINE
    assert reading.celsius is None
    assert "EAGAIN" in reading.detail


def test_a_fifo_without_a_writer_does_not_hang(tmp_path: Path) -> None:
    folder = add_zone(tmp_path, 0, "cv0-thermal", None)
    os.mkfifo(folder / "temp")
    assert only(tmp_path).read().health is Health.OFFLINE


@pytest.mark.parametrize(
    ("name", "number"), [("/proc/self/mem", errno.EIO), ("/nowhere/at/all", errno.ENOENT), (".", errno.EISDIR)]
)
def test_real_errors_of_the_kernel(tmp_path: Path, name: str, number: int) -> None:
    folder = add_zone(tmp_path, 0, "cpu-thermal", None)
    (folder / "temp").symlink_to(name)
    reading = only(tmp_path).read()
    assert reading.celsius is None
    assert reading.health is (Health.GONE if number == errno.ENOENT else Health.ERROR)
    assert errno.errorcode[number] in reading.detail


def test_a_socket_in_the_place_of_a_sensor(tmp_path: Path) -> None:
    folder = add_zone(tmp_path, 0, "cpu-thermal", None)
    with socket.socket(socket.AF_UNIX) as held:
        here = os.getcwd()
        os.chdir(folder)  # the address of a socket is short
        try:
            held.bind("temp")
        finally:
            os.chdir(here)
        assert only(tmp_path).read().health is Health.ERROR


@pytest.mark.parametrize("number", [errno.ENODEV, errno.ENODATA, errno.EINVAL, errno.ENXIO])
def test_errors_of_drivers(tmp_path: Path, number: int) -> None:
    add_zone(tmp_path, 0, "cpu-thermal", "45000")
    zone = only(tmp_path)

    def fail(path: str | os.PathLike[str]) -> bytes:
        raise OSError(number, os.strerror(number))

    zone.read_bytes = fail
    reading = zone.read()
    assert reading.celsius is None
    assert reading.health is Health.ERROR, "ACPI whose method fails answers ENODEV, too, and is still there"
    (tmp_path / "class" / "thermal" / "thermal_zone0" / "temp").unlink()
    assert zone.read().health is (Health.GONE if number == errno.ENODEV else Health.ERROR)


def test_zones_that_share_a_name_are_told_apart_by_their_keys(tmp_path: Path) -> None:
    """As every ACPI machine shows them: all zones are called acpitz."""
    for number in range(3):
        add_zone(tmp_path, number, "acpitz", "45000")
    wanted = {"acpitz": ["cpu"], re.escape("acpitz#1"): [], re.escape("thermal:acpitz#2"): ["gpu"]}
    assert [zone.units for zone in discover(tmp_path, units=wanted)] == [("cpu",), (), ("gpu",)]


def test_a_zone_that_vanishes_leaves_its_name_to_nobody(tmp_path: Path) -> None:
    """The board is not taken for the die because the die's zone, of the same name, has gone."""
    now = [0.0]
    die = add_zone(tmp_path, 0, "acpitz", "85000")
    add_zone(tmp_path, 1, "acpitz", "35000")
    zones = ZoneSet(tmp_path, clock=lambda: now[0], units={"acpitz": ["cpu"], re.escape("acpitz#1"): []})
    shutil.rmtree(die)
    now[0] = 20.0
    readings = {reading.zone: reading for reading in zones.read()}
    assert readings["thermal:acpitz#1"].celsius == 35.0
    assert readings["thermal:acpitz"].health is Health.GONE
    assert not any(zone.control for zone in zones.zones)
    assert zones.describe() == "1 zones, none to steer by until one comes back that has vanished: thermal:acpitz"
    add_zone(tmp_path, 5, "acpitz", "80000")
    now[0] = 40.0
    zones.read()  # looks for zones; what is new is read from the next time on
    assert {r.zone: r.celsius for r in zones.read()} == {"thermal:acpitz#1": 35.0, "thermal:acpitz": 80.0}


def test_devices_keep_their_keys_in_whatever_order_they_come_back(tmp_path: Path) -> None:
    now = [0.0]
    folders = [add_zone(tmp_path, n, "acpitz", f"{t}000") for n, t in ((0, 85), (1, 35))]
    for n, folder in enumerate(folders):
        (tmp_path / f"LNXTHERM:0{n}").mkdir()
        (folder / "device").symlink_to(tmp_path / f"LNXTHERM:0{n}")
    zones = ZoneSet(tmp_path, clock=lambda: now[0])
    for folder in folders:
        shutil.rmtree(folder)
    now[0] = 20.0
    assert {r.health for r in zones.read()} == {Health.GONE}
    for n, t in ((0, 35), (1, 85)):
        folder = add_zone(tmp_path, n, "acpitz", f"{t}000")
        (folder / "device").symlink_to(tmp_path / f"LNXTHERM:0{1 - n}")
    now[0] = 40.0
    zones.read()  # looks for zones; what is new is read from the next time on
    assert {r.zone: r.celsius for r in zones.read()} == {"thermal:acpitz#1": 35.0, "thermal:acpitz": 85.0}


def test_a_zone_that_hwmon_shows_again_is_read_once(tmp_path: Path) -> None:
    """As the kernel links them: the chip's device is the zone."""
    zone = add_zone(tmp_path, 0, "cpu-thermal", "45000")
    for number, name, device in ((0, "cpu_thermal", zone), (1, "k10temp", tmp_path / "devices" / "pci0")):
        chip = tmp_path / "class" / "hwmon" / f"hwmon{number}"
        device.mkdir(parents=True, exist_ok=True)
        chip.mkdir(parents=True)
        (chip / "device").symlink_to(device)
        (chip / "name").write_text(f"{name}\n")
        (chip / "temp1_input").write_text("45000\n")
    assert [found.key for found in discover(tmp_path)] == ["thermal:cpu-thermal", "hwmon:k10temp:temp1"]


def test_disabled_is_not_a_temperature(tmp_path: Path) -> None:
    folder = add_zone(tmp_path, 0, "cpu-thermal", "45000", mode="disabled")
    zone = only(tmp_path)
    assert zone.read().health is Health.DISABLED
    (folder / "mode").write_text("enabled\n")
    assert any(zone.read().health is Health.OK for _ in range(12)), "enabled again is noticed within ten reads"


def test_a_zone_that_freezes_is_cold_and_not_broken(tmp_path: Path) -> None:
    """As seen on a real kernel: ACPI answers in tenths of a degree and a board outdoors passes slowly through 0."""
    folder = add_zone(tmp_path, 0, "cpu-thermal", "2000")
    zone = only(tmp_path)
    for _ in range(10):
        assert zone.read().celsius == 2.0
    for raw in [*range(1900, -1900, -100), *[0] * 20, *[100] * 20]:
        (folder / "temp").write_text(f"{raw}\n")
        assert zone.read().celsius == raw / 1000.0
    (folder / "temp").write_text("45000")
    assert zone.read().celsius == 45.0
    (folder / "temp").write_text("0")
    assert zone.read().celsius is None, "from 45 degC to exactly 0 at once is a default"


def test_one_large_answer_does_not_make_degrees_cold(tmp_path: Path) -> None:
    folder = add_zone(tmp_path, 0, "cpu-thermal", "255")
    zone = only(tmp_path)
    zone.read()
    (folder / "temp").write_text("45")
    assert {zone.read().celsius for _ in range(12)} == {None, 45.0}


def test_degrees_instead_of_millidegrees_are_learnt(tmp_path: Path) -> None:
    folder = add_zone(tmp_path, 0, "cpu-thermal", "45")
    zone = only(tmp_path)
    first = [zone.read() for _ in range(9)]
    assert all(reading.celsius is None for reading in first), "one small number proves nothing"
    assert zone.read().celsius == 45.0
    (folder / "temp").write_text("46000")
    assert zone.read().celsius == 46.0


def test_unknown_names_are_shown_but_do_not_steer(tmp_path: Path) -> None:
    add_zone(tmp_path, 0, "battery-soc-level", "80000")
    zone = only(tmp_path)
    assert not zone.control
    assert discover(tmp_path, units={"battery.*": ["cpu"]})[0].control
    assert not discover(tmp_path, units={".*": []})[0].control


@pytest.mark.parametrize(
    ("name", "units"),
    [
        ("CPU-therm", ("cpu",)), ("cpu-thermal", ("cpu",)), ("GPU-therm", ("gpu",)), ("gpu-thermal", ("gpu",)),
        ("tj-thermal", ("soc",)), ("soc0-thermal", ("soc",)), ("cv1-thermal", ("dla",)), ("x86_pkg_temp", ("cpu",)),
        ("coretemp:Core 3", ("cpu",)), ("k10temp:Tctl", ("cpu",)), ("amdgpu:edge", ("gpu",)), ("acpitz", ()), ("iwlwifi_1", ()),
        ("battery", ()),
    ],
)  # fmt: skip
def test_names_of_drivers_and_jetsons(name: str, units: tuple[str, ...]) -> None:
    assert units_of(name) == units


def test_two_zones_of_one_name_have_two_keys(tmp_path: Path) -> None:
    add_zone(tmp_path, 2, "cpu-thermal", "41000")
    add_zone(tmp_path, 10, "cpu-thermal", "42000")
    found = {zone.key: zone.read().celsius for zone in discover(tmp_path)}
    assert found == {"thermal:cpu-thermal": 41.0, "thermal:cpu-thermal#1": 42.0}


def test_one_bad_zone_does_not_hide_the_others(tmp_path: Path) -> None:
    add_zone(tmp_path, 0, "cv0-thermal", None)
    add_zone(tmp_path, 1, "gpu-thermal", "50000")
    assert [reading.celsius for reading in ZoneSet(tmp_path).read()] == [None, 50.0]


def test_zones_vanish_return_and_are_renumbered(tmp_path: Path) -> None:
    clock = [0.0]
    cpu = add_zone(tmp_path, 0, "cpu-thermal", "41000")
    gpu = add_zone(tmp_path, 1, "gpu-thermal", "51000")
    zones = ZoneSet(tmp_path, clock=lambda: clock[0])

    def read(seconds: float) -> dict[str, tuple[float | None, Health]]:
        clock[0] += seconds
        return {reading.zone: (reading.celsius, reading.health) for reading in zones.read()}

    assert read(0.5)["thermal:gpu-thermal"] == (51.0, Health.OK)
    gpu.rename(tmp_path / "elsewhere")
    assert read(2.0)["thermal:gpu-thermal"] == (None, Health.GONE)
    assert read(0.5)["thermal:cpu-thermal"] == (41.0, Health.OK)
    cpu.rename(cpu.with_name("thermal_zone7"))
    (tmp_path / "elsewhere").rename(tmp_path / "class" / "thermal" / "thermal_zone0")
    assert read(2.0) == {"thermal:cpu-thermal": (41.0, Health.OK), "thermal:gpu-thermal": (51.0, Health.OK)}


def test_hwmon(tmp_path: Path) -> None:
    chip = tmp_path / "class" / "hwmon" / "hwmon4"
    chip.mkdir(parents=True)
    for name, text in {
        "name": "coretemp", "temp1_input": "61000", "temp1_label": "Package id 0", "temp1_max": "84000", "temp1_crit": "100000",
        "temp3_input": "60000", "temp3_fault": "1",
    }.items():  # fmt: skip
        (chip / name).write_text(text + "\n")
    package, other = discover(tmp_path)
    assert package.key == "hwmon:coretemp:Package id 0"
    assert package.read().celsius == 61.0
    assert [(trip.celsius, trip.kind) for trip in package.trips] == [(84.0, "hot"), (100.0, "critical")]
    assert other.read().health is Health.ERROR


def test_reading_leaks_no_descriptors(tmp_path: Path) -> None:
    add_zone(tmp_path, 0, "cpu-thermal", "41000")
    folder = add_zone(tmp_path, 1, "gpu-thermal", None)
    (folder / "temp").symlink_to("/proc/self/mem")
    zones = ZoneSet(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(200):
        zones.read()
    assert len(os.listdir("/proc/self/fd")) == before


def test_live_view(tmp_path: Path) -> None:
    add_zone(tmp_path, 0, "cpu-thermal", "41000", trips=[("95000", "passive")])
    add_zone(tmp_path, 1, "gpu-thermal", None)
    lines: list[str] = []
    clock = [0.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    csv = tmp_path / "out.csv"
    taken = show(tmp_path, seconds=60, period=1, csv=csv, write=lines.append, sleep=sleep, clock=lambda: clock[0])
    assert taken == 2 * 61
    assert sum("41.0 degC" in line for line in lines) == 61
    assert any("passive 95" in line for line in lines)
    assert any("gone" in line for line in lines)
    assert csv.read_text().splitlines()[0] == "seconds,zone,celsius,health"
    assert "0.000,thermal:gpu-thermal,,gone" in csv.read_text()
