"""The 2D perception node: camera images in, boxes per image out. Needs neither calibration nor tf.

Subscribes per camera ``<image topic>[/compressed]``; publishes ``~/<camera>/detections_2d``,
``~/debug/image_<camera>/compressed``, ``~/status`` and ``/diagnostics``. Callbacks only look at headers; decoding and inference
run in workers. Where ``bev_node`` runs in the same process, images that both want at the same scale are decoded once.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from bevstack.engine import HotSwap, SwapEvent
from bevstack.engine.names import ENGINES
from bevstack.errors import BevstackError
from bevstack.frames.calibration import guess_camera
from bevstack.frames.decode import image_size
from bevstack.frames.shared import PROCESS
from bevstack.geometry import Boxes2D, Camera
from bevstack.ros import convert
from bevstack.ros.convert2d import detections_from_boxes2d
from bevstack.ros.interfaces import (
    CompressedImage,
    Detection2DArray,
    DiagnosticStatus,
    Image,
    Message,
    PipelineStatus,
)
from bevstack.ros.runtime import (
    LifecycleNode,
    Parameter,
    QoSProfile,
    SetParametersResult,
    State,
    TransitionCallbackReturn,
    diagnostic_updater,
)

from .bev_node import NUSCENES_CAMERAS
from .camera_schedule import CameraSchedule, named_numbers
from .detect_pipeline import BatchResult, DetectPipeline, Images2D, Seen
from .draw2d import draw_boxes2d
from .main import run_node, until_shutdown
from .parameters import Parameters, ParameterValueError, Spec
from .prepare import prepare_all
from .release import RELEASE_AFTER, Release
from .topics import optical_frame, sensor_qos
from .worker import NewestWins

PARAMETERS: tuple[Spec, ...] = (
    Spec("cameras", NUSCENES_CAMERAS, "names of the cameras, the most important first"),
    Spec("image_topic_template", "{camera}/image_raw", "base image topic of a camera"),
    Spec("image_transport", "compressed", "form in which images arrive", choices=("raw", "compressed")),
    Spec(
        "image_reliability",
        "best_effort",
        "reliability that the image subscriptions ask for",
        choices=("best_effort", "reliable"),
    ),
    Spec("image_depth", 5, "queue depth of the image subscriptions", low=1, high=1000),
    Spec("result_depth", 10, "queue depth of the result publishers", low=1, high=1000),
    Spec("max_rate", 0.0, "most images per second of a camera; 0: all", live=True, low=0.0, high=1000.0),
    Spec("camera_rates", [], "most images per second of single cameras, as cam_back=2; 0: all", live=True),
    Spec(
        "priorities",
        [],
        "which camera goes first where a batch has no room for all, as cam_front=2; missing: 0, then as listed",
        live=True,
    ),
    Spec("patience", 1.0, "seconds after which a waiting image goes first whatever its priority", low=0.0, high=60.0),
    Spec("batch", 0, "most images per run of the network; 0: all that wait", low=0, high=64),
    Spec("gather", 0.02, "seconds to wait for other cameras' images of the same moment", low=0.0, high=1.0),
    Spec("model", "giraffedet-nano", "name of bundled weights, path of a weights file, or an ONNX graph of the YOLOX layout"),
    Spec(
        "model.rung",
        "",
        "size that runs, of the model's family; empty: the model itself. Swapped between two batches",
        live=True,
    ),
    Spec(
        "input_size",
        "",
        "network input as 1280x768, multiples of 128; empty: the rung's own. Larger finds smaller things and takes longer",
    ),
    Spec("model.resident", False, "rungs stay loaded once they have been: faster swaps, more memory"),
    Spec("model.rate", 1.0, "share of the images that the model works on, evenly spread", live=True, low=0.01, high=1.0),
    RELEASE_AFTER,
    Spec("engine", "onnx", "what runs the network; where that cannot be, onnx does, with a warning", choices=ENGINES),
    Spec("threads", 0, "threads of the network; 0: as many as this process may use", low=0, high=256),
    Spec("decode_workers", 1, "threads that decode images", low=1, high=32),
    Spec("score_threshold", 0.3, "boxes below this score are not published", live=True, low=0.0, high=1.0),
    Spec("max_boxes", 100, "most boxes per image published, best scores first", live=True, low=1, high=5000),
    Spec("debug", False, "draw debug images even if nobody listens", live=True),
    Spec("debug_width", 800, "width of debug images, pixels", live=True, low=64, high=4096),
    Spec("diagnostic_period", 1.0, "seconds between two messages on /diagnostics", low=0.05, high=60.0),
    Spec("min_rate", 0.0, "images per second and camera below which diagnostics warn; 0: never", live=True, low=0.0, high=1e3),
    Spec("camera_timeout", 2.0, "a camera without an image for this many seconds is silent", low=0.05, high=600.0),
    Spec("build_only", False, "load the model and its other rungs, keep what their engine stores, and exit"),
    Spec("autostart", True, "configure and activate by itself at start"),
)


class DetectNode(LifecycleNode):
    """Boxes in the images of N cameras. Parameters: ``PARAMETERS``.

    Args:
        model: use this model instead of loading one (tests, benchmarks).
        kwargs: as for ``Node`` (namespace, cli_args, parameter_overrides, context).
    """

    def __init__(self, node_name: str = "detect_node", *, model: Images2D | None = None, **kwargs: Any) -> None:
        super().__init__(node_name, **kwargs)
        self._given_model = model
        self._model: Images2D | None = None
        self._pipeline: DetectPipeline | None = None
        self._drawer: NewestWins[tuple[Seen, ...]] | None = None
        self._held_back: Release[Seen | BatchResult] | None = None
        self._subscriptions_made: list[Any] = []
        self._active = False
        self._failure = ""
        self._built = False
        self._troubles: deque[tuple[float, str]] = deque(maxlen=16)
        self._done: dict[str, deque[float]] = {}
        self._latency_ms = 0.0
        self._batch_latency_ms = self._publishing_ms = 0.0  # of the images of a batch that were published so far
        self._stages: Mapping[str, float] = {}
        self._answered = 0  # newest stamp that a status message was about
        self._frames: dict[str, str] = {}
        self._plain: dict[str, Camera] = {}
        self._p = Parameters(self, PARAMETERS, self._on_change)
        self.add_on_set_parameters_callback(self._check_live)
        self.cameras: tuple[str, ...] = tuple(self._p["cameras"])
        self._updater = diagnostic_updater.Updater(self, period=self._p["diagnostic_period"])
        self._updater.setHardwareID("bevstack")
        for title, task in (
            ("state", self._diagnose_state),
            ("cameras", self._diagnose_cameras),
            ("latency", self._diagnose_latency),
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
        """What runs the network: the parameter, or what has taken over from it."""
        return str(getattr(self._model, "engine", self._p["engine"]))

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
        """No image is being worked on or waits, and no boxes wait for their time."""
        pipeline = self._pipeline
        return (pipeline is None or pipeline.idle) and not self._holds

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
        self._schedule()  # says what is wrong with rates and priorities
        self._model = self._given_model or self._load()
        qos = QoSProfile(depth=p["result_depth"])
        self._status = self.create_lifecycle_publisher(PipelineStatus, "~/status", qos)
        self._detections = {
            name: self.create_lifecycle_publisher(Detection2DArray, f"~/{name}/detections_2d", qos) for name in self.cameras
        }
        self._debug = {
            name: self.create_lifecycle_publisher(CompressedImage, f"~/debug/image_{name}/compressed", qos)
            for name in self.cameras
        }

    def _load(self) -> Images2D:
        from bevstack.detect.ladder import load_ladder
        from bevstack.detect.letterbox import parse_canvas

        from .foreign_detector import ForeignDetector, is_foreign

        p = self._p
        canvas = parse_canvas(p["input_size"]) if p["input_size"] else None
        if is_foreign(p["model"]):
            if canvas is not None:
                raise ParameterValueError(f"input_size {p['input_size']}: {p['model']} has one size; leave input_size empty")
            return ForeignDetector(p["model"], p["threads"] or None)
        return load_ladder(
            p["model"],
            p["engine"],
            rung=p["model.rung"],
            threads=p["threads"] or None,
            canvas=canvas,
            resident=p["model.resident"],
            on_event=self._on_swap,
        )

    def _schedule(self) -> CameraSchedule:
        p = self._p
        rates = dict.fromkeys(self.cameras, float(p["max_rate"]))
        rates |= named_numbers(p["camera_rates"], self.cameras, "camera_rates")
        priorities = named_numbers(p["priorities"], self.cameras, "priorities")
        schedule = CameraSchedule(self.cameras, rates, priorities, p["patience"])
        schedule.share = p["model.rate"]
        return schedule

    def on_activate(self, state: State) -> TransitionCallbackReturn:
        """Start the workers and subscribe."""
        assert self._model is not None
        p = self._p
        result = super().on_activate(state)
        self._drawer = NewestWins("debug images 2D", self._draw)
        self._held_back = Release(self._let_out)
        self._done = {name: deque(maxlen=20) for name in self.cameras}
        self._pipeline = DetectPipeline(
            self._model,
            self._schedule(),
            on_result=self._on_result,
            on_problem=self._note,
            workers=p["decode_workers"],
            batch=p["batch"],
            gather=p["gather"] if len(self.cameras) > 1 else 0.0,
        )
        self._active = True
        qos = sensor_qos(p["image_reliability"], p["image_depth"])
        compressed = p["image_transport"] == "compressed"
        for name in self.cameras:
            base = self.resolve_topic_name(p["image_topic_template"].format(camera=name))
            self._subscriptions_made.append(
                self.create_subscription(
                    CompressedImage if compressed else Image,
                    f"{base}/compressed" if compressed else base,
                    partial(self._on_image, name),
                    qos,
                )
            )
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
        for publisher in (self._status, *self._detections.values(), *self._debug.values()):
            self.destroy_lifecycle_publisher(publisher)
        self._free_model()
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
        if self._subscriptions_made:
            self.destroy_timer(self._retry)
        self._subscriptions_made.clear()
        pipeline, self._pipeline = self._pipeline, None
        drawer, self._drawer = self._drawer, None
        if pipeline is not None and not pipeline.close():
            self.get_logger().warning("the model is still busy with its last batch")
        held_back, self._held_back = self._held_back, None
        if held_back is not None and not held_back.close():
            self.get_logger().warning("the last boxes are still being published")
        if drawer is not None:
            drawer.close()

    def destroy_node(self) -> None:
        """Stop the workers first; then as every node."""
        self._stop()
        super().destroy_node()

    # --- rungs and live parameters ------------------------------------------------------------------------------------------

    @property
    def swap(self) -> HotSwap[Any] | None:
        """The ladder of rungs; None before it is configured, and where the model has only one size."""
        return getattr(self._model, "swap", None)

    def _check_live(self, changes: Sequence[Parameter]) -> Any:  # rcl_interfaces/SetParametersResult
        for change in changes:
            if change.name in ("camera_rates", "priorities"):
                try:
                    named_numbers([entry for entry in change.value or [] if entry], self.cameras, change.name)
                except ParameterValueError as error:
                    return SetParametersResult(successful=False, reason=str(error))
            if change.name == "model.rung" and self._model is not None and change.value:
                rungs = self.swap.rungs if self.swap is not None else ()
                if change.value not in rungs:
                    known = f"use one of {', '.join(rungs)}" if rungs else f"{self._p['model']} has no other sizes"
                    return SetParametersResult(successful=False, reason=f"there is no rung {change.value!r}: {known}")
        return SetParametersResult(successful=True, reason="")

    def _on_change(self, changed: Mapping[str, Any]) -> None:
        if self._pipeline is not None and changed.keys() & {"max_rate", "camera_rates", "priorities", "model.rate"}:
            wanted = self._schedule()

            def apply(schedule: CameraSchedule) -> None:
                schedule.rates, schedule.priorities, schedule.share = wanted.rates, wanted.priorities, wanted.share

            self._pipeline.reschedule(apply)
        rung, swap = changed.get("model.rung"), self.swap
        if rung and swap is not None and (rung != swap.rung or swap.state().pending):
            if rung != swap.rung:
                self.get_logger().info(f"rung {rung} is being prepared")
            swap.request(rung)

    def _on_swap(self, event: SwapEvent) -> None:
        """A rung became active, or did not: from the model's or the ladder's thread."""
        if event.kind == "active":
            self.get_logger().info(f"rung {event.text}")
        else:
            self._note(event.text)

    def _tick(self) -> None:
        """Ten times a second: what the ladder runs, and an answer to images that came to nothing (damaged, left out)."""
        self._tell_rung()
        pipeline = self._pipeline
        if pipeline is None or not pipeline.idle or self._holds:
            return
        newest = pipeline.answered()
        if newest != self._answered:
            self._publish_status(newest, {}, self._trouble(), 0.0)

    def _tell_rung(self) -> None:
        """The parameter says what runs, also after a swap that failed."""
        swap = self.swap
        if swap is None:
            return
        state = swap.state()
        if state.failure and state.pending is None and self._p["model.rung"] not in ("", state.rung):
            self.set_parameters([Parameter("model.rung", value=state.rung)])

    # --- inputs -------------------------------------------------------------------------------------------------------------

    def _on_image(self, name: str, message: Message) -> None:
        pipeline = self._pipeline
        if pipeline is None:
            return
        self._frames[name] = message.header.frame_id or optical_frame(name)
        try:
            if self._p["image_transport"] == "compressed":
                encoded = convert.image_bytes(message)
                size = image_size(encoded)
                frame = convert.frame_from_compressed(message, self._camera(name, size))
            else:
                frame = convert.frame_from_image(message, self._camera(name, (int(message.width), int(message.height))))
        except BevstackError as error:
            reason = f"{name}: {error}" if name not in str(error) else str(error)
            pipeline.lost(name, convert.stamp_to_ns(message.header.stamp), reason)
            return
        # Left out on purpose: whoever waits for an answer (lockstep) gets one all the same.
        if not pipeline.submit(frame) and not self._holds and (answered := pipeline.answered()) > self._answered:
            self._publish_status(answered, {}, "", 0.0)

    def _camera(self, name: str, size: tuple[int, int]) -> Camera:
        """A camera of this size of which nothing else is known: boxes stay in the image."""
        known = self._plain.get(name)
        if known is None or (known.width, known.height) != size:
            known = self._plain[name] = guess_camera(name, *size)
        return known

    # --- outputs ------------------------------------------------------------------------------------------------------------

    @property
    def _holds(self) -> bool:
        """Boxes wait for the time at which they are let out."""
        held_back = self._held_back
        return held_back is not None and held_back.waiting

    def _on_result(self, result: BatchResult) -> None:
        """On the model's thread, which goes on with the next batch while boxes wait, each image's for its own time."""
        held_back, offset = self._held_back, self._p["release_after"]
        if held_back is None or not (offset or held_back.waiting):
            for seen in result.seen:
                self._let_out(seen)
            self._let_out(result)
            return
        now = due = time.monotonic()
        for seen in sorted(result.seen, key=lambda seen: seen.frame.stamp):
            due = now + offset - self._latency(seen, now) / 1e3
            held_back.put(due, seen)
        held_back.put(due, result)

    def _let_out(self, item: Seen | BatchResult) -> None:
        """On the model's thread, or on that of ``release_after``: one image's boxes; after those of a batch, its status."""
        with until_shutdown(self):
            if isinstance(item, Seen):
                self._publish(item)
            else:
                self._finish(item)

    def _publish(self, seen: Seen) -> None:
        name = seen.frame.camera.name
        frame_id = self._frames.get(name, optical_frame(name))
        started = time.monotonic()
        self._detections[name].publish(detections_from_boxes2d(self._wanted(seen.boxes), seen.frame.stamp, frame_id))
        now = time.monotonic()
        self._done[name].append(now)
        self._publishing_ms += (now - started) * 1e3
        self._batch_latency_ms = max(self._batch_latency_ms, self._latency(seen, now))

    def _finish(self, result: BatchResult) -> None:
        if result.seen and self._drawer is not None and self._debug_wanted():
            self._drawer.put(tuple(Seen(s.frame, self._wanted(s.boxes), s.arrived) for s in result.seen))
        self._stages = {**result.stages, "publish": self._publishing_ms}
        latency, self._batch_latency_ms, self._publishing_ms = self._batch_latency_ms, 0.0, 0.0
        if result.seen:
            self._latency_ms = latency
        self._publish_status(result.answered, self._stages, result.reason, latency)

    def _wanted(self, boxes: Boxes2D) -> Boxes2D:
        boxes = boxes[boxes.score >= self._p["score_threshold"]]
        if len(boxes) > self._p["max_boxes"]:
            boxes = boxes[np.argsort(-boxes.score, kind="stable")[: self._p["max_boxes"]]]
        return boxes

    def _publish_status(self, stamp: int, stages: Mapping[str, float], reason: str, latency_ms: float) -> None:
        pipeline = self._pipeline
        if pipeline is None:
            return
        counts = pipeline.counts()
        self._answered = stamp
        self._status.publish(
            PipelineStatus(
                header=convert.header(stamp, ""),
                rung=str(getattr(self._model, "rung", self._p["model"])),
                engine=self.engine,
                instants_in=counts.images_in,
                instants_out=counts.images_out,
                instants_dropped=counts.images_dropped,
                frame_drop_ratio=float(counts.frame_drop_ratio),
                stages=list(stages),
                stage_ms=[float(value) for value in stages.values()],
                latency_ms=float(latency_ms),
                cameras=list(counts.cameras),
                camera_frames=[c.frames for c in counts.cameras.values()],
                camera_drops=[c.drops for c in counts.cameras.values()],
                reason=reason or self._trouble(),
            )
        )

    def _latency(self, seen: Seen, now: float) -> float:
        """Milliseconds from exposure to now, where exposure stamps are of this clock; else from arrival."""
        arrival = (now - seen.arrived) * 1e3
        if self.get_parameter("use_sim_time").value:
            return arrival
        age = self.get_clock().now().nanoseconds - seen.frame.stamp
        return age / 1e6 if 0 <= age < 10e9 else arrival

    def _debug_wanted(self) -> bool:
        return bool(self._p["debug"]) or any(publisher.get_subscription_count() for publisher in self._debug.values())

    def _draw(self, batch: tuple[Seen, ...]) -> None:
        """On the drawing thread: debug images of the newest batch."""
        for seen in batch:
            name = seen.frame.camera.name
            publisher = self._debug.get(name)
            if publisher is None or not self._active or not (self._p["debug"] or publisher.get_subscription_count()):
                continue
            image = draw_boxes2d(seen.frame, seen.boxes, self._p["debug_width"])
            with until_shutdown(self):
                frame_id = self._frames.get(name, optical_frame(name))
                publisher.publish(convert.compressed_from_rgb(image, seen.frame.stamp, frame_id, quality=80))

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

    def _rate(self, name: str) -> float:
        """Images per second over the last ones; falls when none comes any more."""
        done = list(self._done.get(name, ()))
        if len(done) < 2 or done[-1] == done[0]:
            return 0.0
        return 1.0 / max((done[-1] - done[0]) / (len(done) - 1), time.monotonic() - done[-1])

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
        pipeline = self._pipeline
        if pipeline is None:
            stat.summary(DiagnosticStatus.OK, "not active")
            return stat
        counts = pipeline.counts()
        now, problems, worst = time.monotonic(), [], DiagnosticStatus.OK
        for name, count in counts.cameras.items():
            age = now - count.arrived if count.arrived is not None else None
            if age is None or age > self._p["camera_timeout"]:
                problems.append(f"{name}: {'no image has arrived' if age is None else f'silent for {age:.1f} s'}")
                worst = DiagnosticStatus.ERROR
            elif count.reason and now - count.reason_at < 5.0:
                problems.append(count.reason)
                worst = max(worst, DiagnosticStatus.WARN)
            elif self._p["min_rate"] and len(self._done[name]) > 1 and self._rate(name) < self._p["min_rate"]:
                problems.append(f"{name}: {self._rate(name):.1f} images/s, fewer than min_rate {self._p['min_rate']:g}")
                worst = max(worst, DiagnosticStatus.WARN)
            stat.add(f"{name} frames", str(count.frames))
            stat.add(f"{name} drops", str(count.drops))
            stat.add(f"{name} rate", f"{self._rate(name):.2f}")
        stat.summary(worst, "; ".join(problems) if problems else f"{len(counts.cameras)} cameras deliver")
        stat.add("left out by rates", str(counts.skipped))
        stat.add("images per run", f"{counts.images_out / counts.batches:.2f}" if counts.batches else "")
        stat.add("decodings shared in this process", str(PROCESS.reused))
        return stat

    def _diagnose_latency(self, stat: Any) -> Any:
        stat.summary(DiagnosticStatus.OK, f"{self._latency_ms:.0f} ms from exposure to result")
        for name, value in self._stages.items():
            stat.add(f"{name} ms", f"{value:.1f}")
        return stat


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until it is told to stop; the exit code is 0 then."""
    return run_node(DetectNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
