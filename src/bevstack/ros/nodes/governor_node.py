"""The governor as a node: reads heat, asks nodes for other model sizes, says why.

Publishes ``~/state`` (stack_msgs/GovernorState) once per period, ``~/temperature/<zone>`` (sensor_msgs/Temperature) and
``/diagnostics``; listens to ``<node>/status`` of the nodes it governs and sets their parameters ``model.rung`` and
``model.rate`` through their parameter services, as ``ros2 param set`` does. It holds nothing that the nodes need: when it dies
they go on with what they run. A node that dies is told its rung again when it is back; the others are governed meanwhile.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bevstack.errors import BevstackError
from bevstack.ros import convert
from bevstack.ros.interfaces import DiagnosticStatus, GovernorState, Temperature
from bevstack.ros.runtime import Node, QoSProfile, diagnostic_updater
from bevstack.thermal.calibration import Calibration
from bevstack.thermal.calibration_run import CalibrationRun
from bevstack.thermal.check import CheckConfig, ModelCheck, references
from bevstack.thermal.config import GovernorConfig
from bevstack.thermal.decision import Decision, Mode, PolicyState
from bevstack.thermal.evidence import NO_EVIDENCE, Evidence, EvidenceReader
from bevstack.thermal.ladder_file import GovernedLadder, read_ladders
from bevstack.thermal.patience import PatientReader
from bevstack.thermal.policy import Policy
from bevstack.thermal.zones import Health, Reading, Zone, ZoneSet

from .governed import GovernedNode
from .main import run_node
from .parameters import Parameters, ParameterValueError, Spec

_STALE = 2.0  # seconds without an answer of the sensors' thread

PARAMETERS: tuple[Spec, ...] = (
    Spec("models", [], "model families to govern; empty: all of the ladders file"),
    Spec("ladders_file", "", "YAML file with ladders (rungs, quality, power, node); empty: the built-in one"),
    Spec("calibration", "", "thermal calibration of this machine (JSON); empty: governing by bands, without forecasts"),
    Spec("calibrate", "", "calibrate this machine first and write the calibration to this file; takes calibrate_seconds"),
    Spec("calibrate_seconds", 1500.0, "length of a calibration: 25 minutes are good", low=60.0, high=86400.0),
    Spec("period", 0.5, "seconds between two decisions", low=0.05, high=60.0),
    Spec("ceiling", 95.0, "no zone is to get hotter than this, whatever its trip points say, degC", low=30.0, high=130.0),
    Spec("ceilings", [], "limits of single zones that win over their trip points, as thermal:gpu-thermal=88, degC"),
    Spec(
        "zone_units",
        [],
        "what zones are on, where names do not say it: acpitz=cpu, board=cpu+gpu; board= only shows it",
    ),
    Spec("item_period_ms", 0.0, "combinations that take longer per item are not chosen; 0: unchecked", low=0.0, high=60000.0),
    Spec("silent_after", 5.0, "seconds without a status after which a node counts as silent", low=0.5, high=600.0),
    Spec("swap_timeout", 60.0, "seconds that a swap may take before the rung counts as failed", low=1.0, high=600.0),
    Spec("check_window", 600.0, "seconds per window of the model check; 0: no check", low=0.0, high=86400.0),
    Spec("sysfs_root", "/sys", "where sysfs is mounted"),
    Spec("diagnostic_period", 1.0, "seconds between two messages on /diagnostics", low=0.05, high=60.0),
)


class SensorThread:
    """Reads zones and evidence on its own thread: a driver that hangs must not hang decisions."""

    def __init__(
        self,
        root: Path,
        period: float,
        clock: Callable[[], float] = time.monotonic,
        units: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._period, self._clock = period, clock
        self._reader = PatientReader(clock=clock)
        self.zone_set = ZoneSet(root, clock=clock, units=units, ask=self._reader)
        self._evidence = EvidenceReader(root, self.zone_set.zones, clock)
        self._lock = threading.Lock()
        self._latest: tuple[float, list[Zone], list[Reading], Evidence] = (clock(), [], [], NO_EVIDENCE)
        self._stop = threading.Event()
        self.look()
        self._thread = threading.Thread(target=self._run, name="sensors", daemon=True)
        self._thread.start()

    def look(self) -> None:
        """One reading of everything."""
        readings = self.zone_set.read()
        self._evidence.zones = self.zone_set.zones
        evidence = self._evidence.read()
        with self._lock:
            before = self._latest[3]
            # What was found since the last decision counts for the next one.
            lines = tuple(dict.fromkeys((*before.lines, *evidence.lines)))
            merged = Evidence(before.thermal | evidence.thermal, before.power | evidence.power, lines)
            self._latest = (self._clock(), list(self.zone_set.zones), readings, merged)

    def take(self) -> tuple[list[Zone], list[Reading], Evidence]:
        """Newest zones, readings and evidence; readings are STALE where the sensors have not answered for two seconds."""
        with self._lock:
            at, zones, readings, evidence = self._latest
            self._latest = (at, zones, readings, NO_EVIDENCE)
        age = self._clock() - at
        if age > max(_STALE, 2 * self._period):
            why = f"no answer for {age:.1f} s: a driver hangs, or the machine is too busy to ask"
            readings = [replace(r, celsius=None, health=Health.STALE, detail=why) for r in readings]
        return zones, readings, evidence

    def close(self) -> None:
        """Ends the thread, unless a driver holds it."""
        self._stop.set()
        self._thread.join(1.0)
        self._reader.close()

    def _run(self) -> None:
        while not self._stop.wait(self._period):
            self.look()


class GovernorNode(Node):
    """Governs the models of other nodes. Parameters: ``PARAMETERS``.

    Args:
        ladders: instead of those of the ladders file. config: times and margins; its ceiling and period are the parameters'.
        kwargs: as for ``Node``.

    Raises:
        BevstackError: a ladders or calibration file, or a parameter, that cannot be used.
    """

    def __init__(
        self,
        node_name: str = "governor_node",
        *,
        ladders: Sequence[GovernedLadder] | None = None,
        config: GovernorConfig | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(node_name, **kwargs)
        p = self._p = Parameters(self, PARAMETERS)
        file = Path(p["ladders_file"]) if p["ladders_file"] else None
        given = ladders if ladders is not None else read_ladders(file, list(p["models"]))
        calibration = Calibration.load(Path(p["calibration"])) if p["calibration"] else None
        limits = replace(
            config or GovernorConfig(), ceiling=p["ceiling"], ceilings=_ceilings(p["ceilings"]),
            period_ms=p["item_period_ms"] or None,
        )  # fmt: skip
        self.sensors = SensorThread(Path(p["sysfs_root"]), min(p["period"], 0.5), units=_zone_units(p["zone_units"]))
        zones, _, _ = self.sensors.take()
        self._zone_keys = [zone.key for zone in zones]
        self.policy = Policy([g.info for g in given], zones, calibration=calibration, config=limits)
        self.nodes = {
            g.info.model: GovernedNode(
                self, g, time.monotonic, self._trouble_with(g.info.model), p["silent_after"], p["swap_timeout"]
            )
            for g in given
        }
        self.check: ModelCheck | None = None
        self._use_check(calibration)
        self._run: CalibrationRun | None = None
        self._calibrated = False
        self._check_line = ""
        self._odd_rungs: set[tuple[str, str]] = set()
        self._failure = ""
        self._told: PolicyState | None = None
        self._readings: list[Reading] = []
        self._temperatures: dict[str, Any] = {}
        self._publisher = self.create_publisher(GovernorState, "~/state", QoSProfile(depth=10))
        self._updater = diagnostic_updater.Updater(self, period=p["diagnostic_period"])
        self._updater.setHardwareID("bevstack")
        for title, task in (
            ("state", self._diagnose_state),
            ("zones", self._diagnose_zones),
            ("models", self._diagnose_models),
        ):
            self._updater.add(title, task)
        for model, rung in self.policy.state().rungs.items():
            self.nodes[model].ask(rung, 1.0)  # small first: a hot board must not be loaded before anybody has looked
        self.get_logger().info(self.sensors.zone_set.describe())
        if p["calibrate"]:
            self.get_logger().info(f"calibrating for {p['calibrate_seconds']:g} s once a node answers, into {p['calibrate']}")
        elif calibration is None and any(zone.control for zone in zones):
            self.get_logger().info("no thermal calibration: governing by bands, without forecasts")
        self._timer = self.create_timer(p["period"], self._tick)

    def _use_check(self, calibration: Calibration | None) -> None:
        if calibration is not None and self._p["check_window"]:
            config = CheckConfig(window=self._p["check_window"])
            self.check = ModelCheck(references(calibration, self._power_ranges()), config)

    def _trouble_with(self, model: str) -> Callable[[str, str], None]:
        def note(rung: str, reason: str) -> None:
            self.get_logger().warning(f"{model}: rung {rung} failed: {reason}")
            self.policy.reject(model, rung, time.monotonic(), reason)
            self._adopt(model, self.nodes[model].running)

        return note

    def _adopt(self, model: str, rung: str) -> None:
        """The policy is told what a node really runs."""
        node = self.nodes[model]
        if rung not in node.ladder.info.names:
            if rung and (model, rung) not in self._odd_rungs:
                self._odd_rungs.add((model, rung))
                known = ", ".join(node.ladder.info.names)
                what = f"{node.ladder.node} runs {rung!r}, which the ladder of {model} ({known}) does not know"
                self.get_logger().warning(what)
            return
        rate = node.asked.rate if node.asked is not None else 1.0
        self.policy.observe(model, rung, rate)
        node.accept(rung)

    # --- one period ---------------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        now = time.monotonic()
        zones, self._readings, evidence = self.sensors.take()
        keys = [zone.key for zone in zones]
        if keys != self._zone_keys:
            self.get_logger().info(f"zones changed: {self.sensors.zone_set.describe()}")
            self._zone_keys = keys
            self.policy.set_zones(zones)
        self._look_who_is_there()
        for model, node in self.nodes.items():
            node.tend()
            if (rung := node.by_hand()) is not None:
                late, node.timed_out = rung == node.timed_out, ""
                if late:
                    self.policy.absolve(model, rung)
                what = "came late" if late else "was set by hand"
                self.get_logger().info(f"{model}: {rung} {what}, going on from there")
                self._adopt(model, rung)
        latencies = {model: node.latencies() for model, node in self.nodes.items()}
        decisions: list[Decision] = []
        try:
            if self._calibrates(now):
                decisions = self._calibrate(zones, now)
            else:
                decisions = self.policy.step(self._readings, latencies, now, evidence)
            self._failure = ""
        except BevstackError as error:
            # A governor that ends is worse than one that says what it does not understand: nodes keep what they run.
            self._failure = str(error)
            self.get_logger().error(f"no decision: {error}", throttle_duration_sec=10.0)
        for decision in decisions:
            self.get_logger().info(str(decision))
            self.nodes[decision.model].ask(decision.to_rung, decision.to_rate)
        self._told = self._snapshot()
        self._check_model(now)
        self._publish(zones, decisions)

    def _look_who_is_there(self) -> None:
        """Nodes that are not there are left out of every decision; one that comes back starts at its smallest rung."""
        absent = {model for model, node in self.nodes.items() if not node.alive}
        changed = absent ^ self.policy.budget.absent
        if not changed:
            return
        self.policy.set_absent(absent)
        state = self.policy.state()
        for model in changed:
            self.nodes[model].ask(state.rungs[model], state.rates[model])

    def _calibrates(self, now: float) -> bool:
        """A calibration is asked for and not finished, and somebody is there to be calibrated with."""
        return bool(self._p["calibrate"]) and not self._calibrated and any(node.alive for node in self.nodes.values())

    def _calibrate(self, zones: Sequence[Zone], now: float) -> list[Decision]:
        """One period of the calibration; at its end the policy starts anew with what was found."""
        p, given = self._p, [node.ladder.info for node in self.nodes.values()]
        try:
            if self._run is None:
                self._run = CalibrationRun(
                    given, zones, self.policy.ceilings.nominal, seconds=p["calibrate_seconds"], period=p["period"],
                    absent=self.policy.budget.absent,
                )  # fmt: skip
            if not self._run.done(now):
                return self._run.step(self._readings, self._powers(), now)
            found = self._run.result()
            found.save(Path(p["calibrate"]))
        except BevstackError as error:
            self._calibrated = True
            self.get_logger().error(f"no calibration: {error}")
            return []
        self._calibrated = True
        rms = ", ".join(f"{zone} {value:.2f}" for zone, value in zip(found.zones, found.rms))
        self.get_logger().info(f"calibration written to {p['calibrate']}, residuals in degC: {rms}")
        self.policy = Policy(given, zones, calibration=found, config=self.policy.config)
        self._use_check(found)
        for model, rung in self.policy.state().rungs.items():
            self.nodes[model].ask(rung, 1.0)
        return []

    def _snapshot(self) -> PolicyState:
        """What is published: the policy's state, or the calibration's."""
        state, run = self.policy.state(), self._run
        if run is None or self._calibrated:
            return state
        rungs = {model: choice.rung for model, choice in zip(self.nodes, run.current)}
        return replace(state, mode=Mode.CALIBRATING, condition="ok", rungs=rungs)

    def _check_model(self, now: float) -> None:
        if self.check is None:
            return
        celsius = {r.zone: r.celsius for r in self._readings}
        for report in self.check.feed(now, celsius, self._powers()):
            self._check_line = str(report)
            self.get_logger().info(f"model check: {report}")
            if report.alarm and self.policy.model_trusted:
                self.get_logger().warning(f"thermal model not trusted any more, governing by bands: {report}")
                self.policy.trust_model(False, f"{report.subject} {report.verdict.value}")

    def _powers(self) -> dict[str, float]:
        """Declared power per unit of what runs, W."""
        powers: dict[str, float] = {}
        for node in self.nodes.values():
            info, ask = node.ladder.info, node.asked
            powers.setdefault(info.unit, 0.0)
            if ask is not None and node.alive:
                rung = node.running if node.running in info.names else ask.rung
                powers[info.unit] += info.rung(rung).power_w * ask.rate
        return powers

    def _power_ranges(self) -> dict[str, float]:
        """Span of power per unit between the smallest and the largest rungs, W."""
        spans: dict[str, float] = {}
        for node in self.nodes.values():
            powers = [rung.power_w for rung in node.ladder.info.rungs]
            spans[node.ladder.info.unit] = spans.get(node.ladder.info.unit, 0.0) + max(powers) - min(powers)
        return spans

    # --- outputs ------------------------------------------------------------------------------------------------------------

    def _publish(self, zones: Sequence[Zone], decisions: Sequence[Decision]) -> None:
        state = self._told
        assert state is not None
        stamp = self.get_clock().now().nanoseconds
        control = {zone.key: zone.control for zone in zones}
        told = {z.zone: z for z in state.zones}
        for reading in self._readings:
            if reading.celsius is not None:
                header = convert.header(stamp, reading.zone)
                message = Temperature(header=header, temperature=float(reading.celsius), variance=0.0)
                self._temperature(reading.zone).publish(message)
        powers, models = self._powers(), list(self.nodes)
        nodes = [self.nodes[m] for m in models]
        expected = self.policy.watch.expected
        self._publisher.publish(
            GovernorState(
                header=convert.header(stamp, ""),
                mode=state.mode.value,
                condition=self._failure or state.condition,
                time_to_throttle=_number(state.time_to_throttle),
                headroom=_number(state.headroom),
                zones=[r.zone for r in self._readings],
                celsius=[_number(r.celsius) for r in self._readings],
                health=[_health(r, told) for r in self._readings],
                control=[control.get(r.zone, False) for r in self._readings],
                ceiling=[_number(told[r.zone].ceiling if r.zone in told else None) for r in self._readings],
                predicted=[_number(told[r.zone].predicted if r.zone in told else None) for r in self._readings],
                innovation=[_number(told[r.zone].innovation if r.zone in told else None) for r in self._readings],
                units=list(powers),
                unit_power=[float(v) for v in powers.values()],
                models=models,
                nodes=[node.ladder.node for node in nodes],
                alive=[node.alive for node in nodes],
                rungs=[state.rungs[m] for m in models],
                running=[node.running for node in nodes],
                rates=[float(state.rates[m]) for m in models],
                quality=[
                    float(n.ladder.info.rung(state.rungs[m]).quality / n.ladder.info.rungs[0].quality)
                    for m, n in zip(models, nodes)
                ],
                latency=[_number(node.latency()) for node in nodes],
                expected=[_number(expected.get((m, state.rungs[m]))) for m in models],
                decisions=[str(d) for d in decisions],
                decision_count=state.decisions,
                model_check=self._check_line,
            )
        )

    def _temperature(self, zone: str) -> Any:
        if zone not in self._temperatures:
            name = re.sub(r"_+", "_", re.sub(r"[^A-Za-z0-9_]", "_", zone)).strip("_")
            self._temperatures[zone] = self.create_publisher(Temperature, f"~/temperature/z_{name}", QoSProfile(depth=10))
        return self._temperatures[zone]

    def _diagnose_state(self, stat: Any) -> Any:
        state = self._told
        if state is None:
            stat.summary(DiagnosticStatus.OK, "starting")
            return stat
        condition = self._failure or state.condition
        level = DiagnosticStatus.OK if condition == "ok" else DiagnosticStatus.WARN
        if condition.startswith("UNSUSTAINABLE") or self._failure:
            level = DiagnosticStatus.ERROR
        stat.summary(level, f"{state.mode.value}: {condition}")
        stat.add("decisions", str(state.decisions))
        stat.add("headroom", "" if state.headroom is None else f"{state.headroom:.2f}")
        stat.add("seconds to throttling", "" if state.time_to_throttle is None else f"{state.time_to_throttle:.0f}")
        stat.add("model check", self._check_line)
        return stat

    def _diagnose_zones(self, stat: Any) -> Any:
        bad = [r for r in self._readings if r.celsius is None]
        if not self._readings:
            stat.summary(DiagnosticStatus.OK, self.sensors.zone_set.describe())
        elif bad:
            reason = bad[0].detail or bad[0].health.value
            what = f"{len(bad)} of {len(self._readings)} zones without a value: {bad[0].zone}: {reason}"
            stat.summary(DiagnosticStatus.WARN, what)
        else:
            hottest = max(self._readings, key=lambda r: r.celsius or -math.inf)
            stat.summary(DiagnosticStatus.OK, f"{len(self._readings)} zones, hottest {hottest.zone} {hottest.celsius:.1f} degC")
        for reading in self._readings:
            value = f"{reading.celsius:.1f}" if reading.celsius is not None else f"{reading.health.value}: {reading.detail}"
            stat.add(reading.zone, value)
        return stat

    def _diagnose_models(self, stat: Any) -> Any:
        there = [node.ladder.node for node in self.nodes.values() if node.alive]
        dead = [node.ladder.node for node in self.nodes.values() if node.seen and not node.alive]
        if dead:
            stat.summary(DiagnosticStatus.WARN, f"silent: {', '.join(dead)}")
        elif not there:
            known = ", ".join(node.ladder.node for node in self.nodes.values())
            stat.summary(DiagnosticStatus.WARN, f"none of {known} is there: nothing to govern")
        else:
            stat.summary(DiagnosticStatus.OK, f"governs {', '.join(there)}")
        for model, node in self.nodes.items():
            if not node.alive:
                stat.add(f"{model} rung", f"{node.ladder.node} is not there")
                continue
            wanted = node.asked.rung if node.asked is not None else ""
            stat.add(f"{model} rung", wanted if node.running in ("", wanted) else f"{wanted} (runs {node.running})")
            stat.add(f"{model} latency ms", f"{node.latency():.1f}")
        return stat

    def destroy_node(self) -> None:
        """Ends the sensors' thread, then as every node. Governed nodes keep what they run."""
        self.sensors.close()
        super().destroy_node()


