"""The whole Fast-BEV step per rung and engine: stage times, instants per second, peak memory, and what the feature cache saves.

Usage: python benchmarks/bev.py [--rungs fastbev-nano,fastbev-m0] [--engines onnx,cpu,torch] [--instants 30] [--threads N]
                                [--seed 1] [--json FILE]

Input: a simulated drive at 10 instants/s, decoded to the network's size beforehand (see `benchmarks/decode.py`). Weights are
the rung's own where they are found, else random ones. Every combination runs in its own process, one after the other; peak
memory is that process's. "graphs": split = image graph, compiled gather, BEV graph; whole = one graph with the gather inside.
"recomputed" runs the image network on all instants' images again instead of reading the cache, as the published code does.
"against the straightforward path" (`benchmarks/straightforward.py`): all images of all instants in eager torch, projections per
call, torch post-processing, on the same instants and weights in the same process; boxes are compared on every step.
"post-processing" takes head maps of the rung's size in which more anchors pass the threshold than are kept.
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


def against(rung: str, engine: Any, count: int, threads: int, seed: int) -> dict[str, Any]:
    """Ours and the straightforward path, same weights, same instants."""
    from bevstack.bev.network import FastBEVNet
    from bevstack.bev.weights import find_weights, load_weights
    from bevstack.nn.seed import seed_everything
    from straightforward import at_rate, confident, versus

    try:
        net = load_weights(find_weights(rung))
    except BevstackError:
        seed_everything(0)
        net = confident(FastBEVNet(CONFIGS[rung]).eval())
    ours = FastBEV(net, engine, threads=threads)
    step = net.config.times[1] if len(net.config.times) > 1 else 0.5
    instants = at_rate(drive(ours, count + len(net.config.times), seed), step)
    result = {"rung": rung, "engine": engine, "threads": threads, **versus(ours, net, instants, threads)}
    ours.close()
    return result


def post_processing(rung: str, repeat: int = 30) -> dict[str, float]:
    """Milliseconds from head maps to boxes on one thread."""
    from bevstack.bev.decode import decode_maps

    config = CONFIGS[rung]
    rng = np.random.default_rng(0)
    kinds, (ny, nx) = config.anchors.per_cell, config.bev_hw
    cls = rng.normal(-7.0, 1.5, (kinds * len(config.classes), ny, nx)).astype(np.float32)
    reg = rng.normal(0.0, 0.1, (kinds * config.anchors.code_size, ny, nx)).astype(np.float32)
    turn = rng.normal(0.0, 1.0, (kinds * 2, ny, nx)).astype(np.float32)
    decode_maps(cls, reg, turn, config)
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        found = decode_maps(cls, reg, turn, config)
        times.append((time.perf_counter() - start) * 1e3)
    passed = int(
        (cls.reshape(kinds, -1, ny * nx).max(1) > np.log(config.post.score_threshold / (1 - config.post.score_threshold))).sum()
    )
    return {
        "anchors": config.anchor_count,
        "above_threshold": passed,
        "boxes": len(found.scores),
        **summary(times),
        "best": min(times),
    }


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
    parser.add_argument("--engines", default="onnx,cpu,torch")
    parser.add_argument("--graphs", default="split,whole")
    parser.add_argument("--instants", type=int, default=30)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--against", type=int, default=6, help="instants of the straightforward path; 0: leave it out")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker and options.worker.endswith("/against"):
        rung, engine, _ = options.worker.split("/")
        print(json.dumps(against(rung, engine, options.against, options.threads, options.seed)))
        return 0
    if options.worker:
        rung, engine, graphs = options.worker.split("/")
        print(json.dumps(worker(rung, engine, graphs == "split", options.instants, options.threads, options.seed)))
        return 0
    results, failed = [], 0
    for rung in options.rungs.split(","):
        for engine in options.engines.split(","):
            for graphs in options.graphs.split(","):
                if engine == "cpu" and graphs == "whole":
                    continue  # it has no such form
                command = [sys.executable, __file__, "--worker", f"{rung}/{engine}/{graphs}"]
                command += ["--instants", str(options.instants), "--threads", str(options.threads), "--seed", str(options.seed)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
                if done.returncode != 0:
                    failed += 1
                    print(f"\n{rung} / {engine} / {graphs}: failed with exit code {done.returncode}")
                    continue
                results.append(json.loads(done.stdout.splitlines()[-1]))
                show(results[-1])
    compared, post = [], {}
    for rung in options.rungs.split(","):
        post[rung] = p = post_processing(rung)
        print(
            f"\n{rung} post-processing: {p['p50']:.2f} ms (best {p['best']:.2f}) for {p['anchors']:.0f} anchors, "
            f"{p['above_threshold']:.0f} above the threshold, {p['boxes']:.0f} boxes"
        )
        if not options.against:
            continue
        for engine in [e for e in options.engines.split(",") if e in ("onnx", "cpu")]:
            command = [sys.executable, __file__, "--worker", f"{rung}/{engine}/against"]
            command += ["--against", str(options.against), "--threads", str(options.threads), "--seed", str(options.seed)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
            if done.returncode != 0:
                failed += 1
                print(f"{rung} / {engine} against the straightforward path: failed with exit code {done.returncode}")
                continue
            compared.append(json.loads(done.stdout.splitlines()[-1]))
            c = compared[-1]
            print(
                f"{rung} / {engine} against the straightforward path: {c['ours_ms']:.0f} to {c['straightforward_ms']:.0f} ms, "
                f"{c['times_faster']:.2f} x faster (CPU {c['ours_cpu_ms']:.0f} to {c['straightforward_cpu_ms']:.0f} ms, "
                f"{c['times_less_cpu']:.2f} x less); {c['boxes']} boxes, {c['boxes_not_in_both']:.2%} not in both, "
                f"largest difference {c['largest_difference']:.1e}"
            )
    if options.json:
        machine = {
            "cpu": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        }
        options.json.write_text(
            json.dumps(
                {"benchmark": "bev", "machine": machine, "results": results, "against": compared, "post_processing": post},
                indent=1,
            )
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
