"""One nuScenes instant as plain JSON beside its six images (the layout is described in docs/sources.md)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bevstack.errors import SourceError
from bevstack.geometry import DETECTION_CLASSES, Boxes3D, Camera

from .calibration import RigEntry, rig_order
from .checks import require_rig
from .source import FrameSource, SyncOptions
from .types import Frame, FrameSet


class SampleJsonSource(FrameSource):
    """``sample.json``: one instant with calibration, ego pose and true boxes.

    Boxes with the label ``ignore``, which lie outside the ten detection classes, are left out of the truth.

    Args:
        path: the file or its folder.
        cameras: names to keep (lower case, ``cam_front``); None: all.
        sync: not used; the file holds one instant.

    Raises:
        SourceError: missing file, missing image, missing field.
    """

    def __init__(
        self, path: Path | str, cameras: Mapping[str, RigEntry] | None = None, *, sync: SyncOptions | None = None
    ) -> None:
        super().__init__(sync)
        file = Path(path)
        file = file / "sample.json" if file.is_dir() else file
        self.name = f"{file.parent.name}/{file.name}"
        self.folder = file.parent
        try:
            content = json.loads(file.read_text())
            width, height = (int(value) for value in content["image_size"])
            self._pose = np.asarray(content["ego2global"], dtype=np.float64).reshape(4, 4)
            self._stamp = _nanoseconds(content["timestamp_s"])
            self._files: dict[str, tuple[Path, int]] = {}
            found: dict[str, Camera] = {}
            for key, entry in content["cameras"].items():
                name = key.lower()
                found[name] = Camera(name, width, height, entry["K"], entry["cam2ego"])
                self._files[name] = (self.folder / entry["file"], _nanoseconds(entry["timestamp_s"]))
            self.truth = _boxes(content.get("boxes_ego", []))
        except OSError as error:
            raise SourceError(f"{file} cannot be read: {error.strerror}") from None
        except (KeyError, TypeError, ValueError) as error:
            raise SourceError(f"{file} is not a sample.json: {type(error).__name__} {error}") from None
        names = rig_order(found if cameras is None else cameras)
        for name in names:
            if name not in found:
                raise SourceError(f"{self.name} has no camera {name!r} (found: {', '.join(rig_order(found))})")
            if not self._files[name][0].is_file():
                raise SourceError(f"{self.name}: image {self._files[name][0].name} of {name} is missing")
        self._cameras = {name: found[name] for name in names}
        for problem in require_rig(self._cameras):
            self.note(problem)

    def frames(self) -> Iterator[Frame]:
        """The images in stamp order, each with the sample's ego pose."""
        for name in sorted(self._cameras, key=lambda n: self._files[n][1]):
            file, stamp = self._files[name]
            yield Frame(self._cameras[name], stamp, encoded=file.read_bytes(), T_world_ego=self._pose)

    def __iter__(self) -> Iterator[FrameSet]:
        frames = {frame.camera.name: frame for frame in self.frames()}
        ordered = {name: frames[name] for name in self._cameras}
        reference = next(iter(ordered.values()))
        yield FrameSet(reference.stamp, ordered, self._pose, self.truth)


def _nanoseconds(seconds: float) -> int:
    """nuScenes stamps are whole microseconds; a double of seconds holds no more."""
    return round(float(seconds) * 1e6) * 1000


def _boxes(entries: list[Mapping[str, Any]]) -> Boxes3D:
    known = [entry for entry in entries if entry["label"] in DETECTION_CLASSES]
    if not known:
        return Boxes3D.empty()
    boxes = Boxes3D(
        np.array([entry["center"] for entry in known], dtype=np.float64),
        np.array([entry["size_lwh"] for entry in known], dtype=np.float64),
        np.array([entry["yaw"] for entry in known], dtype=np.float64),
        np.array([entry["velocity"] for entry in known], dtype=np.float64),
        label=np.array([DETECTION_CLASSES.index(entry["label"]) for entry in known]),
    )
    return replace(boxes, velocity=np.nan_to_num(boxes.velocity))
