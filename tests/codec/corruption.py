"""Damage of every kind to a coded frame, also under valid check sums."""

from __future__ import annotations

import numpy as np

from bevstack.codec.bitstream import read_layout
from bevstack.codec.crc import crc32c


def corrupt(data: bytes, rng: np.random.Generator) -> bytes:
    """The frame with one kind of damage, chosen at random: bits, cuts, gaps, noise, swaps, or forgery."""
    bad = bytearray(data)
    kind = rng.integers(0, 9)
    at = int(rng.integers(0, len(bad)))
    if kind == 0:
        bad[at] ^= 1 << int(rng.integers(0, 8))
    elif kind == 1:
        return bytes(bad[:at])
    elif kind == 2:
        del bad[at : at + int(rng.integers(1, 40))]
    elif kind == 3:
        bad[at:at] = rng.bytes(int(rng.integers(1, 40)))
    elif kind == 4:
        run = int(rng.integers(1, 60))
        bad[at : at + run] = rng.bytes(len(bad[at : at + run]))
    elif kind == 5:
        return rng.bytes(int(rng.integers(0, 400)))
    elif kind == 6:
        other = int(rng.integers(0, len(bad)))
        bad[at], bad[other] = bad[other], bad[at]
    else:
        # The attacker: header bytes or segment bytes are changed and all check sums made good again.
        end = int.from_bytes(bad[5:7], "little")
        if kind == 7:
            for _ in range(int(rng.integers(1, 4))):
                bad[int(rng.integers(5, end - 4))] = int(rng.integers(0, 256))
        else:
            layout = read_layout(data)
            number = int(rng.integers(0, len(layout.entries)))
            start = layout.start + sum(entry.length for entry in layout.entries[:number])
            length = layout.entries[number].length
            if length:
                old = crc32c(data[start : start + length]).to_bytes(4, "little")
                bad[start + int(rng.integers(0, length))] = int(rng.integers(0, 256))
                new = crc32c(bad[start : start + length]).to_bytes(4, "little")
                where = bytes(bad[:end]).find(old)
                if where > 0:
                    bad[where : where + 4] = new
        end = int.from_bytes(bad[5:7], "little")
        if 27 <= end <= len(bad):
            bad[end - 4 : end] = crc32c(bad[: end - 4]).to_bytes(4, "little")
    return bytes(bad)
