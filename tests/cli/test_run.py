"""``bevstack run`` end to end, in a process of its own: simulation, bags, recording, page, signals."""

from __future__ import annotations

import json
import re
import signal
import socket
import threading
import time
import urllib.request
from pathlib import Path
from subprocess import Popen
from typing import Any

import cv2
import pytest
from rosbags.highlevel import AnyReader

from bevstack.geometry import DETECTION_CLASSES

TIMEOUT = 100
TINY = "sim:seed=3,duration=1,rate=4,image_width=320"
ENDLESS = "sim:seed=3,duration=90,rate=4,image_width=320"


def finish(process: Popen[str]) -> tuple[str, str]:
    """(stdout, stderr) of a run that must end with exit code 0."""
    out, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, err
    assert "Traceback" not in err, err
    return out, err


def counts_of(bag: Path) -> dict[str, int]:
    with AnyReader([bag]) as reader:
        return {connection.topic: connection.msgcount for connection in reader.connections}


def after_line(process: Popen[str], pattern: str) -> re.Match[str]:
    """Reads stderr until a line matches, then goes on reading in the background so that the pipe never fills."""
    assert process.stderr is not None
    deadline = time.monotonic() + TIMEOUT
    for line in process.stderr:
        found = re.search(pattern, line)
        if found:
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return found
        assert time.monotonic() < deadline
    raise AssertionError(f"no line matches {pattern!r}")


def test_records_what_can_be_run_again(start: Any, random_weights: Path, tmp_path: Path) -> None:
    words = ["--weights", random_weights, "--rate", "0"]
    first = start("run", TINY, *words, "--record", "drive.mcap", "--picture", "drive.png", "--json", "drive.json")
    out, _ = finish(first)
    assert "4 sent, 4 in, 4 out, 0 dropped" in out
    for part in ("p50 ms", "p95 ms", "max ms", "end to end", "bag: drive", "picture: drive.png"):
        assert part in out
    summary = json.loads((tmp_path / "drive.json").read_text())
    assert (summary["sent"], summary["instants_in"], summary["instants_out"]) == (4, 4, 4)
    assert summary["stages"]["latency"]["max"] > 0
    assert cv2.imread(str(tmp_path / "drive.png")).shape[1] == 1920
    counts = counts_of(tmp_path / "drive")
    for camera in ("cam_front", "cam_back_right"):
        assert counts[f"/{camera}/image_raw/compressed"] == 4
        assert counts[f"/{camera}/camera_info"] == 4
    assert counts["/bev_node/detections"] == 4
    assert counts["/bev_node/status"] == 4
    assert counts["/tf_static"] >= 1
    with AnyReader([tmp_path / "drive"]) as reader:
        # The drive's own time, however long it took: four instants, 0.25 s apart.
        assert (reader.end_time - reader.start_time) / 1e9 == pytest.approx(0.75, abs=0.2)
    out, err = finish(start("run", "drive", *words))
    assert "4 sent, 4 in, 4 out, 0 dropped" in out
    assert "no ego motion" not in err


@pytest.mark.timeout(240)
def test_learned_streams_are_recorded_and_play_back(
    start: Any, random_weights: Path, tmp_path: Path, environment: dict[str, str], tiny_codec_folder: Path
) -> None:
    """A drive becomes a bag of streams in place of JPEGs, and runs again through the codec that the streams name."""
    environment["BEVSTACK_WEIGHTS"] = str(tiny_codec_folder)
    try:
        words = ["--no-bev", "--encode", "--codec-quality", "60", "--rate", "0"]
        out, _ = finish(start("run", TINY, *words, "--record", "drive", "--json", "drive.json"))
        assert "learned streams: 24 frames of 6 cameras" in out
        assert "instants" not in out, "nobody looks for boxes"
        streams = json.loads((tmp_path / "drive.json").read_text())["streams"]
        counts = counts_of(tmp_path / "drive")
        with AnyReader([tmp_path / "drive"]) as reader:
            for camera in ("cam_front", "cam_back_right"):
                assert counts[f"/{camera}/image_raw/vtc1"] == 4
                assert f"/{camera}/image_raw/compressed" not in counts
                wanted = [c for c in reader.connections if c.topic == f"/{camera}/image_raw/vtc1"]
                recorded = [reader.deserialize(data, c.msgtype) for c, _, data in reader.messages(wanted)]
                assert {m.format for m in recorded} == {"rgb8; vtc1 compressed"}
                assert streams[camera]["bytes"] == sum(len(m.data) for m in recorded)
        assert counts["/encoder_node/status"] == 24
        out, err = finish(start("run", "drive", "--weights", random_weights, "--rate", "0"))
        assert "4 sent, 4 in, 4 out, 0 dropped" in out
        assert "no ego motion" not in err
    finally:
        environment.pop("BEVSTACK_WEIGHTS")


