"""Learned streams as pictures like any other: ``frames`` decodes them once ``register`` has been called.

``frames`` stands below this room and knows formats only by their first bytes; this module tells it about ours.
"""

from __future__ import annotations

import threading
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bevstack.errors import BitstreamError, CheckpointError

if TYPE_CHECKING:
    from .bitstream import Header, Limits
    from .codec import Decoded, ImageCodec
    from .networks import EngineName
    from .weights import CodecInfo

MAGIC = b"VTC1"  # as in ``bitstream``, which takes a second to import: nodes that meet no such stream need not pay for it

FORMAT = "rgb8; vtc1 compressed"
"""``sensor_msgs/CompressedImage.format`` of a learned stream, as compressed_image_transport words it."""


def known_models() -> dict[str, CodecInfo]:
    """Codecs of the family whose weights are here."""
    from .config import CODECS
    from .weights import find_weights, read_info

    found = {}
    for name in CODECS:
        try:
            found[name] = read_info(find_weights(name))
        except CheckpointError:
            continue
    return found


class Decoders:
    """Decodes streams of any model whose weights are here; each model is loaded once. Safe to share between threads.

    Args:
        weights: always use these; "": those of the family that the stream names.
        engine: "onnx" or "torch".
        threads: of the engine.
        max_pixels: streams of larger pictures are refused before anything is allocated; None: as ``bitstream.Limits``.
    """

    def __init__(
        self, weights: str | Path = "", engine: EngineName = "onnx", threads: int = 1, max_pixels: int | None = None
    ) -> None:
        self._weights, self._engine, self._threads = str(weights), engine, threads
        self._max_pixels = max_pixels
        self._codecs: dict[bytes, ImageCodec] = {}
        self._lock = threading.Lock()

    def decode(self, data: bytes | memoryview) -> Decoded:
        """The picture, with what was damaged.

        Raises:
            BitstreamError: no frame of ours, or no weights here can read it.
            EngineError: a network failed.
        """
        from .bitstream import Limits

        limits = Limits() if self._max_pixels is None else Limits(pixels=self._max_pixels)
        model = _header(data, limits).model_id
        with self._lock:
            return self._codec(model).decode(data, limits)

    def codec(self, data: bytes | memoryview) -> ImageCodec:
        """The codec that reads a stream. Raises as ``decode``."""
        model = _header(data).model_id
        with self._lock:
            return self._codec(model)

    def close(self) -> None:
        """Frees the networks."""
        with self._lock:
            for codec in self._codecs.values():
                codec.close()
            self._codecs.clear()

    def _codec(self, model: bytes) -> ImageCodec:
        if model not in self._codecs:
            from .codec import ImageCodec

            self._codecs[model] = ImageCodec(self._weights or self._named(model), self._engine, self._threads)
        return self._codecs[model]

    @staticmethod
    def _named(model: bytes) -> str:
        known = known_models()
        for name, info in known.items():
            if info.model_id == model:
                return name
        have = ", ".join(f"{name} {info.model_id.hex()}" for name, info in known.items()) or "none"
        raise BitstreamError(
            f"coded frame: made by model {model.hex()}, whose weights are not here ({have}): put them into the weights folder "
            "or name their file"
        )


def _header(data: bytes | memoryview, limits: Limits | None = None) -> Header:
    from .bitstream import read_layout

    return read_layout(data, limits).header


@cache
def _shared() -> Decoders:
    return Decoders()


def picture_size(data: bytes | memoryview) -> tuple[int, int]:
    """(width, height) that a stream's header states. Raises BitstreamError for a damaged header."""
    header = _header(data)
    return header.width, header.height


def decode_picture(data: bytes | memoryview) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB; damaged tiles are filled in. Raises as ``Decoders.decode``."""
    return _shared().decode(data).rgb


def register() -> None:
    """Let ``frames`` decode learned streams from bags and topics. May be called again."""
    from bevstack.frames.formats import PictureFormat
    from bevstack.frames.formats import register as add

    add(PictureFormat("learned stream", MAGIC, picture_size, decode_picture))


__all__ = ["FORMAT", "Decoders", "decode_picture", "known_models", "picture_size", "register"]
