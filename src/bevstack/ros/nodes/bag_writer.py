"""A rosbag2 folder (mcap) that splits, repeats latched messages in each split, and stays readable when the disk fills up.

The mcap records are rosbags'; this module owns the file under them, so that a write that fails half-way can be taken back and
the bag can still be closed with its index: a small reserve file is given up for the space that takes.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import yaml
import zstandard
from rosbags.interfaces import Connection, ConnectionExtRosbag2, MessageDefinition, MessageDefinitionFormat, Qos
from rosbags.rosbag2.enums import CompressionMode
from rosbags.rosbag2.metadata import dump_qos_v9
from rosbags.rosbag2.storage_mcap import McapWriter
from rosbags.typesys.base import TypesysError

from bevstack.errors import BevstackError
from bevstack.ros.runtime.hashes import type_hash
from bevstack.ros.runtime.typestore import typestore

_VERSION = 9
_FOREVER = 2**63 - 1
_LEVEL = 1  # passes pictures at gigabytes per second; level 3 saves 1 % more and takes twice the time
_WORTH = 0.95


class BagError(BevstackError):
    """A bag cannot be created or written."""


class DiskFullError(BagError):
    """The bag's disk takes no more. The bag must be closed; it will be readable up to here."""


class _File:
    """An unbuffered file that knows where the last complete piece ends. ``write`` writes all or raises OSError."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY)
        self._position = os.lseek(self._fd, 0, os.SEEK_END)
        self.closed = False

    def write(self, data: bytes | memoryview) -> int:
        view = memoryview(data).cast("B")
        size = len(view)
        while view:
            written = os.write(self._fd, view)
            self._position += written
            view = view[written:]
        return size

    def tell(self) -> int:
        return self._position

    def truncate(self, position: int) -> None:
        os.ftruncate(self._fd, position)
        self._position = os.lseek(self._fd, position, os.SEEK_SET)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            os.close(self._fd)


@dataclass
class _Topic:
    """A recorded topic; ``latched`` keeps what late comers of the bag must get, oldest first."""

    name: str
    type: str
    qos: Sequence[Qos]
    definition: str
    hash: str
    keep: int
    latched: list[bytes] = field(default_factory=list)
    count: int = 0


@dataclass
class _Split:
    """One file of the bag: what went into it, and up to where it is known to be good."""

    path: Path
    storage: McapWriter
    file: _File
    connections: dict[str, Connection] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    start: int = _FOREVER
    end: int = 0
    flushed: float = field(default_factory=time.monotonic)


def _pack(storage: McapWriter, chunk: bytes) -> bytes:
    """What is written of a chunk; ``storage`` is told which form that is before it writes the chunk's head."""
    packed = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).compress(chunk)
    worth = len(packed) < _WORTH * len(chunk)
    storage.compression = "zstd" if worth else ""
    return packed if worth else chunk


