"""The wire between two real processes on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bevstack.ros.runtime.dds.wire import DdsWire
from bevstack.ros.runtime.messages import message_class
from bevstack.ros.runtime.qos import QoSProfile
from bevstack.ros.runtime.serialization import deserialize_message, serialize_message, serialize_to_buffers
from bevstack.ros.runtime.wire import MessageMeta

from .conftest import eventually

pytestmark = pytest.mark.wire

IMAGE, TRIGGER = "sensor_msgs/msg/Image", "std_srvs/srv/Trigger"
NODE, PEER = ("near", "/"), ("peer", "/far")


@pytest.fixture
def wire(open_wires: Callable[[], DdsWire]) -> DdsWire:
    return open_wires()


@pytest.fixture
def peer(local: None, domain: int) -> Iterator[subprocess.Popen[str]]:
    environment = dict(os.environ, ROS_DOMAIN_ID=str(domain), OMP_NUM_THREADS="1")
    command = [sys.executable, str(Path(__file__).with_name("peer.py"))]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout
        assert process.stdout.readline().strip() == "ready"
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream:
                stream.close()


def test_images_there_and_back_without_loss(wire: DdsWire, peer: subprocess.Popen[str]) -> None:
    """Ten images of 4.3 MB: reliable, in order, equal byte for byte."""
    heard: list[Any] = []

    def on_data(raw: memoryview, meta: MessageMeta) -> None:
        heard.append(deserialize_message(raw, IMAGE))

    reader = wire.create_reader("/echo", IMAGE, QoSProfile(depth=100), on_data, node=NODE)
    writer = wire.create_writer("/ping", IMAGE, QoSProfile(depth=100), node=NODE)
    eventually(lambda: writer.remote_readers() and reader.remote_writers(), "match")
    pixels = np.random.default_rng(1).integers(0, 256, 900 * 1600 * 3, np.uint8)
    sent = [message_class(IMAGE)(height=900, width=1600, encoding=f"round {i}", data=np.roll(pixels, i)) for i in range(10)]
    for image in sent:
        writer.write(serialize_to_buffers(image))
    eventually(lambda: len(heard) == len(sent), "all images back")
    assert heard == sent


def test_nodes_and_topics_of_another_process(wire: DdsWire, peer: subprocess.Popen[str]) -> None:
    eventually(lambda: wire.node_names_and_namespaces() == [PEER], "peer's node")
    eventually(lambda: wire.count_subscribers("/ping") == 1 and wire.count_publishers("/echo") == 1)
    eventually(lambda: wire.service_names_and_types() == {"/send_nonsense": {TRIGGER}})
    assert peer.stdin
    peer.stdin.close()
    assert peer.wait(timeout=60) == 0
    eventually(lambda: wire.node_names_and_namespaces() == [] and wire.topic_names_and_types() == {}, "peer gone")


def test_nonsense_from_the_network_is_dropped(wire: DdsWire, peer: subprocess.Popen[str]) -> None:
    """A peer that sends other bytes under the name of a type neither crashes this process nor stops the next message."""
    heard: list[str] = []
    answers: list[int] = []
    wire.create_reader(
        "/nonsense",
        IMAGE,
        QoSProfile(depth=100),
        lambda raw, meta: heard.append(deserialize_message(raw, IMAGE).encoding),
        node=NODE,
    )
    client = wire.create_service_client(
        "/send_nonsense", TRIGGER, QoSProfile(depth=10), lambda raw, sequence, meta: answers.append(sequence), node=NODE
    )
    eventually(client.server_is_ready, "service")
    assert client.request(serialize_message(message_class(TRIGGER).Request())) == 1
    eventually(lambda: answers == [1] and heard, "answer and honest message")
    assert heard == ["honest"]


def test_a_process_that_ends_without_closing_says_goodbye(wire: DdsWire, domain: int) -> None:
    code = """
import atexit
atexit.register(lambda: print("closed" if wire.closing else "still open"))  # runs last: it was registered first
from bevstack.ros.runtime.wire import open_wire
wire = open_wire()
wire.add_node("careless", "/")
"""
    environment = dict(os.environ, ROS_DOMAIN_ID=str(domain))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=100, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "closed"), done.stderr
    eventually(lambda: wire.node_names_and_namespaces() == [])


@pytest.mark.slow
def test_a_peer_that_is_killed_disappears(wire: DdsWire, peer: subprocess.Popen[str]) -> None:
    """Nothing says goodbye for it: its lease runs out after ten seconds."""
    writer = wire.create_writer("/ping", IMAGE, QoSProfile(depth=1), node=NODE)
    eventually(writer.remote_readers, "match")
    eventually(lambda: wire.node_names_and_namespaces() == [PEER])
    peer.send_signal(signal.SIGKILL)
    eventually(lambda: wire.node_names_and_namespaces() == [], "lease ran out")
    assert writer.remote_readers() == 0
