"""Serves the page: an aiohttp server on a thread of its own, and one websocket per browser.

A browser takes one view at a time and asks for the next by acknowledging it; what changed in between is never queued. So a
slow browser sees fewer instants, always the newest, and costs the pipeline nothing.

A view is one binary message: u32 (little endian) length of the JSON, the JSON, then the pictures, whose places the JSON gives.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import json
import logging
import math
import struct
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bevstack.errors import BevstackError

from .errors import ViewerError
from .images import ImageCache
from .state import PageState, hello_json

if TYPE_CHECKING:
    from aiohttp import web

STATIC = Path(__file__).parent / "static"
# Seconds between two views to one browser, and the longest silence (ages and rates must go on when nothing arrives).
MIN_INTERVAL = 0.04
MAX_INTERVAL = 1.0
# Browsers send acknowledgements and a pause flag: anything larger is not ours.
MAX_MESSAGE = 4096
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class PageServer:
    """The page over HTTP.

    Args:
        state: what to show.
        host: address to bind; loopback unless others shall see the cameras.
        port: 0 takes any free port.
        log: called with one line when something odd happens.
        on_clients: called with the number of open websockets whenever it changes (on the server's thread).
    """

    def __init__(
        self,
        state: PageState,
        *,
        host: str = "127.0.0.1",
        port: int = 8080,
        log: Callable[[str], object] | None = None,
        on_clients: Callable[[int], None] | None = None,
    ) -> None:
        if not 0 <= port <= 65535:
            raise ViewerError(f"port {port} does not exist: take one from 1 to 65535, or 0 for any free one")
        self.state = state
        self.host = host
        self.port = port
        self.sent_views = 0
        self._log = log or logging.getLogger(__name__).warning
        self._on_clients = on_clients
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._clients: set[_Client] = set()
        self._notified = False
        self._cache = ImageCache()
        self._workers = ThreadPoolExecutor(1, thread_name_prefix="page-images")
        state.listen(self._notify)

    @property
    def url(self) -> str:
        host = "127.0.0.1" if self.host in ("0.0.0.0", "") else "[::1]" if self.host == "::" else self.host
        return f"http://{host}:{self.port}/"

    @property
    def clients(self) -> int:
        """Open websockets."""
        return len(self._clients)

    def learned_cameras(self) -> set[str]:
        """Cameras whose learned streams some browser looks at."""
        return {client.learned for client in list(self._clients) if client.learned and not client.paused}

    def start(self) -> None:
        """Binds and returns when the page can be loaded.

        Raises:
            ViewerError: the port is taken or not allowed, the address is not ours, or aiohttp is missing.
        """
        try:
            import aiohttp  # noqa: F401
        except ImportError as error:
            raise ViewerError(f"the page needs aiohttp ({error}): pip install 'bevstack[view]'") from None
        ready: Future[int] = Future()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="page", daemon=True)
        self._thread.start()
        self.port = ready.result()

    def close(self) -> None:
        """Ends all connections and the thread. May be called twice."""
        if self._loop is not None and self._stop is not None and self._thread is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(10)
        self._workers.shutdown(wait=False, cancel_futures=True)

    # -- on the server's thread ------------------------------------------------------------------------------------------

    def _run(self, ready: Future[int]) -> None:
        try:
            asyncio.run(self._serve(ready))
        except OSError as error:
            ready.set_exception(_explain(error, self.host, self.port)) if not ready.done() else self._log(str(error))
        except BaseException as error:
            # The starter waits for the result: it must see any failure.
            if ready.done():
                raise
            ready.set_exception(error)

    async def _serve(self, ready: Future[int]) -> None:
        from aiohttp import web

        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()

        @web.middleware
        async def guard(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            return await self._guard(request, handler)

        app = web.Application(middlewares=[guard])
        app.router.add_get("/", self._index)
        app.router.add_get("/ws", self._websocket)
        app.router.add_get("/api/state", self._api_state)
        app.router.add_get("/api/camera/{name}", self._api_camera)
        app.router.add_get("/healthz", self._health)
        app.router.add_static("/static", STATIC)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            site = web.TCPSite(runner, self.host, self.port)
            await site.start()
            ready.set_result(int(runner.addresses[0][1]))
            await self._stop.wait()
            for client in list(self._clients):
                await client.socket.close()
        finally:
            await runner.cleanup()

    def _notify(self) -> None:
        if self._notified or not self._clients or self._loop is None:
            return
        self._notified = True
        try:
            self._loop.call_soon_threadsafe(self._wake)
        except RuntimeError:  # the loop has just been closed
            self._notified = False

    def _wake(self) -> None:
        self._notified = False
        for client in self._clients:
            client.changed.set()

    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """No foreign page may read the cameras: the name asked for must be ours, and so must a websocket's origin."""
        from aiohttp import web

        host = (request.url.host or "").strip("[]")
        if _is_loopback(self.host) and not _is_loopback(host):
            raise web.HTTPForbidden(text=f"this page is served to this machine only, not as '{host}'\n")
        origin = request.headers.get("Origin")
        if origin is not None and origin.split("://", 1)[-1] != request.host:
            raise web.HTTPForbidden(text="this page answers only to itself\n")
        response = await handler(request)
        if not response.prepared:
            response.headers.update(_HEADERS)
        return response

    async def _index(self, request: web.Request) -> web.StreamResponse:
        from aiohttp import web

        return web.FileResponse(STATIC / "index.html")

    async def _health(self, request: web.Request) -> web.StreamResponse:
        from aiohttp import web

        return web.json_response({"status": "ok", "version": self.state.version, "clients": self.clients})

    async def _api_state(self, request: web.Request) -> web.StreamResponse:
        from aiohttp import web

        return web.json_response({**self.state.summary(), "clients": self.clients})

    async def _api_camera(self, request: web.Request) -> web.StreamResponse:
        from aiohttp import web

        name = request.match_info["name"].removesuffix(".jpg")
        picture = self.state.view().pictures.get(name)
        data = None if picture is None else await self._in_worker(self._cache.get, name, picture)
        if data is None:
            raise web.HTTPNotFound(text=f"no image of a camera '{name}' yet\n")
        return web.Response(body=data, content_type=_mime(data))

    async def _in_worker(self, function: Callable[..., Any], *args: Any) -> Any:
        assert self._loop is not None
        return await self._loop.run_in_executor(self._workers, function, *args)

    async def _websocket(self, request: web.Request) -> web.StreamResponse:
        from aiohttp import WSMsgType, web

        socket = web.WebSocketResponse(heartbeat=15.0, max_msg_size=MAX_MESSAGE, compress=False)
        await socket.prepare(request)
        client = _Client(socket)
        self._clients.add(client)
        self._tell_clients()
        sender = asyncio.create_task(self._send_views(client))
        try:
            async for message in socket:
                if message.type == WSMsgType.TEXT:
                    self._receive(client, message.data)
                else:
                    self._odd(client, f"a {message.type.name.lower()} message")
        finally:
            sender.cancel()
            self._clients.discard(client)
            self._tell_clients()
        return socket

    def _tell_clients(self) -> None:
        if self._on_clients is not None:
            self._on_clients(len(self._clients))

    def _receive(self, client: _Client, text: str) -> None:
        try:
            message = json.loads(text)
            kind = message["type"]
            if kind == "ack":
                client.acknowledged = max(client.acknowledged, int(message["seq"]))
            elif kind == "pause":
                client.paused = bool(message["value"])
            elif kind == "learned":
                client.learned, client.learned_stamp = str(message["camera"])[:200], None
            else:
                raise ValueError(f"unknown type {kind!r}")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            self._odd(client, f"{error.__class__.__name__}: {str(error)[:80]}")
        client.changed.set()

    def _odd(self, client: _Client, what: str) -> None:
        client.odd += 1
        if client.odd == 1:
            self._log(f"page: ignored a message from a browser ({what}); more of them are ignored silently")

    async def _send_views(self, client: _Client) -> None:
        socket, loop = client.socket, asyncio.get_running_loop()
        try:
            await socket.send_str(json.dumps(hello_json()))
            version = -1
            while True:
                began = loop.time()
                client.changed.clear()
                ready = not client.paused and client.acknowledged >= client.sent
                if ready and (version != self.state.version or began - client.last_view >= MAX_INTERVAL):
                    version, message = await self._in_worker(self._message, client)
                    client.last_view = began
                    client.sent += 1
                    await socket.send_bytes(message)
                    self.sent_views += 1
                await asyncio.sleep(max(0.0, MIN_INTERVAL - (loop.time() - began)))
                try:
                    await asyncio.wait_for(client.changed.wait(), MAX_INTERVAL)
                except asyncio.TimeoutError:
                    continue
        except ConnectionError:
            return  # the browser went away: its reader ends the connection
        except BevstackError as error:
            self._log(f"page: {error}")

    def _message(self, client: _Client) -> tuple[int, bytes]:
        """(version, message) of the newest view, with only those pictures and lines that this browser does not have."""
        view = self.state.view(logs_after=client.logs, history_after=client.history, heat_after=client.heat)
        blobs: list[bytes] = []
        at = 0
        for camera in view.data["cameras"]:
            name = camera["name"]
            picture = view.pictures.get(name)
            if picture is None or client.pictures.get(name) == picture.stamp:
                continue
            data = self._cache.get(name, picture)
            client.pictures[name] = picture.stamp
            if data is None:
                camera["broken"] = True
                continue
            camera["image"] = {"at": at, "length": len(data), "mime": _mime(data)}
            blobs.append(data)
            at += len(data)
        triple = self.state.learned.triple(client.learned) if client.learned else None
        if triple is not None and triple.stamp != client.learned_stamp:
            client.learned_stamp = triple.stamp
            quality = round(triple.psnr, 2) if math.isfinite(triple.psnr) else None
            places: dict[str, Any] = {"camera": client.learned, "stamp": str(triple.stamp), "psnr": quality}
            for kind in ("original", "decoded", "difference"):
                data = getattr(triple, kind)
                places[kind] = {"at": at, "length": len(data), "mime": "image/jpeg"}
                blobs.append(data)
                at += len(data)
            view.data["learned_pictures"] = places
        client.logs, client.history = view.data["log_count"], view.data["history_count"]
        client.heat = view.data["heat"]["count"] if view.data["heat"] else 0
        head = json.dumps({"type": "view", "seq": client.sent + 1, **view.data}, separators=(",", ":")).encode()
        return view.version, b"".join([struct.pack("<I", len(head)), head, *blobs])


class _Client:
    """What one browser has got."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self.socket = socket
        self.changed = asyncio.Event()
        self.paused = False
        self.sent = 0
        self.acknowledged = 0
        self.logs = 0
        self.history = 0
        self.heat = 0
        self.pictures: dict[str, int] = {}
        self.learned = ""
        self.learned_stamp: int | None = None
        self.odd = 0
        self.last_view = -1e9


def _mime(data: bytes) -> str:
    return "image/png" if data[:4] == b"\x89PNG" else "image/jpeg"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _explain(error: OSError, host: str, port: int) -> ViewerError:
    if error.errno == errno.EADDRINUSE:
        return ViewerError(f"port {port} on {host} is in use: choose another with --view-port, or 0 for any free one")
    if error.errno == errno.EACCES:
        return ViewerError(f"port {port} needs more rights than this user has: choose one above 1023 with --view-port")
    return ViewerError(f"cannot serve the page on {host} port {port}: {error.strerror or error}")
