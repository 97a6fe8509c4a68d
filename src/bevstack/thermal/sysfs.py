"""Reading small sysfs files the way that never mistakes a failure for a value.

A sensor file can answer EAGAIN (domain off), EINVAL (zone disabled), block, or be empty. In Python only ``os.open`` with
``O_NONBLOCK`` and ``os.read`` show all of these; buffered files turn some of them into None or an empty string.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

_INTEGER = re.compile(rb"\s*(-?[0-9]{1,15})\s*\Z")


def read_bytes(path: str | os.PathLike[str], limit: int = 4096) -> bytes:
    """Content of a small file; the one seam through which every sensor is read.

    Raises:
        OSError: with the driver's errno. BlockingIOError is EAGAIN.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(fd, limit)
    finally:
        os.close(fd)


def parse_integer(content: bytes) -> int:
    """A signed decimal integer and nothing else.

    Raises:
        ValueError: empty, NUL bytes, "N/A", "45.5", "4_5": whatever is not an integer.
    """
    match = _INTEGER.match(content)
    if match is None:
        raise ValueError("empty" if not content.strip() else f"not an integer: {content[:20]!r}")
    return int(match.group(1))


def read_integer(path: str | os.PathLike[str]) -> int:
    """``read_bytes`` and ``parse_integer``.

    Raises:
        OSError, ValueError: as these do.
    """
    return parse_integer(read_bytes(path))


def try_integer(path: str | os.PathLike[str]) -> int | None:
    """An integer, or None where the file does not answer with one. For values that are optional."""
    try:
        return read_integer(path)
    except (OSError, ValueError):
        return None


def try_text(path: str | os.PathLike[str]) -> str | None:
    """Stripped text, or None where the file does not answer."""
    try:
        return read_bytes(path).decode("utf-8", "replace").strip("\x00 \t\r\n") or None
    except OSError:
        return None


def numbered(folder: Path, prefix: str) -> list[tuple[int, Path]]:
    """Entries of ``folder`` called ``prefix<number>``, by number; a folder that is not there has none."""
    found: list[tuple[int, Path]] = []
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    for name in names:
        if name.startswith(prefix) and name[len(prefix) :].isdigit():
            found.append((int(name[len(prefix) :]), folder / name))
    return sorted(found)


def describe(error: OSError) -> str:
    """``EAGAIN (Resource temporarily unavailable)``."""
    name = errno.errorcode.get(error.errno or 0, "error")
    return f"{name} ({error.strerror})"
