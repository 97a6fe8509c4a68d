"""Reading an MCAP file from its beginning, without its summary: what a killed recorder or a cut copy left behind.

Layout: mcap.dev/spec (records of opcode u8, length u64, content; little endian). Used only where rosbags cannot open the file.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import zstandard

MAGIC = b"\x89MCAP0\r\n"
_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _DATA_END = 0x03, 0x04, 0x05, 0x06, 0x0F
_MAX_CHUNK = 1 << 31


@dataclass(frozen=True)
class ScannedMessage:
    """One message of a damaged file: topic, ROS type name, log time (ns), serialised bytes as stored."""

    topic: str
    type: str
    stamp: int
    data: bytes


class McapScan:
    """Iterates the messages of one file in file order; ``problems`` tells afterwards, in words, what could not be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[str] = []
        self.complete = False
        self._schemas: dict[int, str] = {}
        self._channels: dict[int, tuple[str, str]] = {}

    def __iter__(self) -> Iterator[ScannedMessage]:
        size = self.path.stat().st_size
        with self.path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                self.problems.append(f"{self.path.name} does not start like an mcap file")
                return
            while True:
                start = file.tell()
                head = file.read(9)
                if len(head) < 9:
                    self.problems.append(f"{self.path.name} ends after {size} bytes without a summary")
                    return
                opcode, length = head[0], int.from_bytes(head[1:], "little")
                if opcode == _DATA_END:
                    self.complete = True
                    return
                left = size - file.tell()
                if opcode == 0 or (length > left and opcode not in (_CHUNK, _MESSAGE)):
                    self.problems.append(f"{self.path.name} is damaged from byte {start} on")
                    return
                if opcode == _CHUNK:
                    yield from self._chunk(file, start, min(length, left), length > left)
                    file.seek(start + 9 + min(length, left))
                elif opcode in (_SCHEMA, _CHANNEL, _MESSAGE):
                    yield from self._record(opcode, file.read(min(length, left)), length)
                else:
                    file.seek(length, 1)

    def _chunk(self, file: BinaryIO, start: int, available: int, cut: bool) -> Iterator[ScannedMessage]:
        body = file.read(available)
        try:
            _, _, plain_size, crc, name_length = struct.unpack_from("<QQQII", body)
            compression = body[32 : 32 + name_length].decode()
            (stored,) = struct.unpack_from("<Q", body, 32 + name_length)
        except (struct.error, UnicodeDecodeError):
            self.problems.append(f"{self.path.name} is damaged in the chunk at byte {start}")
            return
        content = body[40 + name_length : 40 + name_length + stored]
        if plain_size > _MAX_CHUNK:
            self.problems.append(f"{self.path.name} states a chunk of {plain_size} bytes at byte {start}: left out")
            return
        plain = self._plain(content, compression, plain_size)
        if plain is None:
            self.problems.append(f"the {compression!r} chunk at byte {start} of {self.path.name} cannot be decompressed")
            return
        if cut:
            self.problems.append(f"the last chunk of {self.path.name} is cut after {len(plain)} of {plain_size} bytes")
        elif crc and zlib.crc32(plain) != crc:
            self.problems.append(f"the chunk at byte {start} of {self.path.name} fails its checksum: left out")
            return
        position = 0
        while position + 9 <= len(plain):
            opcode, length = plain[position], int.from_bytes(plain[position + 1 : position + 9], "little")
            position += 9
            if position + length > len(plain):
                return
            yield from self._record(opcode, plain[position : position + length], length)
            position += length

    @staticmethod
    def _plain(content: bytes, compression: str, size: int) -> bytes | None:
        """As much of the chunk's content as can be had; None if nothing."""
        if compression == "":
            return content
        if compression == "zstd":
            stream = zstandard.ZstdDecompressor(max_window_size=_MAX_CHUNK).decompressobj()
            out = bytearray()
            try:
                for begin in range(0, len(content), 65536):
                    out += stream.decompress(content[begin : begin + 65536])
                    if len(out) > size:
                        return None
            except zstandard.ZstdError:
                pass  # what was decompressed before the damage is good
            return bytes(out) or None
        if compression == "lz4":
            import lz4.frame

            try:
                return bytes(lz4.frame.LZ4FrameDecompressor().decompress(content, max_length=size))
            except RuntimeError:
                return None
        return None

    def _record(self, opcode: int, body: bytes, length: int) -> Iterator[ScannedMessage]:
        try:
            if opcode == _SCHEMA:
                identity, name_length = struct.unpack_from("<HI", body)
                self._schemas[identity] = body[6 : 6 + name_length].decode()
            elif opcode == _CHANNEL:
                identity, schema, name_length = struct.unpack_from("<HHI", body)
                self._channels[identity] = (body[8 : 8 + name_length].decode(), self._schemas.get(schema, ""))
            elif opcode == _MESSAGE and len(body) == length:
                channel, _, stamp, _ = struct.unpack_from("<HIQQ", body)
                if channel in self._channels:
                    yield ScannedMessage(*self._channels[channel], stamp, body[22:])
        except (struct.error, UnicodeDecodeError):
            self.problems.append(f"{self.path.name} holds a damaged record (opcode {opcode})")
