"""Type hashes (REP-2011): what Iron and later send along with each endpoint and write into bags."""

from __future__ import annotations

from functools import cache

from bevstack.ros.runtime.typestore import UnknownTypeError, typestore, unknown_type


@cache
def type_hash(name: str) -> str:
    """`RIHS01_<sha256>` of a message or service type, e.g. "sensor_msgs/msg/Image", "std_srvs/srv/Trigger".

    :raises UnknownTypeError: no such type.
    """
    store = typestore()
    if name not in store.fielddefs:
        raise UnknownTypeError(unknown_type(name, store))
    return store.hash_rihs01(name)


def type_hash_bytes(name: str) -> bytes:
    """The 32 bytes of `type_hash`."""
    return bytes.fromhex(type_hash(name).removeprefix("RIHS01_"))
