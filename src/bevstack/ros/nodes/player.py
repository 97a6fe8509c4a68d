"""Plays a bag: its messages at their recorded pace, latched topics latched, ``/clock`` if wanted; stamps stay as recorded."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rosbags.interfaces import QosDurability, QosReliability

from bevstack.errors import BevstackError
from bevstack.frames.bag_reader import BagMessage, BagReader, BagTopic
from bevstack.ros import convert
from bevstack.ros.interfaces import Bool, Clock
from bevstack.ros.runtime import DurabilityPolicy, HistoryPolicy, Node, QoSProfile, ReliabilityPolicy, messages

from .main import run_node, until_shutdown
from .parameters import Parameters, ParameterValueError, Spec
from .topics import LATCHED, latched_qos

PARAMETERS: tuple[Spec, ...] = (
    Spec("path", "", "the bag: its folder, or an .mcap or .db3 file"),
    Spec("topics", [], "play only these topics; empty: all"),
    Spec("exclude", [], "do not play these topics"),
    Spec("skip_published", False, "do not play topics that another node publishes already"),
    Spec("remap", [], "play topics under other names: from:=to"),
    Spec("rate", 1.0, "speed", low=0.01, high=1000.0),
    Spec("loop", False, "start again at the end"),
    Spec("start_offset", 0.0, "seconds left out at the start; latched messages of that time are played", low=0.0, high=1e6),
    Spec("clock", False, "publish the bag's time on /clock"),
    Spec("clock_rate", 100.0, "messages per second on /clock", low=1.0, high=1000.0),
    Spec("delay", 0.5, "seconds between announcing the topics and the first message", low=0.0, high=3600.0),
    Spec("wait_for_subscribers", False, "start when one of the topics has a subscriber"),
    Spec("exit_when_finished", False, "end the process at the end of the bag"),
    Spec("autostart", True, "start by itself"),
)

_SHARED = frozenset(("/tf", "/tf_static"))  # many publish parts of one tree
_NOT_PLAYED = frozenset(("/clock",))


class PlayerNode(Node):
    """Plays one bag. Parameters: ``PARAMETERS``.

    Raises:
        BevstackError: the bag cannot be read, or has none of the topics.
    """

    def __init__(self, node_name: str = "player", **kwargs: Any) -> None:
        super().__init__(node_name, **kwargs)
        p = self._p = Parameters(self, PARAMETERS)
        if not p["path"]:
            raise ParameterValueError("parameter path is empty: name the bag to play")
        self._reader = BagReader(Path(p["path"]))
        for problem in self._reader.problems:
            self.get_logger().warning(problem)
        self.finished = threading.Event()
        """Set at the end of the bag."""
        self.messages_sent = 0
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        names = self._chosen(p)
        remap = dict(self._renamings(p["remap"]))
        self._out: dict[str, Any] = {}
        self._latched: set[str] = set()
        for name in names:
            topic = self._reader.topics[name]
            try:
                kind = messages(topic.type)
            except (BevstackError, ImportError, AttributeError) as error:
                self.get_logger().warning(f"{name} is not played: {error}")
                continue
            qos = self._qos(topic)
            if qos.durability == DurabilityPolicy.TRANSIENT_LOCAL:
                self._latched.add(name)
            self._out[name] = self.create_publisher(kind, remap.get(name, name), qos)
        if not self._out:
            self._reader.close()
            raise BevstackError(
                f"nothing of bag {p['path']} can be played: it has {', '.join(self._reader.topics) or 'no topics'}"
            )
        self._clock_out = self.create_publisher(Clock, "/clock", QoSProfile(depth=1)) if p["clock"] else None
        self._end = self.create_publisher(Bool, "~/end_of_source", latched_qos())

    def _chosen(self, p: Parameters) -> list[str]:
        unknown = [name for name in (*p["topics"], *p["exclude"]) if name not in self._reader.topics]
        if unknown:
            known = ", ".join(self._reader.topics)
            self._reader.close()
            raise BevstackError(f"bag {p['path']} has no topic {unknown[0]}: it has {known}")
        skipped = set(p["exclude"]) | (_NOT_PLAYED if p["clock"] else set())
        return [name for name in self._reader.topics if (not p["topics"] or name in p["topics"]) and name not in skipped]

    @staticmethod
    def _renamings(entries: Sequence[str]) -> Iterator[tuple[str, str]]:
        for entry in entries:
            source, separator, target = entry.partition(":=")
            if not separator or not source or not target:
                raise ParameterValueError(f"parameter remap has {entry!r}: write from:=to")
            yield source, target

    @staticmethod
    def _qos(topic: BagTopic) -> QoSProfile:
        """As recorded: latched if any of the publishers was, best effort only if all were."""
        latched = topic.name in LATCHED or any(q.durability == QosDurability.TRANSIENT_LOCAL for q in topic.qos)
        best_effort = bool(topic.qos) and all(q.reliability == QosReliability.BEST_EFFORT for q in topic.qos)
        return QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=max(1, min(topic.count, 1000)) if latched else 10,
            reliability=ReliabilityPolicy.BEST_EFFORT if best_effort else ReliabilityPolicy.RELIABLE,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )

    # --- life ---------------------------------------------------------------------------------------------------------------

    def autostart(self) -> bool:
        """Start playing if the parameter says so."""
        if self._p["autostart"]:
            self.start()
        return True

    def start(self) -> None:
        """Start playing. Nothing happens if it plays already."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._play_until_shutdown, name="player", daemon=True)
            self._thread.start()

    @property
    def exit_now(self) -> bool:
        """The process may end: the bag is played and the parameter says so."""
        return self.finished.is_set() and bool(self._p["exit_when_finished"])

    def destroy_node(self) -> None:
        """Stop playing, close the bag; then as every node."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(5.0)
        self._reader.close()
        super().destroy_node()

    # --- playing ------------------------------------------------------------------------------------------------------------

    def _play_until_shutdown(self) -> None:
        with until_shutdown(self):
            self._play()

    def _play(self) -> None:
        if self._wait():
            return
        if self._p["skip_published"]:
            self._skip_published()
        try:
            while not self._stopping.is_set():
                self._play_once()
                if not self._p["loop"]:
                    break
        except BevstackError as error:
            self.get_logger().error(str(error))
        if not self._stopping.is_set():
            self._end.publish(Bool(data=True))
            self.get_logger().info(f"end of bag: {self.messages_sent} messages sent")
            self.finished.set()

    def _skip_published(self) -> None:
        """Results in the bag must not mix with those that are being made now."""
        own = Counter(out.topic_name for out in self._out.values())
        others = [
            name
            for name, out in self._out.items()
            if self.count_publishers(out.topic_name) > own[out.topic_name] and name not in _SHARED
        ]
        for name in others:
            self.destroy_publisher(self._out.pop(name))
        if others:
            self.get_logger().info(f"not played, because others publish them: {', '.join(others)}")

    def _wait(self) -> bool:
        """The time that others need to find the topics; True if told to stop meanwhile."""
        while self._p["wait_for_subscribers"] and not any(out.get_subscription_count() for out in self._out.values()):
            if self._stopping.wait(0.05):
                return True
        return self._stopping.wait(self._p["delay"])

    def _play_once(self) -> None:
        """One pass: first the latched messages from before the start, then all at their pace."""
        if self._reader.start is None:
            return
        begin = self._reader.start + round(self._p["start_offset"] * 1e9)
        began: float | None = None
        rate = float(self._p["rate"])
        for message in self._reader.messages(set(self._out)):
            if self._stopping.is_set():
                return
            if message.stamp < begin:
                if message.topic in self._latched:
                    self._send(message)
                continue
            if began is None:
                began = time.monotonic()
            self._pace(began, begin, message.stamp, rate)
            if self._stopping.is_set():
                return
            self._send(message)
        if began is None and self._p["start_offset"]:
            self.get_logger().warning(f"start_offset {self._p['start_offset']:g} s is beyond the end of the bag")

    def _pace(self, began: float, begin: int, stamp: int, rate: float) -> None:
        """Wait for the message's time, and publish /clock while waiting."""
        period = 1.0 / float(self._p["clock_rate"])
        while not self._stopping.is_set():
            now = time.monotonic()
            left = began + (stamp - begin) / 1e9 / rate - now
            if self._clock_out is not None:
                bag_time = min(stamp, begin + round((now - began) * rate * 1e9))
                self._clock_out.publish(Clock(clock=convert.ns_to_stamp(bag_time)))
            if left <= 0:
                return
            self._stopping.wait(min(left, period) if self._clock_out is not None else left)

    def _send(self, message: BagMessage) -> None:
        self._out[message.topic].publish(message.raw)
        self.messages_sent += 1


def topics_of(path: Path | str) -> Mapping[str, BagTopic]:
    """Topics of a bag by name. Raises SourceError as ``BagReader`` does."""
    with BagReader(path) as reader:
        return dict(reader.topics)


def main(args: Sequence[str] | None = None) -> int:
    """Play the bag until its end or until told to stop."""
    return run_node(PlayerNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
