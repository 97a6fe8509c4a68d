"""Names and command lines from anywhere: a result or a documented exception, never anything else."""

from __future__ import annotations

import contextlib
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bevstack.ros import runtime as ros

pytestmark = pytest.mark.skipif(ros.RUNTIME != "embedded", reason="rclpy parses in C; its functions are elsewhere")

_TEXT = st.text(alphabet=string.ascii_letters + string.digits + "_/~{}:=.-*[] \n\t\"'ä", max_size=24)
_FLAGS = ["--ros-args", "--", "-r", "-p", "--remap", "--param", "--params-file", "--log-level", "-e", "--log-config-file"]
_VALUES = ["a:=b", "n:a:=b", "__ns:=/x", "__node:=y", "x:=[1,2]", "debug", "x:=!!bool", "x:=&a[*a]", "--disable-rosout-logs"]
_WORDS = st.sampled_from([*_FLAGS, *_VALUES])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(_WORDS, _TEXT), max_size=8))
def test_any_command_line(words: list[str]) -> None:
    from bevstack.ros.runtime.embedded.arguments import parse_arguments

    try:
        result = parse_arguments(words)
    except RuntimeError:  # RCLInvalidROSArgsError, UnknownROSArgsError
        assert "--ros-args" in words
        return
    assert [word for word in result.rest if word not in words] == []
    if "--ros-args" not in words:
        assert result.rest == words


@settings(max_examples=150, deadline=None)
@given(_TEXT, _TEXT)
def test_any_name_is_refused_or_expands_to_a_full_one(name: str, namespace: str) -> None:
    from bevstack.ros.runtime.embedded import names

    try:
        names.validate_namespace(namespace)
    except ros.exceptions.InvalidNamespaceException:
        namespace = "/ns"
    try:
        names.validate_topic_name(name)
    except ros.exceptions.InvalidTopicNameException:
        return
    try:
        full = names.expand_topic_name(name, "node", namespace)
    except ValueError:
        assert "{" in name
        return
    assert names.validate_full_topic_name(full)
    # A full name is its own expansion.
    assert names.expand_topic_name(full, "other", "/elsewhere") == full


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
def test_any_parameter_file(tmp_path_factory: Any, text: str) -> None:
    from bevstack.ros.runtime.embedded.yaml_params import read_parameter_file

    path: Path = tmp_path_factory.mktemp("params") / "p.yaml"
    path.write_text(text, encoding="utf-8", errors="replace")
    with contextlib.suppress(ValueError):
        read_parameter_file(path)


@pytest.mark.parametrize(
    "text",
    [
        "n:\n  ros__parameters: {a: !!bool 7}",
        "n:\n  ros__parameters: {a: !!timestamp x}",
        "n:\n  ros__parameters: {a: !!python/name:os.system}",
        "n: &x\n  m: *x",
        "n:\n  ros__parameters: &x {a: *x}",
        "n:\n  ros__parameters: {a: " + "[" * 600,
        "n:\n  ros__parameters: {a: !!binary aGVsbG8=}",
    ],
)
def test_nasty_parameter_files(tmp_path: Path, text: str) -> None:
    from bevstack.ros.runtime.embedded.yaml_params import read_parameter_file

    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"p\.yaml"):
        read_parameter_file(path)


def test_a_binary_parameter_file(tmp_path: Path) -> None:
    from bevstack.ros.runtime.embedded.yaml_params import read_parameter_file

    path = tmp_path / "p.yaml"
    path.write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match=r"p\.yaml"):
        read_parameter_file(path)


def test_remove_ros_args() -> None:
    from bevstack.ros.runtime.embedded.arguments import remove_ros_args

    assert remove_ros_args(["prog", "-x", "--ros-args", "-r", "a:=b", "--", "last"]) == ["prog", "-x", "last"]
