"""Transforms between frames over time, with the names of tf2_ros.

`Buffer` keeps ten seconds (by default) of every moving frame and the one value of every static frame, and interpolates between
two stamps; it never extrapolates. A transform from source to target frame takes coordinates in the source frame to coordinates
in the target frame: `p_target = rotation * p_source + translation`. Metres, unit quaternions (x, y, z, w).
"""

from __future__ import annotations

import bisect
import math
import threading
import time as _time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..duration import Duration
from ..messages import message_class
from ..qos import DurabilityPolicy, HistoryPolicy, QoSProfile
from .callback_groups import ReentrantCallbackGroup
from .clock import ClockType, JumpHandle, JumpThreshold, Time
from .logging import get_logger
from .task import Future

if TYPE_CHECKING:
    from .executors import Executor
    from .node import Node


class TransformException(Exception):
    """Base of everything that keeps a transform from being given."""


class LookupException(TransformException):
    """A frame does not exist."""


class ConnectivityException(TransformException):
    """Two frames are in trees that are not connected."""


class ExtrapolationException(TransformException):
    """The time asked for is outside of what is known."""


class InvalidArgumentException(TransformException):
    """A frame name is no frame name."""


class TimeoutException(TransformException):
    """It did not come in time."""


_Vector = tuple[float, float, float]
_Quaternion = tuple[float, float, float, float]
_QUATERNION_TOLERANCE = 1e-2


class _Pose(NamedTuple):
    """A transform: where the child's origin lies in the parent, and how the child is turned."""

    translation: _Vector
    rotation: _Quaternion


_IDENTITY = _Pose((0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0))


def _multiply(a: _Quaternion, b: _Quaternion) -> _Quaternion:
    ax, ay, az, aw = a
    bx, by, bz, bw = b
    return (
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
        aw * bw - ax * bx - ay * by - az * bz,
    )


def _rotate(q: _Quaternion, v: _Vector) -> _Vector:
    x, y, z, w = q
    vx, vy, vz = v
    tx, ty, tz = 2 * (y * vz - z * vy), 2 * (z * vx - x * vz), 2 * (x * vy - y * vx)
    return (vx + w * tx + y * tz - z * ty, vy + w * ty + z * tx - x * tz, vz + w * tz + x * ty - y * tx)


def _compose(a: _Pose, b: _Pose) -> _Pose:
    """First `b`, then `a`."""
    dx, dy, dz = _rotate(a.rotation, b.translation)
    ax, ay, az = a.translation
    return _Pose((ax + dx, ay + dy, az + dz), _multiply(a.rotation, b.rotation))


def _invert(a: _Pose) -> _Pose:
    x, y, z, w = a.rotation
    inverse = (-x, -y, -z, w)
    dx, dy, dz = _rotate(inverse, a.translation)
    return _Pose((-dx, -dy, -dz), inverse)


def _slerp(a: _Quaternion, b: _Quaternion, ratio: float) -> _Quaternion:
    dot = sum(p * q for p, q in zip(a, b))
    if dot < 0.0:  # the short way round
        dot, b = -dot, (-b[0], -b[1], -b[2], -b[3])
    if dot > 1.0 - 1e-9:
        wa, wb = 1.0 - ratio, ratio
    else:
        angle = math.acos(min(dot, 1.0))
        wa, wb = math.sin((1.0 - ratio) * angle) / math.sin(angle), math.sin(ratio * angle) / math.sin(angle)
    mixed = [wa * p + wb * q for p, q in zip(a, b)]
    norm = math.sqrt(sum(p * p for p in mixed))
    return (mixed[0] / norm, mixed[1] / norm, mixed[2] / norm, mixed[3] / norm)


def _seconds(nanoseconds: int) -> str:
    return f"{nanoseconds // 10**9}.{nanoseconds % 10**9 // 1000:06d}"