def _ceilings(entries: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """``zone=degC`` entries. Raises ParameterValueError."""
    found = []
    for entry in entries:
        zone, separator, text = entry.rpartition("=")
        try:
            celsius = float(text)
        except ValueError:
            celsius = math.nan
        if not separator or not zone or not 30.0 <= celsius <= 130.0:
            raise ParameterValueError(f"ceilings has {entry!r}: write zone=degC with 30 to 130, as thermal:gpu-thermal=88")
        found.append((zone, celsius))
    return tuple(found)


def _zone_units(entries: Sequence[str]) -> dict[str, list[str]]:
    """``zone=unit+unit`` entries, for ``zones.discover``. Raises ParameterValueError."""
    found = {}
    for entry in entries:
        zone, separator, text = entry.rpartition("=")
        if not separator or not zone:
            raise ParameterValueError(f"zone_units has {entry!r}: write zone=unit, as acpitz=cpu, or board=cpu+gpu")
        found[re.escape(zone)] = [unit.strip() for unit in text.split("+") if unit.strip()]
    return found


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _health(reading: Reading, told: dict[str, Any]) -> str:
    if reading.celsius is None:
        return f"{reading.health.value}: {reading.detail}" if reading.detail else reading.health.value
    return str(told[reading.zone].health) if reading.zone in told else "ok"


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until it is told to stop."""
    return run_node(GovernorNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
