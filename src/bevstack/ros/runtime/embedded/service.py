"""Services: answer requests of this process by reference, of other processes over the wire."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable
from typing import Any

from ..messages import type_name
from ..qos import QoSProfile
from ..serialization import SerializationError, deserialize_message, serialize_message
from ..wire import MessageMeta, RequestId, ServiceServerHandle
from .callback_groups import CallbackGroup
from .entity import Call, Entity
from .exceptions import InvalidHandle
from .graph import EndpointContext
from .logging import get_logger


class RequestHeader:
    """Says where the answer to one request goes."""

    __slots__ = ("_reply",)

    def __init__(self, reply: Callable[[Any], None]) -> None:
        self._reply = reply


class Service(Entity):
    """Answers requests; made by `Node.create_service`."""

    def __init__(
        self,
        service_impl: EndpointContext,
        srv_type: Any,
        srv_name: str,
        callback: Callable[[Any, Any], Any],
        callback_group: CallbackGroup,
        qos_profile: QoSProfile,
    ) -> None:
        self._impl = service_impl
        self._owner = service_impl.node._owner
        self._full_name = service_impl.full_name
        self._type_name = type_name(srv_type)
        self._logger_name = service_impl.node.get_logger().name
        self.srv_type = srv_type
        self.srv_name = srv_name
        self.callback = callback
        self.callback_group = callback_group
        self.qos_profile = qos_profile
        self._queue: deque[tuple[Any, RequestHeader]] = deque()
        self._closed = False
        self._server: ServiceServerHandle = service_impl.hub.wire.create_service_server(
            self._full_name, self._type_name, qos_profile, self._from_wire, node=service_impl.node_name
        )
        service_impl.hub.add_service(self)

    def send_response(self, response: Any, header: RequestHeader) -> None:
        """Answer the request that `header` belongs to. Raises TypeError for a response of another type."""
        if not isinstance(response, self.srv_type.Response):
            raise TypeError(f"Expected {self.srv_type.Response}, got {type(response)}")
        if self._closed:
            raise InvalidHandle("cannot use Destroyable because destruction was requested")
        header._reply(response)

    @property
    def service_name(self) -> str:
        """Fully qualified name."""
        return self._full_name

    @property
    def handle(self) -> Service:
        """The service itself: the embedded runtime has no lower layer."""
        return self

    def destroy(self) -> None:
        """Leave the graph."""
        self._detach()

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *unused: object) -> None:
        self.destroy()

    def _detach(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._impl.hub.remove_service(self)
        self._server.close()
        self._queue.clear()

    def _deliver(self, request: Any, header: RequestHeader) -> None:
        self._queue.append((request, header))
        self._wake()

    def _from_wire(self, cdr: memoryview, request_id: RequestId, meta: MessageMeta) -> None:
        def reply(response: Any) -> None:
            self._server.respond(request_id, serialize_message(response))

        if not self._closed:
            self._deliver(cdr, RequestHeader(reply))

    def _pending(self) -> bool:
        return bool(self._queue)

    def _take(self) -> Call | None:
        try:
            return self._execute, self._queue.popleft()
        except IndexError:
            return None

    def _execute(self, request: Any, header: RequestHeader) -> Any:
        if self._closed:
            return None
        if isinstance(request, memoryview):
            try:
                request = deserialize_message(request, self.srv_type.Request)
            except SerializationError as error:
                get_logger(self._logger_name).error(f"request for '{self._full_name}' dropped: {error}")
                return None
        response = self.callback(request, self.srv_type.Response())
        if inspect.iscoroutine(response):
            return self._answer_later(response, header)
        if not self._closed:
            self.send_response(response, header)
        return None

    async def _answer_later(self, coroutine: Any, header: RequestHeader) -> None:
        response = await coroutine
        if not self._closed:
            self.send_response(response, header)
