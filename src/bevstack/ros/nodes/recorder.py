"""Records topics into a rosbag2 folder (mcap), as ``ros2 bag record`` does."""

from __future__ import annotations

import queue
import re
import threading
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime

from bevstack.errors import BevstackError
from bevstack.ros.graph import NOT_RECORDED
from bevstack.ros.interfaces import DiagnosticStatus
from bevstack.ros.runtime import (
    DurabilityPolicy,
    HistoryPolicy,
    Node,
    QoSProfile,
    ReliabilityPolicy,
    SubscriptionEventCallbacks,
    diagnostic_updater,
    messages,
)

from .bag_writer import BagWriter, DiskFullError
from .main import run_node, until_shutdown
from .parameters import Parameters, ParameterValueError, Spec
from .topics import LATCHED, latched_qos

PARAMETERS: tuple[Spec, ...] = (
    Spec("path", "", "folder to create; empty: rosbag2_<date>_<time> here"),
    Spec("topics", [], "record only these topics; empty: all"),
    Spec("exclude", NOT_RECORDED, "regular expression of topics that are left out (where topics is empty)"),
    Spec("split_megabytes", 0, "start a new file at this size; 0: never", low=0, high=1_000_000),
    Spec("split_seconds", 0.0, "start a new file after this time; 0: never", low=0.0, high=86400.0),
    Spec("queue_megabytes", 256, "most data waiting for the disk; more is dropped and counted", low=1, high=65536),
    Spec("min_free_megabytes", 50, "stop when the disk has less free space", low=0, high=10_000_000),
    Spec("compression", "zstd", "packing of what is no picture, within the mcap file", choices=("none", "zstd")),
    Spec("timestamps", "receive", "stamp messages when received, or with their own header", choices=("receive", "header")),
    Spec("discovery_period", 0.1, "seconds between two looks for new topics", low=0.01, high=60.0),
)

_KEEP_LATCHED = 64
_QUEUE_DEPTH = 100


