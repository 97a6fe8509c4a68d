"""The lift on a GPU against the memory's own speed.

Usage: python benchmarks/lift_gpu.py [--rung fastbev-m0] [--dtype float16|float32] [--repeat 200] [--json FILE]

Prints, timed with CUDA events: a plain device-to-device copy of the volume's size, the Triton kernel, torch's index_select; and
the share of the copy's bandwidth (bytes read and written per second) that the lift reaches. The aim is 60 %.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np


def main() -> int:
    """Prints the table; exit code 2 where there is no GPU."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rung", default="fastbev-m0")
    parser.add_argument("--dtype", choices=("float16", "float32"), default="float16")
    parser.add_argument("--repeat", type=int, default=200)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    import torch

    from bevstack.bev import CONFIGS
    from bevstack.bev.lift_gpu import GpuLift, has_kernel
    from bevstack.bev.tables import rig_table
    from bevstack.frames.sim import nuscenes_rig

    if not torch.cuda.is_available():
        print("no CUDA GPU: this benchmark needs one")
        return 2
    config, dtype = CONFIGS[options.rung], getattr(torch, options.dtype)
    table = rig_table(list(nuscenes_rig().values()), config)
    times, channels = len(config.times), config.neck_channels
    tables = torch.from_numpy(np.stack([table] * times)).cuda()
    maps = [torch.randn((config.cells, channels), dtype=dtype, device="cuda") for _ in range(times)]
    lift, plain = (GpuLift(config.voxels, times, channels, dtype) for _ in range(2))
    plain._compiled = None  # torch's own operators
    other = torch.empty_like(lift.volume)

    def timed(work: Callable[[], object]) -> float:
        for _ in range(10):
            work()
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(options.repeat):
            work()
        end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end)) / options.repeat

    seen = float((table < config.cells).mean())
    size = lift.volume.numel() * lift.volume.element_size()
    moved = size * (1 + seen) + tables.numel() * 4  # written once, read where a camera sees the voxel
    copy = timed(lambda: other.copy_(lift.volume))
    rows = {"copy": (copy, 2 * size), "index_select": (timed(lambda: plain(maps, tables)), moved)}
    if has_kernel():
        rows["kernel"] = (timed(lambda: lift(maps, tables)), moved)
    print(f"{options.rung}, {options.dtype}, {torch.cuda.get_device_name()}: volume {size / 1e6:.1f} MB, {seen:.1%} of it seen")
    print(f"{'':14} {'ms':>8} {'GB/s':>8} {'of the copy':>12}")
    result = {}
    for name, (ms, amount) in rows.items():
        speed, of_copy = amount / ms / 1e6, (amount / ms) / (2 * size / copy)
        result[name] = {"ms": ms, "gb_per_s": speed, "of_copy": of_copy}
        print(f"{name:14} {ms:8.4f} {speed:8.0f} {of_copy:12.1%}")
    if options.json:
        options.json.write_text(json.dumps({"benchmark": "lift_gpu", "gpu": torch.cuda.get_device_name(), **result}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
