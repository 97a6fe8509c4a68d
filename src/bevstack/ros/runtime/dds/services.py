"""Services in rmw_cyclonedds's way: a pair of topics whose messages start with client id and sequence number."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from bevstack.ros.runtime.dds.endpoints import Reader, Writer
from bevstack.ros.runtime.dds.names import reply_name, request_name
from bevstack.ros.runtime.hashes import type_hash
from bevstack.ros.runtime.qos import QoSProfile
from bevstack.ros.runtime.wire import Buffer, MessageMeta, NodeName, RequestId, WireError

if TYPE_CHECKING:
    from bevstack.ros.runtime.dds.wire import DdsWire

_HEAD = 4
_IDS = struct.Struct("<Qq")


def _join(cdr: Buffer, client_id: int, sequence: int) -> bytes:
    """The 16 bytes go between encapsulation head and body, whose alignment they keep."""
    if len(cdr) < _HEAD:
        raise WireError(f"{len(cdr)} bytes are no serialised message (no encapsulation head)")
    view = memoryview(cdr)
    return b"".join((view[:_HEAD], _IDS.pack(client_id, sequence), view[_HEAD:]))


def _split(raw: memoryview) -> tuple[int, int, memoryview] | None:
    if len(raw) < _HEAD + _IDS.size:
        return None
    client_id, sequence = _IDS.unpack_from(raw, _HEAD)
    return client_id, sequence, memoryview(b"".join((raw[:_HEAD], raw[_HEAD + _IDS.size :])))


class _ServiceEnd:
    def __init__(self, wire: DdsWire, service: str, type_name: str, qos: QoSProfile, node: NodeName, role: str) -> None:
        self._wire = wire
        self._node = node
        identity = wire.next_service_id()
        # rmw writes the sixteen bytes in hexadecimal with dots between them, the first one two wide
        mark = f"{role}={identity[0]:2x}.{'.'.join(f'{byte:x}' for byte in identity[1:])};"
        request, response = f"{type_name}_Request", f"{type_name}_Response"
        request_data = f"{mark}typehash={type_hash(request)};"
        response_data = f"{mark}typehash={type_hash(response)};"
        if role == "serviceid":
            self.writer = Writer(wire, reply_name(service), response, qos, service=True, user_data=response_data)
            self.reader = Reader(
                wire, request_name(service), request, qos, self._received, service=True, user_data=request_data
            )
        else:
            self.writer = Writer(wire, request_name(service), request, qos, service=True, user_data=request_data)
            self.reader = Reader(
                wire, reply_name(service), response, qos, self._received, service=True, user_data=response_data
            )
        wire.belongs_to(node, self.writer, self.reader)

    def _received(self, raw: memoryview, meta: MessageMeta) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self.reader.close()
        self.writer.close()


class ServiceServer(_ServiceEnd):
    """Hears requests and answers them."""

    def __init__(
        self,
        wire: DdsWire,
        service: str,
        type_name: str,
        qos: QoSProfile,
        on_request: Callable[[memoryview, RequestId, MessageMeta], None],
        node: NodeName,
    ) -> None:
        self._on_request = on_request
        super().__init__(wire, service, type_name, qos, node, "serviceid")

    def _received(self, raw: memoryview, meta: MessageMeta) -> None:
        parts = _split(raw)
        if parts:
            client_id, sequence, cdr = parts
            self._on_request(cdr, (client_id, sequence), meta)

    def respond(self, request_id: RequestId, cdr: Buffer) -> None:
        """:raises WireError: not a response of this type."""
        self.writer.write(_join(cdr, *request_id))

    def remote_clients(self) -> int:
        return self.reader.remote_writers()


class ServiceClient(_ServiceEnd):
    """Asks; hears only the answers to its own requests."""

    def __init__(
        self,
        wire: DdsWire,
        service: str,
        type_name: str,
        qos: QoSProfile,
        on_response: Callable[[memoryview, int, MessageMeta], None],
        node: NodeName,
    ) -> None:
        self._on_response = on_response
        self._sequences = itertools.count(1)
        super().__init__(wire, service, type_name, qos, node, "clientid")

    def _received(self, raw: memoryview, meta: MessageMeta) -> None:
        parts = _split(raw)
        if parts and parts[0] == self.writer.instance_handle:
            self._on_response(parts[2], parts[1], meta)

    def request(self, cdr: Buffer) -> int:
        """:raises WireError: not a request of this type."""
        sequence = next(self._sequences)
        self.writer.write(_join(cdr, self.writer.instance_handle, sequence))
        return sequence

    def server_is_ready(self) -> bool:
        """Both directions are matched with one and the same participant."""
        if not self.writer.remote_readers() or not self.reader.remote_writers():
            return False
        return bool(self.writer.reader_participants() & self.reader.writer_participants())
