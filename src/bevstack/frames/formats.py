"""Kinds of compressed pictures that rooms above this one know how to decode.

JPEG and PNG are ``decode``'s own. Another kind is added once, by the room that owns it, and is then decoded wherever frames
are: in bags, on topics, in the decode workers. Whoever has not been asked to add its kind yet is found through the entry points
``bevstack.pictures`` when the first picture of no known kind comes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PictureFormat:
    """One kind of compressed picture. Its functions may be called from several threads at once, and raise ``BevstackError``.

    Attributes:
        name: for messages.
        magic: the bytes that every picture of this kind begins with.
        size: (width, height) from the header alone.
        decode: (H, W, 3) uint8 RGB, C-contiguous.
    """

    name: str
    magic: bytes
    size: Callable[[bytes | memoryview], tuple[int, int]]
    decode: Callable[[bytes | memoryview], NDArray[np.uint8]]


_SHORTEST = 4  # octets of a magic
_known: dict[bytes, PictureFormat] = {}


def register(picture_format: PictureFormat) -> None:
    """Add a kind, or replace the one with the same magic."""
    if len(picture_format.magic) < _SHORTEST:
        raise ValueError(f"{picture_format.name} begins with {picture_format.magic!r}: too short to tell it from others")
    _known[picture_format.magic] = picture_format


def find(encoded: bytes | memoryview) -> PictureFormat | None:
    """The added kind that these bytes are of."""
    found = _known_of(encoded)
    if found is None and len(encoded) >= _SHORTEST:
        _ask_others()
        found = _known_of(encoded)
    return found


def _known_of(encoded: bytes | memoryview) -> PictureFormat | None:
    return next((known for magic, known in list(_known.items()) if bytes(encoded[: len(magic)]) == magic), None)


@cache
def _ask_others() -> None:
    """Lets installed rooms add their kinds, once; a room that cannot be loaded adds nothing."""
    from importlib.metadata import entry_points

    for point in entry_points(group="bevstack.pictures"):
        try:
            point.load()()
        except ImportError as error:
            logging.getLogger(__name__).warning("pictures of kind %s cannot be decoded: %s", point.name, error)
