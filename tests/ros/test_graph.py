"""One graph, two launchers: the same arguments, nodes and parameters; files that name what exists."""

from __future__ import annotations

import json
import runpy
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from bevstack.frames.source import open_source
from bevstack.ros import launcher, parameter_files
from bevstack.ros.graph import BEV, GRAPHS, Graph, LaunchError, Ref, parse_arguments, resolve
from bevstack.ros.nodes.bev_node import BevNode
from bevstack.ros.nodes.camera_node import CameraNode
from bevstack.ros.nodes.parameters import table
from bevstack.ros.runtime import init, ok, shutdown

TOP = Path(__file__).resolve().parents[2]
EXPECTED_ARGUMENTS = {"namespace", "params_file", "use_sim_time", "cameras", "image_topic_template", "image_transport"}
EXPECTED_ARGUMENTS |= {"camera_info_url", "model", "engine", "score_threshold", "output_frame", "rviz", "rviz_config", "debug"}
EXPECTED_ARGUMENTS |= {"log_level", "build_only", "bag", "record", "web_port"}


@pytest.fixture
def ros(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("BEVSTACK_WIRE", "off")
    init(args=[])
    yield
    if ok():
        shutdown()


def named(nodes: list[Any]) -> dict[str, Any]:
    return {node.name: node for node in nodes}


def test_arguments_users_expect() -> None:
    assert {a.name for a in BEV.arguments} >= EXPECTED_ARGUMENTS
    for graph in GRAPHS.values():
        assert len({a.name for a in graph.arguments}) == len(graph.arguments)
        for argument in graph.arguments:
            assert argument.description
            assert not argument.choices or argument.default in argument.choices


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=list(GRAPHS))
def test_every_parameter_exists(graph: Graph) -> None:
    """A graph sets no parameter that its node does not declare, and refers to no argument that it does not have."""
    import importlib

    arguments = {a.name for a in graph.arguments}
    for node in graph.nodes:
        refs = [v.argument for v in (*node.parameters.values(), *node.arguments) if isinstance(v, Ref)]
        assert {*refs, *(c.argument for c in node.conditions)} <= arguments
        if node.target:
            module, _, name = node.target.partition(":")
            loaded = importlib.import_module(module)
            assert hasattr(loaded, name)
            declared = {spec.name for spec in loaded.PARAMETERS} | {"use_sim_time"}
            assert set(node.parameters) <= declared, f"{graph.name}: {node.name}"


def test_conditions_choose_the_nodes() -> None:
    assert set(named(resolve(BEV, {}))) == {"bev_node"}
    chosen = named(resolve(BEV, {"source": "sim:seed=3", "record": "out", "web_port": "8080", "rviz": "true"}))
    assert set(chosen) == {"bev_node", "camera_node", "recorder", "viewer", "rviz2"}
    assert chosen["camera_node"].source
    assert chosen["recorder"].parameters["path"] == "out"
    assert chosen["viewer"].parameters["port"] == 8080
    assert set(named(resolve(BEV, {"bag": "drive", "build_only": "true"}))) == {"bev_node"}


def test_values_are_typed_and_empty_ones_left_to_the_file() -> None:
    bev = named(resolve(BEV, {"cameras": "a,b", "score_threshold": "0.25", "debug": "true"}))["bev_node"]
    assert bev.parameters["cameras"] == ["a", "b"]
    assert bev.parameters["score_threshold"] == 0.25
    assert bev.parameters["debug"] is True
    assert "model" not in bev.parameters
    assert named(resolve(BEV, {"cameras": "[x, y]"}))["bev_node"].parameters["cameras"] == ["x", "y"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"speed": "1"}, "no argument 'speed'"),
        ({"image_transport": "pigeon"}, "image_transport is 'pigeon'"),
        ({"score_threshold": "high"}, "must be a number"),
        ({"source": "sim", "rate": "fast"}, "must be a number"),
    ],
)
def test_wrong_arguments_say_what_is_wrong(values: dict[str, str], words: str) -> None:
    with pytest.raises(LaunchError, match=words):
        resolve(BEV, values)


