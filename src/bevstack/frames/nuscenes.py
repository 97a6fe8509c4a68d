"""A nuScenes folder (``v1.0-*`` tables as JSON, ``samples``, ``sweeps``), read directly.

Conventions of the tables (nuscenes.org/nuscenes, "data format"): quaternions are (w, x, y, z), sizes (width, length, height),
boxes are given in the global frame, stamps are microseconds. Velocities are differences of the neighbouring annotations'
positions over at most 1.5 s, as the devkit's ``box_velocity`` defines them.
"""

from __future__ import annotations

import bisect
import itertools
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bevstack.errors import SourceError
from bevstack.geometry import DETECTION_CLASSES, Boxes3D, Camera, Matrix, invert, pose, rotation_from_quaternion

from .calibration import RigEntry, rig_order
from .checks import require_rig
from .source import FrameSource, SyncOptions
from .types import Frame, FrameSet

Row = Mapping[str, Any]

# Category of the annotation -> detection class, as the nuScenes detection task defines it.
_CATEGORIES: dict[str, str] = {
    "movable_object.barrier": "barrier",
    "vehicle.bicycle": "bicycle",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.car": "car",
    "vehicle.construction": "construction_vehicle",
    "vehicle.motorcycle": "motorcycle",
    "human.pedestrian.adult": "pedestrian",
    "human.pedestrian.child": "pedestrian",
    "human.pedestrian.construction_worker": "pedestrian",
    "human.pedestrian.police_officer": "pedestrian",
    "movable_object.trafficcone": "traffic_cone",
    "vehicle.trailer": "trailer",
    "vehicle.truck": "truck",
}
_MAX_VELOCITY_SPAN = 1.5


@dataclass(frozen=True)
class _Image:
    """One row of sample_data of a camera, with what it refers to."""

    camera: str
    file: str
    stamp: int
    T_world_ego: Matrix
    calibration: Camera
    sample: str
    key: bool


def _pose(row: Row) -> Matrix:
    w, x, y, z = row["rotation"]
    return pose(rotation_from_quaternion([x, y, z, w]), row["translation"])


