"""Cyclone DDS's C library, as the cyclonedds wheel brings it, bound through ctypes.

The wheel's Python layer is not used: it cannot create a topic without XTypes information, and it holds the interpreter lock
while it copies. A ctypes call gives the lock away. Structures follow the public headers of Cyclone DDS 11 (dds.h,
dds_public_impl.h, dds_public_status.h), so exactly that version is accepted.
"""

from __future__ import annotations

import ctypes as ct
import importlib.metadata
import importlib.util
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from bevstack.errors import BevstackError

#: The structures below are those of this version.
REQUIRED_VERSION = "11.0.1"

Entity = ct.c_int32
Pointer = ct.c_void_p
NEVER = 2**63 - 1  # DDS_INFINITY, in nanoseconds

# Return codes that are handled by name (dds_retcode.h).
TIMEOUT = -10
PRECONDITION_NOT_MET = -4

# Pseudo handles of the built-in topics (dds_public_impl.h).
_PSEUDO = 0x7FFF0000
BUILTIN_PARTICIPANT, BUILTIN_PUBLICATION, BUILTIN_SUBSCRIPTION = _PSEUDO + 1, _PSEUDO + 3, _PSEUDO + 4

ANY_STATE = 0x7F
ALIVE = 16

# Status bits (dds_public_status.h).
OFFERED_DEADLINE_MISSED = 1 << 1
REQUESTED_DEADLINE_MISSED = 1 << 2
OFFERED_INCOMPATIBLE_QOS = 1 << 3
REQUESTED_INCOMPATIBLE_QOS = 1 << 4
SAMPLE_LOST = 1 << 5
LIVELINESS_LOST = 1 << 9
LIVELINESS_CHANGED = 1 << 10
PUBLICATION_MATCHED = 1 << 11
SUBSCRIPTION_MATCHED = 1 << 12

#: ddsi_serdata_kind: a whole sample, not only its key.
KIND_DATA = 2


class LibraryUnavailable(BevstackError):
    """Why the wire cannot be used here, and what to do."""


class IoVector(ct.Structure):
    _fields_ = (("base", Pointer), ("length", ct.c_size_t))


class Blob(ct.Structure):
    _fields_ = (("data", Pointer), ("size", ct.c_uint32))


class TopicDescriptor(ct.Structure):
    """dds_topic_descriptor_t: the C description of a type."""

    _fields_ = (
        ("size", ct.c_uint32),
        ("align", ct.c_uint32),
        ("flags", ct.c_uint32),
        ("key_count", ct.c_uint32),
        ("type_name", ct.c_char_p),
        ("keys", Pointer),
        ("op_count", ct.c_uint32),
        ("ops", Pointer),
        ("meta", Pointer),
        ("type_information", Blob),
        ("type_mapping", Blob),
        ("restrict_data_representation", ct.c_uint32),
    )


class SampleInfo(ct.Structure):
    _fields_ = (
        ("sample_state", ct.c_uint32),
        ("view_state", ct.c_uint32),
        ("instance_state", ct.c_uint32),
        ("valid_data", ct.c_bool),
        ("source_timestamp", ct.c_int64),
        ("instance_handle", ct.c_uint64),
        ("publication_handle", ct.c_uint64),
        ("counts", ct.c_uint32 * 5),
    )


class Guid(ct.Structure):
    _fields_ = (("value", ct.c_uint8 * 16),)


class BuiltinParticipant(ct.Structure):
    _fields_ = (("key", Guid), ("qos", Pointer))


class BuiltinEndpoint(ct.Structure):
    _fields_ = (
        ("key", Guid),
        ("participant_key", Guid),
        ("participant_handle", ct.c_uint64),
        ("topic_name", ct.c_char_p),
        ("type_name", ct.c_char_p),
        ("qos", Pointer),
    )


class CountStatus(ct.Structure):
    """Sample lost, liveliness lost."""

    _fields_ = (("total", ct.c_uint32), ("change", ct.c_int32))


class DeadlineStatus(ct.Structure):
    _fields_ = (("total", ct.c_uint32), ("change", ct.c_int32), ("handle", ct.c_uint64))


class IncompatibleQosStatus(ct.Structure):
    _fields_ = (("total", ct.c_uint32), ("change", ct.c_int32), ("policy", ct.c_uint32))


class LivelinessChangedStatus(ct.Structure):
    _fields_ = (
        ("alive", ct.c_uint32),
        ("not_alive", ct.c_uint32),
        ("alive_change", ct.c_int32),
        ("not_alive_change", ct.c_int32),
        ("handle", ct.c_uint64),
    )


class MatchedStatus(ct.Structure):
    _fields_ = (
        ("total", ct.c_uint32),
        ("total_change", ct.c_int32),
        ("current", ct.c_uint32),
        ("current_change", ct.c_int32),
        ("handle", ct.c_uint64),
    )


