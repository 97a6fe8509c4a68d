"""``bevstack run`` and ``bevstack demo``: a source through the nodes, with a live table and a summary."""

from __future__ import annotations

import json
import logging
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from bevstack.engine.names import engine_name, precision_for
from bevstack.errors import BevstackError, SourceError

from .report import print_summary, progress
from .statistics import Summary

LIVE_PREFIXES = ("ros:", "v4l2:", "/dev/", "rtsp://", "http://", "https://", "udp://", "tcp://")


@dataclass(frozen=True)
class RunOptions:
    """What ``bevstack run`` was asked for.

    Attributes:
        source: as for ``frames.source.open_source``.
        model: name of bundled weights, or path of a weights file.
        engine: one of ``bevstack.engine.names.ENGINES``; ONNX Runtime takes over where the machine lacks it.
        precision: of the BEV network; "": the engine's own.
        rate: speed of a recorded source; 0 as fast as possible.
        lockstep: the source waits for the perception node, nothing is lost; None: yes for recorded sources.
        duration: stop after this many seconds of the source; None: at its end.
        record: bag folder to write.
        view_port: port of the page (0: any free one); None: no page.
        stay: keep running (the page open) at the end of the source.
        picture: PNG or JPEG file for the instant with the most certain boxes.
        json_file: file for the summary.
        rig: rig file with calibrations.
        score_threshold: None: the node's default.
        log_level: lowest severity that is logged.
        wire: let ROS 2 nodes of other processes see and feed the topics of this run.
        bev: look for boxes in bird's-eye view.
        detect: look for boxes in the camera images.
        detect_model: name of bundled 2D weights, or path of a weights file or ONNX graph.
        detect_size: input of the 2D model, "1280x768"; None: its own.
        encode: make learned streams of the cameras; ``record`` then holds these in place of the images.
        codec: name of bundled codec weights, or path of a weights file.
        codec_quality: 0 to 100; None: the node's default.
    """

    source: str
    model: str = "fastbev-nano"
    engine: str = "onnx"
    precision: str = ""
    rate: float = 1.0
    lockstep: bool | None = None
    duration: float | None = None
    record: Path | None = None
    view_port: int | None = None
    stay: bool = False
    picture: Path | None = None
    json_file: Path | None = None
    rig: Path | None = None
    score_threshold: float | None = None
    log_level: str = "warn"
    wire: bool = False
    bev: bool = True
    detect: bool = False
    detect_model: str = "giraffedet-nano"
    detect_size: str | None = None
    encode: bool = False
    codec: str = "codec-nano"
    codec_quality: float | None = None

    @property
    def live(self) -> bool:
        """The source is a device, a stream or a running ROS graph: it does not wait."""
        return self.source.startswith(LIVE_PREFIXES) or self.source.isdigit() or self.topics

    @property
    def topics(self) -> bool:
        """The cameras are nodes of other processes: nothing has to be published here."""
        return self.source == "ros" or self.source.startswith("ros:")


def run(options: RunOptions, console: Console | None = None) -> Summary:
    """Runs a source through the nodes until its end, ``duration``, SIGINT or SIGTERM, and prints the summary.

    Raises:
        BevstackError: bad source, model, port, path; what was recorded until then is readable.
    """
    out = console or Console()
    check(options)
    if not options.wire and not options.topics:
        stay_inside()
    nodes = graph(options)
    from bevstack.ros.launcher import run_nodes

    stop = threading.Event()
    made: dict[str, Any] = {}

    def current() -> Summary:
        return summarise(options, made)

    def note() -> str:
        return f"page: {made['viewer'].url}" if "viewer" in made else ""

    def started(created: Mapping[str, Any]) -> None:
        made.update(created)
        if "viewer" in created:
            Console(stderr=True).print(note(), highlight=False)
        if options.duration is not None:
            threading.Thread(target=_stop_after, args=(created["monitor"], options.duration, stop), daemon=True).start()

    with progress(Console(stderr=True), current, note):
        run_nodes(nodes, stop=stop, until_finished=not options.stay, on_started=started)
    stop.set()
    files: dict[str, str] = {}
    failure: BevstackError | None = None
    if options.record is not None:
        files["bag"] = str(bag_path(options.record))
    try:
        if draw(options, made):
            files["picture"] = str(options.picture)
    except BevstackError as error:
        failure = error  # the summary comes first
    summary = summarise(options, made, **files)
    print_summary(out, summary)
    if options.json_file is not None:
        try:
            options.json_file.parent.mkdir(parents=True, exist_ok=True)
            options.json_file.write_text(json.dumps(summary.to_json(), indent=2) + "\n")
        except OSError as error:
            raise BevstackError(f"summary {options.json_file} cannot be written: {error.strerror or error}") from None
    if failure is not None:
        raise failure
    complain(options, made, summary)
    return summary


