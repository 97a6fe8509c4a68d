"""Diagnostics on `/diagnostics`, with the names and texts of the Python diagnostic_updater package."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..messages import message_class
from .clock import ROSClock, Time

if TYPE_CHECKING:
    from .clock import Clock
    from .node import Node

DiagnosticStatus: Any = message_class("diagnostic_msgs/msg/DiagnosticStatus")
DiagnosticArray: Any = message_class("diagnostic_msgs/msg/DiagnosticArray")
KeyValue: Any = message_class("diagnostic_msgs/msg/KeyValue")

OK: bytes = DiagnosticStatus.OK
WARN: bytes = DiagnosticStatus.WARN
ERROR: bytes = DiagnosticStatus.ERROR
STALE: bytes = DiagnosticStatus.STALE


class DiagnosticStatusWrapper(DiagnosticStatus):
    """A diagnostic_msgs/msg/DiagnosticStatus that is easier to fill."""

    def __init__(self, *args: Any, **kwds: Any) -> None:
        super().__init__(*args, **kwds)

    def summary(self, *args: Any) -> None:
        """Set level and message: `summary(level, message)`, or take those of another status."""
        self.level, self.message = _level_and_message(args)

    def clearSummary(self) -> None:
        """Level OK, no message."""
        self.summary(OK, "")

    def mergeSummary(self, *args: Any) -> None:
        """Add `(level, message)` or another status: the worse level wins; both messages stay if both are well or both not."""
        level, message = _level_and_message(args)
        if (level > OK) == (self.level > OK):
            self.message = f"{self.message}; {message}" if self.message else message
        elif level > self.level:
            self.message = message
        self.level = max(level, self.level)

    def add(self, key: str, val: Any) -> None:
        """Add a value; it is turned into text."""
        status: Any = self
        status.values = [*status.values, KeyValue(key=key, value=str(val))]


def _level_and_message(args: tuple[Any, ...]) -> tuple[bytes, str]:
    if len(args) == 1:
        return args[0].level, args[0].message
    level, message = args
    return (bytes([level]) if isinstance(level, int) else level), str(message)


class DiagnosticTask:
    """Something that fills a status when asked."""

    def __init__(self, name: str) -> None:
        self.name = name

    def getName(self) -> str:
        """Name of the task."""
        return self.name

    def run(self, stat: DiagnosticStatusWrapper) -> DiagnosticStatusWrapper:
        """Fill and give back the status."""
        return stat


class FunctionDiagnosticTask(DiagnosticTask):
    """Calls `fn(stat)`, which gives back the status."""

    def __init__(self, name: str, fn: Callable[[DiagnosticStatusWrapper], DiagnosticStatusWrapper]) -> None:
        super().__init__(name)
        self.fn = fn

    def run(self, stat: DiagnosticStatusWrapper) -> DiagnosticStatusWrapper:
        """Fill and give back the status."""
        stat = self.fn(stat)
        return stat


class CompositeDiagnosticTask(DiagnosticTask):
    """Several tasks as one: summaries are merged, values collected."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.tasks: list[DiagnosticTask] = []

    def run(self, stat: DiagnosticStatusWrapper) -> DiagnosticStatusWrapper:
        """Run all tasks."""
        combined = DiagnosticStatusWrapper()
        original = DiagnosticStatusWrapper()
        original.summary(stat)
        for task in self.tasks:
            stat.summary(original)
            stat = task.run(stat)
            combined.mergeSummary(stat)
        stat.summary(combined)
        return stat

    def addTask(self, t: DiagnosticTask) -> None:
        """Add a task."""
        self.tasks.append(t)


class DiagnosticTaskVector:
    """A list of tasks by name."""

    def __init__(self) -> None:
        self.tasks: list[DiagnosticTask] = []
        self.lock = threading.Lock()

    def addedTaskCallback(self, task: DiagnosticTask) -> None:
        """Called for each task that is added."""

    def add(self, *args: Any) -> None:
        """Add a task, or a name and a function."""
        if len(args) == 1:
            task: DiagnosticTask = args[0]
        elif len(args) == 2:
            task = FunctionDiagnosticTask(args[0], args[1])
        else:
            raise TypeError(f"add() takes a task, or a name and a function, got {len(args)} arguments")
        with self.lock:
            self.tasks.append(task)
        self.addedTaskCallback(task)

    def removeByName(self, name: str) -> bool:
        """Remove the task of that name; True if there was one."""
        with self.lock:
            count = len(self.tasks)
            self.tasks = [task for task in self.tasks if task.getName() != name]
            return len(self.tasks) < count