def test_command_line() -> None:
    assert parse_arguments(["source:=sim:seed=1,rate=5", "record:="]) == {"source": "sim:seed=1,rate=5", "record": ""}
    with pytest.raises(LaunchError, match="name:=value"):
        parse_arguments(["record=out"])
    with pytest.raises(LaunchError, match="no graph 'moon'"):
        launcher.launch("moon", [])


def test_show_args(capsys: pytest.CaptureFixture[str]) -> None:
    assert launcher.launch("bev", [], show_args=True) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Arguments (pass arguments as '<name>:=<value>'):")
    for argument in BEV.arguments:
        assert f"    '{argument.name}':" in shown
        assert argument.description in shown
    assert "Valid choices are: ['raw', 'compressed']" in shown


class Recorded:
    """A launch action or substitution that remembers how it was made."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args, self.kwargs = args, kwargs

    def perform(self, context: dict[str, str]) -> str:
        return context[self.args[0]]


@pytest.fixture
def fake_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for ROS's launch packages: just enough to see what a launch file asks for."""
    names = {
        "launch": ["LaunchDescription"],
        "launch.actions": ["DeclareLaunchArgument", "OpaqueFunction"],
        "launch.substitutions": ["LaunchConfiguration"],
        "launch_ros": [],
        "launch_ros.actions": ["Node"],
    }
    for module, classes in names.items():
        made = ModuleType(module)
        for name in classes:
            setattr(made, name, type(name, (Recorded,), {}))
        monkeypatch.setitem(sys.modules, module, made)


@pytest.mark.parametrize("name", list(GRAPHS))
def test_launch_file_is_the_same_graph(fake_launch: None, name: str) -> None:
    graph = GRAPHS[name]
    file = TOP / "launch" / f"{name}.launch.py"
    description = runpy.run_path(str(file))["generate_launch_description"]()
    *arguments, function = description.args[0]
    assert [a.args[0] for a in arguments] == [a.name for a in graph.arguments]
    for made, argument in zip(arguments, graph.arguments, strict=True):
        assert made.kwargs["description"] == argument.description
        assert made.kwargs["choices"] == (list(argument.choices) or None)
    defaults = {a.args[0]: a.kwargs["default_value"] for a in arguments}
    assert defaults["params_file"] == str(TOP / "launch/params/bev.yaml")
    assert defaults["rviz_config"] == str(TOP / "launch/rviz/bev.rviz")
    values = defaults | {"rviz": "true", "namespace": "car", "bag": "drive", "record": "out", "log_level": "debug"}
    nodes = {n.kwargs["name"]: n.kwargs for n in function.kwargs["function"](values)}
    expected = named(resolve(graph, values))
    assert set(nodes) == set(expected)
    bev = nodes["bev_node"]
    assert (bev["package"], bev["executable"], bev["namespace"]) == ("stack", "bev_node", "car")
    assert bev["parameters"] == [defaults["params_file"], dict(expected["bev_node"].parameters)]
    assert bev["ros_arguments"] == ["--log-level", "debug"]
    assert nodes["rviz2"]["arguments"] == ["-d", defaults["rviz_config"]]


def test_executables_are_entry_points() -> None:
    """What the graphs start is what the ROS package installs."""
    setup = (TOP / "ros_ws/src/stack/setup.py").read_text()
    for graph in GRAPHS.values():
        for node in graph.nodes:
            if node.package == "stack":
                assert f"'{node.executable} = {node.target.partition(':')[0]}:main'" in setup


def test_processes_get_the_same_values(tmp_path: Path) -> None:
    node = named(resolve(BEV, {"source": "sim:seed=1", "namespace": "car", "cameras": "a,b", "rate": "2"}))["camera_node"]
    words = launcher.command_line(node)
    assert words[1:3] == ["-m", "bevstack.ros.nodes.camera_node"]
    assert "__ns:=/car" in words
    given = {w.partition(":=")[0]: yaml.safe_load(w.partition(":=")[2]) for w in words if ":=" in w}
    assert given["source"] == "sim:seed=1"
    assert given["cameras"] == ["a", "b"]
    assert given["rate"] == 2.0
    assert isinstance(given["rate"], float)


