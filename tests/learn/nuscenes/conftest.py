"""A tiny nuScenes folder in the devkit's table format, as the reader's own tests make it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

_FILE = Path(__file__).resolve().parents[2] / "frames" / "test_nuscenes.py"


def _reader_tests() -> ModuleType:
    spec = importlib.util.spec_from_file_location("nuscenes_tree", _FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """On a busy machine, threads that wait for each other in every small operation take a hundred times as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes of three samples; in the second one the car has no LiDAR points, so that samples differ in their boxes."""
    root: Path = _reader_tests().Tree(tmp_path_factory.mktemp("data") / "nuscenes").root
    table = root / "v1.0-tiny" / "sample_annotation.json"
    rows = json.loads(table.read_text())
    for row in rows:
        if row["instance_token"] == "i10":
            row["num_lidar_pts"] = 0
    table.write_text(json.dumps(rows))
    return root
