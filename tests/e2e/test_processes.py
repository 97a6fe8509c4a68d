"""Nodes as processes of their own: six full-size streams over the wire, launching, and leaving on a signal."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_typestore

TOP = Path(__file__).resolve().parents[2]
MODEL = "random:fastbev-micro"
SMALL = "pattern:width=160,rate=5,duration={seconds}"


def has_wire() -> bool:
    if importlib.util.find_spec("cyclonedds") is None:
        return False
    from bevstack.ros.runtime.wire import open_wire

    wire = open_wire(97)
    available = wire.available
    wire.close()
    return available


class Process:
    """A program and what it has said so far."""

    def __init__(self, words: list[str], env: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", *words],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.said = ""
        self._new = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._new:
                self.said += line
                self._new.notify_all()
        with self._new:
            self._new.notify_all()

    def wait_for(self, words: str, patience: float = 60.0) -> None:
        """Wait until the program has said something."""
        deadline = time.monotonic() + patience
        with self._new:
            while words not in self.said:
                assert self.process.poll() is None, (
                    f"ended with {self.process.returncode} without saying {words!r}:\n{self.said}"
                )
                assert time.monotonic() < deadline, f"did not say {words!r}:\n{self.said}"
                self._new.wait(0.5)

    def end(self, number: signal.Signals | None = None, patience: float = 40.0) -> int:
        """Send a signal, if any, and wait for the exit code."""
        if number is not None:
            self.process.send_signal(number)
        try:
            return self.process.wait(patience)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still there {patience:g} s after {number}:\n{self.said}")


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Process]]:
    """Starts programs in a ROS domain of their own; what is left of them is ended."""
    started: list[Process] = []
    env = {**os.environ, "ROS_DOMAIN_ID": str(60 + os.getpid() % 40), "PYTHONUNBUFFERED": "1"}

    def make(*words: str, **more: str) -> Process:
        made = Process(list(words), env | more)
        started.append(made)
        return made

    yield make
    for made in started:
        if made.process.poll() is None:
            os.killpg(made.process.pid, signal.SIGKILL)
            made.process.wait(10)


def wait_for_bag(path: Path, topic: str, process: Process, patience: float = 60.0) -> None:
    """Wait until a bag that is being written holds messages of a topic."""
    from bevstack.errors import SourceError
    from bevstack.frames.bag_reader import BagReader

    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and process.process.poll() is None:
        try:
            with BagReader(path) as reader:
                if topic in reader.topics:
                    return
        except SourceError:
            pass  # nothing in it yet
        time.sleep(0.5)
    pytest.fail(f"nothing of {topic} was recorded:\n{process.said}")


def node(name: str, **parameters: Any) -> list[str]:
    words = [f"bevstack.ros.nodes.{name}", "--ros-args"]
    for key, value in parameters.items():
        words += ["-p", f"{key}:={value}"]
    return words


def launch(**arguments: Any) -> list[str]:
    return ["bevstack.cli.main", "launch", "bev", *(f"{k}:={v}" for k, v in arguments.items())]


@pytest.mark.wire
@pytest.mark.parametrize(("transport", "seconds"), [("compressed", 3.0), pytest.param("raw", 2.0, marks=pytest.mark.slow)])
def test_six_full_size_streams_lose_nothing(transport: str, seconds: float) -> None:
    """Camera node in one process, perception node in another, six 1600x900 streams at 10 Hz."""
    if not has_wire():
        pytest.skip("the Cyclone DDS library is not there: pip install cyclonedds==11.0.1")
    program = "import json, sys; sys.path.insert(0, 'benchmarks'); from transport_nodes import measure; "
    program += f"print('\\n' + json.dumps(measure({transport!r}, seconds={seconds})))"
    done = subprocess.run([sys.executable, "-c", program], cwd=TOP, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    import json

    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert result["sent"] == 6 * round(10 * seconds)
    assert result["lost"] == 0, result
    assert result["instants"] > 0
    assert result["exit_codes"] == [0, 0]


@pytest.mark.wire
def test_learned_streams_between_processes(start: Callable[..., Process], tmp_path: Path) -> None:
    """Cameras and encoder in one process, decoder in a second, recorder in a third: every camera's picture is exact."""
    if not has_wire():
        pytest.skip("the Cyclone DDS library is not there: pip install cyclonedds==11.0.1")
    pytest.importorskip("torch", reason="making test weights needs torch")
    sys.path.insert(0, str(TOP / "tests/codec"))
    from tiny import make_net, tiny_config

    from bevstack.codec.codec import ImageCodec
    from bevstack.codec.weights import save_weights
    from bevstack.ros import convert

    weights = tmp_path / "tiny.safetensors"
    save_weights(weights, make_net(tiny_config()), {"what": "test"})
    decoder = start(*node("decoder_node", model=weights, lazy="false", image_transport="raw", image_reliability="reliable"))
    decoder.wait_for("active: 6 cameras")
    topics = "|".join((r"/cam_\w+/image_raw/vtc1", r"/cam_\w+/image_decoded", r"/\w+coder_node/status", "/diagnostics"))
    recorder = start(*node("recorder", path=tmp_path / "out", exclude=f"'(?!({topics})$).*'"))
    source = f'"{SMALL.format(seconds=600)}"'
    encoder = start(*launch(source=source.strip('"'), bev="false", encode="true", codec=weights, codec_quality="70"))
    encoder.wait_for("publishing 6 cameras")
    wait_for_bag(tmp_path / "out", "/cam_back_right/image_decoded", recorder)
    time.sleep(1.5)
    assert encoder.end(signal.SIGINT) == 0, encoder.said
    assert decoder.end(signal.SIGINT) == 0, decoder.said
    assert recorder.end(signal.SIGINT) == 0, recorder.said
    codec = ImageCodec(weights, "onnx")
    streams: dict[tuple[str, int], bytes] = {}
    compared: dict[str, int] = {}
    with Reader(tmp_path / "out") as reader:
        store = get_typestore(Stores.ROS2_JAZZY)
        for connection, _, data in sorted(reader.messages(), key=lambda entry: not entry[0].topic.endswith("vtc1")):
            camera, kind = connection.topic.split("/")[1], connection.topic.rpartition("/")[2]
            if kind not in ("vtc1", "image_decoded"):
                continue
            message = store.deserialize_cdr(data, connection.msgtype)
            key = (camera, convert.stamp_to_ns(message.header.stamp))
            if kind == "vtc1":
                streams[key] = message.data.tobytes()
            elif key in streams and compared.get(camera, 0) < 2:
                assert message.header.frame_id == f"{camera}_optical_frame"
                shown = message.data.reshape(message.height, message.width, 3)
                assert (shown == codec.decode(streams[key]).rgb).all()
                compared[camera] = compared.get(camera, 0) + 1
    assert len(compared) == 6, compared