def draw(options: RunOptions, made: Mapping[str, Any]) -> bool:
    """The picture of the instant with the most certain boxes; False if none was asked for or there is none.

    Raises:
        BevstackError: the file cannot be written.
    """
    monitor = made.get("monitor")
    if options.picture is None or monitor is None or monitor.best is None:
        return False
    from bevstack.viewer.picture import compose, write_picture
    from bevstack.viewer.picture2d import compose2d

    moment = monitor.best
    summary = summarise(options, made)
    title = f"bevstack   {options.source}   {summary.model} on {summary.engine}"
    if options.bev:
        picture = compose(moment.frames, moment.boxes, truth=moment.truth, title=title, flat=moment.flat)
    else:
        picture = compose2d(moment.frames, moment.flat, title=title)
    write_picture(options.picture, picture)
    return True


def complain(options: RunOptions, made: Mapping[str, Any], summary: Summary) -> None:
    """A run whose end was not what was asked for is an error, although the summary has been printed.

    Raises:
        BevstackError: the source or the recording broke off, or nothing came out.
    """
    source, recorder = made.get("camera_node"), made.get("recorder")
    if source is not None and source.error:
        raise SourceError(source.error)
    if recorder is not None and recorder.reason:
        raise BevstackError(f"the bag is incomplete: {recorder.reason}")
    if recorder is not None and recorder.dropped:
        raise BevstackError(f"the bag is incomplete: {recorder.dropped} messages were not recorded, the disk is too slow")
    if summary.instants_in and not summary.instants_out:
        raise BevstackError(f"{options.source}: nothing came out of {summary.instants_in} instants: {summary.reason}")
    if options.picture is not None and "picture" not in summary.files:
        raise SourceError(f"{options.source}: no instant came out, so there is nothing to draw in {options.picture}")


def stay_inside() -> None:
    """Keeps the topics of this process from others, and theirs from it: a second run beside this one must change nothing.

    Must be called before the first node is made. What the user has set goes before.
    """
    os.environ.setdefault("BEVSTACK_WIRE", "off")
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "OFF")  # where real rclpy runs


def summarise(options: RunOptions, made: Mapping[str, Any], **files: str) -> Summary:
    """The run so far, from the nodes that were made."""
    from .statistics import Statistics

    monitor, source = made.get("monitor"), made.get("camera_node")
    statistics = monitor.statistics if monitor is not None else Statistics()
    sent = source.instants_sent if source is not None else None
    model = options.model if options.bev or options.detect else options.codec
    return statistics.summary(options.source, model=model, engine=options.engine, sent=sent, **files)


def check(options: RunOptions) -> None:
    """What can be said before anything is loaded.

    Raises:
        BevstackError: a value out of range, a bag that exists already, weights that are not there.
    """
    if options.log_level not in ("debug", "info", "warn", "error", "fatal"):
        raise BevstackError(f"log-level {options.log_level!r} is unknown: use debug, info, warn or error")
    precision_for(engine_name(options.engine), options.precision)
    if options.rate < 0:
        raise BevstackError(f"rate is {options.rate:g}: use 1 for the speed of the recording, 0 for as fast as possible")
    if options.duration is not None and options.duration <= 0:
        raise BevstackError(f"duration is {options.duration:g} s: it must be more than 0")
    if options.view_port is not None and not 0 <= options.view_port <= 65535:
        raise BevstackError(f"view-port {options.view_port} does not exist: use 1 to 65535, or 0 for any free one")
    if options.record is not None and bag_path(options.record).exists():
        raise BevstackError(f"bag {bag_path(options.record)} exists already: choose another name for --record")
    if options.picture is not None and options.picture.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise BevstackError(f"picture {options.picture}: the name must end in .png or .jpg")
    if not (options.bev or options.detect or options.encode):
        raise BevstackError("with --no-bev there is nothing to do: add --detect or --encode")
    if options.picture is not None and not (options.bev or options.detect):
        raise BevstackError(f"picture {options.picture}: nothing is looked for with --no-bev: add --detect")
    if options.detect and options.detect_size is not None:
        from bevstack.detect.letterbox import parse_canvas

        parse_canvas(options.detect_size)
    if options.detect and not options.detect_model.startswith("random:"):
        from bevstack.detect.weights import find_weights as find_detector

        find_detector(options.detect_model)
    if options.codec_quality is not None and not 0 <= options.codec_quality <= 100:
        raise BevstackError(f"codec-quality is {options.codec_quality:g}: it must be from 0 to 100")
    if options.encode:
        from bevstack.codec.weights import find_weights as find_codec

        find_codec(options.codec)
    if options.bev and not options.model.startswith("random:"):  # untrained weights, for measuring a machine
        from bevstack.bev.weights import find_weights

        find_weights(options.model)


