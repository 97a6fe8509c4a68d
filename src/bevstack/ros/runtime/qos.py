"""Quality of service with rclpy's (Jazzy) names, values and checks. Pure data: the wire translates it.

Source: rclpy.qos signatures recorded from Jazzy; rmw_qos_profiles.h for the presets; REP-2003 for their use.
"""

from __future__ import annotations

import warnings
from enum import Enum, IntEnum
from typing import Any

from bevstack.ros.runtime.duration import INFINITE_NANOSECONDS, Duration


class QoSPolicyKind(IntEnum):
    """One policy of a profile, as in QoS event reports."""

    INVALID = 1 << 0
    DURABILITY = 1 << 1
    DEADLINE = 1 << 2
    LIVELINESS = 1 << 3
    RELIABILITY = 1 << 4
    HISTORY = 1 << 5
    LIFESPAN = 1 << 6
    DEPTH = 1 << 7
    LIVELINESS_LEASE_DURATION = 1 << 8
    AVOID_ROS_NAMESPACE_CONVENTIONS = 1 << 9


def qos_policy_name_from_kind(policy_kind: QoSPolicyKind | int) -> str:
    """`QoSPolicyKind.RELIABILITY` -> "RELIABILITY"; an unknown number is an invalid kind."""
    try:
        return QoSPolicyKind(policy_kind).name
    except ValueError:
        return QoSPolicyKind.INVALID.name


class InvalidQoSProfileException(Exception):
    """The profile cannot be built from these settings."""

    def __init__(self, *args: object) -> None:
        Exception.__init__(self, "Invalid QoSProfile", *args)


class QoSPolicyEnum(IntEnum):
    """Policies that can be written as text, e.g. "best_effort" in parameter files."""

    @classmethod
    def short_keys(cls) -> list[str]:
        return [key.lower() for key in cls.__members__ if not key.startswith("RMW_")]

    @classmethod
    def get_from_short_key(cls, name: str) -> Any:
        """:raises KeyError: no such value."""
        return cls[name.upper()]

    @property
    def short_key(self) -> str:
        return self.name.lower()


class HistoryPolicy(QoSPolicyEnum):
    SYSTEM_DEFAULT = 0
    KEEP_LAST = 1
    KEEP_ALL = 2
    UNKNOWN = 3


class ReliabilityPolicy(QoSPolicyEnum):
    SYSTEM_DEFAULT = 0
    RELIABLE = 1
    BEST_EFFORT = 2
    UNKNOWN = 3
    BEST_AVAILABLE = 4


class DurabilityPolicy(QoSPolicyEnum):
    SYSTEM_DEFAULT = 0
    TRANSIENT_LOCAL = 1
    VOLATILE = 2
    UNKNOWN = 3
    BEST_AVAILABLE = 4


class LivelinessPolicy(QoSPolicyEnum):
    SYSTEM_DEFAULT = 0
    AUTOMATIC = 1
    MANUAL_BY_TOPIC = 3
    UNKNOWN = 4
    BEST_AVAILABLE = 5


QoSHistoryPolicy = HistoryPolicy
QoSReliabilityPolicy = ReliabilityPolicy
QoSDurabilityPolicy = DurabilityPolicy
QoSLivelinessPolicy = LivelinessPolicy

#: rmw's "the best that all current peers offer", one nanosecond short of infinite.
_BEST_AVAILABLE_NANOSECONDS = INFINITE_NANOSECONDS - 1


