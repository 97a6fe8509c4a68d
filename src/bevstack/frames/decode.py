"""Compressed and raw image bytes to RGB arrays near the network's input size, in worker threads.

JPEG is decoded by libjpeg-turbo (simplejpeg): it scales in the DCT domain in steps of 1/8, reports damaged data instead of
painting it grey, and lets the interpreter run meanwhile. `python benchmarks/decode.py` compares it with OpenCV.
"""

from __future__ import annotations

import logging
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from bevstack.errors import BevstackError, SourceError
from bevstack.geometry import Camera

from .formats import find
from .rectify import Rectifier
from .shared import SharedDecodes, decode_jpeg, eighths
from .types import Frame

Filter = Literal["area", "bicubic"]
Image = NDArray[np.uint8]

JPEG_MAGIC = b"\xff\xd8\xff"
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
MAX_PIXELS = 1 << 27
# Where the DCT has done most of the shrinking, bilinear is as close to the full image's area average as another area average
# (47.2 against 47.1 dB from 1600x900 to 704x396) and six times faster: `python benchmarks/decode.py`.
_LINEAR_SHRINK = 4 / 3

logger = logging.getLogger("bevstack.frames")


class DecodeError(SourceError):
    """Image bytes cannot be decoded: truncated, damaged, or of an unknown format."""


@dataclass(frozen=True)
class DecodeFailure:
    """A frame that could not be decoded: which camera and stamp (ns), and why, in one line."""

    camera: str
    stamp: int
    reason: str


def image_size(encoded: bytes | memoryview) -> tuple[int, int]:
    """(width, height) that the header of a JPEG, PNG or added kind (``formats``) states, without decoding.

    Raises:
        DecodeError: of no known kind, or a damaged header.
    """
    head = bytes(encoded[:24])
    if head.startswith(PNG_MAGIC):
        if len(head) < 24 or head[12:16] != b"IHDR":
            raise DecodeError(f"PNG of {len(encoded)} bytes has no header: it is truncated")
        width, height = int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
    elif head.startswith(JPEG_MAGIC):
        try:
            height, width = simplejpeg.decode_jpeg_header(encoded, strict=False)[:2]
        except (ValueError, KeyError) as error:  # KeyError: its table of colour spaces lacks what a damaged header states
            raise DecodeError(f"JPEG of {len(encoded)} bytes has a damaged header ({error})") from None
    else:
        other = find(encoded)
        if other is None:
            raise DecodeError(f"{len(encoded)} bytes starting with {head[:4].hex(' ')!r} are neither JPEG nor PNG")
        try:
            width, height = other.size(encoded)
        except BevstackError as error:
            raise DecodeError(str(error)) from None
    if not 0 < width * height <= MAX_PIXELS:
        raise DecodeError(f"image header states {width}x{height} pixels, outside 1 to {MAX_PIXELS}")
    return int(width), int(height)


def resize(image: Image, size: tuple[int, int], filter: Filter = "area") -> Image:
    """Resize (H, W, 3) uint8 to ``size`` = (width, height), corner-aligned.

    Args:
        image: RGB, any memory layout.
        size: target (width, height), pixels.
        filter: ``area`` averages (OpenCV, linear where it enlarges); ``bicubic`` is Pillow's bicubic, which widens its kernel
            when it shrinks: official Fast-BEV weights are trained on it.
    """
    height, width = image.shape[:2]
    if (width, height) == size:
        return np.ascontiguousarray(image)
    if filter == "bicubic":
        from PIL import Image as pil

        return np.asarray(pil.fromarray(image).resize(size, pil.Resampling.BICUBIC))
    shrinks = size[0] <= width and size[1] <= height
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR), dtype=np.uint8)


def decode(
    encoded: bytes | memoryview,
    size: tuple[int, int] | None = None,
    filter: Filter = "area",
    *,
    exact: bool = True,
    jpeg: Callable[[bytes | memoryview, tuple[int, int], int], Image] = decode_jpeg,
) -> Image:
    """Decode JPEG or PNG bytes, or those of an added kind (``formats``), to (H, W, 3) uint8 RGB, C-contiguous.

    Args:
        encoded: the compressed image.
        size: (width, height) of the result; None keeps the image's own size.
        filter: see ``resize``. With ``area`` a JPEG is decoded at the smallest n/8 scale that is not below ``size``, then
            resized. ``bicubic`` decodes in full first, because the kernel must see the original pixels.
        exact: False leaves out the last resize: the result is at least ``size``.
        jpeg: decodes a JPEG, given its bytes, its size and the scale n of n/8.

    Raises:
        DecodeError: truncated or damaged bytes, or an unknown format.
    """
    width, height = image_size(encoded)
    if bytes(encoded[:3]) == JPEG_MAGIC:
        least = (0, 0) if size is None or filter == "bicubic" or size[0] > width or size[1] > height else size
        try:
            image = jpeg(encoded, (width, height), eighths((width, height), least) if least != (0, 0) else 8)
        except (ValueError, KeyError) as error:
            raise DecodeError(f"JPEG of {len(encoded)} bytes ({width}x{height}) is damaged: {error}") from None
    elif (other := find(encoded)) is not None:
        try:
            image = other.decode(encoded)
        except BevstackError as error:
            raise DecodeError(f"{other.name} of {len(encoded)} bytes cannot be decoded: {error}") from None
    else:
        image = _decode_png(encoded)
    if size is None or not exact:
        return image
    shrink = max(image.shape[1] / size[0], image.shape[0] / size[1])
    if filter == "area" and image.shape[1] < width and 1.0 < shrink < _LINEAR_SHRINK:
        return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
    return resize(image, size, filter)


