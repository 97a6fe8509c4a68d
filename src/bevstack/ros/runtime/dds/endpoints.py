"""Raw readers and writers: CDR bytes in, CDR bytes out, samples viewed in place."""

from __future__ import annotations

import ctypes as ct
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bevstack.ros.runtime.dds import library as c
from bevstack.ros.runtime.dds.descriptor import topic_descriptor
from bevstack.ros.runtime.dds.loop import check
from bevstack.ros.runtime.dds.qos import POLICY_KINDS, dds_qos
from bevstack.ros.runtime.qos import QoSPolicyKind, QoSProfile
from bevstack.ros.runtime.wire import Buffer, MessageMeta, OnData, OnEvent, WireError, WireEvent

if TYPE_CHECKING:
    from bevstack.ros.runtime.dds.wire import DdsWire

#: Smaller samples are copied out: a copy costs less than the bookkeeping of a view, and nothing small keeps C memory alive.
_COPY_BELOW = 16384
_TAKE = 16


def _guid(library: c.Library, entity: int) -> bytes:
    guid = c.Guid()
    check(library, library.dds_get_guid(entity, ct.byref(guid)), "GUID")
    return bytes(guid.value)


class _Endpoint:
    """What readers and writers share: the entity, its GID, its events, closing once."""

    def __init__(self, wire: DdsWire, name: str) -> None:
        self._wire = wire
        self._library = wire.library
        self._name = name
        self._lock = threading.Lock()
        self.closed = False
        self.entity = 0
        self.gid = bytes(16)

    def _create_topic(self, name: str, type_name: str, service: bool) -> int:
        descriptor = topic_descriptor(type_name, service)
        code = self._library.dds_create_topic(self._wire.participant, ct.byref(descriptor), name.encode(), None, None)
        return check(self._library, code, f"topic {name} ({type_name})")

    def mark_closed(self) -> bool:
        """Waits for a write in progress (a second at most); later ones are refused. False if it was closed already."""
        with self._lock:
            was, self.closed = self.closed, True
            return not was

    def close(self) -> None:
        if not self.mark_closed():
            return
        self._wire.forget(self)
        self._wire.loop.forget(self)
        self._library.dds_delete(self.entity)

    def _events(self, on_event: OnEvent) -> None:
        """On the wire's thread: reports what changed, unless another thread is closing this end."""
        try:
            if not self.closed:
                self._report(on_event, self._changes())
        except WireError:
            if not self.closed:
                raise

    def _report(self, on_event: OnEvent, changes: int) -> None:
        raise NotImplementedError

    def _status(self, getter: Any, status: Any) -> Any:
        check(self._library, getter(self.entity, ct.byref(status)), "status")
        return status

    def _emit(self, on_event: OnEvent, kind: str, status: Any, names: dict[str, str]) -> None:
        on_event(WireEvent(kind, {name: getattr(status, field) for name, field in names.items()}))

    def _matched(self, on_event: OnEvent, getter: Any) -> None:
        names = {"total": "total", "total_change": "total_change", "current": "current", "current_change": "current_change"}
        self._emit(on_event, "matched", self._status(getter, c.MatchedStatus()), names)

    def _incompatible(self, on_event: OnEvent, getter: Any) -> None:
        status = self._status(getter, c.IncompatibleQosStatus())
        policy = POLICY_KINDS.get(status.policy, QoSPolicyKind.INVALID)
        details = {"total": status.total, "total_change": status.change, "policy": policy, "last_policy_name": policy.name}
        on_event(WireEvent("incompatible_qos", details))

    def _deadline(self, on_event: OnEvent, getter: Any) -> None:
        status = self._status(getter, c.DeadlineStatus())
        self._emit(on_event, "deadline_missed", status, {"total": "total", "total_change": "change"})

    def _count(self, on_event: OnEvent, kind: str, getter: Any) -> None:
        self._emit(on_event, kind, self._status(getter, c.CountStatus()), {"total": "total", "total_change": "change"})

    def _changes(self) -> int:
        mask = ct.c_uint32()
        self._library.dds_get_status_changes(self.entity, ct.byref(mask))
        return mask.value

    def _matched_count(self, getter: Any) -> int:
        return 0 if self.closed else max(0, getter(self.entity, None, 0))

    def _matched_keys(self, getter: Any, describe: Any) -> set[bytes]:
        """Participants at the other end."""
        handles = (ct.c_uint64 * 256)()
        count = min(256, getter(self.entity, handles, 256))
        keys = set()
        for handle in handles[: max(0, count)]:
            endpoint = describe(self.entity, handle)
            if endpoint:
                keys.add(bytes(endpoint.contents.participant_key.value))
                self._library.dds_builtintopic_free_endpoint(endpoint)
        return keys


