"""The governor beside stand-in nodes and a sysfs of files: what it asks for, and what it makes of faults."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench import until

from bevstack.errors import BevstackError
from bevstack.ros.interfaces import DiagnosticArray, DiagnosticStatus, GovernorState, PipelineStatus, Temperature
from bevstack.ros.nodes.governed import busy_ms
from bevstack.ros.nodes.governor_node import GovernorNode, SensorThread
from bevstack.ros.runtime import Node, Parameter, SetParametersResult, SingleThreadedExecutor
from bevstack.thermal.calibration import Calibration
from bevstack.thermal.calibration_run import CalibrationRun
from bevstack.thermal.check import Report, Verdict
from bevstack.thermal.config import GovernorConfig
from bevstack.thermal.ladder_file import GovernedLadder, read_ladders
from bevstack.thermal.rungs import LadderError, LadderInfo, RungInfo
from bevstack.thermal.zones import Health

EAGER = GovernorConfig(dwell_up_s=0.2, first_up_s=0.2, dwell_down_s=0.1, undone_s=0.1)


class Sysfs:
    """One thermal zone in files, written as a kernel shows it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.zone = root / "class" / "thermal" / "thermal_zone0"
        self.zone.mkdir(parents=True)
        for name, text in (("type", "cpu-thermal"), ("trip_point_0_temp", "95000"), ("trip_point_0_type", "passive")):
            (self.zone / name).write_text(f"{text}\n")
        self.heat(50.0)

    def heat(self, celsius: float) -> None:
        (self.zone / "new").write_text(f"{celsius * 1000:.0f}\n")
        os.replace(self.zone / "new", self.zone / "temp")


class Worker(Node):
    """Stands in for a perception node: takes ``model.rung`` at once and reports it ten times a second."""

    def __init__(self, name: str, refuses: str = "", stuck: bool = False, namespace: str = "", loading: float = 0.0) -> None:
        super().__init__(name, namespace=namespace)
        self.refuses, self.stuck, self.loading, self.busy = refuses, stuck, loading, 20.0
        self.first = time.monotonic()
        self.asked: list[str] = []
        self.running = "large"
        self.declare_parameter("model.rung", "")
        self.declare_parameter("model.rate", 1.0)
        self.add_on_set_parameters_callback(self._check)
        self._status = self.create_publisher(PipelineStatus, "~/status", 10)
        self.create_timer(0.05, self._report)

    def _check(self, changes: Any) -> Any:
        for change in changes:
            if change.name == "model.rung":
                self.asked.append(change.value)
                if change.value == self.refuses:
                    return SetParametersResult(successful=False, reason="no such weights")
                if self.loading:
                    threading.Timer(self.loading, setattr, (self, "running", change.value)).start()
                elif not self.stuck:
                    self.running = change.value
        return SetParametersResult(successful=True, reason="")

    @property
    def rate(self) -> float:
        return float(self.get_parameter("model.rate").value)

    def _report(self) -> None:
        if time.monotonic() < self.first + self.loading / 2:
            return  # its first item takes a while
        stages, times = ["decode", "image", "publish"], [5.0, self.busy, 1.0]
        self._status.publish(PipelineStatus(rung=self.running, stages=stages, stage_ms=times))


def ladder(node: str, model: str = "", priority: float = 1.0) -> GovernedLadder:
    rungs = (RungInfo("large", 1.0, 10.0, 0.0), RungInfo("medium", 0.9, 6.0, 0.0), RungInfo("small", 0.7, 2.0, 0.0))
    return GovernedLadder(node, LadderInfo(model or node, rungs, priority=priority, unit="cpu"))


