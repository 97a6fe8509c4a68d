"""Messages of a rosbag2 bag, intact (through rosbags) or damaged (by scanning): mcap, sqlite3, zstd per message or per file."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import zstandard

from bevstack.errors import SourceError

from .mcap_scan import McapScan, ScannedMessage
from .sqlite_scan import SqliteScan

logger = logging.getLogger("bevstack.frames")

STORAGE_SUFFIXES = (".mcap", ".db3", ".mcap.zstd", ".db3.zstd")
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_MAX_MESSAGE = 1 << 30


@dataclass(frozen=True)
class BagTopic:
    """One topic: name, ROS type name, number of messages, offered QoS profiles (rosbags' records; empty when unknown)."""

    name: str
    type: str
    count: int
    qos: tuple[Any, ...] = ()


@dataclass(frozen=True)
class BagMessage:
    """One message: topic, ROS type name, log time in nanoseconds, CDR bytes."""

    topic: str
    type: str
    stamp: int
    raw: bytes


def is_bag(path: Path) -> bool:
    """True for a bag's folder (with or without metadata.yaml) and for a storage file."""
    if path.is_dir():
        return (path / "metadata.yaml").exists() or bool(storage_files(path))
    return path.name.endswith(STORAGE_SUFFIXES)


def storage_files(path: Path) -> list[Path]:
    """The storage files of a folder in the recorder's order (``_2`` before ``_10``), or the file itself."""
    if path.is_file():
        return [path]
    found = [p for p in path.iterdir() if p.name.endswith(STORAGE_SUFFIXES)]
    return sorted(found, key=lambda p: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", p.name)])


class BagReader:
    """Topics and messages of one bag. A context manager; ``messages`` may be called several times.

    Args:
        path: a bag's folder, or one storage file (``.mcap``, ``.db3``, either with ``.zstd``).

    Attributes:
        topics: by name.
        start, end: log time of the first and last message, nanoseconds; None where the bag is empty.
        problems: one line for each thing that is missing or damaged.

    Raises:
        SourceError: no bag at ``path``, or nothing in it can be read.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.topics: dict[str, BagTopic] = {}
        self.problems: list[str] = []
        self.start: int | None = None
        self.end: int | None = None
        self._stack = ExitStack()
        self._reader: Any = None
        self._files: list[Path] = []
        if not self.path.exists():
            raise SourceError(f"no bag at {self.path}: give its folder, an .mcap or a .db3 file")
        if not is_bag(self.path):
            raise SourceError(f"{self.path} is not a rosbag2 bag: it holds neither metadata.yaml nor .mcap nor .db3 files")
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        reason = self._open_intact()
        if reason is None:
            return
        self._files = [self._unpacked(file) for file in storage_files(self.path)]
        counts: Counter[tuple[str, str]] = Counter()
        notes: list[str] = []
        for scan in map(_scan, self._files):
            for message in scan:
                counts[message.topic, message.type] += 1
                self.start = message.stamp if self.start is None else min(self.start, message.stamp)
                self.end = message.stamp if self.end is None else max(self.end, message.stamp)
            notes += scan.problems
        if not counts:
            detail = "; ".join(notes) or reason
            raise SourceError(f"nothing can be read from bag {self.path}: {detail}")
        self.topics = {topic: BagTopic(topic, kind, count) for (topic, kind), count in sorted(counts.items())}
        detail = "; ".join([reason, *notes])
        self.problems.append(f"bag {self.path.name} is incomplete ({detail}): {sum(counts.values())} messages could be read")

    def _open_intact(self) -> str | None:
        """Open through rosbags; on failure the reason in a few words."""
        if self.path.is_dir() and not (self.path / "metadata.yaml").exists():
            return "no metadata.yaml: the recorder was stopped hard"
        if self.path.name.endswith(".zstd"):
            return self._open_rosbags(self._unpacked(self.path))
        return self._open_rosbags(self.path)

    def _open_rosbags(self, path: Path) -> str | None:
        from rosbags.rosbag2 import Reader

        try:
            reader = Reader(path)
            reader.open()
        except Exception as error:  # noqa: BLE001 - on damaged files rosbags raises whatever its parsing stumbles over
            return _short(error)
        self._stack.callback(reader.close)
        self._reader = reader
        for connection in reader.connections:
            known = self.topics.get(connection.topic)
            count = connection.msgcount + (known.count if known else 0)
            qos = tuple(getattr(connection.ext, "offered_qos_profiles", ()))
            self.topics[connection.topic] = BagTopic(connection.topic, connection.msgtype, count, qos)
        if reader.message_count:
            self.start, self.end = reader.start_time, reader.end_time - 1
        return None

    def _unpacked(self, file: Path) -> Path:
        """The file itself, or its decompressed copy in a temporary folder (as far as it can be decompressed)."""
        if not file.name.endswith(".zstd"):
            return file
        folder = Path(self._stack.enter_context(TemporaryDirectory(prefix="bevstack-")))
        target = folder / file.name.removesuffix(".zstd")
        with file.open("rb") as source, target.open("wb") as sink:
            try:
                zstandard.ZstdDecompressor().copy_stream(source, sink)
            except zstandard.ZstdError as error:
                self.problems.append(f"{file.name} cannot be decompressed to its end ({error})")
        return target

    def messages(self, topics: Collection[str] | None = None) -> Iterator[BagMessage]:
        """Messages in log-time order as stored, of all topics or of some. Damage met on the way is noted in ``problems``."""
        if self._reader is None:
            yield from self._scanned(topics, None)
            return
        connections = [c for c in self._reader.connections if topics is None or c.topic in topics]
        if not connections:
            return
        last: int | None = None
        missing = Counter({c.topic: 0 for c in connections})
        for connection in connections:
            missing[connection.topic] += connection.msgcount
        try:
            for connection, stamp, raw in self._reader.messages(connections):
                last = stamp
                missing[connection.topic] -= 1
                yield BagMessage(connection.topic, connection.msgtype, stamp, bytes(_plain(raw)))
        except GeneratorExit:
            raise
        except Exception as error:  # noqa: BLE001 - see _open_rosbags; the rest is read by scanning
            self._note(f"bag {self.path.name} is damaged ({_short(error)}): only intact messages are read")
            if not self._files:
                self._files = [self._unpacked(file) for file in storage_files(self.path)]
            yield from self._scanned(topics, last)
            return
        lost = {topic: count for topic, count in missing.items() if count > 0}
        if lost:
            listed = ", ".join(f"{topic} {count}" for topic, count in list(lost.items())[:6])
            self._note(f"bag {self.path.name} holds fewer messages than its metadata states (missing: {listed}): it was cut")

    def _note(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)

    def _scanned(self, topics: Collection[str] | None, after: int | None) -> Iterator[BagMessage]:
        damaged = 0
        for file in self._files:
            for message in _scan(file):
                if (topics is not None and message.topic not in topics) or (after is not None and message.stamp <= after):
                    continue
                try:
                    yield BagMessage(message.topic, message.type, message.stamp, _plain(message.data))
                except zstandard.ZstdError:
                    damaged += 1
        if damaged:
            self._note(f"{damaged} messages of bag {self.path.name} cannot be decompressed")

    def close(self) -> None:
        """Close files and remove temporary copies."""
        self._stack.close()

    def __enter__(self) -> BagReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _scan(file: Path) -> McapScan | SqliteScan:
    return McapScan(file) if file.name.endswith(".mcap") else SqliteScan(file)


def _plain(data: bytes) -> bytes:
    """Undo zstd per message, which only metadata.yaml states; a CDR message never starts with zstd's magic number."""
    if data[:4] != _ZSTD_MAGIC:
        return data
    if zstandard.frame_content_size(data) > _MAX_MESSAGE:
        raise zstandard.ZstdError(f"the message states more than {_MAX_MESSAGE} bytes")
    return zstandard.ZstdDecompressor().decompress(data, max_output_size=_MAX_MESSAGE)


def _short(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."


__all__ = ["BagMessage", "BagReader", "BagTopic", "ScannedMessage", "is_bag", "storage_files"]