def _decode_png(encoded: bytes | memoryview) -> Image:
    """Pillow, because it refuses what OpenCV fills with black: cut files and wrong checksums."""
    import io

    from PIL import Image as pil

    if b"IEND\xaeB`\x82" not in bytes(encoded[-64:]):
        raise DecodeError(f"PNG of {len(encoded)} bytes is truncated: it has no end")
    try:
        with pil.open(io.BytesIO(encoded), formats=("PNG",)) as picture:
            picture.load()
            if picture.mode.startswith("I"):  # 16 bits of grey
                grey = (np.asarray(picture).astype(np.uint32) >> 8).astype(np.uint8)
                return np.ascontiguousarray(np.repeat(grey[..., None], 3, axis=2))
            return np.ascontiguousarray(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError, IndexError, struct.error, pil.DecompressionBombError) as error:
        raise DecodeError(f"PNG of {len(encoded)} bytes is damaged: {error}") from None


def decode_frame(
    frame: Frame,
    size: tuple[int, int] | None = None,
    filter: Filter = "area",
    rectifier: Rectifier | None = None,
    *,
    exact: bool = True,
    shared: SharedDecodes | None = None,
) -> Frame:
    """The same frame with its image decoded, resized and, given a rectifier for ``size``, undistorted.

    An undistorted frame carries the ideal pinhole camera (``rectifier.camera``) and ``rectified`` = True.

    Args:
        exact: False: the image is at least ``size``, or as it came.
        shared: others of this process that may have decoded the same bytes.

    Raises:
        DecodeError: bytes that cannot be decoded, or whose size is not the one that the camera's calibration belongs to.
    """
    image = frame.image
    if image is None:
        if frame.encoded is None:
            raise DecodeError(f"{frame.camera.name} carries neither an image nor compressed bytes")
        found = image_size(frame.encoded)
        if found != (frame.camera.width, frame.camera.height):
            raise DecodeError(
                f"{frame.camera.name} sends {found[0]}x{found[1]} but its calibration is for {frame.camera.width}x"
                f"{frame.camera.height}: give the camera_info that belongs to this image size"
            )
        jpeg = partial(shared.jpeg, frame.camera.name, frame.stamp) if shared is not None else decode_jpeg
        image = decode(frame.encoded, size, filter, exact=exact and rectifier is None, jpeg=jpeg)
    elif size is not None and rectifier is None and exact:
        image = resize(image, size, filter)
    if rectifier is not None and not frame.rectified:
        return replace(frame, camera=rectifier.camera, image=rectifier(image), rectified=True)
    return replace(frame, image=image)


@dataclass
class DecodeCounters:
    """What became of one camera's frames: ``submitted == decoded + failed + dropped + waiting``."""

    submitted: int = 0
    decoded: int = 0
    failed: int = 0
    dropped: int = 0


@dataclass(frozen=True)
class _Job:
    frame: Frame
    size: tuple[int, int] | None
    filter: Filter
    done: Callable[[Frame | DecodeFailure], None]
    keep: bool


