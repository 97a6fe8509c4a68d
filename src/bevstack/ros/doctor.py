"""`bevstack doctor`: what this machine lacks, and what to do about it. The counterpart of `ros2 doctor`.

Each check is a function that returns findings and never raises for a fault of the machine. "fail" means that something a user
will want does not work, "warn" that it works worse than it could, or not for everyone.
"""

from __future__ import annotations

import dataclasses
import glob
import importlib.metadata
import importlib.util
import json as json_module
import os
import platform
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bevstack.errors import BevstackError

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """One finding. `fix` is a command or a sentence, empty where nothing is to be done."""

    name: str
    status: Status
    detail: str
    fix: str = ""


#: package -> (extra that brings it, what works only with it); an empty extra is the core.
PACKAGES = {
    "numpy": ("", "everything"),
    "numba": ("", "the view transform"),
    "opencv-python-headless": ("", "JPEG decoding, undistortion"),
    "rosbags": ("", "messages and bags"),
    "safetensors": ("", "weights"),
    "onnxruntime": ("", "the onnx engine"),
    "cyclonedds": ("embedded", "other processes and ROS 2 nodes, without ROS 2 installed"),
    "torch": ("torch", "the torch engine, training"),
    "aiohttp": ("view", "the page"),
}
#: Versions that the code was written against; a different one is named.
PINNED = {"cyclonedds": "11.0.1", "rosbags": "0.11."}

_RECEIVE_BUFFER = 4 * 1024 * 1024
_WEB_PORT = 8080
_ROUND_TRIP_SECONDS = 20.0
#: Above this domain the ports lie in Linux's range for outgoing connections.
_SAFE_DOMAIN = 101


def check_python() -> Iterator[Check]:
    version, machine = platform.python_version(), platform.machine()
    if machine != "x86_64" or sys.platform != "linux":
        yield Check(
            "Python",
            "warn",
            f"{version} on {sys.platform} {machine}: there is no cyclonedds wheel for it, so no wire without ROS 2",
            "install ROS 2 to reach other processes, or run everything in one",
        )
    else:
        yield Check("Python", "ok", f"{version} on {sys.platform} {machine}, {sys.executable}")


def check_runtime() -> Iterator[Check]:
    try:
        from bevstack.ros.runtime import RUNTIME, RUNTIME_REASON
    except BevstackError as error:
        yield Check("ROS runtime", "fail", str(error), "unset BEVSTACK_ROS, or source ROS 2's setup.bash")
        return
    yield Check("ROS runtime", "ok", f"{RUNTIME}: {RUNTIME_REASON}")
    if RUNTIME == "embedded":
        rmw = os.environ.get("RMW_IMPLEMENTATION", "")
        if rmw and rmw != "rmw_cyclonedds_cpp":
            yield Check(
                "RMW",
                "warn",
                f"RMW_IMPLEMENTATION={rmw}: its nodes get our topics, but not our services, parameters and lifecycle",
                "export RMW_IMPLEMENTATION=rmw_cyclonedds_cpp for the ros2 tools",
            )


def check_packages() -> Iterator[Check]:
    for package, (extra, purpose) in PACKAGES.items():
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            if package == "opencv-python-headless" and importlib.util.find_spec("cv2"):
                yield Check(package, "ok", "another build of OpenCV is installed")
            elif extra:
                yield Check(package, "warn", f"not installed: no {purpose}", f"pip install 'bevstack[{extra}]'")
            else:
                yield Check(package, "fail", f"not installed: needed for {purpose}", "pip install --force-reinstall bevstack")
            continue
        wanted = PINNED.get(package, "")
        if not version.startswith(wanted):
            fix = f"pip install '{package}=={wanted}{'*' if wanted.endswith('.') else ''}'"
            yield Check(package, "fail", f"{version} is installed, {wanted.rstrip('.')} is needed", fix)
        else:
            yield Check(package, "ok", version)