#: name -> (result, arguments): every symbol that the wire needs.
SYMBOLS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "dds_create_domain": (Entity, (ct.c_uint32, ct.c_char_p)),
    "dds_create_participant": (Entity, (ct.c_uint32, Pointer, Pointer)),
    "dds_create_topic": (Entity, (Entity, ct.POINTER(TopicDescriptor), ct.c_char_p, Pointer, Pointer)),
    "dds_create_writer": (Entity, (Entity, Entity, Pointer, Pointer)),
    "dds_create_reader": (Entity, (Entity, Entity, Pointer, Pointer)),
    "dds_delete": (ct.c_int32, (Entity,)),
    "dds_strretcode": (ct.c_char_p, (ct.c_int32,)),
    "dds_get_guid": (ct.c_int32, (Entity, ct.POINTER(Guid))),
    "dds_get_instance_handle": (ct.c_int32, (Entity, ct.POINTER(ct.c_uint64))),
    "dds_get_entity_sertype": (ct.c_int32, (Entity, ct.POINTER(Pointer))),
    "dds_get_typeinfo": (ct.c_int32, (Entity, ct.POINTER(Pointer))),
    "ddsi_serdata_from_ser_iov": (Pointer, (Pointer, ct.c_int, ct.c_size_t, ct.POINTER(IoVector), ct.c_size_t)),
    "ddsi_serdata_size": (ct.c_uint32, (Pointer,)),
    "ddsi_serdata_to_ser_ref": (Pointer, (Pointer, ct.c_size_t, ct.c_size_t, ct.POINTER(IoVector))),
    "ddsi_serdata_to_ser_unref": (None, (Pointer, ct.POINTER(IoVector))),
    "ddsi_serdata_unref": (None, (Pointer,)),
    "dds_writecdr": (ct.c_int32, (Entity, Pointer)),
    "dds_takecdr": (ct.c_int32, (Entity, ct.POINTER(Pointer), ct.c_uint32, ct.POINTER(SampleInfo), ct.c_uint32)),
    "dds_take": (ct.c_int32, (Entity, ct.POINTER(Pointer), ct.POINTER(SampleInfo), ct.c_size_t, ct.c_uint32)),
    "dds_return_loan": (ct.c_int32, (Entity, ct.POINTER(Pointer), ct.c_int32)),
    "dds_create_waitset": (Entity, (Entity,)),
    "dds_create_readcondition": (Entity, (Entity, ct.c_uint32)),
    "dds_create_guardcondition": (Entity, (Entity,)),
    "dds_set_guardcondition": (ct.c_int32, (Entity, ct.c_bool)),
    "dds_set_status_mask": (ct.c_int32, (Entity, ct.c_uint32)),
    "dds_get_status_changes": (ct.c_int32, (Entity, ct.POINTER(ct.c_uint32))),
    "dds_waitset_attach": (ct.c_int32, (Entity, Entity, ct.c_int64)),
    "dds_waitset_detach": (ct.c_int32, (Entity, Entity)),
    "dds_waitset_wait": (ct.c_int32, (Entity, ct.POINTER(ct.c_int64), ct.c_size_t, ct.c_int64)),
    "dds_get_matched_subscriptions": (ct.c_int32, (Entity, ct.POINTER(ct.c_uint64), ct.c_size_t)),
    "dds_get_matched_publications": (ct.c_int32, (Entity, ct.POINTER(ct.c_uint64), ct.c_size_t)),
    "dds_get_matched_subscription_data": (ct.POINTER(BuiltinEndpoint), (Entity, ct.c_uint64)),
    "dds_get_matched_publication_data": (ct.POINTER(BuiltinEndpoint), (Entity, ct.c_uint64)),
    "dds_builtintopic_free_endpoint": (None, (ct.POINTER(BuiltinEndpoint),)),
    "dds_builtintopic_get_endpoint_type_info": (ct.c_int32, (ct.POINTER(BuiltinEndpoint), ct.POINTER(Pointer))),
    "dds_get_publication_matched_status": (ct.c_int32, (Entity, ct.POINTER(MatchedStatus))),
    "dds_get_subscription_matched_status": (ct.c_int32, (Entity, ct.POINTER(MatchedStatus))),
    "dds_get_offered_incompatible_qos_status": (ct.c_int32, (Entity, ct.POINTER(IncompatibleQosStatus))),
    "dds_get_requested_incompatible_qos_status": (ct.c_int32, (Entity, ct.POINTER(IncompatibleQosStatus))),
    "dds_get_offered_deadline_missed_status": (ct.c_int32, (Entity, ct.POINTER(DeadlineStatus))),
    "dds_get_requested_deadline_missed_status": (ct.c_int32, (Entity, ct.POINTER(DeadlineStatus))),
    "dds_get_sample_lost_status": (ct.c_int32, (Entity, ct.POINTER(CountStatus))),
    "dds_get_liveliness_lost_status": (ct.c_int32, (Entity, ct.POINTER(CountStatus))),
    "dds_get_liveliness_changed_status": (ct.c_int32, (Entity, ct.POINTER(LivelinessChangedStatus))),
    "dds_assert_liveliness": (ct.c_int32, (Entity,)),
    "dds_wait_for_acks": (ct.c_int32, (Entity, ct.c_int64)),
    "dds_create_qos": (Pointer, ()),
    "dds_delete_qos": (None, (Pointer,)),
    "dds_free": (None, (Pointer,)),
    "dds_qset_history": (None, (Pointer, ct.c_int, ct.c_int32)),
    "dds_qset_reliability": (None, (Pointer, ct.c_int, ct.c_int64)),
    "dds_qset_durability": (None, (Pointer, ct.c_int)),
    "dds_qset_durability_service": (
        None,
        (Pointer, ct.c_int64, ct.c_int, ct.c_int32, ct.c_int32, ct.c_int32, ct.c_int32),
    ),
    "dds_qset_lifespan": (None, (Pointer, ct.c_int64)),
    "dds_qset_deadline": (None, (Pointer, ct.c_int64)),
    "dds_qset_liveliness": (None, (Pointer, ct.c_int, ct.c_int64)),
    "dds_qset_writer_data_lifecycle": (None, (Pointer, ct.c_bool)),
    "dds_qset_ignorelocal": (None, (Pointer, ct.c_int)),
    "dds_qset_userdata": (None, (Pointer, ct.c_char_p, ct.c_size_t)),
    "dds_qget_history": (ct.c_bool, (Pointer, ct.POINTER(ct.c_int), ct.POINTER(ct.c_int32))),
    "dds_qget_reliability": (ct.c_bool, (Pointer, ct.POINTER(ct.c_int), ct.POINTER(ct.c_int64))),
    "dds_qget_durability": (ct.c_bool, (Pointer, ct.POINTER(ct.c_int))),
    "dds_qget_lifespan": (ct.c_bool, (Pointer, ct.POINTER(ct.c_int64))),
    "dds_qget_deadline": (ct.c_bool, (Pointer, ct.POINTER(ct.c_int64))),
    "dds_qget_liveliness": (ct.c_bool, (Pointer, ct.POINTER(ct.c_int), ct.POINTER(ct.c_int64))),
    "dds_qget_userdata": (ct.c_bool, (Pointer, ct.POINTER(Pointer), ct.POINTER(ct.c_size_t))),
    "dds_qset_data_representation": (None, (Pointer, ct.c_uint32, ct.POINTER(ct.c_int16))),
}