class BagWriter:
    """Writes one bag.

    Args:
        path: folder to create.
        split_bytes: start a new file when one has this size; 0: never.
        split_ns: start a new file when one spans this time; 0: never.
        flush_seconds: what is younger than this may be lost to a power cut.
        min_free_bytes: stop when the disk has less free space than this.
        reserve_bytes: given up at the end if the disk is full, for index and metadata.
        compress: pack mcap chunks with zstandard. A chunk that does not get smaller, as of pictures, is left as it is.

    Raises:
        BagError: the folder exists already or cannot be created.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        split_bytes: int = 0,
        split_ns: int = 0,
        flush_seconds: float = 1.0,
        min_free_bytes: int = 0,
        reserve_bytes: int = 1 << 20,
        compress: bool = False,
    ) -> None:
        self.path = Path(path)
        self._compress = compress
        self._split_bytes, self._split_ns = split_bytes, split_ns
        self._flush_seconds, self._min_free = flush_seconds, min_free_bytes
        self.topics: dict[str, _Topic] = {}
        self.problems: list[str] = []
        self._done: list[dict[str, Any]] = []
        self._split: _Split | None = None
        self.closed = False
        try:
            self.path.mkdir(parents=True)
        except FileExistsError:
            raise BagError(f"{self.path} exists already: give another path, bags are not overwritten") from None
        except OSError as error:
            raise BagError(f"cannot create {self.path}: {error.strerror}") from None
        self._reserve = self.path / ".reserve"
        try:
            self._reserve.write_bytes(b"\0" * reserve_bytes)
            self._split = self._open_split()
        except OSError as error:
            self._give_up_reserve()
            shutil.rmtree(self.path, ignore_errors=True)
            raise BagError(f"cannot write to {self.path}: {error.strerror}") from None

    @property
    def message_count(self) -> int:
        """Messages written, repeated latched ones included."""
        return sum(topic.count for topic in self.topics.values())

    @property
    def bytes_written(self) -> int:
        """Size of the finished files and of the current one, pending data included."""
        current = 0 if self._split is None else self._split.file.tell() + self._split.storage.chunk.bio.tell()
        return sum(entry["bytes"] for entry in self._done) + current

    def add_topic(self, name: str, type_name: str, qos: Sequence[Qos] = (), *, latched: int = 0) -> None:
        """Make a topic known. ``latched`` is how many messages late comers get (0: none), repeated at the start of each split.

        Raises:
            BagError: the type is unknown.
            DiskFullError: see ``write``.
        """
        if name in self.topics:
            return
        try:
            definition, _ = typestore().generate_msgdef(type_name, ros_version=2)
            digest = type_hash(type_name)
        except (TypesysError, BevstackError) as error:
            raise BagError(
                f"{name} has type {type_name}, whose definition is not known ({error}): it is not recorded"
            ) from None
        self.topics[name] = topic = _Topic(name, type_name, qos, definition, digest, latched)
        if self._split is not None:
            self._connect(self._split, topic)

    def write(self, name: str, stamp: int, cdr: bytes | memoryview) -> None:
        """Append a message of a known topic.

        Args:
            name: topic.
            stamp: nanoseconds, when it was received.
            cdr: serialised message with its encapsulation head.

        Raises:
            DiskFullError: the disk is full, or has less than ``min_free_bytes``; call ``close``.
        """
        split, topic = self._split, self.topics[name]
        if split is None:
            raise BagError(f"bag {self.path} is closed")
        self._append(split, topic, stamp, cdr)
        if topic.keep:
            kept = bytes(cdr)
            topic.latched = [*(old for old in topic.latched if old != kept), kept][-topic.keep :]
        now = time.monotonic()
        if now - split.flushed > self._flush_seconds:
            self.flush()
        size = split.file.tell() + split.storage.chunk.bio.tell()
        full = self._split_bytes and size >= self._split_bytes
        if full or (self._split_ns and stamp - split.start >= self._split_ns):
            self._next_split(stamp)

    def flush(self) -> None:
        """Put what is pending on the disk. Raises DiskFullError as ``write`` does."""
        split = self._split
        if split is None or not any(split.storage.chunk.msgs.values()):
            return
        good = split.file.tell()
        try:
            split.storage.close_chunk()
        except OSError as error:
            raise self._take_back(split, good, error) from None
        split.flushed = time.monotonic()
        self._check_space()

    def close(self) -> None:
        """Write index and metadata. Never raises: what could not be written is in ``problems``."""
        if self.closed:
            return
        self.closed = True
        split, self._split = self._split, None
        if split is not None:
            self._close_split(split)
        text = yaml.safe_dump(self._metadata(self._done), sort_keys=False)
        for attempt in range(2):
            if attempt == 1 or not self.problems:
                self._give_up_reserve()
            try:
                temporary = self.path / "metadata.yaml.tmp"
                temporary.write_text(text)
                temporary.replace(self.path / "metadata.yaml")
                break
            except OSError as error:
                if attempt:
                    self.problems.append(f"no metadata.yaml: {error.strerror}; the bag can be reindexed")
        self._give_up_reserve()

    # --- splits -------------------------------------------------------------------------------------------------------------

    def _open_split(self) -> _Split:
        """A new file. rosbags names it after its folder, so it is made in one of its own and moved out."""
        name = f"{self.path.name}_{len(self._done)}"
        folder = self.path / name
        folder.mkdir()
        storage = McapWriter(folder, CompressionMode.NONE)
        storage.bio.close()
        path = self.path / f"{name}.mcap"
        storage.path.rename(path)
        folder.rmdir()
        file = _File(path)
        storage.bio = file  # type: ignore[assignment]  # it writes and tells, no more
        if self._compress:
            storage.compressor = partial(_pack, storage)
        return _Split(path, storage, file)

    def _next_split(self, stamp: int) -> None:
        """Close the current file, open the next one and repeat the latched messages in it."""
        old = self._split
        assert old is not None
        self._close_split(old)
        self._split = None
        if self.problems:
            raise DiskFullError(self.problems[-1])
        try:
            self._split = split = self._open_split()
        except OSError as error:
            raise DiskFullError(f"cannot start the next file of {self.path}: {error.strerror}") from None
        for topic in self.topics.values():
            self._connect(split, topic)
        for topic in self.topics.values():
            for cdr in topic.latched:
                self._append(split, topic, stamp, cdr)

    def _connect(self, split: _Split, topic: _Topic) -> None:
        known = {connection.msgtype for connection in split.connections.values()}
        connection = Connection(
            id=len(split.connections) + 1,
            topic=topic.name,
            msgtype=topic.type,
            msgdef=MessageDefinition(MessageDefinitionFormat.MSG, topic.definition),
            digest=topic.hash,
            msgcount=0,
            ext=ConnectionExtRosbag2(serialization_format="cdr", offered_qos_profiles=list(topic.qos)),
            owner=self,
        )
        if topic.type not in known:
            split.storage.add_msgtype(connection)
        split.storage.add_connection(connection, yaml.safe_dump(dump_qos_v9(list(topic.qos)), sort_keys=False).strip())
        split.connections[topic.name] = connection
        split.counts[topic.name] = 0

    def _append(self, split: _Split, topic: _Topic, stamp: int, cdr: bytes | memoryview) -> None:
        good = split.file.tell()
        try:
            split.storage.write(split.connections[topic.name], stamp, cdr)
        except OSError as error:
            raise self._take_back(split, good, error, (topic, stamp)) from None
        self._count(split, topic, stamp)
        if split.file.tell() != good:
            split.flushed = time.monotonic()
            self._check_space()

    def _count(self, split: _Split, topic: _Topic, stamp: int) -> None:
        topic.count += 1
        split.counts[topic.name] += 1
        split.start, split.end = min(split.start, stamp), max(split.end, stamp)

    def _take_back(self, split: _Split, good: int, error: OSError, last: tuple[_Topic, int] | None = None) -> DiskFullError:
        """A chunk could not be written: cut the file where it was good, and forget the chunk's messages."""
        if last is not None:
            self._count(split, *last)
        lost, by_id = 0, {connection.id: name for name, connection in split.connections.items()}
        for number, messages in split.storage.chunk.msgs.items():
            name = by_id[number]
            lost += len(messages)
            split.storage.channel_stats[number] -= len(messages)
            split.counts[name] -= len(messages)
            self.topics[name].count -= len(messages)
        split.storage.chunk = type(split.storage.chunk)(_FOREVER, 0, BytesIO(), defaultdict(list))
        reason = f"cannot write to {split.path}: {error.strerror or error}; the last {lost} messages are lost"
        self.problems.append(reason)
        self._give_up_reserve()
        try:
            split.file.truncate(good)
        except OSError as second:
            self.problems.append(f"cannot cut {split.path} at its last good byte: {second.strerror}")
        return DiskFullError(reason)

    def _check_space(self) -> None:
        free = shutil.disk_usage(self.path).free
        if self._min_free and free < self._min_free:
            reason = f"the disk of {self.path} has {free / 1e6:.0f} MB left, less than {self._min_free / 1e6:.0f} MB"
            self.problems.append(reason)
            raise DiskFullError(reason)

    def _close_split(self, split: _Split) -> None:
        """Write the file's index. If there is no space for it, the file ends after its last good chunk and can be recovered."""
        for _ in range(2):
            good = split.file.tell()
            try:
                if any(split.storage.chunk.msgs.values()) or not split.storage.chunks:
                    split.storage.close_chunk()
                good = split.file.tell()
                entry = self._entry(split)
                information = yaml.safe_dump(self._metadata([entry])["rosbag2_bagfile_information"], sort_keys=False)
                split.storage.close(_VERSION, information.strip())
                break
            except OSError as error:
                self._take_back(split, good, error)
        split.file.close()
        self._done.append(self._entry(split))

    def _entry(self, split: _Split) -> dict[str, Any]:
        count = sum(split.counts.values())
        return {
            "path": split.path.name,
            "start": split.start if count else 0,
            "end": split.end if count else 0,
            "count": count,
            "counts": dict(split.counts),
            "bytes": split.file.tell(),
        }

    def _metadata(self, entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
        filled = [entry for entry in entries if entry["count"]]
        start = min((entry["start"] for entry in filled), default=0)
        end = max((entry["end"] for entry in filled), default=0)
        return {
            "rosbag2_bagfile_information": {
                "version": _VERSION,
                "storage_identifier": "mcap",
                "duration": {"nanoseconds": end - start},
                "starting_time": {"nanoseconds_since_epoch": start},
                "message_count": sum(entry["count"] for entry in entries),
                "topics_with_message_count": [
                    {
                        "topic_metadata": {
                            "name": topic.name,
                            "type": topic.type,
                            "serialization_format": "cdr",
                            "offered_qos_profiles": dump_qos_v9(list(topic.qos)),
                            "type_description_hash": topic.hash,
                        },
                        "message_count": sum(entry["counts"].get(topic.name, 0) for entry in entries),
                    }
                    for topic in self.topics.values()
                ],
                "compression_format": "",
                "compression_mode": "",
                "relative_file_paths": [entry["path"] for entry in entries],
                "files": [
                    {
                        "path": entry["path"],
                        "starting_time": {"nanoseconds_since_epoch": entry["start"]},
                        "duration": {"nanoseconds": entry["end"] - entry["start"]},
                        "message_count": entry["count"],
                    }
                    for entry in entries
                ],
                "custom_data": None,
                "ros_distro": "jazzy",
            }
        }

    def _give_up_reserve(self) -> None:
        self._reserve.unlink(missing_ok=True)
