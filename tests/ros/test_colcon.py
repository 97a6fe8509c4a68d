"""``colcon build`` of the ROS package, with colcon from the Python index and no ROS."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
COLCON = Path(sys.executable).with_name("colcon")
PROGRAMS = [
    "bev_node", "camera_node", "decoder_node", "detect_node", "encoder_node", "governor_node", "player", "recorder", "viewer",
]  # fmt: skip


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The install folder."""
    if not COLCON.exists():
        pytest.skip("colcon is not installed: pip install colcon-common-extensions")
    workspace = tmp_path_factory.mktemp("ws")
    command = [str(COLCON), "build", "--base-paths", str(TOP / "ros_ws/src"), "--packages-select", "stack"]
    path = f"{COLCON.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(command, cwd=workspace, capture_output=True, text=True, timeout=110, env={**os.environ, "PATH": path})
    assert done.returncode == 0, done.stdout + done.stderr
    return workspace / "install"


def test_files_are_installed(installed: Path) -> None:
    share = installed / "stack/share/stack"
    for name in ("bev.launch.py", "replay.launch.py"):
        assert (share / "launch" / name).read_bytes() == (TOP / "launch" / name).read_bytes()
    for name in ("params/bev.yaml", "params/bev.schema.json", "rviz/bev.rviz"):
        assert (share / name).read_bytes() == (TOP / "launch" / name).read_bytes()
    assert (share / "package.xml").is_file()
    assert (installed / "stack/share/ament_index/resource_index/packages/stack").is_file()


def test_entry_points_run(installed: Path) -> None:
    """Each one starts, refuses an impossible parameter in one line, and says so with its exit code."""
    library = installed / "stack/lib/stack"
    assert sorted(p.name for p in library.iterdir()) == PROGRAMS
    setup = "install/setup.bash"
    command = f"source {setup} && exec {library}/bev_node --ros-args -p sync:=luck"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=installed.parent,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "BEVSTACK_WIRE": "off"},
    )
    assert done.returncode == 2, done.stderr
    assert "sync is 'luck'" in done.stderr
    assert "Traceback" not in done.stderr


def test_launch_files_find_what_is_installed_beside_them(installed: Path, tmp_path: Path) -> None:
    """The defaults of params_file and rviz_config are the installed files, also when the package was moved."""
    share = shutil.copytree(installed / "stack/share/stack", tmp_path / "stack")
    program = (
        "import sys, runpy\nfrom types import ModuleType\n"
        "class R:\n    def __init__(s, *a, **k): s.a, s.k = a, k\n"
        "for m, names in {'launch': ['LaunchDescription'], 'launch.actions': ['DeclareLaunchArgument', 'OpaqueFunction'],"
        " 'launch.substitutions': ['LaunchConfiguration']}.items():\n"
        "    sys.modules[m] = made = ModuleType(m)\n    for n in names: setattr(made, n, R)\n"
        f"found = runpy.run_path({str(share / 'launch/bev.launch.py')!r})['generate_launch_description']()\n"
        "print(*[a.k['default_value'] for a in found.a[0][:-1] if a.a[0] in ('params_file', 'rviz_config')])\n"
    )
    shown = subprocess.check_output([sys.executable, "-c", program], text=True, cwd=tmp_path).split()
    assert shown == [str(share / "params/bev.yaml"), str(share / "rviz/bev.rviz")]
