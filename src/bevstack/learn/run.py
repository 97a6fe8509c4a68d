"""What a training run is on disk and in time: its folder, its budget, its checkpoint and its log.

The folder of every trainer holds the same: ``options.json`` and ``config.json`` (what was asked), ``environment.json``
(versions, machine), ``parts.json`` (what was asked when it was continued, ``bevstack.learn.history``), ``log.csv``,
``checkpoint.pt``, from which the run continues, and at its end ``weights.safetensors``. The steps themselves stand in each
trainer's own module, what they have in common in ``bevstack.learn.loop``.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import fcntl
import json
import math
import os
import pickle
import platform
import socket
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import torch

from bevstack.errors import CheckpointError

from .error import TrainingError as TrainingError
from .history import Part, add_part, check_resumable, flag, last_options, plain, shown, write_json


class Budget(Protocol):
    """Options that say how long a run lasts: minutes of training over all continuations, or steps."""

    @property
    def minutes(self) -> float | None: ...

    @property
    def steps(self) -> int | None: ...


def check_budget(budget: Budget) -> None:
    """
    Raises:
        TrainingError: none, both, or one that is not above 0.
    """
    if (budget.minutes is None) == (budget.steps is None):
        raise TrainingError("give the budget either in minutes or in steps: --minutes 90 or --steps 3000")
    for name, value in (("minutes", budget.minutes), ("steps", budget.steps)):
        if value is not None and not value > 0:
            raise TrainingError(f"--{name} is {value}: give a budget above 0")


@dataclass
class Progress:
    """Where a run is: finished ``step``s and seconds spent in them."""

    step: int = 0
    seconds: float = 0.0

    def fraction(self, budget: Budget) -> float:
        """Of the budget, 0 to 1."""
        if budget.steps is not None:
            return min(1.0, self.step / max(1, budget.steps))
        assert budget.minutes is not None
        return min(1.0, self.seconds / (60.0 * budget.minutes))

    def card(self) -> dict[str, str]:
        """What a weights file says about the run."""
        return {"steps": str(self.step), "minutes": f"{self.seconds / 60:.1f}"}


def check_finite(loss: float, step: int) -> None:
    """
    Raises:
        TrainingError: the loss is infinite or no number.
    """
    if not math.isfinite(loss):
        raise TrainingError(
            f"loss is {loss} at step {step}: continue from the checkpoint (--resume) with a lower learning rate"
        )


class RunFolder:
    """The folder of a run while a trainer works in it: a second trainer is refused. Use as a context manager.

    Args:
        path: made if it is missing; removed again if the trainer fails before it has written anything.
        resume: whether to continue the run in it.
        first: False in all processes of a run but the first: they look and leave everything else to that one.

    Raises:
        TrainingError: another trainer is at work in it, it holds a run that was not asked for, there is nothing to resume,
            or it cannot be made.
    """

    def __init__(self, path: Path, *, resume: bool, first: bool = True) -> None:
        self.path, self.resume, self.first = path, resume, first
        self.checkpoint = path / "checkpoint.pt"
        self.log = path / "log.csv"
        self.weights = path / "weights.safetensors"
        self._made = False
        self._lock: Lock | None = None

    def __enter__(self) -> RunFolder:
        if self.resume:
            check_resumable(self.checkpoint)
        if self.first:
            self._made = not self.path.is_dir()
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                self._lock = Lock(self.path / "lock")
            except OSError as error:
                raise TrainingError(f"run folder {self.path} cannot be used: {error.strerror}; choose another") from error
        if not self.resume and self.checkpoint.exists():
            self._release()
            raise TrainingError(f"{self.path} already holds a run: pass --resume to continue it, or choose another folder")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._release()

    def _release(self) -> None:
        if self._lock is None:
            return
        unused = self._made and [p.name for p in self.path.iterdir()] == [self._lock.path.name]
        self._lock.release(remove=unused)
        self._lock = None
        if unused:
            self.path.rmdir()

    def check(self, options: Any, config: ModelConfig | None = None, fixed: Sequence[str] = ()) -> None:
        """Whether a run can be continued with these options; a new one can.

        Args:
            options: a dataclass. ``config``: of the network. ``fixed``: names of options that all parts of a run share, if
                the options have them.

        Raises:
            TrainingError: such an option or the network differs.
        """
        if not self.resume:
            return
        before, asked = last_options(self.path), plain(options)
        for name in fixed:
            if name in asked and (old := before.get(name, asked[name])) != asked[name]:
                now = f"without {name}" if asked[name] is None else shown(asked[name])
                raise TrainingError(
                    f"{self.path} was begun {_with(name, old)}, not {now}: continue it {_typed(name, old)}, "
                    "or choose another folder"
                )
        file = self.path / "config.json"
        if config is not None and file.is_file():
            _check_network(self.path, file.read_text(encoding="utf-8"), config)

    def begin(
        self, options: Any, config: str, about: Mapping[str, str] | None = None, progress: Progress | None = None
    ) -> None:
        """Writes what was asked: for a new run beside everything else, for a continued one as its next part.

        Args:
            options: a dataclass. ``config``: the model's, as JSON. ``about``: more about the environment.
            progress: where a continued run stands.
        """
        if not self.first:
            return
        asked, known = plain(options), {**environment(), **(about or {})}
        if self.resume:
            progress = progress or Progress()
            add_part(self.path, Part(progress.step, progress.seconds / 60.0, asked, known))
            return
        (self.path / "parts.json").unlink(missing_ok=True)  # of a run that was stopped before its first checkpoint
        write_json(self.path / "options.json", asked)
        (self.path / "config.json").write_text(config + "\n", encoding="utf-8")
        write_json(self.path / "environment.json", known)


def _with(name: str, value: object) -> str:
    return f"without {name}" if value is None else f"with {name} {shown(value)}"


def _typed(name: str, value: object) -> str:
    """How to ask for a value again."""
    unset = value is None or value is False
    return f"without {flag(name, True)}" if unset else f"with {flag(name, value)}"


def _check_network(path: Path, saved: str, config: Any) -> None:
    """
    Raises:
        TrainingError: a run's network is another one.
    """
    if _same_network(saved, config):
        return
    try:
        old, new = json.loads(type(config).from_json(saved).to_json()), json.loads(config.to_json())
    except CheckpointError as error:
        raise TrainingError(f"{path} holds the run of another trainer: choose another folder") from error
    name = next(k for k in (*sorted(new.keys() - {"name", "post"}), "name") if old.get(k) != new[k])
    raise TrainingError(
        f"{path} was begun with {name} {shown(old.get(name))} of the network, not {shown(new[name])}: continue it without "
        "options for another network, or choose another folder"
    )


_held: set[int] = set()  # descriptors of locks


def _forget() -> None:
    """In a forked child: a worker that outlives its trainer must not keep the trainer's lock."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_forget)


