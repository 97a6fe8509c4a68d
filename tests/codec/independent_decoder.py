"""A second decoder of container and entropy coder, from docs/bitstream.md alone. Imports nothing of bevstack, on purpose."""

from __future__ import annotations


class Damaged(Exception):
    pass


class Rejected(Exception):
    pass


def crc32c(octets: bytes) -> int:
    register = 0xFFFFFFFF
    for octet in octets:
        register ^= octet
        for _ in range(8):
            register = (register >> 1) ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


def ceil_div(a: int, b: int) -> int:
    return (a + b - 1) // b


class Octets:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def raw(self, n: int) -> bytes:
        if self.at + n > len(self.data):
            raise Rejected("header too short")
        self.at += n
        return self.data[self.at - n : self.at]

    def u(self, octets: int) -> int:
        return sum(octet << (8 * k) for k, octet in enumerate(self.raw(octets)))

    def varint(self) -> int:
        value, count = 0, 0
        while True:
            octet = self.u(1)
            value += (octet % 128) << (7 * count)
            count += 1
            if octet < 128:
                if count > 1 and octet == 0:
                    raise Rejected("varint not in shortest form")
                return value
            if count == 4:
                raise Rejected("varint too long")


def parse(data: bytes) -> dict:
    """Fields of the header and the segments; damaged ones are None."""
    if len(data) < 27 or data[:4] != b"VTC1" or data[4] != 1:
        raise Rejected("not a version 1 frame")
    length = data[5] + 256 * data[6]
    if length < 27 or length > len(data):
        raise Rejected("header length")
    if crc32c(data[: length - 4]) != int.from_bytes(data[length - 4 : length], "little"):
        raise Rejected("header CRC")
    octets = Octets(data[: length - 4])
    octets.at = 7
    flags = octets.u(2)
    if flags >> 8:
        raise Rejected("unknown flags")
    frame: dict = {"model_id": octets.raw(8), "width": octets.u(2), "height": octets.u(2), "rate": octets.u(2)}
    if not frame["width"] or not frame["height"]:
        raise Rejected("empty picture")
    if flags & 1:
        frame["reconstruction_id"] = octets.u(4)
    if flags & 2:
        frame["capture"] = (octets.u(1), octets.u(4), octets.u(8))
    tiles = 1
    if flags & 4:
        frame["tile_size"] = size = octets.u(1)
        if size == 0:
            raise Rejected("tile size")
        tiles = ceil_div(frame["width"], 64 * size) * ceil_div(frame["height"], 64 * size)
    if flags & 8:
        n = octets.varint()
        mask = octets.raw(ceil_div(n, 8))
        frame["channels"] = [bool(mask[k // 8] >> (k % 8) & 1) for k in range(n)]
        if any(mask[k // 8] >> (k % 8) & 1 for k in range(n, 8 * len(mask))):
            raise Rejected("mask bits beyond n")
    if flags & 16:
        s = octets.u(1)
        if not 3 <= s <= 12:
            raise Rejected("quality cells")
        rows, columns = ceil_div(frame["height"], 2**s), ceil_div(frame["width"], 2**s)
        cells: list[int] = []
        while len(cells) < rows * columns:
            run = octets.varint()
            if run < 1 or run > rows * columns - len(cells):
                raise Rejected("quality run")
            cells += [octets.u(1)] * run
        for k in range(columns, len(cells)):
            cells[k] = (cells[k] + cells[k - columns]) % 256
        frame["quality"] = [[c - 256 if c > 127 else c for c in cells[r * columns : (r + 1) * columns]] for r in range(rows)]
        frame["quality_cell"] = s
    if flags & 32:
        frame["reference"] = octets.u(4)
    if flags & 64:
        frame["skip_below"] = octets.u(1)
    if flags & 128:
        frame["extensions"] = {}
        previous = -1
        for _ in range(octets.u(1)):
            tag = octets.u(1)
            if tag <= previous:
                raise Rejected("extension tags")
            previous = tag
            frame["extensions"][tag] = octets.raw(octets.varint())
    hyper, layers = octets.u(1), octets.u(1)
    if layers < 1:
        raise Rejected("no layer")
    table = []
    for _ in range(hyper + layers * tiles):
        size = octets.varint()
        table.append((size, octets.u(4) if size else None))
    if octets.at != len(octets.data):
        raise Rejected("octets left in the header")
    segments: list[bytes | None] = []
    at = length
    for size, check in table:
        segment = data[at : at + size]
        at += size
        segments.append(segment if len(segment) == size and (size == 0 or crc32c(segment) == check) else None)
    frame["hyper"] = segments[:hyper]
    frame["layers"] = [segments[hyper + k * tiles : hyper + (k + 1) * tiles] for k in range(layers)]
    return frame


def decode_segment(data: bytes, indices: list[int], tables: list[tuple[list[int], int]], skip_below: int) -> list[int]:
    """Symbols of a segment; ``tables`` are (F, offset)."""
    if len(data) % 2 or len(data) in (2, 4):
        raise Damaged("length")
    words = [data[k] + 256 * data[k + 1] for k in range(0, len(data), 2)]
    if words:
        x, following = (words[0] << 32) + (words[1] << 16) + words[2], 3
        if x < 2**32:
            raise Damaged("start")
    else:
        x, following = 2**32, 0

    def refill() -> None:
        nonlocal x, following
        if x < 2**32:
            if following >= len(words):
                raise Damaged("no more words")
            x = x * 65536 + words[following]
            following += 1

    def bits(c: int) -> int:
        nonlocal x
        value = x % 2**c
        x >>= c
        refill()
        return value

    symbols = []
    for index in indices:
        if index < skip_below:
            symbols.append(0)
            continue
        table, offset = tables[index]
        n = len(table) - 2
        p = x % 65536
        k = max(slot for slot in range(n + 1) if table[slot] <= p)
        x = (table[k + 1] - table[k]) * (x >> 16) + p - table[k]
        refill()
        symbol = offset + k
        if k == n:
            sign, c = bits(1), bits(4)
            e = 2**c + bits(c)
            symbol = offset - e if sign else offset + n - 1 + e
            if not -32768 <= symbol <= 32767:
                raise Damaged("symbol")
        symbols.append(symbol)
    if x != 2**32 or following != len(words):
        raise Damaged("end")
    return symbols


def tile_windows(frame: dict) -> list[tuple[int, int, int, int]]:
    """First and end row, first and end column of each tile in the latent."""
    w, h = ceil_div(frame["width"], 16), ceil_div(frame["height"], 16)
    if "tile_size" not in frame:
        return [(0, h, 0, w)]
    t = frame["tile_size"]
    columns, rows = ceil_div(frame["width"], 64 * t), ceil_div(frame["height"], 64 * t)
    return [
        (4 * t * j, min(4 * t * (j + 1), h), 4 * t * i, min(4 * t * (i + 1), w)) for j in range(rows) for i in range(columns)
    ]


def tile_positions(window: tuple[int, int, int, int], channels: list[int]) -> list[tuple[int, int, int]]:
    """Channel, row, column of the symbols of a tile in their order."""
    y0, y1, x0, x1 = window
    return [
        (c, y, x) for parity in (0, 1) for c in channels for y in range(y0, y1) for x in range(x0, x1) if (y + x) % 2 == parity
    ]
