"""What the nodes of learned streams share: one worker for all cameras (newest wins), counts, status, diagnostics, lifecycle."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from bevstack.errors import BevstackError
from bevstack.ros import convert
from bevstack.ros.interfaces import CodecStatus, DiagnosticStatus, Message
from bevstack.ros.runtime import LifecycleNode, QoSProfile, State, TransitionCallbackReturn, diagnostic_updater

from .main import until_shutdown
from .parameters import Parameters, ParameterValueError, Spec
from .release import Release
from .topics import sensor_qos
from .worker import NewestOfEach

STREAM_PARAMETERS: tuple[Spec, ...] = (
    Spec("image_reliability", "best_effort", "reliability that subscriptions ask for", choices=("best_effort", "reliable")),
    Spec("image_depth", 5, "queue depth of the subscriptions", low=1, high=1000),
    Spec("result_depth", 10, "queue depth of the publishers", low=1, high=1000),
    Spec("engine", "onnx", "what runs the networks", choices=("onnx", "torch")),
    Spec("threads", 1, "threads of the engine", low=1, high=64),
    Spec("diagnostic_period", 1.0, "seconds between two messages on /diagnostics", low=0.05, high=60.0),
    Spec(
        "max_stamp_age",
        2.0,
        "seconds between exposure and publication above which diagnostics warn",
        live=True,
        low=0.0,
        high=3600.0,
    ),
    Spec("autostart", True, "configure and activate by itself at start"),
)


class FrameLostError(BevstackError):
    """One frame cannot be coded or decoded; the next one may."""


@dataclass(frozen=True)
class Done:
    """What became of one frame: facts for its status message, and milliseconds per stage."""

    model: str
    width: int
    height: int
    bytes: int
    rate_point: float
    stages: Mapping[str, float]
    psnr: float = float("nan")
    damaged: int = 0
    reason: str = ""
    send: Callable[[], None] | None = None  # publishes it, where ``work`` has not done so: ``release_after`` may hold it back


@dataclass
class _Count:
    """Frames of one camera; times are monotonic seconds."""

    received: int = 0
    published: int = 0
    dropped: int = 0
    bytes: int = 0
    reason: str = ""
    reason_at: float = 0.0
    arrived: float | None = None
    sizes: deque[tuple[float, int, float]] = field(default_factory=lambda: deque(maxlen=30))  # time, bytes, bits per pixel


@dataclass(frozen=True)
class _Item:
    message: Message
    arrived: float


class StreamNode(LifecycleNode):
    """A node that turns one message per camera and instant into another. Subclasses say how: ``open``, ``inputs``, ``work``.

    Args:
        specs: the node's parameters, ``STREAM_PARAMETERS`` included; "cameras" among them.
        direction: "encode" or "decode", for status and diagnostics.
    """

    def __init__(self, node_name: str, specs: Sequence[Spec], direction: str, **kwargs: Any) -> None:
        super().__init__(node_name, **kwargs)
        self._direction = direction
        self._subscriptions_made: list[Any] = []
        self._publishers_made: list[Any] = []
        self._worker: NewestOfEach[_Item] | None = None
        self._held_back: Release[tuple[str, _Item, Done]] | None = None
        self._counts: dict[str, _Count] = {}
        self._failure = ""
        self._opened = False
        self._latency_ms = 0.0
        self._p = Parameters(self, specs, self.changed)
        self.cameras: tuple[str, ...] = tuple(self._p["cameras"])
        self._updater = diagnostic_updater.Updater(self, period=self._p["diagnostic_period"])
        self._updater.setHardwareID("bevstack")
        self._updater.add("state", self._diagnose_state)
        self._updater.add("streams", self._diagnose_streams)

    # --- what subclasses do -------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Load the model and create the publishers. Raises BevstackError."""
        raise NotImplementedError

    def release(self) -> None:
        """Free the model."""
        raise NotImplementedError

    def inputs(self, camera: str) -> tuple[Any, str]:
        """(message class, topic) that a camera's frames come on."""
        raise NotImplementedError

    def extra_inputs(self) -> list[Any]:
        """Subscriptions beside the cameras' own, made when the node becomes active."""
        return []

    def wanted(self, camera: str, message: Message) -> bool:
        """False leaves the frame out, uncounted as a loss of quality (nobody listens, or there are too many)."""
        return True

    @property
    def release_after(self) -> float:
        """Seconds after exposure at which frames are published; 0: when they are ready."""
        return 0.0

    def work(self, camera: str, message: Message) -> Done | None:
        """On the worker: turn the message into another and publish it, or say how (``Done.send``); None if nobody is to know.

        Raises:
            BevstackError: this one is lost.
        """
        raise NotImplementedError

    def changed(self, values: Mapping[str, Any]) -> None:
        """Live parameters have new values."""

    def facts(self) -> Mapping[str, str]:
        """For diagnostics: which model, and what else is worth knowing."""
        return {}

    def out(self, kind: Any, topic: str) -> Any:
        """A lifecycle publisher that goes with the node's state."""
        made = self.create_lifecycle_publisher(kind, topic, QoSProfile(depth=self._p["result_depth"]))
        self._publishers_made.append(made)
        return made

    # --- lifecycle ----------------------------------------------------------------------------------------------------------

    def autostart(self) -> bool:
        """Configure and activate, if the parameter says so; False if that failed (the reason is logged and on /diagnostics)."""
        if not self._p["autostart"]:
            return True
        if self.trigger_configure() != TransitionCallbackReturn.SUCCESS:
            return False
        return bool(self.trigger_activate() == TransitionCallbackReturn.SUCCESS)

    @property
    def idle(self) -> bool:
        """No frame is being worked on or waits."""
        worker, held_back = self._worker, self._held_back
        return (worker is None or not worker.busy) and (held_back is None or not held_back.waiting)

    @property
    def failure(self) -> str:
        """Why the node could not be configured; "" if it could."""
        return self._failure

    def on_configure(self, state: State) -> TransitionCallbackReturn:
        """Load the model, create the publishers."""
        try:
            if not self.cameras or len(set(self.cameras)) != len(self.cameras):
                raise ParameterValueError(f"parameter cameras is {list(self.cameras)}: name one or more different cameras")
            with until_shutdown(self):  # a signal may come while the model is being loaded
                self.open()
                self._status = self.out(CodecStatus, "~/status")
        except (BevstackError, OSError, ValueError) as error:
            self._failure = " ".join(str(error).split())
            self.get_logger().error(f"cannot configure: {self._failure}")
            self._drop_publishers()
            with until_shutdown(self):
                self._updater.force_update()
            return TransitionCallbackReturn.FAILURE
        if not self.context.ok():
            self._failure = "stopped while it was being configured"
            self.get_logger().info(self._failure)
            return TransitionCallbackReturn.FAILURE
        self._failure, self._opened = "", True
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: State) -> TransitionCallbackReturn:
        """Start the worker and subscribe."""
        result = super().on_activate(state)
        self._counts = {name: _Count() for name in self.cameras}
        self._held_back = Release(self._let_out)
        self._worker = NewestOfEach(self._direction, self._run)
        qos = sensor_qos(self._p["image_reliability"], self._p["image_depth"])
        for name in self.cameras:
            kind, topic = self.inputs(name)
            self._subscriptions_made.append(self.create_subscription(kind, topic, partial(self._on_message, name), qos))
        self._subscriptions_made += self.extra_inputs()
        facts = ", ".join(f"{key} {value}" for key, value in self.facts().items() if value)
        self.get_logger().info(f"active: {len(self.cameras)} cameras, {facts}")
        return result

    def on_deactivate(self, state: State) -> TransitionCallbackReturn:
        """Unsubscribe and stop the worker."""
        self._stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: State) -> TransitionCallbackReturn:
        """Free the model and the publishers."""
        self._stop()
        self._drop_publishers()
        self._free()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: State) -> TransitionCallbackReturn:
        """Stop everything, from any state."""
        self._stop()
        self._free()
        return TransitionCallbackReturn.SUCCESS

    def destroy_node(self) -> None:
        """Stop the worker first; then as every node."""
        self._stop()
        self._free()
        super().destroy_node()

    def _drop_publishers(self) -> None:
        for publisher in self._publishers_made:
            self.destroy_lifecycle_publisher(publisher)
        self._publishers_made.clear()

    def _free(self) -> None:
        if self._opened:
            self._opened = False
            self.release()

    def _stop(self) -> None:
        for subscription in self._subscriptions_made:
            self.destroy_subscription(subscription)
        self._subscriptions_made.clear()
        worker, self._worker = self._worker, None
        if worker is not None and not worker.close():
            self.get_logger().warning("the model is still busy with its last frame")
        held_back, self._held_back = self._held_back, None
        if held_back is not None and not held_back.close():
            self.get_logger().warning("the last frames are still being published")

    # --- frames -------------------------------------------------------------------------------------------------------------

    def _on_message(self, name: str, message: Message) -> None:
        worker, count = self._worker, self._counts.get(name)
        if worker is None or count is None:
            return
        count.received += 1
        count.arrived = time.monotonic()
        if not self.wanted(name, message):
            count.dropped += 1
            return
        if worker.put(name, _Item(message, count.arrived)) is not None:
            count.dropped += 1

    def _run(self, name: str, item: _Item) -> None:
        """On the worker: one frame, whatever becomes of it."""
        count = self._counts[name]
        done: Done | None = None
        try:
            with until_shutdown(self):
                done = self.work(name, item.message)
        except BevstackError as error:
            done = self._lost(name, str(error))
        except Exception as error:  # noqa: BLE001 - one bad frame must not end the node; the reason is shown
            done = self._lost(name, f"{type(error).__name__}: {error}")
        else:
            if done is None:
                count.dropped += 1
                return
            if done.reason:
                self._note(name, done.reason)
        held_back, offset = self._held_back, self.release_after
        if held_back is None or not (offset or held_back.waiting):
            self._let_out((name, item, done))
            return
        now = time.monotonic()
        age = self._latency(convert.stamp_to_ns(item.message.header.stamp), item.arrived) / 1e3
        held_back.put(now + offset - age, (name, item, done))

    def _let_out(self, finished: tuple[str, _Item, Done]) -> None:
        """On the worker, or on the thread of ``release_after``: publish a frame, and tell what became of it."""
        name, item, done = finished
        count = self._counts[name]
        with until_shutdown(self):
            if done.send is not None:
                done.send()
            if done.bytes:
                count.published += 1
                count.sizes.append((time.monotonic(), done.bytes, 8.0 * done.bytes / max(1, done.width * done.height)))
            self._tell(name, item, done)

    def _lost(self, name: str, reason: str) -> Done:
        self._counts[name].dropped += 1
        self._note(name, reason)
        return Done("", 0, 0, 0, 0.0, {}, reason=reason)

    def _note(self, name: str, reason: str) -> None:
        count = self._counts[name]
        count.reason, count.reason_at = reason, time.monotonic()
        self.get_logger().warning(f"{name}: {reason}", throttle_duration_sec=2.0)

    def _tell(self, name: str, item: _Item, done: Done) -> None:
        count, stamp = self._counts[name], convert.stamp_to_ns(item.message.header.stamp)
        self._latency_ms = self._latency(stamp, item.arrived)
        self._status.publish(
            CodecStatus(
                header=item.message.header,
                camera=name,
                direction=self._direction,
                model=done.model,
                engine=self._p["engine"],
                width=done.width,
                height=done.height,
                bytes=done.bytes,
                bits_per_pixel=8.0 * done.bytes / max(1, done.width * done.height),
                rate_point=float(done.rate_point),
                psnr=float(done.psnr),
                damaged=done.damaged,
                frames_in=count.received,
                frames_out=count.published,
                frames_dropped=count.dropped,
                stages=list(done.stages),
                stage_ms=[float(ms) for ms in done.stages.values()],
                latency_ms=float(self._latency_ms),
                reason=done.reason,
            )
        )

    def _latency(self, stamp: int, arrived: float) -> float:
        """Milliseconds since exposure, where exposure stamps are of this clock; else since arrival."""
        if not self.get_parameter("use_sim_time").value:
            age = self.get_clock().now().nanoseconds - stamp
            if 0 <= age < 10e9:
                return age / 1e6
        return (time.monotonic() - arrived) * 1e3

    # --- diagnostics --------------------------------------------------------------------------------------------------------

    def _diagnose_state(self, stat: Any) -> Any:
        if self._failure:
            stat.summary(DiagnosticStatus.ERROR, self._failure)
        elif self._worker is not None:
            stat.summary(DiagnosticStatus.OK, "active")
        else:
            stat.summary(DiagnosticStatus.WARN, "inactive" if self._opened else "not configured")
        for key, value in self.facts().items():
            stat.add(key, value)
        return stat

    def _diagnose_streams(self, stat: Any) -> Any:
        if self._worker is None:
            stat.summary(DiagnosticStatus.OK, "not active")
            return stat
        now, problems, total = time.monotonic(), [], 0.0
        for name, count in ((name, replace(count)) for name, count in self._counts.items()):
            sizes = [entry for entry in list(count.sizes) if now - entry[0] < 5.0]
            span = sizes[-1][0] - sizes[0][0] if len(sizes) > 1 else 0.0
            kbps = 8e-3 * sum(size for _, size, _ in sizes[1:]) / span if span else 0.0
            total += kbps
            if count.reason and now - count.reason_at < 5.0:
                problems.append(f"{name}: {count.reason}")
            elif count.arrived is None:
                problems.append(f"{name}: nothing has arrived")
            elif now - count.arrived > 2.0:
                problems.append(f"{name}: silent for {now - count.arrived:.1f} s")
            stat.add(f"{name} in", str(count.received))
            stat.add(f"{name} out", str(count.published))
            stat.add(f"{name} dropped", str(count.dropped))
            stat.add(f"{name} kbit/s", f"{kbps:.0f}")
            stat.add(f"{name} bits per pixel", f"{sizes[-1][2]:.3f}" if sizes else "")
        if self._latency_ms > 1e3 * self._p["max_stamp_age"]:
            problems.append(f"{self._latency_ms:.0f} ms from exposure is more than max_stamp_age")
        stat.summary(
            DiagnosticStatus.WARN if problems else DiagnosticStatus.OK,
            "; ".join(problems) if problems else f"{len(self.cameras)} streams, {total:.0f} kbit/s",
        )
        stat.add("latency ms", f"{self._latency_ms:.0f}")
        return stat
