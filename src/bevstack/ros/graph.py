"""The graphs that can be launched, as plain data: arguments, nodes, parameters, remappings, conditions.

Two launchers read them: ``ros2 launch stack bev.launch.py`` (``launch/*.launch.py`` turns them into launch actions) and
``bevstack launch bev key:=value`` (``ros.launcher`` runs them without the launch package). Nothing here imports ROS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import yaml

from bevstack.engine.names import ENGINES, PRECISIONS
from bevstack.errors import BevstackError

Value = bool | int | float | str | list[str]
Kind = Literal["str", "int", "float", "bool", "list"]

DEFAULT_CAMERAS = "cam_front,cam_front_right,cam_front_left,cam_back,cam_back_left,cam_back_right"
# What a recorder leaves out unless told otherwise: uncompressed images, which fill a disk in minutes, and debug images, which
# are only drawn when somebody listens.
NOT_RECORDED = r".*/image_(raw|rect|rect_color|color|mono)|.*/image_decoded(/compressed)?|.*/debug/image_[^/]+/compressed"


class LaunchError(BevstackError):
    """An argument that no graph has, a value that it cannot take, or a graph that does not exist."""


@dataclass(frozen=True)
class Argument:
    """A launch argument: always text, as in ROS's launch; ``choices`` limits it."""

    name: str
    default: str
    description: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ref:
    """The value of a launch argument, as a parameter of type ``kind``. An empty value leaves the parameter out."""

    argument: str
    kind: Kind = "str"


@dataclass(frozen=True)
class When:
    """True if the argument's value equals (or, with ``negate``, differs from) ``value``."""

    argument: str
    value: str
    negate: bool = False

    def holds(self, values: Mapping[str, str]) -> bool:
        return (values[self.argument] == self.value) != self.negate


@dataclass(frozen=True)
class NodeSpec:
    """One node (or foreign program) of a graph.

    Attributes:
        name: node name.
        executable: entry point in ROS package ``package``.
        target: ``module:Class`` for the launcher without ROS; "" for a foreign program.
        package: ROS package.
        parameters: name to value or ``Ref``.
        remappings: (from, to).
        conditions: all must hold.
        arguments: command line of a foreign program.
        source: produces data: it is started last, when everybody listens.
    """

    name: str
    executable: str
    target: str
    package: str = "stack"
    parameters: Mapping[str, Value | Ref] = field(default_factory=dict)
    remappings: tuple[tuple[str, str], ...] = ()
    conditions: tuple[When, ...] = ()
    arguments: tuple[str | Ref, ...] = ()
    source: bool = False


@dataclass(frozen=True)
class Graph:
    """A named set of nodes and the arguments that shape it."""

    name: str
    description: str
    arguments: tuple[Argument, ...]
    nodes: tuple[NodeSpec, ...]

    def with_defaults(self, defaults: Mapping[str, str]) -> Graph:
        """The same graph with other default values (a launch file knows where its own files are)."""
        return replace(self, arguments=tuple(replace(a, default=defaults.get(a.name, a.default)) for a in self.arguments))


@dataclass(frozen=True)
class ResolvedNode:
    """A node with all values filled in; fields as in ``NodeSpec``."""

    name: str
    namespace: str
    package: str
    executable: str
    target: str
    parameters: Mapping[str, Value]
    remappings: tuple[tuple[str, str], ...]
    params_file: str
    log_level: str
    arguments: tuple[str, ...]
    source: bool


def resolve(graph: Graph, values: Mapping[str, str]) -> list[ResolvedNode]:
    """The nodes that run with these argument values; arguments that are not given have their defaults.

    Raises:
        LaunchError: an unknown argument, a value outside its choices or of another type.
    """
    known = {argument.name: argument for argument in graph.arguments}
    unknown = [name for name in values if name not in known]
    if unknown:
        raise LaunchError(f"{graph.name} has no argument {unknown[0]!r}: it has {', '.join(known)}")
    filled = {name: str(values.get(name, argument.default)) for name, argument in known.items()}
    for name, argument in known.items():
        if argument.choices and filled[name] not in argument.choices:
            raise LaunchError(f"argument {name} is {filled[name]!r}: use one of {', '.join(map(repr, argument.choices))}")
    nodes = []
    for spec in graph.nodes:
        if not all(condition.holds(filled) for condition in spec.conditions):
            continue
        parameters: dict[str, Value] = {}
        for name, value in spec.parameters.items():
            if isinstance(value, Ref):
                if filled[value.argument] != "":
                    parameters[name] = _typed(value, filled[value.argument])
            else:
                parameters[name] = value
        nodes.append(
            ResolvedNode(
                spec.name,
                filled.get("namespace", ""),
                spec.package,
                spec.executable,
                spec.target,
                parameters,
                spec.remappings,
                filled.get("params_file", ""),
                filled.get("log_level", "info"),
                tuple(filled[a.argument] if isinstance(a, Ref) else a for a in spec.arguments),
                spec.source,
            )
        )
    return nodes


