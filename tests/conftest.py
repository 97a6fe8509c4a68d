"""Fixtures used all over the suite."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of test data beside the checkout (non-commercial licences: never part of the repository)."""
    path = Path(os.environ.get("BEVSTACK_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not path.is_dir():
        pytest.skip(f"test data not found at {path}: put the shared folder beside the checkout or set BEVSTACK_SHARED")
    return path


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden-dir", default=None, help="run tests/golden on another folder of golden/fastbev's layout")
