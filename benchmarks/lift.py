"""The lift of one M0 instant on one core: table gather against direct re-projection and against memcpy, in one run.

Usage: python benchmarks/lift.py [--model fastbev-m0] [--repeat 20] [--threads 2] [--json FILE]

All variants move the same data: six cameras' float32 features, HWC except for the direct path, into one instant's voxel volume.
Rounds are interleaved, so that another program's load meets all variants alike. Claims are judged on the calling thread's CPU
time: wall time on a shared machine measures the neighbours. The threaded gather has only a wall time.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bevstack.bev.config import CONFIGS, FastBEVConfig
from bevstack.bev.gather import Gather
from bevstack.bev.preprocess import image_transform
from bevstack.bev.tables import build_table, camera_projection, grid_points, lidar_to_camera
from bevstack.frames.sim.rig import nuscenes_rig

AT_LEAST_FASTER = 25.0  # than direct re-projection
AT_MOST_SLOWER = 2.0  # than memcpy


def direct(features: Tensor, projections: Tensor, points: Tensor, config: FastBEVConfig) -> Tensor:
    """The straightforward torch lift: project every voxel into every camera, each call, later cameras overwrite.

    Args:
        features: (N, C, Hf, Wf), projections: (N, 3, 4), points: (4, V) homogeneous.

    Returns:
        (C, V) fresh volume.
    """
    rows, columns = config.feature_hw
    volume = torch.zeros(features.shape[1], points.shape[1])
    for camera in range(features.shape[0]):
        p = projections[camera] @ points
        u, v, depth = (p[0] / p[2]).round().long(), (p[1] / p[2]).round().long(), p[2]
        valid = (u >= 0) & (v >= 0) & (u < columns) & (v < rows) & (depth > 0)
        volume[:, valid] = features[camera, :, v[valid], u[valid]]
    return volume


def measure(variants: dict[str, Callable[[], Any]], repeat: int) -> dict[str, dict[str, float]]:
    """Milliseconds of each variant over ``repeat`` interleaved rounds: median CPU time of this thread, median and best wall."""
    wall: dict[str, list[float]] = {name: [] for name in variants}
    cpu: dict[str, list[float]] = {name: [] for name in variants}
    for call in variants.values():
        call()
    for _ in range(repeat):
        for name, call in variants.items():
            c0, w0 = time.thread_time(), time.perf_counter()
            call()
            wall[name].append((time.perf_counter() - w0) * 1e3)
            cpu[name].append((time.thread_time() - c0) * 1e3)
    return {
        name: {
            "cpu_ms": float(np.median(cpu[name])),
            "wall_ms": float(np.median(wall[name])),
            "best_wall_ms": float(np.min(wall[name])),
        }
        for name in variants
    }


def run(config: FastBEVConfig, repeat: int, threads: int) -> dict[str, Any]:
    """All variants on the nuScenes-like rig; checks first that they lift the same volume."""
    torch.set_num_threads(1)
    rig = list(nuscenes_rig(1600).values())
    matrix = image_transform(1600, 900, config).matrix
    projections = np.stack([camera_projection(c, matrix, config.lift_stride, lidar_to_camera(c, config)) for c in rig])
    rng = np.random.default_rng(0)
    rows, columns = config.feature_hw
    channels, voxels = config.neck_channels, config.grid.voxels
    hwc = rng.standard_normal((config.cells, channels), dtype=np.float32)
    chw = torch.from_numpy(np.ascontiguousarray(hwc.reshape(6, rows, columns, channels).transpose(0, 3, 1, 2)))
    points = torch.from_numpy(
        np.concatenate([grid_points(config.grid), np.ones((voxels, 1))], axis=1).T.astype(np.float32).copy()
    )
    matrices = torch.from_numpy(projections.astype(np.float32))
    table = build_table(projections, config.grid, config.feature_hw)
    one, several = Gather(voxels, 1, channels), Gather(voxels, 1, channels, threads)
    fresh = np.empty_like(table)
    source, target = rng.standard_normal((voxels, channels), dtype=np.float32), np.empty((voxels, channels), np.float32)

    lifted = one([hwc], table[None])[:, 0].copy()
    reference = direct(chw, matrices, points, config).numpy().T
    # The direct path rounds in float32: a few voxels per 100 000 fall on the other side of a cell's border.
    differing = int(np.count_nonzero(np.any(lifted != reference, axis=1)))
    if differing > voxels // 10_000:
        raise SystemExit(f"the two lifts differ in {differing} of {voxels} voxels: they do not move the same data")

    def rebuilt() -> None:
        build_table(projections, config.grid, config.feature_hw, out=fresh)
        one([hwc], fresh[None])

    times = measure(
        {
            "direct re-projection (torch, CHW)": lambda: direct(chw, matrices, points, config),
            "table build": lambda: build_table(projections, config.grid, config.feature_hw, out=fresh),
            "gather, reused buffer (HWC)": lambda: one([hwc], table[None]),
            "table build + gather": rebuilt,
            "memcpy of the same bytes": lambda: np.copyto(target, source),
            f"gather, {threads} threads": lambda: several([hwc], table[None]),
        },
        repeat,
    )
    several.close()
    gather, copy = times["gather, reused buffer (HWC)"], times["memcpy of the same bytes"]
    slow = times["direct re-projection (torch, CHW)"]
    return {
        "benchmark": "lift",
        "model": config.name,
        "bytes": voxels * channels * 4,
        "machine": {
            "cpu": platform.processor() or platform.machine(),
            "cores": torch.get_num_threads(),
            "python": platform.python_version(),
        },
        "differing_voxels": differing,
        "times": times,
        "faster_than_direct": {"cpu": slow["cpu_ms"] / gather["cpu_ms"], "wall": slow["wall_ms"] / gather["wall_ms"]},
        "with_table_build_faster_than_direct": slow["cpu_ms"] / times["table build + gather"]["cpu_ms"],
        "slower_than_memcpy": {"cpu": gather["cpu_ms"] / copy["cpu_ms"], "wall": gather["wall_ms"] / copy["wall_ms"]},
    }


def main() -> int:
    """Prints the table, writes JSON on demand; exit code 1 if a claim does not hold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="fastbev-m0", choices=sorted(CONFIGS))
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2, help="for the threaded gather")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result = run(CONFIGS[options.model], options.repeat, options.threads)
    print(f"{result['model']}: {result['bytes'] / 1e6:.1f} MB volume, {options.repeat} interleaved rounds")
    print(f"{'variant':36} {'cpu ms':>8} {'wall ms':>8} {'best':>8}")
    for name, t in result["times"].items():
        cpu = "-" if "threads" in name else f"{t['cpu_ms']:.2f}"
        print(f"{name:36} {cpu:>8} {t['wall_ms']:8.2f} {t['best_wall_ms']:8.2f}")
    fast, slow = result["faster_than_direct"], result["slower_than_memcpy"]
    print(
        f"gather is {fast['cpu']:.1f} x faster than direct re-projection (wall {fast['wall']:.1f}; aim >= {AT_LEAST_FASTER:g})"
    )
    print(f"  with the table built anew each time {result['with_table_build_faster_than_direct']:.1f} x")
    print(f"gather takes {slow['cpu']:.2f} x a memcpy of the same bytes (wall {slow['wall']:.2f} x; aim <= {AT_MOST_SLOWER:g})")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))
    return 0 if fast["cpu"] >= AT_LEAST_FASTER and slow["cpu"] <= AT_MOST_SLOWER else 1


if __name__ == "__main__":
    sys.exit(main())
