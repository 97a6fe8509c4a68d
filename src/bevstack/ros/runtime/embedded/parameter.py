"""Parameters: a name, a type, a value."""

from __future__ import annotations

import array
from enum import Enum
from typing import Any

from ..messages import message_class
from .yaml_params import load_yaml, read_parameter_file

PARAMETER_SEPARATOR_STRING = "."


class Parameter:
    """A named value. Without `type_` the type follows from the value; a type without a value leaves it unset.

    Raises TypeError for an unknown type, ValueError when the value has not the type.
    """

    class Type(Enum):
        """Types of parameters, numbered as in rcl_interfaces/msg/ParameterType."""

        NOT_SET = 0
        BOOL = 1
        INTEGER = 2
        DOUBLE = 3
        STRING = 4
        BYTE_ARRAY = 5
        BOOL_ARRAY = 6
        INTEGER_ARRAY = 7
        DOUBLE_ARRAY = 8
        STRING_ARRAY = 9

        @classmethod
        def from_parameter_value(cls, parameter_value: Any) -> Parameter.Type:
            """Type of a Python value. Raises TypeError when no parameter can hold it."""
            value = parameter_value
            if value is None:
                return cls.NOT_SET
            if isinstance(value, bool):
                return cls.BOOL
            if isinstance(value, int):
                return cls.INTEGER
            if isinstance(value, float):
                return cls.DOUBLE
            if isinstance(value, str):
                return cls.STRING
            if isinstance(value, bytes):
                return cls.BYTE_ARRAY
            if isinstance(value, list | tuple | array.array):
                if all(isinstance(item, bytes) for item in value):
                    return cls.BYTE_ARRAY
                if all(isinstance(item, bool) for item in value):
                    return cls.BOOL_ARRAY
                if all(isinstance(item, int) and not isinstance(item, bool) for item in value):
                    return cls.INTEGER_ARRAY
                if all(isinstance(item, float) for item in value):
                    return cls.DOUBLE_ARRAY
                if all(isinstance(item, str) for item in value):
                    return cls.STRING_ARRAY
                raise TypeError("The given value is not a list of one of the allowed types")
            raise TypeError("The given value is not one of the allowed types")

        def check(self, parameter_value: Any) -> bool:
            """True if the value has this type."""
            kind, value = type(self), parameter_value
            if self is kind.NOT_SET:
                return value is None
            if self is kind.BOOL:
                return isinstance(value, bool)
            if self is kind.INTEGER:
                return isinstance(value, int) and not isinstance(value, bool)
            if self is kind.DOUBLE:
                return isinstance(value, float)
            if self is kind.STRING:
                return isinstance(value, str)
            if not isinstance(value, list | tuple | array.array | bytes):
                return False
            if self is kind.BYTE_ARRAY:
                return isinstance(value, bytes) or all(isinstance(item, bytes) and len(item) == 1 for item in value)
            if isinstance(value, bytes):
                return False
            if self is kind.INTEGER_ARRAY:
                return all(isinstance(item, int) and not isinstance(item, bool) for item in value)
            wanted = {kind.BOOL_ARRAY: bool, kind.DOUBLE_ARRAY: float, kind.STRING_ARRAY: str}[self]
            return all(isinstance(item, wanted) for item in value)

    @classmethod
    def from_parameter_msg(cls, param_msg: Any) -> Parameter:
        """Parameter of an rcl_interfaces/msg/Parameter."""
        value = parameter_value_to_python(param_msg.value)
        return cls(param_msg.name, cls.Type(param_msg.value.type), value)

    def __init__(self, name: str, type_: Parameter.Type | None = None, value: Any = None) -> None:
        if type_ is None:
            type_ = Parameter.Type.from_parameter_value(value)
        if not isinstance(type_, Parameter.Type):
            raise TypeError(f"type must be an instance of '{Parameter.Type}'")
        if value is not None and not type_.check(value):
            raise ValueError(f"Type '{type_}' and value '{value}' do not agree")
        self._type_ = type_
        self._name = name
        self._value = value

    @property
    def name(self) -> str:
        """Name."""
        return self._name

    @property
    def type_(self) -> Parameter.Type:
        """Type."""
        return self._type_

    @property
    def value(self) -> Any:
        """Value, None if unset."""
        return self._value

    def get_parameter_value(self) -> Any:
        """The value as rcl_interfaces/msg/ParameterValue, its `type` set and the field of that type filled."""
        kind = Parameter.Type
        field = {
            kind.BOOL: "bool_value",
            kind.INTEGER: "integer_value",
            kind.DOUBLE: "double_value",
            kind.STRING: "string_value",
            kind.BYTE_ARRAY: "byte_array_value",
            kind.BOOL_ARRAY: "bool_array_value",
            kind.INTEGER_ARRAY: "integer_array_value",
            kind.DOUBLE_ARRAY: "double_array_value",
            kind.STRING_ARRAY: "string_array_value",
        }.get(self._type_)
        message = message_class("rcl_interfaces/msg/ParameterValue")(type=self._type_.value)
        if field is not None and self._value is not None:
            value = self._value
            if self._type_ is kind.BYTE_ARRAY and not isinstance(value, bytes):
                value = b"".join(value)
            elif isinstance(value, tuple):
                value = list(value)
            setattr(message, field, value)
        return message

    def to_parameter_msg(self) -> Any:
        """The parameter as rcl_interfaces/msg/Parameter."""
        return message_class("rcl_interfaces/msg/Parameter")(name=self._name, value=self.get_parameter_value())

    def __repr__(self) -> str:
        return f"Parameter(name={self._name!r}, type_={self._type_}, value={self._value!r})"


