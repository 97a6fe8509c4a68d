"""The simulated drive on one core: instants per second by image size, with and without JPEG, truth, and the making of a world.

Usage: python benchmarks/sim.py [--seeds 1,2,3] [--instants 8] [--json FILE]

An instant is six cameras with noise and blur. Both clocks are shown: on a busy machine the CPU time is the steadier one.
"352x128" is drawn directly at a network's input size (resized and cropped cameras); the others are whole images of the rig.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from bevstack.frames.sim import SimulatedDrive, nuscenes_rig


def measure(work: Callable[[float], object], times: list[float]) -> tuple[float, float]:
    """Median wall and CPU milliseconds of ``work(t)`` over ``times``, after one call that is not counted."""
    work(times[0])
    wall, cpu = [], []
    for t in times:
        w, c = time.perf_counter(), time.process_time()
        work(t)
        wall.append(time.perf_counter() - w)
        cpu.append(time.process_time() - c)
    return float(np.median(wall)) * 1e3, float(np.median(cpu)) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="1,2,3", help="one world each")
    parser.add_argument("--instants", type=int, default=8, help="per world")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    SimulatedDrive(0, image_width=64, duration=0.2).instant(0.1)  # compiles or loads the compiled loops
    rows: dict[str, list[tuple[float, float]]] = {}
    for seed in (int(v) for v in options.seeds.split(",")):
        w, c = time.perf_counter(), time.process_time()
        drives = {800: SimulatedDrive(seed, image_width=800)}
        built = (1e3 * (time.perf_counter() - w), 1e3 * (time.process_time() - c))
        rows.setdefault("world of 30 s", []).append(built)
        drives[1600] = SimulatedDrive(seed, image_width=1600)
        times = [float(t) for t in np.linspace(0.5, 28.0, options.instants)]
        small = {n: camera.resized(352, 198).cropped(0, 70, 352, 128) for n, camera in nuscenes_rig(800).items()}
        jpeg = SimulatedDrive(seed, image_width=800, jpeg=True)
        tasks: dict[str, Callable[[float], object]] = {
            "352x128": lambda t, d=drives[800], s=small: d.render_instant(t, s),
            "800x450": lambda t, d=drives[800]: d.render_instant(t),
            "800x450, JPEG, truth": lambda t, d=jpeg: d.instant(t),
            "1600x900": lambda t, d=drives[1600]: d.render_instant(t),
            "truth alone": lambda t, d=drives[800]: d.truth(t),
        }
        for name, task in tasks.items():
            rows.setdefault(name, []).append(measure(task, times))
    print(f"{platform.processor() or platform.machine()}, one thread, {options.seeds.count(',') + 1} worlds")
    print(f"{'six cameras':24}{'wall ms':>10}{'CPU ms':>10}{'instants/s':>13}  (of CPU time)")
    result = {}
    for name, values in rows.items():
        wall, cpu = (float(v) for v in np.median(np.array(values), axis=0))
        result[name] = {"wall_ms": wall, "cpu_ms": cpu, "per_second": 1e3 / cpu}
        print(f"{name:24}{wall:10.1f}{cpu:10.1f}{1e3 / cpu:13.1f}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