class RecorderNode(Node):
    """Records until it is destroyed or the disk is full. Parameters: ``PARAMETERS``.

    Raises:
        BagError: the folder exists already or cannot be created.
    """

    def __init__(self, node_name: str = "recorder", **kwargs: Any) -> None:
        super().__init__(node_name, **kwargs)
        p = self._p = Parameters(self, PARAMETERS)
        try:
            self._exclude = re.compile(p["exclude"]) if p["exclude"] else None
        except re.error as error:
            raise ParameterValueError(f"parameter exclude is {p['exclude']!r}: not a regular expression ({error})") from None
        path = Path(p["path"] or datetime.now().strftime("rosbag2_%Y_%m_%d-%H_%M_%S"))
        self._wanted = {self.resolve_topic_name(topic) for topic in p["topics"]}
        self._writer = BagWriter(
            path,
            split_bytes=int(p["split_megabytes"]) << 20,
            split_ns=round(p["split_seconds"] * 1e9),
            min_free_bytes=int(p["min_free_megabytes"]) * 1_000_000,
            compress=p["compression"] == "zstd",
        )
        self.path = path
        self.reason = ""
        """Why nothing is recorded any more; "" while all is well."""
        self.dropped = 0
        self._subscribed: dict[str, Any] = {}
        self._refused: set[str] = set()
        self._relaxed: set[str] = set()
        self._resubscribe: set[str] = set()
        self._queue: queue.SimpleQueue[tuple[str, int | None, bytes] | None] = queue.SimpleQueue()
        self._waiting = 0
        self._count_lock = threading.Lock()
        self._busy = False
        self._last_header: int | None = None
        self._stamp_at: dict[str, int | None] = {}
        self._thread = threading.Thread(target=self._write_all, name="recorder", daemon=True)
        self._thread.start()
        self._discovery = self.create_timer(p["discovery_period"], self.discover)
        self._updater = diagnostic_updater.Updater(self, period=1.0)
        self._updater.setHardwareID("bevstack")
        self._updater.add("recording", self._diagnose)
        self.discover()
        self.get_logger().info(f"recording to {path}")

    def autostart(self) -> bool:
        """Look for topics once more, now that the other nodes are there."""
        self.discover()
        return True

    @property
    def idle(self) -> bool:
        """Nothing waits for the disk."""
        return self._waiting == 0 and not self._busy

    @property
    def message_count(self) -> int:
        """Messages in the bag."""
        return self._writer.message_count

    def discover(self) -> None:
        """Subscribe to topics that have appeared since the last look."""
        if self.reason:
            self._unsubscribe()
            return
        for topic in list(self._resubscribe):
            self._resubscribe.discard(topic)
            subscription = self._subscribed.pop(topic, None)
            if subscription is not None:
                self.destroy_subscription(subscription)
        for topic, types in self.get_topic_names_and_types():
            if topic in self._subscribed or topic in self._refused or len(types) != 1:
                continue
            if self._wanted:
                if topic not in self._wanted:
                    continue
            elif self._exclude is not None and self._exclude.fullmatch(topic):
                continue
            self._subscribe(topic, types[0])

    def _subscribe(self, topic: str, type_name: str) -> None:
        offered = [info.qos_profile for info in self.get_publishers_info_by_topic(topic)]
        if not offered:
            if not self.count_publishers(topic):
                return  # only subscribers so far
            # A publisher of another process whose QoS is not told (embedded runtime): as most are, until it says otherwise.
            offered = [latched_qos() if topic in LATCHED or topic.endswith("/end_of_source") else QoSProfile(depth=10)]
        latched = all(qos.durability == DurabilityPolicy.TRANSIENT_LOCAL for qos in offered)
        reliable = all(qos.reliability == ReliabilityPolicy.RELIABLE for qos in offered) and topic not in self._relaxed
        try:
            self._writer.add_topic(topic, type_name, [bag_qos(qos) for qos in offered], latched=_KEEP_LATCHED if latched else 0)
            kind = messages(type_name)
        except DiskFullError as error:
            self._stop(str(error))
            return
        except (BevstackError, ImportError, AttributeError) as error:
            self._refused.add(topic)
            self.get_logger().warning(str(error))
            return
        self._stamp_at[topic] = _stamp_offset(type_name, kind, latched)
        qos = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=_QUEUE_DEPTH,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched and reliable else DurabilityPolicy.VOLATILE,
        )
        self._subscribed[topic] = self.create_subscription(
            kind,
            topic,
            partial(self._on_message, topic),
            qos,
            raw=True,
            event_callbacks=SubscriptionEventCallbacks(incompatible_qos=partial(self._on_incompatible, topic)),
        )

    def _on_incompatible(self, topic: str, event: Any) -> None:
        """A publisher offers less than was asked for: the next look for topics subscribes with less."""
        if topic not in self._relaxed:
            self._relaxed.add(topic)
            self._resubscribe.add(topic)

    def _unsubscribe(self) -> None:
        for subscription in self._subscribed.values():
            self.destroy_subscription(subscription)
        self._subscribed.clear()

    def _on_message(self, topic: str, raw: bytes) -> None:
        if self.reason:
            return
        stamp: int | None = self.get_clock().now().nanoseconds
        if self._p["timestamps"] == "header":
            at = self._stamp_at[topic]
            if at is not None and len(raw) >= at + 8:
                order: Literal["little", "big"] = "little" if raw[1] & 1 else "big"
                own = int.from_bytes(raw[at : at + 4], order, signed=True) * 1_000_000_000
                own += int.from_bytes(raw[at + 4 : at + 8], order)
                self._last_header = max(self._last_header or own, own)
                stamp = own
            else:
                stamp = self._last_header
        with self._count_lock:
            if self._waiting + len(raw) > int(self._p["queue_megabytes"]) << 20:
                self.dropped += 1
                self.get_logger().warning(
                    f"the disk is too slow: {self.dropped} messages were not recorded", throttle_duration_sec=2.0
                )
                return
            self._waiting += len(raw)
        self._queue.put((topic, stamp, bytes(raw)))

    def _write_all(self) -> None:
        """Writer thread."""
        early: list[tuple[str, bytes]] = []  # no stamp of their own, and none has come yet whose time they could take
        while True:
            try:
                item = self._queue.get(timeout=0.5)
            except queue.Empty:
                item = ("", 0, b"")
            if item is None:
                now = self.get_clock().now().nanoseconds
                self._write_early(early, self._last_header or now)
                return
            topic, stamp, raw = item
            if stamp is None:
                early.append((topic, raw))
                continue
            if early and topic:
                self._write_early(early, stamp)
            if self.reason:
                with self._count_lock:
                    self._waiting -= len(raw)
                continue
            self._write(topic, stamp, raw)

    def _write_early(self, early: list[tuple[str, bytes]], stamp: int) -> None:
        for topic, raw in early:
            if not self.reason:
                self._write(topic, stamp, raw)
        early.clear()

    def _write(self, topic: str, stamp: int, raw: bytes) -> None:
        """One message, or (no topic) what is pending, to the disk."""
        self._busy = True
        try:
            if topic:
                self._writer.write(topic, stamp, raw)
            else:
                self._writer.flush()
        except (BevstackError, OSError) as error:
            self._stop(str(error))
        finally:
            with self._count_lock:
                self._waiting -= len(raw)
            self._busy = False

    def _stop(self, reason: str) -> None:
        """The disk takes no more: close the bag so that it can be read; the pipeline goes on."""
        self.reason = reason
        self._writer.close()
        self.get_logger().error(f"recording stopped: {reason}")
        with until_shutdown(self):
            self._updater.force_update()

    def destroy_node(self) -> None:
        """Write what waits, close the bag; then as every node."""
        self._unsubscribe()
        self._queue.put(None)
        self._thread.join(30.0)
        self._writer.close()
        for problem in self._writer.problems:
            self.get_logger().warning(problem)
        self.get_logger().info(f"{self._writer.message_count} messages in {self.path}")
        super().destroy_node()

    def _diagnose(self, stat: Any) -> Any:
        if self.reason:
            stat.summary(DiagnosticStatus.ERROR, f"recording stopped: {self.reason}")
        elif self.dropped:
            stat.summary(DiagnosticStatus.WARN, f"{self.dropped} messages were not recorded: the disk is too slow")
        else:
            stat.summary(DiagnosticStatus.OK, f"recording {len(self._subscribed)} topics to {self.path}")
        stat.add("messages", str(self._writer.message_count))
        stat.add("megabytes", f"{self._writer.bytes_written / 1e6:.1f}")
        stat.add("dropped", str(self.dropped))
        return stat


