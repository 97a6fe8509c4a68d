"""Reading the messages of a rosbag2 database that SQLite calls malformed: a cut copy, or one whose recorder was killed."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from .mcap_scan import ScannedMessage

_GIVE_UP_AFTER = 64


class SqliteScan:
    """Iterates the messages of one database by row; ``problems`` tells afterwards what could not be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[str] = []
        self.complete = False

    def __iter__(self) -> Iterator[ScannedMessage]:
        logs = [Path(f"{self.path}{suffix}") for suffix in ("-wal", "-journal")]
        logs = [log for log in logs if log.exists()]
        if not logs:
            yield from self._read(f"file:{self.path}?immutable=1&mode=ro")
            return
        # SQLite replays the log of a killed recorder only where it may write: in a copy.
        with TemporaryDirectory(prefix="bevstack-") as folder:
            for source in (self.path, *logs):
                shutil.copyfile(source, Path(folder) / source.name)
            yield from self._read(f"file:{Path(folder) / self.path.name}")

    def _read(self, uri: str) -> Iterator[ScannedMessage]:
        try:
            database = sqlite3.connect(uri, uri=True)
        except sqlite3.Error as error:
            self.problems.append(f"{self.path.name} cannot be opened ({error})")
            return
        try:
            # Without this SQLite refuses any file that is shorter than its header says.
            database.execute("PRAGMA writable_schema=ON")
            topics = {int(i): (str(n), str(t)) for i, n, t in database.execute("SELECT id, name, type FROM topics")}
        except sqlite3.Error as error:
            database.close()
            self.problems.append(f"{self.path.name} has lost its table of topics ({error}): nothing can be read from it")
            return
        try:
            yield from self._rows(database, topics)
        finally:
            database.close()

    def _rows(self, database: sqlite3.Connection, topics: dict[int, tuple[str, str]]) -> Iterator[ScannedMessage]:
        following, failures, lost = 0, 0, False
        while failures < _GIVE_UP_AFTER:
            try:
                rows = database.execute(
                    "SELECT id, topic_id, timestamp, data FROM messages WHERE id >= ? ORDER BY id", (following,)
                )
                for identity, topic, stamp, data in rows:
                    following, failures = int(identity) + 1, 0
                    if int(topic) in topics and isinstance(data, bytes):
                        yield ScannedMessage(*topics[int(topic)], int(stamp), data)
                self.complete = not lost
                break
            except sqlite3.Error:
                # A missing page: step over its rows, in growing strides.
                lost = True
                failures += 1
                following += max(1, failures // 8)
        if lost:
            self.problems.append(f"{self.path.name} is cut or damaged: rows on its missing pages are lost")
