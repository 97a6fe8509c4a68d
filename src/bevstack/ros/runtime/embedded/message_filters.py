"""Matching messages of several topics by stamp, with the names and rules of the Python message_filters package."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from ..duration import Duration
from .clock import ClockType, ROSClock, Time
from .logging import get_logger


def _stamp_ns(message: Any) -> int | None:
    header = getattr(message, "header", None)
    stamp = getattr(header, "stamp", None)
    return None if stamp is None else int(stamp.sec) * 10**9 + int(stamp.nanosec)


class SimpleFilter:
    """Passes messages on to callbacks."""

    def __init__(self) -> None:
        self.callbacks: dict[int, tuple[Callable[..., Any], tuple[Any, ...]]] = {}

    def registerCallback(self, cb: Callable[..., Any], *args: Any) -> int:
        """Call `cb(*messages, *args)`; gives a number that tells callbacks apart."""
        connection = len(self.callbacks)
        self.callbacks[connection] = (cb, args)
        return connection

    def signalMessage(self, *msg: Any) -> None:
        """Call all callbacks."""
        for callback, args in list(self.callbacks.values()):
            callback(*msg, *args)


class Subscriber(SimpleFilter):
    """A subscription as a filter: `Subscriber(node, msg_type, topic, qos_profile=10, ...)`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.node = args[0]
        self.topic = args[2] if len(args) > 2 else kwargs["topic"]
        kwargs.setdefault("qos_profile", 10)
        self.sub = self.node.create_subscription(*args[1:], callback=self.callback, **kwargs)

    def callback(self, msg: Any) -> None:
        """Pass a message on."""
        self.signalMessage(msg)

    def __getattr__(self, key: str) -> Any:
        """Everything else is the subscription's."""
        if key == "sub":  # not there yet
            raise AttributeError(key)
        return getattr(self.sub, key)

    def getTopic(self) -> str:
        """The topic as it was given."""
        return str(self.topic)


class Cache(SimpleFilter):
    """Keeps the newest `cache_size` messages of a filter, by stamp."""

    def __init__(self, f: Any, cache_size: int = 1, allow_headerless: bool = False) -> None:
        super().__init__()
        self.cache_size = cache_size
        self.allow_headerless = allow_headerless
        self.cache_msgs: list[Any] = []
        self.cache_times: list[Time] = []
        self.connectInput(f)

    def connectInput(self, f: Any) -> None:
        """Take messages of a filter."""
        self.incoming_connection = f.registerCallback(self.add)

    def add(self, msg: Any) -> None:
        """Take a message."""
        stamp_ns = _stamp_ns(msg)
        if stamp_ns is None:
            if not self.allow_headerless:
                get_logger("message_filters_cache").warning(
                    f"{type(msg).__name__} has no header.stamp and is not kept; 'allow_headerless' takes the time of arrival"
                )
                return
            stamp = ROSClock().now()
        else:
            stamp = Time(nanoseconds=stamp_ns, clock_type=ClockType.ROS_TIME)
        self.cache_msgs.append(msg)
        self.cache_times.append(stamp)
        if len(self.cache_msgs) > self.cache_size:
            self.cache_msgs.pop(0)
            self.cache_times.pop(0)
        self.signalMessage(msg)

    def getInterval(self, from_stamp: Time, to_stamp: Time) -> list[Any]:
        """Messages with stamps from `from_stamp` to `to_stamp`, both included."""
        return [msg for msg, time in zip(self.cache_msgs, self.cache_times) if from_stamp <= time <= to_stamp]

    def getElemAfterTime(self, stamp: Time) -> Any | None:
        """Oldest message at or after a time."""
        newer = [msg for msg, time in zip(self.cache_msgs, self.cache_times) if time >= stamp]
        return newer[0] if newer else None

    def getElemBeforeTime(self, stamp: Time) -> Any | None:
        """Newest message at or before a time."""
        older = [msg for msg, time in zip(self.cache_msgs, self.cache_times) if time <= stamp]
        return older[-1] if older else None

    def getLatestTime(self) -> Time | None:
        """Newest stamp."""
        return self.cache_times[-1] if self.cache_times else None

    getLastestTime = getLatestTime

    def getOldestTime(self) -> Time | None:
        """Oldest stamp."""
        return self.cache_times[0] if self.cache_times else None

    def getLast(self) -> Any | None:
        """Newest message."""
        return self.cache_msgs[-1] if self.cache_msgs else None