class QoSProfile:
    """How a publisher sends or a subscription receives.

    Keywords: `history`, `depth` (one of the two is needed), `reliability`, `durability`, `lifespan`, `deadline`, `liveliness`,
    `liveliness_lease_duration`, `avoid_ros_namespace_conventions`. Durations of zero mean "not specified".

    :raises InvalidQoSProfileException: neither history nor depth given, or keep-last without depth.
    """

    __slots__ = (
        "_avoid_ros_namespace_conventions",
        "_deadline",
        "_depth",
        "_durability",
        "_history",
        "_lifespan",
        "_liveliness",
        "_liveliness_lease_duration",
        "_reliability",
    )

    def __init__(self, **kwargs: Any) -> None:
        unknown = sorted(key for key in kwargs if "_" + key not in self.__slots__)
        assert not unknown, f"Invalid arguments passed to constructor: {unknown}"
        if "history" not in kwargs:
            if "depth" not in kwargs:
                raise InvalidQoSProfileException("History and/or depth settings are required.")
            kwargs["history"] = HistoryPolicy.KEEP_LAST
        self.history = kwargs["history"]
        if self.history == HistoryPolicy.KEEP_LAST and "depth" not in kwargs:
            raise InvalidQoSProfileException("History set to KEEP_LAST without a depth setting.")
        self.depth = kwargs.get("depth", 10)
        self.reliability = kwargs.get("reliability", ReliabilityPolicy.RELIABLE)
        self.durability = kwargs.get("durability", DurabilityPolicy.VOLATILE)
        self.lifespan = kwargs.get("lifespan", Duration())
        self.deadline = kwargs.get("deadline", Duration())
        self.liveliness = kwargs.get("liveliness", LivelinessPolicy.SYSTEM_DEFAULT)
        self.liveliness_lease_duration = kwargs.get("liveliness_lease_duration", Duration())
        self.avoid_ros_namespace_conventions = kwargs.get("avoid_ros_namespace_conventions", False)

    @property
    def history(self) -> HistoryPolicy:
        return self._history

    @history.setter
    def history(self, value: HistoryPolicy | int) -> None:
        assert isinstance(value, int), f"history must be a HistoryPolicy, got {value!r}"
        self._history = HistoryPolicy(value)

    @property
    def reliability(self) -> ReliabilityPolicy:
        return self._reliability

    @reliability.setter
    def reliability(self, value: ReliabilityPolicy | int) -> None:
        assert isinstance(value, int), f"reliability must be a ReliabilityPolicy, got {value!r}"
        self._reliability = ReliabilityPolicy(value)

    @property
    def durability(self) -> DurabilityPolicy:
        return self._durability

    @durability.setter
    def durability(self, value: DurabilityPolicy | int) -> None:
        assert isinstance(value, int), f"durability must be a DurabilityPolicy, got {value!r}"
        self._durability = DurabilityPolicy(value)

    @property
    def depth(self) -> int:
        return self._depth

    @depth.setter
    def depth(self, value: int) -> None:
        assert isinstance(value, int), f"depth must be an int, got {value!r}"
        if self._history == HistoryPolicy.KEEP_LAST and value == 0:
            warnings.warn(
                "A zero depth with KEEP_LAST can store no data; it is read as the system default of 1",
                UserWarning,
                stacklevel=3,
            )
        self._depth = value

    @property
    def lifespan(self) -> Duration:
        return self._lifespan

    @lifespan.setter
    def lifespan(self, value: Duration) -> None:
        assert isinstance(value, Duration), f"lifespan must be a Duration, got {value!r}"
        self._lifespan = value

    @property
    def deadline(self) -> Duration:
        return self._deadline

    @deadline.setter
    def deadline(self, value: Duration) -> None:
        assert isinstance(value, Duration), f"deadline must be a Duration, got {value!r}"
        self._deadline = value

    @property
    def liveliness(self) -> LivelinessPolicy:
        return self._liveliness

    @liveliness.setter
    def liveliness(self, value: LivelinessPolicy | int) -> None:
        assert isinstance(value, int), f"liveliness must be a LivelinessPolicy, got {value!r}"
        self._liveliness = LivelinessPolicy(value)

    @property
    def liveliness_lease_duration(self) -> Duration:
        return self._liveliness_lease_duration

    @liveliness_lease_duration.setter
    def liveliness_lease_duration(self, value: Duration) -> None:
        assert isinstance(value, Duration), f"liveliness_lease_duration must be a Duration, got {value!r}"
        self._liveliness_lease_duration = value

    @property
    def avoid_ros_namespace_conventions(self) -> bool:
        return self._avoid_ros_namespace_conventions

    @avoid_ros_namespace_conventions.setter
    def avoid_ros_namespace_conventions(self, value: bool) -> None:
        assert isinstance(value, bool), f"avoid_ros_namespace_conventions must be a bool, got {value!r}"
        self._avoid_ros_namespace_conventions = value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, QoSProfile):
            return False
        return all(getattr(self, slot) == getattr(other, slot) for slot in self.__slots__)

    __hash__ = None  # type: ignore[assignment]  # mutable, as in rclpy

    def __repr__(self) -> str:
        parts = ", ".join(f"{slot[1:]}={getattr(self, slot)!r}" for slot in self.__slots__)
        return f"{type(self).__name__}({parts})"

    def __str__(self) -> str:
        parts = [f"history={self.history.short_key}", f"depth={self.depth}"]
        parts += [f"reliability={self.reliability.short_key}", f"durability={self.durability.short_key}"]
        for name in ("lifespan", "deadline", "liveliness_lease_duration"):
            value: Duration = getattr(self, name)
            if value.nanoseconds:
                parts.append(f"{name}={value}")
        return f"{type(self).__name__}({', '.join(parts)})"