class Updater(DiagnosticTaskVector):
    """Runs its tasks once per `period` seconds and publishes their statuses. Set a hardware id.

    Parameters `diagnostic_updater.period` and `diagnostic_updater.use_fqn` (fully qualified node name in the status names).
    """

    def __init__(self, node: Node, period: float = 1.0) -> None:
        super().__init__()
        self.node = node
        self.clock = node.get_clock()
        self.hwid = ""
        self.warn_nohwid_done = False
        self.publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 1)
        self.__period = self._parameter("diagnostic_updater.period", float(period))
        self.use_fqn_parameter = "diagnostic_updater.use_fqn"
        self._use_fqn = self._parameter(self.use_fqn_parameter, False)
        self.timer = node.create_timer(self.__period, self.update)
        self.verbose = False

    def _parameter(self, name: str, default: Any) -> Any:
        if not self.node.has_parameter(name):
            self.node.declare_parameter(name, default)
        return self.node.get_parameter(name).value

    @property
    def period(self) -> float:
        """Seconds between two updates."""
        return float(self.__period)

    @period.setter
    def period(self, value: float) -> None:
        self.__period = float(value)
        self.timer.timer_period_ns = int(self.__period * 1e9)

    def update(self) -> None:
        """Run all tasks and publish, now."""
        with self.lock:
            tasks = list(self.tasks)
        statuses = []
        for task in tasks:
            status = DiagnosticStatusWrapper()
            status.level = ERROR
            status.name = task.getName()
            status.message = "No message was set"
            status.hardware_id = self.hwid
            try:
                status = task.run(status)
            except Exception as error:  # noqa: BLE001 - a broken task must not take the others, or the node, with it
                status.summary(ERROR, f"diagnostic task failed: {type(error).__name__}: {error}")
            statuses.append(status)
            if self.verbose and status.level > OK:
                self.node.get_logger().warning(f"Non-zero diagnostic status: {status.name}: {status.message}")
        if not self.hwid and not self.warn_nohwid_done and all(status.level == OK for status in statuses):
            self.warn_nohwid_done = True
            self.node.get_logger().warning("diagnostics without hardware id: call setHardwareID, with 'none' if there is none")
        self.publish(statuses)

    def force_update(self) -> None:
        """Run all tasks and publish, now."""
        self.update()

    def setHardwareID(self, hwid: str) -> None:
        """Name the hardware that is diagnosed; "none" if there is none."""
        self.hwid = hwid

    def broadcast(self, lvl: bytes, msg: str) -> None:
        """Publish one level and message for all tasks."""
        statuses = []
        with self.lock:
            tasks = list(self.tasks)
        for task in tasks:
            status = DiagnosticStatusWrapper()
            status.name = task.getName()
            status.hardware_id = self.hwid
            status.summary(lvl, msg)
            statuses.append(status)
        self.publish(statuses)

    def publish(self, msg: Any) -> None:
        """Publish one status or several, their names prefixed with the node's."""
        statuses = list(msg) if isinstance(msg, list | tuple) else [msg]
        prefix = self.node.get_fully_qualified_name() if self._use_fqn else self.node.get_name()
        plain = [
            DiagnosticStatus(
                level=status.level,
                name=f"{prefix}: {status.name}",
                message=status.message,
                hardware_id=status.hardware_id,
                values=list(status.values),
            )
            for status in statuses
        ]
        array = DiagnosticArray(status=plain)
        array.header.stamp = self.clock.now().to_msg()
        self.publisher.publish(array)

    def addedTaskCallback(self, task: DiagnosticTask) -> None:
        status = DiagnosticStatusWrapper()
        status.name = task.getName()
        status.hardware_id = self.hwid
        status.summary(OK, "Node starting up")
        self.publish(status)


