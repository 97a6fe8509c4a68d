"""A simulated day of the governor: does anything grow without bound?"""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from .scenario import Scenario, parse
from .simulate import Simulation, calibrate

SWAPS_PER_HOUR = 60.0
MEMORY_MB = 32.0  # growth after the first hour
LOG_KB_PER_HOUR = 64.0


def day(hours: float) -> Scenario:
    """Daily cycle around 40 degC, a burst every ten minutes, a sensor that comes and goes, dust."""
    return parse(
        [
            {
                "name": "soak", "duration_s": hours * 3600.0,
                "ambient": {"mean": 38, "amplitude": 14, "period_s": 86400, "peak_s": 50400},
                "events": [
                    {"kind": "burst", "node": "die", "watts": 8, "every_s": 600, "length_s": 30},
                    {"kind": "link", "between": ["sink", "ambient"], "scale": 1.15, "ramp_s": 86400},
                    *(
                        {"kind": "sensor", "zone": "gpu-thermal", "fault": fault, "at": 3600.0 * at, "until": 3600.0 * at + 600}
                        for at, fault in enumerate(["eagain", "lost", "stuck", "vanish", "error", "spike"] * 8) if at < hours
                    ),
                ],
            }
        ]
    )[0]  # fmt: skip


@dataclass
class SoakReport:
    """Outcome of a soak.

    Attributes:
        memory_mb: resident memory at the end of every simulated hour.
        log_bytes: size of a log that holds every decision and every change of condition, one line each.
    """

    hours: float
    throttled_s: float = 0.0
    swaps_per_hour: float = 0.0
    worst_hour: int = 0
    quality: float = 0.0
    lost: int = 0
    flatness: float = 0.0
    hottest: float = 0.0
    log_bytes: int = 0
    open_files: tuple[int, int] = (0, 0)
    memory_mb: list[float] = field(default_factory=list)
    wall_s: float = 0.0
    cpu_s: float = 0.0

    @property
    def growth_mb(self) -> float:
        """Resident memory at the end less that after the first hour."""
        return self.memory_mb[-1] - self.memory_mb[0] if self.memory_mb else 0.0

    @property
    def bounded(self) -> bool:
        """Nothing grew: throttled 0 s, no item lost, swaps, memory, log and open files within limits."""
        return (
            self.throttled_s == 0 and self.lost == 0 and self.swaps_per_hour <= SWAPS_PER_HOUR and self.growth_mb <= MEMORY_MB
            and self.log_bytes <= LOG_KB_PER_HOUR * 1024 * self.hours and self.open_files[1] <= self.open_files[0] + 2
        )  # fmt: skip

    def lines(self) -> list[str]:
        """For people."""
        wall, cpu = (self.hours * 3600 / max(seconds, 1e-9) for seconds in (self.wall_s, self.cpu_s))
        memory = ", ".join(f"{mb:.0f}" for mb in self.memory_mb)
        return [
            f"{self.hours:g} simulated hours in {self.wall_s:.0f} s ({wall:.0f} x real time; {cpu:.0f} x by CPU time)",
            f"throttled {self.throttled_s:.1f} s, hottest {self.hottest:.1f} degC, items lost {self.lost}, "
            f"p95/p50 {self.flatness:.3f}, mean quality {self.quality:.3f}",
            f"swaps {self.swaps_per_hour:.1f} per hour (at most {SWAPS_PER_HOUR:g}), {self.worst_hour} in the busiest hour",
            f"decision log {self.log_bytes / 1024:.0f} KB (at most {LOG_KB_PER_HOUR:g} per hour)",
            f"memory after each hour, MB: {memory}; growth {self.growth_mb:.1f} (at most {MEMORY_MB:g})",
            f"open files {self.open_files[0]} -> {self.open_files[1]}",
            "bounded" if self.bounded else "NOT bounded",
        ]


def soak(hours: float, root: Path | None = None) -> SoakReport:
    """Runs `day` with the predictive policy.

    Latencies and items of each hour are dropped at its end, so that the simulator's own books do not hide or fake growth.
    """
    scenario = day(hours)
    report = SoakReport(hours)
    process = psutil.Process()
    simulation = Simulation(scenario, "ours", calibration=calibrate(scenario), root=root)
    start, cpu = time.perf_counter(), time.process_time()
    per_hour = round(3600.0 / scenario.step_s)
    before_files = process.num_fds()
    quality, items, p50, p95 = 0.0, 0, [], []
    conditions = 0
    try:
        while simulation.plant.now < simulation.plant.steps:
            simulation.step()
            if simulation.plant.now % per_hour and simulation.plant.now < simulation.plant.steps:
                continue
            result = simulation.finish()
            report.worst_hour = max(report.worst_hour, len(result.decisions))
            log = [*(f"{d.at:.1f} {d}\n" for d in result.decisions), *(line + "\n" for line in result.conditions[conditions:])]
            report.log_bytes += sum(map(len, log))
            quality, items, lost = quality + result.quality * result.items, items + result.items, result.lost
            report.lost += lost
            p50.append(result.p50)
            p95.append(result.p95)
            # The last condition stays, so that an unchanged one is not written again.
            del result.decisions[:], result.conditions[:-1]
            conditions = len(result.conditions)
            simulation.forget()
            gc.collect()
            report.memory_mb.append(process.memory_info().rss / 2**20)
    finally:
        files = process.num_fds()
        simulation.close()
    result = simulation.result
    report.wall_s, report.cpu_s = time.perf_counter() - start, time.process_time() - cpu
    report.throttled_s, report.hottest = result.throttled_s, result.hottest
    report.swaps_per_hour = result.swaps / hours
    report.quality = quality / max(items, 1)
    report.flatness = max(b / a for a, b in zip(p50, p95))
    report.open_files = (before_files, files)
    return report
