"""The whole Fast-BEV step per rung and engine: stage times, instants per second, peak memory, and what the feature cache saves.

Usage: python benchmarks/bev.py [--rungs fastbev-nano,fastbev-m0] [--engines onnx,torch] [--instants 30] [--threads N]
                                [--seed 1] [--json FILE]

Input: a simulated drive at 10 instants/s, decoded to the network's size beforehand (see `benchmarks/decode.py`). Weights are
the rung's own where they are found, else random ones. Every combination runs in its own process, one after the other; peak
memory is that process's. "graphs": split = image graph, compiled gather, BEV graph; whole = one graph with the gather inside.
"recomputed" runs the image network on all instants' images again instead of reading the cache, as the published code does.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bevstack.bev import CONFIGS, FastBEV
from bevstack.errors import BevstackError
from bevstack.frames import FrameSet
from bevstack.frames.decode import resize
from bevstack.frames.sim import SimulatedDrive


def drive(net: FastBEV, count: int, seed: int) -> list[FrameSet]:
    """Instants of a simulated drive, images already at the network's size."""
    instants = []
    with SimulatedDrive(seed, duration=(count + 2) / 10.0, image_width=800) as source:
        for frame_set in source:
            frames = {
                name: replace(f, image=resize(f.image, net.decode_size(f.camera), net.config.resize_filter))
                for name, f in frame_set.frames.items()
                if f.image is not None
            }
            instants.append(replace(frame_set, frames=frames))
            if len(instants) == count:
                break
    return instants


def summary(values: list[float]) -> dict[str, float]:
    return {
        "p50": float(np.percentile(values, 50)),
        "p95": float(np.percentile(values, 95)),
        "max": float(np.max(values)),
    }


def recompute(net: FastBEV) -> float:
    """Milliseconds that the image network takes for the images of all past instants of a step: what the cache saves."""
    from bevstack.bev.runner import SplitRunner

    runner = net._runner  # the benchmark takes the step apart
    assert isinstance(runner, SplitRunner)
    start = time.perf_counter()
    for _ in net.config.times[1:]:  # same size and cost as the images of 0.5, 1.0 and 1.5 s ago
        runner.image_features(net._images)
    return (time.perf_counter() - start) * 1e3


def worker(rung: str, engine: Any, split: bool, count: int, threads: int, seed: int) -> dict[str, Any]:
    """One combination; the process exists for it alone."""
    weights = "trained"
    start = time.perf_counter()
    try:
        net = FastBEV(rung, engine, threads=threads, split=split)
    except BevstackError:
        weights = "random"
        start = time.perf_counter()
        net = FastBEV(CONFIGS[rung], engine, threads=threads, split=split)
    opened = time.perf_counter() - start
    instants = drive(net, count, seed)
    stages: dict[str, list[float]] = {}
    boxes = []
    warm = min(3, count // 2)  # compilation of the hot loops, first allocations
    used, again = 0.0, []
    for number, frame_set in enumerate(instants):
        cpu = time.process_time()
        found = net(frame_set)
        cpu = time.process_time() - cpu
        extra = recompute(net) if split else 0.0  # right after the step, so that both meet the same load
        if number >= warm:
            used += cpu
            boxes.append(len(found))
            again.append(net.timings["total"] + extra)
            for stage, ms in net.timings.items():
                stages.setdefault(stage, []).append(ms)
    measured = len(instants) - warm
    result: dict[str, Any] = {
        "rung": rung,
        "engine": engine,
        "graphs": "split" if split else "whole",
        "weights": weights,
        "threads": threads,
        "instants": measured,
        "open_s": opened,
        "stages_ms": {stage: summary(values) for stage, values in stages.items()},
        "instants_per_s": 1e3 * measured / sum(stages["total"]),
        "cpu_s_per_instant": used / measured,
        "boxes_mean": float(np.mean(boxes)),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    if split:
        total = summary(again)
        images = net.config.cameras * len(net.config.times)
        ratio = total["p50"] / summary(stages["total"])["p50"]
        result["recomputed"] = {"images": images, "total_ms": total, "times_as_long": ratio}
    net.close()
    return result


def show(result: dict[str, Any]) -> None:
    """One combination as a table."""
    print(
        f"\n{result['rung']} / {result['engine']} / {result['graphs']}: {result['instants_per_s']:.2f} instants/s, "
        f"{result['cpu_s_per_instant'] * 1e3:.0f} ms CPU each, peak {result['peak_rss_mb']:.0f} MB, "
        f"{result['weights']} weights, {result['boxes_mean']:.1f} boxes, opened in {result['open_s']:.1f} s"
    )
    print(f"  {'stage':12} {'p50 ms':>9} {'p95 ms':>9} {'max ms':>9}")
    for stage, s in result["stages_ms"].items():
        print(f"  {stage:12} {s['p50']:9.2f} {s['p95']:9.2f} {s['max']:9.2f}")
    if "recomputed" in result:
        r = result["recomputed"]
        print(f"  all {r['images']} images recomputed: {r['total_ms']['p50']:.2f} ms, {r['times_as_long']:.2f} x as long")


def main() -> int:
    """Runs every combination in its own process; prints tables, writes JSON on demand."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rungs", default="fastbev-nano,fastbev-m0")
    parser.add_argument("--engines", default="onnx,torch")
    parser.add_argument("--graphs", default="split,whole")
    parser.add_argument("--instants", type=int, default=30)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        rung, engine, graphs = options.worker.split("/")
        print(json.dumps(worker(rung, engine, graphs == "split", options.instants, options.threads, options.seed)))
        return 0
    results, failed = [], 0
    for rung in options.rungs.split(","):
        for engine in options.engines.split(","):
            for graphs in options.graphs.split(","):
                command = [sys.executable, __file__, "--worker", f"{rung}/{engine}/{graphs}"]
                command += ["--instants", str(options.instants), "--threads", str(options.threads), "--seed", str(options.seed)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
                if done.returncode != 0:
                    failed += 1
                    print(f"\n{rung} / {engine} / {graphs}: failed with exit code {done.returncode}")
                    continue
                results.append(json.loads(done.stdout.splitlines()[-1]))
                show(results[-1])
    if options.json:
        machine = {
            "cpu": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        }
        options.json.write_text(json.dumps({"benchmark": "bev", "machine": machine, "results": results}, indent=1))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