def bag_path(path: Path) -> Path:
    """The folder that is written: rosbag2 bags are folders, so ``out.mcap`` becomes ``out``."""
    return path.with_suffix("") if path.suffix in (".mcap", ".db3") else path


@dataclass(frozen=True)
class Probe:
    """What a short look at a source tells.

    Attributes:
        cameras: names, in rig order.
        rate: instants per second, where known.
        live: it does not wait.
        arguments: launch arguments that say where its topics are; empty if its frames are published by this run.
        frames: parameters of bev_node that name its frames, where they are not the defaults.
    """

    cameras: list[str]
    rate: float | None
    live: bool
    arguments: dict[str, str]
    frames: dict[str, str]


def probe(options: RunOptions) -> Probe:
    """Looks at the source; fails early.

    Raises:
        SourceError: nothing there, nothing known, or no cameras in it.
    """
    from bevstack.frames.device import DeviceSource
    from bevstack.frames.source import open_source

    logger = logging.getLogger("bevstack.frames")
    level = logger.level
    logger.setLevel(logging.ERROR)  # what is odd about the source is said when it is read
    try:
        with open_source(options.source, rig=options.rig) as source:
            names, rate = list(source.cameras), source.rate
            live = options.live or isinstance(source, DeviceSource)
            arguments, frames = _topics(source) if options.topics else ({}, {})
    finally:
        logger.setLevel(level)
    if not names:
        raise SourceError(f"source {options.source} has no cameras")
    return Probe(names, rate, live, arguments, frames)


def _topics(source: Any) -> tuple[dict[str, str], dict[str, str]]:
    """Launch arguments and frame names with which the nodes subscribe to what a ``ros.source.TopicSource`` has found."""
    if running := source.others("bev_node"):
        raise SourceError(
            f"{running[0]} runs already and its results would mix with those of this run: stop it, or use another ROS_DOMAIN_ID"
        )
    forms = set(source.transports.values())
    if len(forms) > 1:
        mixed = ", ".join(f"{name} {form}" for name, form in source.transports.items())
        raise SourceError(f"ros: cameras publish in different forms ({mixed}): choose with ros:transport=raw or compressed")
    arguments = {"source": "", "image_topic_template": source.template, "image_transport": forms.pop()}
    return arguments, {"base_frame": source.base_frame, "odom_frame": source.world_frame, "output_frame": source.base_frame}