def _stamp_offset(type_name: str, kind: Any, latched: bool) -> int | None:
    """Where in the serialised message the time of what it is about stands; None if it has none.

    Diagnostics have a header too, but it holds the time of this machine, which need not be that of the data.
    """
    fields = kind.get_fields_and_field_types()
    if type_name == "tf2_msgs/msg/TFMessage" and not latched:
        return 8  # after the encapsulation head and the number of transforms
    headed = next(iter(fields), "") == "header" and fields.get("header") == "std_msgs/Header"
    return 4 if headed and not type_name.startswith("diagnostic_msgs/") else None


def bag_qos(profile: QoSProfile) -> Qos:
    """A QoS profile as bags keep it."""

    def ticks(duration: Any) -> QosTime:
        nanoseconds = getattr(duration, "nanoseconds", 0) or 0
        return QosTime(*divmod(nanoseconds, 1_000_000_000)) if nanoseconds else QosTime(9223372036, 854775807)

    def same(kind: Any, value: Any) -> Any:
        return kind[value.name] if value.name in kind.__members__ else kind.UNKNOWN

    return Qos(
        same(QosHistory, profile.history),
        int(profile.depth),
        same(QosReliability, profile.reliability),
        same(QosDurability, profile.durability),
        ticks(profile.deadline),
        ticks(profile.lifespan),
        same(QosLiveliness, profile.liveliness),
        ticks(profile.liveliness_lease_duration),
        bool(profile.avoid_ros_namespace_conventions),
    )


def main(args: Sequence[str] | None = None) -> int:
    """Record until told to stop; the bag is closed then."""
    return run_node(RecorderNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
