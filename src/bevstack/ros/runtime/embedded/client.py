"""Clients of services, in this process or on the wire."""

from __future__ import annotations

import threading
import time
from collections import deque
from functools import partial
from typing import Any

from ..messages import type_name
from ..qos import QoSProfile
from ..serialization import SerializationError, deserialize_message, serialize_message
from ..wire import MessageMeta, ServiceClientHandle
from .callback_groups import CallbackGroup
from .context import Context
from .entity import Call, Entity
from .exceptions import InvalidHandle
from .graph import EndpointContext
from .logging import get_logger
from .service import RequestHeader
from .task import Future

#: The graph of other processes is looked at this often while waiting, should a notice be missed.
_RECHECK_SECONDS = 0.25


class Client(Entity):
    """Calls a service; made by `Node.create_client`."""

    def __init__(
        self,
        context: Context,
        client_impl: EndpointContext,
        srv_type: Any,
        srv_name: str,
        qos_profile: QoSProfile,
        callback_group: CallbackGroup,
    ) -> None:
        self.context = context
        self._impl = client_impl
        self._owner = client_impl.node._owner
        self._full_name = client_impl.full_name
        self._type_name = type_name(srv_type)
        self._logger_name = client_impl.node.get_logger().name
        self.srv_type = srv_type
        self.srv_name = srv_name
        self.qos_profile = qos_profile
        self.callback_group = callback_group
        self._lock = threading.RLock()
        self._sequence = 0
        self._pending_requests: dict[int, Future] = {}
        self._wire_sequences: dict[int, int] = {}
        self._queue: deque[tuple[int, Any]] = deque()
        self._closed = False
        self._client: ServiceClientHandle = client_impl.hub.wire.create_service_client(
            self._full_name, self._type_name, qos_profile, self._from_wire, node=client_impl.node_name
        )
        client_impl.hub.add_client(self)

    def call(self, request: Any, timeout_sec: float | None = None) -> Any:
        """Call and wait for the answer; None if it does not come within `timeout_sec`.

        Another thread must spin the node: never call this in a callback of a single-threaded executor.
        """
        done = threading.Event()
        future = self.call_async(request)
        future._when_done(lambda _: done.set())
        if not done.wait(timeout_sec):
            self.remove_pending_request(future)
            return None
        return future.result()

    def call_async(self, request: Any) -> Future:
        """Call; the future holds the answer. Raises TypeError for a request of another type, `InvalidHandle` when destroyed."""
        if not isinstance(request, self.srv_type.Request):
            raise TypeError(f"Expected {self.srv_type.Request}, got {type(request)}")
        if self._closed:
            raise InvalidHandle("cannot use Destroyable because destruction was requested")
        future = Future()
        service = self._impl.hub.find_service(self._full_name, self._type_name)
        with self._lock:
            self._sequence += 1
            sequence = self._sequence
            self._pending_requests[sequence] = future
            if service is None and self._client.server_is_ready():
                self._wire_sequences[self._client.request(serialize_message(request))] = sequence
        future._when_done(self.remove_pending_request)
        if service is not None:
            service._deliver(request, RequestHeader(partial(self._deliver, sequence)))
        return future

    def get_pending_request(self, sequence_number: int) -> Future:
        """The future of a request. Raises KeyError when there is none."""
        with self._lock:
            return self._pending_requests[sequence_number]

    def remove_pending_request(self, future: Future) -> None:
        """Forget a request; its answer, should it come, is dropped."""
        with self._lock:
            for sequence, other in list(self._pending_requests.items()):
                if other is future:
                    del self._pending_requests[sequence]
                    self._wire_sequences = {k: v for k, v in self._wire_sequences.items() if v != sequence}

    def service_is_ready(self) -> bool:
        """True if somebody answers."""
        if self._impl.hub.find_service(self._full_name, self._type_name) is not None:
            return True
        return self._client.server_is_ready()

    def wait_for_service(self, timeout_sec: float | None = None) -> bool:
        """Wait until somebody answers; False if nobody does within `timeout_sec` or the context ends."""
        limit = None if timeout_sec is None or timeout_sec < 0 else time.monotonic() + timeout_sec
        while self.context.ok() and not self._closed:
            if self.service_is_ready():
                return True
            left = _RECHECK_SECONDS if limit is None else min(limit - time.monotonic(), _RECHECK_SECONDS)
            if left <= 0:
                return False
            self._impl.hub.wait_for_change(left)
        return False

    @property
    def service_name(self) -> str:
        """Fully qualified name."""
        return self._full_name

    @property
    def handle(self) -> Client:
        """The client itself: the embedded runtime has no lower layer."""
        return self

    def destroy(self) -> None:
        """Leave the graph; answers that are still to come are dropped."""
        self._detach()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *unused: object) -> None:
        self.destroy()

    def _detach(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._impl.hub.remove_client(self)
        self._client.close()
        self._queue.clear()

    def _deliver(self, sequence: int, response: Any) -> None:
        if not self._closed:
            self._queue.append((sequence, response))
            self._wake()

    def _from_wire(self, cdr: memoryview, wire_sequence: int, meta: MessageMeta) -> None:
        with self._lock:
            sequence = self._wire_sequences.pop(wire_sequence, None)
        if sequence is not None:
            self._deliver(sequence, cdr)

    def _pending(self) -> bool:
        return bool(self._queue)

    def _take(self) -> Call | None:
        try:
            return self._execute, self._queue.popleft()
        except IndexError:
            return None

    def _execute(self, sequence: int, response: Any) -> None:
        with self._lock:
            future = self._pending_requests.get(sequence)
        if future is None:
            return
        if isinstance(response, memoryview):
            try:
                response = deserialize_message(response, self.srv_type.Response)
            except SerializationError as error:
                get_logger(self._logger_name).error(f"answer of '{self._full_name}' dropped: {error}")
                future.set_exception(error)
                return
        future._set_executor(self._owner.executor)
        future.set_result(response)
