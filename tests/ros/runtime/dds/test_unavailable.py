"""Without the library, or with a wrong one, a process stands alone and says why."""

from __future__ import annotations

import ctypes.util
import importlib.metadata
from pathlib import Path

import pytest

from bevstack.ros.runtime.dds import library
from bevstack.ros.runtime.qos import QoSProfile
from bevstack.ros.runtime.wire import NullWire, WireError, open_wire


def refused(words: str) -> NullWire:
    wire = open_wire(5)
    assert not wire.available
    assert isinstance(wire, NullWire)
    assert words in wire.reason
    assert "\n" not in wire.reason
    return wire


def test_switched_off(local: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEVSTACK_WIRE", "off")
    refused("unset it")


def test_not_installed(local: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    refused("pip install 'bevstack[embedded]'")


def test_another_version(local: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.10.5")
    refused("cyclonedds 0.10.5 is installed, 11.0.1 is needed")


def test_a_symbol_is_missing(local: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The C library of the system loads well and has none of the symbols."""
    name = ctypes.util.find_library("c")
    found = [Path(folder) / str(name) for folder in ("/lib/x86_64-linux-gnu", "/usr/lib64", "/lib64", "/usr/lib", "/lib")]
    path = next((file for file in found if file.is_file()), None)
    if path is None:
        pytest.skip("the C library of this system was not found")
    monkeypatch.setenv("BEVSTACK_DDS_LIBRARY", str(path))
    refused("lacks dds_create_domain")


def test_not_a_library(local: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "libddsc.so"
    file.write_bytes(b"not a library")
    monkeypatch.setenv("BEVSTACK_DDS_LIBRARY", str(file))
    refused("cannot be loaded")
    monkeypatch.setenv("BEVSTACK_DDS_LIBRARY", str(tmp_path / "nothing.so"))
    refused("is not a file")


@pytest.mark.wire
def test_a_broken_configuration(local: None, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        library.load_library()
    except library.LibraryUnavailable as error:
        pytest.skip(str(error))
    monkeypatch.setenv(
        "CYCLONEDDS_URI", "<CycloneDDS><Domain><General><NoSuchThing>1</NoSuchThing></General></Domain></CycloneDDS>"
    )
    wire = open_wire(206)
    assert not wire.available
    assert "check CYCLONEDDS_URI" in wire.reason


def test_wrong_environment_is_an_error(local: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "GALAXY")
    with pytest.raises(WireError, match="GALAXY"):
        open_wire(5)


def test_a_null_wire_does_nothing_politely() -> None:
    wire, qos, node = NullWire(3, "no reason"), QoSProfile(depth=1), ("n", "/")
    writer = wire.create_writer("/x", "std_msgs/msg/String", qos, node=node)
    writer.write(b"")
    reader = wire.create_reader("/x", "std_msgs/msg/String", qos, lambda raw, meta: None, node=node)
    client = wire.create_service_client("/s", "std_srvs/srv/Trigger", qos, lambda raw, sequence, meta: None, node=node)
    server = wire.create_service_server("/s", "std_srvs/srv/Trigger", qos, lambda raw, request, meta: None, node=node)
    assert writer.remote_readers() == reader.remote_writers() == server.remote_clients() == 0
    assert not client.server_is_ready()
    with pytest.raises(WireError, match="no wire"):
        client.request(b"")
    server.respond((1, 1), b"")
    wire.add_node(*node)
    wire.remove_node(*node)
    assert wire.topic_names_and_types() == wire.service_names_and_types() == {}
    assert wire.node_names_and_namespaces() == []
    assert wire.count_publishers("/x") == wire.count_subscribers("/x") == 0
    for end in (writer, reader, client, server, wire):
        end.close()
