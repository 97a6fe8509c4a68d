"""A run's folder: who may train in it, what it holds, what survives a killed trainer; budget, means and log."""

from __future__ import annotations

import csv
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bevstack.bev.config import FastBEVConfig, PostConfig
from bevstack.codec.config import CODECS
from bevstack.learn import run
from bevstack.learn.run import (
    CsvLog,
    Means,
    Progress,
    RunFolder,
    TrainingError,
    check_budget,
    check_finite,
    load_checkpoint,
    save_checkpoint,
)

HOLD = """
import sys
from pathlib import Path
from bevstack.learn.run import RunFolder
with RunFolder(Path(sys.argv[1]), resume=False):
    print("held", flush=True)
    sys.stdin.read()
"""


@dataclass(frozen=True)
class Options:
    output: Path
    minutes: float | None = None
    steps: int | None = 3
    images: tuple[Path, ...] = (Path("a"), Path("b"))
    config: object = None
    optimizer: str = "adam"
    init: Path | None = None
    frozen: bool = False


@pytest.fixture
def trainer(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that trains in ``run``."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_trainer_is_refused_until_the_first_has_gone_however_it_goes(
    tmp_path: Path, trainer: subprocess.Popen[str]
) -> None:
    path = tmp_path / "run"
    with pytest.raises(TrainingError, match=rf"run is in use: process {trainer.pid} is training there; wait"):
        RunFolder(path, resume=False).__enter__()
    (path / "checkpoint.pt").touch()
    for resume in (False, True):  # a live trainer is what the user needs to hear of first
        with pytest.raises(TrainingError, match=f"process {trainer.pid}"):
            RunFolder(path, resume=resume).__enter__()
    trainer.send_signal(signal.SIGKILL)
    trainer.wait()
    with RunFolder(path, resume=True):
        assert (path / "lock").read_text().split()[0] == str(os.getpid())


def test_a_trainer_that_ends_leaves_the_folder_free(tmp_path: Path, trainer: subprocess.Popen[str]) -> None:
    (tmp_path / "run" / "log.csv").touch()
    trainer.communicate()
    with RunFolder(tmp_path / "run", resume=False):
        pass


def test_a_holder_on_another_machine_is_named_with_it(tmp_path: Path) -> None:
    with RunFolder(tmp_path, resume=False):
        (tmp_path / "lock").write_text("77 elsewhere\n")
        with pytest.raises(TrainingError, match="process 77 on elsewhere is training"):
            RunFolder(tmp_path, resume=False).__enter__()


def test_workers_that_outlive_their_trainer_do_not_keep_the_lock(tmp_path: Path) -> None:
    read, write = os.pipe()
    with RunFolder(tmp_path, resume=False):
        child = os.fork()
        if child == 0:
            os.close(write)
            os.read(read, 1)
            os._exit(0)
        with pytest.raises(TrainingError, match="in use"):  # the trainer still does
            RunFolder(tmp_path, resume=False).__enter__()
    try:
        with RunFolder(tmp_path, resume=False):
            pass
    finally:
        os.close(write)
        os.waitpid(child, 0)
        os.close(read)


def test_a_copy_of_the_lock_that_is_still_open_does_not_keep_it(tmp_path: Path) -> None:
    """As in a child between its fork and its first instruction."""
    with RunFolder(tmp_path, resume=False):
        (held,) = run._held
        copy = os.dup(held)
    try:
        with RunFolder(tmp_path, resume=False):
            pass
    finally:
        os.close(copy)


def test_a_lock_file_that_vanishes_while_it_is_taken_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def late(descriptor: int, how: int) -> None:
        nonlocal calls
        calls += bool(how & fcntl.LOCK_EX)
        if calls == 1:
            (tmp_path / "lock").unlink()
        fcntl_flock(descriptor, how)

    fcntl_flock = fcntl.flock
    monkeypatch.setattr(run.fcntl, "flock", late)
    with RunFolder(tmp_path, resume=False), pytest.raises(TrainingError, match="in use"):
        RunFolder(tmp_path, resume=False).__enter__()
    assert calls == 3


def test_a_file_system_without_locks_is_said_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(run.fcntl, "flock", refuse)
    with pytest.warns(UserWarning, match="cannot be locked"), RunFolder(tmp_path / "run", resume=False):
        pass


def test_a_trainer_that_fails_before_it_begins_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no data"), RunFolder(tmp_path / "run", resume=False):
        raise ValueError("no data")
    assert not (tmp_path / "run").exists()
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match="no data"), RunFolder(tmp_path / "mine", resume=False):
        raise ValueError("no data")
    assert (tmp_path / "mine").is_dir()


