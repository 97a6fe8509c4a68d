"""Every command that a page shows in a block is one that can be typed: the command, its options and its choices exist."""

from __future__ import annotations

import re
import shlex
from functools import lru_cache
from pathlib import Path
from typing import Any

import click
import pytest
import typer

from bevstack.cli.main import app
from bevstack.engine.names import ENGINES
from bevstack.ros.graph import graph_named, parse_arguments, resolve

TOP = Path(__file__).resolve().parents[2]
PAGES = sorted([*TOP.glob("docs/*.md"), *TOP.glob("weights/*.md"), TOP / "README.md"])


@lru_cache
def root() -> Any:
    """The whole command: every room's options are read, which takes a moment."""
    return typer.main.get_command(app)


def commands(text: str) -> list[str]:
    """The bevstack commands in a page's blocks; comments, [options] and whatever comes after a pipe left out."""
    found = []
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            shown = re.match(r"^\s*(?:[A-Z_]+=\S+ |sudo |time )*(?:\S+/)?bevstack (\S.*)$", line)
            if shown:
                found.append(re.sub(r"\[.*?\]", "", re.split(r"\s+#|\s+\||\s+&&|;", shown.group(1))[0]).strip())
    return found


def parse(command: str) -> None:
    """Raises click's error for what cannot be typed, LaunchError for a launch argument that no graph has."""
    words = shlex.split(command)
    if words[0] == "launch":
        graph = graph_named(words[1])
        values = parse_arguments([word for word in words[2:] if not word.startswith("-")])
        values.pop("processes", None)  # of the launcher, not of the graph
        resolve(graph, values)
        return
    current = root()
    context = click.Context(current, info_name="bevstack")
    while hasattr(current, "commands"):
        name, *words = words
        current = current.get_command(context, name)
        assert current is not None, f"there is no command {name!r}"
        context = click.Context(current, info_name=name, parent=context)
    current.parse_args(context, words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_a_page_can_be_typed(page: Path) -> None:
    wrong = {}
    for command in commands(page.read_text()):
        try:
            parse(command)
        except (click.exceptions.Exit, SystemExit):  # --help
            continue
        except Exception as error:  # noqa: BLE001 - all are told together
            wrong[command] = f"{type(error).__name__}: {getattr(error, 'message', error)}"
    assert not wrong


def test_the_pages_have_commands_and_wrong_ones_are_found() -> None:
    assert sum(len(commands(page.read_text())) for page in PAGES) > 60
    for command in ("weights siezs", "run sim: --presicion int8", "eval fastbev --engine magic", "launch bev modle:=x"):
        with pytest.raises(Exception, match=r"siezs|presicion|magic|modle"):
            parse(command)


def test_scoring_takes_every_engine() -> None:
    for engine in ENGINES:
        parse(f"eval fastbev --engine {engine}")
