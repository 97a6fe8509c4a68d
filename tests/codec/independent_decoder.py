"""A second decoder up to the symbols, from docs/bitstream.md alone. Imports nothing of bevstack, on purpose."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np


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


# Dependent quantisation: next state for an even and an odd symbol.
NEXT_STATE = [(0, 1), (2, 3), (5, 4), (7, 6), (1, 0), (3, 2), (4, 5), (6, 7)]


def decode_segment(
    data: bytes, indices: list[int], tables: list[tuple[list[int], int]], skip_below: int, scales: int | None = None
) -> list[int]:
    """Symbols of a segment; ``tables`` are (F, offset). With ``scales``, of a dependent quantiser: its levels."""
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
    state = 0
    for index in indices:
        if index < skip_below:
            symbols.append(0)
            continue
        second = state % 2
        table, offset = tables[index if scales is None else index + scales * (1 + second)]
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
        if scales is not None:
            state = NEXT_STATE[state][symbol % 2]
            symbol = 2 * symbol - (second if symbol > 0 else -second if symbol < 0 else 0)
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


def tile_positions(window: tuple[int, int, int, int], channels: list[int], parity: int | None) -> list[tuple[int, int, int]]:
    """Channel, row, column of the symbols of a tile segment in their order; ``parity`` of row + column, None: all."""
    y0, y1, x0, x1 = window
    return [
        (c, y, x) for c in channels for y in range(y0, y1) for x in range(x0, x1) if parity is None or (y + x) % 2 == parity
    ]


class Model:
    """What parsing needs of a weights file."""

    LAYERS = (
        ("enter", 6, 9, 4, 0, 255),
        ("spread1", 6, 11, 6, 0, 255),
        ("up1", 7, 12, 7, 0, 255),
        ("spread2", 6, 11, 6, 0, 255),
        ("up2", 7, 12, 7, 0, 255),
        ("spread3", 6, 11, 6, 0, 255),
        ("leave", 7, 12, 5, -1024, 1024),
    )

    def __init__(self, path: Path) -> None:
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        entries = json.loads(data[8 : 8 + length])
        self.meta = entries.pop("__metadata__")
        self.config = json.loads(self.meta["config"])
        kinds = {"F32": "<f4", "F16": "<f2", "I32": "<i4", "U8": "u1"}
        self.arrays = {}
        for name, entry in entries.items():
            begin, end = (8 + length + at for at in entry["data_offsets"])
            self.arrays[name] = np.frombuffer(data[begin:end], kinds[entry["dtype"]]).reshape(entry["shape"])
        self.tables = []
        flat, at = self.arrays["tables.cumulative"].tolist(), 0
        for size, offset in zip(self.arrays["tables.sizes"].tolist(), self.arrays["tables.offsets"].tolist()):
            self.tables.append((flat[at : at + size + 2], offset))
            at += size + 2
        self.skip_below = int(self.arrays["tables.skip_below"][0])

    def whole(self, name: str, factor: int) -> np.ndarray:
        scaled = self.arrays[name].astype(np.float64) * factor
        assert (scaled == np.rint(scaled)).all()
        return scaled.astype(np.int64)

    def indices(self, z: np.ndarray, levels: np.ndarray) -> np.ndarray:
        """(Z, a, b) hyper latent and (a, b) levels to (M, 4a, 4b) tables."""
        x = np.concatenate([np.clip(z, -127, 127), levels[None]]).astype(np.int64)
        for name, weight_bits, bias_bits, shift, low, high in self.LAYERS:
            weight = self.whole(f"scales.{name}.weight", 2**weight_bits)
            bias = self.whole(f"scales.{name}.bias", 2**bias_bits)
            if name.startswith("spread"):
                padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
                rows, columns = x.shape[1:]
                total = sum(
                    weight[:, 0, i, j, None, None] * padded[:, i : i + rows, j : j + columns]
                    for i in range(3)
                    for j in range(3)
                )
            else:
                total = np.tensordot(weight[:, :, 0, 0], x, 1)
            x = np.clip((total + bias[:, None, None] + (1 << (shift - 1))) >> shift, low, high)
            if name.startswith("up"):
                c, rows, columns = x.shape
                x = x.reshape(c // 4, 2, 2, rows, columns).transpose(0, 3, 1, 4, 2).reshape(c // 4, 2 * rows, 2 * columns)
        spread = levels.repeat(4, 0).repeat(4, 1)
        prior = np.moveaxis(self.whole("scales.prior", 1)[spread], -1, 0)
        return np.clip((x + prior + 8) >> 4, 0, self.config["distribution"]["count"] - 1)

    def self_test(self) -> str:
        count, state, values = self.config["hyper"]["channels"] * 48, 12345, []
        for k in range(count):
            state = (1103515245 * state + 12345) % 2**31
            values.append(((state >> 16) % 41 - 20) * (6 if k % 7 == 0 else 1))
        levels = np.array([k * (self.config["rate"]["levels"] - 1) // 47 for k in range(48)]).reshape(6, 8)
        indices = self.indices(np.array(values).reshape(-1, 6, 8), levels)
        return hashlib.sha256(indices.astype(np.uint8).tobytes()).hexdigest()

    def symbols(self, data: bytes) -> tuple[np.ndarray, np.ndarray]:
        """Hyper latent (Z, a, b) and symbols or levels (M, h, w) of a frame; those of damaged tiles are 0."""
        frame = parse(data)
        if frame["model_id"].hex() != self.meta["model_id"]:
            raise Rejected("another model")
        top = self.config["rate"]["levels"] - 1
        if frame["rate"] > 256 * top or frame.get("quality_cell", 6) != 6:
            raise Rejected("rate point or quality cells")
        h, w = ceil_div(frame["height"], 16), ceil_div(frame["width"], 16)
        a, b = ceil_div(h, 4), ceil_div(w, 4)
        offset = np.array(frame.get("quality", np.zeros((a, b), np.int64)))
        levels = np.clip(((frame["rate"] + 128) >> 8) + offset, 0, top)
        z_table = np.moveaxis(self.whole("z_table", 1)[levels], -1, 0)
        if len(frame["hyper"]) != 1 or frame["hyper"][0] is None:
            raise Rejected("hyper segment")
        z = np.array(decode_segment(frame["hyper"][0], z_table.reshape(-1).tolist(), self.tables, 0)).reshape(z_table.shape)
        tables = self.indices(z, levels)[:, :h, :w]
        m = self.config["latent"]
        channels = [c for c in range(m) if frame.get("channels", [True] * m)[c]]
        skip = frame.get("skip_below", self.skip_below)
        symbols = np.zeros((m, h, w), np.int64)
        context = self.config["mean"]["kind"] == "checkerboard"
        dependent = self.config.get("quantiser", {}).get("kind", "scalar") == "dependent"
        scales = self.config["distribution"]["count"] if dependent else None
        if len(frame["layers"]) != (2 if context else 1):
            raise Rejected("layers")
        for layer, segments in enumerate(frame["layers"]):
            for window, segment in zip(tile_windows(frame), segments):
                places = tile_positions(window, channels, layer if context else None)
                if segment is None or not places:
                    continue
                at = tuple(np.array(places).T)
                try:
                    symbols[at] = decode_segment(segment, tables[at].tolist(), self.tables, skip, scales)
                except Damaged:
                    continue
        return z, symbols
