"""Recorder and player: what goes in comes out again, latched, on time; full disks and killed recorders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench import CAMERAS, PERIOD, Bench, FakeModel, bev_node, until
from rosbags.interfaces import QosDurability
from rosbags.rosbag2 import Reader

from bevstack.errors import BevstackError
from bevstack.frames.bag_reader import BagReader
from bevstack.ros import convert
from bevstack.ros.interfaces import Clock, CompressedImage, DiagnosticStatus, TFMessage
from bevstack.ros.nodes import bag_writer
from bevstack.ros.nodes.player import PlayerNode
from bevstack.ros.nodes.recorder import RecorderNode
from bevstack.ros.nodes.topics import latched_qos
from bevstack.ros.runtime import Parameter, messages

String: Any = messages("std_msgs/msg/String")


def recorder(path: Path, **parameters: Any) -> RecorderNode:
    return RecorderNode(parameter_overrides=[Parameter(k, value=v) for k, v in {"path": str(path), **parameters}.items()])


def player(path: Path, **parameters: Any) -> PlayerNode:
    return PlayerNode(
        parameter_overrides=[Parameter(k, value=v) for k, v in {"path": str(path), "delay": 0.0, **parameters}.items()]
    )


def topics(path: Path) -> dict[str, int]:
    with Reader(path) as reader:
        return {c.topic: c.msgcount for c in reader.connections}


def close(bench: Bench, node: Any) -> None:
    bench.executor.remove_node(node)
    bench.nodes.remove(node)
    node.destroy_node()


@pytest.fixture
def drive(bench: Bench, tmp_path: Path) -> Path:
    """A bag: two latched transforms, five images at 10 Hz with their own stamps, some text."""
    path = tmp_path / "drive"
    for name in CAMERAS:
        bench.publisher(CompressedImage, f"{name}/image_raw/compressed")
    text = bench.publisher(String, "chatter")
    bench.mount(*CAMERAS)
    node = bench.add(recorder(path, timestamps="header", exclude="/rosout|/parameter_events|/diagnostics"))
    bench.start()
    node.discover()
    for k in range(1, 6):
        for name in CAMERAS:
            bench.image(name, k * PERIOD)
        text.publish(String(data=f"hello {k}"))
    until(lambda: node.idle and node.message_count >= 21, "21 messages")
    close(bench, node)
    return path


def test_records_everything_there_is(drive: Path) -> None:
    found = topics(drive)
    assert found == {"/tf_static": 1, "/tf": 0, "/chatter": 5, **{f"/{name}/image_raw/compressed": 5 for name in CAMERAS}}
    with Reader(drive) as reader:
        qos = {c.topic: c.ext.offered_qos_profiles[0] for c in reader.connections}
        assert qos["/tf_static"].durability == QosDurability.TRANSIENT_LOCAL
        assert qos["/chatter"].durability == QosDurability.VOLATILE
        images = [stamp for c, stamp, _ in reader.messages() if c.topic == "/left/image_raw/compressed"]
    assert images == [k * PERIOD for k in range(1, 6)], "recorded on its own time"


def test_data_is_recorded_on_its_own_time(bench: Bench, model: FakeModel, tmp_path: Path) -> None:
    """With timestamps=header nothing of this machine's time gets in between, though diagnostics carry it."""
    node = bench.add(bev_node(model))
    bag = bench.add(recorder(tmp_path / "bag", timestamps="header"))
    bench.start()
    bench.mount(*CAMERAS)
    assert node.autostart()
    bag.discover()
    for k in range(1, 5):
        bench.move(k * PERIOD, np.eye(4))
        bench.instant(k)
        until(lambda: bench.diagnostics, "diagnostics")
        bench.diagnostics.clear()
    until(lambda: bag.idle, "the recorder")
    close(bench, bag)
    with Reader(tmp_path / "bag") as reader:
        stamps: dict[str, list[int]] = {}
        for connection, stamp, _ in reader.messages():
            stamps.setdefault(connection.topic, []).append(stamp)
    assert stamps["/tf"] == [k * PERIOD for k in range(1, 5)]
    assert stamps["/diagnostics"]
    assert all(PERIOD <= s <= 5 * PERIOD for times in stamps.values() for s in times)


def test_chosen_topics(bench: Bench, tmp_path: Path) -> None:
    text, other = bench.publisher(String, "a"), bench.publisher(String, "b")
    node = bench.add(recorder(tmp_path / "bag", topics=["a"]))
    bench.start()
    text.publish(String(data="x"))
    other.publish(String(data="y"))
    until(lambda: node.message_count == 1, "the message")
    close(bench, node)
    assert topics(tmp_path / "bag") == {"/a": 1}


def test_topics_that_come_later_are_found(bench: Bench, tmp_path: Path) -> None:
    node = bench.add(recorder(tmp_path / "bag", topics=["late"]))
    bench.start()
    out = bench.publisher(String, "late")
    until(lambda: out.get_subscription_count() == 1, "the recorder's subscription")
    out.publish(String(data="x"))
    until(lambda: node.message_count == 1, "the message")


def test_existing_path_is_refused(ros: None, tmp_path: Path) -> None:
    with pytest.raises(BevstackError, match="exists already"):
        recorder(tmp_path)


