"""QoS profiles as Cyclone DDS objects, in the way of rmw_cyclonedds, and the user data that ROS nodes exchange."""

from __future__ import annotations

import ctypes as ct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bevstack.ros.runtime.dds.library import NEVER, Library
from bevstack.ros.runtime.duration import INFINITE_NANOSECONDS, Duration
from bevstack.ros.runtime.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    LivelinessPolicy,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
)

_KEEP_LAST, _KEEP_ALL = 0, 1
_BEST_EFFORT, _RELIABLE = 0, 1
_VOLATILE, _TRANSIENT_LOCAL = 0, 1
_AUTOMATIC, _MANUAL_BY_TOPIC = 0, 2
_IGNORE_PARTICIPANT = 1
_UNLIMITED = -1
_XCDR1 = 0

#: A writer whose reader stops acknowledging is held for at most this long; then the sample is dropped and counted.
MAX_BLOCKING_NANOSECONDS = 1_000_000_000

#: DDS policy id -> rmw's kind, for reports of incompatible QoS.
POLICY_KINDS = {
    2: QoSPolicyKind.DURABILITY,
    4: QoSPolicyKind.DEADLINE,
    8: QoSPolicyKind.LIVELINESS,
    11: QoSPolicyKind.RELIABILITY,
    12: QoSPolicyKind.HISTORY,
    13: QoSPolicyKind.HISTORY,
    21: QoSPolicyKind.LIFESPAN,
}


def _span(duration: Duration) -> int | None:
    """Nanoseconds, None if not specified. The two largest values are rmw's infinite and best available."""
    value = duration.nanoseconds
    if value <= 0:
        return None
    return NEVER if value >= NEVER - 1 else value


@contextmanager
def dds_qos(library: Library, profile: QoSProfile, *, writer: bool, user_data: str) -> Iterator[Any]:
    """A `dds_qos_t*` for the length of a with block.

    "Best available" becomes what matches every peer: a writer offers the most, a reader asks for the least.
    """
    qos = library.dds_create_qos()
    try:
        library.dds_qset_writer_data_lifecycle(qos, False)  # closing a writer does not dispose what it sent
        depth = max(1, min(profile.depth, 2**31 - 1))
        if profile.history == HistoryPolicy.SYSTEM_DEFAULT and profile.depth == 0:
            depth = 1
        history = (_KEEP_ALL, _UNLIMITED) if profile.history == HistoryPolicy.KEEP_ALL else (_KEEP_LAST, depth)
        library.dds_qset_history(qos, *history)

        best_effort = profile.reliability == ReliabilityPolicy.BEST_EFFORT
        if profile.reliability == ReliabilityPolicy.BEST_AVAILABLE:
            best_effort = not writer
        library.dds_qset_reliability(qos, _BEST_EFFORT if best_effort else _RELIABLE, MAX_BLOCKING_NANOSECONDS)

        transient = profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
        if profile.durability == DurabilityPolicy.BEST_AVAILABLE:
            transient = writer
        library.dds_qset_durability(qos, _TRANSIENT_LOCAL if transient else _VOLATILE)
        if transient:  # how much Cyclone keeps for late readers
            library.dds_qset_durability_service(qos, 0, *history, _UNLIMITED, _UNLIMITED, _UNLIMITED)

        for value, put in ((profile.lifespan, library.dds_qset_lifespan), (profile.deadline, library.dds_qset_deadline)):
            span = _span(value)
            if span is not None:
                put(qos, span)
        manual = profile.liveliness == LivelinessPolicy.MANUAL_BY_TOPIC
        lease = _span(profile.liveliness_lease_duration)
        library.dds_qset_liveliness(qos, _MANUAL_BY_TOPIC if manual else _AUTOMATIC, NEVER if lease is None else lease)

        library.dds_qset_ignorelocal(qos, _IGNORE_PARTICIPANT)
        library.dds_qset_data_representation(qos, 1, (ct.c_int16 * 1)(_XCDR1))
        encoded = user_data.encode()
        library.dds_qset_userdata(qos, encoded, len(encoded))
        yield qos
    finally:
        library.dds_delete_qos(qos)


def profile_of(library: Library, qos: int | None) -> QoSProfile:
    """What a remote end announced. History and depth do not travel unless they are durable: then UNKNOWN and 0, as in rclpy."""
    kind, depth, span = ct.c_int(), ct.c_int32(), ct.c_int64()

    def duration() -> Duration:
        return Duration(nanoseconds=INFINITE_NANOSECONDS if span.value >= NEVER else span.value)

    values: dict[str, Any] = {"history": HistoryPolicy.UNKNOWN, "depth": 0}
    if library.dds_qget_history(qos, ct.byref(kind), ct.byref(depth)):
        keep_all = kind.value == _KEEP_ALL
        values["history"] = HistoryPolicy.KEEP_ALL if keep_all else HistoryPolicy.KEEP_LAST
        values["depth"] = 0 if keep_all else depth.value
    if library.dds_qget_reliability(qos, ct.byref(kind), ct.byref(span)):
        best_effort = kind.value == _BEST_EFFORT
        values["reliability"] = ReliabilityPolicy.BEST_EFFORT if best_effort else ReliabilityPolicy.RELIABLE
    if library.dds_qget_durability(qos, ct.byref(kind)):
        volatile = kind.value == _VOLATILE
        values["durability"] = DurabilityPolicy.VOLATILE if volatile else DurabilityPolicy.TRANSIENT_LOCAL
    if library.dds_qget_deadline(qos, ct.byref(span)):
        values["deadline"] = duration()
    if library.dds_qget_lifespan(qos, ct.byref(span)):
        values["lifespan"] = duration()
    if library.dds_qget_liveliness(qos, ct.byref(kind), ct.byref(span)):
        automatic = kind.value == _AUTOMATIC
        values["liveliness"] = LivelinessPolicy.AUTOMATIC if automatic else LivelinessPolicy.MANUAL_BY_TOPIC
        values["liveliness_lease_duration"] = duration()
    return QoSProfile(**values)


def user_data(library: Library, qos: int | None) -> dict[str, str]:
    """The `key=value;` pairs in a `dds_qos_t*`, those that are text."""
    if not qos:
        return {}
    data, size = ct.c_void_p(), ct.c_size_t()
    if not library.dds_qget_userdata(qos, ct.byref(data), ct.byref(size)) or not data.value:
        return {}
    raw = ct.string_at(data.value, size.value)
    library.dds_free(data)
    pairs = (part.partition("=") for part in raw.decode(errors="replace").split(";"))
    return {key: value for key, equals, value in pairs if equals}
