"""Learned streams on the page: what the codec nodes tell, and original, decoded picture and difference of one instant."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bevstack.errors import BevstackError
from bevstack.frames.decode import decode

from .received import Picture

MAX_WIDTH = 640
GAIN = 8
"""How much the difference is amplified."""
_QUALITY = 85
_KEPT = 4
_WINDOW_S, _SLOW_S = 3.0, 30.0

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class StreamStatus:
    """One frame as a codec node tells it (stack_msgs/CodecStatus). Times in milliseconds; ``psnr`` NaN where not measured."""

    camera: str
    direction: str
    stamp: int
    model: str = ""
    engine: str = ""
    width: int = 0
    height: int = 0
    bytes: int = 0
    bits_per_pixel: float = 0.0
    rate_point: float = 0.0
    psnr: float = float("nan")
    damaged: int = 0
    frames_in: int = 0
    frames_out: int = 0
    frames_dropped: int = 0
    stages: tuple[tuple[str, float], ...] = ()
    latency_ms: float = 0.0
    reason: str = ""


@dataclass
class _Stream:
    encoded: StreamStatus | None = None
    decoded: StreamStatus | None = None
    arrival: float = 0.0  # of the newest status
    sizes: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=200))  # arrival, bytes
    originals: deque[Picture] = field(default_factory=lambda: deque(maxlen=_KEPT))
    pictures: deque[Picture] = field(default_factory=lambda: deque(maxlen=2))


@dataclass(frozen=True)
class Triple:
    """JPEG bytes of one instant, and the PSNR (dB) of the decoded picture at full size."""

    stamp: int
    original: bytes
    decoded: bytes
    difference: bytes
    psnr: float


class LearnedStreams:
    """Collects what arrives; every method may be called from any thread.

    Args:
        find: a camera's image of exactly one instant, or None (``PageState.picture_of``).
        changed: called after every change.
        clock: monotonic seconds (for tests).
    """

    def __init__(
        self,
        find: Callable[[str, int], Picture | None],
        changed: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lock = threading.Lock()
        self._find, self._changed, self._clock = find, changed, clock
        self._streams: dict[str, _Stream] = {}
        self._made: OrderedDict[tuple[str, int], Triple | None] = OrderedDict()

    def set_status(self, status: StreamStatus) -> None:
        """A frame has been coded or decoded, or was lost on the way."""
        now = self._clock()
        # Decoding takes its time: the image of a frame that has just been coded is held until its picture comes back.
        original = self._find(status.camera, status.stamp) if status.direction == "encode" else None
        with self._lock:
            stream = self._streams.setdefault(status.camera, _Stream())
            stream.arrival = now
            if status.direction == "decode":
                stream.decoded = _with_facts(status, stream.decoded)
            else:
                stream.encoded = _with_facts(status, stream.encoded)
            # Where only the receiving end is seen, its sizes count.
            if status.bytes and (status.direction == "encode" or stream.encoded is None):
                stream.sizes.append((now, status.bytes))
            if original is not None:
                stream.originals.append(original)
        self._changed()

    def add_decoded(self, camera: str, picture: Picture) -> None:
        """A picture that the decoder gave."""
        original = self._find(camera, picture.stamp)
        with self._lock:
            stream = self._streams.setdefault(camera, _Stream())
            stream.pictures.append(picture)
            if original is not None:
                stream.originals.append(original)
        self._changed()

    def json(self) -> list[dict[str, Any]]:
        """Per stream, in the order of their appearance, what the page writes down."""
        now = self._clock()
        with self._lock:
            return [_stream_json(name, stream, now) for name, stream in self._streams.items()]

    def triple(self, camera: str) -> Triple | None:
        """The newest instant of which both pictures are here; None if there is none. Decodes and encodes: for a worker."""
        with self._lock:
            stream = self._streams.get(camera)
            if stream is None:
                return None
            originals = {picture.stamp: picture for picture in stream.originals}
            pair = next(
                ((originals[shown.stamp], shown) for shown in reversed(stream.pictures) if shown.stamp in originals), None
            )
            if pair is None:
                return None
            key = (camera, pair[1].stamp)
            if key in self._made:
                return self._made[key]
        made = make_triple(*pair)
        with self._lock:
            self._made[key] = made
            while len(self._made) > 4:
                self._made.popitem(last=False)
        return made


def make_triple(original: Picture, decoded: Picture) -> Triple | None:
    """Both pictures and their amplified difference; None where one cannot be decoded or their sizes differ."""
    try:
        before, after = _rgb(original), _rgb(decoded)
    except BevstackError:
        return None
    if before.shape != after.shape:
        return None
    difference = cv2.absdiff(before, after)
    error = float(np.mean(np.square(difference, dtype=np.float32)))
    loud = cv2.convertScaleAbs(difference, alpha=GAIN)
    quality = 10 * np.log10(255**2 / error) if error else float("inf")
    return Triple(decoded.stamp, _jpeg(before), _jpeg(after), _jpeg(np.asarray(loud, np.uint8)), float(quality))


def _rgb(picture: Picture) -> Image:
    data = picture.data
    if isinstance(data, np.ndarray) and data.ndim == 3:
        return data
    return decode(np.ascontiguousarray(data).data if isinstance(data, np.ndarray) else data)


def _jpeg(rgb: Image) -> bytes:
    height, width = rgb.shape[:2]
    if width > MAX_WIDTH:
        size = (MAX_WIDTH, max(1, round(height * MAX_WIDTH / width)))
        rgb = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
    return bytes(cv2.imencode(".jpg", np.ascontiguousarray(rgb[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1])


def _with_facts(status: StreamStatus, last: StreamStatus | None) -> StreamStatus:
    """A lost frame has no size: what the last good one had stays, with the new counts and the reason."""
    if status.bytes or last is None:
        return status
    counts = {name: getattr(status, name) for name in ("frames_in", "frames_out", "frames_dropped", "reason")}
    return replace(last, **counts)


def _stream_json(name: str, stream: _Stream, now: float) -> dict[str, Any]:
    encoded, decoded = stream.encoded, stream.decoded
    recent = [(at, size) for at, size in stream.sizes if now - at < _WINDOW_S]
    if len(recent) < 2:  # a slow stream
        recent = [(at, size) for at, size in list(stream.sizes)[-2:] if now - at < _SLOW_S]
    span = recent[-1][0] - recent[0][0] if len(recent) > 1 else 0.0
    known = encoded or decoded
    return {
        "camera": name,
        "stamp": str(known.stamp) if known else None,
        "age": round(now - stream.arrival, 2) if known else None,
        "model": known.model if known else "",
        "engine": known.engine if known else "",
        "width": known.width if known else 0,
        "height": known.height if known else 0,
        "bytes": known.bytes if known else 0,
        "bpp": round(known.bits_per_pixel, 4) if known else 0.0,
        "kbps": round(8e-3 * sum(size for _, size in recent[1:]) / span, 1) if span else None,
        "rate": round((len(recent) - 1) / span, 2) if span else 0.0,
        "rate_point": round(known.rate_point, 2) if known else 0.0,
        "psnr": round(encoded.psnr, 2) if encoded and np.isfinite(encoded.psnr) else None,
        "frames_in": encoded.frames_in if encoded else 0,
        "frames_dropped": encoded.frames_dropped if encoded else 0,
        "damaged": decoded.damaged if decoded else 0,
        "encode": _stages_json(encoded),
        "decode": _stages_json(decoded),
        "latency_ms": round(known.latency_ms, 1) if known else 0.0,
        "reason": "; ".join(filter(None, (s.reason for s in (encoded, decoded) if s))),
    }


def _stages_json(status: StreamStatus | None) -> list[dict[str, Any]]:
    return [{"name": name, "ms": round(ms, 2)} for name, ms in status.stages] if status else []
