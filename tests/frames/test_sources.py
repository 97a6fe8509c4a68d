"""open_source, video files, devices, sample.json, the simulated drive: what a user may type."""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from bevstack.errors import BevstackError, CalibrationError, SourceError
from bevstack.frames.calibration import RigEntry
from bevstack.frames.device import DeviceSource
from bevstack.frames.source import Source, SyncOptions, open_source
from bevstack.frames.sync import AnchorSync
from bevstack.frames.video import VideoSource


def film(path: Path, frames: int = 12, rate: float = 10.0, size: tuple[int, int] = (64, 48), shade: int = 0) -> Path:
    """A film whose blue channel counts up by 10 from frame to frame."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), rate, size)
    assert writer.isOpened()
    for i in range(frames):
        writer.write(np.full((size[1], size[0], 3), (10 * i, 60, shade), np.uint8))
    writer.release()
    return path


# --- what a user types ---


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("nowhere.mcap", "source 'nowhere.mcap' does not exist; accepted: sim:seed=1,duration=30; "),
        ("/dev/video97", "there is no camera /dev/video97 (found: "),
        ("v4l2:97", "there is no camera /dev/video97"),
        ("97", "there is no camera /dev/video97"),
        ("sim:seed", "'seed' is not key=value; for example sim:seed=1,duration=30"),
        ("sim:sed=1", "option 'sed' is unknown: use seed, "),
        ("sim:seed=x", "seed is 'x'; it takes a whole number"),
        ("sim:seed=1.5", "seed is '1.5'; it takes a whole number"),
        ("sim:rate=true", "rate is 'true'; it takes a number"),
        ("sim:jpeg=3", "jpeg is '3'; it takes true or false"),
        ("sim:seed=[", "the value of seed, '[', cannot be read"),
        ("file:///nowhere", "does not exist"),
    ],
)
def test_unknown_things_are_answered_in_one_line(spec: str, reason: str) -> None:
    with pytest.raises(SourceError) as caught:
        open_source(spec)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folders_and_files_of_no_known_kind(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"holds no bag, no nuScenes tables, no sample.json and no videos"):
        open_source(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(SourceError, match=r"not a kind of source that is known"):
        open_source(tmp_path / "notes.txt")
    (tmp_path / "old.bag").write_bytes(b"#ROSBAG V2.0\n")
    with pytest.raises(SourceError, match=r"is a ROS 1 bag: convert it with `rosbags-convert --src old.bag"):
        open_source(tmp_path / "old.bag")


def test_simulated_drive_through_a_spec() -> None:
    with open_source("sim:seed=3,duration=0.3,image_width=160") as source:
        assert isinstance(source, Source)
        instants = list(source)
        assert len(source.cameras) == 6
    assert len(instants) == 3
    assert instants[0].truth is not None


def test_synchroniser_is_chosen_by_options(tmp_path: Path) -> None:
    for name in ("a", "b"):
        film(tmp_path / f"{name}.avi")
    with open_source(tmp_path, sync="anchor", anchor="b", tolerance=0.01) as source:
        list(source)
        assert isinstance(source.sync, AnchorSync)  # type: ignore[attr-defined]
        assert source.sync.anchor == "b"  # type: ignore[attr-defined]
    with open_source(tmp_path, sync=SyncOptions("anchor")) as source:
        list(source)
        assert isinstance(source.sync, AnchorSync)  # type: ignore[attr-defined]
    with pytest.raises(SourceError, match=r"synchroniser 'exact' is unknown: use approximate or anchor"):
        list(open_source(tmp_path, sync="exact"))


# --- video ---


def test_a_film_gives_its_frames_with_presentation_times(tmp_path: Path) -> None:
    with open_source(film(tmp_path / "drive.avi"), start=5_000_000_000) as source:
        instants = list(source)
        assert source.rate == pytest.approx(10.0)
        assert any("no calibration" in problem for problem in source.problems)  # type: ignore[attr-defined]
    assert [instant.stamp for instant in instants] == [5_000_000_000 + i * 100_000_000 for i in range(12)]
    for i, instant in enumerate(instants):
        image = instant.frames["camera"].image
        assert image is not None
        assert image.shape == (48, 64, 3)
        assert np.abs(image.reshape(-1, 3).mean(axis=0) - [0, 60, 10 * i]).max() < 4


def test_films_of_one_folder_are_one_rig(tmp_path: Path) -> None:
    film(tmp_path / "cam_front.avi", shade=10)
    film(tmp_path / "cam_back.avi", shade=200)
    with open_source(tmp_path) as source:
        instants = list(source)
        assert list(source.cameras) == ["cam_front", "cam_back"]
    assert len(instants) == 12
    assert instants[3].frames["cam_back"].image[0, 0, 0] > 150  # type: ignore[index]


def test_a_rig_file_names_and_calibrates_films(tmp_path: Path) -> None:
    film(tmp_path / "a.avi")
    film(tmp_path / "b.avi", frames=6, rate=5.0)
    (tmp_path / "rig.yaml").write_text(
        "cameras:\n"
        "  nose: {source: a.avi, fov: 90, xyz: [2, 0, 1]}\n"
        "  tail: {source: b.avi, fov: 90, xyz: [0, 0, 1], rpy_deg: [0, 0, 180]}\n"
    )
    with open_source(tmp_path / "rig.yaml") as source:
        instants = list(source)
        assert source.problems == []  # type: ignore[attr-defined]
        assert source.cameras["nose"].K[0, 0] == pytest.approx(32.0)
    assert [instant.stamp // 1_000_000 for instant in instants] == [0, 200, 400, 600, 800, 1000]


def test_half_a_calibration_and_wrong_sizes_are_refused(tmp_path: Path) -> None:
    path = film(tmp_path / "a.avi")
    for entry, reason in (
        ({"fov": 90}, "camera: the rig file does not give a mounting"),
        ({"xyz": [0, 0, 1]}, "camera: the rig file does not give K or fov"),
        ({"fov": 90, "size": [640, 480], "xyz": [0, 0, 1]}, "images are 64x48 but the rig file's calibration is for 640x480"),
    ):
        with pytest.raises(CalibrationError) as caught:
            open_source(path, cameras={"camera": entry})
        assert reason in str(caught.value)


def test_damaged_and_missing_films(tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_bytes(b"not a film" * 100)
    with pytest.raises(SourceError, match=r"cannot be opened as a video"):
        open_source(tmp_path / "x.mp4")
    with pytest.raises(SourceError, match=r"there is no video file"):
        VideoSource({"a": str(tmp_path / "none.mp4")})
    whole = film(tmp_path / "w.avi", frames=40, size=(320, 240)).read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) // 2])
    try:
        with open_source(tmp_path / "cut.avi") as source:
            count = sum(1 for _ in source)
    except BevstackError:
        return
    assert 0 < count < 40


def test_real_films(shared: Path) -> None:
    folder = shared / "data/video"
    with open_source(folder / "udacity_solidWhiteRight.mp4", limit=30) as source:
        stamps = [instant.stamp for instant in source]
    assert len(stamps) == 30
    assert np.allclose(np.diff(stamps), 40_000_000, atol=1_000_000)
    with open_source(folder / "intel_car-detection.mp4") as source:
        assert sum(1 for _ in source.frames()) == 377


# --- devices, on stand-ins for cv2.VideoCapture ---


class FakeCapture:
    """A camera that gives out what it is told, and blocks when it has nothing more."""

    def __init__(self, images: list[Any], size: tuple[int, int] = (64, 48)) -> None:
        self.images = iter(images)
        self.size = size
        self.released = threading.Event()

    def read(self) -> tuple[bool, Any]:
        image = next(self.images, None)
        if image is None:
            self.released.wait(0.05)
            return False, None
        return True, image

    def get(self, prop: int) -> float:
        return float(
            {cv2.CAP_PROP_FRAME_WIDTH: self.size[0], cv2.CAP_PROP_FRAME_HEIGHT: self.size[1], cv2.CAP_PROP_FPS: 30}.get(prop, 0)
        )

    def release(self) -> None:
        self.released.set()


def jpeg_buffer() -> tuple[np.ndarray, bytes]:
    good, data = cv2.imencode(".jpg", np.full((48, 64, 3), (10, 60, 200), np.uint8))
    assert good
    return np.concatenate([data.reshape(-1), np.zeros(500, np.uint8)]).reshape(1, -1), data.tobytes()


def test_mjpeg_devices_hand_over_their_bytes_without_padding() -> None:
    buffer, data = jpeg_buffer()
    fake = FakeCapture([buffer])
    with DeviceSource({"eye": "/dev/video0"}, opener=lambda *_: fake) as source:
        frame = next(iter(source.frames()))
        assert source.rate == 30.0
    assert frame.encoded == data
    assert frame.stamp > 1_600_000_000 * 10**9
    assert fake.released.is_set()


def test_rgb_devices_give_images_and_calibration_comes_from_the_rig() -> None:
    fake = FakeCapture([np.full((48, 64, 3), (10, 60, 200), np.uint8)])
    entry = RigEntry("eye", fov=90.0, T_ego_camera=np.array([[0, 0, 1, 1], [-1, 0, 0, 0], [0, -1, 0, 1], [0, 0, 0, 1.0]]))
    with DeviceSource({"eye": "/dev/video0"}, {"eye": entry}, opener=lambda *_: fake) as source:
        (instant,) = [next(iter(source))]
        assert source.problems == []
    image = instant.frames["eye"].image
    assert image is not None
    assert image[0, 0].tolist() == [200, 60, 10]
    assert instant.frames["eye"].camera.K[0, 0] == pytest.approx(32.0)


def test_a_device_that_falls_silent_ends_in_one_line() -> None:
    with (
        DeviceSource({"eye": "/dev/video0"}, timeout=0.2, opener=lambda *_: FakeCapture([])) as source,
        pytest.raises(SourceError, match=r"no image of /dev/video0 for 0 s \(eye: reading /dev/video0 fails\)"),
    ):
        next(iter(source))


def test_newest_image_wins_and_overtaken_ones_are_counted() -> None:
    images = [np.full((48, 64, 3), i, np.uint8) for i in range(20)]
    fake = FakeCapture(images)
    with DeviceSource({"eye": "/dev/video0"}, opener=lambda *_: fake) as source:
        stream = source.frames()
        taken = [next(stream)]
        while taken[-1].image is not None and taken[-1].image[0, 0, 0] != 19:
            taken.append(next(stream))
        assert len(taken) + source.drops["eye"] == 20


def test_closing_from_another_thread_ends_the_iteration() -> None:
    fake = FakeCapture([])
    source = DeviceSource({"eye": "/dev/video0"}, timeout=30, opener=lambda *_: fake)
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.extend(1 for _ in source.frames()))
    thread.start()
    source.close()
    thread.join(20)
    assert not thread.is_alive()
    assert seen == []


def test_a_failing_second_device_releases_the_first() -> None:
    first = FakeCapture([])

    def opener(device: str, size: object, rate: object) -> FakeCapture:
        if device == "/dev/video1":
            raise SourceError("there is no camera /dev/video1")
        return first

    with pytest.raises(SourceError, match=r"no camera /dev/video1"):
        DeviceSource({"a": "/dev/video0", "b": "/dev/video1"}, opener=opener)
    assert first.released.is_set()


def test_a_rig_of_devices_and_films_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rig.yaml").write_text("cameras: {a: {source: /dev/video0}, b: {source: b.avi}}")
    with pytest.raises(SourceError, match=r"live cameras and video files cannot be mixed"):
        open_source(tmp_path / "rig.yaml")
    (tmp_path / "rig.yaml").write_text("cameras: {a: {fov: 90}}")
    with pytest.raises(SourceError, match=r"camera a names no `source:`"):
        open_source(tmp_path / "rig.yaml")


def test_a_network_stream_is_read_until_it_stops(tmp_path: Path) -> None:
    film(tmp_path / "live.avi", frames=15)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/live.avi"
            with open_source(url, timeout=1.0) as source:
                stream = source.frames()
                first = next(stream)
                with pytest.raises(SourceError, match=r"no image of http://.* reading http://.* fails"):
                    list(stream)
            with pytest.raises(SourceError, match=r"cannot be opened: check the address"):
                open_source(url.replace("live", "none"))
        finally:
            server.shutdown()
            thread.join(20)
    assert first.image is not None
    assert first.image.shape == (48, 64, 3)
    assert first.stamp > 1_600_000_000 * 10**9


# --- sample.json ---


def test_sample_json_faults_are_named(shared: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sample"
    shutil.copytree(shared / "data/nuscenes/scene0061_sample", folder, copy_function=shutil.copyfile)
    folder.chmod(0o755)
    with open_source(folder, cameras={"cam_front": None}) as source:
        (instant,) = list(source)
        assert list(instant.frames) == ["cam_front"]
    with pytest.raises(SourceError, match=r"has no camera 'nose'"):
        open_source(folder, cameras={"nose": None})
    content = json.loads((folder / "sample.json").read_text())
    (folder / content["cameras"]["CAM_BACK"]["file"]).unlink()
    with pytest.raises(SourceError, match=r"image .* of cam_back is missing"):
        open_source(folder / "sample.json")
    del content["image_size"]
    (folder / "sample.json").write_text(json.dumps(content))
    with pytest.raises(SourceError, match=r"is not a sample.json: KeyError 'image_size'"):
        open_source(folder)
    (folder / "sample.json").write_text("{")
    with pytest.raises(SourceError, match=r"is not a sample.json: JSONDecodeError"):
        open_source(folder)


def test_the_test_pattern_keeps_its_rate() -> None:
    with open_source("pattern:rate=20,duration=0.5,width=160,cameras=2") as source:
        instants = list(source)
        assert source.rate == 20.0
    assert len(instants) == 10
    assert np.allclose(np.diff([instant.stamp for instant in instants]), 50_000_000)
    assert all(len(instant.frames) == 2 for instant in instants)
    with pytest.raises(SourceError, match="use 1 to 6 cameras"):
        open_source("pattern:cameras=7")
