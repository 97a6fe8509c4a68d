"""ros2 launch stack replay.launch.py: the graph that ``bevstack launch replay`` runs, with the same arguments."""

from pathlib import Path

from bevstack.ros.graph import REPLAY
from bevstack.ros.launch_actions import describe_launch


def generate_launch_description():
    """All arguments and nodes."""
    return describe_launch(REPLAY, Path(__file__).parent)
