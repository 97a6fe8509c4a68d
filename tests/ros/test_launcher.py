"""The launcher in one process: runs to the source's end, can be stopped, can be used again, fails plainly."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rosbags.rosbag2 import Reader

from bevstack.errors import BevstackError
from bevstack.frames.types import FrameSet
from bevstack.geometry import Boxes3D, Camera
from bevstack.ros import launcher
from bevstack.ros.graph import BEV, REPLAY, resolve
from bevstack.ros.nodes import bev_node
from bevstack.ros.runtime import ok


class NoBoxes:
    """A model that costs nothing."""

    rung = "none"
    timings: Mapping[str, float] = {}

    def decode_size(self, camera: Camera) -> tuple[int, int]:
        return 32, 18

    def reset(self) -> None:
        pass

    def __call__(self, frame_set: FrameSet) -> Boxes3D:
        return Boxes3D.empty()


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEVSTACK_WIRE", "off")
    monkeypatch.setattr(bev_node, "load_ladder", lambda *_, **__: NoBoxes())


SOURCE = {"source": "pattern:width=160,rate=10,duration=1", "rate": "0", "lockstep": "true"}


def counts(path: Path) -> dict[str, int]:
    with Reader(path) as reader:
        return {c.topic: c.msgcount for c in reader.connections}


def test_runs_to_the_end_records_and_replays(tmp_path: Path) -> None:
    """Twice in one process: a recording, and the recording played again."""
    bag = tmp_path / "out"
    assert launcher.run_graph(BEV, {**SOURCE, "record": str(bag), "record_stamps": "header"}) == 0
    assert not ok(), "the runtime is shut down again"
    found = counts(bag)
    assert found["/bev_node/status"] == found["/bev_node/detections"] == found["/cam_back/image_raw/compressed"] == 10
    assert "/bev_node/debug/image_cam_front/compressed" not in found, "debug images are not made for the recorder"
    again = tmp_path / "again"
    assert launcher.run_graph(REPLAY, {"bag": str(bag), "rate": "4", "record": str(again)}) == 0
    assert counts(again)["/cam_back/image_raw/compressed"] == 10
    assert counts(again)["/bev_node/detections"] > 0


def test_can_be_stopped(tmp_path: Path) -> None:
    stop = threading.Event()
    seen: list[str] = []

    def started(nodes: Mapping[str, Any]) -> None:
        seen.extend(nodes)
        threading.Timer(0.5, stop.set).start()

    endless = {"source": "pattern:width=160,rate=10,duration=600", "namespace": "car", "record": str(tmp_path / "out")}
    assert launcher.run_graph(BEV, endless, stop=stop, on_started=started) == 0
    assert set(seen) == {"bev_node", "recorder", "camera_node"}
    assert counts(tmp_path / "out")["/car/cam_front/image_raw/compressed"] > 0


def test_a_model_that_cannot_be_loaded_ends_the_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise BevstackError("weights are damaged")

    monkeypatch.setattr(bev_node, "load_ladder", broken)
    with pytest.raises(BevstackError, match="bev_node did not start: weights are damaged"):
        launcher.run_graph(BEV, SOURCE)
    assert not ok()


def test_a_source_that_does_not_exist_ends_the_launch() -> None:
    with pytest.raises(BevstackError, match="nowhere"):
        launcher.launch("bev", ["source:=/nowhere/drive.mcap"])
    assert not ok()


def test_missing_programs_are_only_missed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher.shutil, "which", lambda _: None)
    assert launcher.run_nodes(resolve(BEV, {**SOURCE, "rviz": "true"})) == 0
    assert "rviz2 is not installed" in capsys.readouterr().err


def test_build_only() -> None:
    assert launcher.launch("bev", ["build_only:=true"]) == 0
