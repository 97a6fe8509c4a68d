"""The exceptions of `rclpy.exceptions` (and of rclpy's C++ part), under the same names and with the same constructors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .parameter import Parameter


class NotInitializedException(Exception):
    """`init()` was not called on the context in use, or the context is already shut down."""

    def __init__(self, message: str | None = None) -> None:
        text = "rclpy.init() has not been called"
        super().__init__(f"{text}: {message}" if message else text)


class NoTypeSupportImportedException(Exception):
    """A class without ROS type support was given where a message or service class belongs."""

    def __init__(self) -> None:
        super().__init__("no type_support imported")


class RCLError(RuntimeError):
    """An operation on the middleware failed."""


class InvalidHandle(RuntimeError):
    """An entity was used after it was destroyed."""


class NodeNameNonExistentError(RCLError):
    """The graph has no node of that name."""


class UnsupportedEventTypeError(RCLError):
    """This event is not reported by the middleware in use."""


class RCLInvalidROSArgsError(RCLError):
    """An argument after `--ros-args` cannot be parsed."""


class UnknownROSArgsError(RuntimeError):
    """There is no such argument after `--ros-args`."""


class NameValidationException(Exception):
    """A name breaks the rules of ROS names; the text points at the offending character."""

    def __init__(self, name_type: str, name: str, error_msg: str, invalid_index: int) -> None:
        super().__init__(f"Invalid {name_type}: {error_msg}:\n  '{name}'\n   {' ' * invalid_index}^")
        self.name_type = name_type
        self.name = name
        self.error_msg = error_msg
        self.invalid_index = invalid_index


class InvalidNamespaceException(NameValidationException):
    """A node namespace is invalid."""

    def __init__(self, name: str, error_msg: str, invalid_index: int) -> None:
        super().__init__("namespace", name, error_msg, invalid_index)


class InvalidNodeNameException(NameValidationException):
    """A node name is invalid."""

    def __init__(self, name: str, error_msg: str, invalid_index: int) -> None:
        super().__init__("node name", name, error_msg, invalid_index)


class InvalidTopicNameException(NameValidationException):
    """A topic name is invalid."""

    def __init__(self, name: str, error_msg: str, invalid_index: int) -> None:
        super().__init__("topic name", name, error_msg, invalid_index)


class InvalidServiceNameException(NameValidationException):
    """A service name is invalid."""

    def __init__(self, name: str, error_msg: str, invalid_index: int) -> None:
        super().__init__("service name", name, error_msg, invalid_index)


class ParameterException(Exception):
    """Base of everything that can go wrong with a parameter."""

    def __init__(self, error_msg: str, parameters: str | list[str]) -> None:
        names = [parameters] if isinstance(parameters, str) else list(parameters)
        super().__init__(error_msg, names)
        self.error_msg = error_msg
        self.parameters = names

    def __str__(self) -> str:
        return f"{self.error_msg}: {', '.join(str(name) for name in self.parameters)}"


class ParameterNotDeclaredException(ParameterException):
    """A parameter was used before it was declared."""

    def __init__(self, parameters: str | list[str]) -> None:
        super().__init__("Invalid access to undeclared parameter(s)", parameters)


class ParameterAlreadyDeclaredException(ParameterException):
    """A parameter was declared twice."""

    def __init__(self, parameters: str | list[str]) -> None:
        super().__init__("Parameter(s) already declared", parameters)


class InvalidParameterException(ParameterException):
    """A parameter name is invalid."""

    def __init__(self, parameter_name: str) -> None:
        super().__init__("Invalid parameter name", parameter_name)


class InvalidParameterTypeException(ParameterException):
    """A value has not the type that its parameter was declared with."""

    def __init__(self, desired_parameter: Parameter, expected_type: Parameter.Type) -> None:
        super().__init__(
            f"Trying to set parameter '{desired_parameter.name}' to '{desired_parameter.value}' of type "
            f"'{desired_parameter.type_.name}', expecting type '{getattr(expected_type, 'name', expected_type)}'",
            desired_parameter.name,
        )


class InvalidParameterValueException(ParameterException):
    """A value was refused by its descriptor or by a callback."""

    def __init__(self, parameter: str, value: Any, reason: str) -> None:
        super().__init__(f"Invalid parameter value ({value}) for parameter. Reason: {reason}", parameter)


class ParameterImmutableException(ParameterException):
    """A read-only parameter was to be changed or undeclared."""

    def __init__(self, parameter_name: str) -> None:
        super().__init__("Attempted to modify read-only parameter", parameter_name)


class ParameterUninitializedException(ParameterException):
    """A parameter was declared by type only and has no value yet."""

    def __init__(self, parameter_name: str) -> None:
        super().__init__("The parameter is not initialized", parameter_name)


class ROSInterruptException(Exception):
    """A sleep was cut short because the context was shut down."""

    def __init__(self) -> None:
        super().__init__("rclpy.shutdown() has been called")
