"""Type hashes against a real Jazzy's, and the message files."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pytest

from bevstack.ros.runtime.hashes import type_hash, type_hash_bytes
from bevstack.ros.runtime.typestore import UnknownTypeError, typestore

#: rosbags cannot serialise wide strings, and nobody needs this example.
NOT_PROVIDED = {"example_interfaces/msg/WString"}

#: Not in the golden list. Computed here from the published fields: a change of the file must be meant.
FROZEN = {
    "foxglove_msgs/msg/CompressedVideo": "RIHS01_32039eafc3770e589c86c4dabff9c392ce9955ebffd43f5f60763011d43d8d1d",
    "stack_msgs/msg/CodecStatus": "RIHS01_fc26c82ed4ed3eb5eb26681f79f07386cb71a08b1d702a5b57486563f472ff6e",
    "stack_msgs/msg/PipelineStatus": "RIHS01_657298ab59d0c92508312e134bdbe8ff9a2ac0fa9a3d30e59d0ede36973f0cb6",
}


def test_every_hash_is_that_of_jazzy(shared: Path) -> None:
    expected: dict[str, str] = json.loads((shared / "golden/ros2/type_hashes.json").read_text())
    assert len(expected) == 384
    available = {name for name in expected if name in typestore().fielddefs}
    assert set(expected) - available == NOT_PROVIDED
    wrong = [name for name in available if type_hash(name) != expected[name]]
    assert wrong == []


def test_hashes_see_every_field() -> None:
    store = typestore()
    before = type_hash("vision_msgs/msg/Detection3D")
    constants, fields = store.fielddefs["vision_msgs/msg/Detection3D"]
    try:
        store.fielddefs["vision_msgs/msg/Detection3D"] = (constants, list(reversed(fields)))
        assert store.hash_rihs01("vision_msgs/msg/Detection3D") != before
    finally:
        store.fielddefs["vision_msgs/msg/Detection3D"] = (constants, fields)


@pytest.mark.parametrize("name", sorted(FROZEN))
def test_frozen_hashes(name: str) -> None:
    assert type_hash(name) == FROZEN[name]


def test_bytes_of_a_hash() -> None:
    assert type_hash_bytes("std_msgs/msg/Header").hex() == type_hash("std_msgs/msg/Header").removeprefix("RIHS01_")


def test_unknown_type() -> None:
    with pytest.raises(UnknownTypeError, match="nothing_msgs"):
        type_hash("nothing_msgs/msg/Nothing")


def test_stack_msgs_is_the_same_in_the_ros_workspace() -> None:
    ours = Path(str(files("bevstack.ros") / "msgs" / "stack_msgs"))
    workspace = Path(__file__).parents[3] / "ros_ws/src/stack_msgs"
    for kind in ("msg", "srv"):
        mine = {file.name: file.read_bytes() for file in (ours / kind).glob(f"*.{kind}")}
        theirs = {file.name: file.read_bytes() for file in (workspace / kind).glob(f"*.{kind}")}
        assert mine == theirs
