"""A graph as a ROS launch description. Needs ROS's ``launch`` and ``launch_ros`` (or, in tests, stand-ins for them)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .graph import Graph, ResolvedNode, resolve


def describe_launch(graph: Graph, folder: Path) -> Any:
    """``launch.LaunchDescription`` with the graph's arguments and nodes.

    Args:
        graph: what to launch.
        folder: of the launch file; parameter and rviz files beside it become the defaults of their arguments.
    """
    from launch import LaunchDescription  # type: ignore[attr-defined]
    from launch.actions import DeclareLaunchArgument, OpaqueFunction
    from launch.substitutions import LaunchConfiguration

    # Installed, all files lie flat in share/stack/{launch,params,rviz}; in the source tree params and rviz are in launch/.
    roots = (folder, folder.parent)
    found = {
        name: str(path)
        for name, place in (("params_file", "params/bev.yaml"), ("rviz_config", "rviz/bev.rviz"))
        for path in [next((root / place for root in roots if (root / place).is_file()), None)]
        if path is not None
    }
    graph = graph.with_defaults(found)

    def nodes(context: Any) -> list[Any]:
        values = {a.name: LaunchConfiguration(a.name).perform(context) for a in graph.arguments}
        return [_action(node) for node in resolve(graph, values)]

    arguments = [
        DeclareLaunchArgument(a.name, default_value=a.default, description=a.description, choices=list(a.choices) or None)
        for a in graph.arguments
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=nodes)])


def _action(node: ResolvedNode) -> Any:
    from launch_ros.actions import Node

    parameters: list[Any] = [node.params_file] if node.params_file else []
    values = {name: value for name, value in node.parameters.items() if value != []}
    return Node(
        package=node.package,
        executable=node.executable,
        name=node.name,
        namespace=node.namespace,
        parameters=[*parameters, values] if values else parameters,
        remappings=list(node.remappings),
        arguments=list(node.arguments),
        ros_arguments=["--log-level", node.log_level],
        output="screen",
    )
