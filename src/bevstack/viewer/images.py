"""Pictures for the browser: passed on as they are when small, else shrunk; one result shared by all clients."""

from __future__ import annotations

import threading
from collections import OrderedDict

import cv2
import numpy as np
from numpy.typing import NDArray

from bevstack.errors import BevstackError
from bevstack.frames.decode import decode
from bevstack.frames.formats import find

from .received import Picture

# What a page that shows six cameras side by side can use; a larger image would be shrunk by the browser anyway.
MAX_WIDTH = 800
# Compressed bytes up to this size are not touched: recoding costs more than sending them on this machine.
PASS_BYTES = 150_000
QUALITY = 78
_JPEG = b"\xff\xd8"
_PNG = b"\x89PNG"


class ImageCache:
    """Turns pictures into JPEG (or PNG) bytes that a browser can show; keeps the last few per camera."""

    def __init__(self, per_camera: int = 3) -> None:
        self._lock = threading.Lock()
        self._kept: dict[str, OrderedDict[int, bytes | None]] = {}
        self._per_camera = per_camera

    def get(self, camera: str, picture: Picture) -> bytes | None:
        """Bytes for the browser; None when the picture cannot be decoded (a truncated JPEG, an unknown format)."""
        with self._lock:
            kept = self._kept.setdefault(camera, OrderedDict())
            if picture.stamp in kept:
                return kept[picture.stamp]
        result = browser_bytes(picture)
        with self._lock:
            kept[picture.stamp] = result
            while len(kept) > self._per_camera:
                kept.popitem(last=False)
        return result


def browser_bytes(picture: Picture, *, max_width: int = MAX_WIDTH, pass_bytes: int = PASS_BYTES) -> bytes | None:
    """JPEG or PNG bytes at most ``max_width`` pixels wide; small JPEG and PNG input is returned as it is.

    Returns:
        None when the input is no image.
    """
    data = picture.data
    if isinstance(data, np.ndarray) and data.ndim == 3:
        return _encode(data[..., ::-1], max_width)
    raw = np.ascontiguousarray(data).data if isinstance(data, np.ndarray) else memoryview(data)
    if raw.nbytes <= pass_bytes and bytes(raw[:2]) == _JPEG and bytes(raw[-64:]).rstrip(b"\0").endswith(b"\xff\xd9"):
        return bytes(raw)
    if raw.nbytes <= pass_bytes and bytes(raw[:4]) == _PNG:
        return bytes(raw)
    image = _decoded_elsewhere(raw) if find(raw) is not None else _decode(np.frombuffer(raw, np.uint8), max_width)
    return None if image is None else _encode(image, max_width)


def _decode(raw: NDArray[np.uint8], max_width: int) -> NDArray[np.uint8] | None:
    """BGR pixels, decoded at half size where that is still wide enough (libjpeg does it in the frequency domain)."""
    if not raw.size:
        return None
    width = jpeg_width(raw)
    flag = cv2.IMREAD_REDUCED_COLOR_2 if width is not None and width >= 2 * max_width * 0.9 else cv2.IMREAD_COLOR
    try:
        image = cv2.imdecode(raw, flag)
    except cv2.error:
        return None
    return None if image is None else np.asarray(image, np.uint8)


def _decoded_elsewhere(raw: memoryview) -> NDArray[np.uint8] | None:
    """BGR pixels of a kind that no browser knows, as a learned stream."""
    try:
        return np.ascontiguousarray(decode(raw)[..., ::-1])
    except BevstackError:
        return None


def _encode(bgr: NDArray[np.uint8], max_width: int) -> bytes | None:
    height, width = bgr.shape[:2]
    if width > max_width:
        bgr = np.asarray(
            cv2.resize(bgr, (max_width, round(height * max_width / width)), interpolation=cv2.INTER_AREA), np.uint8
        )
    done, encoded = cv2.imencode(".jpg", np.ascontiguousarray(bgr), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return bytes(encoded) if done else None


def jpeg_width(raw: NDArray[np.uint8]) -> int | None:
    """Width from a JPEG's frame header (ITU-T T.81, B.2.2), None when there is none in the bytes."""
    data = raw[:65536].tobytes()
    at = 2
    if data[:2] != _JPEG:
        return None
    while at + 9 < len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(data[at + 7 : at + 9], "big")
        if length < 2:
            return None
        at += 2 + length
    return None