class Tables:
    """The JSON tables of one version folder, indexed by token."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tables: dict[str, dict[str, Row]] = {}

    def __getitem__(self, name: str) -> dict[str, Row]:
        if name not in self._tables:
            file = self.folder / f"{name}.json"
            try:
                rows = json.loads(file.read_text())
                self._tables[name] = {row["token"]: row for row in rows}
            except OSError as error:
                raise SourceError(f"nuScenes table {file} cannot be read: {error.strerror}") from None
            except (ValueError, KeyError, TypeError) as error:
                raise SourceError(f"nuScenes table {file} is damaged: {type(error).__name__} {error}") from None
        return self._tables[name]

    def forget(self, *names: str) -> None:
        """Frees tables that are not needed any more; they are read again if they are."""
        for name in names:
            self._tables.pop(name, None)


def version_folder(path: Path, version: str | None = None) -> Path:
    """The tables' folder: ``path`` itself or ``path/v1.0-*``.

    Raises:
        SourceError: none, or several and ``version`` does not choose.
    """
    if path.name.startswith("v1.0-"):
        return path
    found = {folder.name: folder for folder in sorted(path.glob("v1.0-*")) if folder.is_dir()}
    if version is not None:
        if version not in found:
            raise SourceError(f"{path} has no nuScenes version {version!r} (found: {', '.join(found) or 'none'})")
        return found[version]
    if len(found) != 1:
        if not found:
            raise SourceError(f"{path} has no folder v1.0-*: give the folder that holds it")
        raise SourceError(f"{path} has several versions ({', '.join(found)}): choose one with version=...")
    return next(iter(found.values()))


class NuScenesSource(FrameSource):
    """Drives of a nuScenes folder: images with calibration and the ego pose at their own stamps; key instants with true boxes.

    A key instant carries the sample's stamp and the LiDAR's ego pose, as the annotations do (where a folder has no LiDAR rows:
    those of the first camera). ``samples`` gives its token.

    Args:
        path: the data set's root, or its ``v1.0-*`` folder.
        cameras: names to keep (``cam_front``, ...); None: all.
        version: which ``v1.0-*`` folder; None: the only one.
        scenes: scene names to read; None: all, one after the other.
        sweeps: also give the images between key instants (about 12 Hz instead of 2 Hz), synchronised by stamp, without truth.
        sync: how sweeps become instants.

    Raises:
        SourceError: missing or damaged tables, unknown scene or camera, missing images.
    """

    def __init__(
        self,
        path: Path | str,
        cameras: Mapping[str, RigEntry] | None = None,
        *,
        version: str | None = None,
        scenes: Sequence[str] | str | None = None,
        sweeps: bool = False,
        sync: SyncOptions | None = None,
    ) -> None:
        super().__init__(sync)
        folder = version_folder(Path(path), version)
        self.root = folder.parent
        self.name = f"{self.root.name}/{folder.name}"
        self.sweeps = sweeps
        # Leave out boxes without any LiDAR or radar point, as the official evaluation does.
        self.seen_only = False
        self._tables = Tables(folder)
        names = {row["name"]: row for row in self._tables["scene"].values()}
        wanted = [scenes] if isinstance(scenes, str) else list(scenes) if scenes is not None else list(names)
        for name in wanted:
            if name not in names:
                raise SourceError(f"{self.name} has no scene {name!r} (found: {', '.join(sorted(names)[:10])})")
        self._scenes = [names[name] for name in wanted]
        try:
            self._images = self._index(None if cameras is None else set(cameras))
            self._images_by_sample: dict[str, dict[str, _Image]] = defaultdict(dict)
            for image in (image for images in self._images.values() for image in images if image.key):
                self._images_by_sample[image.sample][image.camera] = image
            self._boxes = self._index_boxes()
        except (KeyError, TypeError, ValueError) as error:
            raise SourceError(f"{self.name}: the tables do not fit together: {type(error).__name__} {error}") from None
        self._tables.forget("sample_data", "ego_pose")  # by far the largest, and indexed by now
        found = {image.camera: image.calibration for images in self._images.values() for image in reversed(images)}
        missing = sorted(set(cameras or ()) - set(found))
        if missing or not found:
            raise SourceError(
                f"{self.name} has no camera {missing[0] if missing else 'at all'} (found: {', '.join(rig_order(found))})"
            )
        self._cameras = {name: found[name] for name in rig_order(found)}
        for problem in require_rig(self._cameras):
            self.note(problem)

    @property
    def rate(self) -> float | None:
        """Key instants come at 2 Hz, with sweeps at about 12 Hz."""
        return 12.0 if self.sweeps else 2.0

    @property
    def samples(self) -> dict[int, str]:
        """Sample tokens of the key instants, by the instants' stamps."""
        return {self._instant(token)[0]: token for token in self._images_by_sample}

    @property
    def scenes(self) -> list[str]:
        """Names of the scenes that are read."""
        return [str(scene["name"]) for scene in self._scenes]

    def _index(self, wanted: set[str] | None) -> dict[str, list[_Image]]:
        """Per scene token, its camera images in stamp order."""
        samples, sensors = self._tables["sample"], self._tables["sensor"]
        calibrations, poses = self._tables["calibrated_sensor"], self._tables["ego_pose"]
        scenes = {str(scene["token"]) for scene in self._scenes}
        cameras: dict[tuple[str, int, int], Camera] = {}
        images: dict[str, list[_Image]] = {token: [] for token in scenes}
        self._lidar_poses: dict[str, Matrix] = {}
        for row in self._tables["sample_data"].values():
            calibrated = calibrations[row["calibrated_sensor_token"]]
            sensor = sensors[calibrated["sensor_token"]]
            name = str(sensor["channel"]).lower()
            scene = str(samples[row["sample_token"]]["scene_token"])
            if name == "lidar_top" and row["is_key_frame"]:
                self._lidar_poses[str(row["sample_token"])] = _pose(poses[row["ego_pose_token"]])
            if sensor["modality"] != "camera" or scene not in scenes or (wanted is not None and name not in wanted):
                continue
            if not row["is_key_frame"] and not self.sweeps:
                continue
            key = (str(calibrated["token"]), int(row["width"]), int(row["height"]))
            if key not in cameras:
                cameras[key] = Camera(name, key[1], key[2], calibrated["camera_intrinsic"], _pose(calibrated))
            images[scene].append(
                _Image(
                    name,
                    str(row["filename"]),
                    int(row["timestamp"]) * 1000,
                    _pose(poses[row["ego_pose_token"]]),
                    cameras[key],
                    str(row["sample_token"]),
                    bool(row["is_key_frame"]),
                )
            )
        for listed in images.values():
            listed.sort(key=lambda image: (image.stamp, image.camera))
        return images

    def _index_boxes(self) -> dict[str, list[Row]]:
        """Per sample token, its annotations of the ten detection classes."""
        categories, instances = self._tables["category"], self._tables["instance"]
        self._labels = {
            token: DETECTION_CLASSES.index(_CATEGORIES[name])
            for token, row in instances.items()
            if (name := str(categories[row["category_token"]]["name"])) in _CATEGORIES
        }
        self._instance_numbers = {token: number for number, token in enumerate(instances)}
        boxes: dict[str, list[Row]] = defaultdict(list)
        for row in self._tables["sample_annotation"].values():
            if row["instance_token"] in self._labels:
                boxes[str(row["sample_token"])].append(row)
        return boxes

    def _velocity(self, row: Row) -> Matrix:
        """(2,) metres per second in the global frame; NaN where no neighbour is near enough in time."""
        annotations, samples = self._tables["sample_annotation"], self._tables["sample"]
        first, last = annotations.get(row["prev"], row), annotations.get(row["next"], row)
        span = (int(samples[last["sample_token"]]["timestamp"]) - int(samples[first["sample_token"]]["timestamp"])) * 1e-6
        both = first is not row and last is not row
        if not 0 < span <= (2 * _MAX_VELOCITY_SPAN if both else _MAX_VELOCITY_SPAN):
            return np.full(2, np.nan)
        return (np.asarray(last["translation"], float)[:2] - np.asarray(first["translation"], float)[:2]) / span

    def truth(self, sample: str, T_world_ego: Matrix, measured: bool = False) -> Boxes3D:
        """True boxes of a sample in the ego frame of the given pose; unknown velocities are zero; ids number the instances.

        Args:
            measured: leave out boxes in which there is no LiDAR point, as in training (brief fast-bev, section 4).
        """
        rows = self._boxes.get(sample, [])
        if measured:
            rows = [row for row in rows if int(row.get("num_lidar_pts", 1)) > 0]
        if self.seen_only:
            rows = [row for row in rows if int(row.get("num_lidar_pts", 1)) + int(row.get("num_radar_pts", 0)) > 0]
        if not rows:
            return Boxes3D.empty()
        poses = [_pose(row) for row in rows]
        width, length, height = np.array([row["size"] for row in rows], dtype=np.float64).T
        world = Boxes3D(
            np.array([p[:3, 3] for p in poses]),
            np.stack([length, width, height], axis=1),
            np.array([np.arctan2(p[1, 0], p[0, 0]) for p in poses]),
            np.nan_to_num(np.array([self._velocity(row) for row in rows])),
            label=np.array([self._labels[row["instance_token"]] for row in rows]),
            id=np.array([self._instance_numbers[row["instance_token"]] for row in rows]),
        )
        return world.transformed(invert(T_world_ego))

    def _frame(self, image: _Image) -> Frame:
        try:
            encoded = (self.root / image.file).read_bytes()
        except OSError as error:
            raise SourceError(f"{self.name}: image {image.file} cannot be read: {error.strerror}") from None
        return Frame(image.calibration, image.stamp, encoded=encoded, T_world_ego=image.T_world_ego)

    def key_samples(self) -> list[str]:
        """Tokens of the samples that have images, scene after scene, in order of time."""
        tokens = []
        for scene in self._scenes:
            token = str(scene["first_sample_token"])
            while token:
                if self._images_by_sample.get(token):
                    tokens.append(token)
                token = str(self._tables["sample"][token]["next"])
        return tokens

    def key_instant(self, sample: str, measured: bool = False) -> FrameSet:
        """The key instant of a sample, images still compressed. ``measured``: see ``truth``."""
        images = self._images_by_sample[sample]
        frames = {name: self._frame(images[name]) for name in self._cameras if name in images}
        stamp, ego = self._instant(sample)
        return FrameSet(stamp, frames, ego, self.truth(sample, ego, measured))

    def classes_in(self, sample: str) -> set[int]:
        """Labels of the boxes with at least one LiDAR point, without reading an image."""
        rows = self._boxes.get(sample, [])
        return {self._labels[row["instance_token"]] for row in rows if int(row.get("num_lidar_pts", 1)) > 0}

    def past(self, sample: str, age: float, tolerance: float = 0.15) -> dict[str, Frame] | None:
        """Images taken ``age`` seconds before a sample, in the same scene: of every camera of the key instant the one nearest
        in time, key image or sweep (open the source with ``sweeps=True`` to have those). Never one from the sample's own
        instant or later.

        Returns:
            None if a camera has none within ``tolerance`` seconds.
        """
        now = self._images_by_sample[sample]
        stamp, _ = self._instant(sample)
        scene = self._images[str(self._tables["sample"][sample]["scene_token"])]
        wanted, slack = stamp - round(age * 1e9), round(tolerance * 1e9)
        # The list is in stamp order: only the window around the wanted time is looked at.
        first = bisect.bisect_left(scene, wanted - slack, key=lambda image: image.stamp)
        best: dict[str, _Image] = {}
        for image in itertools.islice(scene, first, None):
            if image.stamp > wanted + slack:
                break
            if image.camera not in now or image.stamp >= now[image.camera].stamp:
                continue
            other = best.get(image.camera)
            if other is None or abs(image.stamp - wanted) < abs(other.stamp - wanted):
                best[image.camera] = image
        if set(best) != {name for name in now if name in self._cameras}:
            return None
        return {name: self._frame(best[name]) for name in self._cameras if name in best}

    def frames(self) -> Iterator[Frame]:
        """All images, scene after scene, in stamp order."""
        for scene in self._scenes:
            for image in self._images[str(scene["token"])]:
                yield self._frame(image)

    def __iter__(self) -> Iterator[FrameSet]:
        if self.sweeps:
            yield from super().__iter__()
            return
        for token in self.key_samples():
            instant = self.key_instant(token)
            if instant.frames:
                yield instant

    def _instant(self, sample: str) -> tuple[int, Matrix]:
        """Stamp and ego pose that the annotations of a sample belong to."""
        if sample in self._lidar_poses:
            return int(self._tables["sample"][sample]["timestamp"]) * 1000, self._lidar_poses[sample]
        images = self._images_by_sample[sample]
        reference = images[next(name for name in self._cameras if name in images)]
        return reference.stamp, reference.T_world_ego