class Lock:
    """A file that one process holds until it releases it or ends, however it ends: the kernel sees to that.

    The file says who: process id and host. It may stay behind; only the kernel's lock counts.

    Raises:
        TrainingError: another one holds it.
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        while True:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(self._descriptor, 300).decode(errors="replace").split()
                os.close(self._descriptor)
                raise TrainingError(_in_use(path.parent, holder)) from None
            except OSError as error:
                warnings.warn(f"{path} cannot be locked ({error.strerror}): start no second run there", stacklevel=3)
            if _is_at(self._descriptor, path):
                break
            os.close(self._descriptor)  # removed between opening and locking: whoever comes now makes a new one
        _held.add(self._descriptor)
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode())

    def release(self, *, remove: bool = False) -> None:
        """Lets others in; ``remove``: also takes the file away."""
        if remove:
            self.path.unlink(missing_ok=True)
        else:
            os.ftruncate(self._descriptor, 0)
        _held.discard(self._descriptor)
        with contextlib.suppress(OSError):  # no locks on this file system: nothing to let go
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)  # a child just forked may not have closed its copy yet
        os.close(self._descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _in_use(folder: Path, holder: list[str]) -> str:
    who = f"process {holder[0]}" if holder else "another process"
    if len(holder) > 1 and holder[1] != socket.gethostname():
        who += f" on {holder[1]}"
    return f"{folder} is in use: {who} is training there; wait until it ends, stop it, or choose another folder"


def save_checkpoint(state: Mapping[str, Any], path: Path) -> None:
    """Writes beside the target and moves over it: an interruption leaves the older file whole.

    Raises:
        TrainingError: the disk is full or otherwise refuses.
    """
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        if temporary.is_file():
            temporary.unlink()
        cause = error if isinstance(error, OSError) else error.__context__
        reason = cause.strerror if isinstance(cause, OSError) else str(error)
        raise TrainingError(
            f"{path} cannot be written: {reason}; the checkpoint before it is whole: make room and continue with --resume"
        ) from error


class ModelConfig(Protocol):
    def to_json(self) -> str: ...

    @staticmethod
    def from_json(text: str) -> Any: ...


def load_checkpoint(
    path: Path, config: ModelConfig, *, needs: Sequence[str] = (), device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """What ``save_checkpoint`` wrote.

    Args:
        config: of the model that is to continue. ``needs``: entries that only this trainer writes.

    Raises:
        TrainingError: missing or damaged file, or the checkpoint of another model or trainer.
    """
    check_resumable(path)
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except (OSError, RuntimeError, EOFError, LookupError, ValueError, pickle.UnpicklingError) as error:
        raise TrainingError(f"{path} is no checkpoint or is damaged: start a new run folder") from error
    fits = isinstance(state, dict) and all(name in state for name in ("config", *needs))
    if not fits or not _same_network(state["config"], config):
        raise TrainingError(
            f"{path} was made by another model configuration or trainer: continue it by the command that made it with --resume "
            "alone, or start a new run folder"
        )
    result: dict[str, Any] = state
    return result


def _same_network(saved: str, config: Any) -> bool:
    """Whether two configurations differ at most in what follows the network (``post``), which is not trained."""
    try:
        other = type(config).from_json(saved)
    except CheckpointError:
        return False
    if hasattr(config, "post"):
        other = dataclasses.replace(other, post=config.post)
    return bool(other.to_json() == config.to_json())


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """What an optimiser remembers (moments, step counts), but not its settings: those are of the options that are in force,
    which may be others than when ``state`` was saved."""
    settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, settings):
        group.update(own)


class Means:
    """Means of what steps report, from one line of the log to the next; values that are not finite do not count."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, parts: Mapping[str, float]) -> None:
        for name, value in parts.items():
            finite = math.isfinite(value)
            self._sums[name] = self._sums.get(name, 0.0) + (value if finite else 0.0)
            self._counts[name] = self._counts.get(name, 0) + finite

    def take(self) -> dict[str, float]:
        """The means since the last call; nan where nothing counted."""
        means = {name: total / n if (n := self._counts[name]) else math.nan for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means


class CsvLog:
    """Appends rows; the header is that of the first row, and what it has no column for is left out: the log of an older version
    may have fewer. A resumed run cuts off lines beyond its checkpoint."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        self.fields: list[str] | None = None
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                whole = (r for r in csv.DictReader(file) if None not in r.values())  # a killed run may leave half a line
                rows = [r for r in whole if int(r["step"]) <= step]
            if step == 0 or not rows:
                path.unlink()
            else:
                self.fields = list(rows[0])
                kept = path.with_suffix(".tmp")
                with kept.open("w", newline="", encoding="utf-8") as file:
                    writer = csv.DictWriter(file, self.fields)
                    writer.writeheader()
                    writer.writerows(rows)
                os.replace(kept, path)

    def write(self, row: Mapping[str, float]) -> str:
        """Returns the row as a line for the terminal."""
        new = self.fields is None
        if self.fields is None:
            self.fields = list(row)
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.fields, extrasaction="ignore")
            if new:
                writer.writeheader()
            writer.writerow({k: (v if isinstance(v, int) else f"{v:.6g}") for k, v in row.items()})
        return " ".join(f"{k} {v:.4g}" for k, v in row.items())


def environment() -> dict[str, str]:
    """Versions and machine, for the run folder and the card."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor()