def as_qos_profile(qos: QoSProfile | int) -> QoSProfile:
    """rclpy's shorthand: an integer is the depth of a keep-last profile with default policies.

    :raises ValueError: negative depth. :raises TypeError: neither a profile nor an integer.
    """
    if isinstance(qos, QoSProfile):
        return qos
    if isinstance(qos, int) and not isinstance(qos, bool):
        if qos < 0:
            raise ValueError("QoS history depth must be greater than or equal to zero")
        return QoSProfile(depth=qos)
    raise TypeError(f"Expected QoSProfile or int, but received {type(qos)!r}")


qos_profile_unknown = QoSProfile(
    history=HistoryPolicy.UNKNOWN,
    depth=0,
    reliability=ReliabilityPolicy.UNKNOWN,
    durability=DurabilityPolicy.UNKNOWN,
    liveliness=LivelinessPolicy.UNKNOWN,
)
qos_profile_default = QoSProfile(depth=10)
qos_profile_system_default = QoSProfile(
    history=HistoryPolicy.SYSTEM_DEFAULT,
    depth=0,
    reliability=ReliabilityPolicy.SYSTEM_DEFAULT,
    durability=DurabilityPolicy.SYSTEM_DEFAULT,
)
qos_profile_sensor_data = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
qos_profile_services_default = QoSProfile(depth=10)
qos_profile_parameters = QoSProfile(depth=1000)
qos_profile_parameter_events = QoSProfile(depth=1000)
qos_profile_action_status_default = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
qos_profile_best_available = QoSProfile(
    depth=10,
    reliability=ReliabilityPolicy.BEST_AVAILABLE,
    durability=DurabilityPolicy.BEST_AVAILABLE,
    deadline=Duration(nanoseconds=_BEST_AVAILABLE_NANOSECONDS),
    liveliness=LivelinessPolicy.BEST_AVAILABLE,
    liveliness_lease_duration=Duration(nanoseconds=_BEST_AVAILABLE_NANOSECONDS),
)


class QoSPresetProfiles(Enum):
    """The presets by name; equal ones are aliases, as in rclpy."""

    UNKNOWN = qos_profile_unknown
    DEFAULT = qos_profile_default
    SYSTEM_DEFAULT = qos_profile_system_default
    SENSOR_DATA = qos_profile_sensor_data
    SERVICES_DEFAULT = qos_profile_services_default
    PARAMETERS = qos_profile_parameters
    PARAMETER_EVENTS = qos_profile_parameter_events
    ACTION_STATUS_DEFAULT = qos_profile_action_status_default
    BEST_AVAILABLE = qos_profile_best_available

    @classmethod
    def short_keys(cls) -> list[str]:
        return [key.lower() for key in cls.__members__]

    @classmethod
    def get_from_short_key(cls, name: str) -> QoSProfile:
        """:raises KeyError: no such preset."""
        profile: QoSProfile = cls[name.upper()].value
        return profile


