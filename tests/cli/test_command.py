"""The command as a user types it: help, errors, exit codes, import time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bevstack.cli.models import parse_seeds
from bevstack.errors import BevstackError

TIMEOUT = 90


def bevstack(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bevstack.cli.main", *words], capture_output=True, text=True, timeout=TIMEOUT, cwd=cwd
    )


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of an error; asserts exit code 2 and no traceback."""
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from bevstack.cli import main\n"
        "try:\n    main.app(['--help'])\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "heavy = {'torch', 'rclpy', 'onnxruntime', 'numpy', 'cv2', 'numba', 'rosbags', 'aiohttp'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr
    for command in ("run", "demo", "launch", "doctor", "weights", "eval", "train", "sim", "export", "version"):
        assert command in done.stdout


def test_interrupted_while_it_loads() -> None:
    code = (
        "import sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'typer': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "from bevstack.cli import command\n"
        "command()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT)
    assert (done.returncode, done.stderr) == (130, "")


def test_version() -> None:
    from bevstack import __version__

    assert bevstack("version").stdout.strip() == f"bevstack {__version__}"


def test_usage_errors() -> None:
    done = bevstack("run")
    assert done.returncode == 2
    assert "SOURCE" in done.stderr.upper()
    assert bevstack("no-such-command").returncode == 2
    assert bevstack("run", "sim", "--rate", "fast").returncode == 2


def test_bad_source_lists_what_is_accepted(tmp_path: Path) -> None:
    line = refused(bevstack("run", str(tmp_path / "nowhere.mcap"), "--model", "random:fastbev-micro"))
    assert "nowhere.mcap" in line
    assert "accepted" in line


def test_bad_model() -> None:
    assert "fastbev-huge" in refused(bevstack("run", "sim:seed=1,duration=1", "--model", "fastbev-huge"))


def test_missing_weights_file() -> None:
    line = refused(bevstack("run", "sim:seed=1,duration=1", "--weights", "nowhere.safetensors"))
    assert "nowhere.safetensors" in line


def test_missing_weights_of_a_known_model_say_what_to_do() -> None:
    """No official weights are part of the repository: the line says how to bring them in."""
    line = refused(bevstack("run", "sim:seed=1,duration=1", "--model", "fastbev-m4"))
    assert "bevstack weights import" in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--view", "--view-port", "70000"], "view-port 70000"),
        (["--engine", "magic"], "magic"),
        (["--rate", "-1"], "rate is -1"),
        (["--duration", "0"], "duration is 0"),
        (["--picture", "x.gif"], "x.gif"),
        (["--record", "."], "exists already"),
    ],
)
def test_bad_values(words: list[str], said: str) -> None:
    assert said in refused(bevstack("run", "sim:seed=1,duration=1", *words))


def test_lockstep_with_a_live_camera() -> None:
    assert "live" in refused(bevstack("run", "/dev/video0", "--lockstep", "--model", "random:fastbev-micro"))


def test_launch_without_such_a_graph() -> None:
    line = refused(bevstack("launch", "nothing"))
    assert "nothing" in line
    assert "bev" in line


def test_launch_shows_its_arguments() -> None:
    done = bevstack("launch", "bev", "--show-args")
    assert done.returncode == 0, done.stderr
    for argument in ("namespace", "model", "score_threshold", "record", "web_port", "use_sim_time"):
        assert f"'{argument}'" in done.stdout


def test_launch_refuses_an_unknown_argument() -> None:
    assert "no_such" in refused(bevstack("launch", "bev", "no_such:=1"))


def test_weights_commands(tmp_path: Path) -> None:
    done = bevstack("weights", "list")
    assert done.returncode == 0
    assert "fastbev-nano" in done.stdout
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"\x00" * 7)
    assert "broken.safetensors" in refused(bevstack("weights", "info", str(broken)))
    checkpoint = tmp_path / "no.pth"
    assert "no.pth" in refused(bevstack("weights", "import", str(checkpoint)))


@pytest.mark.parametrize(("text", "seeds"), [("3", [3]), ("1-3", [1, 2, 3]), ("1-2,7", [1, 2, 7]), ("5-5", [5])])
def test_seeds(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "3-1", "1-", "-3", "1,,2", "0-99999"])
def test_bad_seeds(text: str) -> None:
    with pytest.raises(BevstackError, match="seeds"):
        parse_seeds(text)


def test_eval_asks_what_to_score() -> None:
    assert "--simulated" in refused(bevstack("eval", "fastbev"))
    assert "seeds '9-1'" in refused(bevstack("eval", "fastbev", "--simulated", "--seeds", "9-1"))


def test_sim_write_bag(tmp_path: Path) -> None:
    words = ["sim", "write-bag", str(tmp_path / "bag"), "--seconds", "0.5", "--rate", "4", "--image-width", "200"]
    done = bevstack(*words)
    assert done.returncode == 0, done.stderr
    assert "messages" in done.stdout
    assert (tmp_path / "bag" / "metadata.yaml").exists()


@pytest.mark.slow
def test_doctor_reports_as_json() -> None:
    import json

    done = bevstack("doctor", "--json")
    assert done.returncode in (0, 1), done.stderr
    findings = json.loads(done.stdout)
    assert {"Python", "ROS runtime"} <= {finding["name"] for finding in findings}
    assert all(finding["fix"] for finding in findings if finding["status"] == "fail")


def test_a_rig_is_compared_with_the_training_rig(tmp_path: Path) -> None:
    done = bevstack("rig", "compare", "pattern:width=160,rate=5,duration=1", "--json", str(tmp_path / "rig.json"))
    assert done.returncode == 0, done.stderr
    assert "nothing differs" in done.stdout
    assert json.loads((tmp_path / "rig.json").read_text())["mine"]["covered"] > 0.9
    assert "unknown" in refused(bevstack("rig", "compare", "pattern:", "--model", "fastbev-x"))
    assert "kind=size" in refused(bevstack("eval", "calibration", "--errors", "wobble=1"))
