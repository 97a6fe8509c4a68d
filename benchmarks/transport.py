"""Six camera streams from one process to another: rate, loss, latency and CPU.

Usage: python benchmarks/transport.py [--through wire|nodes] [--mode raw|jpeg] [--cameras 6] [--size 1600x900] [--rate 10]
       [--duration 10] [--reliability reliable|best_effort] [--json FILE]

`wire` measures the wire alone (serialise, send, receive, view), `nodes` the publishers and subscriptions that node code uses.
Latency: from just before a message is serialised to its callback, with the message parsed. CPU: of one core, while streaming.
Exit code 1 if a reliable stream lost a message at the rate asked for.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

RAW, JPEG = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
NODE_QOS = {"depth": 10}


def pictures(size: tuple[int, int], mode: str, count: int = 4) -> list[np.ndarray[Any, Any]]:
    """A few flat byte arrays: noise over gradients, raw or as JPEG of quality 90."""
    width, height = size
    rng = np.random.default_rng(0)
    base = np.linspace(0, 200, width, dtype=np.float32)[None, :, None] + np.zeros((height, 1, 3), np.float32)
    result = []
    for _ in range(count):
        image = (base + rng.integers(0, 40, (height, width, 3))).astype(np.uint8)
        if mode == "jpeg":
            good, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])
            assert good
            result.append(data.reshape(-1))
        else:
            result.append(image.reshape(-1))
    return result


class WireLink:
    """Endpoints straight on the wire."""

    def __init__(self, reliability: str) -> None:
        from bevstack.ros.runtime.qos import QoSProfile, ReliabilityPolicy
        from bevstack.ros.runtime.wire import open_wire

        self.qos = QoSProfile(reliability=ReliabilityPolicy.get_from_short_key(reliability), **NODE_QOS)
        self.wire = open_wire()
        if not self.wire.available:
            raise SystemExit(f"no wire: {self.wire.reason}")
        self.node = ("transport", "/")
        self.dropped: Callable[[], int] = lambda: 0

    def publisher(self, topic: str, type_name: str) -> tuple[Callable[[Any], None], Callable[[], int]]:
        from bevstack.ros.runtime.serialization import serialize_to_buffers

        writer: Any = self.wire.create_writer(topic, type_name, self.qos, node=self.node)
        return lambda message: writer.write(serialize_to_buffers(message)), writer.remote_readers

    def subscribe(self, topic: str, type_name: str, callback: Callable[[Any], None]) -> None:
        from bevstack.ros.runtime.serialization import deserialize_message

        self.wire.create_reader(
            topic, type_name, self.qos, lambda raw, meta: callback(deserialize_message(raw, type_name)), node=self.node
        )

    def close(self) -> None:
        self.wire.close()


class NodeLink:
    """Publishers and subscriptions of a node, spun in a thread."""

    def __init__(self, reliability: str) -> None:
        import threading

        from bevstack.ros import runtime as ros

        self.ros = ros
        ros.init(args=[])
        self.qos = ros.QoSProfile(reliability=ros.ReliabilityPolicy[reliability.upper()], **NODE_QOS)
        self.node = ros.Node(f"transport_{os.getpid()}")
        self.executor = ros.SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.thread = threading.Thread(target=self.executor.spin, daemon=True)
        self.thread.start()

    def publisher(self, topic: str, type_name: str) -> tuple[Callable[[Any], None], Callable[[], int]]:
        publisher = self.node.create_publisher(self.ros.messages(type_name), topic, self.qos)
        return publisher.publish, publisher.get_subscription_count

    def subscribe(self, topic: str, type_name: str, callback: Callable[[Any], None]) -> None:
        self.node.create_subscription(self.ros.messages(type_name), topic, callback, self.qos)

    def close(self) -> None:
        self.executor.shutdown()
        self.thread.join(timeout=5)
        self.node.destroy_node()
        self.ros.try_shutdown()


def make_link(options: argparse.Namespace) -> WireLink | NodeLink:
    return WireLink(options.reliability) if options.through == "wire" else NodeLink(options.reliability)


def topics(options: argparse.Namespace) -> list[str]:
    suffix = "/image_raw" if options.mode == "raw" else "/image_raw/compressed"
    return [f"/camera_{index}{suffix}" for index in range(options.cameras)]


def send(options: argparse.Namespace) -> dict[str, Any]:
    """The process of the cameras: all streams at each instant, stamped with the time of sending."""
    from bevstack.ros.runtime.messages import message_class

    link = make_link(options)
    type_name = RAW if options.mode == "raw" else JPEG
    cls = message_class(type_name)
    payloads = pictures(options.size, options.mode)
    publishers = [link.publisher(topic, type_name) for topic in topics(options)]
    deadline = time.monotonic() + 60
    while not all(matched() for _, matched in publishers):
        if time.monotonic() > deadline:
            raise SystemExit("no subscriber appeared within a minute")
        time.sleep(0.02)
    width, height = options.size
    instants = round(options.rate * options.duration)
    late, took = 0.0, []
    cpu, start = time.process_time(), time.monotonic()
    last = start
    for instant in range(instants):
        wait = start + instant / options.rate - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        else:
            late = max(late, -wait)
        last = time.monotonic()
        for camera, (publish, _) in enumerate(publishers):
            message = cls(data=payloads[(instant + camera) % len(payloads)])
            if options.mode == "raw":
                message.height, message.width, message.step, message.encoding = height, width, 3 * width, "rgb8"
            else:
                message.format = "jpeg"
            message.header.frame_id = str(instant)
            now = time.time_ns()
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(now, 1_000_000_000)
            publish(message)
            took.append((time.time_ns() - now) / 1e6)
    elapsed = time.monotonic() - start
    used = time.process_time() - cpu
    time.sleep(1.0)  # reliable resends of the last messages need a living writer
    link.close()
    return {
        "sent": instants * options.cameras,
        "seconds": elapsed,
        "rate_hz": (instants - 1) / max(last - start, 1e-9),
        "cpu_percent": 100 * used / elapsed,
        "publish_ms_p50": float(np.median(took)),
        "publish_ms_p95": float(np.percentile(took, 95)),
        "late_ms_max": 1e3 * late,
        "memory_mb": memory_mb(),
        "bytes_per_message": int(np.mean([payload.size for payload in payloads])),
    }


def receive(options: argparse.Namespace) -> dict[str, Any]:
    """The process behind the cameras: counts, checks sizes, measures. Ends when its input is closed."""
    link = make_link(options)
    type_name = RAW if options.mode == "raw" else JPEG
    latencies: list[float] = []
    instants: list[list[int]] = [[] for _ in range(options.cameras)]
    wrong, times, cpu = [0], [0.0, 0.0], [0.0, 0.0]
    expected = 3 * options.size[0] * options.size[1] if options.mode == "raw" else 0

    def listen(camera: int) -> Callable[[Any], None]:
        def callback(message: Any) -> None:
            now = time.time_ns()
            if not times[0]:
                times[0], cpu[0] = time.monotonic(), time.process_time()
            times[1], cpu[1] = time.monotonic(), time.process_time()
            latencies.append((now - message.header.stamp.sec * 1_000_000_000 - message.header.stamp.nanosec) / 1e6)
            instants[camera].append(int(message.header.frame_id))
            if len(message.data) < 100 or (expected and len(message.data) != expected):
                wrong[0] += 1

        return callback

    for camera, topic in enumerate(topics(options)):
        link.subscribe(topic, type_name, listen(camera))
    print("ready", flush=True)
    sys.stdin.read()
    link.close()
    elapsed = max(times[1] - times[0], 1e-9)
    found = latencies or [float("nan")]
    return {
        "received": len(latencies),
        "wrong": wrong[0],
        "out_of_order": sum(later <= earlier for stream in instants for earlier, later in itertools.pairwise(stream)),
        "rate_hz": max(len(stream) - 1 for stream in instants) / elapsed,
        "latency_ms_p50": float(np.median(found)),
        "latency_ms_p95": float(np.percentile(found, 95)),
        "latency_ms_max": float(np.max(found)),
        "memory_mb": memory_mb(),
        "cpu_percent": 100 * (cpu[1] - cpu[0]) / elapsed,
    }


def memory_mb() -> float:
    """Greatest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def host() -> dict[str, Any]:
    import importlib.metadata

    model = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    versions = {}
    for package in ("cyclonedds", "rosbags", "numpy"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "absent"
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "load_1min": os.getloadavg()[0],
        "python": platform.python_version(),
        **versions,
    }


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Starts both processes and joins their counts."""
    environment = dict(os.environ)
    environment.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    environment.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 199))
    environment.setdefault("OMP_NUM_THREADS", "1")
    arguments = [sys.executable, __file__, *options.given]
    receiver = subprocess.Popen(
        [*arguments, "--role", "receive"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert receiver.stdout
        if receiver.stdout.readline().strip() != "ready":
            raise SystemExit("the receiving process did not start")
        sender = subprocess.run([*arguments, "--role", "send"], capture_output=True, text=True, env=environment, check=False)
        if sender.returncode:
            raise SystemExit(sender.stderr.strip() or "the sending process failed")
        sent = json.loads(sender.stdout.splitlines()[-1])
        received = json.loads(receiver.communicate("", timeout=60)[0].splitlines()[-1])
    finally:
        if receiver.poll() is None:
            receiver.kill()
            receiver.wait()
    return {
        "benchmark": "transport",
        "through": options.through,
        "mode": options.mode,
        "cameras": options.cameras,
        "size": list(options.size),
        "rate_hz": options.rate,
        "duration_s": options.duration,
        "reliability": options.reliability,
        "lost": sent["sent"] - received["received"],
        "loss_percent": 100 * (sent["sent"] - received["received"]) / sent["sent"],
        "megabytes_per_second": sent["sent"] * sent["bytes_per_message"] / sent["seconds"] / 1e6,
        "sender": sent,
        "receiver": received,
        "host": host(),
    }


def show(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    sent, received = result["sender"], result["receiver"]
    width, height = result["size"]
    title = f"{result['cameras']} x {width}x{height} {result['mode']}, {result['reliability']}, through {result['through']}"
    table = Table("measure", "value", title=title)
    for name, value in (
        ("rate asked / sent / received", f"{result['rate_hz']:g} / {sent['rate_hz']:.2f} / {received['rate_hz']:.2f} Hz"),
        ("data", f"{result['megabytes_per_second']:.1f} MB/s, {sent['bytes_per_message'] / 1e6:.3f} MB a message"),
        (
            "sent / received / lost",
            f"{sent['sent']} / {received['received']} / {result['lost']} ({result['loss_percent']:.2f} %)",
        ),
        ("wrong size, out of order", f"{received['wrong']}, {received['out_of_order']}"),
        (
            "latency p50 / p95 / max",
            f"{received['latency_ms_p50']:.1f} / {received['latency_ms_p95']:.1f} / {received['latency_ms_max']:.1f} ms",
        ),
        ("publish call p50 / p95", f"{sent['publish_ms_p50']:.2f} / {sent['publish_ms_p95']:.2f} ms"),
        ("peak memory sender / receiver", f"{sent['memory_mb']:.0f} / {received['memory_mb']:.0f} MB"),
        ("CPU sender / receiver", f"{sent['cpu_percent']:.0f} % / {received['cpu_percent']:.0f} % of one core"),
    ):
        table.add_row(name, value)
    console = Console()
    console.print(table)
    machine = result["host"]
    console.print(f"{machine['cpu']}, {machine['cores']} cores, load {machine['load_1min']:.1f}, Python {machine['python']}")


def picture_size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT")
    return int(width), int(height)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--through", choices=("wire", "nodes"), default="wire")
    parser.add_argument("--mode", choices=("raw", "jpeg"), default="raw")
    parser.add_argument("--cameras", type=int, default=6)
    parser.add_argument("--size", type=picture_size, default=(1600, 900))
    parser.add_argument("--rate", type=float, default=10.0, help="instants per second")
    parser.add_argument("--duration", type=float, default=10.0, help="seconds")
    parser.add_argument("--reliability", choices=("reliable", "best_effort"), default="reliable")
    parser.add_argument("--json", type=Path, help="also write the result there")
    parser.add_argument("--role", choices=("send", "receive"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.given = list(sys.argv[1:] if arguments is None else arguments)
    if options.role:
        print(json.dumps(send(options) if options.role == "send" else receive(options)), flush=True)
        return 0
    result = run(options)
    show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    complete = not result["lost"] and not result["receiver"]["wrong"]
    return 0 if complete or options.reliability == "best_effort" else 1


if __name__ == "__main__":
    raise SystemExit(main())