def parse_arguments(words: Sequence[str]) -> dict[str, str]:
    """``["bag:=drive", "rate:=2"]`` to a mapping. Raises LaunchError for a word without ``:=``."""
    values = {}
    for word in words:
        name, separator, value = word.partition(":=")
        if not separator or not name:
            raise LaunchError(f"argument {word!r} is not of the form name:=value")
        values[name] = value
    return values


def describe(graph: Graph) -> str:
    """All arguments as text, laid out as ``ros2 launch --show-args`` does."""
    lines = ["Arguments (pass arguments as '<name>:=<value>'):"]
    for argument in graph.arguments:
        choices = f" Valid choices are: {list(argument.choices)}" if argument.choices else ""
        lines += [
            "",
            f"    '{argument.name}':",
            f"        {argument.description}{choices}",
            f"        (default: {argument.default!r})",
        ]
    return "\n".join(lines)


def _typed(ref: Ref, text: str) -> Value:
    try:
        if ref.kind == "int":
            return int(text)
        if ref.kind == "float":
            return float(text)
    except ValueError:
        raise LaunchError(f"argument {ref.argument} is {text!r}: it must be a number ({ref.kind})") from None
    if ref.kind == "bool":
        if text.lower() not in ("true", "false", "1", "0"):
            raise LaunchError(f"argument {ref.argument} is {text!r}: use true or false")
        return text.lower() in ("true", "1")
    if ref.kind == "list":
        return _names(ref, text)
    return text


def _names(ref: Ref, text: str) -> list[str]:
    """``a,b`` or a YAML list ``[a, b]``."""
    if text.startswith("["):
        try:
            loaded = yaml.safe_load(text)
        except yaml.YAMLError:
            loaded = None
        if not isinstance(loaded, list):
            raise LaunchError(f"argument {ref.argument} is {text!r}: write names as a,b,c or [a, b, c]")
        return [str(entry) for entry in loaded]
    return [entry.strip() for entry in text.split(",") if entry.strip()]


_BOOLEAN = ("true", "false")

_COMMON = (
    Argument("namespace", "", "namespace of all nodes"),
    Argument("params_file", "", "YAML file with parameters; arguments given here override it"),
    Argument("use_sim_time", "false", "take the time from /clock", _BOOLEAN),
    Argument("cameras", "", "names of the cameras, comma separated, the reference first; empty: nuScenes' six"),
    Argument("image_topic_template", "", "base image topic of a camera; empty: {camera}/image_raw"),
    Argument("image_transport", "compressed", "form of the images", ("raw", "compressed")),
    Argument("camera_info_url", "", "camera calibration files (file:///path/{camera}.yaml) for cameras without camera_info"),
    Argument("rig_file", "", "YAML file with calibration and mounting of cameras that have no camera_info or tf"),
    Argument("model", "", "bundled model or path of a weights file; empty: as in params_file"),
    Argument("engine", "", "what runs the networks; empty: as in params_file", ("", *ENGINES)),
    Argument("precision", "", "numbers inside the BEV network; empty: as in params_file", PRECISIONS),
    Argument("bev", "true", "boxes in bird's-eye view", _BOOLEAN),
    Argument("detect", "false", "boxes in the camera images (2D)", _BOOLEAN),
    Argument("detect_model", "", "2D model: bundled or path of a weights file; empty: as in params_file"),
    Argument("detect_size", "", "input of the 2D model as 1280x768, multiples of 128; empty: as in params_file"),
    Argument("encode", "false", "publish the cameras as learned streams, {camera}/image_raw/vtc1", _BOOLEAN),
    Argument("codec", "", "codec of the streams: bundled or path of a weights file; empty: as in params_file"),
    Argument("codec_quality", "", "quality of the streams, 0 to 100; empty: as in params_file"),
    Argument(
        "codec_regions",
        "",
        "boxes that the streams give more bits to, as detect_node/{camera}/detections_2d; empty: as in params_file",
    ),
    Argument("decode", "false", "publish learned streams as pictures again", _BOOLEAN),
    Argument("decoded_topic_template", "", "base topic of decoded pictures; empty: {camera}/image_decoded"),
    Argument("governor", "false", "change model sizes by heat, so that nothing is throttled", _BOOLEAN),
    Argument("governor_ladders", "", "YAML file with ladders for the governor; empty: as in params_file"),
    Argument("governor_calibration", "", "thermal calibration of this machine; empty: as in params_file"),
    Argument("score_threshold", "", "boxes below this score are not published; empty: as in params_file"),
    Argument("sync", "", "synchroniser: approximate or anchor; empty: as in params_file", ("", "approximate", "anchor")),
    Argument("output_frame", "", "frame of the boxes; empty: base_link"),
    Argument("debug", "false", "draw boxes into debug images even if nobody listens", _BOOLEAN),
    Argument("rviz", "false", "start rviz (where ROS is installed)", _BOOLEAN),
    Argument("rviz_config", "", "rviz configuration file"),
    Argument("build_only", "false", "prepare the engine for every rung and exit", _BOOLEAN),
    Argument("record_stamps", "receive", "time of recorded messages: when received, or their own", ("receive", "header")),
    Argument("record", "", "folder of a bag to record; empty: do not record"),
    Argument("web_port", "0", "port of the page; 0: no page"),
    Argument("log_level", "info", "lowest severity that is logged", ("debug", "info", "warn", "error", "fatal")),
)