def graph(options: RunOptions) -> list[Any]:
    """The nodes of a run: camera_node, bev_node, monitor, and recorder and viewer where asked for."""
    from dataclasses import replace

    from bevstack.ros.graph import BEV, ResolvedNode, resolve

    if options.lockstep and options.live:
        raise BevstackError(f"source {options.source} is live and cannot wait: leave --lockstep out")
    seen = probe(options)
    source_rate, live = seen.rate, seen.live
    lockstep = not live if options.lockstep is None else options.lockstep
    perception = ["bev_node"] * options.bev + ["detect_node"] * options.detect
    # Who shows and counts follows the first of them, and the 2D boxes; with learned streams alone, these.
    lead = perception[0] if perception else "encoder_node"
    follow = {"bev_node": perception[0] if perception else "bev_node", "detect_node": "detect_node" if options.detect else ""}
    values = {
        "source": options.source,
        "cameras": ",".join(seen.cameras),
        "rig_file": str(options.rig) if options.rig else "",
        "model": options.model,
        "engine": options.engine,
        "precision": options.precision,
        "score_threshold": "" if options.score_threshold is None else str(options.score_threshold),
        "record": str(bag_path(options.record)) if options.record else "",
        "web_port": "0" if options.view_port is None else "1",
        "rate": str(options.rate),
        "lockstep": "true" if lockstep else "false",
        # In real time the stamps are those of now, so that latency is what a vehicle would see.
        "stamps": "source" if lockstep or live else "now",
        "log_level": options.log_level,
        "bev": "true" if options.bev else "false",
        "detect": "true" if options.detect else "false",
        "detect_model": options.detect_model,
        "detect_size": options.detect_size or "",
        "lockstep_with": ",".join(f"{node}/status" for node in perception),
        "encode": "true" if options.encode else "false",
        "codec": options.codec if options.encode else "",
        "codec_quality": "" if options.codec_quality is None else str(options.codec_quality),
        # Bits go where the boxes are, if somebody looks for them.
        "codec_regions": "detect_node/{camera}/detections_2d" if options.encode and options.detect else "",
        "decode": "true" if options.encode and options.view_port is not None else "false",
        "wait_for_subscribers": str(len(perception) + options.encode),
        **seen.arguments,
    }
    extra: dict[str, dict[str, Any]] = {
        # A camera counts as silent after three periods: at 2 Hz that is later than the node's default.
        "bev_node": {
            **({"camera_timeout": min(60.0, max(0.5, 3.0 / source_rate))} if source_rate else {}),
            # Nothing is in a hurry in lockstep, and a pose that was waited for, not guessed, gives the same boxes each time.
            **({"pose_wait": 0.5} if lockstep else {}),
            **seen.frames,
        },
        # The first instant may wait for the engine to warm up.
        "camera_node": {
            **({"lockstep_timeout": 60.0} if lockstep else {}),
            **({"stream_status_topic": "encoder_node/status"} if lockstep and options.encode else {}),
            **({} if perception else {"status_topic": ""}),
            # Truth takes rendering time: in real time only where somebody looks at it.
            **({"truth_topic": "truth/detections"} if lockstep or options.view_port is not None or options.picture else {}),
        },
        # A bag of recorded data lies on its own time, however fast it was worked on, so that it plays as it happened.
        "recorder": {
            "timestamps": "header" if values["stamps"] == "source" and not live else "receive",
            **({"exclude": streams_only(values.get("image_topic_template", ""))} if options.encode else {}),
        },
        "viewer": {"port": options.view_port, "source": options.source, **follow},
    }
    nodes = [replace(node, parameters={**node.parameters, **extra.get(node.name, {})}) for node in resolve(BEV, values)]
    first = next(node for node in nodes if node.name == lead)
    shared = ("cameras", "rig_file", "image_topic_template", "image_transport")
    monitor = ResolvedNode(
        name="monitor",
        namespace="",
        package="bevstack",
        executable="monitor",
        target="bevstack.cli.monitor:MonitorNode",
        parameters={key: first.parameters[key] for key in shared if key in first.parameters}
        | {"source": options.source, "velocity": options.picture is not None, **follow}
        | ({"rig_file": str(options.rig)} if options.rig else {}),
        remappings=(),
        params_file="",
        log_level=options.log_level,
        arguments=(),
        source=False,
    )
    return [monitor, *nodes]


def streams_only(template: str) -> str:
    """What a recorder leaves out where learned streams take the images' place: regular expression of topics."""
    from bevstack.ros.graph import NOT_RECORDED

    images = re.escape(template or "{camera}/image_raw").replace(re.escape("{camera}"), "[^/]+")
    return f"{NOT_RECORDED}|(.*/)?{images.lstrip('/')}(/compressed)?"


def demo(
    *,
    seed: int = 1,
    seconds: float = 30.0,
    rate: float = 5.0,
    folder: Path = Path("out"),
    model: str = "fastbev-nano",
    engine: str = "onnx",
    precision: str = "",
    view_port: int | None = None,
    stay: bool = False,
    console: Console | None = None,
) -> Summary:
    """``make demo``: simulated seconds through the nodes, recorded; then the summary, the bag and a picture.

    Raises:
        BevstackError: no weights for ``model``, or whatever ``run`` raises.
    """
    name = next(name for name in _names("demo") if not (folder / name).exists() and not (folder / f"{name}.png").exists())
    folder.mkdir(parents=True, exist_ok=True)
    return run(
        RunOptions(
            source=f"sim:seed={seed},duration={seconds:g},rate={rate:g}",
            model=model,
            engine=engine,
            precision=precision,
            rate=0.0,
            record=folder / name,
            picture=folder / f"{name}.png",
            json_file=folder / f"{name}.json",
            view_port=view_port,
            stay=stay,
            log_level="warn" if view_port is None else "info",
        ),
        console,
    )


def _names(stem: str) -> Any:
    from itertools import count

    return (stem if n == 1 else f"{stem}_{n}" for n in count(1))


def _stop_after(monitor: Any, seconds: float, stop: threading.Event) -> None:
    """Sets ``stop`` when the source has advanced by ``seconds``."""
    while not stop.is_set():
        if monitor.progress.wait(0.5):
            monitor.progress.clear()
            if monitor.seconds_of_source >= seconds:
                stop.set()