def parameter_value_to_python(parameter_value: Any) -> Any:
    """Python value of an rcl_interfaces/msg/ParameterValue. Raises RuntimeError for an unknown type number."""
    value = parameter_value
    try:
        kind = Parameter.Type(value.type)
    except ValueError as error:
        raise RuntimeError(f"unexpected parameter type {value.type}") from error
    types = Parameter.Type
    if kind is types.NOT_SET:
        return None
    if kind is types.BOOL:
        return value.bool_value
    if kind is types.INTEGER:
        return value.integer_value
    if kind is types.DOUBLE:
        return value.double_value
    if kind is types.STRING:
        return value.string_value
    if kind is types.BYTE_ARRAY:
        return [item if isinstance(item, bytes) else bytes([item]) for item in value.byte_array_value]
    if kind is types.BOOL_ARRAY:
        return [bool(item) for item in value.bool_array_value]
    if kind is types.INTEGER_ARRAY:
        return [int(item) for item in value.integer_array_value]
    if kind is types.DOUBLE_ARRAY:
        return [float(item) for item in value.double_array_value]
    return list(value.string_array_value)


def get_parameter_value(string_value: str) -> Any:
    """rcl_interfaces/msg/ParameterValue of a text as one types it in YAML."""
    value = load_yaml(string_value)
    try:
        return Parameter("", value=value).get_parameter_value()
    except (TypeError, ValueError):
        return Parameter("", value=string_value).get_parameter_value()


def parameter_dict_from_yaml_file(
    parameter_file: str, use_wildcard: bool = False, target_nodes: list[str] | None = None, namespace: str = ""
) -> dict[str, Any]:
    """rcl_interfaces/msg/Parameter by name from a parameter file, for all nodes in it or for `target_nodes`.

    With `use_wildcard` the entries under `/**` count too. Raises RuntimeError when nothing fits, ValueError for a bad file.
    """
    found: dict[str, Any] = {}
    targets = None if target_nodes is None else {f"/{name.strip('/')}" for name in target_nodes}
    matched: set[str] = set()
    for rule in read_parameter_file(parameter_file):
        wildcard = rule.pattern == "/**"
        if (wildcard and use_wildcard) or (not wildcard and (targets is None or rule.pattern in targets)):
            matched.add(rule.pattern)
            for name, value in rule.values.items():
                full = f"{namespace}.{name}" if namespace else name
                found[full] = Parameter(full, value=value).to_parameter_msg()
    missing = (targets or set()) - matched
    if targets is not None and missing and not (use_wildcard and matched):
        raise RuntimeError(f"Param file does not contain any valid parameters for nodes: {sorted(missing)}")
    if not found:
        raise RuntimeError("Param file does not contain any valid parameters")
    return found


__all__ = [
    "PARAMETER_SEPARATOR_STRING",
    "Parameter",
    "get_parameter_value",
    "parameter_dict_from_yaml_file",
    "parameter_value_to_python",
]
