"""The container of one coded frame: header, hyper segments, tile segments, each with a CRC-32C. Defined in docs/bitstream.md.

This module knows bytes and limits, not networks: what a segment means is the model's business. Bytes from anywhere end in a
`Stream`, with damaged segments left out and reported, or in `BitstreamError`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bevstack.errors import BitstreamError

from .crc import crc32c, find_window
from .tiles import TileGrid

MAGIC = b"VTC1"
VERSION = 1
FIXED = struct.Struct("<4sBHH8sHHH")  # magic, version, header length, flags, model id, width, height, rate
RECONSTRUCTION = struct.Struct("<I")
CAPTURE = struct.Struct("<BIQ")
REFERENCE = struct.Struct("<I")
CRC = struct.Struct("<I")

(
    HAS_RECONSTRUCTION,
    HAS_CAPTURE,
    HAS_TILES,
    HAS_CHANNELS,
    HAS_QUALITY,
    HAS_REFERENCE,
    HAS_SKIP,
    HAS_EXTENSIONS,
) = (1 << bit for bit in range(8))
KNOWN_FLAGS = 0xFF


@dataclass(frozen=True)
class Limits:
    """What a reader accepts, checked before anything is allocated."""

    bytes: int = 1 << 26
    width: int = 16384
    height: int = 16384
    pixels: int = 1 << 25
    segments: int = 4096
    channels: int = 4096
    quality_cells: int = 1 << 17
    search: int = 1 << 24  # bytes looked at, in all, for segments that do not stand where they should
    search_ahead: int = 1 << 16  # how far from that place


@dataclass(frozen=True)
class Capture:
    """Where and when the frame was taken: camera number, frame number, microseconds since 1970 (exposure reference)."""

    camera: int
    frame: int
    timestamp_us: int


@dataclass(frozen=True, eq=False)
class Header:
    """Everything about a frame that is not entropy coded.

    Attributes:
        width, height: of the picture in pixels, 1..65535.
        model_id: 8 bytes, identifies everything that parsing depends on.
        rate: rate point, 0..65535; its meaning belongs to the model.
        reconstruction_id: identifies the synthesis weights that the encoder had in mind, 32 bits; another decoder may still
            decode.
        capture: origin of the frame.
        tile_size: side of the tiles in units of 64 pixels, 0 for one tile.
        channels: (C,) bool, channels of the latent that are coded; None means all.
        quality: (rows, columns) int8 quality offsets on cells of 2^quality_cell pixels, for regions of interest.
        reference: number of the frame that this one needs; None for a frame that stands alone.
        skip_below: table indices below this are not coded in this stream; None leaves it to the model.
        extensions: tag 0..255 to bytes; readers ignore tags that they do not know.
    """

    width: int
    height: int
    model_id: bytes
    rate: int = 0
    reconstruction_id: int | None = None
    capture: Capture | None = None
    tile_size: int = 0
    channels: NDArray[np.bool_] | None = None
    quality: NDArray[np.int8] | None = None
    quality_cell: int = 6
    reference: int | None = None
    skip_below: int | None = None
    extensions: Mapping[int, bytes] = field(default_factory=dict)

    @property
    def grid(self) -> TileGrid:
        return TileGrid(self.width, self.height, self.tile_size)


@dataclass(frozen=True)
class Damage:
    """A segment that cannot be used: ``layer`` is -1 and ``index`` the hyper segment's number, or the layer and the tile."""

    layer: int
    index: int
    reason: str

    def __str__(self) -> str:
        name = f"hyper segment {self.index}" if self.layer < 0 else f"tile {self.index}, layer {self.layer}"
        return f"{name}: {self.reason}"


@dataclass(frozen=True, eq=False)
class Stream:
    """One coded frame.

    Attributes:
        hyper: coded hyper latents (one in the base design).
        layers: per layer (one in the base design) the segments of all tiles in the grid's order.
        damage: what `read` found wrong; the segments concerned are None.
        size: bytes that the frame takes; what follows them in the input belongs to somebody else.
    """

    header: Header
    hyper: list[bytes | None]
    layers: list[list[bytes | None]]
    damage: tuple[Damage, ...] = ()
    size: int = 0

    @property
    def tiles(self) -> list[bytes | None]:
        """The first layer's segments."""
        return self.layers[0]


@dataclass(frozen=True)
class Entry:
    """One row of the segment table."""

    length: int
    crc: int


