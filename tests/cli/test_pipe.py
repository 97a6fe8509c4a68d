"""Module commands end quietly when their reader leaves."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest


@pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="no SIGPIPE on this system")
def test_a_reader_that_leaves_ends_the_program_in_silence() -> None:
    code = "from bevstack.pipe import end_with_reader; end_with_reader()\nfor k in range(100000): print(k)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        assert program.stdout.readline() == "0\n"
        program.stdout.close()
        assert program.wait(30) == -signal.SIGPIPE
        assert program.stderr.read() == ""
