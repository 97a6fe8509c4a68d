"""The perception node: cameras and tf in, boxes out.

Subscribes per camera ``<image topic>[/compressed]`` and the sibling ``camera_info``; publishes ``~/detections``, ``~/markers``,
``~/debug/image_<camera>/compressed``, ``~/status`` and ``/diagnostics``. Callbacks only look at headers; decoding and inference
run in workers with queues of one.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bevstack.engine import HotSwap, SwapEvent
from bevstack.engine.names import ENGINES, OFFERED, PRECISIONS, EngineName, Precision, engine_name, or_onnx, precision_for
from bevstack.errors import BevstackError
from bevstack.frames.calibration import load_rig, parse_entry
from bevstack.frames.decode import image_size
from bevstack.frames.ego import PoseBuffer
from bevstack.frames.sync import AnchorSync, ApproximateSync, Synchroniser
from bevstack.frames.types import FrameSet
from bevstack.geometry import Boxes3D, Camera
from bevstack.ros import convert
from bevstack.ros.interfaces import (
    CameraInfo,
    CompressedImage,
    Detection3DArray,
    DiagnosticStatus,
    Image,
    MarkerArray,
    Message,
    PipelineStatus,
    TFMessage,
)
from bevstack.ros.runtime import (
    LifecycleNode,
    Parameter,
    QoSProfile,
    SetParametersResult,
    State,
    TransitionCallbackReturn,
    diagnostic_updater,
    tf2,
)

from .draw import draw_boxes
from .main import run_node, until_shutdown
from .parameters import Parameters, ParameterValueError, Spec
from .pipeline import Model, Pipeline, Result
from .prepare import prepare_all
from .release import RELEASE_AFTER, Release
from .rig import Rig
from .topics import info_topic, sensor_qos
from .worker import NewestWins

if TYPE_CHECKING:
    from bevstack.bev.ladder import FastBEVLadder

_INCOMPLETE_AFTER = 1.0  # seconds without an image, and with nothing to do, after which an instant is given up

NUSCENES_CAMERAS = ["cam_front", "cam_front_right", "cam_front_left", "cam_back", "cam_back_left", "cam_back_right"]

PARAMETERS: tuple[Spec, ...] = (
    Spec("cameras", NUSCENES_CAMERAS, "names of the cameras, in rig order; the first is the reference"),
    Spec("image_topic_template", "{camera}/image_raw", "base image topic of a camera; camera_info is its sibling"),
    Spec("image_transport", "compressed", "form in which images arrive", choices=("raw", "compressed")),
    Spec(
        "image_reliability",
        "best_effort",
        "reliability that the image subscriptions ask for",
        choices=("best_effort", "reliable"),
    ),
    Spec("image_depth", 5, "queue depth of the image subscriptions", low=1, high=1000),
    Spec("result_depth", 10, "queue depth of the result publishers", low=1, high=1000),
    Spec("images_rectified", False, "images are undistorted already: projection matrix p counts, not k and d"),
    Spec("rig_file", "", "YAML file with calibration and mounting, used where camera_info or tf are missing"),
    Spec("tf_timeout", 2.0, "seconds to wait for tf or camera_info before the rig file is used", low=0.0, high=60.0),
    Spec("base_frame", "base_link", "ego frame"),
    Spec("odom_frame", "odom", "frame in which ego motion is smooth"),
    Spec("output_frame", "base_link", "frame of the boxes: base_frame, odom_frame or any frame fixed to base_frame"),
    Spec("sync", "approximate", "how frames become instants", choices=("approximate", "anchor")),
    Spec("anchor_camera", "", "reference camera of the anchor synchroniser; empty: the first"),
    Spec("max_camera_time_diff", 0.06, "largest difference of exposure inside one instant, seconds", low=0.0, high=5.0),
    Spec("sync_queue", 10, "frames kept per camera while others are awaited", low=1, high=100),
    Spec("min_cameras", 1, "fewest cameras that make an instant when others are silent", low=1, high=64),
    Spec("camera_timeout", 0.5, "a camera this many seconds behind the others counts as silent", low=0.05, high=60.0),
    Spec("pose_wait", 0.03, "seconds that an instant waits for an ego pose that is a little late", low=0.0, high=10.0),
    Spec("model", "fastbev-nano", "name of bundled weights, or path of a weights file"),
    Spec(
        "model.rung",
        "",
        "size that runs, of the model's family; empty: the model itself. Swapped between two frames",
        live=True,
    ),
    Spec("model.resident", False, "rungs stay loaded once they have been: faster swaps, more memory"),
    Spec("model.rate", 1.0, "share of the instants that the model works on, evenly spread", live=True, low=0.01, high=1.0),
    RELEASE_AFTER,
    Spec("engine", "onnx", "what runs the network; where the machine lacks it, onnx does, with a warning", choices=ENGINES),
    Spec("precision", "", "numbers inside the network; empty: the engine's own", choices=PRECISIONS),
    Spec("decode_workers", 2, "threads that decode images", low=1, high=32),
    Spec("roll_offset", 0.0, "degrees that the body leans to the right of its calibration", live=True, low=-15.0, high=15.0),
    Spec("pitch_offset", 0.0, "degrees that the nose is lower than its calibration", live=True, low=-15.0, high=15.0),
    Spec("score_threshold", 0.3, "boxes below this score are not published", live=True, low=0.0, high=1.0),
    Spec("max_boxes", 300, "most boxes published, best scores first", live=True, low=1, high=5000),
    Spec("debug", False, "draw debug images even if nobody listens", live=True),
    Spec("debug_width", 800, "width of debug images, pixels", live=True, low=64, high=4096),
    Spec("marker_style", "cube", "shape of the markers", live=True, choices=("cube", "lines")),
    Spec("marker_lifetime", 0.0, "seconds that markers live; 0: two periods", live=True, low=0.0, high=60.0),
    Spec("position_stddev", 0.0, "standard deviation of box centres, metres; 0: unknown", live=True, low=0.0, high=10.0),
    Spec("yaw_stddev", 0.0, "standard deviation of headings, radians; 0: unknown", live=True, low=0.0, high=3.2),
    Spec("diagnostic_period", 1.0, "seconds between two messages on /diagnostics", low=0.05, high=60.0),
    Spec("min_rate", 0.0, "instants per second below which diagnostics warn; 0: never", live=True, low=0.0, high=1000.0),
    Spec(
        "max_stamp_age",
        5.0,
        "seconds between exposure and result above which diagnostics warn",
        live=True,
        low=0.0,
        high=3600.0,
    ),
    Spec("camera_info_url", "", "calibration files, file:///path/{camera}.yaml, for cameras that publish no camera_info"),
    Spec("build_only", False, "load the model and its other rungs, keep what their engine stores, and exit"),
    Spec("autostart", True, "configure and activate by itself at start"),
)


def load_model(model: str, engine: str, cameras: Sequence[str] = (), precision: str = "") -> Model:
    """Fast-BEV from bundled weights (a name) or a weights file (a path), for these cameras.

    ``random:fastbev-nano`` has random weights: for measuring a rig or a machine without weights at hand. Where this machine
    lacks what ``engine`` needs, ONNX Runtime takes over with a warning, in the precision that was asked for if it offers that.

    Raises:
        BevstackError: no such weights, a damaged or foreign checkpoint, a precision that the engine does not offer.
    """
    from bevstack.bev import CAMERA_ORDER, CONFIGS, FastBEV
    from bevstack.bev.ladder import RANDOM, available

    # The standard names have their own places in the network; others take theirs in the order of the configuration.
    order = None if set(cameras) <= set(CAMERA_ORDER) else cameras
    given: Any = model
    if model.startswith(RANDOM):
        available(model)
        given = CONFIGS[model.removeprefix(RANDOM)]
    wanted = engine_name(engine)
    exactly: Precision = precision_for(wanted, precision) if precision else ""

    def make(name: EngineName) -> FastBEV:
        return FastBEV(given, name, precision=exactly, cameras=order)

    return or_onnx(wanted, make)


def load_ladder(
    model: str,
    engine: str,
    cameras: Sequence[str] = (),
    *,
    precision: str = "",
    rung: str = "",
    resident: bool = False,
    on_event: Callable[[SwapEvent], None] | None = None,
) -> FastBEVLadder:
    """The rungs of ``model``'s family that are there, with ``rung`` (empty: ``model`` itself) running.

    Raises:
        BevstackError: as ``load_model``; or there is no such rung.
    """
    from bevstack.bev.ladder import RANDOM, FastBEVLadder, available
    from bevstack.nn.widths import first_rung

    sources = available(model)
    first = rung or first_rung(model.removeprefix(RANDOM), sources)

    def load(name: str) -> FastBEV:
        made = load_model(sources[name], engine, cameras, precision)
        assert isinstance(made, FastBEV)
        return made

    from bevstack.bev import FastBEV

    return FastBEVLadder(load, list(sources), first, resident=list(sources) if resident else (), on_event=on_event)


class BevNode(LifecycleNode):
    """Boxes in bird's-eye view from the cameras of a rig. Parameters: ``PARAMETERS``.

    Args:
        model: use this model instead of loading one (tests, benchmarks).
        kwargs: as for ``Node`` (namespace, cli_args, parameter_overrides, context).
    """

    def __init__(self, node_name: str = "bev_node", *, model: Model | None = None, **kwargs: Any) -> None:
        super().__init__(node_name, **kwargs)
        self._given_model = model
        self._model: Model | None = None
        self._pipeline: Pipeline | None = None
        self._drawer: NewestWins[Result] | None = None
        self._held_back: Release[Result] | None = None
        self._rig: Rig | None = None
        self._poses = PoseBuffer()
        self._leaning: dict[str, tuple[Camera, tuple[float, float], Camera]] = {}
        self._held: dict[str, Message] = {}
        self._held_lock = threading.Lock()
        self._subscriptions_made: list[Any] = []
        self._active = False
        self._failure = ""
        self._built = False
        self._troubles: deque[tuple[float, str]] = deque(maxlen=16)
        self._posed = True
        self._done: deque[float] = deque(maxlen=50)
        self._latency_ms = 0.0
        self._stages: Mapping[str, float] = {}
        self._last_result: float | None = None
        self._newest: tuple[int, float] | None = None  # stamp and arrival (monotonic) of the newest image
        self._answered: int | None = None  # newest stamp that a status message was about
        self._p = Parameters(self, PARAMETERS, self._on_change)
        self.add_on_set_parameters_callback(self._check_rung)
        self.cameras: tuple[str, ...] = tuple(self._p["cameras"])
        # tf is listened to from the start, so that a latched tree is there when the node is activated.
        self._buffer = tf2.Buffer()
        self._listener = tf2.TransformListener(self._buffer, self)
        self._tf_subscription = self.create_subscription(TFMessage, "/tf", self._on_tf, QoSProfile(depth=100))
        self._updater = diagnostic_updater.Updater(self, period=self._p["diagnostic_period"])
        self._updater.setHardwareID("bevstack")
        for title, task in (
            ("state", self._diagnose_state),
            ("cameras", self._diagnose_cameras),
            ("instants", self._diagnose_instants),
            ("latency", self._diagnose_latency),
            ("ego motion", self._diagnose_motion),
        ):
            self._updater.add(title, task)

    # --- lifecycle ----------------------------------------------------------------------------------------------------------

    def autostart(self) -> bool:
        """Configure and activate, if the parameter says so; False if that failed (the reason is logged and on /diagnostics)."""
        if not self._p["autostart"]:
            return True
        if self.trigger_configure() != TransitionCallbackReturn.SUCCESS:
            return False
        if self._p["build_only"]:
            self._built = prepare_all(self._p["model"], self.swap, self.engine, self.get_logger())
            return self._built
        return bool(self.trigger_activate() == TransitionCallbackReturn.SUCCESS)

    @property
    def engine(self) -> str:
        """What runs the network: the parameter, or what has taken over from it; and the precision, where that is not the
        engine's own ("onnx int8")."""
        engine = str(getattr(self._model, "engine", self._p["engine"]))
        precision = str(getattr(self._model, "precision", ""))
        return f"{engine} {precision}" if precision not in ("", *OFFERED.get(engine, ())[:1]) else engine

    @property
    def exit_now(self) -> bool:
        """The process may end: the model was to be prepared only, and is."""
        return self._built

    @property
    def fails_for_good(self) -> bool:
        """A process that cannot do the one thing it was started for ends; a node of a running stack waits to be told again."""
        return bool(self._p["build_only"])

    @property
    def idle(self) -> bool:
        """No instant is being worked on or waits."""
        pipeline = self._pipeline
        return pipeline is None or pipeline.idle

    @property
    def failure(self) -> str:
        """Why the node could not be configured or activated; "" if it could."""
        return self._failure

    def on_configure(self, state: State) -> TransitionCallbackReturn:
        """Load the model, check the configuration, create the publishers."""
        try:
            with until_shutdown(self):  # a signal may come while the model is being loaded
                self._configure()
        except (BevstackError, OSError, ValueError) as error:
            self._failure = " ".join(str(error).split())
            self.get_logger().error(f"cannot configure: {self._failure}")
            with until_shutdown(self):
                self._updater.force_update()
            return TransitionCallbackReturn.FAILURE
        if not self.context.ok():
            self._failure = "stopped while it was being configured"
            self.get_logger().info(self._failure)
            return TransitionCallbackReturn.FAILURE
        self._failure = ""
        return TransitionCallbackReturn.SUCCESS

    def _configure(self) -> None:
        p = self._p
        if not self.cameras or len(set(self.cameras)) != len(self.cameras):
            raise ParameterValueError(f"parameter cameras is {list(self.cameras)}: name one or more different cameras")
        if "{camera}" not in p["image_topic_template"] and len(self.cameras) > 1:
            raise ParameterValueError(
                f"image_topic_template {p['image_topic_template']!r} has no {{camera}}: all cameras would be the same"
            )
        fallback = load_rig(Path(p["rig_file"])) if p["rig_file"] else {}
        if p["camera_info_url"]:
            for name in self.cameras:
                known = parse_entry(name, {"camera_info_url": p["camera_info_url"].format(camera=name)})
                mounted = fallback.get(name)
                fallback[name] = replace(known, T_ego_camera=mounted.T_ego_camera) if mounted is not None else known
        self._model = self._given_model or load_ladder(
            p["model"],
            p["engine"],
            self.cameras,
            precision=p["precision"],
            rung=p["model.rung"],
            resident=p["model.resident"],
            on_event=self._on_swap,
        )
        self._check_count()
        self._rig = Rig(
            self.cameras,
            self._buffer,
            p["base_frame"],
            fallback=fallback,
            tf_timeout=p["tf_timeout"],
            rectified=p["images_rectified"],
            on_change=self._calibrated,
        )
        self._configure_publishers()

    def _check_count(self) -> None:
        """Whether there are as many cameras as the network was made for.

        Raises:
            ParameterValueError: more.
        """
        count, takes = len(self.cameras), getattr(getattr(self._model, "config", None), "cameras", len(self.cameras))
        rung = getattr(self._model, "rung", self._p["model"])
        if count > takes:
            raise ParameterValueError(
                f"parameter cameras names {count} cameras, {rung} takes {takes}: leave out {count - takes}"
            )
        if count < takes:
            self.get_logger().warning(
                f"{count} of the {takes} cameras that {rung} was made for ({', '.join(self.cameras)}): it is blind elsewhere"
            )

    def _configure_publishers(self) -> None:
        qos = QoSProfile(depth=self._p["result_depth"])
        self._detections = self.create_lifecycle_publisher(Detection3DArray, "~/detections", qos)
        self._markers = self.create_lifecycle_publisher(MarkerArray, "~/markers", qos)
        self._status = self.create_lifecycle_publisher(PipelineStatus, "~/status", qos)
        self._debug = {
            name: self.create_lifecycle_publisher(CompressedImage, f"~/debug/image_{name}/compressed", qos)
            for name in self.cameras
        }

    def on_activate(self, state: State) -> TransitionCallbackReturn:
        """Start the workers and subscribe."""
        assert self._model is not None
        assert self._rig is not None
        p = self._p
        slop = round(p["max_camera_time_diff"] * 1e9)
        common: dict[str, Any] = {
            "missing_after_ns": round(p["camera_timeout"] * 1e9),
            "min_cameras": p["min_cameras"],
            "queue": p["sync_queue"],
        }
        sync: Synchroniser
        try:
            if p["sync"] == "anchor":
                sync = AnchorSync(self.cameras, p["anchor_camera"] or None, slop, **common)
            else:
                sync = ApproximateSync(self.cameras, slop, **common)
        except BevstackError as error:
            self._failure = str(error)
            self.get_logger().error(f"cannot activate: {error}")
            return TransitionCallbackReturn.FAILURE
        result = super().on_activate(state)
        self._drawer = NewestWins("debug images", self._draw)
        self._held_back = Release(self._let_out)
        self._pipeline = Pipeline(
            self._model,
            sync,
            on_result=self._on_result,
            on_problem=self._note,
            poses=self._poses,
            workers=p["decode_workers"],
            image_filter=getattr(getattr(self._model, "config", None), "resize_filter", "area"),
            pose_wait=p["pose_wait"],
            on_thinned=self._thinned,
        )
        self._pipeline.share = p["model.rate"]
        self._active = True
        qos = sensor_qos(p["image_reliability"], p["image_depth"])
        compressed = p["image_transport"] == "compressed"
        for name in self.cameras:
            base = self.resolve_topic_name(p["image_topic_template"].format(camera=name))
            self._subscriptions_made += [
                self.create_subscription(CameraInfo, info_topic(base), partial(self._rig.take_info, name), qos),
                self.create_subscription(
                    CompressedImage if compressed else Image,
                    f"{base}/compressed" if compressed else base,
                    partial(self._on_image, name),
                    qos,
                ),
            ]
        self._retry = self.create_timer(0.1, self._tick)
        self.get_logger().info(f"active: {len(self.cameras)} cameras, {p['model']} on {self.engine}")
        return result

    def on_deactivate(self, state: State) -> TransitionCallbackReturn:
        """Unsubscribe and stop the workers."""
        self._stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: State) -> TransitionCallbackReturn:
        """Free the model and the publishers."""
        self._stop()
        for publisher in (self._detections, self._markers, self._status, *self._debug.values()):
            self.destroy_lifecycle_publisher(publisher)
        self._free_model()
        self._rig = None
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: State) -> TransitionCallbackReturn:
        """Stop everything, from any state."""
        self._stop()
        self._free_model()
        return TransitionCallbackReturn.SUCCESS

    def _free_model(self) -> None:
        model, self._model = self._model, None
        if model is not None and model is not self._given_model:
            close = getattr(model, "close", None)
            if close is not None:
                close()

    def _stop(self) -> None:
        self._active = False
        for subscription in self._subscriptions_made:
            self.destroy_subscription(subscription)
        held_back, self._held_back = self._held_back, None
        if held_back is not None and not held_back.close():
            self.get_logger().warning("results that wait for their time could not be published")
        if self._subscriptions_made:
            self.destroy_timer(self._retry)
        self._subscriptions_made.clear()
        self._held.clear()
        self._newest = self._answered = None
        pipeline, self._pipeline = self._pipeline, None
        drawer, self._drawer = self._drawer, None
        if pipeline is not None and not pipeline.close():
            self.get_logger().warning("the model is still busy with its last instant")
        if drawer is not None:
            drawer.close()

    def destroy_node(self) -> None:
        """Stop the workers first; then as every node."""
        self._stop()
        super().destroy_node()

    # --- rungs --------------------------------------------------------------------------------------------------------------

    @property
    def swap(self) -> HotSwap[Any] | None:
        """The ladder of rungs; None before it is configured, and where the model has only one size."""
        return getattr(self._model, "swap", None)

    def _check_rung(self, changes: Sequence[Parameter]) -> Any:  # rcl_interfaces/SetParametersResult
        for change in changes:
            if change.name != "model.rung" or self._model is None:
                continue
            rungs = self.swap.rungs if self.swap is not None else ()
            if change.value and change.value not in rungs:
                known = f"use one of {', '.join(rungs)}" if rungs else f"{self._p['model']} has no other sizes"
                return SetParametersResult(successful=False, reason=f"there is no rung {change.value!r}: {known}")
        return SetParametersResult(successful=True, reason="")

    def _on_change(self, changed: Mapping[str, Any]) -> None:
        if "model.rate" in changed and self._pipeline is not None:
            self._pipeline.share = changed["model.rate"]
        if changed.get("model.rung") and self.swap is not None and changed["model.rung"] != self.swap.rung:
            self.get_logger().info(f"rung {changed['model.rung']} is being prepared")
            self.swap.request(changed["model.rung"])
        elif changed.get("model.rung") and self.swap is not None and self.swap.state().pending:
            self.swap.request(changed["model.rung"])

    def _on_swap(self, event: SwapEvent) -> None:
        """A rung became active, or did not: from the model's or the ladder's thread."""
        if event.kind == "active":
            self.get_logger().info(f"rung {event.text}, {getattr(self._model, 'carried', 0)} past instants carried over")
        else:
            self._note(event.text)

    def _tell_rung(self) -> None:
        """The parameter says what runs, also after a swap that failed."""
        swap = self.swap
        if swap is None:
            return
        state = swap.state()
        if state.failure and state.pending is None and self._p["model.rung"] not in ("", state.rung):
            self.set_parameters([Parameter("model.rung", value=state.rung)])

    def _thinned(self, frame_set: FrameSet) -> None:
        """An instant that ``model.rate`` leaves out is answered too: a source in lockstep waits for it."""
        self._answered = max(frame.stamp for frame in frame_set.frames.values())
        with until_shutdown(self):
            self._publish_status(frame_set.stamp, {}, "", latency_ms=0.0)

    # --- inputs -------------------------------------------------------------------------------------------------------------

    def _on_tf(self, message: Message) -> None:
        for transform in message.transforms:
            parent, child = transform.header.frame_id.lstrip("/"), transform.child_frame_id.lstrip("/")
            if parent == self._p["odom_frame"] and child == self._p["base_frame"]:
                try:
                    self._poses.add(
                        convert.stamp_to_ns(transform.header.stamp), convert.pose_from_transform(transform.transform)
                    )
                except (ValueError, BevstackError) as error:
                    self._note(f"transform {parent} -> {child}: {error}")

    def _on_image(self, name: str, message: Message) -> None:
        """One image: hold it until its camera's calibration is known, else send it into the pipeline."""
        pipeline, rig = self._pipeline, self._rig
        if pipeline is None or rig is None:
            return
        stamp = convert.stamp_to_ns(message.header.stamp)
        if self._newest is None or stamp > self._newest[0] or self._newest[0] - stamp > 1_000_000_000:
            self._newest = (stamp, time.monotonic())
        camera = rig.camera(name)
        if camera is None:
            with self._held_lock:
                replaced = self._held.get(name)
                self._held[name] = message
            if replaced is not None:
                pipeline.lost(name, rig.reason(name))
            rig.resolve(name)
            self._release(name)  # on another thread it may have become known between the two looks
            return
        self._submit(name, camera, message, pipeline)

    def _tick(self) -> None:
        """Ten times a second: calibrations that were waiting for tf, and an answer to images that make no instant."""
        pipeline, rig, newest = self._pipeline, self._rig, self._newest
        if pipeline is None or rig is None:
            return
        rig.resolve_all()
        self._tell_rung()
        held_back = self._held_back
        if newest is None or newest[0] == self._answered or (held_back is not None and held_back.waiting):
            return
        # Whoever waits for an answer (lockstep) gets one, also if a frame was broken, refused, or never came.
        patience = self._p["tf_timeout"] + 1.0 if self._held else _INCOMPLETE_AFTER
        if pipeline.idle and time.monotonic() - newest[1] > patience:
            self._answered = newest[0]
            oldest = newest[0] - round(self._p["max_camera_time_diff"] * 1e9)
            missing = [name for name, count in pipeline.counts().cameras.items() if (count.stamp or 0) < oldest]
            why = [f"no image of {', '.join(missing)}"] if missing else []
            why += [self._trouble(10.0)] if self._troubles else []
            self._latency_ms = 0.0
            self._publish_status(newest[0], {}, f"incomplete instant: {'; '.join(filter(None, why))}")

    def _calibrated(self, name: str) -> None:
        """A camera's calibration is known or has changed: the image that waited for it can go on."""
        pipeline, rig = self._pipeline, self._rig
        camera = rig.camera(name) if rig is not None else None
        if pipeline is None or camera is None:
            return
        self.get_logger().info(f"{name}: calibration for {camera.width}x{camera.height} pixels")
        pipeline.forget()
        self._release(name)

    def _release(self, name: str) -> None:
        """Send on the image that waited for its camera's calibration, if that is known now."""
        pipeline, rig = self._pipeline, self._rig
        camera = rig.camera(name) if rig is not None else None
        if pipeline is None or camera is None:
            return
        with self._held_lock:
            message = self._held.pop(name, None)
        if message is not None:
            self._submit(name, camera, message, pipeline)

    def _corrected(self, camera: Camera) -> Camera:
        """The camera of a body that leans by the offset parameters; the same object while they and the calibration stay."""
        lean = (self._p["roll_offset"], self._p["pitch_offset"])
        if lean == (0.0, 0.0):
            return camera
        known = self._leaning.get(camera.name)
        if known is None or known[0] is not camera or known[1] != lean:
            known = (camera, lean, camera.carried(*np.radians(lean)))
            self._leaning[camera.name] = known
        return known[2]

    def _submit(self, name: str, camera: Camera, message: Message, pipeline: Pipeline) -> None:
        camera = self._corrected(camera)
        rectified = self._p["images_rectified"]
        try:
            if self._p["image_transport"] == "compressed":
                frame = convert.frame_from_compressed(message, camera, rectified=rectified)
                size = image_size(frame.encoded) if frame.encoded is not None else (0, 0)
            else:
                size = (int(message.width), int(message.height))
                frame = convert.frame_from_image(message, camera, rectified=rectified)
            if size != (camera.width, camera.height):
                raise convert.ImageMessageError(
                    f"{name} sends {size[0]}x{size[1]} pixels but its camera_info is for {camera.width}x{camera.height}: "
                    "publish the camera_info that belongs to the image"
                )
            pipeline.submit(frame)
        except BevstackError as error:
            pipeline.lost(name, f"{name}: {error}" if name not in str(error) else str(error))

    # --- outputs ------------------------------------------------------------------------------------------------------------

    def _on_result(self, result: Result) -> None:
        """On the model's thread, which goes on with the next instant while a result waits for its time."""
        held_back, offset = self._held_back, self._p["release_after"]
        if held_back is None or not (offset or held_back.waiting):
            self._let_out(result)
            return
        now = time.monotonic()
        held_back.put(now + offset - self._latency(result.frame_set.stamp, result.arrived, now) / 1e3, result)

    def _let_out(self, result: Result) -> None:
        with until_shutdown(self):
            self._publish(result)

    def _publish(self, result: Result) -> None:
        """On the model's thread, or on that of ``release_after``: everything about one instant."""
        started = time.monotonic()
        stamp, p = result.frame_set.stamp, self._p
        self._posed = result.posed
        reason = result.reason
        if result.boxes is not None:
            boxes = result.boxes[result.boxes.score >= p["score_threshold"]]
            if len(boxes) > p["max_boxes"]:
                boxes = boxes[np.argsort(-boxes.score, kind="stable")[: p["max_boxes"]]]
            try:
                placed = self._in_output_frame(boxes, result)
                self._detections.publish(convert.detections_from_boxes(placed, stamp, p["output_frame"], self._covariance()))
                if self._markers.get_subscription_count():
                    self._markers.publish(
                        convert.markers_from_boxes(
                            placed, stamp, p["output_frame"], style=p["marker_style"], lifetime_ns=self._marker_lifetime()
                        )
                    )
            except tf2.TransformException as error:
                reason = f"no transform {p['output_frame']} <- {p['base_frame']}: {error}"
                self._note(reason)
            if self._drawer is not None and self._debug_wanted():
                self._drawer.put(Result(result.frame_set, boxes, {}, result.arrived, result.posed))
        now = time.monotonic()
        self._last_result = now
        self._done.append(now)
        stages = {**result.stages, "publish": (now - started) * 1e3}
        self._stages = stages
        self._latency_ms = self._latency(stamp, result.arrived, now)
        self._answered = max(frame.stamp for frame in result.frame_set.frames.values())
        self._publish_status(stamp, stages, reason)

    def _publish_status(self, stamp: int, stages: Mapping[str, float], reason: str, latency_ms: float | None = None) -> None:
        pipeline = self._pipeline
        if pipeline is None:
            return
        counts = pipeline.counts()
        message = PipelineStatus(
            header=convert.header(stamp, self._p["output_frame"]),
            rung=str(getattr(self._model, "rung", self._p["model"])),
            engine=self.engine,
            instants_in=counts.instants_in,
            instants_out=counts.instants_out,
            instants_dropped=counts.instants_dropped,
            frame_drop_ratio=float(counts.frame_drop_ratio),
            stages=list(stages),
            stage_ms=[float(value) for value in stages.values()],
            latency_ms=float(self._latency_ms if latency_ms is None else latency_ms),
            cameras=list(counts.cameras),
            camera_frames=[c.frames for c in counts.cameras.values()],
            camera_drops=[c.drops for c in counts.cameras.values()],
            reason=reason or self._trouble(),
        )
        self._status.publish(message)

    def _latency(self, stamp: int, arrived: float, now: float) -> float:
        """Milliseconds from exposure to now, where exposure stamps are of this clock; else from arrival.

        A simulated clock stands still while the model runs: there, too, arrival is what counts.
        """
        if self.get_parameter("use_sim_time").value:
            return (now - arrived) * 1e3
        age = self.get_clock().now().nanoseconds - stamp
        return age / 1e6 if 0 <= age < 10e9 else (now - arrived) * 1e3

    def _in_output_frame(self, boxes: Boxes3D, result: Result) -> Boxes3D:
        target, base = self._p["output_frame"], self._p["base_frame"]
        if target == base:
            return boxes
        if target == self._p["odom_frame"]:
            if not result.posed:
                raise tf2.LookupException("no ego pose for this instant")
            return boxes.transformed(result.frame_set.T_world_ego)
        from bevstack.ros.runtime import Time

        return boxes.transformed(convert.pose_from_transform(self._buffer.lookup_transform(target, base, Time()).transform))

    def _covariance(self) -> Any:
        position, yaw = self._p["position_stddev"], self._p["yaw_stddev"]
        return np.diag([position**2, position**2, position**2, 0.0, 0.0, yaw**2]) if position or yaw else None

    def _rate(self) -> float:
        """Instants per second over the last ones; 0 when the last is long ago."""
        if len(self._done) < 2 or self._done[-1] == self._done[0]:
            return 0.0
        period = (self._done[-1] - self._done[0]) / (len(self._done) - 1)
        return 1.0 / max(period, time.monotonic() - self._done[-1])

    def _marker_lifetime(self) -> int:
        if self._p["marker_lifetime"]:
            return round(self._p["marker_lifetime"] * 1e9)
        rate = self._rate()
        return round(min(max(2.0 / rate if rate else 1.0, 0.2), 5.0) * 1e9)

    def _debug_wanted(self) -> bool:
        return bool(self._p["debug"]) or any(publisher.get_subscription_count() for publisher in self._debug.values())

    def _draw(self, result: Result) -> None:
        """On the drawing thread: debug images of the newest instant."""
        assert result.boxes is not None
        rig = self._rig
        for name, frame in result.frame_set.frames.items():
            publisher = self._debug.get(name)
            if (
                publisher is None
                or rig is None
                or not self._active
                or not (self._p["debug"] or publisher.get_subscription_count())
            ):
                continue
            image = draw_boxes(frame, result.boxes, self._p["debug_width"])
            with until_shutdown(self):
                publisher.publish(convert.compressed_from_rgb(image, frame.stamp, rig.frame(name), quality=80))

    # --- diagnostics --------------------------------------------------------------------------------------------------------

    def _note(self, reason: str) -> None:
        """Remember and log (throttled) why something was lost."""
        self._troubles.append((time.monotonic(), reason))
        self.get_logger().warning(reason, throttle_duration_sec=2.0)

    def _trouble(self, seconds: float = 1.0) -> str:
        """What went wrong in the last ``seconds``: up to three different reasons, the newest last."""
        since = time.monotonic() - seconds
        recent = list(dict.fromkeys(text for at, text in list(self._troubles) if at >= since))
        return "; ".join(recent[-3:])

    def _because(self) -> str:
        text = self._trouble(10.0)
        return f": {text}" if text else ""

    def _diagnose_state(self, stat: Any) -> Any:
        if self._failure:
            stat.summary(DiagnosticStatus.ERROR, self._failure)
        elif self._active:
            stat.summary(DiagnosticStatus.OK, "active")
        else:
            stat.summary(DiagnosticStatus.WARN, "inactive" if self._model is not None else "not configured")
        stat.add("model", str(self._p["model"]))
        stat.add("engine", self.engine)
        stat.add("rung", str(getattr(self._model, "rung", "")))
        if self.swap is not None:
            state = self.swap.state()
            stat.add("rungs", ", ".join(self.swap.rungs))
            stat.add("rung in preparation", state.pending or "")
            stat.add("last swap failure", state.failure)
        at, text = self._troubles[-1] if self._troubles else (0.0, "")
        stat.add("last problem", text)
        stat.add("last problem age s", f"{time.monotonic() - at:.1f}" if text else "")
        return stat

    def _diagnose_cameras(self, stat: Any) -> Any:
        pipeline, rig = self._pipeline, self._rig
        if pipeline is None or rig is None:
            stat.summary(DiagnosticStatus.OK, "not active")
            return stat
        counts = pipeline.counts()
        now, problems, worst = time.monotonic(), [], DiagnosticStatus.OK
        silent = set(pipeline.synchroniser.silent())
        for name, count in counts.cameras.items():
            age = now - count.arrived if count.arrived is not None else None
            if rig.camera(name) is None:
                problems.append(f"{name}: {rig.reason(name)}")
                worst = DiagnosticStatus.ERROR
            elif age is None:
                problems.append(f"{name}: no image has arrived")
                worst = DiagnosticStatus.ERROR
            elif name in silent or age > max(1.0, 2 * self._p["camera_timeout"]):
                problems.append(f"{name}: silent for {age:.1f} s")
                worst = DiagnosticStatus.ERROR
            elif count.reason and now - count.reason_at < 5.0:
                problems.append(count.reason)
                worst = max(worst, DiagnosticStatus.WARN)
            elif rig.doubts(name):
                problems += rig.doubts(name)
                worst = max(worst, DiagnosticStatus.WARN)
            stat.add(f"{name} frames", str(count.frames))
            stat.add(f"{name} drops", str(count.drops))
            stat.add(f"{name} last reason", count.reason)
        stat.summary(worst, "; ".join(problems) if problems else f"{len(counts.cameras)} cameras deliver")
        return stat

    def _diagnose_instants(self, stat: Any) -> Any:
        pipeline = self._pipeline
        if pipeline is None:
            stat.summary(DiagnosticStatus.OK, "not active")
            return stat
        counts, rate, sync = pipeline.counts(), self._rate(), pipeline.synchroniser
        quiet = time.monotonic() - self._last_result if self._last_result is not None else None
        if quiet is None:
            stat.summary(DiagnosticStatus.WARN, f"no instant yet{self._because()}")
        elif quiet > max(2.0, 4.0 / rate if rate else 0.0):
            stat.summary(DiagnosticStatus.ERROR, f"no instant for {quiet:.1f} s{self._because()}")
        elif self._p["min_rate"] and rate < self._p["min_rate"]:
            stat.summary(DiagnosticStatus.WARN, f"{rate:.1f} instants/s, fewer than min_rate {self._p['min_rate']:g}")
        else:
            stat.summary(DiagnosticStatus.OK, f"{rate:.1f} instants/s")
        stat.add("rate", f"{rate:.2f}")
        stat.add("in", str(counts.instants_in))
        stat.add("out", str(counts.instants_out))
        stat.add("dropped", str(counts.instants_dropped))
        stat.add("skipped by the synchroniser", str(sync.skips))
        stat.add("last skip", sync.skip_reason)
        stat.add("frame drop ratio", f"{counts.frame_drop_ratio:.4f}")
        return stat

    def _diagnose_latency(self, stat: Any) -> Any:
        late = self._latency_ms > 1e3 * self._p["max_stamp_age"]
        text = f"{self._latency_ms:.0f} ms from exposure to result"
        stat.summary(
            DiagnosticStatus.WARN if late else DiagnosticStatus.OK, text + (" is more than max_stamp_age" if late else "")
        )
        for name, value in self._stages.items():
            stat.add(f"{name} ms", f"{value:.1f}")
        return stat

    def _diagnose_motion(self, stat: Any) -> Any:
        if not len(self._poses):
            stat.summary(
                DiagnosticStatus.WARN,
                f"no {self._p['odom_frame']} -> {self._p['base_frame']} on /tf: past frames are not aligned",
            )
        elif not self._posed:
            stat.summary(DiagnosticStatus.WARN, f"no ego pose for the last instant{self._because()}")
        else:
            stat.summary(DiagnosticStatus.OK, "ego poses known")
        return stat


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until it is told to stop; the exit code is 0 then."""
    return run_node(BevNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
