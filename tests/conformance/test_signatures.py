"""Every class and member that the embedded runtime offers has the parameters recorded from a real rclpy (Jazzy)."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest

from .not_offered import DIFFERENT, MEMBERS, NAMES

_PACKAGE = "bevstack.ros.runtime.embedded"
#: rclpy module -> where its names live here
_MODULES = {
    "rclpy": (f"{_PACKAGE}.init", _PACKAGE, f"{_PACKAGE}.signals"),
    "rclpy.callback_groups": (f"{_PACKAGE}.callback_groups",),
    "rclpy.client": (f"{_PACKAGE}.client",),
    "rclpy.clock": (f"{_PACKAGE}.clock",),
    "rclpy.context": (f"{_PACKAGE}.context",),
    "rclpy.duration": ("bevstack.ros.runtime.duration",),
    "rclpy.event_handler": (f"{_PACKAGE}.event_handler",),
    "rclpy.exceptions": (f"{_PACKAGE}.exceptions",),
    "rclpy.executors": (f"{_PACKAGE}.executors",),
    "rclpy.impl.rcutils_logger": (f"{_PACKAGE}.logging",),
    "rclpy.lifecycle": (f"{_PACKAGE}.lifecycle",),
    "rclpy.logging": (f"{_PACKAGE}.logging",),
    "rclpy.node": (f"{_PACKAGE}.node", f"{_PACKAGE}.names"),
    "rclpy.parameter": (f"{_PACKAGE}.parameter",),
    "rclpy.publisher": (f"{_PACKAGE}.publisher",),
    "rclpy.qos": ("bevstack.ros.runtime.qos",),
    "rclpy.service": (f"{_PACKAGE}.service",),
    "rclpy.subscription": (f"{_PACKAGE}.subscription",),
    "rclpy.task": (f"{_PACKAGE}.task",),
    "rclpy.time": (f"{_PACKAGE}.clock",),
    "rclpy.timer": (f"{_PACKAGE}.timer",),
}
#: Not rclpy's own: inherited from int, tuple, enum, dict or exceptions.
_FOREIGN = {"int", "tuple", "enum", "exception", "dict"}


def _record(shared: Path) -> dict[str, Any]:
    path = shared / "golden" / "ros2" / "rclpy_signatures.json"
    if not path.is_file():
        pytest.skip(f"{path} is absent: nothing to compare with")
    return json.loads(path.read_text())


def _recorded_parameters(text: str | None) -> list[tuple[str, str, str | None]] | None:
    """(name, kind, default or None) of a recorded `inspect.signature`; None if it is none."""
    if not text or not text.startswith("("):
        return None
    # What a repr wrote in angle brackets is no Python.
    text = re.sub(r"<([A-Za-z]+)\.([A-Za-z_]+): \d+>", r"\1.\2", text)
    text = re.sub(r"<class '([^']*)'>", lambda match: match.group(1).replace("<", "").replace(">", ""), text)
    text = re.sub(r"<rclpy\.qos\.QoSProfile object at 0x[0-9a-f]+>", "QOS", text)
    text = text.replace("~", "")
    arguments = ast.parse(f"def f{text}: pass").body[0].args  # type: ignore[attr-defined]
    result: list[tuple[str, str, str | None]] = []
    plain = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(plain) - len(arguments.defaults)) + list(arguments.defaults)
    for argument, default in zip(plain, defaults):
        result.append((argument.arg, "plain", ast.unparse(default) if default is not None else None))
    if arguments.vararg:
        result.append((arguments.vararg.arg, "var", None))
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults):
        result.append((argument.arg, "keyword", ast.unparse(default) if default is not None else None))
    if arguments.kwarg:
        result.append((arguments.kwarg.arg, "varkw", None))
    return result


def _own_parameters(member: Any) -> list[tuple[str, str, str | None]]:
    kinds = {
        inspect.Parameter.POSITIONAL_ONLY: "plain",
        inspect.Parameter.POSITIONAL_OR_KEYWORD: "plain",
        inspect.Parameter.VAR_POSITIONAL: "var",
        inspect.Parameter.KEYWORD_ONLY: "keyword",
        inspect.Parameter.VAR_KEYWORD: "varkw",
    }
    result = []
    for parameter in inspect.signature(member).parameters.values():
        default: str | None = None
        if parameter.default is not inspect.Parameter.empty:
            value = parameter.default
            if type(value).__name__ == "QoSProfile":
                default = "QOS"
            elif inspect.isclass(value):
                default = value.__name__
            elif hasattr(value, "name") and hasattr(value, "value"):
                default = f"{type(value).__name__}.{value.name}"
            else:
                default = repr(value)
        result.append((parameter.name, kinds[parameter.kind], default))
    return result


def _default(text: str | None) -> str | None:
    """Defaults compare by their last name: `rclpy.publisher.Publisher` is `Publisher`."""
    if text is None or re.match(r"[-+'\"\d(\[{]|Duration\(", text):
        return text
    return text if text.count(".") == 1 and text.split(".")[0][0].isupper() else text.split(".")[-1]


def _same(own: list[tuple[str, str, str | None]], recorded: list[tuple[str, str, str | None]], *, bound: bool) -> bool:
    def plain(entries: list[tuple[str, str, str | None]]) -> list[tuple[str, str, str | None]]:
        result = [(name, kind, _default(default)) for name, kind, default in entries]
        return result[1:] if bound and result and result[0][0] in ("self", "cls") else result

    return plain(own) == plain(recorded)


def _find(module: str, name: str) -> Any:
    for candidate in _MODULES[module]:
        found = getattr(importlib.import_module(candidate), name, None)
        if found is not None:
            return found
    return None


def _owner(cls: type, name: str) -> str:
    """Kind of the class that provides a member, "" for our own code."""
    for base in cls.__mro__:
        if name in vars(base):
            if base in (int, tuple, dict, object) or base.__module__ == "enum":
                return "foreign"
            return "foreign" if issubclass(base, BaseException) and base.__module__ == "builtins" else ""
    return ""


def _compare_class(name: str, recorded: dict[str, Any], own: type) -> list[str]:
    problems = []
    for member, text in recorded["members"].items():
        key = f"{name}.{member}"
        if key in MEMBERS or key in DIFFERENT:
            continue
        if not hasattr(own, member):
            if member in ("as_integer_ratio", "is_integer", "add_note", "with_traceback", "args", "name", "value"):
                continue  # of int and Exception, depending on the version of Python
            problems.append(f"{key} is missing and not listed in not_offered.py")
            continue
        static = inspect.getattr_static(own, member)
        if text == "property":
            if not (isinstance(static, property) or not callable(static) or inspect.ismemberdescriptor(static)):
                problems.append(f"{key} should be a property")
            continue
        parameters = _recorded_parameters(text)
        if parameters is None or _owner(own, member) == "foreign":
            continue
        if parameters == [("self", "plain", None), ("args", "var", None), ("kwargs", "varkw", None)]:
            continue  # rclpy's says nothing about its parameters either
        if inspect.isclass(static):
            continue  # a class inside of a class
        mine = _own_parameters(getattr(own, member))
        bound = True
        if not _same(mine, parameters, bound=bound):
            problems.append(f"{key}: ours {mine}, rclpy's {parameters}")
    return problems


def _problems(record: dict[str, Any]) -> list[str]:
    problems: list[str] = []
    for module, names in record.items():
        for name, recorded in names.items():
            if name in NAMES:
                continue
            own = _find(module, name)
            if own is None:
                # Modules also show what they import; such names are compared where they belong.
                elsewhere = next((_find(m, name) for m in _MODULES if _find(m, name) is not None), None)
                if elsewhere is None:
                    problems.append(f"{module}.{name} is missing and not listed in not_offered.py")
                    continue
                own = elsewhere
            if "function" in recorded:
                parameters = _recorded_parameters(recorded["function"])
                if parameters is not None and not _same(_own_parameters(own), parameters, bound=False):
                    problems.append(f"{module}.{name}: ours {_own_parameters(own)}, rclpy's {parameters}")
            elif recorded.get("class"):
                problems.extend(_compare_class(name, recorded, own))
    return sorted(set(problems))


def test_signatures_are_those_of_rclpy(shared: Path) -> None:
    problems = _problems(_record(shared))
    assert not problems, "\n".join(problems)


def test_a_wrong_signature_is_found(shared: Path) -> None:
    record = _record(shared)
    text = record["rclpy.node"]["Node"]["members"]["create_timer"]
    record["rclpy.node"]["Node"]["members"]["create_timer"] = text.replace("timer_period_sec", "period")
    record["rclpy.node"]["Node"]["members"]["invented"] = "(self)"
    problems = _problems(record)
    assert len(problems) == 2
    assert "create_timer" in problems[0]
    assert "Node.invented is missing" in problems[1]


def test_exceptions_derive_as_in_rclpy(shared: Path) -> None:
    for name, recorded in _record(shared)["rclpy.exceptions"].items():
        own = _find("rclpy.exceptions", name)
        bases = [base.__name__ for base in own.__mro__[1:-1]]
        assert [base for base in recorded["bases"] if base != "object"] == bases, name


def test_everything_listed_as_not_offered_exists_in_rclpy(shared: Path) -> None:
    record = _record(shared)
    names = {name for module in record.values() for name in module}
    members = {
        f"{name}.{member}"
        for module in record.values()
        for name, entry in module.items()
        for member in entry.get("members", {})
    }
    assert set(NAMES) <= names
    assert set(MEMBERS) | set(DIFFERENT) <= members
