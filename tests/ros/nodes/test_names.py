"""A node class is a subclass of somebody else's Node: its private names must not be theirs."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import bevstack
from bevstack.ros.runtime import LifecycleNode

PACKAGE = Path(bevstack.__file__).parent
NODES = [
    p for p in (*(PACKAGE / "ros/nodes").glob("*.py"), PACKAGE / "viewer/node.py", PACKAGE / "cli/monitor.py") if p.exists()
]
# What rclpy's own Node and LifecycleNode keep in private attributes (Humble to Jazzy).
RCLPY = {
    "_handle",
    "_context",
    "_parameters",
    "_publishers",
    "_subscriptions",
    "_clients",
    "_services",
    "_timers",
    "_guards",
    "_waitables",
    "_default_callback_group",
    "_pre_set_parameters_callbacks",
    "_on_set_parameters_callbacks",
    "_post_set_parameters_callbacks",
    "_rate_group",
    "_allow_undeclared_parameters",
    "_parameter_overrides",
    "_descriptors",
    "_logger",
    "_clock",
    "_time_source",
    "_parameter_event_publisher",
    "_parameter_service",
    "_type_description_service",
    "_executor_weakref",
    "_state_machine",
    "_callbacks",
    "_managed_entities",
}
# What a node of ours may redefine on purpose.
EXTENDED = {"destroy_node", "on_configure", "on_activate", "on_deactivate", "on_cleanup", "on_shutdown", "__init__"}


def names_of(path: Path) -> dict[str, set[str]]:
    """Per class derived from a Node: its methods and the attributes that it sets."""
    found = {}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef) and any(getattr(b, "id", "") in ("Node", "LifecycleNode") for b in node.bases):
            methods = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
            stored = {
                item.attr
                for item in ast.walk(node)
                if isinstance(item, ast.Attribute)
                and isinstance(item.ctx, ast.Store)
                and getattr(item.value, "id", "") == "self"
            }
            found[node.name] = methods | stored
    return found


@pytest.mark.parametrize("path", NODES, ids=lambda p: p.stem)
def test_no_name_is_taken(ros: None, path: Path) -> None:
    base = LifecycleNode("base")
    taken = set(dir(base)) | set(vars(base)) | RCLPY
    base.destroy_node()
    for name, names in names_of(path).items():
        assert not (names - EXTENDED) & taken, name
