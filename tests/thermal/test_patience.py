"""A driver that hangs holds up nobody but itself."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from bevstack.thermal.patience import PatientReader
from bevstack.thermal.sysfs import read_bytes
from bevstack.thermal.zones import Health, SysfsZone, ZoneSet

from .trees import add_zone


def test_a_hanging_zone_is_stale_and_the_others_are_fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_zone(tmp_path, 0, "cpu-thermal", "41000")
    add_zone(tmp_path, 1, "gpu-thermal", "51000")
    held = threading.Event()

    def hang(path: object) -> bytes:
        held.wait(30.0)
        return read_bytes(str(path))

    reader = PatientReader(0.3)
    found = ZoneSet(tmp_path, ask=reader)
    assert [r.celsius for r in found.read()] == [41.0, 51.0]
    gpu = found.zones[1]
    assert isinstance(gpu, SysfsZone)
    monkeypatch.setattr(gpu, "read_bytes", hang)
    threads = threading.active_count()
    first = found.read()
    assert [r.health for r in first] == [Health.OK, Health.STALE]
    assert "hangs" in first[1].detail
    began = time.monotonic()
    for _ in range(20):
        assert [(r.celsius, r.health) for r in found.read()] == [(41.0, Health.OK), (None, Health.STALE)]
    assert time.monotonic() - began < 3.0, "it is waited for once, not at every reading"
    assert threading.active_count() <= threads + 2
    held.set()
    deadline = time.monotonic() + 20
    while found.read()[1].health is not Health.OK:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    reader.close()
