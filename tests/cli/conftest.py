"""Weights and an environment for runs of the command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """fastbev-micro with untrained weights: everything runs, nothing is found."""
    torch = pytest.importorskip("torch", reason="making test weights needs torch")
    from bevstack.bev.config import CONFIGS
    from bevstack.bev.network import FastBEVNet
    from bevstack.bev.weights import save_weights

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "untrained.safetensors"
    save_weights(path, FastBEVNet(CONFIGS["fastbev-micro"]).eval(), {"origin": "untrained, for tests"})
    return path


@pytest.fixture(scope="session")
def tiny_codec_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a codec of a few thousand weights under the name of a bundled one."""
    pytest.importorskip("torch", reason="making test weights needs torch")
    from bevstack.codec.weights import save_weights

    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "codec"))
    from tiny import make_net, tiny_config

    folder = tmp_path_factory.mktemp("codecs")
    save_weights(folder / "codec-nano.safetensors", make_net(tiny_config()), {"what": "test"})
    return folder


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Exported graphs go to a folder of the test run."""
    return {**os.environ, "BEVSTACK_CACHE": str(tmp_path_factory.mktemp("cache")), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def start(tmp_path: Path, environment: dict[str, str]) -> Start:
    """Starts the command in an empty folder; what is still running at the end of the test is ended."""
    running: list[subprocess.Popen[str]] = []

    def begin(*words: str | Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "bevstack.cli.main", *map(str, words)],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    yield begin  # type: ignore[misc]
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()