class Stage:
    """Nodes spun on one thread, and what the governor said."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.executor = SingleThreadedExecutor()
        self.nodes: list[Any] = []
        self.states: list[Any] = []
        self.temperatures: list[Any] = []
        self.diagnostics: dict[str, Any] = {}
        self.ears = self.add(Node("ears"))
        self.ears.create_subscription(GovernorState, "governor_node/state", self.states.append, 100)
        self.ears.create_subscription(
            Temperature, "governor_node/temperature/z_thermal_cpu_thermal", self.temperatures.append, 100
        )
        self.ears.create_subscription(DiagnosticArray, "/diagnostics", self._diagnosed, 100)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _diagnosed(self, message: Any) -> None:
        self.diagnostics.update({s.name: s for s in message.status})

    def _spin(self) -> None:
        while not self._stop.is_set():
            self.executor.spin_once(timeout_sec=0.02)

    def add(self, node: Any) -> Any:
        self.nodes.append(node)
        self.executor.add_node(node)
        return node

    def remove(self, node: Any) -> None:
        self.nodes.remove(node)
        self.executor.remove_node(node)
        node.destroy_node()

    def governor(
        self, *ladders: GovernedLadder, config: GovernorConfig = EAGER, namespace: str = "", **parameters: Any
    ) -> GovernorNode:
        values = {"period": 0.1, "sysfs_root": str(self.root), "silent_after": 1.0, "diagnostic_period": 0.1, **parameters}
        overrides = [Parameter(name, value=value) for name, value in values.items()]
        made = GovernorNode(ladders=ladders or None, config=config, parameter_overrides=overrides, namespace=namespace)
        self.add(made)
        return made

    def close(self) -> None:
        self._stop.set()
        self._thread.join(20.0)
        for node in reversed(self.nodes):
            node.destroy_node()
        self.executor.shutdown()


@pytest.fixture
def sysfs(tmp_path: Path) -> Sysfs:
    return Sysfs(tmp_path / "sys")


@pytest.fixture
def stage(ros: None, sysfs: Sysfs) -> Iterator[Stage]:
    made = Stage(sysfs.root)
    yield made
    made.close()


def test_small_first_then_up_while_cool_and_down_when_hot(stage: Stage, sysfs: Sysfs) -> None:
    worker = stage.add(Worker("bev_node"))
    stage.governor(ladder("bev_node", "fastbev"))
    until(lambda: worker.running == "large" and len(worker.asked) > 1, "the top of the ladder")
    assert worker.asked[0] == "small", "before anybody has looked, nothing large runs"
    sysfs.heat(94.5)
    until(lambda: worker.running == "small", "the smallest rung")
    until(lambda: any("95" in d or "band" in d or "thermal" in d for s in stage.states for d in s.decisions), "a reason")
    state = stage.states[-1]
    assert list(state.zones) == ["thermal:cpu-thermal"]
    assert list(state.models) == ["fastbev"]
    assert list(state.nodes) == ["bev_node"]
    assert state.celsius[0] == pytest.approx(94.5, abs=0.1)
    assert state.ceiling[0] == pytest.approx(95.0)
    assert state.mode == "bands"
    until(lambda: stage.states[-1].running[0] == "small" == stage.states[-1].rungs[0], "the node's own word")
    assert stage.states[-1].unit_power[0] == pytest.approx(2.0)
    assert stage.temperatures[-1].temperature == pytest.approx(94.5)
    assert stage.temperatures[-1].header.frame_id == "thermal:cpu-thermal"
    until(lambda: any("hottest thermal:cpu-thermal" in s.message for s in stage.diagnostics.values()), "diagnostics")


def test_a_dead_governor_leaves_nodes_where_they_are(stage: Stage) -> None:
    worker = stage.add(Worker("bev_node"))
    governor = stage.governor(ladder("bev_node"))
    until(lambda: worker.running == "large" and len(worker.asked) > 1, "the top of the ladder")
    stage.remove(governor)
    asked = len(worker.asked)
    time.sleep(0.5)
    assert worker.running == "large"
    assert len(worker.asked) == asked


def test_a_dead_node_does_not_stop_the_governor_and_is_told_again(stage: Stage, sysfs: Sysfs) -> None:
    first, second = stage.add(Worker("bev_node")), stage.add(Worker("detect_node"))
    stage.governor(ladder("bev_node"), ladder("detect_node"))
    until(lambda: first.running == second.running == "large" and len(second.asked) > 1, "both at the top")
    stage.remove(first)
    until(lambda: list(stage.states[-1].alive) == [False, True], "the dead one to be noticed")
    until(lambda: any("silent: bev_node" in s.message for s in stage.diagnostics.values()), "a warning that names it")
    sysfs.heat(94.5)
    until(lambda: second.running == "small", "the living one to be governed")
    again = stage.add(Worker("bev_node"))
    until(lambda: again.running == "small", "the new one to be told")
    assert again.asked[0] == "small"


def test_a_node_that_starts_anew_has_not_been_set_by_hand(stage: Stage, sysfs: Sysfs) -> None:
    """Its first reports are of its own largest rung while it loads the one that it was told: nobody chose that one."""
    sysfs.heat(94.5)
    first = stage.add(Worker("bev_node"))
    governor = stage.governor(ladder("bev_node"))
    until(lambda: stage.states and list(stage.states[-1].running) == ["small"], "the smallest rung")
    stage.remove(first)
    until(lambda: list(stage.states[-1].alive) == [False], "the dead one to be noticed")
    seen: list[str] = []
    observe = governor.policy.observe
    governor.policy.observe = lambda model, rung, rate=1.0: (seen.append(rung), observe(model, rung, rate))[1]  # type: ignore
    again = stage.add(Worker("bev_node", loading=1.0))
    until(lambda: again.running == "small", "the new one to be told")
    time.sleep(0.3)
    assert "large" not in seen
    assert stage.states[-1].running[0] == "small"


def test_a_node_that_was_never_launched_is_no_fault(stage: Stage) -> None:
    stage.governor(ladder("bev_node"), ladder("detect_node"))
    until(lambda: any("nothing to govern" in s.message for s in stage.diagnostics.values()), "a warning while nobody is there")
    stage.add(Worker("bev_node"))
    until(lambda: any(s.message == "governs bev_node" for s in stage.diagnostics.values()), "the one that is there")
    status = next(s for s in stage.diagnostics.values() if s.message == "governs bev_node")
    values = {entry.key: entry.value for entry in status.values}
    assert values["detect_node rung"] == "detect_node is not there"


def test_a_rung_that_is_refused_is_left_alone(stage: Stage) -> None:
    worker = stage.add(Worker("bev_node", refuses="large"))
    stage.governor(ladder("bev_node"))
    until(lambda: "large" in worker.asked, "the attempt")
    until(lambda: worker.running == "medium", "the best that is left")
    time.sleep(0.6)
    assert worker.asked.count("large") == 1
    assert stage.states[-1].rungs[0] == "medium"


def test_a_swap_that_never_happens_counts_as_failed(stage: Stage) -> None:
    worker = stage.add(Worker("bev_node", stuck=True))
    worker.running = "medium"
    stage.governor(ladder("bev_node"), swap_timeout=1.0)
    until(lambda: stage.states and stage.states[-1].rungs[0] == "medium" == stage.states[-1].running[0], "what really runs")


def test_a_swap_that_comes_late_is_forgiven(stage: Stage) -> None:
    """Loading took longer than anybody waits: the rung runs after all and is not locked out."""
    worker = stage.add(Worker("bev_node", stuck=True))
    worker.running = "medium"
    governor = stage.governor(ladder("bev_node"), swap_timeout=1.0)
    until(lambda: governor.nodes["bev_node"].timed_out == "large", "the swap to be given up")
    until(lambda: stage.states[-1].rungs[0] == "medium", "what really runs")
    worker.running = "large"
    until(lambda: stage.states[-1].rungs[0] == "large" == stage.states[-1].running[0], "the late one to be taken")


def test_a_rung_set_by_hand_is_where_it_goes_on_from(stage: Stage, sysfs: Sysfs) -> None:
    sysfs.heat(88.0)  # between the bands: nothing to do
    worker = stage.add(Worker("bev_node"))
    stage.governor(ladder("bev_node"))
    until(lambda: worker.running == "small" and stage.states and stage.states[-1].running[0] == "small", "the start")
    time.sleep(0.3)
    worker.set_parameters([Parameter("model.rung", value="medium")])
    until(lambda: stage.states[-1].rungs[0] == "medium", "the governor to take it")
    assert worker.running == "medium"
    worker.running = "foreign"
    time.sleep(0.4)
    assert stage.states[-1].rungs[0] == "medium"


def test_sensors_that_vanish_or_hang(stage: Stage, sysfs: Sysfs, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = stage.add(Worker("bev_node"))
    governor = stage.governor(ladder("bev_node"), config=GovernorConfig(dwell_up_s=0.2, first_up_s=0.2, dwell_down_s=0.1))
    until(lambda: worker.running == "large", "the top")
    (sysfs.zone / "temp").unlink()
    until(lambda: any("without a value" in s.message for s in stage.diagnostics.values()), "a warning that names the zone")
    assert stage.states[-1].celsius[0] != stage.states[-1].celsius[0], "unknown is not a number, and never cold"
    sysfs.heat(50.0)
    until(lambda: stage.states[-1].celsius[0] == 50.0, "the sensor to come back")
    held = threading.Event()
    monkeypatch.setattr(governor.sensors, "look", lambda: held.wait(20.0))
    before = len(stage.states)
    until(lambda: "hangs" in stage.states[-1].health[0], "a hanging driver to be named")
    assert len(stage.states) > before + 5, "decisions go on meanwhile"
    held.set()


def test_a_machine_without_zones(stage: Stage, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    worker = stage.add(Worker("bev_node"))
    stage.governor(ladder("bev_node"), sysfs_root=str(empty))
    until(lambda: stage.states and stage.states[-1].mode == "latency", "governing by latency")
    until(lambda: any("no thermal zones" in s.message for s in stage.diagnostics.values()), "a clear word")
    assert list(stage.states[-1].zones) == []
    until(lambda: worker.asked, "a request all the same")


def test_zones_of_unknown_names_are_mapped_and_limited_by_parameters(stage: Stage, sysfs: Sysfs) -> None:
    (sysfs.zone / "type").write_text("acpitz\n")
    stage.add(Worker("bev_node"))
    stage.governor(ladder("bev_node"), zone_units=["acpitz=cpu"], ceilings=["thermal:acpitz=80"])
    until(lambda: stage.states and list(stage.states[-1].control) == [True], "the zone in charge")
    assert stage.states[-1].ceiling[0] == pytest.approx(80.0)
    for wrong in ({"ceilings": ["thermal:acpitz"]}, {"ceilings": ["a=900"]}, {"zone_units": ["acpitz"]}):
        with pytest.raises(BevstackError, match=next(iter(wrong))):
            GovernorNode(
                "second",
                ladders=[ladder("bev_node")],
                parameter_overrides=[Parameter(name, value=value) for name, value in wrong.items()],
            )


def test_in_a_namespace_it_governs_the_nodes_of_that_namespace(stage: Stage) -> None:
    mine, other = stage.add(Worker("bev_node", namespace="car")), stage.add(Worker("bev_node", namespace="truck"))
    states: list[Any] = []
    stage.ears.create_subscription(GovernorState, "/car/governor_node/state", states.append, 10)
    stage.governor(ladder("bev_node"), namespace="car")
    until(lambda: mine.running == "large" and len(mine.asked) > 1, "the namespace's own node at the top")
    until(lambda: bool(states), "its state under its namespace")
    assert other.asked == []


def test_an_alarm_of_the_model_check_leaves_the_bands_in_charge(stage: Stage, tmp_path: Path) -> None:
    """Frozen COST says DRIFT: forecasts are not trusted any more, bands govern, and people are told."""
    stage.add(Worker("bev_node"))
    path = tmp_path / "calibration.json"
    Calibration(
        ("thermal:cpu-thermal",), ("cpu",), np.array([3.0, 60.0]), np.array([[[0.5, 0.5]]]), np.array([45.0]), np.array([0.3])
    ).save(path)
    governor = stage.governor(ladder("bev_node"), calibration=str(path))
    until(lambda: stage.states and stage.states[-1].mode == "predictive", "the model in charge")
    nan = math.nan
    report = Report(
        "thermal:cpu-thermal", 0.0, 600.0, 300, 180, 120, 9, 4, "sequential, gap 3", 6.0, 1e-9, nan, 6.5, 0.02, 0.3, 2.3, 2.2,
        Verdict.DRIFT, True, "stored resistances are off",
    )  # fmt: skip

    class Alarm:
        def feed(self, *_: object) -> list[Report]:
            return [report]

    governor.check = Alarm()  # type: ignore[assignment]
    until(lambda: stage.states[-1].mode == "bands", "the bands in charge")
    assert "not trusted" in stage.states[-1].condition
    assert "DRIFT" in stage.states[-1].model_check
    until(lambda: any("thermal model not trusted" in s.message for s in stage.diagnostics.values()), "a warning")


def test_calibrates_on_the_machine_and_goes_on_with_what_it_found(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A calibration of three seconds, by a stand-in for the schedule and the fit: those have tests of their own."""

    class Short(CalibrationRun):
        def done(self, now: float) -> bool:
            return len(self._power) > 30

        def result(self) -> Calibration:
            keys, taus, r = tuple(self._ceiling), np.array([3.0, 60.0]), np.array([[[0.5, 0.5]]])
            return Calibration(keys, ("cpu",), taus, r, np.array([45.0]), np.array([0.3]))

    monkeypatch.setattr("bevstack.ros.nodes.governor_node.CalibrationRun", Short)
    worker = stage.add(Worker("bev_node"))
    path = tmp_path / "made.json"
    stage.governor(ladder("bev_node"), calibrate=str(path), calibrate_seconds=60.0)
    until(lambda: stage.states and stage.states[-1].mode == "calibrating", "the calibration")
    until(lambda: stage.states[-1].mode == "predictive", "the policy with the new model")
    assert Calibration.load(path).zones == ("thermal:cpu-thermal",)
    assert worker.asked[0] == "small"


