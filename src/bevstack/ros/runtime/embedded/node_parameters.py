"""The parameters of a node: declaring, checking against descriptors, callbacks, events."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..messages import message_class
from .exceptions import (
    InvalidParameterTypeException,
    InvalidParameterValueException,
    ParameterAlreadyDeclaredException,
    ParameterImmutableException,
    ParameterNotDeclaredException,
    ParameterUninitializedException,
)
from .names import validate_parameter_name
from .parameter import PARAMETER_SEPARATOR_STRING, Parameter

if TYPE_CHECKING:
    from .publisher import Publisher

_WRONG_TYPE = "Wrong parameter type"

OnSet = Callable[[list[Parameter]], Any]
PreSet = Callable[[list[Parameter]], list[Parameter]]
PostSet = Callable[[list[Parameter]], None]


def _result(successful: bool, reason: str = "") -> Any:
    return message_class("rcl_interfaces/msg/SetParametersResult")(successful=successful, reason=reason)


class NodeParameters:
    """Mix-in of `Node`. All callbacks run in the thread that sets the parameters."""

    PARAM_REL_TOL: float = 1e-6

    def _init_parameters(self, allow_undeclared: bool, overrides: dict[str, Parameter]) -> None:
        self._parameters: dict[str, Parameter] = {}
        self._descriptors: dict[str, Any] = {}
        self._parameter_overrides = overrides
        self._allow_undeclared_parameters = allow_undeclared
        self._pre_set_parameters_callbacks: list[PreSet] = []
        self._on_set_parameters_callbacks: list[OnSet] = []
        self._post_set_parameters_callbacks: list[PostSet] = []
        self._parameters_lock = threading.RLock()  # re-entrant: callbacks may set other parameters
        self._parameter_event_publisher: Publisher | None = None

    # declaring ---------------------------------------------------------------------------------------------------------

    def declare_parameter(
        self, name: str, value: Any = None, descriptor: Any | None = None, ignore_override: bool = False
    ) -> Parameter:
        """Declare a parameter: by default value, by `Parameter.Type` (no value yet), or with a descriptor.

        An override from the command line or a file replaces the default unless `ignore_override`. Raises
        `ParameterAlreadyDeclaredException`, `InvalidParameterException` (name), `InvalidParameterTypeException`,
        `InvalidParameterValueException` (range or callback), TypeError, ValueError.
        """
        if value is None and descriptor is None:
            entry: tuple[Any, ...] = (name,)
        else:
            descriptor = message_class("rcl_interfaces/msg/ParameterDescriptor")() if descriptor is None else descriptor
            entry = (name, value, descriptor)
        return self.declare_parameters("", [entry], ignore_override)[0]

    def declare_parameters(self, namespace: str, parameters: list[Any], ignore_override: bool = False) -> list[Parameter]:
        """Declare several, each `(name, value or type, descriptor)` or shorter, below `namespace.`; see `declare_parameter`."""
        descriptor_class = message_class("rcl_interfaces/msg/ParameterDescriptor")
        wanted: list[Parameter] = []
        descriptors: dict[str, Any] = {}
        for index, entry in enumerate(parameters):
            if not 1 <= len(entry) <= 3:
                raise TypeError(
                    f"Invalid parameter tuple length at index {index} in parameters list: {entry}; 1 to 3 elements are expected"
                )
            name = entry[0]
            second = entry[1] if len(entry) > 1 else None
            given = entry[2] if len(entry) > 2 else descriptor_class()
            if not isinstance(name, str):
                raise TypeError(f"First element {name} at index {index} in parameters list is not a str.")
            if not isinstance(given, descriptor_class):
                raise TypeError(f"Third element {given} at index {index} in parameters list is not a ParameterDescriptor.")
            descriptor = _copy_descriptor(given)
            if len(entry) == 1:
                warnings.warn(
                    f"when declaring parameter named '{name}', declaring a parameter only providing its name is deprecated. "
                    "Pass a default value, a parameter type, or a descriptor with `dynamic_typing=True`",
                    stacklevel=3,
                )
                descriptor.dynamic_typing = True
            value: Any = None
            kind: Parameter.Type | None = None
            if isinstance(second, Parameter.Type):
                if second is Parameter.Type.NOT_SET:
                    raise ValueError(f"Cannot declare parameter '{name}' as statically typed of type NOT_SET")
                if descriptor.dynamic_typing:
                    raise ValueError(
                        f"When declaring parameter '{name}' passing a descriptor with `dynamic_typing=True` is not allowed "
                        "when the parameter type is provided as second argument"
                    )
                kind = second
            else:
                value = second
                if not descriptor.dynamic_typing:
                    if value is None:
                        raise ValueError(
                            f"Cannot declare the statically typed parameter '{name}' without a default value: give a value, a "
                            "parameter type, or a descriptor with `dynamic_typing=True`"
                        )
                    kind = Parameter.Type.from_parameter_value(value)
            full = f"{namespace}{PARAMETER_SEPARATOR_STRING}{name}" if namespace else name
            validate_parameter_name(full)
            descriptor.name = full
            if kind is not None:
                descriptor.type = kind.value
            override = None if ignore_override else self._parameter_overrides.get(full)
            if override is not None:
                value = override.value
                # In YAML and on the command line one writes [] for any empty list.
                if value == [] and kind is not None and kind.name.endswith("_ARRAY"):
                    wanted.append(Parameter(full, kind, []))
                    descriptors[full] = descriptor
                    continue
            wanted.append(_typed(full, value, kind))
            descriptors[full] = descriptor
        with self._parameters_lock:
            declared = [parameter.name for parameter in wanted if parameter.name in self._parameters]
            if declared:
                raise ParameterAlreadyDeclaredException(declared)
            for parameter in wanted:
                result = self._set_atomically([parameter], descriptors, declaring=True)
                if not result.successful:
                    if result.reason.startswith(_WRONG_TYPE):
                        raise InvalidParameterTypeException(parameter, Parameter.Type(descriptors[parameter.name].type))
                    raise InvalidParameterValueException(parameter.name, parameter.value, result.reason)
            return [self._parameters[parameter.name] for parameter in wanted]

    def undeclare_parameter(self, name: str) -> None:
        """Raises `ParameterNotDeclaredException`, or `ParameterImmutableException` for a read-only one."""
        with self._parameters_lock:
            if name not in self._parameters:
                raise ParameterNotDeclaredException(name)
            if self._descriptors[name].read_only:
                raise ParameterImmutableException(name)
            del self._parameters[name]
            del self._descriptors[name]

    def has_parameter(self, name: str) -> bool:
        """True if it is declared."""
        return name in self._parameters

    # reading -----------------------------------------------------------------------------------------------------------

    def get_parameter(self, name: str) -> Parameter:
        """The parameter. Raises `ParameterNotDeclaredException`, or `ParameterUninitializedException` without a value."""
        parameter = self._parameters.get(name)
        if parameter is not None:
            if parameter.type_ is Parameter.Type.NOT_SET and not self._descriptors[name].dynamic_typing:
                raise ParameterUninitializedException(name)
            return parameter
        if self._allow_undeclared_parameters:
            return Parameter(name, Parameter.Type.NOT_SET, None)
        raise ParameterNotDeclaredException(name)

    def get_parameters(self, names: list[str]) -> list[Parameter]:
        """Several parameters; see `get_parameter`. Raises TypeError if a name is no text."""
        if not all(isinstance(name, str) for name in names):
            raise TypeError("All names must be instances of type str")
        return [self.get_parameter(name) for name in names]

    def get_parameter_or(self, name: str, alternative_value: Parameter | None = None) -> Parameter:
        """The parameter, or the alternative if it is not declared or has no value."""
        parameter = self._parameters.get(name)
        if parameter is not None and parameter.type_ is not Parameter.Type.NOT_SET:
            return parameter
        return Parameter(name, Parameter.Type.NOT_SET) if alternative_value is None else alternative_value

    def get_parameters_by_prefix(self, prefix: str) -> dict[str, Parameter]:
        """Parameters below `prefix.`, by the rest of their names; all of them for an empty prefix."""
        start = f"{prefix}{PARAMETER_SEPARATOR_STRING}" if prefix else ""
        return {name[len(start) :]: value for name, value in self._parameters.items() if name.startswith(start)}

    def get_parameter_type(self, name: str) -> Parameter.Type:
        """Type of a parameter. Raises `ParameterNotDeclaredException`."""
        if name in self._parameters:
            return self._parameters[name].type_
        if self._allow_undeclared_parameters:
            return Parameter.Type.NOT_SET
        raise ParameterNotDeclaredException(name)

    def get_parameter_types(self, names: list[str]) -> list[Parameter.Type]:
        """Types of several parameters. Raises TypeError if a name is no text, `ParameterNotDeclaredException`."""
        if not all(isinstance(name, str) for name in names):
            raise TypeError("All names must be instances of type str")
        return [self.get_parameter_type(name) for name in names]

    def list_parameters(self, prefixes: list[str], depth: int) -> Any:
        """rcl_interfaces/msg/ListParametersResult of names below the prefixes (all for none), `depth` levels deep (0: all).

        Raises TypeError or ValueError for arguments of another kind.
        """
        if not isinstance(prefixes, list):
            raise TypeError("The prefixes argument must be a list")
        if not all(isinstance(prefix, str) for prefix in prefixes):
            raise TypeError("All prefixes must be instances of type str")
        if not isinstance(depth, int):
            raise TypeError("The depth must be instance of type int")
        if depth < 0:
            raise ValueError("The depth must be greater than or equal to zero")
        separator = PARAMETER_SEPARATOR_STRING
        names: list[str] = []
        found_prefixes: set[str] = set()
        for name in self._parameters:
            if prefixes:
                fits = any(
                    name == prefix
                    or (
                        name.startswith(prefix + separator) and (depth == 0 or name[len(prefix) + 1 :].count(separator) < depth)
                    )
                    for prefix in prefixes
                )
            else:
                fits = depth == 0 or name.count(separator) < depth
            if fits:
                names.append(name)
                if separator in name:
                    found_prefixes.add(name.rpartition(separator)[0])
        return message_class("rcl_interfaces/msg/ListParametersResult")(names=sorted(names), prefixes=sorted(found_prefixes))

    def describe_parameter(self, name: str) -> Any:
        """The descriptor. Raises `ParameterNotDeclaredException`."""
        if name in self._descriptors:
            return self._descriptors[name]
        if self._allow_undeclared_parameters:
            return message_class("rcl_interfaces/msg/ParameterDescriptor")(name=name)
        raise ParameterNotDeclaredException(name)

    def describe_parameters(self, names: list[str]) -> list[Any]:
        """Several descriptors; see `describe_parameter`."""
        return [self.describe_parameter(name) for name in names]

    # setting -----------------------------------------------------------------------------------------------------------

    def set_parameters(self, parameter_list: list[Parameter]) -> list[Any]:
        """Set several, each on its own: one result each. Raises `ParameterNotDeclaredException`."""
        self._check_declared(parameter_list)
        return [self._set_with_callbacks([parameter]) for parameter in parameter_list]

    def set_parameters_atomically(self, parameter_list: list[Parameter]) -> Any:
        """Set all or none: one result. Raises `ParameterNotDeclaredException`."""
        self._check_declared(parameter_list)
        return self._set_with_callbacks(parameter_list)

    def set_descriptor(self, name: str, descriptor: Any, alternative_value: Any | None = None) -> Any:
        """Replace a descriptor; if the value does not fit it, `alternative_value` is set. Gives the value (ParameterValue).

        Raises `ParameterNotDeclaredException`, `ParameterImmutableException`, `InvalidParameterValueException`.
        """
        with self._parameters_lock:
            if name not in self._parameters:
                if not self._allow_undeclared_parameters:
                    raise ParameterNotDeclaredException(name)
                return Parameter(name, Parameter.Type.NOT_SET).get_parameter_value()
            if self._descriptors[name].read_only:
                raise ParameterImmutableException(name)
            current = self._parameters[name]
            descriptor = _copy_descriptor(descriptor)
            descriptor.name = name
            if alternative_value is not None:
                message = message_class("rcl_interfaces/msg/Parameter")(name=name, value=alternative_value)
                current = Parameter.from_parameter_msg(message)
            result = self._set_atomically([current], {name: descriptor}, check_read_only=False)
            if not result.successful:
                raise InvalidParameterValueException(name, current.value, result.reason)
            return self._parameters[name].get_parameter_value()

    def _check_declared(self, parameters: list[Parameter]) -> None:
        for parameter in parameters:
            if not isinstance(parameter, Parameter):
                raise TypeError("parameter must be instance of type '{}'".format("rclpy.parameter.Parameter"))
        if not self._allow_undeclared_parameters:
            unknown = [parameter.name for parameter in parameters if parameter.name not in self._parameters]
            if unknown:
                raise ParameterNotDeclaredException(unknown)

    def _set_with_callbacks(self, parameters: list[Parameter]) -> Any:
        with self._parameters_lock:
            if self._pre_set_parameters_callbacks:
                for callback in list(self._pre_set_parameters_callbacks):
                    parameters = callback(parameters)
                if not parameters:
                    return _result(
                        False,
                        "parameter list cannot be empty, this might be due to pre_set_parameters_callback modifying the "
                        "original parameters list.",
                    )
                self._check_declared(parameters)
            return self._set_atomically(parameters, {})

    def _set_atomically(
        self,
        parameters: list[Parameter],
        descriptors: dict[str, Any],
        *,
        declaring: bool = False,
        check_read_only: bool = True,
    ) -> Any:
        """Check against descriptors, ask the on-set callbacks, store, tell the post-set callbacks and `/parameter_events`."""
        with self._parameters_lock:
            for parameter in parameters:
                descriptor = descriptors.get(parameter.name) or self._descriptors.get(parameter.name)
                problem = self._problem(parameter, descriptor, declaring=declaring, check_read_only=check_read_only)
                if problem:
                    return _result(False, problem)
            for callback in list(self._on_set_parameters_callbacks):
                verdict = callback(parameters)
                if not verdict.successful:
                    return verdict
            new: list[Any] = []
            changed: list[Any] = []
            deleted: list[Any] = []
            for parameter in parameters:
                name = parameter.name
                known = self._parameters.get(name)
                if parameter.type_ is Parameter.Type.NOT_SET and not declaring:
                    if known is not None:
                        del self._parameters[name]
                        self._descriptors.pop(name, None)
                        if known.type_ is not Parameter.Type.NOT_SET:
                            deleted.append(known.to_parameter_msg())
                    continue
                descriptor = descriptors.get(name)
                if descriptor is not None:
                    self._descriptors[name] = descriptor
                elif name not in self._descriptors:
                    self._descriptors[name] = message_class("rcl_interfaces/msg/ParameterDescriptor")(
                        name=name, type=parameter.type_.value, dynamic_typing=True
                    )
                if self._descriptors[name].dynamic_typing:
                    self._descriptors[name].type = parameter.type_.value
                self._parameters[name] = parameter
                if parameter.type_ is Parameter.Type.NOT_SET:
                    continue
                (new if known is None or known.type_ is Parameter.Type.NOT_SET else changed).append(
                    parameter.to_parameter_msg()
                )
            for post in list(self._post_set_parameters_callbacks):
                post(parameters)
        publisher = self._parameter_event_publisher
        if publisher is not None and (new or changed or deleted):
            publisher.publish(
                message_class("rcl_interfaces/msg/ParameterEvent")(
                    stamp=self.get_clock().now().to_msg(),  # type: ignore[attr-defined]
                    node=self.get_fully_qualified_name(),  # type: ignore[attr-defined]
                    new_parameters=new,
                    changed_parameters=changed,
                    deleted_parameters=deleted,
                )
            )
        return _result(True)

    def _problem(self, parameter: Parameter, descriptor: Any, *, declaring: bool, check_read_only: bool) -> str:
        """Why the descriptor refuses the parameter; empty if it does not."""
        if descriptor is None:
            return ""
        if check_read_only and not declaring and descriptor.read_only:
            return f"Trying to set a read-only parameter: {parameter.name}."
        kind = parameter.type_
        if kind is Parameter.Type.NOT_SET:
            if declaring or descriptor.dynamic_typing:
                return ""
            return "Static parameter cannot be undeclared"
        if not descriptor.dynamic_typing and kind.value != descriptor.type:
            return f"{_WRONG_TYPE}, expected '{Parameter.Type(descriptor.type)}' got '{kind}'"
        if kind is Parameter.Type.INTEGER and len(descriptor.integer_range):
            return _integer_problem(parameter, descriptor.integer_range[0])
        if kind is Parameter.Type.DOUBLE and len(descriptor.floating_point_range):
            return self._real_problem(parameter, descriptor.floating_point_range[0])
        return ""

    def _real_problem(self, parameter: Parameter, limits: Any) -> str:
        value = parameter.value
        tolerance = self.PARAM_REL_TOL
        low, high, step = limits.from_value, limits.to_value, limits.step
        if math.isclose(value, low, rel_tol=tolerance) or math.isclose(value, high, rel_tol=tolerance):
            return ""
        if not low <= value <= high:
            return f"Parameter {parameter.name} out of range. Min: {low}, Max: {high}, value: {value}"
        if step != 0.0:
            steps = (value - low) / step
            if not math.isclose(steps, round(steps), rel_tol=tolerance):
                return (
                    f"The parameter value for {parameter.name} is not a valid step. Min: {low}, max: {high}, value: {value}, "
                    f"step: {step}"
                )
        return ""

    # callbacks ---------------------------------------------------------------------------------------------------------

    def add_pre_set_parameters_callback(self, callback: PreSet) -> None:
        """Call before a set: it gets the list and gives the list that is to be set."""
        self._pre_set_parameters_callbacks.insert(0, callback)

    def add_on_set_parameters_callback(self, callback: OnSet) -> None:
        """Call before values change, also when declaring. It gives a SetParametersResult; the last added is asked first."""
        self._on_set_parameters_callbacks.insert(0, callback)

    def add_post_set_parameters_callback(self, callback: PostSet) -> None:
        """Call after values have changed."""
        self._post_set_parameters_callbacks.insert(0, callback)

    def remove_pre_set_parameters_callback(self, callback: PreSet) -> None:
        """Raises ValueError if it was not added."""
        self._pre_set_parameters_callbacks.remove(callback)

    def remove_on_set_parameters_callback(self, callback: OnSet) -> None:
        """Raises ValueError if it was not added."""
        self._on_set_parameters_callbacks.remove(callback)

    def remove_post_set_parameters_callback(self, callback: PostSet) -> None:
        """Raises ValueError if it was not added."""
        self._post_set_parameters_callbacks.remove(callback)


def _typed(name: str, value: Any, kind: Parameter.Type | None) -> Parameter:
    """A default such as `[]` fits several list types: keep the one that was asked for."""
    if kind is not None and value is not None and kind.check(value):
        return Parameter(name, kind, value)
    return Parameter(name, value=value)


def _copy_descriptor(descriptor: Any) -> Any:
    """A copy, so that one descriptor object can serve several declarations."""
    fields = descriptor.get_fields_and_field_types()
    return type(descriptor)(**{field: getattr(descriptor, field) for field in fields})


def _integer_problem(parameter: Parameter, limits: Any) -> str:
    value, low, high, step = parameter.value, limits.from_value, limits.to_value, limits.step
    if value in (low, high):
        return ""
    if not low <= value <= high:
        return f"Parameter {parameter.name} out of range. Min: {low}, Max: {high}, value: {value}"
    if step and (value - low) % step:
        bounds = f"Min: {low}, max: {high}, value: {value}, step: {step}"
        return f"The parameter value for {parameter.name} is not a valid step. {bounds}"
    return ""
