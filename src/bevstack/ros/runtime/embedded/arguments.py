"""`--ros-args` as ROS 2 programs take them: remaps, parameters, parameter files, log levels, enclave."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from .exceptions import NameValidationException, RCLInvalidROSArgsError, UnknownROSArgsError
from .names import Remap
from .yaml_params import ParameterRule, check_value, load_yaml, read_parameter_file

_SWITCHES = {"rosout-logs": "rosout", "stdout-logs": "stdout", "external-lib-logs": "external"}


@dataclass
class RosArguments:
    """What stood between `--ros-args` and `--`, parsed; `rest` is everything else, for the program itself."""

    remaps: list[Remap] = field(default_factory=list)
    parameters: list[ParameterRule] = field(default_factory=list)
    log_levels: dict[str, str] = field(default_factory=dict)  # logger name ("" is the default) -> level
    enclave: str = "/"
    outputs: dict[str, bool] = field(default_factory=lambda: {"rosout": True, "stdout": True, "external": True})
    rest: list[str] = field(default_factory=list)


def _parameter_rule(text: str) -> ParameterRule:
    left, separator, right = text.partition(":=")
    if not separator or not left:
        raise ValueError(f"'{text}' is not a parameter assignment: expected name:=value")
    node, colon, name = left.rpartition(":")
    pattern = f"/{node.strip('/')}" if colon else "/**"
    # A bare node name in an assignment means the node in whatever namespace it runs.
    if colon and not node.startswith("/"):
        pattern = f"/**/{node}"
    return ParameterRule(pattern, {name: check_value(name, load_yaml(right))})


def parse_arguments(args: Sequence[str]) -> RosArguments:
    """Parse a command line.

    Raises `RCLInvalidROSArgsError` for a wrong value and `UnknownROSArgsError` for an argument that ROS does not have.
    """
    result = RosArguments()
    queue = list(args)
    in_ros = False
    while queue:
        word = queue.pop(0)
        if not in_ros:
            if word == "--ros-args":
                in_ros = True
            else:
                result.rest.append(word)
            continue
        if word == "--":
            in_ros = False
            continue
        if word == "--ros-args":
            continue
        try:
            _parse_one(result, word, queue)
        except (ValueError, NameValidationException) as error:
            raise RCLInvalidROSArgsError(f"Couldn't parse ROS argument '{word}': {' '.join(str(error).split())}") from error
    return result


def _parse_one(result: RosArguments, word: str, queue: list[str]) -> None:
    def value() -> str:
        if not queue or queue[0] == "--":
            raise ValueError("a value must follow")
        return queue.pop(0)

    if word in ("-r", "--remap"):
        result.remaps.append(Remap.parse(value()))
    elif word in ("-p", "--param"):
        result.parameters.append(_parameter_rule(value()))
    elif word == "--params-file":
        result.parameters.extend(read_parameter_file(value()))
    elif word == "--log-level":
        logger, separator, level = value().rpartition(":=")
        if level.upper() not in ("DEBUG", "INFO", "WARN", "WARNING", "ERROR", "FATAL", "UNSET"):
            raise ValueError(f"'{level}' is not a log level: use debug, info, warn, error or fatal")
        result.log_levels[logger if separator else ""] = level
    elif word in ("-e", "--enclave"):
        result.enclave = value()
    elif word == "--log-config-file":
        value()  # the embedded logger has no configuration file; ROS accepts and ignores an unknown one too
    elif (switch := re.fullmatch(r"--(enable|disable)-(rosout-logs|stdout-logs|external-lib-logs)", word)) is not None:
        result.outputs[_SWITCHES[switch.group(2)]] = switch.group(1) == "enable"
    else:
        raise UnknownROSArgsError(f"Found unknown ROS arguments: [{word!r}]")


def remove_ros_args(args: Sequence[str] | None = None) -> list[str]:
    """`args` (default: `sys.argv`) without everything that stands in a `--ros-args ... --` section."""
    import sys

    return parse_arguments(sys.argv if args is None else args).rest