_TIME: Mapping[str, Value | Ref] = {"use_sim_time": Ref("use_sim_time", "bool")}
_CAMERAS: Mapping[str, Value | Ref] = {
    "cameras": Ref("cameras", "list"),
    "image_topic_template": Ref("image_topic_template"),
    "image_transport": Ref("image_transport"),
    "rig_file": Ref("rig_file"),
}

_BEV = NodeSpec(
    "bev_node",
    "bev_node",
    "bevstack.ros.nodes.bev_node:BevNode",
    parameters={
        **_TIME,
        **_CAMERAS,
        "camera_info_url": Ref("camera_info_url"),
        "model": Ref("model"),
        "engine": Ref("engine"),
        "precision": Ref("precision"),
        "score_threshold": Ref("score_threshold", "float"),
        "sync": Ref("sync"),
        "output_frame": Ref("output_frame"),
        "debug": Ref("debug", "bool"),
        "build_only": Ref("build_only", "bool"),
    },
    conditions=(When("bev", "true"),),
)
_DETECT = NodeSpec(
    "detect_node",
    "detect_node",
    "bevstack.ros.nodes.detect_node:DetectNode",
    parameters={
        **_TIME,
        "cameras": Ref("cameras", "list"),
        "image_topic_template": Ref("image_topic_template"),
        "image_transport": Ref("image_transport"),
        "model": Ref("detect_model"),
        "input_size": Ref("detect_size"),
        "engine": Ref("engine"),
        "debug": Ref("debug", "bool"),
        "build_only": Ref("build_only", "bool"),
    },
    conditions=(When("detect", "true"),),
)
_RUNS = When("build_only", "true", negate=True)
_ENCODER = NodeSpec(
    "encoder_node",
    "encoder_node",
    "bevstack.ros.nodes.encoder_node:EncoderNode",
    parameters={
        **_TIME,
        "cameras": Ref("cameras", "list"),
        "image_topic_template": Ref("image_topic_template"),
        "image_transport": Ref("image_transport"),
        "model": Ref("codec"),
        "quality": Ref("codec_quality", "float"),
        "regions_topic_template": Ref("codec_regions"),
    },
    conditions=(_RUNS, When("encode", "true")),
)
_DECODER = NodeSpec(
    "decoder_node",
    "decoder_node",
    "bevstack.ros.nodes.decoder_node:DecoderNode",
    parameters={
        **_TIME,
        "cameras": Ref("cameras", "list"),
        "output_topic_template": Ref("decoded_topic_template"),
    },
    conditions=(_RUNS, When("decode", "true")),
)
_GOVERNOR = NodeSpec(
    "governor_node",
    "governor_node",
    "bevstack.ros.nodes.governor_node:GovernorNode",
    parameters={**_TIME, "ladders_file": Ref("governor_ladders"), "calibration": Ref("governor_calibration")},
    conditions=(_RUNS, When("governor", "true")),
)
_RECORDER = NodeSpec(
    "recorder",
    "recorder",
    "bevstack.ros.nodes.recorder:RecorderNode",
    parameters={**_TIME, "path": Ref("record"), "timestamps": Ref("record_stamps")},
    conditions=(_RUNS, When("record", "", negate=True)),
)
_VIEWER = NodeSpec(
    "viewer",
    "viewer",
    "bevstack.viewer.node:ViewerNode",
    parameters={
        **_TIME,
        **_CAMERAS,
        "port": Ref("web_port", "int"),
        "decoded_topic_template": Ref("decoded_topic_template"),
    },
    conditions=(_RUNS, When("web_port", "0", negate=True), When("web_port", "", negate=True)),
)
_RVIZ = NodeSpec(
    "rviz2",
    "rviz2",
    "",
    package="rviz2",
    parameters=_TIME,
    conditions=(_RUNS, When("rviz", "true")),
    arguments=("-d", Ref("rviz_config")),
)