class Library:
    """The loaded library: one attribute per symbol, with its prototype set.

    :raises LibraryUnavailable: the file cannot be loaded, or lacks a symbol.
    """

    def __init__(self, path: Path, symbols: Iterable[str] = tuple(SYMBOLS)) -> None:
        self.path = path
        try:
            self._dll = ct.CDLL(str(path))
        except OSError as error:
            raise LibraryUnavailable(
                f"{path.name} cannot be loaded ({error}); reinstall it: pip install cyclonedds=={REQUIRED_VERSION}"
            ) from error
        missing = [name for name in symbols if not hasattr(self._dll, name)]
        if missing:
            raise LibraryUnavailable(
                f"{path.name} lacks {', '.join(missing[:3])}{' and more' if len(missing) > 3 else ''}; "
                f"install the version this was written for: pip install cyclonedds=={REQUIRED_VERSION}"
            )
        for name in symbols:
            function = getattr(self._dll, name)
            function.restype, function.argtypes = SYMBOLS[name]
            setattr(self, name, function)

    def __getattr__(self, name: str) -> Any:  # only for the type checker: all symbols are instance attributes
        raise AttributeError(f"{self.path.name} was loaded without {name}")

    def text(self, code: int) -> str:
        """What a negative return code means."""
        return (self.dds_strretcode(code) or b"").decode() or f"error {code}"


def find_library() -> Path:
    """The shared library inside the cyclonedds wheel (never imported), or BEVSTACK_DDS_LIBRARY.

    :raises LibraryUnavailable: not installed, or another version.
    """
    given = os.environ.get("BEVSTACK_DDS_LIBRARY")
    if given:
        if not Path(given).is_file():
            raise LibraryUnavailable(f"BEVSTACK_DDS_LIBRARY={given} is not a file; unset it or correct the path")
        return Path(given)
    remedy = f"pip install 'bevstack[embedded]' (cyclonedds=={REQUIRED_VERSION}, Linux x86_64)"
    try:
        version = importlib.metadata.version("cyclonedds")
    except importlib.metadata.PackageNotFoundError:
        raise LibraryUnavailable(f"cyclonedds is not installed: {remedy}") from None
    if version != REQUIRED_VERSION:
        raise LibraryUnavailable(f"cyclonedds {version} is installed, {REQUIRED_VERSION} is needed: {remedy}")
    spec = importlib.util.find_spec("cyclonedds")
    for folder in (spec.submodule_search_locations if spec else None) or ():
        for candidate in sorted(Path(folder).parent.glob("cyclonedds.libs/libddsc*.so*")):
            return candidate
    raise LibraryUnavailable(f"the cyclonedds package has no libddsc beside it (not the wheel?): {remedy}")


@cache
def _load(path: Path) -> Library:
    return Library(path)


def load_library() -> Library:
    """:raises LibraryUnavailable: see `find_library` and `Library`."""
    return _load(find_library())
