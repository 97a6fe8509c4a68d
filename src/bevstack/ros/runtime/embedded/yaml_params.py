"""Parameter values and parameter files written in YAML, read the way ROS 2 reads them.

PyYAML follows YAML 1.1: `1e-3` would be text, `12:30` a number, `2020-01-01` a date. ROS 2 knows booleans, integers, reals
and text only, so this loader has its own rules for plain scalars.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalar rules of ROS 2 parameter files."""


_Loader.yaml_implicit_resolvers = {}
_BOOLS = {
    **dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "on", "On", "ON", "true", "True", "TRUE"), True),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "off", "Off", "OFF", "false", "False", "FALSE"), False),
}
_INT = r"[-+]?(?:0[xX][0-9a-fA-F]+|[0-9]+)"
_EXPONENT = r"[eE][-+]?[0-9]+"
_FLOAT = (
    rf"[-+]?(?:[0-9]+\.[0-9]*(?:{_EXPONENT})?|\.[0-9]+(?:{_EXPONENT})?|[0-9]+{_EXPONENT}|\.(?:inf|Inf|INF))"
    r"|\.(?:nan|NaN|NAN)"
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(f"^(?:{'|'.join(_BOOLS)})$"), None)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(f"^{_INT}$"), None)
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"^(?:{_FLOAT})$"), None)
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), None)


def _construct_int(loader: _Loader, node: yaml.Node) -> int:
    text = str(node.value).lower()
    sign = -1 if text.startswith("-") else 1
    digits = text.lstrip("+-")
    return sign * (int(digits, 16) if digits.startswith("0x") else int(digits))


_Loader.add_constructor("tag:yaml.org,2002:bool", lambda loader, node: _BOOLS[node.value])
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def load_yaml(text: str) -> Any:
    """Python value of a YAML text. Raises ValueError with the position of a syntax error."""
    try:
        return yaml.load(text, Loader=_Loader)  # _Loader is a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except (KeyError, AttributeError, TypeError, IndexError, OverflowError, RecursionError) as error:
        # An explicit tag such as `!!bool 7` sends PyYAML's constructors, and ours, where they never expected to be.
        raise ValueError(f"a value does not fit its tag, or the text is nested too deeply ({type(error).__name__})") from error


def check_value(name: str, value: Any) -> Any:
    """`value` if a parameter can hold it; integers beside reals become reals. Raises ValueError naming the parameter."""
    if value is None:
        raise ValueError(f"parameter '{name}' has no value")
    if isinstance(value, list):
        kinds = {type(item) for item in value}
        if kinds <= {int, float} and len(kinds) == 2:
            return [float(item) for item in value]
        if len(kinds) > 1 or not kinds <= {bool, int, float, str}:
            raise ValueError(f"parameter '{name}': a list needs elements of one type (bool, int, float or text), got {value}")
        return value
    if not isinstance(value, bool | int | float | str):
        raise ValueError(f"parameter '{name}': {value!r} is not a bool, number, text or list of them")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError(f"parameter '{name}': {value} does not fit into 64 bits")
    return value


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` -> `{"a.b": 1}`, every value checked."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            flat.update(flatten(value, name))
        else:
            flat[name] = check_value(name, value)
    return flat


@dataclass(frozen=True)
class ParameterRule:
    """Parameters for all nodes whose fully qualified name matches `pattern` (`/**` any tokens, `*` one token)."""

    pattern: str
    values: dict[str, Any]

    def matches(self, full_node_name: str) -> bool:
        """True if a node of that fully qualified name gets these values."""
        return _pattern_regex(self.pattern).fullmatch(full_node_name) is not None


def _pattern_regex(pattern: str) -> re.Pattern[str]:
    parts = []
    for token in pattern.strip("/").split("/"):
        if token == "**":
            parts.append("(?:/[A-Za-z0-9_]+)*")
        else:
            parts.append("/" + re.escape(token).replace(r"\*", "[A-Za-z0-9_]+"))
    return re.compile("".join(parts))


def read_parameter_file(path: str | Path) -> list[ParameterRule]:
    """Rules of a parameter file in the order of the file.

    Raises ValueError (one line, naming the file) when it cannot be read or has not the form
    `[namespace:] node: ros__parameters: name: value`.
    """
    try:
        tree = load_yaml(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"parameter file '{path}' cannot be read: {error}") from error
    except ValueError as error:
        raise ValueError(f"parameter file '{path}' is not valid YAML: {error}") from error
    if not isinstance(tree, Mapping):
        raise ValueError(f"parameter file '{path}' is empty or not a map of node names")
    rules: list[ParameterRule] = []

    def visit(node: Mapping[str, Any], prefix: str) -> None:
        for key, child in node.items():
            if key == "ros__parameters":
                if not isinstance(child, Mapping):
                    raise ValueError(f"parameter file '{path}': 'ros__parameters' of '{prefix or '/'}' is not a map")
                if not prefix:
                    raise ValueError(f"parameter file '{path}': 'ros__parameters' stands without a node name")
                try:
                    rules.append(ParameterRule(prefix, flatten(child)))
                except ValueError as error:
                    raise ValueError(f"parameter file '{path}': {error}") from error
            elif isinstance(child, Mapping):
                visit(child, f"{prefix}/{str(key).strip('/')}")
            else:
                raise ValueError(f"parameter file '{path}': '{key}' stands outside of 'ros__parameters'")

    try:
        visit(tree, "")
    except RecursionError as error:
        raise ValueError(f"parameter file '{path}' contains itself through an alias, or is nested too deeply") from error
    return rules