@pytest.mark.parametrize("bag", ["scene0061_sample_mcap", pytest.param("scene0061_sample_sqlite3", marks=pytest.mark.slow)])
def test_a_bag_of_one_instant(bag: str, shared: Path, start: Any, random_weights: Path) -> None:
    out, _ = finish(start("run", shared / "data" / "bags" / bag, "--weights", random_weights))
    assert "1 sent, 1 in, 1 out, 0 dropped" in out


@pytest.mark.slow
def test_a_bag_whose_recorder_was_killed(shared: Path, start: Any, random_weights: Path) -> None:
    bag = shared / "data" / "bags" / "rosbag2_mcap_killed"
    out, err = finish(start("run", bag, "--weights", random_weights, "--rate", "0"))
    assert "incomplete" in err
    found = re.search(r"(\d+) sent, (\d+) in, (\d+) out, 0 dropped", out)
    assert found is not None
    sent, _, done = map(int, found.groups())
    assert sent - 1 <= done <= sent
    assert done >= 5


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_leaves_a_readable_bag_and_a_summary(
    number: signal.Signals, start: Any, random_weights: Path, tmp_path: Path
) -> None:
    process = start("run", ENDLESS, "--weights", random_weights, "--rate", "0", "--record", "cut", "--json", "cut.json")
    after_line(process, r"in [1-9]\d*  out [1-9]")
    process.send_signal(number)
    assert process.wait(TIMEOUT) == 0
    assert "instants:" in process.stdout.read()
    done = json.loads((tmp_path / "cut.json").read_text())["instants_out"]
    assert done >= 1
    assert (tmp_path / "cut" / "metadata.yaml").exists()
    counts = counts_of(tmp_path / "cut")
    assert counts["/bev_node/detections"] == done
    assert counts["/cam_front/image_raw/compressed"] >= done


@pytest.mark.slow
def test_duration_ends_the_run(start: Any, random_weights: Path, tmp_path: Path) -> None:
    finish(start("run", ENDLESS, "--weights", random_weights, "--rate", "0", "--duration", "1", "--json", "short.json"))
    assert 4 <= json.loads((tmp_path / "short.json").read_text())["instants_out"] < 40


def test_page_of_a_run(start: Any, random_weights: Path) -> None:
    process = start("run", ENDLESS, "--weights", random_weights, "--view", "--view-port", "0")
    url = after_line(process, r"page: (http://127\.0\.0\.1:\d+/)$").group(1)
    deadline = time.monotonic() + TIMEOUT
    state: dict[str, Any] = {}
    while time.monotonic() < deadline:
        with urllib.request.urlopen(f"{url}api/state", timeout=TIMEOUT) as answer:
            state = json.load(answer)
        if state["status"] and state["stamp"] and all(c["width"] for c in state["cameras"]) and state["diagnostics"]:
            break
        time.sleep(0.2)
    assert state["status"]["engine"] == "onnx"
    assert state["status"]["stages"][0]["name"] == "decode"
    assert len(state["cameras"]) == 6
    assert state["cameras"][0]["name"] == "cam_front_left"
    assert state["truth"]
    assert {b["class"] for b in state["truth"]} <= set(DETECTION_CLASSES)
    with urllib.request.urlopen(f"{url}api/camera/cam_front.jpg", timeout=TIMEOUT) as answer:
        assert answer.read(2) == b"\xff\xd8"
    process.send_signal(signal.SIGINT)
    assert process.wait(TIMEOUT) == 0


def test_port_in_use(start: Any, random_weights: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = start("run", TINY, "--weights", random_weights, "--view", "--view-port", port)
        _, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 2
    errors = [line for line in err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert str(port) in errors[0]
    assert "--view-port" in errors[0]
    assert "Traceback" not in err


@pytest.mark.slow
def test_two_runs_beside_each_other_do_not_mix(start: Any, random_weights: Path) -> None:
    both = [start("run", TINY, "--weights", random_weights, "--rate", "0") for _ in range(2)]
    for process in both:
        out, _ = finish(process)
        assert "4 sent, 4 in, 4 out, 0 dropped" in out


def test_demo_leaves_bag_picture_and_summary(start: Any, random_weights: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "demo").mkdir(parents=True)  # of an earlier demo, which must stay
    out, _ = finish(start("demo", "--seconds", "1", "--weights", random_weights))
    assert "5 sent, 5 in, 5 out, 0 dropped" in out
    assert "bag: out/demo_2" in out
    assert counts_of(tmp_path / "out" / "demo_2")["/bev_node/detections"] == 5
    assert (tmp_path / "out" / "demo_2.png").stat().st_size > 50_000
    assert (tmp_path / "out" / "demo_2.json").exists()


def test_demo_without_weights_says_so(start: Any, tmp_path: Path) -> None:
    process = start("demo", "--model", "fastbev-m4")
    _, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 2
    assert "no weights for 'fastbev-m4'" in err
    assert not (tmp_path / "out" / "demo").exists()