def test_disk_full_while_the_pipeline_runs(
    bench: Bench, model: FakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recording stops with its reason on /diagnostics, the bag is readable, boxes go on."""
    free = {"bytes": 10**12}
    real = bag_writer.shutil.disk_usage

    def usage(path: Path) -> Any:
        return real(path)._replace(free=free["bytes"])

    monkeypatch.setattr(bag_writer.shutil, "disk_usage", usage)
    node = bench.add(bev_node(model))
    bag = bench.add(recorder(tmp_path / "bag", topics=["bev_node/detections"]))
    bench.start()
    bench.mount(*CAMERAS)
    assert node.autostart()
    bag.discover()
    for k in range(1, 4):
        bench.instant(k)
    until(lambda: bag.message_count == 3, "three messages")
    free["bytes"] = 1000
    for k in range(4, 8):
        bench.instant(k)
    until(lambda: bench.says(DiagnosticStatus.ERROR, "recording stopped", "MB left"), "an error about the disk")
    bench.instant(9)
    assert len(bench.detections) == 8
    with Reader(tmp_path / "bag") as reader:
        assert reader.message_count >= 3


def test_plays_what_was_recorded(bench: Bench, drive: Path) -> None:
    """Stamps stay as recorded; latched topics are latched; a remapped topic has its new name; bytes are handed on."""
    heard: list[Any] = []
    images: list[Any] = []
    bench.node.create_subscription(String, "gossip", heard.append, 50)
    bench.node.create_subscription(CompressedImage, "middle/image_raw/compressed", images.append, 50)
    node = bench.add(player(drive, remap=["/chatter:=/gossip"], rate=20.0))
    node.start()
    assert node.finished.wait(20)
    until(lambda: len(heard) == 5 and len(images) == 5, "all messages")
    assert [m.data for m in heard] == [f"hello {k}" for k in range(1, 6)]
    assert convert.stamp_to_ns(images[0].header.stamp) == PERIOD
    late: list[Any] = []
    bench.node.create_subscription(TFMessage, "/tf_static", late.append, latched_qos(10))
    until(lambda: late, "the transforms for a late comer")
    assert {t.child_frame_id for m in late for t in m.transforms} == {f"{n}_optical_frame" for n in CAMERAS}


def test_clock_offset_and_loop(bench: Bench, drive: Path) -> None:
    ticks: list[int] = []
    images: list[int] = []
    latched: list[Any] = []
    bench.node.create_subscription(Clock, "/clock", lambda m: ticks.append(convert.stamp_to_ns(m.clock)), 500)
    bench.node.create_subscription(
        CompressedImage, "left/image_raw/compressed", lambda m: images.append(convert.stamp_to_ns(m.header.stamp)), 50
    )
    bench.node.create_subscription(TFMessage, "/tf_static", latched.append, latched_qos(10))
    with BagReader(drive) as reader:
        start = reader.start
    assert start is not None
    offset = (2.5 * PERIOD - start) / 1e9
    node = bench.add(player(drive, clock=True, start_offset=offset, loop=True, rate=5.0))
    node.start()
    until(lambda: len(images) >= 6, "two rounds")
    assert images[:6] == [3 * PERIOD, 4 * PERIOD, 5 * PERIOD] * 2
    assert min(ticks) >= 2.4 * PERIOD
    assert latched, "latched messages from before the offset are there"
    assert not node.finished.is_set()


def test_topics_that_others_publish_are_left_to_them(bench: Bench, drive: Path) -> None:
    """A bag with yesterday's results, played while today's are made."""
    heard: list[Any] = []
    images: list[Any] = []
    bench.node.create_subscription(String, "chatter", heard.append, 50)
    bench.node.create_subscription(CompressedImage, "seen", images.append, 50)
    remap = [f"/{name}/image_raw/compressed:=/seen" for name in CAMERAS]
    node = bench.add(player(drive, skip_published=True, rate=20.0, remap=remap))
    node.start()
    assert node.finished.wait(20)
    until(lambda: len(images) == 15, "all images")
    assert not heard, "the bench publishes chatter itself"


def test_boxes_from_a_bag(bench: Bench, model: FakeModel, drive: Path, shared: Path) -> None:
    """The six-camera sample of the shared folder through player and perception node."""
    names = ["cam_front", "cam_front_right", "cam_front_left", "cam_back", "cam_back_left", "cam_back_right"]
    node = bench.add(bev_node(model, cameras=names))
    assert node.autostart()
    source = bench.add(player(shared / "data/bags/scene0061_sample_mcap"))
    source.start()
    until(lambda: bench.detections, "detections")
    assert list(model.seen[0].frames) == names
    stamps = [f.stamp for f in model.seen[0].frames.values()]
    assert 0 < max(stamps) - min(stamps) < 60_000_000


@pytest.mark.parametrize("parameters", [{"topics": ["/nothing"]}, {"exclude": ["/nothing"]}])
def test_unknown_topics_are_refused(bench: Bench, drive: Path, parameters: dict[str, Any]) -> None:
    with pytest.raises(BevstackError, match="no topic /nothing: it has /"):
        player(drive, **parameters)


def test_missing_bag(ros: None, tmp_path: Path) -> None:
    with pytest.raises(BevstackError, match="no bag at"):
        player(tmp_path / "none")