BEV = Graph(
    "bev",
    "cameras in, boxes out: from live topics, from a bag (bag), or from anything that bevstack can open (source)",
    (
        *_COMMON,
        Argument(
            "source",
            "",
            "publish this: sim:seed=1,duration=30, a video, a device, a nuScenes folder, a bag; empty: cameras are live",
        ),
        Argument("bag", "", "play this bag; empty: cameras are live"),
        Argument("rate", "1.0", "speed of source or bag; 0 (source only): as fast as possible"),
        Argument("loop", "false", "start source or bag again at its end", _BOOLEAN),
        Argument("lockstep", "false", "source waits for the perception node: nothing is dropped", _BOOLEAN),
        Argument("lockstep_with", "", "status topics that lockstep waits for, comma separated; empty: bev_node/status"),
        Argument("stamps", "source", "stamps of the source: its own, or as if it happened now", ("source", "now")),
        Argument("wait_for_subscribers", "1", "source starts when each image topic has this many subscribers"),
    ),
    (
        _BEV,
        _DETECT,
        _ENCODER,
        _DECODER,
        _GOVERNOR,
        _VIEWER,
        _RECORDER,
        _RVIZ,
        NodeSpec(
            "camera_node",
            "camera_node",
            "bevstack.ros.nodes.camera_node:CameraNode",
            parameters={
                "source": Ref("source"),
                "cameras": Ref("cameras", "list"),
                "rig_file": Ref("rig_file"),
                "image_topic_template": Ref("image_topic_template"),
                "image_transport": Ref("image_transport"),
                "rate": Ref("rate", "float"),
                "loop": Ref("loop", "bool"),
                "lockstep": Ref("lockstep", "bool"),
                "status_topic": Ref("lockstep_with"),
                "stamps": Ref("stamps"),
                "publish_clock": Ref("use_sim_time", "bool"),
                "wait_for_subscribers": Ref("wait_for_subscribers", "int"),
            },
            conditions=(_RUNS, When("source", "", negate=True)),
            source=True,
        ),
        NodeSpec(
            "player",
            "player",
            "bevstack.ros.nodes.player:PlayerNode",
            parameters={
                "path": Ref("bag"),
                "skip_published": True,
                "rate": Ref("rate", "float"),
                "loop": Ref("loop", "bool"),
                "clock": Ref("use_sim_time", "bool"),
            },
            conditions=(_RUNS, When("bag", "", negate=True)),
            source=True,
        ),
    ),
)

REPLAY = Graph(
    "replay",
    "play a bag on its own clock, detect, show",
    (
        Argument("bag", "", "the bag to play"),
        Argument("rate", "1.0", "speed"),
        Argument("loop", "false", "start again at the end", _BOOLEAN),
        Argument("start_offset", "0.0", "seconds of the bag to leave out at its start"),
        Argument("topics", "", "play only these topics, comma separated; empty: all"),
        *(replace(a, default="true") if a.name == "use_sim_time" else a for a in _COMMON),
    ),
    (
        _BEV,
        _DETECT,
        _ENCODER,
        _DECODER,
        _GOVERNOR,
        _VIEWER,
        _RECORDER,
        _RVIZ,
        NodeSpec(
            "player",
            "player",
            "bevstack.ros.nodes.player:PlayerNode",
            parameters={
                "path": Ref("bag"),
                "skip_published": True,
                "rate": Ref("rate", "float"),
                "loop": Ref("loop", "bool"),
                "start_offset": Ref("start_offset", "float"),
                "topics": Ref("topics", "list"),
                "clock": Ref("use_sim_time", "bool"),
            },
            conditions=(_RUNS,),
            source=True,
        ),
    ),
)

GRAPHS: Mapping[str, Graph] = {graph.name: graph for graph in (BEV, REPLAY)}


def graph_named(name: str) -> Graph:
    """The graph of that name. Raises LaunchError if there is none."""
    if name not in GRAPHS:
        raise LaunchError(f"there is no graph {name!r}: use one of {', '.join(GRAPHS)}")
    return GRAPHS[name]