class Writer(_Endpoint):
    """Sends CDR. `timeouts` counts samples dropped because a reliable reader did not keep up for a second."""

    def __init__(
        self,
        wire: DdsWire,
        dds_topic: str,
        type_name: str,
        qos: QoSProfile,
        *,
        service: bool = False,
        user_data: str = "",
        on_event: OnEvent | None = None,
    ) -> None:
        super().__init__(wire, dds_topic)
        self.timeouts = 0
        lib = self._library
        topic = self._create_topic(dds_topic, type_name, service)
        try:
            with dds_qos(lib, qos, writer=True, user_data=user_data) as c_qos:
                self.entity = check(lib, lib.dds_create_writer(wire.participant, topic, c_qos, None), f"writer on {dds_topic}")
        finally:
            lib.dds_delete(topic)
        self.gid = _guid(lib, self.entity)
        handle = ct.c_uint64()
        check(lib, lib.dds_get_instance_handle(self.entity, ct.byref(handle)), "instance handle")
        self.instance_handle = handle.value
        self._sertype = ct.c_void_p()
        check(lib, lib.dds_get_entity_sertype(self.entity, ct.byref(self._sertype)), "type support")
        if on_event:
            callback = on_event
            mask = c.PUBLICATION_MATCHED | c.OFFERED_INCOMPATIBLE_QOS | c.OFFERED_DEADLINE_MISSED | c.LIVELINESS_LOST
            wire.loop.on_status(self, self.entity, mask, lambda: self._events(callback))

    def _report(self, on_event: OnEvent, changes: int) -> None:
        lib = self._library
        if changes & c.PUBLICATION_MATCHED:
            self._matched(on_event, lib.dds_get_publication_matched_status)
        if changes & c.OFFERED_INCOMPATIBLE_QOS:
            self._incompatible(on_event, lib.dds_get_offered_incompatible_qos_status)
        if changes & c.OFFERED_DEADLINE_MISSED:
            self._deadline(on_event, lib.dds_get_offered_deadline_missed_status)
        if changes & c.LIVELINESS_LOST:
            self._count(on_event, "liveliness_lost", lib.dds_get_liveliness_lost_status)

    def write(self, cdr: Buffer | Sequence[Buffer]) -> None:
        """Sends the concatenation of the buffers. Blocks while reliable readers are far behind, a second at most.

        :raises WireError: closed, or not a message of this type.
        """
        parts = [cdr] if isinstance(cdr, (bytes, bytearray, memoryview)) else cdr
        arrays = [np.frombuffer(part, np.uint8) for part in parts if len(part)]
        vectors = (c.IoVector * len(arrays))(*[c.IoVector(array.ctypes.data, array.size) for array in arrays])
        size = sum(array.size for array in arrays)
        if size < 4 or arrays[0].size < 4:
            raise WireError(f"{self._name}: {size} bytes are no serialised message (no encapsulation head)")
        lib = self._library
        with self._lock:  # the type support is gone once the writer is
            if self.closed:
                raise WireError(f"{self._name} is closed")
            sample = lib.ddsi_serdata_from_ser_iov(self._sertype, c.KIND_DATA, len(arrays), vectors, size)
            if not sample:
                raise WireError(f"{self._name}: the {size} bytes are not a message of this type")
            code = lib.dds_writecdr(self.entity, sample)
        if code == c.TIMEOUT:
            self.timeouts += 1
        elif code < 0:
            raise WireError(f"{self._name}: {lib.text(code)}")

    def assert_liveliness(self) -> None:
        self._library.dds_assert_liveliness(self.entity)

    def wait_for_acknowledgements(self, timeout_ns: int) -> bool:
        """Whether all reliable readers have everything, after at most that long."""
        return bool(self._library.dds_wait_for_acks(self.entity, timeout_ns) == 0)

    def remote_readers(self) -> int:
        return self._matched_count(self._library.dds_get_matched_subscriptions)

    def reader_participants(self) -> set[bytes]:
        return self._matched_keys(self._library.dds_get_matched_subscriptions, self._library.dds_get_matched_subscription_data)


