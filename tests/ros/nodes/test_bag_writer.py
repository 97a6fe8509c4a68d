"""Bags that we write: read back by rosbags and by an independent reader, split, and readable after a full disk."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from rosbags.rosbag2 import Reader

from bevstack.frames.bag_reader import BagReader
from bevstack.ros.nodes import bag_writer
from bevstack.ros.nodes.bag_writer import BagError, BagWriter, DiskFullError
from bevstack.ros.runtime import messages, serialize_message

PAYLOAD = 100_000


def text(value: str) -> bytes:
    return serialize_message(messages("std_msgs/msg/String")(data=value))


def blob(n: int) -> bytes:
    return text(f"{n:06d}" + "x" * PAYLOAD)


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    return tmp_path / "drive"


def fill(writer: BagWriter, count: int = 200) -> int:
    """Write until the disk is full; the number of messages given."""
    for n in range(count):
        try:
            writer.write("/blob", n * 10_000_000, blob(n))
        except DiskFullError:
            return n + 1
    return count


def recorded(path: Path) -> list[str]:
    with Reader(path) as reader:
        return [raw[8:14].decode() for connection, _, raw in reader.messages() if connection.topic == "/blob"]


def test_round_trip_with_two_readers(bag: Path) -> None:
    writer = BagWriter(bag)
    writer.add_topic("/chatter", "std_msgs/msg/String")
    writer.add_topic("/status", "stack_msgs/msg/PipelineStatus")
    status = messages("stack_msgs/msg/PipelineStatus")(rung="nano", stages=["decode"], instants_in=7)
    for n in range(5):
        writer.write("/chatter", n, text(f"hello {n}"))
    writer.write("/status", 9, serialize_message(status))
    writer.close()
    with Reader(bag) as reader:
        assert reader.message_count == 6
        assert (reader.start_time, reader.end_time) == (0, 10)
        assert {c.topic: c.msgcount for c in reader.connections} == {"/chatter": 5, "/status": 1}
    with next(bag.glob("*.mcap")).open("rb") as stream:
        decoded = [
            (c.topic, m) for _, c, _, m in make_reader(stream, decoder_factories=[DecoderFactory()]).iter_decoded_messages()
        ]
    assert [m.data for topic, m in decoded if topic == "/chatter"] == [f"hello {n}" for n in range(5)]
    assert next(m for topic, m in decoded if topic == "/status").instants_in == 7
    assert sorted(p.name for p in bag.iterdir()) == ["drive_0.mcap", "metadata.yaml"]


def test_what_is_no_picture_is_packed(bag: Path) -> None:
    """Chunks that zstandard makes smaller, and pictures as they are; three readers agree on what is in them."""
    writer = BagWriter(bag, compress=True)
    writer.add_topic("/chatter", "std_msgs/msg/String")
    noise = np.random.default_rng(0)
    wanted = []
    for n in range(400):
        wanted.append((n, text(f"pose {n % 7} of the vehicle " * 20)))
        writer.write("/chatter", *wanted[-1])
    writer.flush()
    side = writer.bytes_written
    for n in range(400, 430):  # as of a camera: nothing to be gained
        wanted.append((n, text("") + noise.bytes(40_000)))
        writer.write("/chatter", *wanted[-1])
    writer.close()
    assert side < 0.1 * sum(len(data) for _, data in wanted[:400])
    file = next(bag.glob("*.mcap"))
    with file.open("rb") as stream:
        kinds = {chunk.compression: chunk for chunk in make_reader(stream).get_summary().chunk_indexes}
        assert set(kinds) == {"zstd", ""}
        stream.seek(0)
        assert [m.data for _, _, m in make_reader(stream).iter_messages()] == [data for _, data in wanted]
    with Reader(bag) as reader:
        assert [(stamp, bytes(data)) for _, stamp, data in reader.messages()] == wanted
    with BagReader(file) as reader:
        assert [bytes(m.raw) for m in reader.messages()] == [data for _, data in wanted]


@pytest.mark.parametrize("cut", [0.3, 0.6, 0.9])
def test_a_packed_bag_that_was_cut_can_be_recovered(bag: Path, cut: float) -> None:
    writer = BagWriter(bag, compress=True, flush_seconds=0.0)
    writer.add_topic("/chatter", "std_msgs/msg/String")
    for n in range(300):
        writer.write("/chatter", n, text(f"{n:06d}" + "pose " * 50))
    writer.close()
    file = next(bag.glob("*.mcap"))
    data = file.read_bytes()
    (bag / "metadata.yaml").unlink()
    file.write_bytes(data[: int(cut * len(data))])
    with BagReader(file) as reader:
        found = [bytes(m.raw)[8:14].decode() for m in reader.messages()]
    assert found == [f"{n:06d}" for n in range(len(found))]
    assert len(found) > 300 * cut * 0.4


def test_bags_are_not_overwritten(bag: Path) -> None:
    bag.mkdir()
    with pytest.raises(BagError, match="exists already"):
        BagWriter(bag)


def test_unknown_type_is_refused_by_name(bag: Path) -> None:
    writer = BagWriter(bag)
    with pytest.raises(BagError, match="/x has type no_msgs/msg/Such"):
        writer.add_topic("/x", "no_msgs/msg/Such")
    writer.close()


@pytest.mark.parametrize("limits", [{"split_bytes": 500_000}, {"split_ns": 40_000_000}], ids=["size", "time"])
def test_each_split_starts_with_the_latched_messages(bag: Path, limits: dict[str, int]) -> None:
    writer = BagWriter(bag, **limits)
    writer.add_topic("/latched", "std_msgs/msg/String", latched=2)
    writer.add_topic("/blob", "std_msgs/msg/String")
    for value in ("old", "a", "b", "a"):
        writer.write("/latched", 0, text(value))
    assert fill(writer, 20) == 20
    writer.close()
    files = yaml.safe_load((bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"]["files"]
    assert len(files) >= 3
    assert recorded(bag) == [f"{n:06d}" for n in range(20)]
    for entry in files[1:]:
        with (bag / entry["path"]).open("rb") as stream:
            reader = make_reader(stream, decoder_factories=[DecoderFactory()])
            found = [(c.topic, m.data) for _, c, _, m in reader.iter_decoded_messages(log_time_order=False)]
        assert found[:2] == [("/latched", "b"), ("/latched", "a")]
        assert entry["message_count"] == len(found)


@pytest.fixture
def quota(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """A disk with so many bytes left for the bag writer; the last write before the end is a partial one."""
    left = {"bytes": 0}
    real = os.write

    def limited(fd: int, data: memoryview) -> int:
        if left["bytes"] <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = real(fd, data[: left["bytes"]])
        left["bytes"] -= written
        return written

    unlink = Path.unlink

    def freeing(self: Path, missing_ok: bool = False) -> None:
        if self.name == ".reserve" and self.exists() and left.get("reserve", True):
            left["bytes"] += self.stat().st_size
        unlink(self, missing_ok=missing_ok)

    def start(size: int, *, reserve: bool = True) -> None:
        left.update(bytes=size, reserve=reserve)
        monkeypatch.setattr(bag_writer.os, "write", limited)
        monkeypatch.setattr(Path, "unlink", freeing)

    return start


@pytest.mark.parametrize("size", [10, 1_500_000, 3_333_333])
def test_full_disk_leaves_a_readable_bag(bag: Path, quota: Callable[..., None], size: int) -> None:
    writer = BagWriter(bag)
    writer.add_topic("/blob", "std_msgs/msg/String")
    quota(size)
    given = fill(writer)
    assert given < 200
    writer.close()
    assert "No space left" in writer.problems[0]
    found = recorded(bag)
    assert found == [f"{n:06d}" for n in range(len(found))]
    assert len(found) >= (size - 2_300_000) // PAYLOAD
    assert len(found) == writer.message_count
    with Reader(bag) as reader:
        assert reader.message_count == len(found)


def test_no_space_even_for_the_index(bag: Path, quota: Callable[..., None]) -> None:
    """What is there can be recovered by a reader that scans."""
    writer = BagWriter(bag)
    writer.add_topic("/blob", "std_msgs/msg/String")
    quota(2_500_000, reserve=False)
    fill(writer)
    writer.close()
    file = next(bag.glob("*.mcap"))
    with BagReader(file) as reader:
        assert len([m for m in reader.messages() if m.topic == "/blob"]) >= 10
        assert reader.problems


@pytest.fixture
def small_files() -> Iterator[int]:
    """The kernel refuses to let files grow beyond this size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = 4_000_000
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    yield size
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_refusal_by_the_kernel(bag: Path, small_files: int) -> None:
    writer = BagWriter(bag)
    writer.add_topic("/blob", "std_msgs/msg/String")
    assert fill(writer) < small_files // PAYLOAD + 15
    writer.close()
    assert len(recorded(bag)) >= 25


def test_free_space_is_watched(bag: Path) -> None:
    writer = BagWriter(bag, min_free_bytes=1 << 60)
    writer.add_topic("/blob", "std_msgs/msg/String")
    given = fill(writer)
    writer.close()
    assert given < 20
    assert "MB left" in writer.problems[0]
    assert recorded(bag) == [f"{n:06d}" for n in range(given)]


def test_abandoned_bag_can_be_recovered(bag: Path) -> None:
    """As after SIGKILL: no index, no metadata."""
    writer = BagWriter(bag, flush_seconds=0.0)
    writer.add_topic("/blob", "std_msgs/msg/String")
    for n in range(7):
        writer.write("/blob", n, blob(n))
    with BagReader(bag) as reader:
        assert len([m for m in reader.messages() if m.topic == "/blob"]) == 7
    writer.close()