class _History:
    """Poses of one frame in its parent, by time. A static frame has one pose for all times."""

    def __init__(self, static: bool, keep_ns: int) -> None:
        self.static = static
        self._keep_ns = keep_ns
        self._stamps: list[int] = []
        self._entries: list[tuple[str, _Pose]] = []

    def insert(self, stamp: int, parent: str, pose: _Pose) -> bool:
        """False if the stamp is too old or known already."""
        if self.static:
            self._stamps, self._entries = [0], [(parent, pose)]
            return True
        if self._stamps and stamp < self._stamps[-1] - self._keep_ns:
            return False
        index = bisect.bisect_left(self._stamps, stamp)
        if index < len(self._stamps) and self._stamps[index] == stamp:
            return False
        self._stamps.insert(index, stamp)
        self._entries.insert(index, (parent, pose))
        first = bisect.bisect_left(self._stamps, self._stamps[-1] - self._keep_ns)
        if first:
            del self._stamps[:first], self._entries[:first]
        return True

    def clear(self) -> None:
        if not self.static:
            self._stamps, self._entries = [], []

    def latest(self) -> tuple[int, str] | None:
        """Newest stamp (0 for static) and the parent then."""
        return (self._stamps[-1], self._entries[-1][0]) if self._stamps else None

    def oldest(self) -> int | None:
        return self._stamps[0] if self._stamps else None

    def __len__(self) -> int:
        return len(self._stamps)

    def at(self, stamp: int) -> tuple[str, _Pose]:
        """Parent and pose at a time. Raises `ExtrapolationException` without naming frames, or LookupError when empty."""
        stamps, entries = self._stamps, self._entries
        if not stamps:
            raise LookupError
        if self.static:
            return entries[0]
        if stamp == 0:
            return entries[-1]
        if len(stamps) == 1 and stamp != stamps[0]:
            raise ExtrapolationException(
                f"Lookup would require extrapolation at time {_seconds(stamp)}, but only time {_seconds(stamps[0])} is in the "
                "buffer"
            )
        if stamp > stamps[-1]:
            raise ExtrapolationException(
                f"Lookup would require extrapolation into the future.  Requested time {_seconds(stamp)} but the latest data is "
                f"at time {_seconds(stamps[-1])}"
            )
        if stamp < stamps[0]:
            raise ExtrapolationException(
                f"Lookup would require extrapolation into the past.  Requested time {_seconds(stamp)} but the earliest data is "
                f"at time {_seconds(stamps[0])}"
            )
        index = bisect.bisect_left(stamps, stamp)
        if stamps[index] == stamp:
            return entries[index]
        (parent, before), (next_parent, after) = entries[index - 1], entries[index]
        if parent != next_parent:
            return parent, before
        ratio = (stamp - stamps[index - 1]) / (stamps[index] - stamps[index - 1])
        ta, tb = before.translation, after.translation
        return parent, _Pose(
            (ta[0] + ratio * (tb[0] - ta[0]), ta[1] + ratio * (tb[1] - ta[1]), ta[2] + ratio * (tb[2] - ta[2])),
            _slerp(before.rotation, after.rotation, ratio),
        )


def _nanoseconds(moment: Any) -> int:
    """Nanoseconds of a `Time` or of a builtin_interfaces/msg/Time."""
    if hasattr(moment, "nanosec"):
        return int(moment.sec) * 10**9 + int(moment.nanosec)
    return int(moment.nanoseconds)