@dataclass(frozen=True)
class Layout:
    """A parsed header with the segment table; ``start`` is where the first segment begins."""

    header: Header
    hyper: int
    layers: int
    entries: tuple[Entry, ...]
    start: int

    def place(self, number: int) -> tuple[int, int]:
        """Layer and tile of segment ``number``; -1 and the number itself for a hyper segment."""
        return divmod(number - self.hyper, len(self.header.grid)) if number >= self.hyper else (-1, number)

    @property
    def size(self) -> int:
        """Bytes of the whole frame."""
        return self.start + sum(entry.length for entry in self.entries)


def write(stream: Stream) -> bytes:
    """The bytes of a frame.

    Raises:
        ValueError: if a field does not fit its place, the tiles do not fit the grid, or a segment is None.
    """
    header = stream.header
    tiles = len(header.grid)
    if not 1 <= header.width <= 0xFFFF or not 1 <= header.height <= 0xFFFF:
        raise ValueError(f"picture size {header.width} x {header.height} is outside 1..65535")
    if len(header.model_id) != 8:
        raise ValueError(f"the model id has {len(header.model_id)} bytes, expected 8")
    if not 0 <= len(stream.hyper) <= 0xFF or not 1 <= len(stream.layers) <= 0xFF:
        raise ValueError(f"{len(stream.hyper)} hyper segments and {len(stream.layers)} layers: expected 0..255 and 1..255")
    if any(len(layer) != tiles for layer in stream.layers):
        raise ValueError(f"each layer needs {tiles} segments, one per tile; got {[len(layer) for layer in stream.layers]}")
    segments: list[bytes] = []
    for segment in [*stream.hyper, *(segment for layer in stream.layers for segment in layer)]:
        if segment is None:
            raise ValueError("a missing segment cannot be written; write an empty one")
        segments.append(segment)
    flags, fields = _optional_fields(header)
    table = b"".join(_varint(len(segment)) + (CRC.pack(crc32c(segment)) if segment else b"") for segment in segments)
    body = fields + bytes([len(stream.hyper), len(stream.layers)]) + table
    length = FIXED.size + len(body) + CRC.size
    if length > 0xFFFF:
        raise ValueError(f"the header takes {length} bytes, more than 65535: use larger tiles or less side data")
    try:
        head = FIXED.pack(MAGIC, VERSION, length, flags, header.model_id, header.width, header.height, header.rate) + body
    except struct.error as error:
        raise ValueError(f"rate point {header.rate}: {error}") from error
    return b"".join([head, CRC.pack(crc32c(head)), *segments])


def _optional_fields(header: Header) -> tuple[int, bytes]:
    flags, parts = 0, []
    try:
        if header.reconstruction_id is not None:
            flags |= HAS_RECONSTRUCTION
            parts.append(RECONSTRUCTION.pack(header.reconstruction_id))
        if header.capture is not None:
            flags |= HAS_CAPTURE
            parts.append(CAPTURE.pack(header.capture.camera, header.capture.frame, header.capture.timestamp_us))
        if header.tile_size:
            flags |= HAS_TILES
            parts.append(struct.pack("<B", header.tile_size))
        if header.channels is not None:
            flags |= HAS_CHANNELS
            mask = np.asarray(header.channels, bool).reshape(-1)
            parts.append(_varint(len(mask)) + np.packbits(mask, bitorder="little").tobytes())
        if header.quality is not None:
            flags |= HAS_QUALITY
            rows, columns = quality_shape(header.width, header.height, header.quality_cell)
            if header.quality.shape != (rows, columns):
                raise ValueError(
                    f"the quality map is {header.quality.shape}; cells of 2^{header.quality_cell} pixels need {(rows, columns)}"
                )
            parts.append(struct.pack("<B", header.quality_cell) + _pack_quality(header.quality))
        if header.reference is not None:
            flags |= HAS_REFERENCE
            parts.append(REFERENCE.pack(header.reference))
        if header.skip_below is not None:
            flags |= HAS_SKIP
            parts.append(struct.pack("<B", header.skip_below))
        if header.extensions:
            flags |= HAS_EXTENSIONS
            parts.append(struct.pack("<B", len(header.extensions)))
            for tag, data in sorted(header.extensions.items()):
                parts.append(struct.pack("<B", tag) + _varint(len(data)) + data)
    except struct.error as error:
        raise ValueError(f"a header field does not fit its place: {error}") from error
    return flags, b"".join(parts)


