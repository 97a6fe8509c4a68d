"""The governor against a throttling plant: fixed large rungs, plain bands, and ours, in every scenario.

Usage: python benchmarks/governor.py [--scenarios FILE] [--only NAME] [--random N] [--seed S] [--soak HOURS] [--json FILE]
                                     [--decisions] [--controllers fixed,bands,ours]

A fake sysfs tree is written by the plant and read by the real zone reader; the clock is simulated. Latency is from capture to
release; results are released at one fixed offset for all rungs (that of the largest combination), so a smaller rung does not
jitter.
The busy columns are computing times alone. "best fixed" is found by search: of all combinations held for the whole scenario,
the one with the best quality that never throttles. The file format is in docs/governor.md.

Bars, judged wherever some fixed combination never throttles: ours is throttled for 0 s, loses no item, has p95 / p50 of the
latency of at most 1.15, and at least 90 % of best fixed's quality. Exit code 1 if one is missed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

from bevstack.errors import BevstackError
from bevstack.thermal import simulate
from bevstack.thermal.random_scenarios import draw
from bevstack.thermal.scenario import BUILT_IN, Scenario, ScenarioError, load
from bevstack.thermal.soak import soak

AT_MOST_P95_OVER_P50 = 1.15
AT_LEAST_QUALITY = 0.90  # of the best fixed combination that never throttles
NAMES = {"fixed": "fixed large", "bands": "bands", "ours": "ours"}


def judge(result: simulate.Result, best_quality: float) -> list[str]:
    """Bars that a run misses, empty if none; nothing is asked where no fixed combination lives without throttling."""
    if best_quality <= 0:
        return []
    missed = []
    if result.throttled_s > 0:
        missed.append(f"throttled for {result.throttled_s:.1f} s")
    if result.lost:
        missed.append(f"{result.lost} items lost")
    if not result.flatness <= AT_MOST_P95_OVER_P50:
        missed.append(f"p95/p50 {result.flatness:.2f} > {AT_MOST_P95_OVER_P50}")
    if result.quality < AT_LEAST_QUALITY * best_quality:
        missed.append(f"quality {result.quality:.3f} < {AT_LEAST_QUALITY:.2f} x {best_quality:.3f}")
    return missed


def row(result: simulate.Result) -> str:
    """One controller's line."""
    return (
        f"  {result.controller:<12} {result.throttled_s:10.1f} {result.p50:7.1f} {result.p95:7.1f} {result.p99:7.1f} "
        f"{result.busy_p50:7.1f} {result.busy_p95:7.1f} {result.quality:8.3f} {result.swaps_per_hour:8.1f} {result.lost:6d} "
        f"{result.skipped:8d} {result.hottest:7.1f} {result.duration_s / max(result.wall_s, 1e-9):8.0f} "
        f"{result.duration_s / max(result.cpu_s, 1e-9):8.0f}"
    )


HEADER = (
    f"  {'controller':<12} {'throttled s':>10} {'p50 ms':>7} {'p95':>7} {'p99':>7} {'busy50':>7} {'busy95':>7} {'quality':>8} "
    f"{'swaps/h':>8} {'lost':>6} {'left out':>8} {'max C':>7} {'x real':>8} {'x cpu':>8}"
)


