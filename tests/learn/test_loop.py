"""The loop that trainers have in common, with a trainer that only counts."""

from __future__ import annotations

import csv
import itertools
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bevstack.learn.loop import run_steps
from bevstack.learn.run import Progress, RunFolder


@dataclass(frozen=True)
class Asked:
    minutes: float | None = None
    steps: int | None = 5
    log_every: int = 2
    checkpoint_minutes: float = 1e9


class Counter:
    """Saves the number of steps."""

    def __init__(self, step: int = 0) -> None:
        self.progress = Progress(step)
        self.seen: list[int] = []

    def step(self, batch: int, /) -> dict[str, float]:
        self.seen.append(batch)
        self.progress.step += 1
        return {"loss": float(batch)}

    def save(self, path: Path, /) -> None:
        with path.open("a") as file:
            file.write(f"{self.progress.step} ")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_steps_log_and_checkpoints(tmp_path: Path) -> None:
    trainer, lines, calls = Counter(), list[str](), list[bool]()
    with RunFolder(tmp_path, resume=False) as folder:
        run_steps(trainer, Asked(checkpoint_minutes=0.0), itertools.count(), folder, lines.append, between=calls.append)
    assert trainer.seen == [0, 1, 2, 3, 4]
    assert calls == [False] * 5 + [True]
    assert (tmp_path / "checkpoint.pt").read_text() == "1 2 3 4 5 5 "
    logged = rows(tmp_path / "log.csv")
    assert [(row["step"], row["loss"]) for row in logged] == [("2", "0.5"), ("4", "2.5")]
    assert list(logged[0]) == ["step", "minutes", "loss", "waiting"]
    assert len(lines) == 2


def test_a_run_at_its_end_takes_no_step_and_is_saved(tmp_path: Path) -> None:
    trainer = Counter(5)

    def none() -> Iterator[int]:
        raise AssertionError("a batch was asked for")
        yield 0

    with RunFolder(tmp_path, resume=False) as folder:
        run_steps(trainer, Asked(), none(), folder, print)
    assert (tmp_path / "checkpoint.pt").read_text() == "5 "


def test_minutes_are_those_of_the_common_clock(tmp_path: Path) -> None:
    trainer = Counter()
    with RunFolder(tmp_path, resume=False) as folder:
        run_steps(trainer, Asked(minutes=2.0, steps=None), itertools.count(), folder, print, clock=lambda seconds: 50.0)
    assert trainer.progress == Progress(3, 150.0)


def test_what_happens_between_steps_is_no_training_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("bevstack.learn.loop.time.monotonic", lambda: now[0])

    def between(finished: bool) -> None:
        now[0] += 100.0

    def batches() -> Iterator[int]:
        for n in itertools.count():
            now[0] += 3.0
            yield n

    trainer = Counter()
    with RunFolder(tmp_path, resume=False) as folder:
        run_steps(trainer, Asked(), batches(), folder, print, between=between)
    assert trainer.progress.seconds == 15.0
    assert rows(tmp_path / "log.csv")[0]["waiting"] == "3"


def test_only_the_first_process_writes(tmp_path: Path) -> None:
    trainer = Counter()
    with RunFolder(tmp_path / "run", resume=False, first=False) as folder:
        run_steps(trainer, Asked(checkpoint_minutes=0.0), itertools.count(), folder, print)
    assert trainer.progress.step == 5
    assert not (tmp_path / "run").exists()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C as in a terminal: a shell's background job, as CI may be one, ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Interrupted(Counter):
    """Gets a signal in its third step."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def step(self, batch: int, /) -> dict[str, float]:
        if self.progress.step == 2:
            os.kill(os.getpid(), self.number)
        return super().step(batch)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(("number", "ends"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_ends_the_run_after_its_step(tmp_path: Path, number: int, ends: type[BaseException]) -> None:
    before, lines, calls = signal.getsignal(number), list[str](), list[bool]()
    with RunFolder(tmp_path, resume=False) as folder, pytest.raises(ends) as error:
        run_steps(Interrupted(number), Asked(), itertools.count(), folder, lines.append, between=calls.append)
    assert (tmp_path / "checkpoint.pt").read_text() == "3 "
    assert lines[-1].startswith("stopped after step 3; all of it is in ")
    assert calls == [False] * 3, "what belongs to the end of a run waits for it"
    assert signal.getsignal(number) is before
    assert not isinstance(error.value, SystemExit) or error.value.code == 143


@pytest.mark.usefixtures("interruptible")
def test_a_signal_that_ends_the_data_loses_nothing(tmp_path: Path) -> None:
    def batches() -> Iterator[int]:
        yield 0
        os.kill(os.getpid(), signal.SIGINT)
        raise RuntimeError("a worker has died")

    with RunFolder(tmp_path, resume=False) as folder, pytest.raises(KeyboardInterrupt):
        run_steps(Counter(), Asked(), batches(), folder, print)
    assert (tmp_path / "checkpoint.pt").read_text() == "1 "


@pytest.mark.usefixtures("interruptible")
def test_ignored_signals_and_several_processes_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as under nohup
    try:
        with RunFolder(tmp_path, resume=False) as folder:
            run_steps(Interrupted(signal.SIGINT), Asked(), itertools.count(), folder, print)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (tmp_path / "checkpoint.pt").read_text() == "5 "
    monkeypatch.setenv("WORLD_SIZE", "2")
    with RunFolder(tmp_path / "two", resume=False) as folder, pytest.raises(KeyboardInterrupt):
        run_steps(Interrupted(signal.SIGINT), Asked(), itertools.count(), folder, print)
    assert not (tmp_path / "two" / "checkpoint.pt").exists(), "as without us"