class Reader(_Endpoint):
    """Receives CDR on the wire's thread."""

    def __init__(
        self,
        wire: DdsWire,
        dds_topic: str,
        type_name: str,
        qos: QoSProfile,
        on_data: OnData,
        *,
        service: bool = False,
        user_data: str = "",
        on_event: OnEvent | None = None,
    ) -> None:
        super().__init__(wire, dds_topic)
        lib = self._library
        self._on_data = on_data
        self._publishers: dict[int, bytes] = {}
        self._samples = (ct.c_void_p * _TAKE)()
        self._infos = (c.SampleInfo * _TAKE)()
        topic = self._create_topic(dds_topic, type_name, service)
        try:
            with dds_qos(lib, qos, writer=False, user_data=user_data) as c_qos:
                self.entity = check(lib, lib.dds_create_reader(wire.participant, topic, c_qos, None), f"reader on {dds_topic}")
        finally:
            lib.dds_delete(topic)
        self.gid = _guid(lib, self.entity)
        if on_event:
            callback = on_event
            mask = c.SUBSCRIPTION_MATCHED | c.REQUESTED_INCOMPATIBLE_QOS | c.REQUESTED_DEADLINE_MISSED
            mask |= c.LIVELINESS_CHANGED | c.SAMPLE_LOST
            wire.loop.on_status(self, self.entity, mask, lambda: self._events(callback))
        wire.loop.on_data(self, self.entity, self._take)

    def _report(self, on_event: OnEvent, changes: int) -> None:
        lib = self._library
        if changes & c.SUBSCRIPTION_MATCHED:
            self._matched(on_event, lib.dds_get_subscription_matched_status)
        if changes & c.REQUESTED_INCOMPATIBLE_QOS:
            self._incompatible(on_event, lib.dds_get_requested_incompatible_qos_status)
        if changes & c.REQUESTED_DEADLINE_MISSED:
            self._deadline(on_event, lib.dds_get_requested_deadline_missed_status)
        if changes & c.LIVELINESS_CHANGED:
            status = self._status(lib.dds_get_liveliness_changed_status, c.LivelinessChangedStatus())
            names = ("alive", "not_alive", "alive_change", "not_alive_change")
            self._emit(on_event, "liveliness_changed", status, {name: name for name in names})
        if changes & c.SAMPLE_LOST:
            self._count(on_event, "message_lost", lib.dds_get_sample_lost_status)

    def _take(self) -> None:
        if self.closed:
            return
        count = self._library.dds_takecdr(self.entity, self._samples, _TAKE, self._infos, 0)
        received = time.time_ns()
        failure: Exception | None = None
        for index in range(max(0, count)):
            sample, info = self._samples[index], self._infos[index]
            if not info.valid_data:
                self._library.ddsi_serdata_unref(sample)
                continue
            meta = MessageMeta(info.source_timestamp, received, self._publisher(info.publication_handle), None)
            view = _view(self._library, sample or 0)
            try:
                self._on_data(view, meta)
            except Exception as error:  # noqa: BLE001 - the rest of the batch must still be delivered; re-raised below
                failure = error
        if failure:
            raise failure

    def _publisher(self, handle: int) -> bytes:
        known = self._publishers.get(handle)
        if known is None:
            known = bytes(16)
            endpoint = self._library.dds_get_matched_publication_data(self.entity, handle)
            if endpoint:
                known = bytes(endpoint.contents.key.value)
                self._library.dds_builtintopic_free_endpoint(endpoint)
                if len(self._publishers) > 256:
                    self._publishers.clear()
                self._publishers[handle] = known
        return known

    def remote_writers(self) -> int:
        return self._matched_count(self._library.dds_get_matched_publications)

    def writer_participants(self) -> set[bytes]:
        return self._matched_keys(self._library.dds_get_matched_publications, self._library.dds_get_matched_publication_data)


def _view(library: c.Library, sample: int) -> memoryview:
    """The bytes of a sample, whose reference passes on: a copy if small, else the sample itself until the last view is gone."""
    size = library.ddsi_serdata_size(sample)
    vector = c.IoVector()
    handle = library.ddsi_serdata_to_ser_ref(sample, 0, size, ct.byref(vector))
    library.ddsi_serdata_unref(sample)
    if vector.length < _COPY_BELOW:
        copied = ct.string_at(vector.base, vector.length)
        library.ddsi_serdata_to_ser_unref(handle, ct.byref(vector))
        return memoryview(copied)
    memory = (ct.c_uint8 * vector.length).from_address(vector.base)
    release: Callable[..., Any] = library.ddsi_serdata_to_ser_unref
    weakref.finalize(memory, release, handle, ct.byref(vector)).atexit = False
    return memoryview(memory).cast("B").toreadonly()