def test_the_sensor_thread_keeps_evidence_until_it_is_taken(sysfs: Sysfs) -> None:
    folder = sysfs.root / "class" / "thermal" / "cooling_device0"
    folder.mkdir()
    for name, text in (("type", "cpu-cluster0"), ("cur_state", "3")):
        (folder / name).write_text(f"{text}\n")
    sensors = SensorThread(sysfs.root, 30.0)
    sensors.look()
    _, readings, evidence = sensors.take()
    assert evidence.thermal == {"cpu"}
    assert len(evidence.lines) == 1
    assert readings[0].health is Health.OK
    assert not sensors.take()[2].thermal
    sensors.close()


def test_busy_time_of_an_item() -> None:
    assert busy_ms(["decode", "wait", "image", "bev", "publish"], [5, 9, 20, 10, 1]) == 30
    assert busy_ms(["decode", "image", "total"], [5, 20, 27]) == 27
    assert busy_ms([], []) == 0


Change = Callable[[dict[str, Any]], None]


def test_ladder_files(tmp_path: Path) -> None:
    built_in = read_ladders()
    assert built_in[0].node == "bev_node"
    assert built_in[0].info.smallest.name == "fastbev-micro"
    assert built_in[1].info.names == ("giraffedet-nano", "giraffedet-slim@0.75", "giraffedet-slim@0.5")
    assert min(built_in[2].info.rates) < 1.0, "one rung, but not one lever"
    path = tmp_path / "ladders.yaml"
    path.write_text(
        "ladders:\n  - {model: a, node: n, unit: gpu, floor: y, status: stack_msgs/msg/CodecStatus,\n"
        "     rungs: {x: {quality: 2, power: 3}, y: {quality: 1, power: 1, latency: 4, measured: true}}}\n"
    )
    (made,) = read_ladders(path)
    assert (made.node, made.status, made.info.names) == ("n", "stack_msgs/msg/CodecStatus", ("x", "y"))
    assert made.info.rung("y").measured
    with pytest.raises(LadderError, match="there is no model 'b', only a"):
        read_ladders(path, ["b"])
    for text, words in (
        ("[1", "is not YAML"),
        ("ladders: []", "at least one entry"),
        ("ladders: [{model: a}]", "it must have model, node and rungs"),
        ("ladders: [{model: a, rungs: {x: {quality: 1}}}]", "power is None"),
        ("ladders: [{model: a, rungs: {x: {quality: 1, power: 1, colour: 1}}}]", "unknown field 'colour'"),
        ("ladders: [{model: a, speed: 1, rungs: {x: {quality: 1, power: 1}}}]", "unknown field 'speed'"),
        ("ladders: [{model: a, rates: fast, rungs: {x: {quality: 1, power: 1}}}]", "rates is 'fast'"),
    ):
        path.write_text(text)
        with pytest.raises(BevstackError, match=words):
            read_ladders(path)
    with pytest.raises(BevstackError, match="cannot be read"):
        read_ladders(tmp_path / "none.yaml")


def test_no_status_is_better_than_a_wrong_one() -> None:
    """The stand-in speaks as bev_node does."""
    assert {"rung", "stages", "stage_ms"} <= set(PipelineStatus.get_fields_and_field_types())
    assert DiagnosticStatus.OK != DiagnosticStatus.ERROR
