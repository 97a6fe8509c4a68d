"""Widths of one weights file: cost, milliseconds per instant and memory, in one run.

Usage: python benchmarks/slimmable.py [--model fastbev-slim] [--instants 20] [--threads N] [--json FILE]

Milliseconds: the widths take turns on the same instants of a simulated drive, so that a busy machine slows all of them alike.
Memory: resident size of a process in which all widths are loaded and have run, above that of the same process before, once with
the BEV graph loaded for all widths together, as `bevstack` does it, and once with two graphs for each width, as three separate
weights files would have it. Boxes' quality: `bevstack eval fastbev --simulated --model fastbev-slim@0.5`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np


def resident() -> float:
    """Megabytes (2^20) of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def work(model: str, instants: int, threads: int, separate: bool) -> dict[str, object]:
    """Loads all widths, runs them in turns; ``separate``: nothing in common."""
    from bevstack.bev import FastBEV, runner
    from bevstack.bev.ladder import available
    from bevstack.frames.sim import SimulatedDrive

    rungs = available(model)
    with SimulatedDrive(1, duration=(instants + 2) / 10.0, image_width=800) as drive:
        frames = [frame for _, frame in zip(range(instants), drive)]
    FastBEV(next(iter(rungs.values())), threads=threads).close()  # libraries and compiled loops are not what is measured
    before = resident()
    if separate:
        make = runner.onnx_runner
        runner.onnx_runner = lambda graphs, config, threads, shared="": make(graphs, config, threads)
    models = {name: FastBEV(source, threads=threads) for name, source in rungs.items()}
    loaded = resident()
    times: dict[str, list[float]] = {name: [] for name in models}
    for frame in frames:
        for name, bev in models.items():
            bev(frame)
            times[name].append(bev.timings["total"])
    return {
        "loaded_mb": loaded - before,
        "running_mb": resident() - before,
        "ms": {name: float(np.median(t[2:])) for name, t in times.items()},
    }


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="fastbev-slim")
    parser.add_argument("--instants", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", choices=("shared", "separate"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(work(options.model, options.instants, options.threads, options.child == "separate")))
        return 0
    from bevstack.bev.complexity import complexity
    from bevstack.bev.ladder import available
    from bevstack.bev.weights import read_info

    results = {}
    for kind in ("shared", "separate"):
        command = [sys.executable, __file__, "--model", options.model, "--threads", str(options.threads), "--child", kind]
        output = subprocess.run(
            [*command, "--instants", str(options.instants)], capture_output=True, text=True, check=True
        ).stdout
        results[kind] = json.loads(output.splitlines()[-1])
    print(f"{'rung':20} {'image GMAC':>11} {'total GMAC':>11} {'ms':>7}   load average {os.getloadavg()[0]:.1f}")
    for name, source in available(options.model).items():
        cost = complexity(read_info(source).config)
        ms = results["shared"]["ms"][name]
        print(f"{name:20} {cost.image / 1e9:11.2f} {cost.total / 1e9:11.2f} {ms:7.1f}")
    for kind, found in results.items():
        print(f"all widths {kind:9} {found['loaded_mb']:6.1f} MB loaded, {found['running_mb']:6.1f} MB after the instants")
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
