"""ros2 launch stack bev.launch.py: the graph that ``bevstack launch bev`` runs, with the same arguments."""

from pathlib import Path

from bevstack.ros.graph import BEV
from bevstack.ros.launch_actions import describe_launch


def generate_launch_description():
    """All arguments and nodes."""
    return describe_launch(BEV, Path(__file__).parent)
