"""A sysfs tree of files that a plant writes and the real zone reader reads, with the faults that real drivers show.

Values are written by rename, so a reader sees the old or the new one. EAGAIN is a FIFO that somebody holds open for writing,
I/O errors come from files of /proc that fail: the errno values are the kernel's own, not raised by a test double.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from .scenario import Chip, Sensor

_PATH_FAULTS = ("lost", "eagain", "error", "empty", "text", "disabled", "vanish")


class FakeSysfs:
    """Writes zones, cooling devices and cpufreq limits below ``root``.

    Args:
        root: an empty folder.
        sensors: zones; ``via: hwmon`` ones share a chip called ``bevsim``.
        chips: one cooling device each, and a cpufreq policy for a chip called ``cpu``.
    """

    def __init__(self, root: Path, sensors: Sequence[Sensor], chips: Sequence[Chip]) -> None:
        self.root = root
        self._sensors = list(sensors)
        self._paths: dict[str, Path] = {}
        self._folders: dict[str, Path] = {}
        self._written: dict[Path, str] = {}
        self._fault: dict[str, str] = {}
        self._held: dict[str, int] = {}
        self._levels: list[Path] = []
        (root / "class" / "thermal").mkdir(parents=True)
        thermal = [sensor for sensor in sensors if sensor.via == "thermal"]
        for n, sensor in enumerate(thermal):
            self._thermal(n, sensor)
        for n, sensor in enumerate(sensor for sensor in sensors if sensor.via == "hwmon"):
            self._hwmon(n + 1, sensor)
        for n, chip in enumerate(chips):
            folder = root / "class" / "thermal" / f"cooling_device{n}"
            folder.mkdir()
            (folder / "type").write_text(f"{chip.unit}-{'cpufreq-cpu' if chip.unit == 'cpu' else 'devfreq-gpu'}\n")
            (folder / "max_state").write_text(f"{chip.throttle.states}\n")
            self._levels.append(folder / "cur_state")
        self.write_levels([0] * len(chips))

    def _thermal(self, n: int, sensor: Sensor) -> None:
        folder = self.root / "class" / "thermal" / f"thermal_zone{n}"
        folder.mkdir()
        (folder / "type").write_text(sensor.name + "\n")
        (folder / "mode").write_text("enabled\n")
        for k, (celsius, kind) in enumerate(sensor.trips):
            (folder / f"trip_point_{k}_temp").write_text(f"{round(celsius * 1000)}\n")
            (folder / f"trip_point_{k}_type").write_text(kind + "\n")
        self._paths[sensor.name], self._folders[sensor.name] = folder / "temp", folder

    def _hwmon(self, n: int, sensor: Sensor) -> None:
        folder = self.root / "class" / "hwmon" / "hwmon0"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "name").write_text("bevsim\n")
        (folder / f"temp{n}_label").write_text(sensor.name + "\n")
        for celsius, kind in sensor.trips:
            suffix = {"passive": "max", "hot": "max", "critical": "crit"}.get(kind)
            if suffix:
                (folder / f"temp{n}_{suffix}").write_text(f"{round(celsius * 1000)}\n")
        self._paths[sensor.name], self._folders[sensor.name] = folder / f"temp{n}_input", folder

    def _put(self, path: Path, text: str) -> None:
        if self._written.get(path) == text:
            return
        beside = f"{path}.new"
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
        os.rename(beside, path)
        self._written[path] = text

    def write(self, name: str, celsius: float) -> None:
        """A zone's value, millidegrees; nothing while the zone has a fault that hides values."""
        if name not in self._fault:
            self._put(self._paths[name], f"{round(celsius * 1000)}\n")

    def write_number(self, name: str, number: int) -> None:
        """A raw number, for drivers that answer with something else than millidegrees."""
        if name not in self._fault:
            self._put(self._paths[name], f"{number}\n")

    def write_levels(self, levels: Sequence[int]) -> None:
        """Cooling states."""
        for path, level in zip(self._levels, levels):
            self._put(path, f"{level}\n")

    def fault(self, name: str, kind: str | None) -> None:
        """Sets or ends (None) a fault of a zone's file; kinds that are about values are the plant's business.

        ``lost``: no file. ``eagain``: a gated domain. ``error``: EIO. ``empty``, ``text``: no number. ``disabled``: mode
        says so and reading fails. ``vanish``: the whole zone is gone.
        """
        if self._fault.get(name) == kind:
            return
        path, folder = self._paths[name], self._folders[name]
        self._mend(name, path, folder)
        if kind not in _PATH_FAULTS:
            return
        self._fault[name] = kind
        self._written.pop(path, None)
        if kind == "vanish" and folder.name.startswith("thermal_zone"):
            shutil.move(str(folder), str(self.root / f"gone-{name}"))
            return
        path.unlink(missing_ok=True)
        if kind == "eagain":
            os.mkfifo(path)
            self._held[name] = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        elif kind == "error":
            path.symlink_to("/proc/self/mem")
        elif kind == "empty":
            path.write_text("")
        elif kind == "text":
            path.write_text("N/A\n")
        elif kind == "disabled":
            path.symlink_to("/proc/self/clear_refs")
            if (folder / "mode").exists():
                (folder / "mode").write_text("disabled\n")

    def _mend(self, name: str, path: Path, folder: Path) -> None:
        before = self._fault.pop(name, None)
        if before is None:
            return
        if before == "vanish" and not folder.exists():
            shutil.move(str(self.root / f"gone-{name}"), str(folder))
        if name in self._held:
            os.close(self._held.pop(name))
        if path.is_symlink() or path.exists():
            path.unlink()
        self._written.pop(path, None)
        if before == "disabled" and (folder / "mode").exists():
            (folder / "mode").write_text("enabled\n")

    def close(self) -> None:
        """Lets go of held FIFOs; the folder is the caller's."""
        for fd in self._held.values():
            os.close(fd)
        self._held.clear()