class FrequencyStatusParam:
    """`freq_bound` is a dictionary with "min" and "max" in Hz; `tolerance` a fraction; the window is counted in updates."""

    def __init__(self, freq_bound: dict[str, float], tolerance: float = 0.1, window_size: int = 5) -> None:
        self.freq_bound = freq_bound
        self.tolerance = tolerance
        self.window_size = window_size


class FrequencyStatus(DiagnosticTask):
    """Watches how often `tick()` is called."""

    def __init__(self, params: FrequencyStatusParam, name: str = "FrequencyStatus") -> None:
        super().__init__(name)
        self.params = params
        self.clock: Clock = ROSClock()
        self.lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        with self.lock:
            self.count = 0
            now = self.clock.now()
            self.times = [now] * self.params.window_size
            self.seq_nums = [0] * self.params.window_size
            self.hist_indx = 0

    def tick(self) -> None:
        """Something has happened."""
        with self.lock:
            self.count += 1

    def run(self, stat: DiagnosticStatusWrapper) -> DiagnosticStatusWrapper:
        """Fill the status."""
        bounds, tolerance = self.params.freq_bound, self.params.tolerance
        with self.lock:
            now = self.clock.now()
            events = self.count - self.seq_nums[self.hist_indx]
            window = (now - self.times[self.hist_indx]).nanoseconds * 1e-9
            frequency = events / window if window > 0 else 0.0
            self.seq_nums[self.hist_indx] = self.count
            self.times[self.hist_indx] = now
            self.hist_indx = (self.hist_indx + 1) % self.params.window_size
            count = self.count
        low, high = bounds.get("min", 0.0), bounds.get("max", float("inf"))
        if events == 0:
            stat.summary(ERROR, "No events recorded.")
        elif frequency < low * (1 - tolerance):
            stat.summary(WARN, "Frequency too low.")
        elif frequency > high * (1 + tolerance):
            stat.summary(WARN, "Frequency too high.")
        else:
            stat.summary(OK, "Desired frequency met")
        stat.add("Events in window", str(events))
        stat.add("Events since startup", str(count))
        stat.add("Duration of window (s)", f"{window:f}")
        stat.add("Actual frequency (Hz)", f"{frequency:f}")
        if low == high:
            stat.add("Target frequency (Hz)", f"{low:f}")
        if low > 0:
            stat.add("Minimum acceptable frequency (Hz)", f"{low * (1 - tolerance):f}")
        if high < float("inf"):
            stat.add("Maximum acceptable frequency (Hz)", f"{high * (1 + tolerance):f}")
        return stat


class TimeStampStatusParam:
    """Acceptable difference between now and a stamp, in seconds (positive: the stamp is old)."""

    def __init__(self, min_acceptable: float = -1, max_acceptable: float = 5) -> None:
        self.min_acceptable = min_acceptable
        self.max_acceptable = max_acceptable