def check_receive_buffer(path: Path = Path("/proc/sys/net/core/rmem_max")) -> Iterator[Check]:
    try:
        limit = int(path.read_text())
    except (OSError, ValueError):
        yield Check("Socket buffer", "warn", f"{path} cannot be read: the limit of receive buffers is unknown")
        return
    size = f"receive buffers may have {limit / 2**20:.1f} MiB"
    if limit < _RECEIVE_BUFFER:
        fix = "sudo sysctl -w net.core.rmem_max=16777216 (and a line in /etc/sysctl.d/ to keep it)"
        yield Check("Socket buffer", "warn", f"{size}: raw images between processes will stall or be lost", fix)
    else:
        yield Check("Socket buffer", "ok", size)


def check_domain() -> Iterator[Check]:
    from bevstack.ros.runtime.dds.config import discovery_range
    from bevstack.ros.runtime.wire import WireError, domain_id_from_environment

    try:
        domain = domain_id_from_environment()
    except WireError as error:
        yield Check("Domain", "fail", str(error), "export ROS_DOMAIN_ID=0")
        return
    try:
        reach = discovery_range()
    except WireError as error:
        yield Check("Domain", "fail", str(error), "export ROS_AUTOMATIC_DISCOVERY_RANGE=SUBNET")
        return
    config = "with CYCLONEDDS_URI" if os.environ.get("CYCLONEDDS_URI") else "with built-in settings"
    detail = f"ROS_DOMAIN_ID {domain}, discovery range {reach}, {config}"
    if domain > _SAFE_DOMAIN:
        yield Check("Domain", "warn", f"{detail}: its ports may be taken by outgoing connections", "use a domain from 0 to 101")
    else:
        yield Check("Domain", "ok", detail)
    yield from _check_interfaces(reach)
    yield from _check_ports(domain)


def _check_interfaces(reach: str) -> Iterator[Check]:
    import psutil

    states = psutil.net_if_stats()
    addresses = {
        name: [entry.address for entry in entries if entry.family == socket.AF_INET]
        for name, entries in psutil.net_if_addrs().items()
        if name in states and states[name].isup
    }
    shown = ", ".join(f"{name} {' '.join(found)} (MTU {states[name].mtu})" for name, found in addresses.items() if found)
    outside = [name for name, found in addresses.items() if found and not found[0].startswith("127.")]
    if not shown:
        yield Check("Network", "fail", "no network interface is up, not even lo", "sudo ip link set lo up")
    elif reach == "SUBNET" and not outside:
        fix = "export ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST, or connect a network"
        yield Check("Network", "warn", f"{shown}: nothing outside this machine can be reached", fix)
    elif reach == "LOCALHOST" and states.get("lo") and states["lo"].mtu < 65536:
        yield Check("Network", "warn", f"{shown}: lo is small for large messages", "sudo ip link set lo mtu 65536")
    else:
        yield Check("Network", "ok", shown)


def _port_is_free(port: int, kind: socket.SocketKind) -> bool:
    with socket.socket(socket.AF_INET, kind) as probe:
        if kind == socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def _check_ports(domain: int) -> Iterator[Check]:
    # RTPS 9.6.1.1: participant i listens on 7400 + 250 domain + 10 + 2 i; 33 of them find each other without multicast.
    ports = [7410 + 250 * domain + 2 * index for index in range(33)]
    free = sum(_port_is_free(port, socket.SOCK_DGRAM) for port in ports if port < 65536)
    detail = f"{free} of {len(ports)} places for processes in domain {domain} are free"
    if free == 0:
        yield Check("DDS ports", "fail", detail, "end some processes, or use another ROS_DOMAIN_ID")
    else:
        yield Check("DDS ports", "ok" if free > 3 else "warn", detail, "" if free > 3 else "use another ROS_DOMAIN_ID")
    if _port_is_free(_WEB_PORT, socket.SOCK_STREAM):
        yield Check("Web port", "ok", f"TCP {_WEB_PORT} is free for the page")
    else:
        yield Check("Web port", "warn", f"TCP {_WEB_PORT} is in use", "give the page another port (web_port:=8081)")


