"""How a run came about: what it was begun with, and what was asked each time it was continued.

``options.json``, ``config.json`` and ``environment.json`` of its folder say how it was begun and never change. ``parts.json``
lists the parts after the first: from which step on, the options in force, versions, machine and time. What is continued without
other options goes on with those of the last part, so a change stays until the next one.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from bevstack.errors import CheckpointError

from .error import TrainingError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    OptionsT = TypeVar("OptionsT", bound=DataclassInstance)

BUDGET = frozenset({"minutes", "steps"})  # one replaces the other
OF_THE_CALL = frozenset({"output", "resume"})  # about this call, not about the run


@dataclass(frozen=True)
class Part:
    """One part of a run: the options and the environment (versions, machine, time) from ``step`` finished steps on."""

    step: int
    minutes: float
    options: dict[str, Any]
    environment: dict[str, str]


def plain(value: object) -> Any:
    """As JSON can say it; a dataclass as its fields but ``config``, which has a file of its own."""
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.name != "config"}
    return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def restore(value: Any, hint: Any) -> Any:
    """Inverse of ``plain`` for a value of type ``hint``.

    Raises:
        TypeError, ValueError, KeyError: the value is of another type.
    """
    if value is None:
        return None
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return restore(value, next(kind for kind in arguments if kind is not NoneType))
    if origin is tuple:
        kinds = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        return tuple(restore(v, kind) for v, kind in zip(value, kinds, strict=True))
    if hint is Path:
        return Path(value)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        hints = get_type_hints(hint)
        return hint(**{name: restore(v, hints[name]) for name, v in value.items()})
    return value


def write_json(path: Path, value: object) -> None:
    """Beside the target, then over it: a reader in another process sees the old or the new file."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def read_json(path: Path, missing: object) -> Any:
    """
    Raises:
        TrainingError: the file cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else missing
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path} cannot be read ({error}): choose another run folder") from error


def read_parts(run: Path) -> list[Part]:
    """All parts of a run, the first one included; also of folders that older versions wrote.

    Raises:
        TrainingError: a file of the folder cannot be read.
    """
    options, known = (read_json(run / f"{name}.json", {}) for name in ("options", "environment"))
    try:
        later = [Part(**entry) for entry in read_json(run / "parts.json", [])]
    except TypeError as error:
        raise TrainingError(f"{run / 'parts.json'} is no history of a run ({error}): choose another run folder") from error
    return [Part(0, 0.0, options, known), *later]


def add_part(run: Path, part: Part) -> None:
    """Appends to ``parts.json``."""
    write_json(run / "parts.json", [*read_json(run / "parts.json", []), dataclasses.asdict(part)])


def last_options(run: Path) -> dict[str, Any]:
    """What the last part was asked, as ``plain`` says it; empty where nothing is recorded.

    Raises:
        TrainingError: see ``read_parts``.
    """
    merged: dict[str, Any] = {}
    for part in read_parts(run):
        merged |= part.options
    return merged


def continued(options: OptionsT, given: Collection[str]) -> OptionsT:
    """The options of a run that goes on: those ``given`` now, all others as in its last part.

    A budget in steps replaces one in minutes, and the reverse. The network is the run's own, unless ``config`` or another
    ``model`` is given.

    Args:
        options: a dataclass with ``output``, the run's folder. given: names of the fields that somebody asked for; values of
            other fields are defaults and do not count.

    Raises:
        TrainingError: nothing to resume there, or the run of another trainer.
    """
    run: Path = options.output  # type: ignore[attr-defined]
    check_resumable(run / "checkpoint.pt")
    stored, hints = last_options(run), get_type_hints(type(options))
    kept = set(given) | OF_THE_CALL | (BUDGET if BUDGET & set(given) else frozenset())
    names = {f.name for f in dataclasses.fields(options)}
    try:
        values = {name: restore(stored[name], hints[name]) for name in names - kept - {"config"} if name in stored}
    except (TypeError, ValueError, KeyError) as error:
        raise TrainingError(f"{run} holds the run of another trainer ({error}): choose another folder") from error
    other_model = "model" in given and getattr(options, "model", None) != stored.get("model")
    if "config" in names - kept and not other_model and (run / "config.json").is_file():
        kind = next(k for k in get_args(hints["config"]) if k is not NoneType)
        values["config"] = read_network(run, kind)
    return dataclasses.replace(options, **values)


def check_resumable(checkpoint: Path) -> None:
    """
    Raises:
        TrainingError: there is no checkpoint.
    """
    if not checkpoint.is_file():
        raise TrainingError(f"nothing to resume: {checkpoint} does not exist; without --resume a new run starts")


def read_network(run: Path, kind: Any) -> Any:
    """The network of a run, of configuration class ``kind``.

    Raises:
        TrainingError: it is one of another kind.
    """
    try:
        return kind.from_json((run / "config.json").read_text(encoding="utf-8"))
    except (OSError, CheckpointError) as error:
        raise TrainingError(f"{run} holds the run of another trainer: its config.json is no {kind.__name__}") from error


def flag(name: str, value: object) -> str:
    """An option as it is typed: ``--batch 4``, ``--amp``, ``--no-amp``, ``no --init``."""
    name = "--" + name.replace("_", "-")
    if value is None:
        return f"no {name}"
    if isinstance(value, bool):
        return name if value else name.replace("--", "--no-", 1)
    return f"{name} {shown(value)}"


def shown(value: object) -> str:
    """A value in one line; a long one is cut."""
    if isinstance(value, (list, tuple)):
        text = ", ".join(shown(v) for v in value)
    elif isinstance(value, Mapping):
        text = " ".join(f"{k} {shown(v)}" for k, v in value.items())
    else:
        text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 120 else text[:117] + "..."


Spelling = Callable[[Any], str]


def command(
    kind: str,
    options: Mapping[str, Any],
    defaults: Mapping[str, Any],
    spelled: Mapping[str, tuple[str, Spelling]] | None = None,
) -> str:
    """``bevstack train KIND RUN ...`` with what differs from ``defaults``, as a card shows it: paths keep two names.

    Args:
        options, defaults: as ``plain`` says them.
        spelled: of fields that the command line names otherwise: the option's name, and how one of its values is typed.
    """
    asked = []
    for name, value in options.items():
        if name in OF_THE_CALL or value == defaults.get(name):
            continue
        asked += _typed(name, value if isinstance(value, list) else [value], spelled)
    return " ".join([f"bevstack train {kind} RUN", *asked])


def _typed(name: str, values: Sequence[Any], spelled: Mapping[str, tuple[str, Spelling]] | None) -> list[str]:
    option, spell = (spelled or {}).get(name, (name, _short))
    return [flag(option, spell(value)) for value in values]


def trained_parts(run: Path, steps: int) -> list[tuple[Part, int]]:
    """The parts whose steps are in the result of ``steps`` steps, each with the step it reached.

    A part that was stopped before its first checkpoint left nothing: the next one starts where it started.
    """
    parts = read_parts(run)
    ends = [part.step for part in parts[1:]] + [steps]
    return [(part, min(end, steps)) for part, end in zip(parts, ends) if part.step < min(end, steps)]


def samples(run: Path, steps: int) -> int:
    """How many samples ``steps`` steps of a run saw, over all parts; ``batch`` counts per process."""
    return sum(
        (end - part.step) * int(part.options["batch"]) * int(part.environment.get("processes", "1"))
        for part, end in trained_parts(run, steps)
    )


def software(environment: Mapping[str, str]) -> str:
    """``Python 3.11.7, torch 2.13.0``."""
    return f"Python {environment.get('python', '?')}, torch {environment.get('torch', '?')}"


def parts_section(run: Path, steps: int, spelled: Mapping[str, tuple[str, Spelling]] | None = None) -> list[str]:
    """Lines of a card: a table of the parts and of what was changed in each; empty for a run in one part.

    Paths are shortened to their last two names: cards are published. ``spelled``: see ``command``.

    Raises:
        TrainingError: see ``read_parts``.
    """
    parts = trained_parts(run, steps)
    if len(parts) < 2:
        return []
    rows = []
    before: dict[str, Any] = parts[0][0].options
    for part, end in parts:
        changes = [
            typed
            for name, value in part.options.items()
            if name not in OF_THE_CALL and before.get(name, value) != value
            for typed in _typed(name, value if name in (spelled or {}) and isinstance(value, list) else [value], spelled)
        ]
        before = part.options
        known = part.environment
        machine = f"{known.get('cores', '?')} vCPU {known.get('processor', '?')}"
        what = ", ".join(f"`{c}`" for c in changes) or ("as above" if part.step == 0 else "the same")
        rows.append(f"| {part.step + 1:,} to {end:,} | {known.get('started', '?')} | {what} | {software(known)}; {machine} |")
    return ["## Parts", "", "| steps | started | options changed | software, machine |", "| --- | --- | --- | --- |", *rows]


def _short(value: Any) -> Any:
    if isinstance(value, str) and "/" in value:
        return "/".join(Path(value).parts[-2:])
    if isinstance(value, list):
        return [_short(v) for v in value]
    return {k: _short(v) for k, v in value.items()} if isinstance(value, dict) else value