@pytest.mark.parametrize(
    ("words", "ready"),
    [
        (node("bev_node", model=MODEL, engine="torch"), "active: 6 cameras"),
        (node("bev_node", model="/nowhere/net.safetensors"), "cannot configure"),
        (node("camera_node", source=f'"{SMALL.format(seconds=600)}"', rate=0.001), "publishing 6 cameras"),
    ],
    ids=["bev_node", "bev_node that could not start", "camera_node"],
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_node(start: Callable[..., Process], words: list[str], ready: str, number: signal.Signals) -> None:
    process = start(*words, BEVSTACK_WIRE="off")
    process.wait_for(ready)
    assert process.end(number) == 0, process.said
    assert "Traceback" not in process.said


def test_source_ends_the_launch(start: Callable[..., Process], tmp_path: Path) -> None:
    """The whole graph in one process; every instant is in the bag."""
    arguments = launch(
        source=SMALL.format(seconds=1),
        model=MODEL,
        engine="torch",
        score_threshold=0.99,
        lockstep="true",
        rate=0,
        record=tmp_path / "out",
    )
    process = start(*arguments, BEVSTACK_WIRE="off")
    assert process.end(patience=100) == 0, process.said
    with Reader(tmp_path / "out") as reader:
        counts = {c.topic: c.msgcount for c in reader.connections}
    assert counts["/bev_node/detections"] == counts["/bev_node/status"] == 5
    assert counts["/cam_back/image_raw/compressed"] == 5
    assert counts["/tf_static"] >= 1


@pytest.mark.parametrize(
    ("processes", "number"),
    [
        ("false", signal.SIGINT),
        ("true", signal.SIGTERM),
        pytest.param("false", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("true", signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_the_launch(
    start: Callable[..., Process], tmp_path: Path, processes: str, number: signal.Signals
) -> None:
    """In one process and in several: exit code 0 and a readable bag with detections."""
    if processes == "true" and not has_wire():
        pytest.skip("the Cyclone DDS library is not there: pip install cyclonedds==11.0.1")
    arguments = launch(
        source=SMALL.format(seconds=600),
        model=MODEL,
        engine="torch",
        score_threshold=0.99,
        record=tmp_path / "out",
        processes=processes,
    )
    process = start(*arguments, **({} if processes == "true" else {"BEVSTACK_WIRE": "off"}))
    process.wait_for("calibration for 160x90")
    wait_for_bag(tmp_path / "out", "/bev_node/detections", process)
    assert process.end(number) == 0, process.said
    assert "Traceback" not in process.said
    with Reader(tmp_path / "out") as reader:
        counts = {c.topic: c.msgcount for c in reader.connections}
    assert counts["/bev_node/detections"] > 0
    assert counts["/cam_front/image_raw/compressed"] > 0


def test_a_node_that_refuses_its_parameters_ends_the_launch(start: Callable[..., Process], tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("/**/bev_node:\n  ros__parameters:\n    sync: luck\n")
    process = start(*launch(params_file=wrong), BEVSTACK_WIRE="off")
    assert process.end() == 2, process.said
    assert "sync is 'luck'" in process.said
    assert "Traceback" not in process.said


@pytest.mark.wire
def test_run_on_live_topics(start: Callable[..., Process]) -> None:
    """``bevstack run ros:`` beside cameras of another process."""
    if not has_wire():
        pytest.skip("the Cyclone DDS library is not there: pip install cyclonedds==11.0.1")
    cameras = start(*node("camera_node", source=f'"{SMALL.format(seconds=600)}"', stamps="now"))
    cameras.wait_for("publishing 6 cameras")
    run = start("bevstack.cli.main", "run", "ros:timeout=20", "--model", MODEL, "--engine", "torch", "--duration", "2")
    assert run.end(patience=100) == 0, run.said
    assert "source ros:timeout=20" in run.said
    counted = re.search(r"instants: (\d+) in, (\d+) out", run.said)
    assert counted is not None, run.said
    assert int(counted[2]) > 0
