"""Processes of one run: what they agree on, with two of them and alone."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
import torch

from bevstack.learn.processes import Processes, joined

SCRIPT = """
import torch
from bevstack.learn.processes import joined
torch.set_num_threads(1)
with joined() as processes:
    kept = torch.tensor([1.0, 10.0]) * (processes.rank + 1)
    mean = processes.mean(kept)
    total = processes.total(2.0**53 + 2.0 * processes.rank)
    print(processes.rank, processes.count, processes.first, mean.tolist(), kept.tolist(), total, flush=True)
print(torch.distributed.is_initialized())
"""


def test_two_processes_agree() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    base = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    base |= {"CUDA_VISIBLE_DEVICES": ""}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT],
            env={**base, "RANK": str(n), "LOCAL_RANK": str(n)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(2)
    ]
    said = [process.communicate(timeout=110)[0].splitlines() for process in started]
    total = 2.0**54 + 2.0  # single precision cannot hold it
    assert said[0] == [f"0 2 True [1.5, 15.0] [1.0, 10.0] {total}", "False"]
    assert said[1] == [f"1 2 False [1.5, 15.0] [2.0, 20.0] {total}", "False"]


def test_alone_nothing_is_asked_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with joined() as processes:
        assert (processes.rank, processes.count, processes.first) == (0, 1, True)
        assert processes.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
        assert not torch.distributed.is_initialized()
        value = torch.tensor(3.0)
        assert (processes.mean(value), processes.total(0.5)) == (value, 0.5)
    assert not Processes(1, 2).first
