"""Six camera streams from one process to another, through the nodes: what is lost, how late, at what cost.

    python benchmarks/transport_nodes.py [--transport compressed|raw|both] [--seconds 10] [--rate 10] [--width 1600]

One process runs ``camera_node`` on a test pattern, another ``bev_node`` (random weights: only the way there is measured); this
one listens to the status messages. ``lost`` counts images that were sent and never arrived in the perception node; images that
arrived while the model was busy are ``replaced``, as they should be.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil


def measure(
    transport: str, *, seconds: float = 10.0, rate: float = 10.0, width: int = 1600, domain: int | None = None
) -> dict[str, Any]:
    """Run both processes once.

    Args:
        transport: "compressed" or "raw".
        seconds: of streaming.
        rate: instants per second.
        width: of the images, pixels (16:9).
        domain: ROS domain; None: one that hardly anybody uses.

    Returns:
        sent, received, lost, replaced (images), instants, latency in ms (median, p95; from exposure to the result), CPU seconds
        per second of both processes, megabytes per second.

    Raises:
        RuntimeError: a process fails, or nothing arrives.
    """
    os.environ["ROS_DOMAIN_ID"] = str(domain if domain is not None else 60 + os.getpid() % 40)
    from bevstack.ros.interfaces import Bool, PipelineStatus
    from bevstack.ros.nodes.topics import latched_qos
    from bevstack.ros.runtime import Node, SingleThreadedExecutor, init, shutdown

    python = [sys.executable, "-m"]
    common = ["-p", f"image_transport:={transport}", "-p", "image_depth:=20"]
    bev = [
        *python,
        "bevstack.ros.nodes.bev_node",
        "--ros-args",
        *common,
        "-p",
        "model:=random:fastbev-nano",
        "-p",
        "engine:=torch",
        "-p",
        "score_threshold:=1.0",
    ]
    bev += ["-p", "image_reliability:=reliable"]
    source = f"pattern:width={width},rate={rate},duration={seconds}"
    camera = [
        *python,
        "bevstack.ros.nodes.camera_node",
        "--ros-args",
        *common,
        "-p",
        f'source:="{source}"',
        "-p",
        "stamps:=now",
    ]
    camera += ["-p", "wait_for_subscribers:=1"]

    init(args=[])
    node = Node("transport_benchmark")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    statuses: list[Any] = []
    ended: list[Any] = []
    node.create_subscription(PipelineStatus, "bev_node/status", statuses.append, 1000)
    node.create_subscription(Bool, "camera_node/end_of_source", ended.append, latched_qos())
    processes: list[subprocess.Popen[bytes]] = []
    try:
        processes.append(subprocess.Popen(bev))
        processes.append(subprocess.Popen(camera))
        meters = [psutil.Process(p.pid) for p in processes]
        used: list[float] = [0.0, 0.0]
        began: float | None = None
        deadline = time.monotonic() + 90 + 3 * seconds
        quiet = time.monotonic()
        seen = 0
        while time.monotonic() < deadline:
            executor.spin_once(timeout_sec=0.1)
            if any(p.poll() is not None for p in processes):
                raise RuntimeError("a node ended too early: see its output above")
            if len(statuses) != seen:
                seen, quiet = len(statuses), time.monotonic()
                if began is None:
                    began, used = time.monotonic(), [sum(m.cpu_times()[:2]) for m in meters]
            if ended and statuses and time.monotonic() - quiet > 3.0:
                break
        if not statuses or began is None:
            raise RuntimeError("nothing arrived: is the wire there? (bevstack doctor)")
        elapsed = quiet - began
        load = [(sum(m.cpu_times()[:2]) - u) / max(elapsed, 1e-3) for m, u in zip(meters, used)]
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(20)
        node.destroy_node()
        executor.shutdown()
        shutdown()
    last = max(statuses, key=lambda s: sum(s.camera_frames))
    sent = 6 * round(seconds * rate)
    received = int(sum(last.camera_frames))
    latencies = sorted(s.latency_ms for s in statuses)
    size = 3 * width * round(width * 9 / 16) if transport == "raw" else _jpeg_size(width)
    return {
        "transport": transport,
        "width": width,
        "rate": rate,
        "seconds": seconds,
        "sent": sent,
        "received": received,
        "lost": sent - received,
        "replaced": int(sum(last.camera_drops)),
        "instants": int(last.instants_out),
        "latency_ms_median": round(float(latencies[len(latencies) // 2]), 1),
        "latency_ms_p95": round(float(latencies[int(0.95 * (len(latencies) - 1))]), 1),
        "cpu_bev_node": round(load[0], 2),
        "cpu_camera_node": round(load[1], 2),
        "megabytes_per_second": round(6 * rate * size / 1e6, 1),
        "exit_codes": [p.returncode for p in processes],
    }


def _jpeg_size(width: int) -> int:
    from bevstack.frames.pattern import PatternSource

    frame = next(iter(PatternSource(width=width, duration=1.0).frames()))
    assert frame.encoded is not None
    return len(frame.encoded)


def main() -> None:
    """Print a table; with --json also write a file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--transport", choices=("compressed", "raw", "both"), default="both")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=10.0)
    parser.add_argument("--width", type=int, default=1600)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    chosen = ("compressed", "raw") if arguments.transport == "both" else (arguments.transport,)
    rows = [measure(t, seconds=arguments.seconds, rate=arguments.rate, width=arguments.width) for t in chosen]
    columns = list(rows[0])
    print("| " + " | ".join(columns) + " |")
    print("|" + " --- |" * len(columns))
    for row in rows:
        print("| " + " | ".join(str(row[c]) for c in columns) + " |")
    if arguments.json:
        host = {"machine": platform.machine(), "cpus": os.cpu_count(), "python": platform.python_version()}
        arguments.json.write_text(json.dumps({"host": host, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