def test_parameter_files_are_up_to_date() -> None:
    """Change a node's table, then: python -m bevstack.ros.parameter_files launch/params"""
    assert (TOP / "launch/params/bev.yaml").read_text() == parameter_files.parameters_yaml()
    assert (TOP / "launch/params/bev.schema.json").read_text() == parameter_files.parameters_schema()


def test_parameter_file_holds_the_defaults(ros: None) -> None:
    """A node that reads the file is the node without it, and its types are what the declarations want."""
    values = yaml.safe_load((TOP / "launch/params/bev.yaml").read_text())
    schema = json.loads((TOP / "launch/params/bev.schema.json").read_text())
    for key, content in values.items():
        assert set(content["ros__parameters"]) <= set(schema["properties"][key]["properties"]["ros__parameters"]["properties"])
    arguments = ["--ros-args", "--params-file", str(TOP / "launch/params/bev.yaml")]
    with_file, without = BevNode(cli_args=arguments, namespace="/car"), BevNode()
    try:
        for spec in parameter_files.TABLES["bev_node"]:
            assert with_file.get_parameter(spec.name).value == without.get_parameter(spec.name).value
    finally:
        with_file.destroy_node()
        without.destroy_node()


def test_rviz_shows_what_is_published(ros: None) -> None:
    content = yaml.safe_load((TOP / "launch/rviz/bev.rviz").read_text())
    displays = content["Visualization Manager"]["Displays"]
    bev, camera = BevNode(), CameraNode(source=open_source("sim:seed=1,duration=0.1,image_width=80"))
    try:
        bev._configure_publishers()
        published = {topic for topic, _ in bev.get_topic_names_and_types()}
    finally:
        camera.destroy_node()
        bev.destroy_node()
    topics = [d["Topic"]["Value"] for d in displays if "Topic" in d]
    assert len(topics) == 7
    assert set(topics) <= published
    assert {d["Class"].rpartition("/")[2] for d in displays} == {"Grid", "TF", "MarkerArray", "Image"}
    assert content["Visualization Manager"]["Global Options"]["Fixed Frame"] == "base_link"


@pytest.mark.parametrize("package", ["stack", "stack_msgs"])
def test_package_xml(package: str) -> None:
    folder = TOP / "ros_ws/src" / package
    text = (folder / "package.xml").read_text()
    assert "xml-model" in text.splitlines()[1]
    root = ET.fromstring(text)
    assert root.get("format") == "3"
    assert root.findtext("name") == package
    assert root.findtext("license") == "Apache-2.0"
    maintainer = root.find("maintainer")
    assert maintainer is not None
    assert "@" in str(maintainer.get("email"))
    assert root.findtext("export/build_type") == ("ament_python" if package == "stack" else "ament_cmake")


def test_messages_are_listed_for_the_generator() -> None:
    folder = TOP / "ros_ws/src/stack_msgs"
    cmake = (folder / "CMakeLists.txt").read_text()
    for file in folder.rglob("*.msg"):
        assert f'"msg/{file.name}"' in cmake


def test_documentation_has_all_parameters_and_arguments() -> None:
    """docs/ros2.md holds the tables as the code makes them."""
    page = (TOP / "docs/ros2.md").read_text()
    for specs in parameter_files.TABLES.values():
        assert table(specs) in page
    for argument in BEV.arguments:
        assert f"| `{argument.name}` |" in page
        assert argument.description in page


def test_compose_file_names_what_exists() -> None:
    services = yaml.safe_load((TOP / "docker/compose.yaml").read_text())["services"]
    for service in services.values():
        assert (TOP / service["build"]["dockerfile"]).is_file()
        values = parse_arguments([w for w in service["command"].split() if ":=" in w])
        assert resolve(BEV, values)
