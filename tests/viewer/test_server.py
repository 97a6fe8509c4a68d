"""The page over HTTP and its websocket, without a browser."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from bevstack.geometry import Boxes3D, Camera
from bevstack.viewer.errors import ViewerError
from bevstack.viewer.received import Picture
from bevstack.viewer.server import PageServer
from bevstack.viewer.state import LogLine, PageState, Status

aiohttp = pytest.importorskip("aiohttp")

TIMEOUT = 20.0


@pytest.fixture
def logged() -> list[str]:
    return []


@pytest.fixture
def server(rig: dict[str, Camera], logged: list[str]) -> Iterator[PageServer]:
    state = PageState()
    for camera in rig.values():
        state.set_camera(camera)
    made = PageServer(state, port=0, log=logged.append)
    made.start()
    yield made
    made.close()


def drive(server: PageServer, body: Callable[[Any], Coroutine[Any, Any, Any]]) -> Any:
    """Runs ``body(session)`` with an HTTP client."""

    async def run() -> Any:
        async with aiohttp.ClientSession(base_url=server.url) as session:
            return await asyncio.wait_for(body(session), TIMEOUT)

    return asyncio.run(run())


def unpack(message: bytes) -> tuple[dict[str, Any], bytes]:
    (length,) = struct.unpack_from("<I", message)
    return json.loads(message[4 : 4 + length]), message[4 + length :]


async def view_of(ws: Any, acknowledge: bool = True) -> tuple[dict[str, Any], bytes]:
    message = await ws.receive()
    assert message.type == aiohttp.WSMsgType.BINARY, message
    view, blobs = unpack(message.data)
    if acknowledge:
        await ws.send_json({"type": "ack", "seq": view["seq"]})
    return view, blobs


def test_page_and_its_files(server: PageServer) -> None:
    async def body(session: Any) -> None:
        for path, kind in (
            ("/", "text/html"),
            ("/static/style.css", "text/css"),
            ("/static/main.js", "javascript"),
            ("/static/icon.svg", "image/svg"),
        ):
            async with session.get(path) as response:
                assert response.status == 200, path
                assert kind in response.headers["Content-Type"]
                assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        async with session.get("/static/../server.py") as response:
            assert response.status == 404

    drive(server, body)


def test_the_page_asks_nobody_else(server: PageServer) -> None:
    """Works offline: no address of another host in any file of the page (names of XML spaces aside)."""
    from bevstack.viewer.server import STATIC

    for path in STATIC.iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text, path
        assert "https://" not in text, path


def test_health_and_state(server: PageServer, boxes: Boxes3D, jpeg: bytes) -> None:
    server.state.add_picture("cam_front", Picture(5, jpeg))
    server.state.set_boxes(5, boxes)
    server.state.set_status(Status(stamp=5, rung="fastbev-nano", engine="onnx", stages=(("lift", 2.5),), latency_ms=40.0))

    async def body(session: Any) -> None:
        async with session.get("/healthz") as response:
            assert (await response.json())["status"] == "ok"
        async with session.get("/api/state") as response:
            state = await response.json()
        assert state["status"]["rung"] == "fastbev-nano"
        assert state["status"]["stages"] == [{"name": "lift", "ms": 2.5}]
        assert len(state["boxes"]) == 3
        front = next(c for c in state["cameras"] if c["name"] == "cam_front")
        assert front["visible"] == 1
        async with session.get("/api/camera/cam_front.jpg") as response:
            assert response.content_type == "image/jpeg"
            assert await response.read() == jpeg
        async with session.get("/api/camera/nobody.jpg") as response:
            assert response.status == 404
            assert "nobody" in await response.text()

    drive(server, body)


def test_a_view_carries_images_once(server: PageServer, boxes: Boxes3D, jpeg: bytes) -> None:
    server.state.add_picture("cam_front", Picture(5, jpeg))
    server.state.set_boxes(5, boxes)

    async def body(session: Any) -> None:
        async with session.ws_connect("/ws") as ws:
            hello = json.loads((await ws.receive()).data)
            assert hello["type"] == "hello"
            assert hello["classes"]["car"].startswith("#")
            view, blobs = await view_of(ws)
            front = next(c for c in view["cameras"] if c["name"] == "cam_front")
            place = front["image"]
            assert blobs[place["at"] : place["at"] + place["length"]] == jpeg
            assert front["outlines"]
            server.state.add_log(LogLine(0.0, "info", "n", "later"))
            view, blobs = await view_of(ws)
            assert blobs == b""
            assert [line["text"] for line in view["logs"]] == ["later"]

    drive(server, body)


def test_a_browser_that_does_not_answer_gets_the_newest_later(server: PageServer, jpeg: bytes) -> None:
    """Backpressure: no queue grows for it, and what it gets when it answers is the newest."""

    async def body(session: Any) -> None:
        async with session.ws_connect("/ws") as ws:
            await ws.receive()
            first, _ = await view_of(ws, acknowledge=False)
            for stamp in range(1, 200):
                server.state.add_picture("cam_front", Picture(stamp, jpeg))
                await asyncio.sleep(0.001)
            assert server.sent_views == 1
            await ws.send_json({"type": "ack", "seq": first["seq"]})
            second, _ = await view_of(ws, acknowledge=False)
            assert second["seq"] == first["seq"] + 1
            assert next(c for c in second["cameras"] if c["name"] == "cam_front")["stamp"] == "199"

    drive(server, body)


def test_one_slow_browser_does_not_slow_another(server: PageServer, jpeg: bytes) -> None:
    async def body(session: Any) -> None:
        async with session.ws_connect("/ws") as slow, session.ws_connect("/ws") as quick:
            await slow.receive()
            await quick.receive()
            seen = 0
            for stamp in range(1, 8):
                server.state.add_picture("cam_front", Picture(stamp, jpeg))
                view, _ = await view_of(quick)
                seen = view["seq"]
            assert seen >= 7
            assert server.clients == 2

    drive(server, body)


def test_pause(server: PageServer) -> None:
    async def body(session: Any) -> None:
        async with session.ws_connect("/ws") as ws:
            await ws.receive()
            first, _ = await view_of(ws, acknowledge=False)
            await ws.send_json({"type": "pause", "value": True})
            await ws.send_json({"type": "ack", "seq": first["seq"]})
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(ws.receive(), 1.5)
            # receive() was cancelled: this connection is used no more; going on is tested in the browser.

    drive(server, body)


BAD = ["", "no json", "[]", "5", "null", '{"type":"unknown"}', '{"type":"ack"}', '{"type":"ack","seq":"x"}', "[" * 4000]


def test_bad_messages_are_ignored_with_one_line(server: PageServer, logged: list[str]) -> None:
    async def body(session: Any) -> None:
        async with session.ws_connect("/ws") as ws:
            await ws.receive()
            await view_of(ws)
            for text in BAD:
                await ws.send_str(text)
            await ws.send_bytes(b"\x00\xff")
            view, _ = await view_of(ws)
            assert view["seq"] == 2

    drive(server, body)
    assert len(logged) == 1
    assert "\n" not in logged[0]


def test_a_huge_message_ends_only_its_own_connection(server: PageServer) -> None:
    async def body(session: Any) -> None:
        async with session.ws_connect("/ws") as ws:
            await ws.send_str("x" * 100_000)
            while not ws.closed:
                await ws.receive()
        async with session.get("/healthz") as response:
            assert response.status == 200

    drive(server, body)


def test_foreign_pages_are_refused(server: PageServer) -> None:
    async def body(session: Any) -> None:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect("/ws", headers={"Origin": "http://elsewhere.example"})
        assert refused.value.status == 403
        async with session.get("/api/state", headers={"Host": "elsewhere.example"}) as response:
            assert response.status == 403
        async with session.get("/api/state", headers={"Origin": server.url.rstrip("/")}) as response:
            assert response.status == 200

    drive(server, body)


def test_loopback_by_default() -> None:
    assert PageServer(PageState()).host == "127.0.0.1"


def test_port_in_use_is_one_line_with_a_remedy() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ViewerError, match=f"port {port} .* in use: .*--view-port") as failure:
            PageServer(PageState(), port=port).start()
        assert "\n" not in str(failure.value)


@pytest.mark.parametrize("port", [-1, 65536, 99999])
def test_port_that_does_not_exist(port: int) -> None:
    with pytest.raises(ViewerError, match="does not exist"):
        PageServer(PageState(), port=port)


def test_address_that_is_not_ours() -> None:
    with pytest.raises(ViewerError, match=r"cannot serve the page on 203\.0\.113\.1"):
        PageServer(PageState(), host="203.0.113.1", port=0).start()


def test_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(ViewerError, match=r"pip install 'bevstack\[view\]'"):
        PageServer(PageState(), port=0).start()


def test_close_ends_the_thread_and_open_connections(server: PageServer) -> None:
    async def body(session: Any) -> None:
        async with session.ws_connect("/ws") as ws:
            await ws.receive()
            closing = threading.Thread(target=server.close)
            closing.start()
            while not ws.closed:
                await ws.receive()
            await asyncio.to_thread(closing.join)

    drive(server, body)
    assert not any(thread.name == "page" for thread in threading.enumerate())
    server.close()
    server.state.add_camera("after the end")  # nobody listens any more: no error


def test_every_file_of_the_page_is_packaged() -> None:
    """The wheel takes what the patterns of pyproject.toml name."""
    import fnmatch
    from pathlib import Path

    from bevstack.viewer.server import STATIC

    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    line = next(line for line in project.read_text().splitlines() if line.startswith('bevstack = ["py.typed"'))
    patterns = [part.strip(' "') for part in line.partition("[")[2].rstrip("]").split(",")]
    for path in STATIC.iterdir():
        assert any(fnmatch.fnmatch(f"viewer/static/{path.name}", pattern) for pattern in patterns), path.name