def read(data: bytes | bytearray | memoryview, limits: Limits | None = None) -> Stream:
    """Parses a frame; segments that are damaged, cut off or missing are None and listed in ``damage``.

    Raises:
        BitstreamError: if the header is damaged, of another version, or asks for more than ``limits``.
    """
    limits = limits if limits is not None else Limits()
    view = memoryview(data)
    layout = read_layout(view, limits)
    segments: list[bytes | None] = []
    damage: list[Damage] = []
    at = layout.start
    budget = limits.search if len(view) != layout.size else 0
    for number, entry in enumerate(layout.entries):
        chunk, reason = _segment(view, at, entry)
        if reason and budget > 0:
            # Bytes were lost or added on the way: the segment may stand elsewhere.
            first = max(layout.start, at - limits.search_ahead)
            area = view[first : at + limits.search_ahead + entry.length]
            budget -= len(area)
            found = find_window(area, entry.length, entry.crc, 0, len(area))
            if found is not None:
                at = first + found
                chunk, reason = _segment(view, at, entry)
        at += entry.length
        segments.append(None if reason else chunk)
        if reason:
            damage.append(Damage(*layout.place(number), reason))
    hyper, rest = segments[: layout.hyper], segments[layout.hyper :]
    tiles = len(layout.header.grid)
    layers = [rest[k * tiles : (k + 1) * tiles] for k in range(layout.layers)]
    return Stream(layout.header, hyper, layers, tuple(damage), min(at, len(view)))


def _segment(view: memoryview, at: int, entry: Entry) -> tuple[bytes, str | None]:
    """The bytes at the place where a segment should stand, and what is wrong with them."""
    chunk = bytes(view[at : at + entry.length])
    if len(chunk) < entry.length:
        return chunk, f"cut off after {len(chunk)} of {entry.length} bytes"
    if entry.length and crc32c(chunk) != entry.crc:
        return chunk, "check sum does not match"
    return chunk, None


def read_layout(data: bytes | bytearray | memoryview, limits: Limits | None = None) -> Layout:
    """Parses and checks the header alone.

    Raises:
        BitstreamError: as `read`.
    """
    limits = limits if limits is not None else Limits()
    view = memoryview(data)
    if len(view) > limits.bytes:
        raise BitstreamError(f"coded frame: {len(view)} bytes, the limit is {limits.bytes}")
    if len(view) < FIXED.size + CRC.size:
        raise BitstreamError(f"coded frame: {len(view)} bytes are too few for a header")
    magic, version, length, flags, model_id, width, height, rate = FIXED.unpack_from(view)
    if magic != MAGIC:
        raise BitstreamError(f"coded frame: begins with {magic!r} instead of {MAGIC!r}")
    if version != VERSION:
        raise BitstreamError(f"coded frame: version {version}, this reader knows {VERSION}")
    if not FIXED.size + CRC.size <= length <= len(view):
        raise BitstreamError(f"coded frame: a header of {length} bytes does not fit {len(view)}")
    if crc32c(view[: length - CRC.size]) != CRC.unpack_from(view, length - CRC.size)[0]:
        raise BitstreamError("coded frame: the header is damaged (check sum does not match)")
    if flags & ~KNOWN_FLAGS:
        raise BitstreamError(f"coded frame: header flags {flags:#06x} are unknown to this reader")
    if not (1 <= width <= limits.width and 1 <= height <= limits.height and width * height <= limits.pixels):
        raise BitstreamError(
            f"coded frame: {width} x {height} pixels, the limit is {limits.width} x {limits.height} and {limits.pixels} in all"
        )
    cursor = _Cursor(view[FIXED.size : length - CRC.size])
    header = _read_fields(cursor, flags, limits, width, height, model_id, rate)
    hyper, layers = cursor.byte(), cursor.byte()
    count = hyper + layers * len(header.grid)
    if layers < 1 or count > limits.segments:
        raise BitstreamError(f"coded frame: {count} segments in {layers} layers, the limit is {limits.segments} in 1 or more")
    entries = []
    for _ in range(count):
        size = cursor.varint()
        entries.append(Entry(size, CRC.unpack(cursor.take(CRC.size))[0] if size else 0))
    if cursor.left:
        raise BitstreamError(f"coded frame: {cursor.left} bytes of the header are left over")
    layout = Layout(header, hyper, layers, tuple(entries), length)
    if layout.size > limits.bytes:
        raise BitstreamError(f"coded frame: segments of {layout.size - length} bytes, the limit is {limits.bytes}")
    return layout


