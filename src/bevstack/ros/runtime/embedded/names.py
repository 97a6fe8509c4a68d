"""Rules of ROS names: validation, expansion (`~/`, `{node}`, relative names) and remapping."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from .exceptions import (
    InvalidNamespaceException,
    InvalidNodeNameException,
    InvalidParameterException,
    InvalidServiceNameException,
    InvalidTopicNameException,
)

_MAX_NAME = 255
_SUBSTITUTION = re.compile(r"\{([^{}]*)\}")


def _first_bad(text: str, allowed: str) -> int:
    """Index of the first character outside the class `allowed` (a regular expression), or -1."""
    found = re.search(f"[^{allowed}]", text)
    return found.start() if found else -1


def _token_starting_with_digit(text: str) -> int:
    found = re.search(r"(?:^|/)([0-9])", text)
    return found.start(1) if found else -1


def validate_node_name(node_name: str) -> Literal[True]:
    """True, or `InvalidNodeNameException` which points at the bad character."""
    if not node_name:
        raise InvalidNodeNameException(node_name, "node name must not be empty", 0)
    bad = _first_bad(node_name, "A-Za-z0-9_")
    if bad >= 0:
        raise InvalidNodeNameException(node_name, "node name must not contain characters other than alphanumerics or '_'", bad)
    if node_name[0].isdigit():
        raise InvalidNodeNameException(node_name, "node name must not start with a number", 0)
    if len(node_name) > _MAX_NAME:
        raise InvalidNodeNameException(node_name, f"node name length should not exceed '{_MAX_NAME}'", _MAX_NAME)
    return True


def validate_namespace(namespace: str) -> Literal[True]:
    """True, or `InvalidNamespaceException`. A namespace is absolute: `/` or `/a/b`."""
    if not namespace:
        raise InvalidNamespaceException(namespace, "namespace must not be empty", 0)
    if namespace[0] != "/":
        raise InvalidNamespaceException(namespace, "namespace must be absolute, it must lead with a '/'", 0)
    if len(namespace) > 1 and namespace.endswith("/"):
        raise InvalidNamespaceException(namespace, "namespace must not end with a '/', unless only a '/'", len(namespace) - 1)
    bad = _first_bad(namespace, "A-Za-z0-9_/")
    if bad >= 0:
        raise InvalidNamespaceException(
            namespace, "namespace must not contain characters other than alphanumerics, '_', or '/'", bad
        )
    if "//" in namespace:
        raise InvalidNamespaceException(namespace, "namespace must not contain repeated '/'", namespace.index("//") + 1)
    bad = _token_starting_with_digit(namespace)
    if bad >= 0:
        raise InvalidNamespaceException(namespace, "namespace must not have a token that starts with a number", bad)
    return True


def validate_topic_name(name: str, *, is_service: bool = False) -> Literal[True]:
    """True if `name` may be given to a node (relative, private or absolute, with substitutions); else an exception."""
    kind = InvalidServiceNameException if is_service else InvalidTopicNameException
    what = "service name" if is_service else "topic name"
    if not name:
        raise kind(name, f"{what} must not be empty string", 0)
    if name.endswith("/"):
        raise kind(name, f"{what} must not end with a forward slash", len(name) - 1)
    bad = _first_bad(name, "A-Za-z0-9_/~{}")
    if bad >= 0:
        raise kind(name, f"{what} must not contain characters other than alphanumerics, '_', '~', '{{', or '}}'", bad)
    if name[0].isdigit():
        raise kind(name, f"{what} token must not start with a number", 0)
    if "~" in name[1:]:
        raise kind(name, f"{what} must not contain a tilde '~' unless it is the first character", name.index("~", 1))
    if name[0] == "~" and len(name) > 1 and name[1] != "/":
        raise kind(name, f"{what} must not have characters between a tilde '~' and a forward slash '/'", 1)
    stripped = _SUBSTITUTION.sub(lambda match: "s" * len(match.group(0)), name)
    for brace in "{}":
        if brace in stripped:
            raise kind(name, f"{what} must not have unbalanced (missing or extra) curly braces '{{}}'", stripped.index(brace))
    for match in _SUBSTITUTION.finditer(name):
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", match.group(1)):
            raise kind(name, f"{what} has an invalid substitution name", match.start(1))
    if "//" in name:
        raise kind(name, f"{what} must not contain repeated '/'", name.index("//") + 1)
    bad = _token_starting_with_digit(stripped)
    if bad >= 0:
        raise kind(name, f"{what} token must not start with a number", bad)
    return True


def validate_full_topic_name(name: str, *, is_service: bool = False) -> Literal[True]:
    """True if `name` is a fully qualified name; else an exception."""
    kind = InvalidServiceNameException if is_service else InvalidTopicNameException
    what = "service name" if is_service else "topic name"
    if not name:
        raise kind(name, f"{what} must not be empty", 0)
    if name[0] != "/":
        raise kind(name, f"{what} must be absolute, it must lead with a '/'", 0)
    if name.endswith("/"):
        raise kind(name, f"{what} must not end with a '/'", len(name) - 1)
    bad = _first_bad(name, "A-Za-z0-9_/")
    if bad >= 0:
        raise kind(name, f"{what} must not contain characters other than alphanumerics, '_', or '/'", bad)
    if "//" in name:
        raise kind(name, f"{what} must not contain repeated '/'", name.index("//") + 1)
    bad = _token_starting_with_digit(name)
    if bad >= 0:
        raise kind(name, f"{what} must not have a token that starts with a number", bad)
    return True


def validate_parameter_name(name: str) -> Literal[True]:
    """True, or `InvalidParameterException` for an empty name."""
    if not name:
        raise InvalidParameterException(name)
    return True


def expand_topic_name(topic_name: str, node_name: str, node_namespace: str) -> str:
    """Fully qualified name of `topic_name` as a node of that name and namespace means it.

    Raises ValueError for an unknown substitution; does not apply remaps.
    """
    validate_node_name(node_name)
    validate_namespace(node_namespace)
    namespace = node_namespace.rstrip("/")
    name = topic_name
    if name.startswith("~"):
        name = f"{namespace}/{node_name}{name[1:]}"
    values = {"node": node_name, "ns": node_namespace, "namespace": node_namespace}

    def substitute(match: re.Match[str]) -> str:
        if match.group(1) not in values:
            raise ValueError(f"unknown substitution '{{{match.group(1)}}}' in the name '{topic_name}'")
        return values[match.group(1)]

    name = _SUBSTITUTION.sub(substitute, name)
    if not name.startswith("/"):
        name = f"{namespace}/{name}"
    return re.sub("/{2,}", "/", name)


@dataclass(frozen=True)
class Remap:
    """One rule `[node:][rostopic://|rosservice://]from:=to`."""

    match: str
    replacement: str
    node: str | None = None
    kind: Literal["topic", "service", "both", "node", "namespace"] = "both"

    @classmethod
    def parse(cls, rule: str) -> Remap:
        """Raises ValueError when `rule` is not a remap rule."""
        left, separator, right = rule.partition(":=")
        if not separator or not left or not right:
            raise ValueError(f"'{rule}' is not a remap rule: expected from:=to")
        node: str | None = None
        prefix = re.match(r"([A-Za-z_][A-Za-z0-9_]*):(?!//)", left)
        if prefix:
            node, left = prefix.group(1), left[prefix.end() :]
        if left in ("__node", "__name"):
            validate_node_name(right)
            return cls(left, right, node, "node")
        if left == "__ns":
            right = right if right.startswith("/") else f"/{right}"
            validate_namespace(right)
            return cls(left, right, node, "namespace")
        kind: Literal["topic", "service", "both"] = "both"
        if left.startswith("rostopic://"):
            kind, left = "topic", left[len("rostopic://") :]
        elif left.startswith("rosservice://"):
            kind, left = "service", left[len("rosservice://") :]
        validate_topic_name(left)
        validate_topic_name(right)
        return cls(left, right, node, kind)


def remap_node(rules: list[Remap], node_name: str, namespace: str) -> tuple[str, str]:
    """Name and namespace after the `__node` and `__ns` rules; a rule with a node prefix names the node before renaming."""
    name = next((r.replacement for r in rules if r.kind == "node" and r.node in (None, node_name)), node_name)
    space = next((r.replacement for r in rules if r.kind == "namespace" and r.node in (None, node_name)), namespace)
    return name, space


def remap_name(rules: list[Remap], full_name: str, node_name: str, namespace: str, *, is_service: bool) -> str:
    """`full_name` after the first topic or service rule that matches it; rule sides are expanded like any other name."""
    wanted = ("both", "service" if is_service else "topic")
    for rule in rules:
        if rule.kind not in wanted or rule.node not in (None, node_name):
            continue
        if expand_topic_name(rule.match, node_name, namespace) == full_name:
            return expand_topic_name(rule.replacement, node_name, namespace)
    return full_name
