"""Simulated drives as labelled images: boxes are tight around what is seen, small objects are left out, seeds repeat."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bevstack.frames.sim import SimulatedDrive, overhead_rig
from bevstack.geometry import DETECTION_CLASSES
from bevstack.geometry.association import associate
from bevstack.geometry.boxes import Boxes2D
from bevstack.learn.detect.coco import read_coco
from bevstack.learn.detect.simulated import MAX_SHARE, MIN_PIXELS, true_boxes, write_simulated
from bevstack.learn.detect.teacher import read_rgb

T = 4.0


@pytest.fixture(scope="module")
def drive() -> Iterator[SimulatedDrive]:
    with SimulatedDrive(7, duration=8.0, rate=1.0, image_width=320) as made:
        yield made


def test_boxes_are_tight_around_what_is_seen(drive: SimulatedDrive) -> None:
    learned = 0
    for camera in drive.cameras.values():
        labels, mask = true_boxes(drive, T, camera), drive.object_mask(T, camera)
        numbers = [n for n in np.unique(mask) if n >= 0]
        assert len(labels) == len(numbers)
        boxes = {tuple(b) for b in labels.xyxy.tolist()}
        for number in numbers:
            rows, columns = np.nonzero(mask == number)
            box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert tuple(map(float, box)) in boxes
            if len(rows) < MIN_PIXELS:
                at = [b == list(map(float, box)) for b in labels.xyxy.tolist()].index(True)
                assert labels.ignore[at]
        learned += int((~labels.ignore).sum())
    assert learned >= 10


def test_boxes_lie_where_the_3d_truth_is_projected_to(drive: SimulatedDrive) -> None:
    truth, pairs, conflicts, count = drive.truth(T), 0, 0, 0
    for camera in drive.cameras.values():
        labels = true_boxes(drive, T, camera)
        known = ~labels.ignore
        boxes = Boxes2D(labels.xyxy[known], np.ones(int(known.sum()), np.float32), labels.label[known])
        found = associate(camera, boxes, truth)
        pairs, conflicts, count = pairs + len(found.pairs), conflicts + len(found.conflicts), count + len(boxes)
    assert pairs >= 0.7 * count  # half hidden objects have boxes of their visible half
    assert conflicts <= 0.1 * pairs


def test_folder_of_drives(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from bevstack.cli.main import app

    lines: list[str] = []
    file = write_simulated(tmp_path / "a", [3], instants=1, width=320, report=lines.append)
    data = read_coco(file)
    assert data.classes == DETECTION_CLASSES
    assert len(data.images) == 6
    assert len(lines) == 1
    assert {i.size for i in data.images} == {(320, 180)}
    assert all(read_rgb(i.path).shape == (180, 320, 3) for i in data.images)
    assert sum(int((~i.labels.ignore).sum()) for i in data.images) > 0
    above = ["sim", "write-coco", str(tmp_path / "c"), "--seeds", "3", "--instants", "1", "--image-width", "320"]
    result = CliRunner().invoke(app, [*above, "--view", "overhead", "--curved", "--along", "--spread", "0.5"])
    assert result.exit_code == 0, result.output
    assert len(read_coco(tmp_path / "c" / "coco.json").images) == 6
    words = ["sim", "write-coco", str(tmp_path / "b"), "--seeds", "3", "--instants", "1", "--image-width", "320"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    again = read_coco(tmp_path / "b" / "coco.json")
    assert [i.labels.xyxy.tolist() for i in again.images] == [i.labels.xyxy.tolist() for i in data.images]
    assert [i.path.read_bytes() for i in again.images] == [i.path.read_bytes() for i in data.images]


def test_cameras_above_the_road_look_down_at_their_targets(drive: SimulatedDrive) -> None:
    rng = np.random.default_rng(5)
    targets = rng.uniform(-30.0, 30.0, (40, 2))
    rig = overhead_rig(targets, rng, 320)
    pitches = []
    for target, camera in zip(targets, rig.values()):
        pixel, depth = camera.project(np.array([[*target, 0.0]]))
        assert (camera.width, camera.height) == (320, 180)
        assert depth[0] > 0
        assert 79.9 <= pixel[0, 0] <= 240.1  # the middle half
        assert 44.9 <= pixel[0, 1] <= 135.1
        assert 5.0 <= camera.T_ego_camera[2, 3] <= 16.0
        assert camera.T_ego_camera[2, 1] < 0  # the image's down is down
        pitches.append(np.rad2deg(np.arcsin(-camera.T_ego_camera[2, 2])))
    assert min(pitches) >= 25.0
    assert max(pitches) <= 80.0
    assert np.ptp(pitches) > 40.0


@pytest.mark.parametrize("option", [["--along"], ["--spread", "0.5"]])
def test_options_of_cameras_above_are_refused_for_those_of_the_vehicle(tmp_path: Path, option: list[str]) -> None:
    from typer.testing import CliRunner

    from bevstack.cli.main import app

    result = CliRunner().invoke(app, ["sim", "write-coco", str(tmp_path / "a"), "--seeds", "3", *option])
    assert result.exit_code != 0
    assert f"{option[0]} places cameras above the road: add --view overhead" in result.output
    assert not (tmp_path / "a").exists()


def test_cameras_above_may_look_along_what_they_look_at_and_have_it_at_an_edge() -> None:
    rng = np.random.default_rng(6)
    targets, headings = rng.uniform(-30.0, 30.0, (60, 2)), rng.uniform(-np.pi, np.pi, 60)
    rig = overhead_rig(targets, rng, 320, spread=0.5, headings=headings)
    behind, places = [], []
    for target, heading, camera in zip(targets, headings, rig.values()):
        forward = camera.T_ego_camera[:2, 2]
        along = float(forward @ (np.cos(heading), np.sin(heading)) / np.linalg.norm(forward))
        assert abs(along) >= np.cos(np.deg2rad(20.01))
        behind.append(along > 0)
        places.append(camera.project(np.array([[*target, 0.0]]))[0][0] / (320, 180))
    assert 15 < sum(behind) < 45  # from behind and from before
    assert np.min(places) < 0.1
    assert np.max(places) > 0.9


def test_overhead_folder_labels_vehicles_that_the_vehicle_itself_may_not_see(tmp_path: Path) -> None:
    data = read_coco(write_simulated(tmp_path, [3], instants=2, width=320, view="overhead"))
    again = read_coco(write_simulated(tmp_path / "again", [3], instants=2, width=320, view="overhead"))
    assert [i.path.read_bytes() for i in again.images] == [i.path.read_bytes() for i in data.images]
    assert len(data.images) == 12
    shares = [np.prod(i.labels.xyxy[:, 2:] - i.labels.xyxy[:, :2], axis=1) / (320 * 180) for i in data.images]
    assert all(i.labels.ignore[s > MAX_SHARE].all() for i, s in zip(data.images, shares))
    vehicles = {DETECTION_CLASSES.index(c) for c in ("car", "truck", "trailer", "bus", "construction_vehicle")}
    aimed = [i.labels for i in data.images if int(i.path.stem[-1]) < 4]
    seen = [any(int(n) in vehicles for n in labels.label) for labels in aimed]  # also where it fills the image
    assert len(aimed) == 8
    assert sum(seen) >= 7  # a house or a tree may stand before one
