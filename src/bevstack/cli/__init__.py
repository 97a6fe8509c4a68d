"""Floor 5: the ``bevstack`` command. Nothing heavy is imported before a command needs it."""

import sys


def command() -> None:
    """Entry point of the ``bevstack`` command. Ctrl-C before there is anything to end cleanly: exit code 130, no traceback."""
    try:
        from .main import app

        app()
    except KeyboardInterrupt:
        sys.exit(130)