class Buffer:
    """Stores transforms and answers where one frame is, seen from another, at some time (`Time()`: the latest common time).

    With a `node` (or a `TransformListener`) time that jumps back by a second or more clears the moving frames; with a `node`
    the service `tf2_frames` gives all frames as YAML.
    """

    def __init__(self, cache_time: Duration | None = None, node: Node | None = None) -> None:
        self._keep_ns = Duration(seconds=10).nanoseconds if cache_time is None else cache_time.nanoseconds
        self._cv = threading.Condition(threading.RLock())
        self._frames: dict[str, _History] = {}
        self._known: set[str] = set()
        self._waiting: list[tuple[Callable[[], bool], Future]] = []
        self._jump_handle: JumpHandle | None = None
        if node is not None:
            self._follow_clock(node)
            self.srv = node.create_service(message_class("tf2_msgs/srv/FrameGraph"), "tf2_frames", self._get_frames)

    def _follow_clock(self, node: Node) -> None:
        if self._jump_handle is None:
            threshold = JumpThreshold(min_forward=None, min_backward=Duration(seconds=-1), on_clock_change=True)
            self._jump_handle = node.get_clock().create_jump_callback(threshold, post_callback=lambda _: self.clear())

    def _get_frames(self, request: Any, response: Any) -> Any:
        response.frame_yaml = self.all_frames_as_yaml()
        return response

    # filling -----------------------------------------------------------------------------------------------------------

    def set_transform(self, transform: Any, authority: str) -> None:
        """Add a geometry_msgs/msg/TransformStamped; one that cannot be right is ignored with a warning."""
        self._set(transform, authority, static=False)

    def set_transform_static(self, transform: Any, authority: str) -> None:
        """Add one that holds for all times."""
        self._set(transform, authority, static=True)

    def _set(self, transform: Any, authority: str, *, static: bool) -> None:
        parent, child = transform.header.frame_id.lstrip("/"), transform.child_frame_id.lstrip("/")
        t, q = transform.transform.translation, transform.transform.rotation
        pose = _Pose((t.x, t.y, t.z), (q.x, q.y, q.z, q.w))
        problem = ""
        if not child:
            problem = "the child_frame_id is empty"
        elif not parent:
            problem = f"the frame_id of '{child}' is empty"
        elif parent == child:
            problem = f"frame_id and child_frame_id are both '{child}'"
        elif not all(map(math.isfinite, (*pose.translation, *pose.rotation))):
            problem = f"'{child}' in '{parent}' holds a number that is not finite"
        elif abs(sum(value * value for value in pose.rotation) - 1.0) > _QUATERNION_TOLERANCE:
            problem = f"the quaternion of '{child}' in '{parent}' is not normalised: {pose.rotation}"
        if problem:
            get_logger("tf2_buffer").warning(
                f"Ignoring transform from authority '{authority}': {problem}", throttle_duration_sec=1.0
            )
            return
        stamp = _nanoseconds(transform.header.stamp)
        ready: list[Future] = []
        with self._cv:
            history = self._frames.get(child)
            if history is None or history.static != static:
                history = self._frames[child] = _History(static, self._keep_ns)
            self._known.update((parent, child))
            if not history.insert(stamp, parent, pose):
                return
            self._cv.notify_all()
            for item in list(self._waiting):
                if item[1].done():
                    self._waiting.remove(item)
                elif item[0]():
                    self._waiting.remove(item)
                    ready.append(item[1])
        for future in ready:
            future.set_result(True)

    def clear(self) -> None:
        """Forget all moving transforms; static ones stay."""
        with self._cv:
            for history in self._frames.values():
                history.clear()

    # looking up --------------------------------------------------------------------------------------------------------

    def _check_frame(self, name: str, argument: str) -> str:
        if not name:
            raise InvalidArgumentException(
                f"Invalid argument passed to lookupTransform argument {argument} in tf2 frame_ids cannot be empty"
            )
        if name.startswith("/"):
            raise InvalidArgumentException(
                f'Invalid argument "{name}" passed to lookupTransform argument {argument} in tf2 frame_ids cannot start with '
                "a '/'"
            )
        if name not in self._known:
            raise LookupException(f'"{name}" passed to lookupTransform argument {argument} does not exist. ')
        return name

    def _chain(self, frame: str) -> list[str]:
        """Frames from `frame` up to its root, by the newest data."""
        chain = [frame]
        while True:
            history = self._frames.get(chain[-1])
            latest = history.latest() if history is not None else None
            if latest is None:
                return chain
            if latest[1] in chain:
                raise ConnectivityException(f"The tf tree is invalid because it contains a loop at frame '{latest[1]}'")
            chain.append(latest[1])

    def _unconnected(self, target: str, source: str) -> ConnectivityException:
        return ConnectivityException(
            f"Could not find a connection between '{target}' and '{source}' because they are not part of the same tree."
            "Tf has two or more unconnected trees."
        )

    def _latest_common_ns(self, target: str, source: str) -> int:
        """Newest time at which everything between the frames is known; 0 if it is all static."""
        up, other = self._chain(source), self._chain(target)
        common = next((frame for frame in up if frame in other), None)
        if common is None:
            raise self._unconnected(target, source)
        stamps = []
        for frame in (*up[: up.index(common)], *other[: other.index(common)]):
            history = self._frames[frame]
            latest = history.latest()
            if not history.static and latest is not None:
                stamps.append(latest[0])
        return min(stamps, default=0)

    def _walk(self, frame: str, stamp: int, stop: Sequence[str]) -> tuple[list[str], list[_Pose], Exception | None]:
        """From `frame` towards the root at a time: frames passed, pose of `frame` in each, and what ended it early."""
        frames, poses = [frame], [_IDENTITY]
        while frames[-1] not in stop:
            history = self._frames.get(frames[-1])
            if history is None or not len(history):
                return frames, poses, None
            try:
                parent, pose = history.at(stamp)
            except ExtrapolationException as error:
                return frames, poses, error
            if parent in frames:
                return (
                    frames,
                    poses,
                    ConnectivityException(f"The tf tree is invalid because it contains a loop at frame '{parent}'"),
                )
            frames.append(parent)
            poses.append(_compose(pose, poses[-1]))
        return frames, poses, None

    def _lookup(self, target: str, source: str, stamp: int) -> tuple[_Pose, int]:
        """Pose of `source` in `target`, and its time."""
        self._check_frame(target, "target_frame")
        self._check_frame(source, "source_frame")
        if target == source:
            if stamp == 0:
                history = self._frames.get(target)
                latest = history.latest() if history is not None else None
                stamp = 0 if latest is None else latest[0]
            return _IDENTITY, stamp
        if stamp == 0:
            stamp = self._latest_common_ns(target, source)
        frames, poses, first_error = self._walk(source, stamp, (target,))
        if frames[-1] == target:
            return poses[-1], stamp
        other, other_poses, second_error = self._walk(target, stamp, frames)
        if other[-1] in frames:
            return _compose(_invert(other_poses[-1]), poses[frames.index(other[-1])]), stamp
        error = first_error or second_error
        if error is not None:
            raise type(error)(f"{error}, when looking up transform from frame [{source}] to frame [{target}]")
        raise self._unconnected(target, source)

    def _stamped(self, target: str, source: str, pose: _Pose, stamp: int) -> Any:
        result = message_class("geometry_msgs/msg/TransformStamped")()
        result.header.stamp.sec, result.header.stamp.nanosec = divmod(stamp, 10**9)
        result.header.frame_id = target
        result.child_frame_id = source
        t, q = result.transform.translation, result.transform.rotation
        t.x, t.y, t.z = pose.translation
        q.x, q.y, q.z, q.w = pose.rotation
        return result

    def lookup_transform_core(self, target_frame: str, source_frame: str, time: Time) -> Any:
        """Like `lookup_transform`, without waiting."""
        with self._cv:
            pose, stamp = self._lookup(target_frame, source_frame, _nanoseconds(time))
        return self._stamped(target_frame, source_frame, pose, stamp)

    def lookup_transform_full_core(
        self, target_frame: str, target_time: Time, source_frame: str, source_time: Time, fixed_frame: str
    ) -> Any:
        """Like `lookup_transform_full`, without waiting."""
        with self._cv:
            self._check_frame(fixed_frame, "fixed_frame")
            to_fixed, _ = self._lookup(fixed_frame, source_frame, _nanoseconds(source_time))
            to_target, stamp = self._lookup(target_frame, fixed_frame, _nanoseconds(target_time))
        return self._stamped(target_frame, source_frame, _compose(to_target, to_fixed), stamp)

    def lookup_transform(self, target_frame: str, source_frame: str, time: Time, timeout: Duration = Duration()) -> Any:  # noqa: B008
        """TransformStamped from `source_frame` to `target_frame` at `time`; waits at most `timeout` for it.

        Raises `LookupException` (unknown frame), `ConnectivityException`, `ExtrapolationException`, `InvalidArgumentException`.
        """
        self.can_transform(target_frame, source_frame, time, timeout)
        return self.lookup_transform_core(target_frame, source_frame, time)

    def lookup_transform_full(
        self,
        target_frame: str,
        target_time: Time,
        source_frame: str,
        source_time: Time,
        fixed_frame: str,
        timeout: Duration = Duration(),  # noqa: B008
    ) -> Any:
        """From `source_frame` at `source_time` to `target_frame` at `target_time`; `fixed_frame` stands still meanwhile."""
        self.can_transform_full(target_frame, target_time, source_frame, source_time, fixed_frame, timeout)
        return self.lookup_transform_full_core(target_frame, target_time, source_frame, source_time, fixed_frame)

    async def lookup_transform_async(self, target_frame: str, source_frame: str, time: Time) -> Any:
        """Like `lookup_transform`, for coroutines: waits as long as it takes."""
        await self.wait_for_transform_async(target_frame, source_frame, time)
        return self.lookup_transform_core(target_frame, source_frame, time)

    async def lookup_transform_full_async(
        self, target_frame: str, target_time: Time, source_frame: str, source_time: Time, fixed_frame: str
    ) -> Any:
        """Like `lookup_transform_full`, for coroutines: waits as long as it takes."""
        await self.wait_for_transform_full_async(target_frame, target_time, source_frame, source_time, fixed_frame)
        return self.lookup_transform_full_core(target_frame, target_time, source_frame, source_time, fixed_frame)

    def can_transform_core(self, target_frame: str, source_frame: str, time: Time) -> tuple[bool, str]:
        """Whether `lookup_transform` would succeed now, and why not."""
        try:
            with self._cv:
                self._lookup(target_frame, source_frame, _nanoseconds(time))
        except TransformException as error:
            return False, str(error)
        return True, ""

    def can_transform_full_core(
        self, target_frame: str, target_time: Time, source_frame: str, source_time: Time, fixed_frame: str
    ) -> tuple[bool, str]:
        """Whether `lookup_transform_full` would succeed now, and why not."""
        try:
            self.lookup_transform_full_core(target_frame, target_time, source_frame, source_time, fixed_frame)
        except TransformException as error:
            return False, str(error)
        return True, ""

    def _wait(self, check: Callable[[], tuple[bool, str]], timeout: Duration) -> tuple[bool, str]:
        limit = _time.monotonic() + timeout.nanoseconds * 1e-9
        with self._cv:
            while True:
                found, reason = check()
                left = limit - _time.monotonic()
                if found or left <= 0:
                    return found, reason
                self._cv.wait(left)

    def can_transform(
        self,
        target_frame: str,
        source_frame: str,
        time: Time,
        timeout: Duration = Duration(),  # noqa: B008
        return_debug_tuple: bool = False,
    ) -> Any:
        """Whether `lookup_transform` would succeed, waiting at most `timeout`; with `return_debug_tuple` also why not."""
        result = self._wait(lambda: self.can_transform_core(target_frame, source_frame, time), timeout)
        return result if return_debug_tuple else result[0]

    def can_transform_full(
        self,
        target_frame: str,
        target_time: Time,
        source_frame: str,
        source_time: Time,
        fixed_frame: str,
        timeout: Duration = Duration(),  # noqa: B008
        return_debug_tuple: bool = False,
    ) -> Any:
        """Whether `lookup_transform_full` would succeed, waiting at most `timeout`; with `return_debug_tuple` also why not."""
        result = self._wait(
            lambda: self.can_transform_full_core(target_frame, target_time, source_frame, source_time, fixed_frame), timeout
        )
        return result if return_debug_tuple else result[0]

    def _future_of(self, check: Callable[[], tuple[bool, str]]) -> Future:
        future = Future()
        with self._cv:
            found = check()[0]
            if not found:
                self._waiting.append((lambda: check()[0], future))
        if found:
            future.set_result(True)
        return future

    def wait_for_transform_async(self, target_frame: str, source_frame: str, time: Time) -> Future:
        """Future that is done (True) once the transform is there."""
        return self._future_of(lambda: self.can_transform_core(target_frame, source_frame, time))

    def wait_for_transform_full_async(
        self, target_frame: str, target_time: Time, source_frame: str, source_time: Time, fixed_frame: str
    ) -> Future:
        """Future that is done (True) once the transform across two times is there."""
        return self._future_of(
            lambda: self.can_transform_full_core(target_frame, target_time, source_frame, source_time, fixed_frame)
        )

    def get_latest_common_time(self, target_frame: str, source_frame: str) -> Time:
        """Newest time at which both frames are known. Raises `LookupException`, `ConnectivityException`."""
        with self._cv:
            self._check_frame(target_frame, "target_frame")
            self._check_frame(source_frame, "source_frame")
            stamp = self._latest_common_ns(target_frame, source_frame)
        return Time(nanoseconds=stamp, clock_type=ClockType.ROS_TIME)

    def all_frames_as_string(self) -> str:
        """One line per frame."""
        with self._cv:
            lines = []
            for frame, history in sorted(self._frames.items()):
                latest = history.latest()
                if latest is not None:
                    lines.append(f"Frame {frame} exists with parent {latest[1]}.\n")
        return "".join(lines)

    def all_frames_as_yaml(self) -> str:
        """Parent, rate and time span of each frame, as `ros2 run tf2_tools view_frames` reads it."""
        with self._cv:
            blocks = []
            for frame, history in sorted(self._frames.items()):
                latest, oldest = history.latest(), history.oldest()
                if latest is None or oldest is None:
                    continue
                span = (latest[0] - oldest) * 1e-9
                rate = 10000.0 if history.static else len(history) / max(span, 1e-4)
                blocks.append(
                    f"{frame}: \n  parent: '{latest[1]}'\n  broadcaster: 'default_authority'\n  rate: {rate:.3f}\n"
                    f"  most_recent_transform: {_seconds(latest[0])}\n  oldest_transform: {_seconds(oldest)}\n"
                    f"  buffer_length: {span:.3f}\n"
                )
        return "".join(blocks) or "[]"


