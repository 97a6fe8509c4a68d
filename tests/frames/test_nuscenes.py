"""The nuScenes reader on a tiny table tree made here, checked against the devkit's own code where it is installed."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as pil
from scipy.spatial.transform import Rotation

from bevstack.errors import SourceError
from bevstack.frames.nuscenes import NuScenesSource
from bevstack.frames.source import open_source
from bevstack.geometry import DETECTION_CLASSES, invert, transform_points

CAMERAS = ("CAM_FRONT", "CAM_BACK")
START = 1_532_402_927_600_000  # microseconds
OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


def wxyz(rotation: Rotation) -> list[float]:
    x, y, z, w = rotation.as_quat()
    return [float(w), float(x), float(y), float(z)]


class Tree:
    """Two scenes of three samples each; a car at 8 m/s, a standing barrier, an animal that no detection class covers."""

    def __init__(self, root: Path, *, lidar: bool = True, step: int = 500_000) -> None:
        self.root = root
        self.tables: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
        add = self.add
        for channel in (*CAMERAS, "LIDAR_TOP"):
            add("sensor", token=f"s_{channel}", channel=channel, modality="lidar" if "LIDAR" in channel else "camera")
            yaw = 180 if channel == "CAM_BACK" else 0
            body = Rotation.from_euler("z", yaw, degrees=True)
            rotation = body if "LIDAR" in channel else body * Rotation.from_matrix(OPTICAL)
            add(
                "calibrated_sensor", token=f"c_{channel}", sensor_token=f"s_{channel}",
                translation=[1.5, 0.0, 1.6], rotation=wxyz(rotation),
                camera_intrinsic=[] if "LIDAR" in channel else [[60.0, 0, 39.5], [0, 60.0, 22.0], [0, 0, 1]],
            )  # fmt: skip
        for index, name in enumerate(("vehicle.car", "movable_object.barrier", "animal")):
            add("category", token=f"k{index}", name=name, description="")
        for attribute in ("vehicle.moving",):
            add("attribute", token="a0", name=attribute, description="")
        for level in range(1, 5):
            add("visibility", token=str(level), level=str(level), description="")
        add("log", token="log", logfile="", vehicle="", date_captured="", location="boston-seaport")
        add("map", token="map", log_tokens=["log"], category="semantic_prior", filename="")
        for scene in range(2):
            samples = [f"x{scene}{i}" for i in range(3)]
            add(
                "scene", token=f"scene{scene}", name=f"scene-000{scene + 1}", log_token="log", nbr_samples=3,
                first_sample_token=samples[0], last_sample_token=samples[-1], description="",
            )  # fmt: skip
            for i, token in enumerate(samples):
                at = START + scene * 100_000_000 + i * step
                chain = {"prev": samples[i - 1] if i else "", "next": samples[i + 1] if i < 2 else ""}
                add("sample", token=token, timestamp=at, scene_token=f"scene{scene}", **chain)
                channels = [("CAM_FRONT", -35_000), ("CAM_BACK", -10_000), *([("LIDAR_TOP", 0)] if lidar else [])]
                for channel, delay in channels:
                    self.data(token, channel, at + delay, True)
                    if channel.startswith("CAM") and i < 2:
                        self.data(token, channel, at + delay + 250_000, False)
            for kind in range(3):
                self.instance(scene, kind, samples)
        for name, rows in self.tables.items():
            folder = root / "v1.0-tiny"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}.json").write_text(json.dumps(rows))

    def add(self, table: str, **row: Any) -> None:
        self.tables[table].append(row)

    def ego(self, at: int) -> tuple[list[float], Rotation]:
        seconds = (at - START + 1_000_000) * 1e-6 % 100
        return [400 + 5 * seconds, 1100.0, 0.0], Rotation.from_euler("zyx", [0.4 + 0.1 * seconds, 0.01, -0.02])

    def data(self, sample: str, channel: str, at: int, key: bool) -> None:
        token = f"d_{channel}_{at}"
        translation, rotation = self.ego(at)
        self.add("ego_pose", token=token, timestamp=at, translation=translation, rotation=wxyz(rotation))
        kind = "samples" if key else "sweeps"
        suffix = "pcd.bin" if "LIDAR" in channel else "jpg"
        file = f"{kind}/{channel}/{at}.{suffix}"
        (self.root / file).parent.mkdir(parents=True, exist_ok=True)
        if suffix == "jpg":
            buffer = io.BytesIO()
            pil.new("RGB", (80, 45), (at // 1000 % 256, 90, 60)).save(buffer, "JPEG")
            (self.root / file).write_bytes(buffer.getvalue())
        self.add(
            "sample_data", token=token, sample_token=sample, ego_pose_token=token, calibrated_sensor_token=f"c_{channel}",
            timestamp=at, fileformat=suffix, is_key_frame=key, height=45, width=80, filename=file, prev="", next="",
        )  # fmt: skip

    def instance(self, scene: int, kind: int, samples: list[str]) -> None:
        token = f"i{scene}{kind}"
        names = [f"{token}_{i}" for i in range(3)]
        self.add(
            "instance",
            token=token,
            category_token=f"k{kind}",
            nbr_annotations=3,
            first_annotation_token=names[0],
            last_annotation_token=names[-1],
        )
        for i, name in enumerate(names):
            speed = 8.0 if kind == 0 else 0.0
            heading = Rotation.from_euler("z", 0.7)
            place = np.array([410.0 + 4 * kind, 1103.0, 0.8]) + heading.apply([speed * 0.5 * i, 0, 0])
            self.add(
                "sample_annotation", token=name, sample_token=samples[i], instance_token=token, visibility_token="4",
                attribute_tokens=["a0"] if kind == 0 else [],
                translation=place.tolist(), size=[1.9, 4.6, 1.7], rotation=wxyz(heading),
                prev=names[i - 1] if i else "", next=names[i + 1] if i < 2 else "", num_lidar_pts=10, num_radar_pts=1,
            )  # fmt: skip


TABLES = (
    "category", "attribute", "visibility", "instance", "sensor", "calibrated_sensor", "ego_pose", "log", "scene", "sample",
    "sample_data", "sample_annotation", "map",
)  # fmt: skip


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return Tree(tmp_path / "nuscenes").root


def test_key_instants_with_their_own_stamps_and_poses(tree: Path) -> None:
    with open_source(tree) as source:
        instants = list(source)
        assert list(source.cameras) == ["cam_front", "cam_back"]
        assert source.rate == 2.0
        assert source.problems == []  # type: ignore[attr-defined]
    assert len(instants) == 6
    first = instants[0]
    assert first.stamp == START * 1000
    assert first.frames["cam_front"].stamp == (START - 35_000) * 1000
    front = first.frames["cam_front"].T_world_ego
    assert front is not None
    # The drive goes at 5 m/s along x; the front camera was exposed 35 ms before the sample.
    assert first.T_world_ego[0, 3] == pytest.approx(405.0)
    assert front[0, 3] == pytest.approx(405.0 - 5 * 0.035)
    camera = first.frames["cam_front"].camera
    assert (camera.width, camera.height) == (80, 45)
    assert np.allclose(camera.T_ego_camera[:3, :3], OPTICAL)
    assert np.allclose(source.cameras["cam_back"].T_ego_camera[:3, 2], [-1, 0, 0])


def test_truth_is_in_the_ego_frame_with_velocities(tree: Path) -> None:
    with open_source(tree, scenes="scene-0001") as source:
        instants = list(source)
    assert len(instants) == 3
    for i, instant in enumerate(instants):
        truth = instant.truth
        assert truth is not None
        assert [DETECTION_CLASSES[label] for label in truth.label] == ["car", "barrier"]
        assert np.allclose(truth.size, [[4.6, 1.9, 1.7]] * 2)
        world = transform_points(instant.T_world_ego, truth.center)
        ahead = np.array([np.cos(0.7), np.sin(0.7)])
        assert np.allclose(world[0, :2], np.array([410.0, 1103.0]) + 4.0 * i * ahead)
        heading = Rotation.from_matrix(instant.T_world_ego[:3, :3]).as_euler("zyx")[0]
        assert truth.yaw[0] == pytest.approx(0.7 - heading, abs=1e-3)
        turn = np.array([[np.cos(heading), np.sin(heading)], [-np.sin(heading), np.cos(heading)]])
        assert np.allclose(truth.velocity[0], turn @ (8.0 * ahead), atol=0.01)
        assert np.allclose(truth.velocity[1], 0, atol=1e-9)
    ids = [tuple(instant.truth.id) for instant in instants]  # type: ignore[union-attr]
    assert len(set(ids)) == 1


def test_sweeps_come_synchronised_between_key_instants(tree: Path) -> None:
    with open_source(tree, sweeps=True, scenes=["scene-0002"]) as source:
        instants = list(source)
        assert len(list(source.frames())) == 10
    assert len(instants) == 5
    assert all(set(instant.frames) == {"cam_front", "cam_back"} and instant.truth is None for instant in instants)
    assert np.allclose(np.diff([instant.stamp for instant in instants]), 250_000_000)


@pytest.mark.parametrize("step", [500_000, 1_000_000, 2_000_000])
def test_the_devkit_agrees(tmp_path: Path, step: int) -> None:
    """Also on samples that are further apart, where velocities are differences over too long a time."""
    tree = Tree(tmp_path / "nuscenes", step=step).root
    devkit = pytest.importorskip("nuscenes.nuscenes", reason="nuscenes-devkit is not installed")
    nusc = devkit.NuScenes("v1.0-tiny", str(tree), verbose=False)
    with NuScenesSource(tree) as source:
        instants = list(source)
        samples = source.samples
    for instant in instants:
        sample = nusc.get("sample", samples[instant.stamp])
        for name, frame in instant.frames.items():
            path, boxes, K = nusc.get_sample_data(sample["data"][name.upper()])
            assert Path(path).read_bytes() == frame.encoded
            assert np.allclose(K, frame.camera.K)
            # The devkit moves boxes through the global frame to the camera, at the camera's own stamp.
            to_camera = invert(frame.camera.T_ego_camera) @ invert(frame.T_world_ego) @ instant.T_world_ego
            mine = transform_points(to_camera, instant.truth.center)  # type: ignore[union-attr]
            theirs = np.array([box.center for box in boxes if box.name != "animal"])
            assert all(np.abs(mine - centre).sum(axis=1).min() < 1e-6 for centre in theirs)
        for token in sample["anns"]:
            row = nusc.get("sample_annotation", token)
            if row["category_name"] == "animal":
                continue
            world = np.array(nusc.box_velocity(token)[:2])
            index = ["vehicle.car", "movable_object.barrier"].index(row["category_name"])
            heading = np.arctan2(instant.T_world_ego[1, 0], instant.T_world_ego[0, 0])
            turn = np.array([[np.cos(heading), np.sin(heading)], [-np.sin(heading), np.cos(heading)]])
            assert np.allclose(instant.truth.velocity[index], turn @ np.nan_to_num(world), atol=0.01)  # type: ignore[union-attr]


def test_without_lidar_rows_the_first_camera_gives_the_instant(tmp_path: Path) -> None:
    root = Tree(tmp_path / "cameras_only", lidar=False).root
    with open_source(root) as source:
        first = next(iter(source))
    assert first.stamp == first.frames["cam_front"].stamp
    assert np.array_equal(first.T_world_ego, first.frames["cam_front"].T_world_ego)


def test_cameras_can_be_chosen_and_faults_are_named(tree: Path) -> None:
    with open_source(tree / "v1.0-tiny", cameras={"cam_back": None}) as source:
        assert all(list(instant.frames) == ["cam_back"] for instant in source)
    for options, reason in (
        ({"version": "v1.0-trainval"}, "no nuScenes version 'v1.0-trainval' (found: v1.0-tiny)"),
        ({"scenes": "scene-9"}, "no scene 'scene-9' (found: scene-0001, scene-0002)"),
        ({"cameras": {"cam_roof": None}}, "has no camera cam_roof"),
        ({"sweps": True}, "option 'sweps' is unknown: use cameras, version, scenes, sweeps, sync"),
    ):
        with pytest.raises(SourceError) as caught:
            open_source(tree, **options)  # type: ignore[arg-type]
        assert reason in str(caught.value)
        assert "\n" not in str(caught.value)


def test_missing_and_damaged_tables_and_images_are_named(tree: Path) -> None:
    next((tree / "samples/CAM_BACK").iterdir()).unlink()
    with (
        open_source(tree) as source,
        pytest.raises(SourceError, match=r"image samples/CAM_BACK/.* cannot be read: No such file"),
    ):
        list(source)
    table = tree / "v1.0-tiny/ego_pose.json"
    rows = json.loads(table.read_text())
    table.write_text(json.dumps(rows[3:]))
    with pytest.raises(SourceError, match="the tables do not fit together: KeyError"):
        open_source(tree)
    table.write_text("[{]")
    with pytest.raises(SourceError, match=r"nuScenes table .*ego_pose.json is damaged"):
        open_source(tree)
    table.unlink()
    with pytest.raises(SourceError, match=r"nuScenes table .*ego_pose.json cannot be read"):
        open_source(tree)