class TimeStampStatus(DiagnosticTask):
    """Watches the age of stamps."""

    def __init__(self, params: TimeStampStatusParam | None = None, name: str = "Timestamp Status") -> None:
        super().__init__(name)
        self.params = TimeStampStatusParam() if params is None else params
        self.clock: Clock = ROSClock()
        self.lock = threading.Lock()
        self.early_count = 0
        self.late_count = 0
        self.zero_count = 0
        self.zero_seen = False
        self.max_delta = 0.0
        self.min_delta = 0.0
        self.deltas_valid = False

    def tick(self, stamp: Any) -> None:
        """A stamp was seen: a number of seconds, a `Time`, or a builtin_interfaces/msg/Time."""
        if hasattr(stamp, "nanosec"):
            stamp = stamp.sec + stamp.nanosec * 1e-9
        elif isinstance(stamp, Time):
            stamp = stamp.nanoseconds * 1e-9
        with self.lock:
            if stamp == 0:
                self.zero_seen = True
                return
            delta = self.clock.now().nanoseconds * 1e-9 - stamp
            if not self.deltas_valid or delta > self.max_delta:
                self.max_delta = delta
            if not self.deltas_valid or delta < self.min_delta:
                self.min_delta = delta
            self.deltas_valid = True

    def run(self, stat: DiagnosticStatusWrapper) -> DiagnosticStatusWrapper:
        """Fill the status."""
        with self.lock:
            stat.summary(OK, "Timestamps are reasonable.")
            if not self.deltas_valid:
                stat.summary(WARN, "No data since last update.")
            else:
                if self.min_delta < self.params.min_acceptable:
                    stat.summary(ERROR, "Timestamps too far in future seen.")
                    self.early_count += 1
                if self.max_delta > self.params.max_acceptable:
                    stat.summary(ERROR, "Timestamps too far in past seen.")
                    self.late_count += 1
            if self.zero_seen:
                stat.summary(ERROR, "Zero timestamp seen.")
                self.zero_count += 1
            stat.add("Earliest timestamp delay:", f"{self.min_delta:f}")
            stat.add("Latest timestamp delay:", f"{self.max_delta:f}")
            stat.add("Earliest acceptable timestamp delay:", f"{self.params.min_acceptable:f}")
            stat.add("Latest acceptable timestamp delay:", f"{self.params.max_acceptable:f}")
            stat.add("Late diagnostic update count:", str(self.late_count))
            stat.add("Early diagnostic update count:", str(self.early_count))
            stat.add("Zero seen diagnostic update count:", str(self.zero_count))
            self.deltas_valid = False
            self.min_delta = self.max_delta = 0.0
            self.zero_seen = False
        return stat


class Heartbeat(DiagnosticTask):
    """Says that the node is alive."""

    def __init__(self) -> None:
        super().__init__("Heartbeat")

    def run(self, stat: DiagnosticStatusWrapper) -> DiagnosticStatusWrapper:
        """Fill the status."""
        stat.summary(OK, "Alive")
        return stat


class HeaderlessTopicDiagnostic(CompositeDiagnosticTask):
    """Watches the rate of a topic; call `tick()` for each message."""

    def __init__(self, name: str, diag: Updater, freq: FrequencyStatusParam) -> None:
        super().__init__(f"{name} topic status")
        self.diag = diag
        self.freq = FrequencyStatus(freq)
        self.freq.clock = getattr(diag, "clock", self.freq.clock)
        self.freq.clear()
        self.addTask(self.freq)
        self.diag.add(self)

    def tick(self, *args: Any) -> None:
        """A message was sent or received."""
        self.freq.tick()

    def clear_window(self) -> None:
        """Begin anew."""
        self.freq.clear()


class TopicDiagnostic(HeaderlessTopicDiagnostic):
    """Watches the rate of a topic and the age of its stamps; call `tick(stamp)` for each message."""

    def __init__(self, name: str, diag: Updater, freq: FrequencyStatusParam, stamp: TimeStampStatusParam) -> None:
        super().__init__(name, diag, freq)
        self.stamp = TimeStampStatus(stamp)
        self.stamp.clock = getattr(diag, "clock", self.stamp.clock)
        self.addTask(self.stamp)

    def tick(self, *args: Any) -> None:
        """A message with this stamp was sent or received."""
        self.stamp.tick(args[0])
        super().tick()


class DiagnosedPublisher(TopicDiagnostic):
    """A publisher that watches itself; messages need a header."""

    def __init__(self, pub: Any, diag: Updater, freq: FrequencyStatusParam, stamp: TimeStampStatusParam) -> None:
        super().__init__(pub.topic_name, diag, freq, stamp)
        self.publisher = pub

    def publish(self, message: Any) -> None:
        """Publish and count."""
        self.tick(message.header.stamp)
        self.publisher.publish(message)


__all__ = [
    "CompositeDiagnosticTask",
    "DiagnosedPublisher",
    "DiagnosticArray",
    "DiagnosticStatus",
    "DiagnosticStatusWrapper",
    "DiagnosticTask",
    "DiagnosticTaskVector",
    "FrequencyStatus",
    "FrequencyStatusParam",
    "FunctionDiagnosticTask",
    "HeaderlessTopicDiagnostic",
    "Heartbeat",
    "KeyValue",
    "TimeStampStatus",
    "TimeStampStatusParam",
    "TopicDiagnostic",
    "Updater",
]
