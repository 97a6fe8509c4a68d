"""A simulated drive as a bag: messages, stamps, poses and truth survive."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from rosbags.highlevel import AnyReader

from bevstack.errors import SourceError
from bevstack.frames.sim import SimulatedDrive, write_bag


@pytest.fixture(scope="module")
def drive() -> SimulatedDrive:
    return SimulatedDrive(2, image_width=160, duration=0.6, rate=5.0)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_bag_round_trip(drive: SimulatedDrive, tmp_path: Path, storage: str) -> None:
    path = tmp_path / "drive"
    count = write_bag(drive, path, storage=storage)  # type: ignore[arg-type]
    assert count == 1 + 3 * (6 * 3 + 1)
    with AnyReader([path]) as reader:
        topics = {c.topic: c.msgtype for c in reader.connections}
        assert topics["/cam_front/image_raw/compressed"] == "sensor_msgs/msg/CompressedImage"
        assert topics["/tf_static"] == "tf2_msgs/msg/TFMessage"
        last = 0
        poses = {}
        images = 0
        for connection, stamp, raw in reader.messages():
            assert stamp >= last
            last = stamp
            message = reader.deserialize(raw, connection.msgtype)
            if connection.topic == "/tf":
                transform = message.transforms[0]
                assert (transform.header.frame_id, transform.child_frame_id) == ("odom", "base_link")
                poses[stamp] = transform.transform.translation
            elif connection.topic == "/tf_static":
                assert {t.child_frame_id for t in message.transforms} == {f"{n}_optical_frame" for n in drive.cameras}
            elif connection.topic.endswith("/compressed"):
                picture = cv2.imdecode(message.data, cv2.IMREAD_COLOR)
                assert picture.shape == (90, 160, 3)
                assert message.header.stamp.sec * 10**9 + message.header.stamp.nanosec == stamp
                images += 1
            elif connection.topic.endswith("/camera_info"):
                name = connection.topic.split("/")[1]
                np.testing.assert_allclose(message.k.reshape(3, 3), drive.cameras[name].K)
            elif connection.topic == "/truth_json":
                truth = json.loads(message.data)
                assert truth["stamp"] == stamp
                assert len(truth["boxes"]) == len(drive.truth((stamp - drive.start_stamp) * 1e-9))
        assert images == 18
        for stamp, p in poses.items():
            np.testing.assert_allclose((p.x, p.y, p.z), drive.ego_pose(stamp)[:3, 3], atol=1e-9)


def test_an_existing_folder_is_not_overwritten(drive: SimulatedDrive, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(SourceError, match="exists"):
        write_bag(drive, tmp_path / "there")
