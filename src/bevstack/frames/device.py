"""V4L2 cameras and network streams. MJPEG cameras hand over their JPEG bytes untouched; others RGB images."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from bevstack.errors import SourceError

from .calibration import RigEntry, rig_order
from .checks import require_rig
from .decode import JPEG_MAGIC
from .source import FrameSource, SyncOptions
from .types import Frame
from .video import calibrate

_EOI = b"\xff\xd9"


class Capture(Protocol):
    """What is used of ``cv2.VideoCapture``; tests put another one in its place."""

    def read(self) -> tuple[bool, NDArray[np.uint8]]: ...

    def get(self, prop: int) -> float: ...

    def release(self) -> None: ...


def device_path(device: str) -> str:
    """``0``, ``v4l2:0`` and ``/dev/video0`` are the same."""
    name = device.removeprefix("v4l2:")
    return f"/dev/video{name}" if name.isdigit() else name


def open_stream(url: str, size: tuple[int, int] | None, rate: float | None) -> Capture:
    """Open a network stream through FFmpeg. Its sender decides on size and rate.

    Raises:
        SourceError: nobody answers, or it is not video.
    """
    patience = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, 10_000, cv2.CAP_PROP_READ_TIMEOUT_MSEC, 5_000]
    capture = cv2.VideoCapture(url, cv2.CAP_FFMPEG, patience)
    if not capture.isOpened():
        capture.release()
        raise SourceError(f"{url} cannot be opened: check the address, and that the camera sends")
    return capture  # type: ignore[return-value]


def open_live(where: str, size: tuple[int, int] | None, rate: float | None) -> Capture:
    """Open a device or a stream, whichever it is. Raises as ``open_v4l2`` and ``open_stream`` do."""
    return open_stream(where, size, rate) if "://" in where else open_v4l2(where, size, rate)


def open_v4l2(device: str, size: tuple[int, int] | None, rate: float | None) -> Capture:
    """Open a device, asking for MJPEG, ``size`` and ``rate`` (drivers answer with the nearest they can).

    Raises:
        SourceError: no such device, no permission, or not a camera.
    """
    device = device_path(device)
    path = Path(device)
    if not path.exists():
        others = ", ".join(sorted(str(p) for p in Path("/dev").glob("video*"))) or "none"
        raise SourceError(f"there is no camera {device} (found: {others}): plug it in or name another")
    try:
        with path.open("rb"):
            pass
    except PermissionError:
        raise SourceError(f"{device} may not be opened: add your user to the group `video` and log in again") from None
    except OSError as error:
        raise SourceError(f"{device} cannot be opened: {error.strerror}") from None
    capture = cv2.VideoCapture(device, cv2.CAP_V4L2)
    if not capture.isOpened():
        raise SourceError(f"{device} is not a camera that V4L2 can read, or another program uses it")
    capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
    if size is not None:
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, size[0])
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size[1])
    if rate is not None:
        capture.set(cv2.CAP_PROP_FPS, rate)
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    if int(capture.get(cv2.CAP_PROP_FOURCC)) == cv2.VideoWriter.fourcc(*"MJPG"):
        capture.set(cv2.CAP_PROP_CONVERT_RGB, 0)
    return capture  # type: ignore[return-value]


class DeviceSource(FrameSource):
    """Live cameras, each read by its own thread. Stamps are the system's time when the driver hands over the image.

    Of each camera only the newest image waits to be taken; images that are overtaken are counted in ``drops``.

    Args:
        inputs: camera name -> device (``/dev/video0``, ``v4l2:0``) or, with ``open_stream`` or ``open_live``, URL.
        cameras: calibrations by name (``RigEntry``); a camera without one is guessed, with a notice.
        size: (width, height) to ask the driver for; None: the rig file's, else the driver's default.
        frame_rate: images per second to ask the driver for.
        timeout: seconds without an image of any camera after which the source ends with an error.
        sync: how frames become instants.
        opener: opens one device: ``open_v4l2``, ``open_stream`` or ``open_live``.

    Raises:
        SourceError: a device that is missing or cannot be opened.
        CalibrationError: see ``video.calibrate``.
    """

    def __init__(
        self,
        inputs: Mapping[str, str],
        cameras: Mapping[str, RigEntry] | None = None,
        *,
        size: tuple[int, int] | None = None,
        frame_rate: float | None = None,
        timeout: float = 5.0,
        sync: SyncOptions | None = None,
        opener: Callable[[str, tuple[int, int] | None, float | None], Capture] = open_v4l2,
    ) -> None:
        super().__init__(sync)
        self.inputs = {name: inputs[name] for name in rig_order(inputs)}
        self.name = ", ".join(self.inputs.values())
        self.timeout = timeout
        self.drops: dict[str, int] = dict.fromkeys(self.inputs, 0)
        self._rate = frame_rate
        self._captures: dict[str, Capture] = {}
        self._newest: dict[str, Frame] = {}
        self._errors: dict[str, str] = {}
        self._condition = threading.Condition()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        entries = cameras or {}
        try:
            for name, device in self.inputs.items():
                entry = entries.get(name)
                capture = opener(device, size or (entry.size if entry else None), frame_rate)
                self._captures[name] = capture
                found = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
                self._cameras[name], notice = calibrate(name, entry, found)
                self._rate = self._rate or float(capture.get(cv2.CAP_PROP_FPS)) or None
                if notice:
                    self.note(notice)
            for problem in require_rig(self._cameras):
                self.note(problem)
        except BaseException:
            self.close()
            raise

    def frames(self) -> Iterator[Frame]:
        """Newest images of all cameras as they come, until ``close``.

        Raises:
            SourceError: when no camera has sent anything for ``timeout`` seconds.
        """
        self._start()
        while not self._stop.is_set():
            with self._condition:
                arrived = self._condition.wait_for(lambda: self._newest or self._stop.is_set(), self.timeout)
                if self._stop.is_set():
                    return
                if not arrived:
                    reason = "; ".join(self._errors.values()) or "the driver hands over nothing"
                    raise SourceError(f"no image of {self.name} for {self.timeout:.0f} s ({reason}): check cable and driver")
                batch = sorted(self._newest.values(), key=lambda frame: frame.stamp)
                self._newest.clear()
            yield from batch

    def _start(self) -> None:
        with self._condition:
            for name in () if self._threads or self._stop.is_set() else self.inputs:
                thread = threading.Thread(target=self._read, args=(name,), name=f"camera-{name}", daemon=True)
                thread.start()
                self._threads.append(thread)

    def _read(self, name: str) -> None:
        capture, camera = self._captures[name], self._cameras[name]
        while not self._stop.is_set():
            good, data = capture.read()
            stamp = time.time_ns()
            if not good:
                self._errors[name] = f"{name}: reading {self.inputs[name]} fails"
                if self._stop.wait(0.05):
                    return
                continue
            frame = self._frame(name, data, stamp)
            if frame is None:
                continue
            if frame.image is not None and frame.image.shape[:2] != (camera.height, camera.width):
                self._errors[name] = f"{name}: images have changed their size"
                continue
            with self._condition:
                self.drops[name] += name in self._newest
                self._newest[name] = frame
                self._condition.notify_all()

    def _frame(self, name: str, data: NDArray[np.uint8], stamp: int) -> Frame | None:
        camera = self._cameras[name]
        if data.ndim == 3 and data.shape[2] == 3:
            return Frame(camera, stamp, image=np.asarray(cv2.cvtColor(data, cv2.COLOR_BGR2RGB), dtype=np.uint8))
        raw = np.ascontiguousarray(data).reshape(-1).tobytes()
        if not raw.startswith(JPEG_MAGIC):
            self._errors[name] = f"{name}: {self.inputs[name]} sends neither JPEG nor RGB"
            return None
        # Drivers hand over the whole buffer: cut behind the end of the image.
        end = raw.rfind(_EOI)
        return Frame(camera, stamp, encoded=raw[: end + 2] if end > 0 else raw)

    def close(self) -> None:
        """Stop the readers and release the devices."""
        self._stop.set()
        with self._condition:
            threads, self._threads = self._threads, []
            self._condition.notify_all()
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(self.timeout)
        captures, self._captures = self._captures, {}
        for capture in captures.values():
            capture.release()
