"""Pictures for the browser: small ones untouched, large ones shrunk, broken ones refused."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bevstack.errors import BevstackError
from bevstack.frames import formats
from bevstack.viewer.images import ImageCache, browser_bytes, jpeg_width
from bevstack.viewer.received import Picture


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def encode(image: np.ndarray, ending: str = ".jpg") -> bytes:
    return bytes(cv2.imencode(ending, image)[1])


def size(data: bytes) -> tuple[int, int]:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return image.shape[1], image.shape[0]


@pytest.mark.parametrize("wrap", [bytes, memoryview, lambda b: np.frombuffer(b, np.uint8)])
def test_small_jpeg_is_passed_on(jpeg: bytes, wrap: object) -> None:
    assert callable(wrap)
    assert browser_bytes(Picture(0, wrap(jpeg))) == jpeg


def test_small_png_is_passed_on() -> None:
    data = encode(np.zeros((20, 30, 3), np.uint8), ".png")
    assert browser_bytes(Picture(0, data)) == data


def test_large_jpeg_is_shrunk_and_keeps_its_shape() -> None:
    data = encode(noise(1600, 900))
    assert len(data) > 150_000
    shrunk = browser_bytes(Picture(0, data))
    assert shrunk is not None
    assert size(shrunk) == (800, 450)
    assert len(shrunk) < len(data)


def test_raw_rgb_keeps_its_colours() -> None:
    image = np.zeros((90, 160, 3), np.uint8)
    image[..., 0] = 200  # red
    data = browser_bytes(Picture(0, image))
    assert data is not None
    b, g, r = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[45, 80]
    assert r > 190
    assert g < 15
    assert b < 15


def test_truncated_jpeg_is_not_passed_on_as_whole(jpeg: bytes) -> None:
    cut = jpeg[: len(jpeg) // 2]
    result = browser_bytes(Picture(0, cut))
    assert result is None or result != cut


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_give_bytes_or_none(data: bytes) -> None:
    result = browser_bytes(Picture(0, data))
    assert result is None or isinstance(result, bytes)
    jpeg_width(np.frombuffer(data, np.uint8))


def test_width_from_the_header() -> None:
    assert jpeg_width(np.frombuffer(encode(noise(123, 45)), np.uint8)) == 123


def test_the_cache_encodes_once_and_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def count(picture: Picture) -> bytes:
        calls.append(picture.stamp)
        return b"x"

    monkeypatch.setattr("bevstack.viewer.images.browser_bytes", count)
    cache = ImageCache(per_camera=2)
    for stamp in (1, 1, 2, 3, 3, 1):
        cache.get("cam", Picture(stamp, b""))
    assert calls == [1, 2, 3, 1]


def test_kinds_that_no_browser_knows_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A learned stream on an image topic is shown like a JPEG; a damaged one is refused."""

    def decode(data: bytes | memoryview) -> np.ndarray:
        if len(data) < 10:
            raise BevstackError("too short")
        return np.full((90, 160, 3), (200, 100, 0), np.uint8)

    monkeypatch.setattr(formats, "_known", {b"ODD1": formats.PictureFormat("odd", b"ODD1", lambda _: (160, 90), decode)})
    shown = browser_bytes(Picture(1, b"ODD1" + bytes(20)))
    assert shown is not None
    pixel = cv2.imdecode(np.frombuffer(shown, np.uint8), cv2.IMREAD_COLOR)[40, 40]
    assert np.abs(pixel.astype(int) - (0, 100, 200)).max() < 6, "blue, green, red"
    assert browser_bytes(Picture(1, b"ODD1")) is None
