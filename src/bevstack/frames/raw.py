"""Uncompressed images, as sensor_msgs/Image encodes them, to RGB."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from .decode import DecodeError, Image

# encoding -> (bytes per pixel, OpenCV conversion to RGB or None)
_PACKED: dict[str, tuple[int, int | None]] = {
    "rgb8": (3, None),
    "bgr8": (3, cv2.COLOR_BGR2RGB),
    "8uc3": (3, cv2.COLOR_BGR2RGB),
    "rgba8": (4, cv2.COLOR_RGBA2RGB),
    "bgra8": (4, cv2.COLOR_BGRA2RGB),
    "8uc4": (4, cv2.COLOR_BGRA2RGB),
    "mono8": (1, cv2.COLOR_GRAY2RGB),
    "8uc1": (1, cv2.COLOR_GRAY2RGB),
    # sensor_msgs names a Bayer pattern by its first two pixels of row one and two; OpenCV by those of rows two and three.
    "bayer_rggb8": (1, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr8": (1, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg8": (1, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg8": (1, cv2.COLOR_BayerGB2RGB),
    # Two bytes per pixel, chroma shared by two pixels.
    "yuv422": (2, cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": (2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": (2, cv2.COLOR_YUV2RGB_YUY2),
    "yuyv": (2, cv2.COLOR_YUV2RGB_YUY2),
}
_SIXTEEN: dict[str, str] = {
    "mono16": "mono8",
    "16uc1": "mono8",
    "rgb16": "rgb8",
    "bgr16": "bgr8",
    "rgba16": "rgba8",
    "bgra16": "bgra8",
}
_SIXTEEN |= {f"bayer_{p}16": f"bayer_{p}8" for p in ("rggb", "bggr", "gbrg", "grbg")}

RAW_ENCODINGS: tuple[str, ...] = (*_PACKED, *_SIXTEEN, "nv12", "nv21")


def image_to_rgb(
    data: bytes | memoryview | NDArray[np.uint8], width: int, height: int, step: int, encoding: str, bigendian: bool = False
) -> Image:
    """(H, W, 3) uint8 RGB, C-contiguous, of a sensor_msgs/Image's fields. A view of ``data`` where it is RGB already.

    Args:
        data: the pixels, ``height`` rows of ``step`` bytes; padding at the end of rows is allowed.
        width, height: pixels.
        step: bytes per row; 0 means rows without padding.
        encoding: a sensor_msgs encoding, any case. Of 16-bit ones the upper eight bits are kept.
        bigendian: byte order of 16-bit encodings.

    Raises:
        DecodeError: unknown encoding, or fewer bytes than the sizes need.
    """
    flat = np.frombuffer(data, np.uint8)
    name = encoding.lower()
    if width < 1 or height < 1:
        raise DecodeError(f"image of {width}x{height} pixels is empty")
    if name in ("nv12", "nv21"):
        return _planar(flat, width, height, step or width, name)
    wide = name in _SIXTEEN
    name = _SIXTEEN.get(name, name)
    if name not in _PACKED:
        raise DecodeError(f"image encoding {encoding!r} is unknown: use one of {', '.join(RAW_ENCODINGS)}")
    per_pixel, conversion = _PACKED[name]
    row = width * per_pixel * (2 if wide else 1)
    step = step or row
    if step < row or flat.size < step * (height - 1) + row:
        raise DecodeError(
            f"{encoding} image of {width}x{height} needs rows of {row} bytes, it has {flat.size} bytes in rows of {step}"
        )
    if per_pixel == 2 and width % 2:
        raise DecodeError(f"{encoding} image needs an even width, not {width}")
    rows = np.lib.stride_tricks.as_strided(flat, (height, row), (step, 1), writeable=False)
    if wide:
        rows = rows[:, 0::2] if bigendian else rows[:, 1::2]  # the more significant byte
    pixels = np.ascontiguousarray(rows).reshape((height, width) if per_pixel == 1 else (height, width, per_pixel))
    return pixels if conversion is None else np.asarray(cv2.cvtColor(pixels, conversion), dtype=np.uint8)


def _planar(flat: NDArray[np.uint8], width: int, height: int, step: int, name: str) -> Image:
    """NV12, NV21: a plane of luma, then one of interleaved chroma at half resolution."""
    if width % 2 or height % 2 or step < width or flat.size < step * height * 3 // 2:
        raise DecodeError(
            f"{name} image of {width}x{height} needs {step * height * 3 // 2} bytes and even sizes, it has {flat.size}"
        )
    planes = np.ascontiguousarray(flat[: step * height * 3 // 2].reshape(height * 3 // 2, step)[:, :width])
    code = cv2.COLOR_YUV2RGB_NV12 if name == "nv12" else cv2.COLOR_YUV2RGB_NV21
    return np.asarray(cv2.cvtColor(planes, code), dtype=np.uint8)
