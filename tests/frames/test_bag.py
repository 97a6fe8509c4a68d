"""The bag source: real bags in every form, damaged bags, own topics and encodings, tf chains, odometry."""

from __future__ import annotations

import io
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image as pil

from bevstack.errors import CalibrationError, SourceError
from bevstack.frames.bag import BagSource, discover
from bevstack.frames.bag_reader import BagReader
from bevstack.frames.decode import decode
from bevstack.frames.source import open_source
from bevstack.geometry import invert, pose, rotation_z

SECOND = 1_000_000_000
MS = 1_000_000
SIX = ["cam_front", "cam_front_right", "cam_front_left", "cam_back", "cam_back_left", "cam_back_right"]
K = np.array([[50.0, 0, 31.5], [0, 50.0, 23.5], [0, 0, 1]])
OPTICAL_Q = (-0.5, 0.5, -0.5, 0.5)  # optical axes in body axes
IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
INFO, TF, ODOMETRY = "sensor_msgs/msg/CameraInfo", "tf2_msgs/msg/TFMessage", "nav_msgs/msg/Odometry"
WriteBag = Callable[..., Path]


def picture(width: int = 64, height: int = 48) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([255 * x // width, 255 * y // height, 0 * x + 90], axis=2).astype(np.uint8)


def jpeg(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    pil.fromarray(image).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def rig_rows(
    m: Any, names: list[str], instants: int = 3, *, tf: bool = True, odom: bool = True, info: bool = True
) -> list[Any]:
    """A drive along x at 10 m/s: instants 100 ms apart from 100 s on."""
    rows: list[Any] = []
    if tf:
        mounted = [m.transform(0, "base_link", f"{n}_optical_frame", (1, i, 1.5), OPTICAL_Q) for i, n in enumerate(names)]
        rows.append(("/tf_static", TF, 99 * SECOND, m.tf(*mounted)))
    for i in range(instants):
        stamp = 100 * SECOND + i * 100 * MS
        if odom:
            rows.append(("/tf", TF, stamp, m.tf(m.transform(stamp, "odom", "base_link", (i, 0, 0)))))
        for name in names:
            if info:
                rows.append((f"/{name}/camera_info", INFO, stamp, m.info(stamp, f"{name}_optical_frame", 64, 48, K)))
            rows.append(
                (
                    f"/{name}/image_raw/compressed",
                    COMPRESSED,
                    stamp + MS,
                    m.compressed(stamp, f"{name}_optical_frame", jpeg(picture())),
                )
            )
    return rows


# --- bags of the real recorder ---


@pytest.fixture(scope="session")
def bags(shared: Path) -> Path:
    path = shared / "data/bags"
    if not path.is_dir():
        pytest.skip(f"{path} is absent: this test needs the recorded bags")
    return path


@pytest.mark.parametrize("name", ["rosbag2_mcap", "rosbag2_sqlite3", "rosbag2_sqlite3_zstdfile"])
def test_real_recordings_give_twelve_instants_of_six_cameras(bags: Path, name: str) -> None:
    with open_source(bags / name) as source:
        instants = list(source)
        assert list(source.cameras) == SIX
        assert source.rate == pytest.approx(2.0, rel=0.02)
        assert source.problems == []  # type: ignore[attr-defined]
    assert len(instants) == 12
    assert all(list(instant.frames) == SIX for instant in instants)
    for instant in instants:
        for item in instant.frames.values():
            assert item.stamp == instant.stamp
            assert item.T_world_ego is not None
            assert item.encoded is not None
            assert (item.camera.width, item.camera.height) == (800, 450)
    steps = np.diff([instant.T_world_ego[0, 3] for instant in instants])
    seconds = np.diff([instant.stamp for instant in instants]) / SECOND
    assert np.allclose(steps / seconds, 5.0, atol=1e-3)
    assert decode(instants[-1].frames["cam_back"].encoded, (400, 225)).shape == (225, 400, 3)  # type: ignore[arg-type]


def test_all_forms_hold_the_same_rig(bags: Path) -> None:
    rigs = []
    for name in ("rosbag2_mcap", "rosbag2_sqlite3", "rosbag2_mcap_zstd", "rosbag2_sqlite3_zstdfile", "rosbag2_mcap_killed"):
        with open_source(bags / name) as source:
            rigs.append(dict(source.cameras))
    with open_source(bags.parent / "nuscenes/scene0061_sample") as source:
        original = source.cameras
        for rig in rigs:
            for name in SIX:
                assert np.allclose(rig[name].T_ego_camera, original[name].T_ego_camera, atol=1e-6)
                assert np.allclose(rig[name].K, original[name].resized(800, 450).K)


def test_zstd_per_message_is_read_and_what_the_recorder_lost_is_said(bags: Path) -> None:
    """This recorder's compression could not keep up: 81 of 193 messages are in the file, by its own metadata too."""
    with open_source(bags / "rosbag2_mcap_zstd") as source:
        instants = list(source)
        (loss, *_) = source.problems  # type: ignore[attr-defined]
    assert len(instants) == 1
    assert "cam_front_right 1" in loss
    assert "of 12" in loss
    assert decode(instants[0].frames["cam_front_right"].encoded).shape == (450, 800, 3)  # type: ignore[arg-type]
    with open_source(bags / "rosbag2_mcap_zstd", missing_after=0.6) as source:
        assert len(list(source)) >= 8


def test_a_killed_recorders_bag_gives_what_is_there_and_says_what_is_missing(bags: Path) -> None:
    with open_source(bags / "rosbag2_mcap_killed") as source:
        instants = list(source)
        assert list(source.cameras) == SIX
        (problem,) = source.problems  # type: ignore[attr-defined]
    assert len(instants) >= 5
    assert all(list(instant.frames) == SIX and instant.frames["cam_back"].T_world_ego is not None for instant in instants)
    assert "\n" not in problem
    assert "no metadata.yaml: the recorder was stopped hard" in problem
    assert "without a summary" in problem
    assert "messages could be read" in problem


@pytest.mark.parametrize("fraction", [0.15, 0.5, 0.9, 0.9999])
@pytest.mark.parametrize("name", ["rosbag2_mcap", "rosbag2_sqlite3", "rosbag2_mcap_zstd"])
def test_a_cut_copy_is_read_as_far_as_it_goes(bags: Path, tmp_path: Path, name: str, fraction: float) -> None:
    copy = tmp_path / name
    shutil.copytree(bags / name, copy, copy_function=shutil.copyfile)
    copy.chmod(0o755)
    (storage,) = [p for p in copy.iterdir() if p.suffix in (".mcap", ".db3")]
    data = storage.read_bytes()
    storage.write_bytes(data[: int(len(data) * fraction)])
    with BagReader(bags / name) as whole:
        everything = [(m.topic, m.raw) for m in whole.messages()]
    with BagReader(copy) as reader:
        found = [(m.topic, m.raw) for m in reader.messages()]
        assert reader.problems or len(found) == len(everything)
        assert all("\n" not in problem for problem in reader.problems)
    assert set(found) <= set(everything)
    # Chunks and pages are cut as a whole; headers and schemas come first.
    assert len(found) > len(everything) * (0.6 * fraction - 0.1)


@pytest.mark.parametrize(("name", "fewest"), [("rosbag2_mcap", 8), ("rosbag2_sqlite3", 7)])
def test_bytes_that_are_overwritten_cost_few_instants(bags: Path, tmp_path: Path, name: str, fewest: int) -> None:
    copy = tmp_path / name
    shutil.copytree(bags / name, copy, copy_function=shutil.copyfile)
    copy.chmod(0o755)
    (storage,) = [p for p in copy.iterdir() if p.suffix in (".mcap", ".db3")]
    rng = np.random.default_rng(3)
    data = bytearray(storage.read_bytes())
    for _ in range(4):
        where = int(rng.integers(len(data) // 4, len(data) - 9000))
        data[where : where + 5000] = rng.bytes(5000)
    storage.write_bytes(bytes(data))
    with BagSource(copy) as source:
        assert fewest <= len(list(source)) <= 12


@pytest.mark.parametrize("compression", ["NONE", "ZSTD", "LZ4"])
def test_a_chunk_with_a_wrong_checksum_is_left_out(tmp_path: Path, compression: str) -> None:
    """Written by the mcap package, with checksums; the summary is cut off, and one chunk is damaged."""
    from mcap.writer import CompressionType, Writer

    path = tmp_path / "bag.mcap"
    with path.open("wb") as file:
        writer = Writer(file, chunk_size=2000, compression=CompressionType[compression], enable_crcs=True)
        writer.start(profile="ros2", library="test")
        schema = writer.register_schema("std_msgs/msg/String", "ros2msg", b"string data")
        channel = writer.register_channel("/text", "cdr", schema)
        for i in range(60):
            writer.add_message(channel, i, b"\x00\x01\x00\x00" + bytes([i]) + np.random.default_rng(i).bytes(200), i)
        writer.finish()
    whole = path.read_bytes()
    cut = bytearray(whole[: whole.rindex(b"/text") - 60])  # somewhere in the summary
    with BagReader(path) as reader:
        assert [message.raw[4] for message in reader.messages()] == list(range(60))
    path.write_bytes(cut)
    with BagReader(path) as reader:
        assert [message.raw[4] for message in reader.messages()] == list(range(60))
        (problem,) = reader.problems
        assert "60 messages could be read" in problem
    cut[3000] ^= 0xFF
    path.write_bytes(cut)
    with BagReader(path) as reader:
        left = [message.raw[4] for message in reader.messages()]
        (problem,) = reader.problems
    assert 45 <= len(left) < 60
    assert left == sorted(left)
    assert "fails its checksum: left out" in problem or "cannot be decompressed" in problem


def test_messages_in_the_log_of_a_killed_sqlite_recorder_are_found(write_bag: WriteBag, messages: Any, tmp_path: Path) -> None:
    """With journal_mode=WAL the last messages lie in a second file until somebody merges them."""
    path = write_bag(rig_rows(messages, ["eye"], 4), storage="sqlite3")
    (storage,) = path.glob("*.db3")
    database = sqlite3.connect(storage)
    try:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA wal_autocheckpoint=0")
        ((topic,),) = database.execute("SELECT id FROM topics WHERE name LIKE '%compressed'")
        late = messages.store.serialize_cdr(messages.compressed(200 * SECOND, "eye_optical_frame", jpeg(picture())), COMPRESSED)
        database.execute(
            "INSERT INTO messages (topic_id, timestamp, data) VALUES (?, ?, ?)", (topic, 200 * SECOND, bytes(late))
        )
        database.commit()
        killed = tmp_path / "killed"
        killed.mkdir()
        for file in (storage, Path(f"{storage}-wal")):
            shutil.copyfile(file, killed / file.name)
    finally:
        database.close()
    with BagReader(killed) as reader:
        stamps = [m.stamp for m in reader.messages(["/eye/image_raw/compressed"])]
        (problem,) = reader.problems
    assert stamps[-1] == 200 * SECOND
    assert len(stamps) == 5
    assert "no metadata.yaml" in problem
    assert not list(killed.glob("*-shm"))  # the bag's own folder is not written to


def test_split_bags_are_read_in_the_recorders_order(write_bag: WriteBag, messages: Any, tmp_path: Path) -> None:
    folder = tmp_path / "split"
    folder.mkdir()
    rows = rig_rows(messages, ["eye"], 12)
    for part in range(12):
        chosen = [row for row in rows if (part == 0 and row[0] == "/tf_static") or row[2] // (100 * MS) == 1000 + part]
        (storage,) = write_bag(chosen, f"part{part}").glob("*.mcap")
        shutil.copyfile(storage, folder / f"bag_{part}.mcap")
    with open_source(folder) as source:
        stamps = [instant.stamp for instant in source]
    assert len(stamps) == 12
    assert stamps == sorted(stamps)


def test_a_file_that_is_no_bag_is_refused_in_one_line(tmp_path: Path) -> None:
    for name, content in (
        ("a.mcap", b""),
        ("b.mcap", b"hello" * 100),
        ("c.db3", b"SQLite format 3\0" + b"x" * 500),
        ("d.db3", b""),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(SourceError) as caught:
            BagSource(path)
        assert "\n" not in str(caught.value)
        assert "nothing can be read" in str(caught.value)
    with pytest.raises(SourceError, match="no bag at"):
        BagSource(tmp_path / "absent")


def test_udacity_bag_without_calibration_is_guessed_with_a_notice(bags: Path) -> None:
    with open_source(bags / "udacity_front_mcap") as source:
        assert list(source.cameras) == ["camera"]
        assert "no calibration" in source.problems[0]  # type: ignore[attr-defined]
        count = sum(1 for instant in source if instant.frames["camera"].T_world_ego is None)
    assert count == 221


# --- own bags ---


def test_fewer_cameras_with_other_names(write_bag: WriteBag, messages: Any) -> None:
    path = write_bag(rig_rows(messages, ["left_eye", "right_eye"]))
    with open_source(path) as source:
        instants = list(source)
        assert list(source.cameras) == ["left_eye", "right_eye"]
        assert source.rate == pytest.approx(10.0)
    assert [instant.T_world_ego[0, 3] for instant in instants] == [0, 1, 2]
    assert np.allclose(source.cameras["right_eye"].T_ego_camera[:3, 3], [1, 1, 1.5])
    assert np.allclose(source.cameras["right_eye"].T_ego_camera[:3, 2], [1, 0, 0])
    with open_source(path, cameras={"right_eye": None}) as source:
        assert [list(instant.frames) for instant in source] == [["right_eye"]] * 3


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("compression", [None, "message", "file"])
def test_every_storage_and_compression(write_bag: WriteBag, messages: Any, storage: str, compression: str | None) -> None:
    path = write_bag(rig_rows(messages, SIX, 2), storage=storage, compression=compression)
    with open_source(path) as source:
        assert len(list(source)) == 2
    # Without metadata.yaml the same is found by scanning.
    (path / "metadata.yaml").unlink()
    with open_source(path) as source:
        assert len(list(source)) == 2
        assert "no metadata.yaml" in source.problems[0]  # type: ignore[attr-defined]


def test_a_single_storage_file_is_a_source(write_bag: WriteBag, messages: Any) -> None:
    path = write_bag(rig_rows(messages, SIX, 2))
    (storage,) = path.glob("*.mcap")
    with open_source(storage) as source:
        assert len(list(source)) == 2


def encodings() -> list[tuple[str, np.ndarray]]:
    rgb = picture()
    even = cv2.cvtColor(cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_YUYV), cv2.COLOR_YUV2RGB_YUYV)
    yuyv = cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_YUYV)
    assert even.shape == rgb.shape
    return [
        ("rgb8", rgb),
        ("bgr8", rgb[..., ::-1]),
        ("rgba8", np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)])),
        ("bgra8", np.dstack([rgb[..., ::-1], np.full(rgb.shape[:2], 255, np.uint8)])),
        ("yuv422_yuy2", yuyv),
        ("yuv422", yuyv[..., ::-1]),
        ("rgb16", (rgb.astype(np.uint16) << 8) | 7),
    ]


@pytest.mark.parametrize(("encoding", "data"), encodings(), ids=[name for name, _ in encodings()])
def test_raw_encodings_arrive_as_rgb(write_bag: WriteBag, messages: Any, encoding: str, data: np.ndarray) -> None:
    m = messages
    rows = [
        ("/tf_static", TF, 0, m.tf(m.transform(0, "base_link", "eye", (0, 0, 1), OPTICAL_Q))),
        ("/eye/camera_info", INFO, 5, m.info(5, "eye", 64, 48, K)),
        ("/eye/image_raw", IMAGE, 5, m.image(5, "eye", encoding, 64, 48, data)),
    ]
    with open_source(write_bag(rows)) as source:
        (instant,) = list(source)
    image = instant.frames["eye"].image
    assert image is not None
    assert np.abs(image.astype(int) - picture()).mean() < (3 if "yuv" in encoding else 0.01)


def test_an_unknown_encoding_is_said(write_bag: WriteBag, messages: Any) -> None:
    m = messages
    rows = [
        ("/tf_static", TF, 0, m.tf(m.transform(0, "base_link", "eye", (0, 0, 1), OPTICAL_Q))),
        ("/eye/camera_info", INFO, 5, m.info(5, "eye", 64, 48, K)),
        ("/eye/image_raw", IMAGE, 5, m.image(5, "eye", "32FC1", 64, 48, np.zeros((48, 64), np.float32))),
    ]
    with open_source(write_bag(rows)) as source:
        assert list(source) == []
        assert any("'32FC1' is unknown" in problem for problem in source.problems)  # type: ignore[attr-defined]


def test_fisheye_rational_roi_binning_and_rectified_infos(write_bag: WriteBag, messages: Any) -> None:
    m = messages
    names = ["fish", "rational", "window"]
    mounted = [m.transform(0, "base_link", name, (0, i, 1), OPTICAL_Q) for i, name in enumerate([*names, "flat"])]
    rows = [("/tf_static", TF, 0, m.tf(*mounted))]
    infos = {
        "fish": m.info(5, "fish", 64, 48, K, "equidistant", (0.1, 0.01, 0.001, 0.0)),
        "rational": m.info(5, "rational", 64, 48, K, "rational_polynomial", (0.1, 0.02, 0.001, 0.002, 0.0, 0.3, 0.01, 0.0)),
        "window": m.info(5, "window", 256, 192, np.diag([4.0, 4.0, 1.0]) @ K, roi=(64, 48, 128, 96), binning=(2, 2)),
    }
    for name in names:
        rows += [
            (f"/{name}/camera_info", INFO, 5, infos[name]),
            (f"/{name}/image_raw", IMAGE, 5, m.image(5, name, "rgb8", 64, 48, picture())),
        ]
    P = np.hstack([np.diag([0.8, 0.8, 1.0]) @ K, np.zeros((3, 1))])
    rows += [
        ("/flat/camera_info", INFO, 5, m.info(5, "flat", 64, 48, K, "plumb_bob", (-0.3, 0.1, 0, 0, 0), P)),
        ("/flat/image_rect_color", IMAGE, 5, m.image(5, "flat", "rgb8", 64, 48, picture())),
    ]
    with open_source(write_bag(rows)) as source:
        (instant,) = list(source)
        cameras = source.cameras
    assert cameras["fish"].model == "fisheye"
    assert cameras["fish"].distortion.tolist() == [0.1, 0.01, 0.001, 0.0]
    assert cameras["rational"].distortion.size == 8
    assert (cameras["window"].width, cameras["window"].height) == (64, 48)
    assert np.allclose(cameras["window"].K[:2, 2], [(4 * 31.5 - 64) / 2, (4 * 23.5 - 48) / 2])
    assert cameras["window"].K[0, 0] == pytest.approx(100.0)
    assert instant.frames["flat"].rectified
    assert not cameras["flat"].distorted
    assert cameras["flat"].K[0, 0] == pytest.approx(40.0)
    assert not instant.frames["fish"].rectified


def test_tf_chains_are_followed_and_leading_slashes_ignored(write_bag: WriteBag, messages: Any) -> None:
    m = messages
    half = np.sqrt(0.5)
    rows = [
        ("/tf_static", TF, 0, m.tf(m.transform(0, "/base_footprint", "/base_link", (0, 0, 0.3)))),
        ("/tf_static", TF, 1, m.tf(m.transform(0, "base_link", "roof", (1, 0, 1), (0, 0, half, half)))),
        (
            "/tf_static",
            TF,
            2,
            m.tf(m.transform(0, "roof", "eye_link", (0.5, 0, 0)), m.transform(0, "eye_link", "eye", (0, 0, 0), OPTICAL_Q)),
        ),
        ("/tf", TF, 3, m.tf(m.transform(100 * SECOND, "map", "odom", (100, 0, 0)))),
        ("/tf", TF, 3, m.tf(m.transform(100 * SECOND, "odom", "base_footprint", (0, 5, 0), (0, 0, half, half)))),
        ("/eye/camera_info", INFO, 4, m.info(100 * SECOND, "eye", 64, 48, K)),
        ("/eye/image_raw/compressed", COMPRESSED, 4, m.compressed(100 * SECOND, "eye", jpeg(picture()))),
    ]
    with open_source(write_bag(rows)) as source:
        (instant,) = list(source)
    T = source.cameras["eye"].T_ego_camera
    assert np.allclose(T[:3, 3], [1, 0.5, 1])
    assert np.allclose(T[:3, 2], [0, 1, 0])  # looks to the left
    assert np.allclose(instant.T_world_ego, pose(rotation_z(np.pi / 2), [0, 5, 0.3]))
    with open_source(write_bag(rows, "again"), world_frame="map") as source:
        (instant,) = list(source)
    assert np.allclose(instant.T_world_ego[:3, 3], [100, 5, 0.3])


def test_odometry_is_used_where_tf_has_none_and_is_interpolated(write_bag: WriteBag, messages: Any) -> None:
    m = messages
    rows = rig_rows(m, ["eye"], 4, odom=False)
    for i in range(5):
        stamp = 100 * SECOND + (i * 100 - 50) * MS
        yaw = 0.1 * i
        q = (0, 0, np.sin(yaw / 2), np.cos(yaw / 2))
        rows.append(("/odom", ODOMETRY, stamp + 70 * MS, m.odometry(stamp, "odom", "base_link", (i, 0, 0), q)))
    rows.sort(key=lambda row: row[2])
    with open_source(write_bag(rows)) as source:
        instants = list(source)
    assert len(instants) == 4
    for i, instant in enumerate(instants):
        assert np.allclose(instant.T_world_ego, pose(rotation_z(0.1 * i + 0.05), [i + 0.5, 0, 0]), atol=1e-9)


def test_an_odometry_topic_can_be_preferred_to_tf(write_bag: WriteBag, messages: Any) -> None:
    rows = rig_rows(messages, ["eye"])
    rows += [
        ("/gps/odom", ODOMETRY, s, messages.odometry(s, "utm", "base_link", (500, 0, 0))) for s in (100 * SECOND, 101 * SECOND)
    ]
    path = write_bag(rows)
    with open_source(path) as source:
        assert next(iter(source)).T_world_ego[0, 3] == 0
    with open_source(path, odometry_topic="/gps/odom") as source:
        assert next(iter(source)).T_world_ego[0, 3] == 500
    with pytest.raises(SourceError, match=r"no odometry topic '/x' \(found: /gps/odom\)"):
        open_source(path, odometry_topic="/x")


def test_odometry_of_another_frame_is_carried_to_base_link(write_bag: WriteBag, messages: Any) -> None:
    m = messages
    rows = rig_rows(m, ["eye"], 1, odom=False)
    rows.insert(0, ("/tf_static", TF, 98 * SECOND, m.tf(m.transform(0, "base_link", "imu", (2, 0, 1)))))
    rows.append(("/odom", ODOMETRY, 100 * SECOND, m.odometry(100 * SECOND, "odom", "imu", (10, 0, 1))))
    with open_source(write_bag(rows)) as source:
        (instant,) = list(source)
    assert np.allclose(instant.T_world_ego[:3, 3], [8, 0, 0])


def test_without_odometry_the_reason_is_given(write_bag: WriteBag, messages: Any) -> None:
    with open_source(write_bag(rig_rows(messages, ["eye"], odom=False))) as source:
        instants = list(source)
        assert any("no ego motion (neither /tf odom -> base_link nor Odometry)" in p for p in source.problems)  # type: ignore[attr-defined]
    assert np.array_equal(instants[0].T_world_ego, np.eye(4))
    assert instants[0].frames["eye"].T_world_ego is None


def test_a_frame_missing_in_tf_is_named(write_bag: WriteBag, messages: Any) -> None:
    rows = rig_rows(messages, ["eye"])
    rows[0] = ("/tf_static", TF, 0, messages.tf(messages.transform(0, "base_link", "other", (0, 0, 1))))
    path = write_bag(rows)
    with pytest.raises(CalibrationError) as caught:
        open_source(path)
    assert str(caught.value).startswith("eye: frame 'eye_optical_frame' is missing in tf (known: base_link, odom, other)")
    with pytest.raises(CalibrationError, match="frame 'chassis' is missing in tf"):
        open_source(path, base_frame="chassis", cameras={"eye": {"frame": "other"}})


def test_a_rig_file_stands_in_for_tf_and_camera_info(write_bag: WriteBag, messages: Any, tmp_path: Path) -> None:
    path = write_bag(rig_rows(messages, ["eye"], tf=False, info=False))
    with pytest.raises(CalibrationError, match="'eye_optical_frame' is missing in tf"):
        open_source(path)
    rig = tmp_path / "rig.yaml"
    rig.write_text("cameras: {eye: {xyz: [1.2, 0, 1.4], rpy_deg: [0, 5, 90]}}\n")
    with pytest.raises(CalibrationError, match="eye: no camera_info on /eye/camera_info: record it, or give K in a rig file"):
        open_source(path, rig=rig)
    rig.write_text("cameras: {eye: {fov: 60, xyz: [1.2, 0, 1.4], rpy_deg: [0, 5, 90]}}\n")
    with open_source(path, rig=rig) as source:
        camera = source.cameras["eye"]
        assert len(list(source)) == 3
    assert (camera.width, camera.height) == (64, 48)
    assert 2 * np.degrees(np.arctan(32 / camera.K[0, 0])) == pytest.approx(60)
    assert np.allclose(camera.T_ego_camera[:3, 3], [1.2, 0, 1.4])
    assert np.allclose(camera.T_ego_camera[:3, 2], [0, np.cos(np.radians(5)), -np.sin(np.radians(5))], atol=1e-9)


def test_topics_by_template_and_by_name(write_bag: WriteBag, messages: Any) -> None:
    m = messages
    rows: list[Any] = [
        ("/tf_static", TF, 0, m.tf(*[m.transform(0, "base_link", f"c{i}", (0, i, 1), OPTICAL_Q) for i in range(2)]))
    ]
    for i in range(2):
        base = f"/sensing/camera/camera{i}"
        rows += [
            (f"{base}/camera_info", INFO, 5, m.info(5, f"c{i}", 64, 48, K)),
            (f"{base}/image_color/compressed", COMPRESSED, 5, m.compressed(5, f"c{i}", jpeg(picture()))),
            (f"/debug/image_camera{i}/compressed", COMPRESSED, 5, m.compressed(5, f"c{i}", jpeg(picture(32, 24)))),
        ]
    path = write_bag(rows)
    with open_source(path) as source:
        assert list(source.cameras) == ["camera0", "camera1"]
    with open_source(path, image_topic_template="/sensing/camera/{camera}/image_color") as source:
        assert list(source.cameras) == ["camera0", "camera1"]
    with open_source(path, cameras={"nose": "/sensing/camera/camera1/image_color/compressed"}) as source:
        (instant,) = list(source)
        assert list(instant.frames) == ["nose"]
        assert source.cameras["nose"].T_ego_camera[1, 3] == 1
    for options, reason in (
        ({"cameras": {"nose": "/nowhere"}}, "no image topic '/nowhere' for nose (image topics: /debug/"),
        ({"cameras": {"nose": None}}, "no camera 'nose' (found: camera0, camera1): give its topic"),
        ({"image_topic_template": "/x/{camera}"}, "no image topics like '/x/{camera}'"),
        ({"image_topic_template": "/x"}, "has no {camera} in it"),
    ):
        with pytest.raises(SourceError) as caught:
            open_source(path, **options)  # type: ignore[arg-type]
        assert reason in str(caught.value)


def test_discovery_prefers_compressed_and_image_raw_and_keeps_names_apart() -> None:
    topics = {
        "/a/image_raw": IMAGE,
        "/a/image_raw/compressed": COMPRESSED,
        "/a/image_rect/compressed": COMPRESSED,
        "/a/camera_info": INFO,
        "/front/cam/image_raw": IMAGE,
        "/front/cam/camera_info": INFO,
        "/rear/cam/image_raw": IMAGE,
        "/rear/cam/camera_info": INFO,
        "/a/depth/image_raw": IMAGE,
        "/bev/debug/image_a/compressed": COMPRESSED,
    }
    found = discover(topics)
    assert {name: choice.topic for name, choice in found.items()} == {
        "a": "/a/image_raw/compressed",
        "front_cam": "/front/cam/image_raw",
        "rear_cam": "/rear/cam/image_raw",
    }
    assert list(discover({f"/{n}/image_raw": IMAGE for n in reversed(SIX)})) == SIX


def test_a_bag_without_images_lists_its_topics(write_bag: WriteBag, messages: Any) -> None:
    path = write_bag([("/tf_static", TF, 0, messages.tf(messages.transform(0, "base_link", "eye", (0, 0, 1))))])
    with pytest.raises(SourceError, match=r"has no image topics \(topics: /tf_static\)"):
        open_source(path)


def test_a_damaged_message_is_left_out_and_noted(write_bag: WriteBag, messages: Any) -> None:
    rows = rig_rows(messages, ["eye"])
    rows.append(("/eye/image_raw/compressed", COMPRESSED, 101 * SECOND, b"\x00\x01\x00\x00\xff\xff\xff"))
    with open_source(write_bag(rows)) as source:
        assert len(list(source)) == 3
        assert any("is damaged" in problem for problem in source.problems)  # type: ignore[attr-defined]


def test_unusable_calibration_is_refused_and_odd_one_noted(write_bag: WriteBag, messages: Any) -> None:
    rows = rig_rows(messages, ["eye"])
    rows[2] = ("/eye/camera_info", INFO, 100 * SECOND, messages.info(5, "eye_optical_frame", 64, 48, np.zeros((3, 3))))
    with pytest.raises(CalibrationError, match=r"eye: its camera_info is empty \(K is zero\)"):
        open_source(write_bag(rows))
    rows = rig_rows(messages, ["eye"])
    rows[0] = ("/tf_static", TF, 0, messages.tf(messages.transform(0, "base_link", "eye_optical_frame", (0, 0, 1))))
    with open_source(write_bag(rows, "sky")) as source:
        assert any("looks at the sky" in problem for problem in source.problems)  # type: ignore[attr-defined]


def test_the_source_can_be_iterated_again(write_bag: WriteBag, messages: Any) -> None:
    with open_source(write_bag(rig_rows(messages, SIX, 3))) as source:
        first, second = [i.stamp for i in source], [i.stamp for i in source]
    assert first == second
    assert len(first) == 3


def test_world_pose_composition_is_the_tf_one(write_bag: WriteBag, messages: Any) -> None:
    """A point fixed in the world, seen from two instants, is the same point."""
    with open_source(write_bag(rig_rows(messages, ["eye"], 2))) as source:
        one, two = list(source)
    ahead = one.T_world_ego @ [12.0, 1.0, 0.0, 1.0]
    assert np.allclose(invert(two.T_world_ego) @ ahead, [11.0, 1.0, 0.0, 1.0])