def _read_fields(cursor: _Cursor, flags: int, limits: Limits, width: int, height: int, model_id: bytes, rate: int) -> Header:
    reconstruction_id = RECONSTRUCTION.unpack(cursor.take(RECONSTRUCTION.size))[0] if flags & HAS_RECONSTRUCTION else None
    capture = Capture(*CAPTURE.unpack(cursor.take(CAPTURE.size))) if flags & HAS_CAPTURE else None
    tile_size = cursor.byte() if flags & HAS_TILES else 0
    if flags & HAS_TILES and not tile_size:
        raise BitstreamError("coded frame: a tile size of 0 is written by leaving the field out")
    channels = None
    if flags & HAS_CHANNELS:
        count = cursor.varint()
        if not 1 <= count <= limits.channels:
            raise BitstreamError(f"coded frame: a mask of {count} channels, the limit is {limits.channels}")
        octets = np.frombuffer(cursor.take(-(-count // 8)), np.uint8)
        bits = np.unpackbits(octets, bitorder="little")
        if bits[count:].any():
            raise BitstreamError(f"coded frame: the channel mask sets bits beyond its {count} channels")
        channels = bits[:count].astype(bool)
    quality, cell = None, 6
    if flags & HAS_QUALITY:
        cell = cursor.byte()
        if not 3 <= cell <= 12:
            raise BitstreamError(f"coded frame: quality cells of 2^{cell} pixels, expected 2^3 to 2^12")
        rows, columns = quality_shape(width, height, cell)
        if rows * columns > limits.quality_cells:
            raise BitstreamError(f"coded frame: a quality map of {rows * columns} cells, the limit is {limits.quality_cells}")
        quality = _unpack_quality(cursor, rows, columns)
    reference = REFERENCE.unpack(cursor.take(REFERENCE.size))[0] if flags & HAS_REFERENCE else None
    skip_below = cursor.byte() if flags & HAS_SKIP else None
    extensions: dict[int, bytes] = {}
    if flags & HAS_EXTENSIONS:
        last = -1
        for _ in range(cursor.byte()):
            tag = cursor.byte()
            if tag <= last:
                raise BitstreamError(f"coded frame: extension {tag} after {last}; tags must rise")
            last = tag
            extensions[tag] = cursor.take(cursor.varint())
    return Header(
        width,
        height,
        model_id,
        rate,
        reconstruction_id,
        capture,
        tile_size,
        channels,
        quality,
        cell,
        reference,
        skip_below,
        extensions,
    )


def quality_shape(width: int, height: int, cell: int) -> tuple[int, int]:
    """Rows and columns of a quality map with cells of 2^cell pixels."""
    return -(-height >> cell), -(-width >> cell)


def _pack_quality(quality: NDArray[np.int8]) -> bytes:
    """Runs of (length, difference to the cell above modulo 256) in raster order; the row above the first is 0."""
    values = quality.astype(np.int64)
    above = np.vstack([np.zeros((1, values.shape[1]), np.int64), values[:-1]])
    differences = ((values - above) % 256).reshape(-1)
    edges = np.flatnonzero(np.diff(differences)) + 1
    starts = np.concatenate([[0], edges])
    lengths = np.diff(np.concatenate([starts, [len(differences)]]))
    return b"".join(
        _varint(int(length)) + bytes([int(differences[start])]) for start, length in zip(starts, lengths, strict=True)
    )


def _unpack_quality(cursor: _Cursor, rows: int, columns: int) -> NDArray[np.int8]:
    differences = np.empty(rows * columns, np.uint8)
    at = 0
    while at < len(differences):
        length, value = cursor.varint(), cursor.byte()
        if not 1 <= length <= len(differences) - at:
            raise BitstreamError(f"coded frame: a run of {length} quality cells where {len(differences) - at} are left")
        differences[at : at + length] = value
        at += length
    return np.cumsum(differences.reshape(rows, columns), axis=0, dtype=np.uint8).view(np.int8)


def _varint(value: int) -> bytes:
    """Seven bits per byte, low ones first, the top bit says that more follow; at most 4 bytes."""
    if not 0 <= value < 1 << 28:
        raise ValueError(f"a length of {value} is outside 0..{(1 << 28) - 1}")
    octets = bytearray()
    while value > 0x7F:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    octets.append(value)
    return bytes(octets)


class _Cursor:
    """Reads forward; never past the end."""

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._view) - self._at

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise BitstreamError(f"coded frame: the header ends where {count} more bytes are needed")
        self._at += count
        return bytes(self._view[self._at - count : self._at])

    def byte(self) -> int:
        return self.take(1)[0]

    def varint(self) -> int:
        value = 0
        for shift in (0, 7, 14, 21):
            octet = self.byte()
            value |= (octet & 0x7F) << shift
            if octet < 0x80:
                if octet == 0 and shift:
                    raise BitstreamError("coded frame: a length is written with more bytes than it needs")
                return value
        raise BitstreamError("coded frame: a length takes more than 4 bytes")