class TransformListener:
    """Fills a buffer from `/tf` and `/tf_static`. With `spin_thread` it spins the node in a thread of its own."""

    def __init__(
        self,
        buffer: Buffer,
        node: Node,
        *,
        spin_thread: bool = False,
        qos: QoSProfile | int | None = None,
        static_qos: QoSProfile | int | None = None,
    ) -> None:
        self.buffer = buffer
        self.node = node
        self.group = ReentrantCallbackGroup()  # so that a callback that waits for a transform does not wait for itself
        buffer._follow_clock(node)
        message = message_class("tf2_msgs/msg/TFMessage")
        if qos is None:
            qos = QoSProfile(depth=100, durability=DurabilityPolicy.VOLATILE, history=HistoryPolicy.KEEP_LAST)
        if static_qos is None:
            static_qos = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL, history=HistoryPolicy.KEEP_LAST)
        self.tf_sub = node.create_subscription(message, "/tf", self.callback, qos, callback_group=self.group)
        self.tf_static_sub = node.create_subscription(
            message, "/tf_static", self.static_callback, static_qos, callback_group=self.group
        )
        self.executor: Executor | None = None
        if spin_thread:
            from .executors import ExternalShutdownException, SingleThreadedExecutor

            executor = self.executor = SingleThreadedExecutor(context=node.context)
            executor.add_node(node)

            def run() -> None:
                try:
                    executor.spin()
                except ExternalShutdownException:
                    return  # the context has ended: so does this thread

            self.dedicated_listener_thread = threading.Thread(target=run, name="tf_listener", daemon=True)
            self.dedicated_listener_thread.start()

    def callback(self, data: Any) -> None:
        """Take a tf2_msgs/msg/TFMessage of `/tf`."""
        for transform in data.transforms:
            self.buffer.set_transform(transform, "default_authority")

    def static_callback(self, data: Any) -> None:
        """Take a tf2_msgs/msg/TFMessage of `/tf_static`."""
        for transform in data.transforms:
            self.buffer.set_transform_static(transform, "default_authority")

    def unregister(self) -> None:
        """Listen no more."""
        if self.executor is not None:
            self.executor.shutdown()
        self.node.destroy_subscription(self.tf_sub)
        self.node.destroy_subscription(self.tf_static_sub)