def compare(scenario: Scenario, controllers: list[str], show_decisions: bool) -> dict[str, Any]:
    """All controllers on one scenario; prints its block."""
    combo, best_quality = simulate.best_fixed(scenario)
    calibration = simulate.calibrate(scenario)
    print(f"\n{scenario.name}: {scenario.note}" if scenario.note else f"\n{scenario.name}")
    if combo is None:
        print("  no fixed combination lives through it without throttling: no bar applies")
    else:
        held = ", ".join(f"{ladder.model} {choice.rung}" for ladder, choice in zip(scenario.ladders, combo))
        print(f"  best fixed without throttling: {held}: quality {best_quality:.3f}")
    if calibration is not None:
        print(f"  calibration: rms {', '.join(f'{rms:.2f}' for rms in calibration.rms)} degC")
    print(HEADER)
    found: dict[str, Any] = {"scenario": scenario.name, "best_fixed": best_quality, "results": []}
    for name in controllers:
        result = simulate.run(scenario, NAMES[name], calibration=calibration)
        print(row(result), flush=True)
        entry = {key: value for key, value in dataclasses.asdict(result).items() if key not in ("decisions", "conditions")}
        found["results"].append(entry | {"swaps_per_hour": result.swaps_per_hour, "p95_over_p50": result.flatness})
        if name == "ours":
            found["missed"] = judge(result, best_quality)
            for line in found["missed"]:
                print(f"  MISSED: {line}")
            if show_decisions:
                for decision in result.decisions:
                    print(f"    {decision.at:8.1f} s  {decision}")
                for condition in result.conditions:
                    print(f"    {condition}")
    return found


def main() -> int:
    """Prints the table; exit code 0 if every bar holds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--scenarios", type=Path, default=BUILT_IN, help="YAML or JSON file (docs/governor.md)")
    parser.add_argument("--only", help="scenarios whose name contains this")
    parser.add_argument("--random", type=int, default=0, metavar="N", help="N random scenarios instead of the file")
    parser.add_argument("--seed", type=int, default=1000, help="first seed of the random ones")
    parser.add_argument("--soak", type=float, default=0.0, metavar="HOURS", help="simulated soak instead (24 for a day)")
    parser.add_argument("--controllers", default="fixed,bands,ours", help="which, comma-separated")
    parser.add_argument("--decisions", action="store_true", help="print every decision of ours")
    parser.add_argument("--json", type=Path, help="write all numbers here")
    options = parser.parse_args()
    controllers = [name.strip() for name in options.controllers.split(",")]
    if not set(controllers) <= set(NAMES):
        parser.error(f"--controllers {options.controllers}: take some of {', '.join(NAMES)}")
    try:
        if options.soak > 0:
            return soak_day(options.soak, options.json)
        if options.random:
            scenarios = [draw(options.seed + n) for n in range(options.random)]
        else:
            scenarios = load(options.scenarios)
        if options.only:
            scenarios = [scenario for scenario in scenarios if options.only in scenario.name]
            if not scenarios:
                raise ScenarioError(f"--only {options.only}: no scenario of that name")
        return table(scenarios, controllers, options.decisions, options.json)
    except BevstackError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def table(scenarios: list[Scenario], controllers: list[str], show_decisions: bool, to: Path | None) -> int:
    """All scenarios, then the verdict."""
    print(f"machine: {os.cpu_count()} CPUs, {platform.machine()}, load {os.getloadavg()[0]:.1f}; {len(scenarios)} scenarios")
    start = time.perf_counter()
    found = [compare(scenario, controllers, show_decisions) for scenario in scenarios]
    judged = [entry for entry in found if entry["best_fixed"] > 0 and "missed" in entry]
    held = [entry for entry in judged if not entry["missed"]]
    print(
        f"\nours meets all bars in {len(held)} of {len(judged)} scenarios in which some fixed combination never throttles",
        end="",
    )
    print(f" ({len(found) - len(judged)} without one)" if len(found) > len(judged) else "", end="")
    print(f"; {time.perf_counter() - start:.0f} s, load {os.getloadavg()[0]:.1f}")
    for entry in judged:
        if entry["missed"]:
            print(f"  {entry['scenario']}: {'; '.join(entry['missed'])}")
    if to is not None:
        to.write_text(json.dumps({"load": os.getloadavg()[0], "scenarios": found}, indent=1, default=float) + "\n")
    return 0 if len(held) == len(judged) else 1


def soak_day(hours: float, to: Path | None) -> int:
    """A long run with a daily cycle; memory, swaps and log must stay bounded."""
    report = soak(hours)
    for line in report.lines():
        print(line)
    if to is not None:
        to.write_text(json.dumps(dataclasses.asdict(report), indent=1, default=float) + "\n")
    return 0 if report.bounded else 1


if __name__ == "__main__":
    sys.exit(main())