class TimeSynchronizer(SimpleFilter):
    """Passes on one message of each filter when all have the same stamp. Queues keep the newest `queue_size` stamps."""

    def __init__(self, fs: Sequence[Any], queue_size: int) -> None:
        super().__init__()
        self.queue_size = queue_size
        self.lock = threading.Lock()
        self.connectInput(fs)

    def connectInput(self, fs: Sequence[Any]) -> None:
        """Take messages of these filters."""
        self.queues: list[dict[int, Any]] = [{} for _ in fs]
        self.input_connections = [
            filter_.registerCallback(self.add, queue, index) for index, (filter_, queue) in enumerate(zip(fs, self.queues))
        ]

    def add(self, msg: Any, my_queue: dict[int, Any], my_queue_index: int | None = None) -> None:
        """Take a message of one filter."""
        stamp = _stamp_ns(msg)
        if stamp is None:
            raise AttributeError(f"{type(msg).__name__} has no header.stamp: it cannot be synchronised by time")
        found: list[list[Any]] = []
        with self.lock:
            my_queue[stamp] = msg
            while len(my_queue) > self.queue_size:
                del my_queue[min(my_queue)]
            common = set.intersection(*(set(queue) for queue in self.queues))
            for moment in sorted(common):
                found.append([queue.pop(moment) for queue in self.queues])
        for messages in found:
            self.signalMessage(*messages)


class ApproximateTimeSynchronizer(TimeSynchronizer):
    """Passes on one message of each filter when their stamps lie within less than `slop` seconds.

    For a new message the nearest stamps of the other queues are tried first; messages that were passed on leave the queues.
    """

    def __init__(self, fs: Sequence[Any], queue_size: int, slop: float, allow_headerless: bool = False) -> None:
        super().__init__(fs, queue_size)
        self.slop = Duration(seconds=slop)
        self.allow_headerless = allow_headerless

    def add(self, msg: Any, my_queue: dict[int, Any], my_queue_index: int | None = None) -> None:
        """Take a message of one filter."""
        stamp = _stamp_ns(msg)
        if stamp is None:
            if not self.allow_headerless:
                get_logger("message_filters_approx").warning(
                    f"{type(msg).__name__} has no header.stamp to match by; 'allow_headerless' takes the time of arrival"
                )
                return
            stamp = ROSClock().now().nanoseconds
        slop = self.slop.nanoseconds
        with self.lock:
            my_queue[stamp] = msg
            while len(my_queue) > self.queue_size:
                del my_queue[min(my_queue)]
            if stamp not in my_queue:  # older than everything in a full queue
                return
            candidates: list[list[int]] = []
            for index, queue in enumerate(self.queues):
                if queue is my_queue and (my_queue_index is None or index == my_queue_index):
                    candidates.append([stamp])
                    continue
                near = sorted((s for s in queue if abs(s - stamp) <= slop), key=lambda s: abs(s - stamp))
                if not near:
                    return
                candidates.append(near)
            chosen = _first_within(candidates, slop)
            if chosen is None:
                return
            messages = [queue.pop(moment) for queue, moment in zip(self.queues, chosen)]
        self.signalMessage(*messages)


def _first_within(candidates: list[list[int]], slop: int) -> list[int] | None:
    """The first combination, in the order of `itertools.product`, that spans less than `slop`; hopeless branches are cut."""

    def search(index: int, low: int, high: int) -> list[int] | None:
        if index == len(candidates):
            return []
        for moment in candidates[index]:
            new_low, new_high = min(low, moment), max(high, moment)
            if new_high - new_low < slop:
                rest = search(index + 1, new_low, new_high)
                if rest is not None:
                    return [moment, *rest]
        return None

    for moment in candidates[0]:
        rest = search(1, moment, moment)
        if rest is not None:
            return [moment, *rest]
    return None