class QoSCompatibility(IntEnum):
    OK = 0
    WARNING = 1
    ERROR = 2


#: The policies whose value is only known at run time, so that nothing can be promised about them.
_OPEN = {"SYSTEM_DEFAULT", "UNKNOWN"}


def _limit(duration: Duration) -> int:
    """Nanoseconds of a deadline or lease, not specified being infinite."""
    return duration.nanoseconds or INFINITE_NANOSECONDS


def qos_check_compatible(publisher_qos: QoSProfile, subscription_qos: QoSProfile) -> tuple[QoSCompatibility, str]:
    """Whether DDS would match the two ends, and if not (or perhaps not) why: reasons joined by "; ".

    A subscription may not ask for more than the publisher offers (request versus offered).
    """
    errors: list[str] = []
    doubts: list[str] = []
    pub, sub = publisher_qos, subscription_qos

    if pub.reliability == ReliabilityPolicy.BEST_EFFORT and sub.reliability == ReliabilityPolicy.RELIABLE:
        errors.append("Best effort publisher and reliable subscription")
    elif pub.reliability.name in _OPEN and sub.reliability == ReliabilityPolicy.RELIABLE:
        doubts.append(f"Reliable subscription, but publisher is {pub.reliability.short_key}")
    elif pub.reliability == ReliabilityPolicy.BEST_EFFORT and sub.reliability.name in _OPEN:
        doubts.append(f"Best effort publisher, but subscription is {sub.reliability.short_key}")

    if pub.durability == DurabilityPolicy.VOLATILE and sub.durability == DurabilityPolicy.TRANSIENT_LOCAL:
        errors.append("Volatile publisher and transient local subscription")
    elif pub.durability.name in _OPEN and sub.durability == DurabilityPolicy.TRANSIENT_LOCAL:
        doubts.append(f"Transient local subscription, but publisher is {pub.durability.short_key}")
    elif pub.durability == DurabilityPolicy.VOLATILE and sub.durability.name in _OPEN:
        doubts.append(f"Volatile publisher, but subscription is {sub.durability.short_key}")

    best = _BEST_AVAILABLE_NANOSECONDS
    if best not in (pub.deadline.nanoseconds, sub.deadline.nanoseconds) and _limit(sub.deadline) < _limit(pub.deadline):
        if pub.deadline.nanoseconds == 0:
            errors.append("Subscription has a deadline, but publisher does not")
        else:
            errors.append(f"Subscription deadline ({sub.deadline}) is less than publisher deadline ({pub.deadline})")

    if pub.liveliness == LivelinessPolicy.AUTOMATIC and sub.liveliness == LivelinessPolicy.MANUAL_BY_TOPIC:
        errors.append("Publisher's liveliness is automatic and subscription's is manual by topic")
    elif pub.liveliness.name in _OPEN and sub.liveliness == LivelinessPolicy.MANUAL_BY_TOPIC:
        doubts.append(f"Subscription's liveliness is manual by topic, but publisher's is {pub.liveliness.short_key}")

    lease_pub, lease_sub = pub.liveliness_lease_duration, sub.liveliness_lease_duration
    if best not in (lease_pub.nanoseconds, lease_sub.nanoseconds) and _limit(lease_sub) < _limit(lease_pub):
        if lease_pub.nanoseconds == 0:
            errors.append("Subscription has a liveliness lease duration, but publisher does not")
        else:
            errors.append(f"Subscription lease duration ({lease_sub}) is less than publisher lease duration ({lease_pub})")

    if errors:
        return QoSCompatibility.ERROR, "; ".join("ERROR: " + text for text in errors)
    if doubts:
        return QoSCompatibility.WARNING, "; ".join("WARNING: " + text for text in doubts)
    return QoSCompatibility.OK, ""
