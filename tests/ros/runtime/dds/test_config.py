"""What Cyclone DDS is told, from ROS's environment variables."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from bevstack.ros.runtime.dds.config import configuration, discovery_range
from bevstack.ros.runtime.wire import WireError, domain_id_from_environment


def parse(environment: dict[str, str]) -> ElementTree.Element:
    own, _, user = configuration(environment).partition(">,")
    assert user == environment.get("CYCLONEDDS_URI", "")
    return ElementTree.fromstring(own + ">")


def test_the_receive_buffer_has_a_maximum_and_never_a_minimum() -> None:
    for environment in ({}, {"ROS_LOCALHOST_ONLY": "1"}, {"ROS_AUTOMATIC_DISCOVERY_RANGE": "OFF"}):
        assert parse(environment).find("Domain/Internal/SocketReceiveBufferSize").attrib == {"max": "16MB"}  # type: ignore[union-attr]


def test_datagrams_are_large_on_one_machine_only() -> None:
    assert parse({}).findtext("Domain/General/FragmentSize") == "14000B"  # fits into a default datagram of 14720 bytes
    assert parse({}).find("Domain/General/MaxMessageSize") is None
    local = parse({"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"})
    assert local.findtext("Domain/General/FragmentSize") == "63000B"
    assert local.findtext("Domain/General/MaxMessageSize") == "65500B"


def test_local_mode() -> None:
    local = parse({"ROS_AUTOMATIC_DISCOVERY_RANGE": "localhost"})
    assert local.find("Domain/General/Interfaces/NetworkInterface").attrib == {"name": "lo"}  # type: ignore[union-attr]
    assert [peer.attrib["address"] for peer in local.findall("Domain/Discovery/Peers/Peer")] == ["localhost"]
    own_interface = {
        "ROS_LOCALHOST_ONLY": "1",
        "CYCLONEDDS_URI": "<General><Interfaces><NetworkInterface/></Interfaces></General>",
    }
    assert parse(own_interface).find("Domain/General/Interfaces") is None


def test_static_peers_are_quoted() -> None:
    peers = parse({"ROS_STATIC_PEERS": '10.0.0.1; ca"r<1>'}).findall("Domain/Discovery/Peers/Peer")
    assert [peer.attrib["address"] for peer in peers] == ["10.0.0.1", 'ca"r<1>']


def test_off_is_a_domain_of_its_own() -> None:
    off = parse({"ROS_AUTOMATIC_DISCOVERY_RANGE": "OFF", "ROS_STATIC_PEERS": "10.0.0.1"})
    assert (off.findtext("Domain/Discovery/Tag") or "").startswith("ros_discovery_off_")
    assert off.find("Domain/Discovery/Peers") is None


def test_ranges() -> None:
    assert discovery_range({}) == "SUBNET"
    assert discovery_range({"ROS_LOCALHOST_ONLY": "1", "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"}) == "LOCALHOST"
    assert discovery_range({"ROS_LOCALHOST_ONLY": "0"}) == "SUBNET"
    with pytest.raises(WireError, match="MOON"):
        discovery_range({"ROS_AUTOMATIC_DISCOVERY_RANGE": "moon"})


def test_domains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROS_DOMAIN_ID", raising=False)
    assert domain_id_from_environment() == 0
    monkeypatch.setenv("ROS_DOMAIN_ID", "42")
    assert domain_id_from_environment() == 42
    assert domain_id_from_environment(3) == 3
    for wrong in ("-1", "233", "x"):
        monkeypatch.setenv("ROS_DOMAIN_ID", wrong)
        with pytest.raises(WireError, match="0 to 232"):
            domain_id_from_environment()
