"""The doctor: a finding for each fault, with a fix beside it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import socket
import sys
from pathlib import Path

import pytest

from bevstack.ros import doctor
from bevstack.ros.doctor import Check
from bevstack.ros.runtime.dds.library import LibraryUnavailable, load_library


def only(findings: object) -> Check:
    found = list(findings)  # type: ignore[call-overload]
    assert len(found) == 1
    assert isinstance(found[0], Check)
    return found[0]


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in [name for name in os.environ if name.startswith(("ROS_", "RMW_", "CYCLONEDDS", "BEVSTACK_"))]:
        if name != "BEVSTACK_SHARED":
            monkeypatch.delenv(name)
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    return monkeypatch


def test_every_failure_and_warning_has_a_fix(clean: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clean.setenv("BEVSTACK_WIRE", "off")  # the round trip has its own test
    code = doctor.main(json=True)
    findings = json.loads(capsys.readouterr().out)
    assert {"Python", "ROS runtime", "rosbags", "Domain", "Network", "DDS ports", "Cameras", "Disk", "Round trip"} <= {
        finding["name"] for finding in findings
    }
    for finding in findings:
        assert finding["status"] in ("ok", "warn", "fail")
        assert finding["status"] == "ok" or finding["fix"], finding
    assert code == int(any(finding["status"] == "fail" for finding in findings))


def test_the_table_shows_the_fix(clean: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clean.setattr(doctor, "CHECKS", (lambda: iter([Check("A", "fail", "broken [b]", "mend it"), Check("B", "ok", "well")]),))
    assert doctor.main() == 1
    out = capsys.readouterr().out
    assert "broken [b]" in out
    assert "mend it" in out
    assert "1 ok, 0 warnings, 1 failures" in out


def test_packages(clean: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name in ("torch", "rosbags"):
            raise importlib.metadata.PackageNotFoundError(name)
        return "0.10.5" if name == "cyclonedds" else real(name)

    clean.setattr(importlib.metadata, "version", version)
    found = {check.name: check for check in doctor.check_packages()}
    assert found["torch"].status == "warn"
    assert "bevstack[torch]" in found["torch"].fix
    assert found["rosbags"].status == "fail"
    assert found["cyclonedds"].status == "fail"
    assert "cyclonedds==11.0.1" in found["cyclonedds"].fix


def test_receive_buffer(tmp_path: Path) -> None:
    file = tmp_path / "rmem_max"
    assert only(doctor.check_receive_buffer(file)).status == "warn"
    file.write_text("212992\n")
    small = only(doctor.check_receive_buffer(file))
    assert small.status == "warn"
    assert "sysctl" in small.fix
    file.write_text("16777216\n")
    assert only(doctor.check_receive_buffer(file)).status == "ok"


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("ROS_DOMAIN_ID", "300", "fail"),
        ("ROS_DOMAIN_ID", "150", "warn"),
        ("ROS_DOMAIN_ID", "7", "ok"),
        ("ROS_AUTOMATIC_DISCOVERY_RANGE", "GALAXY", "fail"),
    ],
)
def test_domain(clean: pytest.MonkeyPatch, name: str, value: str, status: str) -> None:
    clean.setenv(name, value)
    found = next(iter(doctor.check_domain()))
    assert (found.name, found.status) == ("Domain", status)
    assert value in found.detail


def test_ports_in_use_are_counted(clean: pytest.MonkeyPatch) -> None:
    assert doctor._port_is_free(0, socket.SOCK_STREAM)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not doctor._port_is_free(port, socket.SOCK_STREAM)
        clean.setattr(doctor, "_WEB_PORT", port)
        assert [check.status for check in doctor._check_ports(3) if check.name == "Web port"] == ["warn"]
    clean.setattr(doctor, "_port_is_free", lambda port, kind: False)
    assert [check.status for check in doctor._check_ports(3)] == ["fail", "warn"]


def test_only_loopback(clean: pytest.MonkeyPatch) -> None:
    import psutil

    real = psutil.net_if_addrs()
    clean.setattr(psutil, "net_if_addrs", lambda: {name: entries for name, entries in real.items() if name == "lo"})
    assert only(doctor._check_interfaces("SUBNET")).status == "warn"
    assert only(doctor._check_interfaces("LOCALHOST")).status == "ok"
    clean.setattr(psutil, "net_if_addrs", dict)
    assert only(doctor._check_interfaces("LOCALHOST")).status == "fail"


def test_cameras(tmp_path: Path, clean: pytest.MonkeyPatch) -> None:
    assert only(doctor.check_cameras(str(tmp_path / "video*"))).status == "ok"
    (tmp_path / "video0").touch()
    assert only(doctor.check_cameras(str(tmp_path / "video*"))).status == "ok"
    clean.setattr(os, "access", lambda path, mode: False)
    closed = only(doctor.check_cameras(str(tmp_path / "video*")))
    assert closed.status == "warn"
    assert "usermod" in closed.fix


def test_damaged_weights(tmp_path: Path, clean: pytest.MonkeyPatch) -> None:
    clean.setenv("BEVSTACK_WEIGHTS", str(tmp_path))
    (tmp_path / "fastbev-broken.safetensors").write_bytes(b"\x00" * 100)
    found = {check.name: check for check in doctor.check_weights()}["Weights fastbev-broken"]
    assert found.status == "fail"
    assert "restore" in found.fix


def test_unknown_runtime(clean: pytest.MonkeyPatch) -> None:
    clean.setenv("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp")
    found = list(doctor.check_runtime())
    assert found[0].name == "ROS runtime"
    if found[0].detail.startswith("embedded"):
        assert found[1].status == "warn"
        assert "rmw_cyclonedds_cpp" in found[1].fix


def test_a_full_disk(tmp_path: Path, clean: pytest.MonkeyPatch) -> None:
    import shutil

    clean.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 0))  # type: ignore[attr-defined]
    assert only(doctor.check_disk(tmp_path)).status == "warn"


def test_no_library(clean: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clean.setenv("BEVSTACK_DDS_LIBRARY", str(tmp_path / "nothing.so"))
    found = only(doctor.check_round_trip())
    assert found.status in ("fail", "ok")  # ok under rclpy, which needs no library
    if found.status == "fail":
        assert "unset it" in found.detail


@pytest.mark.wire
def test_round_trip(clean: pytest.MonkeyPatch) -> None:
    try:
        load_library()
    except LibraryUnavailable as error:
        pytest.skip(str(error))
    clean.setenv("ROS_DOMAIN_ID", str(1 + os.getpid() % 199))
    found = only(doctor.check_round_trip(patience=60))
    assert found.status == "ok", found
    assert "4.3 MB" in found.detail
    silent = only(doctor.check_round_trip([sys.executable, "-c", "import sys; sys.stdin.read()"], patience=0.5))
    assert silent.status == "fail"
    assert "firewall" in silent.fix


def test_bundled_weights_of_every_family_are_sound(clean: pytest.MonkeyPatch) -> None:
    clean.setenv("BEVSTACK_WEIGHTS", str(Path(__file__).resolve().parents[2] / "weights"))
    found = {check.name: check for check in doctor.check_weights()}
    for name in ("codec-nano", "fastbev-nano", "fastbev-slim", "giraffedet-nano", "giraffedet-lite-d2", "giraffedet-slim"):
        assert found[f"Weights {name}"].status == "ok", found[f"Weights {name}"]
