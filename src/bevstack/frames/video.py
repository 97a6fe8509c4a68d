"""Video files, one per camera, through OpenCV's FFmpeg."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from pathlib import Path

import cv2
import numpy as np

from bevstack.errors import CalibrationError, SourceError
from bevstack.geometry import Camera

from .calibration import RigEntry, guess_camera, guess_notice, rig_order
from .checks import require_rig
from .source import FrameSource, SyncOptions
from .types import Frame


def calibrate(name: str, entry: RigEntry | None, size: tuple[int, int]) -> tuple[Camera, str | None]:
    """The camera of a source that knows no calibration itself, and the notice to give where it had to be guessed.

    Args:
        name: camera name.
        entry: what the rig file says; None: nothing.
        size: (width, height) of its images.

    Raises:
        CalibrationError: a rig file that states only half of what is needed, or another image size.
    """
    if entry is None or (entry.T_ego_camera is None and entry.intrinsics(size) is None):
        return guess_camera(name, *size), guess_notice(name)
    camera = entry.camera(size)
    if camera is None:
        lacking = "a mounting (xyz, rpy_deg)" if entry.T_ego_camera is None else "K or fov"
        raise CalibrationError(f"{name}: the rig file does not give {lacking}")
    if (camera.width, camera.height) != size:
        raise CalibrationError(
            f"{name}: images are {size[0]}x{size[1]} but the rig file's calibration is for {camera.width}x{camera.height}: "
            "correct its size and K"
        )
    return camera, None


class VideoSource(FrameSource):
    """Video files, one per camera. Stamps are presentation times; files start at ``start``.

    Args:
        inputs: camera name -> file.
        cameras: calibrations by name (``RigEntry``), for example from a rig file; a camera without one is guessed, with a
            notice.
        start: stamp of each file's first frame, nanoseconds.
        limit: frames per camera to read; None: all.
        sync: how frames of several files become instants.

    Raises:
        SourceError: a file that is missing or cannot be decoded.
        CalibrationError: see ``calibrate``.
    """

    def __init__(
        self,
        inputs: Mapping[str, str],
        cameras: Mapping[str, RigEntry] | None = None,
        *,
        start: int = 0,
        limit: int | None = None,
        sync: SyncOptions | None = None,
    ) -> None:
        super().__init__(sync)
        self.inputs = {name: inputs[name] for name in rig_order(inputs)}
        self.name = ", ".join(Path(where).name for where in self.inputs.values())
        self.start = start
        self.limit = limit
        for name, where in self.inputs.items():
            capture = _open(name, where)
            try:
                size = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
                rate = float(capture.get(cv2.CAP_PROP_FPS))
            finally:
                capture.release()
            self._rate = self._rate or (rate if 0 < rate < 1000 else None)
            self._cameras[name], notice = calibrate(name, (cameras or {}).get(name), size)
            if notice:
                self.note(notice)
        for problem in require_rig(self._cameras):
            self.note(problem)

    def frames(self) -> Iterator[Frame]:
        """Frames of all files, merged by stamp."""
        streams = {name: self._read(name, where) for name, where in self.inputs.items()}
        heads: dict[str, Frame] = {}
        try:
            for name, stream in streams.items():
                if (frame := next(stream, None)) is not None:
                    heads[name] = frame
            while heads:
                name = min(heads, key=lambda n: heads[n].stamp)
                yield heads.pop(name)
                if (frame := next(streams[name], None)) is not None:
                    heads[name] = frame
        finally:
            for stream in streams.values():
                stream.close()

    def _read(self, name: str, where: str) -> Generator[Frame, None, None]:
        capture = _open(name, where)
        camera = self._cameras[name]
        last, count = -1, 0
        try:
            while self.limit is None or count < self.limit:
                good, picture = capture.read()
                if not good:
                    break
                # Some containers give no times; then the nominal rate makes them.
                stamp = round(float(capture.get(cv2.CAP_PROP_POS_MSEC)) * 1e6)
                if stamp <= last:
                    stamp = last + round(1e9 / (self._rate or 25.0)) if last >= 0 else 0
                last = stamp
                count += 1
                if picture.shape[:2] != (camera.height, camera.width):
                    now = f"{picture.shape[1]}x{picture.shape[0]}"
                    raise SourceError(f"{name}: {where} changes its size to {now} at frame {count}: split the file")
                image = np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), dtype=np.uint8)
                yield Frame(camera, self.start + stamp, image=image)
            stated = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        finally:
            capture.release()
        if count == 0:
            raise SourceError(f"{name}: no frame of {where} can be decoded")
        if self.limit is None and 0 < count < stated - 1:
            self.note(f"{name}: {where} ends after {count} of {stated} frames: the file is cut or damaged")


def _open(name: str, where: str) -> cv2.VideoCapture:
    if not Path(where).is_file():
        raise SourceError(f"{name}: there is no video file {where}")
    capture = cv2.VideoCapture(where, cv2.CAP_FFMPEG)
    if not capture.isOpened():
        capture.release()
        raise SourceError(f"{name}: {where} cannot be opened as a video: it is damaged, or its codec is unknown")
    return capture
