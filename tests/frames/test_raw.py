"""Raw image encodings: colours, rows with padding, 16 bits, Bayer, planes, and too few bytes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bevstack.frames.decode import DecodeError
from bevstack.frames.raw import RAW_ENCODINGS, image_to_rgb

W, H = 32, 24


def smooth() -> np.ndarray:
    y, x = np.mgrid[0:H, 0:W]
    return np.stack([60 + 5 * x, 230 - 7 * y, 100 + 2 * x + 2 * y], axis=2).astype(np.uint8)


def test_rgb_is_a_view_of_the_bytes() -> None:
    data = smooth().tobytes()
    image = image_to_rgb(data, W, H, 3 * W, "rgb8")
    assert np.array_equal(image, smooth())
    assert not image.flags.writeable  # bytes are shared


@pytest.mark.parametrize("encoding", ["bgr8", "BGR8", "8UC3"])
def test_bgr_is_turned(encoding: str) -> None:
    assert np.array_equal(image_to_rgb(smooth()[..., ::-1].tobytes(), W, H, 3 * W, encoding), smooth())


def test_padding_at_the_end_of_rows_is_skipped() -> None:
    padded = np.zeros((H, 3 * W + 17), np.uint8)
    padded[:, : 3 * W] = smooth().reshape(H, -1)
    assert np.array_equal(image_to_rgb(padded.tobytes(), W, H, 3 * W + 17, "rgb8"), smooth())
    assert np.array_equal(image_to_rgb(padded.tobytes()[:-17], W, H, 3 * W + 17, "rgb8"), smooth())


def test_grey_becomes_three_equal_channels() -> None:
    image = image_to_rgb(smooth()[..., 0].tobytes(), W, H, W, "mono8")
    assert all(np.array_equal(image[..., c], smooth()[..., 0]) for c in range(3))


@pytest.mark.parametrize("bigendian", [False, True])
def test_the_upper_byte_of_sixteen_bits_is_kept(bigendian: bool) -> None:
    wide = (smooth().astype(np.uint16) * 256 + 33).astype(">u2" if bigendian else "<u2")
    assert np.array_equal(image_to_rgb(wide.tobytes(), W, H, 6 * W, "rgb16", bigendian), smooth())
    assert np.array_equal(image_to_rgb(wide[..., 0].tobytes(), W, H, 2 * W, "mono16", bigendian)[..., 1], smooth()[..., 0])


# Which channel sits at even/odd row and column, read off the encoding's name: row one, then row two.
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_patterns_are_named_by_their_first_two_rows(pattern: str) -> None:
    rgb = smooth()
    mosaic = np.zeros((H, W), np.uint8)
    for index, letter in enumerate(pattern):
        row, column = divmod(index, 2)
        mosaic[row::2, column::2] = rgb[row::2, column::2, "rgb".index(letter)]
    image = image_to_rgb(mosaic.tobytes(), W, H, W, f"bayer_{pattern}8")
    assert np.abs(image[2:-2, 2:-2].astype(int) - rgb[2:-2, 2:-2]).max() <= 12


def test_packed_yuv() -> None:
    yuyv = cv2.cvtColor(smooth(), cv2.COLOR_RGB2YUV_YUYV)
    for encoding, data in (("yuv422_yuy2", yuyv), ("yuyv", yuyv), ("uyvy", yuyv[..., ::-1]), ("yuv422", yuyv[..., ::-1])):
        image = image_to_rgb(np.ascontiguousarray(data).tobytes(), W, H, 2 * W, encoding)
        assert np.abs(image.astype(int) - smooth()).mean() < 4, encoding


@pytest.mark.parametrize("encoding", ["nv12", "nv21"])
def test_planar_yuv(encoding: str) -> None:
    i420 = cv2.cvtColor(smooth(), cv2.COLOR_RGB2YUV_I420)
    luma, u, v = i420[:H], i420[H : H + H // 4].reshape(-1), i420[H + H // 4 :].reshape(-1)
    chroma = np.stack([u, v] if encoding == "nv12" else [v, u], axis=1).reshape(H // 2, W)
    image = image_to_rgb(np.concatenate([luma, chroma]).tobytes(), W, H, W, encoding)
    assert np.abs(image.astype(int) - smooth()).mean() < 5


@given(st.sampled_from(RAW_ENCODINGS), st.integers(0, 40), st.integers(0, 40), st.integers(0, 300), st.binary(max_size=3000))
def test_any_fields_end_in_an_image_or_in_one_line(encoding: str, width: int, height: int, step: int, data: bytes) -> None:
    try:
        image = image_to_rgb(data, width, height, step, encoding)
    except DecodeError:
        return
    assert image.shape == (height, width, 3)
    assert image.dtype == np.uint8


def test_faults_are_named() -> None:
    with pytest.raises(DecodeError, match="encoding '32FC1' is unknown"):
        image_to_rgb(b"", W, H, W, "32FC1")
    with pytest.raises(DecodeError, match="needs rows of 96 bytes, it has 10 bytes in rows of 96"):
        image_to_rgb(b"0123456789", W, H, 96, "rgb8")
    with pytest.raises(DecodeError, match="needs an even width"):
        image_to_rgb(bytes(1000), 3, 2, 6, "yuyv")