class DecodePool:
    """Worker threads that decode frames; per camera only the newest waiting frame is kept, older ones are dropped and counted.

    One camera's frames are decoded one after the other, so results come in stamp order. Decoding runs outside the interpreter
    lock.

    Args:
        workers: threads.
        filter: default resize filter of ``submit``.
        newest_wins: False keeps every frame (a bag that is evaluated must not lose any).
        rectify: remove the distortion of cameras that have any.
        exact: False leaves out the last resize: images are at least as large as asked for.
        shared: decode together with the other pools that are given the same one.
    """

    def __init__(
        self,
        workers: int = 2,
        *,
        filter: Filter = "area",
        newest_wins: bool = True,
        rectify: bool = True,
        exact: bool = True,
        shared: SharedDecodes | None = None,
    ) -> None:
        if workers < 1:
            raise ValueError(f"a decode pool needs at least one worker, not {workers}")
        cv2.setNumThreads(1)  # the pool is the parallelism; OpenCV's own threads would fight over the same cores
        self.filter: Filter = filter
        self.newest_wins = newest_wins
        self.counters: dict[str, DecodeCounters] = {}
        self.rectify = rectify
        self.exact = exact
        self._shared = shared
        if shared is not None:
            shared.join(self)
        self._rectifiers: dict[str, Rectifier] = {}
        self._condition = threading.Condition()
        self._waiting: dict[str, deque[_Job]] = {}
        self._busy: set[str] = set()
        self._closed = False
        self._threads = [threading.Thread(target=self._work, name=f"decode-{i}", daemon=True) for i in range(workers)]
        for thread in self._threads:
            thread.start()

    @property
    def drops(self) -> int:
        """Frames of all cameras that a newer one overtook."""
        return sum(c.dropped for c in self.counters.values())

    def submit(
        self,
        frame: Frame,
        size: tuple[int, int] | None,
        done: Callable[[Frame | DecodeFailure], None],
        filter: Filter | None = None,
    ) -> None:
        """Queue a frame; ``done`` is called on a worker thread with the decoded frame or with the failure.

        A frame that a newer one of the same camera overtakes is dropped without a call. What ``done`` raises is logged.

        Raises:
            SourceError: after ``close``.
        """
        self._enqueue(_Job(frame, size, filter or self.filter, done, keep=not self.newest_wins))

    def _enqueue(self, job: _Job) -> None:
        name = job.frame.camera.name
        with self._condition:
            if self._closed:
                raise SourceError(f"frame of {name} came after the decode pool was closed")
            counter = self.counters.setdefault(name, DecodeCounters())
            counter.submitted += 1
            waiting = self._waiting.setdefault(name, deque())
            if not job.keep:
                kept = [other for other in waiting if other.keep]
                counter.dropped += len(waiting) - len(kept)
                waiting.clear()
                waiting.extend(kept)
            waiting.append(job)
            self._condition.notify()

    def decode_all(
        self, frames: Iterable[Frame], size: Callable[[Camera], tuple[int, int] | None], filter: Filter | None = None
    ) -> list[Frame | DecodeFailure]:
        """Decode frames (of different cameras, side by side) and wait for all; results in the order of ``frames``. None is
        dropped.

        Args:
            frames: any frames, for example ``frame_set.frames.values()``.
            size: target (width, height) for a camera.
        """
        jobs = list(frames)
        results: list[Frame | DecodeFailure | None] = [None] * len(jobs)
        left = threading.Semaphore(0)

        def keep(index: int) -> Callable[[Frame | DecodeFailure], None]:
            def done(result: Frame | DecodeFailure) -> None:
                results[index] = result
                left.release()

            return done

        for index, frame in enumerate(jobs):
            self._enqueue(_Job(frame, size(frame.camera), filter or self.filter, keep(index), keep=True))
        for _ in jobs:
            left.acquire()
        return [result for result in results if result is not None]

    def close(self, *, drain: bool = False, timeout: float = 10.0) -> None:
        """Stop the workers and wait for them. ``drain`` decodes what waits first; else waiting frames count as dropped."""
        orphans: list[_Job] = []
        if self._shared is not None:
            self._shared.leave(self)
        with self._condition:
            self._closed = True
            if not drain:
                for name, waiting in self._waiting.items():
                    self.counters[name].dropped += len(waiting)
                    orphans += [job for job in waiting if job.keep]
                    waiting.clear()
            self._condition.notify_all()
        for job in orphans:  # somebody may be waiting for these
            job.done(DecodeFailure(job.frame.camera.name, job.frame.stamp, "the decode pool was closed"))
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout)

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _next(self) -> _Job | None:
        """The next job of a camera that no other worker is busy with; None when the pool is closed."""
        with self._condition:
            while True:
                for name, waiting in self._waiting.items():
                    if waiting and name not in self._busy:
                        self._busy.add(name)
                        # The camera goes to the end of the line, so that a fast one cannot starve the others.
                        self._waiting[name] = self._waiting.pop(name)
                        return waiting.popleft()
                if self._closed and not any(self._waiting.values()):
                    return None
                self._condition.wait()

    def _rectifier(self, frame: Frame, size: tuple[int, int] | None) -> Rectifier | None:
        """The camera's rectifier, kept from frame to frame while calibration and size stay the same."""
        camera = frame.camera
        if not self.rectify or frame.rectified or not camera.distorted:
            return None
        target = size if size is not None else (camera.width, camera.height)
        known = self._rectifiers.get(camera.name)
        if known is None or not known.matches(camera, target):
            known = self._rectifiers[camera.name] = Rectifier(camera, target)
        return known

    def _work(self) -> None:
        while (job := self._next()) is not None:
            name = job.frame.camera.name
            result: Frame | DecodeFailure
            try:
                result = decode_frame(
                    job.frame,
                    job.size,
                    job.filter,
                    self._rectifier(job.frame, job.size),
                    exact=self.exact,
                    shared=self._shared,
                )
            except Exception as error:  # noqa: BLE001 - a worker must outlive any bad frame; the failure is handed on
                result = DecodeFailure(name, job.frame.stamp, f"{name} at {job.frame.stamp} ns: {error}")
            with self._condition:
                if isinstance(result, DecodeFailure):
                    self.counters[name].failed += 1
                else:
                    self.counters[name].decoded += 1
            try:
                job.done(result)
            except Exception:
                # One bad callback must not take the worker with it: cameras would stop without a word.
                logger.exception("the receiver of decoded frames of %s failed", name)
            finally:
                with self._condition:
                    self._busy.discard(name)
                    self._condition.notify_all()