def check_cameras(pattern: str = "/dev/video*") -> Iterator[Check]:
    devices = sorted(glob.glob(pattern))
    if not devices:
        yield Check("Cameras", "ok", "no /dev/video*: bags, video files, topics and the simulated drive work without")
        return
    closed = [device for device in devices if not os.access(device, os.R_OK | os.W_OK)]
    if closed:
        fix = "sudo usermod -aG video $USER, then log in again"
        yield Check("Cameras", "warn", f"no permission to open {', '.join(closed)}", fix)
    else:
        yield Check("Cameras", "ok", ", ".join(devices))


def weights_room(path: str | Path) -> Any:
    """The module (``read_info``, ``load_weights``) of the model family whose weights file this is; Fast-BEV's, if of none.

    Raises:
        CheckpointError: missing or damaged.
    """
    from bevstack.bev import weights as bev
    from bevstack.codec import weights as codec
    from bevstack.detect import slim as detect_slim
    from bevstack.detect import weights as detect
    from bevstack.nn.weights import format_of

    rooms = {codec.FORMAT: codec, detect.FORMAT: detect, detect_slim.FORMAT: detect}
    return rooms.get(format_of(path), bev)


def check_weights() -> Iterator[Check]:
    from bevstack.nn.weights import weights_dirs

    files: dict[str, Path] = {}
    for folder in weights_dirs():
        for file in sorted(folder.glob("*.safetensors")):
            files.setdefault(file.name, file)
    if not files:
        yield Check(
            "Weights",
            "warn",
            f"none in {', '.join(str(folder) for folder in weights_dirs())}",
            "bevstack train fastbev, bevstack weights import FILE --model NAME, or set BEVSTACK_WEIGHTS",
        )
    whole = importlib.util.find_spec("torch") is not None
    for file in files.values():
        try:
            room = weights_room(file)
            info = room.read_info(file)
            if whole:
                room.load_weights(file)
        except BevstackError as error:
            yield Check(f"Weights {file.stem}", "fail", str(error), f"restore {file.name}: git checkout it or import it again")
        else:
            seen = "tensors match" if whole else "only its head was read, torch is not installed"
            yield Check(f"Weights {file.stem}", "ok", f"{info.config.name}, sha256 {info.sha256[:12]}, {seen}")


def check_disk(folder: Path | None = None) -> Iterator[Check]:
    free = shutil.disk_usage(folder or Path.cwd()).free / 2**30
    detail = f"{free:.1f} GiB free here for recordings"
    yield Check(
        "Disk", "ok" if free > 5 else "warn", detail, "" if free > 5 else "record elsewhere: --record /other/disk/out.mcap"
    )