def test_folders_that_cannot_be_used_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"nothing to resume: .*new/checkpoint\.pt does not exist; without --resume"):
        RunFolder(tmp_path / "new", resume=True).__enter__()
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match=r"file cannot be used: File exists; choose another"):
        RunFolder(tmp_path / "file", resume=False).__enter__()
    (tmp_path / "checkpoint.pt").touch()
    for _ in range(2):  # and the refused trainer has let go
        with pytest.raises(TrainingError, match="already holds a run: pass --resume"):
            RunFolder(tmp_path, resume=False).__enter__()


def test_other_processes_of_a_run_write_nothing(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run", resume=False, first=False) as folder:
        folder.begin(Options(tmp_path), "{}")
    assert not (tmp_path / "run").exists()


def test_what_was_asked_is_written_once(tmp_path: Path) -> None:
    options = Options(tmp_path)
    with RunFolder(tmp_path, resume=False) as folder:
        folder.begin(options, '{"name": "x"}', {"device": "cpu"})
        folder.checkpoint.touch()
    asked = json.loads((tmp_path / "options.json").read_text())
    given = {"output": str(tmp_path), "minutes": None, "steps": 3, "images": ["a", "b"], "optimizer": "adam"}
    assert asked == {**given, "init": None, "frozen": False}
    assert json.loads((tmp_path / "config.json").read_text()) == {"name": "x"}
    assert (
        json.loads((tmp_path / "environment.json").read_text()).items() >= {"device": "cpu", "torch": torch.__version__}.items()
    )
    assert not (tmp_path / "parts.json").exists()
    with RunFolder(tmp_path, resume=True) as folder:
        folder.check(replace(options, steps=9), fixed=("optimizer", "widths"))
        folder.begin(replace(options, steps=9), "{}", {"device": "cuda"}, Progress(3, 90.0))
    assert json.loads((tmp_path / "options.json").read_text()) == asked
    (part,) = json.loads((tmp_path / "parts.json").read_text())
    assert (part["step"], part["minutes"], part["options"]) == (3, 1.5, {**asked, "steps": 9})
    assert part["environment"].items() >= {"device": "cuda", "torch": torch.__version__}.items()
    assert {"started", "python", "processor"} <= part["environment"].keys()


def test_what_cannot_change_is_refused_with_both_values(tiny: FastBEVConfig, tmp_path: Path) -> None:
    options = Options(tmp_path)
    fixed = ("optimizer", "init", "frozen")
    with RunFolder(tmp_path, resume=False) as folder:
        folder.check(replace(options, optimizer="any"), tiny, fixed)  # nothing is there yet
        folder.begin(options, tiny.to_json())
        folder.checkpoint.touch()

    def refused(match: str, changed: Options = options, config: Any = tiny) -> None:
        with RunFolder(tmp_path, resume=True) as folder, pytest.raises(TrainingError, match=match):
            folder.check(changed, config, fixed)

    refused("begun with optimizer adam, not soap: continue it with --optimizer adam, or", replace(options, optimizer="soap"))
    refused(r"begun without init, not a/b\.st: continue it without --init, or", replace(options, init=Path("a/b.st")))
    refused("begun with frozen False, not True: continue it without --frozen, or", replace(options, frozen=True))
    refused(
        "begun with classes car, .* of the network, not car: continue it without options for another network",
        config=replace(tiny, classes=("car",)),
    )
    refused("begun with name tiny of the network, not large", config=replace(tiny, name="large"))
    refused("holds the run of another trainer", config=CODECS["codec-nano"])
    with RunFolder(tmp_path, resume=True) as folder:  # boxes are chosen otherwise: the network is the same
        folder.check(options, replace(tiny, post=PostConfig(score_threshold=0.9)), fixed)
        folder.begin(replace(options, optimizer="soap"), "")
    refused("begun with optimizer soap, not adam")


def test_a_run_that_was_stopped_before_its_first_checkpoint_begins_anew(tmp_path: Path) -> None:
    with RunFolder(tmp_path, resume=False) as folder:
        folder.begin(Options(tmp_path), "{}")
    (tmp_path / "parts.json").write_text("[]")
    with RunFolder(tmp_path, resume=False) as folder:
        folder.begin(Options(tmp_path, steps=8), "{}")
    assert json.loads((tmp_path / "options.json").read_text())["steps"] == 8
    assert not (tmp_path / "parts.json").exists()


def test_an_optimiser_keeps_its_moments_and_takes_the_settings_of_now() -> None:
    def made(decay: float, factor: float) -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
        weight = torch.nn.Parameter(torch.ones(3))
        return weight, torch.optim.AdamW([{"params": [weight], "weight_decay": decay, "factor": factor}], lr=0.1)

    weight, before = made(0.1, 1.0)
    weight.grad = torch.tensor([1.0, -2.0, 3.0])
    before.step()
    _, after = made(0.3, 2.0)
    run.load_optimizer(after, before.state_dict())
    (group,) = after.param_groups
    assert (group["weight_decay"], group["factor"]) == (0.3, 2.0)
    assert torch.equal(next(iter(after.state.values()))["exp_avg"], next(iter(before.state.values()))["exp_avg"])


def test_a_log_of_an_older_version_keeps_its_columns(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("step,loss\n1,5\n")
    CsvLog(tmp_path / "log.csv", 1).write({"step": 2, "loss": 4.0, "waiting": 0.5})
    assert (tmp_path / "log.csv").read_text().splitlines() == ["step,loss", "1,5", "2,4"]


def state(config: FastBEVConfig, **more: Any) -> dict[str, Any]:
    return {"config": config.to_json(), "net": {"a": torch.arange(3.0)}, **more}


def test_a_checkpoint_that_cannot_be_written_leaves_the_older_one_whole(tiny: FastBEVConfig, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(state(tiny, step=1), path)
    code = f"""
import resource, sys, torch
from pathlib import Path
from bevstack.learn.run import TrainingError, save_checkpoint
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save_checkpoint({{"big": torch.zeros(1_000_000)}}, Path({str(path)!r}))
except TrainingError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100).stdout
    assert "checkpoint.pt cannot be written: File too large; the checkpoint before it is whole" in said
    assert load_checkpoint(path, tiny, needs=("step",))["step"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_checkpoints_of_others_and_damaged_ones_are_one_line(tiny: FastBEVConfig, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(TrainingError, match="nothing to resume"):
        load_checkpoint(path, tiny)
    save_checkpoint(state(tiny), path)
    whole = path.read_bytes()
    torch.testing.assert_close(load_checkpoint(path, tiny)["net"]["a"], torch.arange(3.0))
    later = replace(tiny, post=PostConfig(score_threshold=0.9))  # boxes are chosen otherwise: the network is the same
    load_checkpoint(path, later)
    for config, needs in ((replace(tiny, neck_channels=6), ()), (tiny, ("step",))):
        with pytest.raises(TrainingError, match="another model configuration or trainer"):
            load_checkpoint(path, config, needs=needs)
    torch.save([1, 2], path)
    with pytest.raises(TrainingError, match="another model configuration or trainer"):
        load_checkpoint(path, tiny)
    for content in (b"", b"abc", b"\x80\x02", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(TrainingError, match="is no checkpoint or is damaged"):
            load_checkpoint(path, tiny)


def test_a_budget_is_minutes_or_steps_and_above_zero(tmp_path: Path) -> None:
    check_budget(Options(tmp_path))
    for steps, minutes in ((None, None), (3, 1.0)):
        with pytest.raises(TrainingError, match="either in minutes or in steps: --minutes"):
            check_budget(Options(tmp_path, minutes, steps))
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(TrainingError, match=f"--minutes is {bad}: give a budget above 0"):
            check_budget(Options(tmp_path, bad, None))
    assert Progress(2, 90.0).fraction(Options(tmp_path, steps=8)) == 0.25
    assert Progress(2, 90.0).fraction(Options(tmp_path, 6.0, None)) == 0.25
    assert Progress(9, 90.0).fraction(Options(tmp_path)) == 1.0
    with pytest.raises(TrainingError, match="loss is nan at step 7: continue from the checkpoint"):
        check_finite(float("nan"), 7)


def test_means_count_what_is_finite() -> None:
    means = Means()
    means.add({"loss": 1.0, "low": float("nan"), "never": float("inf")})
    means.add({"loss": 3.0, "low": 5.0, "never": float("nan")})
    taken = means.take()
    assert list(taken) == ["loss", "low", "never"]
    assert (taken["loss"], taken["low"]) == (2.0, 5.0)
    assert taken["never"] != taken["never"]
    means.add({"loss": 7.0})
    assert means.take() == {"loss": 7.0}


def test_a_continued_log_drops_what_is_beyond_the_checkpoint_and_half_lines(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    log = CsvLog(path, 0)
    for step in (10, 20, 30):
        line = log.write({"step": step, "loss": step / 3})
    assert line == "step 30 loss 10"
    with path.open("a") as file:
        file.write("2")  # killed while it wrote line 23
    CsvLog(path, 20).write({"step": 25, "loss": 1.0})
    with path.open(newline="") as file:
        assert list(csv.reader(file)) == [["step", "loss"], ["10", "3.33333"], ["20", "6.66667"], ["25", "1"]]
    CsvLog(path, 5)
    assert not path.exists()
    assert list(tmp_path.iterdir()) == []