class TransformBroadcaster:
    """Publishes transforms on `/tf`."""

    def __init__(self, node: Node, qos: QoSProfile | int | None = None) -> None:
        if qos is None:
            qos = QoSProfile(depth=100, durability=DurabilityPolicy.VOLATILE, history=HistoryPolicy.KEEP_LAST)
        self.pub_tf = node.create_publisher(message_class("tf2_msgs/msg/TFMessage"), "/tf", qos)

    def sendTransform(self, transform: Any) -> None:
        """Send a TransformStamped, or several in a list."""
        transforms = list(transform) if isinstance(transform, list | tuple) else [transform]
        self.pub_tf.publish(message_class("tf2_msgs/msg/TFMessage")(transforms=transforms))


class StaticTransformBroadcaster:
    """Publishes transforms that never change on `/tf_static`; late listeners get all of them."""

    def __init__(self, node: Node, qos: QoSProfile | int | None = None) -> None:
        if qos is None:
            qos = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL, history=HistoryPolicy.KEEP_LAST)
        self.pub_tf = node.create_publisher(message_class("tf2_msgs/msg/TFMessage"), "/tf_static", qos)
        self._sent: dict[str, Any] = {}

    def sendTransform(self, transform: Any) -> None:
        """Send a TransformStamped, or several in a list; one for a known child frame replaces the old one."""
        for entry in transform if isinstance(transform, list | tuple) else [transform]:
            self._sent[entry.child_frame_id] = entry
        # A new message every time: subscriptions of this process hold the previous one.
        self.pub_tf.publish(message_class("tf2_msgs/msg/TFMessage")(transforms=list(self._sent.values())))