def check_round_trip(command: list[str] | None = None, patience: float = _ROUND_TRIP_SECONDS) -> Iterator[Check]:
    """Sends a full camera image to another process and back, with the configuration of this environment."""
    from bevstack.ros.runtime.wire import WireError, open_wire

    try:
        wire = open_wire()
    except WireError:
        return  # the domain check says it
    if not wire.available:
        from bevstack.ros.runtime import RUNTIME

        if RUNTIME == "rclpy":
            yield Check("Round trip", "ok", "not tried: rclpy brings its own middleware (ros2 doctor checks it)")
        elif os.environ.get("BEVSTACK_WIRE"):
            yield Check("Round trip", "warn", wire.reason, "unset BEVSTACK_WIRE")
        else:
            fix = "follow the reason; nodes of one process work without"
            yield Check("Round trip", "fail", wire.reason, fix)
        return
    process = subprocess.Popen(
        command or [sys.executable, "-c", "from bevstack.ros.doctor import echo; echo()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield _round_trip(wire, patience)
    finally:
        process.kill()
        process.wait()
        if process.stdin:
            process.stdin.close()
        wire.close()


_NODE = ("bevstack_doctor", "/")
_ASK, _ANSWER, _TYPE = "/bevstack_doctor/ask", "/bevstack_doctor/answer", "sensor_msgs/msg/Image"


def _round_trip(wire: object, patience: float) -> Check:
    from bevstack.ros.runtime.messages import message_class
    from bevstack.ros.runtime.qos import QoSProfile
    from bevstack.ros.runtime.serialization import serialize_to_buffers
    from bevstack.ros.runtime.wire import Wire

    link: Wire = wire  # type: ignore[assignment]
    fix = "allow UDP on this machine's firewall; try ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST; check CYCLONEDDS_URI"
    arrived, sizes, qos = threading.Event(), [0], QoSProfile(depth=5)

    def heard(raw: memoryview, meta: object) -> None:
        sizes[0] = len(raw)
        arrived.set()

    reader = link.create_reader(_ANSWER, _TYPE, qos, heard, node=_NODE)
    writer = link.create_writer(_ASK, _TYPE, qos, node=_NODE)
    end = time.monotonic() + patience
    while not (reader.remote_writers() and writer.remote_readers()):
        if time.monotonic() > end:
            return Check("Round trip", "fail", f"another process was not found within {patience:g} s", fix)
        time.sleep(0.01)
    message = message_class(_TYPE)(height=900, width=1600, encoding="rgb8", step=4800, data=bytes(900 * 4800))
    buffers = serialize_to_buffers(message)
    wanted = sum(len(buffer) for buffer in buffers)
    times = []
    for _ in range(3):
        arrived.clear()
        start = time.perf_counter()
        writer.write(buffers)
        if not arrived.wait(patience):
            return Check(
                "Round trip", "fail", f"an image of {wanted / 1e6:.1f} MB did not come back within {patience:g} s", fix
            )
        times.append(1e3 * (time.perf_counter() - start))
    if abs(sizes[0] - wanted) > 3:
        return Check("Round trip", "fail", f"{sizes[0]} bytes came back instead of {wanted}", "report this")
    return Check("Round trip", "ok", f"an image of {wanted / 1e6:.1f} MB to another process and back in {min(times):.1f} ms")


def echo() -> None:
    """The other process of the round trip: sends back what it gets until its input ends."""
    from bevstack.ros.runtime.qos import QoSProfile
    from bevstack.ros.runtime.wire import open_wire

    wire = open_wire()
    writer = wire.create_writer(_ANSWER, _TYPE, QoSProfile(depth=5), node=_NODE)
    wire.create_reader(_ASK, _TYPE, QoSProfile(depth=5), lambda raw, meta: writer.write(raw), node=_NODE)
    sys.stdin.read()
    wire.close()


CHECKS: tuple[Callable[[], Iterator[Check]], ...] = (
    check_python,
    check_runtime,
    check_packages,
    check_receive_buffer,
    check_domain,
    check_cameras,
    check_weights,
    check_disk,
    check_round_trip,
)


def run_checks() -> list[Check]:
    """All findings about this machine, in order."""
    return [finding for check in CHECKS for finding in check()]


def main(*, json: bool = False) -> int:
    """Prints the findings as a table (or JSON). Gives 1 if one of them is a failure, else 0."""
    findings = run_checks()
    failed = any(finding.status == "fail" for finding in findings)
    if json:
        print(json_module.dumps([dataclasses.asdict(finding) for finding in findings], indent=1))
        return int(failed)
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    colours = {"ok": "green", "warn": "yellow", "fail": "red"}
    table = Table("check", "", "what was found", box=None, pad_edge=False)
    for finding in findings:
        detail = escape(finding.detail) + (f"\n[bold]-> {escape(finding.fix)}[/bold]" if finding.fix else "")
        table.add_row(finding.name, f"[{colours[finding.status]}]{finding.status}[/]", detail)
    console = Console()
    console.print(table)
    counts = {status: sum(finding.status == status for finding in findings) for status in colours}
    console.print(f"\n{counts['ok']} ok, {counts['warn']} warnings, {counts['fail']} failures")
    return int(failed)
