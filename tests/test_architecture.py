"""The floors of docs/architecture.md hold: no upward import, no torch below, a fast import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import bevstack

PACKAGE = Path(bevstack.__file__).parent
FLOORS = {
    "geometry": 0, "nn": 0,
    "frames": 1, "engine": 1, "thermal": 1,
    "bev": 2, "detect": 2, "codec": 2,
    "telemetry": 3, "learn": 3,
    "ros": 4,
    "viewer": 5, "cli": 5,
}  # fmt: skip
SHARED_MODULES = {"errors", "pipe", "__init__"}  # outside the floors: every room may use them


def imported_rooms(path: Path) -> set[str]:
    """Rooms of bevstack that a module imports anywhere, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
            base = ".".join(parts[: len(parts) - node.level])
            names.add(f"{base}.{node.module}" if node.module else base)
    return {name.split(".")[1] for name in names if name.startswith("bevstack.")}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_import_goes_up(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0]
    if room not in FLOORS:
        assert room.removesuffix(".py") in SHARED_MODULES, f"{room} has no floor: give it one in docs/architecture.md"
        return
    for other in imported_rooms(path) & FLOORS.keys():
        assert FLOORS[other] <= FLOORS[room], f"{path.name} (floor {FLOORS[room]}) imports {other} (floor {FLOORS[other]})"


@pytest.mark.parametrize("module", ["bevstack", "bevstack.geometry", "bevstack.frames", "bevstack.ros.runtime"])
def test_imports_without_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit(any(m in sys.modules for m in ('torch', 'onnxruntime', 'onnx')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_bevstack_imports_fast() -> None:
    code = "import time; t = time.process_time(); import bevstack; print(time.process_time() - t)"
    seconds = min(float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(3))
    assert seconds < 0.3
