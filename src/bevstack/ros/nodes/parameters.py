"""Parameters as plain data: one table per node gives the declaration, the checks, the JSON schema and the documentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bevstack.errors import BevstackError
from bevstack.ros.runtime import FloatingPointRange, IntegerRange, Node, Parameter, ParameterDescriptor, SetParametersResult

Value = bool | int | float | str | list[str]


class ParameterValueError(BevstackError, ValueError):
    """A parameter has a value that its node cannot take."""


@dataclass(frozen=True)
class Spec:
    """One parameter.

    Attributes:
        name: as in the YAML file.
        default: gives the type too.
        description: one sentence, with the unit.
        live: may change while the node runs; else it is read-only after start.
        low, high: bounds of a number, both included.
        choices: allowed values of a string.
    """

    name: str
    default: Value
    description: str
    live: bool = False
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()

    def descriptor(self) -> Any:
        """rcl_interfaces/ParameterDescriptor with description, range and read_only."""
        made = ParameterDescriptor(name=self.name, description=self.description, read_only=not self.live)
        if self.choices:
            made.additional_constraints = "one of " + ", ".join(self.choices)
        if self.low is not None and self.high is not None:
            if isinstance(self.default, float):
                made.floating_point_range = [
                    FloatingPointRange(from_value=float(self.low), to_value=float(self.high), step=0.0)
                ]
            else:
                made.integer_range = [IntegerRange(from_value=int(self.low), to_value=int(self.high), step=1)]
        return made

    def problem(self, value: Any) -> str | None:
        """Why the value cannot be taken, in one line; None if it can."""
        if self.choices and value not in self.choices:
            return f"{self.name} is {value!r}: use one of {', '.join(map(repr, self.choices))}"
        if isinstance(value, int | float) and not isinstance(value, bool):
            if self.low is not None and value < self.low:
                return f"{self.name} is {value}: it must be at least {self.low}"
            if self.high is not None and value > self.high:
                return f"{self.name} is {value}: it must be at most {self.high}"
        return None

    def schema(self) -> dict[str, Any]:
        """The parameter's entry in the JSON schema."""
        kinds = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array"}
        entry: dict[str, Any] = {"type": kinds[type(self.default)], "default": self.default, "description": self.description}
        if isinstance(self.default, list):
            entry["items"] = {"type": "string"}
        if self.choices:
            entry["enum"] = list(self.choices)
        if self.low is not None:
            entry["minimum"] = self.low
        if self.high is not None:
            entry["maximum"] = self.high
        return entry


class Parameters:
    """The declared parameters of a node, checked at start and at each change; read as ``parameters["name"]``.

    Args:
        node: declares them here.
        specs: the node's table.
        on_change: called with the new live values after they are set.

    Raises:
        ParameterValueError: a value given at start (YAML, command line) that a spec refuses.
    """

    def __init__(self, node: Node, specs: Sequence[Spec], on_change: Callable[[Mapping[str, Any]], None] | None = None) -> None:
        self._node = node
        self._specs = {spec.name: spec for spec in specs}
        self._values: dict[str, Any] = {}
        self._on_change = on_change
        for spec in specs:
            # rcl takes an empty list for bytes: one empty string stands for no names.
            default = [""] if spec.default == [] else spec.default
            value = node.declare_parameter(spec.name, default, spec.descriptor()).value
            if isinstance(spec.default, list):
                value = [entry for entry in value or [] if entry]
            problem = spec.problem(value)
            if problem:
                raise ParameterValueError(f"{node.get_name()}: {problem}")
            self._values[spec.name] = value
        node.add_on_set_parameters_callback(self._check)
        if hasattr(node, "add_post_set_parameters_callback"):  # Iron and later
            node.add_post_set_parameters_callback(self._take)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def _check(self, changes: Sequence[Parameter]) -> Any:  # rcl_interfaces/SetParametersResult
        for change in changes:
            spec = self._specs.get(change.name)
            if spec is None:
                continue
            problem = (
                f"{change.name} is read-only after start: set it in the parameter file"
                if not spec.live
                else spec.problem(change.value)
            )
            if problem:
                return SetParametersResult(successful=False, reason=problem)
        if not hasattr(self._node, "add_post_set_parameters_callback"):
            self._take(changes)
        return SetParametersResult(successful=True, reason="")

    def _take(self, changes: Sequence[Parameter]) -> None:
        changed = {change.name: change.value for change in changes if change.name in self._specs}
        self._values.update(changed)
        if changed and self._on_change is not None:
            self._on_change(changed)


def table(specs: Sequence[Spec]) -> str:
    """The parameters as a Markdown table for the documentation."""
    lines = ["| parameter | type | default | range | live | meaning |", "| --- | --- | --- | --- | --- | --- |"]
    for spec in specs:
        entry = spec.schema()
        limits = ", ".join(spec.choices) if spec.choices else ""
        if spec.low is not None or spec.high is not None:
            limits = f"{'' if spec.low is None else f'{spec.low:g}'} … {'' if spec.high is None else f'{spec.high:g}'}".strip()
        default = f"`{spec.default}`" if spec.default not in ("", []) else ""
        lines.append(
            f"| `{spec.name}` | {entry['type']} | {default} | {limits} | {'yes' if spec.live else ''} | {spec.description} |"
        )
    return "\n".join(lines)
