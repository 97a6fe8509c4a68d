"""How a run ends when it is not as it was asked for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bevstack.cli.run import RunOptions, bag_path, check, complain, draw, graph
from bevstack.cli.statistics import Statistics, Summary
from bevstack.errors import BevstackError
from bevstack.viewer.state import Status


def summary(instants_in: int = 5, instants_out: int = 5, reason: str = "", **files: str) -> Summary:
    statistics = Statistics()
    statistics.add(Status(stamp=1, instants_in=instants_in, instants_out=instants_out, reason=reason))
    return statistics.summary("sim", **files)


def nodes(error: str = "", reason: str = "", dropped: int = 0) -> dict[str, Any]:
    return {"camera_node": SimpleNamespace(error=error), "recorder": SimpleNamespace(reason=reason, dropped=dropped)}


SIM = RunOptions("sim")


def test_a_good_end() -> None:
    complain(SIM, nodes(), summary())
    complain(SIM, {}, summary(0, 0))  # ended by a signal before the first instant


@pytest.mark.parametrize(
    ("made", "end", "said"),
    [
        (nodes(error="bag x is damaged at 17"), summary(), "damaged at 17"),
        (nodes(reason="no space left on the disk"), summary(), "incomplete: no space left"),
        (nodes(dropped=3), summary(), "3 messages were not recorded"),
        (nodes(), summary(4, 0, "the model failed"), "nothing came out of 4 instants: the model failed"),
    ],
)
def test_a_bad_end_is_an_error(made: dict[str, Any], end: Summary, said: str) -> None:
    with pytest.raises(BevstackError, match=said):
        complain(SIM, made, end)


def test_a_picture_of_nothing(tmp_path: Path) -> None:
    options = RunOptions("sim", picture=tmp_path / "x.png")
    assert not draw(options, {"monitor": SimpleNamespace(best=None)})
    with pytest.raises(BevstackError, match="nothing to draw"):
        complain(options, nodes(), summary())
    complain(options, nodes(), summary(picture="x.png"))


@pytest.mark.parametrize(("given", "written"), [("a/out.mcap", "a/out"), ("out.db3", "out"), ("out", "out"), ("v1.2", "v1.2")])
def test_a_bag_is_a_folder(given: str, written: str) -> None:
    assert bag_path(Path(given)) == Path(written)


def test_a_bag_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "drive").mkdir()
    with pytest.raises(BevstackError, match="exists already"):
        check(RunOptions("sim", model="random:fastbev-micro", record=tmp_path / "drive.mcap"))


def by_name(options: RunOptions) -> dict[str, Any]:
    return {node.name: node for node in graph(options)}


def test_nodes_of_a_plain_run() -> None:
    made = by_name(RunOptions("sim:seed=1,duration=1,rate=4"))
    assert set(made) == {"monitor", "bev_node", "camera_node"}
    assert made["camera_node"].parameters["lockstep"] is True
    assert made["bev_node"].parameters["cameras"][0] == "cam_front"
    assert made["bev_node"].parameters["camera_timeout"] == pytest.approx(0.75)


def test_nodes_of_a_run_with_everything(tmp_path: Path) -> None:
    options = RunOptions(
        "sim:seed=1,duration=1", record=tmp_path / "drive.mcap", view_port=0, lockstep=False, score_threshold=0.4
    )
    made = by_name(options)
    assert set(made) == {"monitor", "bev_node", "camera_node", "recorder", "viewer"}
    assert made["camera_node"].parameters["lockstep"] is False
    assert made["camera_node"].parameters["stamps"] == "now"
    assert made["camera_node"].parameters["truth_topic"] == "truth/detections"
    assert made["viewer"].parameters["port"] == 0
    assert made["recorder"].parameters["path"] == str(tmp_path / "drive")
    assert made["bev_node"].parameters["score_threshold"] == pytest.approx(0.4)
