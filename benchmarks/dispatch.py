"""From publish() to the callback inside one process, on the embedded runtime: a small message and a 4.3 MB image.

Usage: python benchmarks/dispatch.py [--count 2000] [--json FILE]
The wire is open (no peer), so the figures hold for a node that other processes could listen to.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from bevstack.ros import runtime as ros


def spin(executor: Any) -> None:
    try:
        executor.spin()
    except ros.ExternalShutdownException:
        return


def measure(sender: Any, receiver: Any, message: Any, count: int, executor: Any, *, own_thread: bool) -> dict[str, float]:
    """Microseconds from before publish() to inside the callback, and of publish() alone."""
    arrived = threading.Event()
    delays: list[int] = []
    same: list[bool] = []

    def callback(received: Any) -> None:
        delays.append(time.perf_counter_ns() - began)
        same.append(received is message)
        arrived.set()

    subscription = receiver.create_subscription(type(message), "dispatch", callback, 10)
    publisher = sender.create_publisher(type(message), "dispatch", 10)
    publishing: list[int] = []
    began = 0
    for _ in range(count):
        arrived.clear()
        began = time.perf_counter_ns()
        publisher.publish(message)
        publishing.append(time.perf_counter_ns() - began)
        if own_thread:
            assert arrived.wait(10.0)
        else:
            while not arrived.is_set():
                executor.spin_once(timeout_sec=10.0)
    receiver.destroy_subscription(subscription)
    sender.destroy_publisher(publisher)
    if not all(same):
        raise SystemExit("a message was copied on its way")
    p50, p95 = np.percentile(delays, [50, 95]) / 1e3
    return {"p50_us": float(p50), "p95_us": float(p95), "publish_us": float(np.median(publishing)) / 1e3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if ros.RUNTIME != "embedded":
        raise SystemExit("this measures the embedded runtime: set BEVSTACK_ROS=embedded")
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    ros.init(args=[])
    began = time.perf_counter()
    sender = ros.Node("dispatch_sender")
    middle = time.perf_counter()
    receiver = ros.Node("dispatch_receiver")
    start = {"first_node_ms": 1e3 * (middle - began), "next_node_ms": 1e3 * (time.perf_counter() - middle)}
    pixels = np.zeros(900 * 1600 * 3, np.uint8)
    image = ros.messages("sensor_msgs/msg/Image")(height=900, width=1600, step=4800, encoding="rgb8", data=pixels)
    text = ros.messages("std_msgs/msg/String")(data="small")
    rows: list[dict[str, Any]] = []
    for name, make, own_thread in (
        ("single-threaded, spinning in the publisher's thread", ros.SingleThreadedExecutor, False),
        ("single-threaded, spinning in another thread", ros.SingleThreadedExecutor, True),
        ("multi-threaded, 4 threads", lambda: ros.MultiThreadedExecutor(4), True),
    ):
        executor = make()
        executor.add_node(sender)
        executor.add_node(receiver)
        thread = threading.Thread(target=spin, args=(executor,), daemon=True)
        if own_thread:
            thread.start()
        for kind, message in (("String", text), ("Image 1600x900x3", image)):
            row = measure(sender, receiver, message, options.count, executor, own_thread=own_thread)
            rows.append({"executor": name, "message": kind, **row})
        executor.shutdown()
        if own_thread:
            thread.join()
    sender.destroy_node()
    receiver.destroy_node()
    ros.shutdown()
    print(f"{'executor':<54}{'message':<18}{'p50 us':>9}{'p95 us':>9}{'publish us':>12}")
    for row in rows:
        numbers = f"{row['p50_us']:>9.1f}{row['p95_us']:>9.1f}{row['publish_us']:>12.1f}"
        print(f"{row['executor']:<54}{row['message']:<18}{numbers}")
    print(f"first node (opens the wire) {start['first_node_ms']:.1f} ms, next node {start['next_node_ms']:.1f} ms")
    if options.json:
        host = {"machine": platform.machine(), "python": platform.python_version(), "cores": os.cpu_count()}
        options.json.write_text(json.dumps({"host": host, "start": start, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
