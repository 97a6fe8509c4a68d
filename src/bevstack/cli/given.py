"""Which parameters of a command somebody gave: a default that nobody asked for must not override what a run was begun with."""

from __future__ import annotations

from collections.abc import Iterable

import typer


def given(context: typer.Context, **fields: str | Iterable[str]) -> frozenset[str]:
    """Names of the parameters that were given on the command line or in the environment.

    Args:
        fields: what a parameter is called by the one who asks, where that is not its own name; one name or several.
    """
    names: set[str] = set()
    for name in context.params:
        source = context.get_parameter_source(name)
        if source is not None and source.name in ("COMMANDLINE", "ENVIRONMENT"):
            other = fields.get(name, name)
            names |= {other} if isinstance(other, str) else set(other)
    return frozenset(names)
