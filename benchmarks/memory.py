"""Peak memory of each Fast-BEV rung at work: one process per rung, ONNX Runtime, no torch in it.

Usage: python benchmarks/memory.py [--rungs fastbev-nano,...] [--graphs split,whole] [--instants 2] [--threads N] [--json FILE]

Random weights (memory does not depend on them). A first process exports the graphs; a second one, whose peak resident size is
what is printed, loads them and works on ``instants`` noise images with a whole past from the first one on: interpreter,
libraries, weights, tables, cached features and all. "idle" is the same process with its imports done and no network open.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
from pathlib import Path


def peak() -> float:
    """Megabytes (2^20) that this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def export(rung: str, folder: Path) -> None:
    from bevstack.bev import CONFIGS
    from bevstack.bev.export import export_onnx
    from bevstack.bev.fastbev import _network

    net = _network(CONFIGS[rung])
    for part in ("image", "bev", "whole"):
        export_onnx(net, folder / f"{part}.onnx", part)  # type: ignore[arg-type]


def work(rung: str, folder: Path, graphs: str, instants: int, threads: int) -> dict[str, float]:
    import numpy as np

    from bevstack.bev import CONFIGS
    from bevstack.bev.runner import onnx_runner

    config = CONFIGS[rung]
    idle = peak()
    parts = ("image", "bev") if graphs == "split" else ("whole",)
    runner = onnx_runner([folder / f"{part}.onnx" for part in parts], config, threads)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (config.cameras, *config.image_hw, 3), dtype=np.uint8)
    tables = [rng.integers(0, config.cells, config.voxels).astype(np.int32) for _ in config.times]
    cached = [rng.random((config.cells, config.neck_channels), np.float32) for _ in config.times[1:]]
    for _ in range(instants):
        _, features = runner(images, tables, cached)
        cached = [features, *cached][: len(config.times) - 1]
    return {"idle_mb": idle, "peak_mb": peak()}


def main() -> int:
    """Prints one line per rung and form."""
    from bevstack.bev import CONFIGS

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rungs", default=",".join(CONFIGS))
    parser.add_argument("--graphs", default="split,whole")
    parser.add_argument("--instants", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        kind, rung, folder = options.child
        if kind == "export":
            export(rung, Path(folder))
        else:
            print(json.dumps(work(rung, Path(folder), kind, options.instants, options.threads)))
        return 0
    print(f"peak memory, {options.instants} instants, {options.threads} threads, {platform.machine()}, ONNX Runtime")
    print(f"{'rung':18} {'graphs':>7} {'peak MB':>9} {'of it idle':>11}")
    results, failed = [], 0
    for rung in options.rungs.split(","):
        with tempfile.TemporaryDirectory(prefix="bevstack-memory-") as folder:
            me = [sys.executable, __file__, "--instants", str(options.instants), "--threads", str(options.threads)]
            if subprocess.run([*me, "--child", "export", rung, folder], check=False).returncode:
                failed += 1
                continue
            for graphs in options.graphs.split(","):
                done = subprocess.run([*me, "--child", graphs, rung, folder], stdout=subprocess.PIPE, text=True, check=False)
                if done.returncode:
                    failed += 1
                    print(f"{rung:18} {graphs:>7} failed with exit code {done.returncode}")
                    continue
                result = json.loads(done.stdout.splitlines()[-1])
                results.append({"rung": rung, "graphs": graphs, **result})
                print(f"{rung:18} {graphs:>7} {result['peak_mb']:9.0f} {result['idle_mb']:11.0f}", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"benchmark": "memory", "results": results}, indent=1))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
