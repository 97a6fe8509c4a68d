"""Cameras, encoder, decoder and page of one process, and a client of its websocket: the whole way of a learned picture."""

from __future__ import annotations

import asyncio
import json
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "codec"))
from stand_in import StandIn

aiohttp = pytest.importorskip("aiohttp", reason="the page needs aiohttp: pip install 'bevstack[view]'")

TIMEOUT = 60.0


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The page's address, with a simulated drive of two cameras going round until the end of the test."""
    monkeypatch.setenv("BEVSTACK_WIRE", "off")
    from bevstack.ros import runtime
    from bevstack.ros.nodes.camera_node import CameraNode
    from bevstack.ros.nodes.decoder_node import DecoderNode
    from bevstack.ros.nodes.encoder_node import EncoderNode
    from bevstack.viewer.node import ViewerNode

    def given(**values: Any) -> list[Any]:
        return [
            runtime.Parameter(name, value=value) for name, value in {"cameras": ["cam_front", "cam_back"], **values}.items()
        ]

    runtime.init(args=[])
    codec = StandIn()
    source = "sim:seed=1,duration=2,rate=5,image_width=160"
    nodes = [
        viewer := ViewerNode(parameter_overrides=given(port=0)),
        encoder := EncoderNode(codec=codec, parameter_overrides=given(quality=95.0)),
        decoder := DecoderNode(decoder=codec, parameter_overrides=given()),
        cameras := CameraNode(parameter_overrides=given(source=source, loop=True)),
    ]
    executor = runtime.SingleThreadedExecutor()
    for node in nodes:
        executor.add_node(node)
    ended = threading.Event()

    def spin() -> None:
        while not ended.is_set():
            executor.spin_once(timeout_sec=0.02)

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    assert encoder.autostart()
    assert decoder.autostart()
    cameras.start()
    yield viewer.url
    ended.set()
    thread.join(TIMEOUT)
    for node in nodes:
        node.destroy_node()
    executor.shutdown()
    runtime.shutdown()


def test_pictures_come_live_for_the_camera_that_is_asked_for(page: str) -> None:
    async def look() -> None:
        async with aiohttp.ClientSession(base_url=page) as session, session.ws_connect("/ws") as ws:
            await ws.receive()  # hello
            await ws.send_json({"type": "learned", "camera": "cam_back"})
            stamps: set[str] = set()
            while len(stamps) < 3:
                message = await ws.receive()
                (length,) = struct.unpack_from("<I", message.data)
                view, blobs = json.loads(message.data[4 : 4 + length]), message.data[4 + length :]
                await ws.send_json({"type": "ack", "seq": view["seq"]})
                shown = view.get("learned_pictures")
                if not shown:
                    continue
                assert shown["camera"] == "cam_back"
                stamps.add(shown["stamp"])
                pictures = {}
                for kind in ("original", "decoded", "difference"):
                    place = shown[kind]
                    data = np.frombuffer(blobs[place["at"] : place["at"] + place["length"]], np.uint8)
                    pictures[kind] = cv2.imdecode(data, 1).astype(int)
                between = np.abs(pictures["original"] - pictures["decoded"])
                assert pictures["original"].std() > 20, "a street, not a blank"
                assert between.mean() < 12, "of the same instant"
                assert pictures["difference"].mean() > 1.5 * between.mean()
                assert shown["psnr"] > 25
                told = {stream["camera"]: stream for stream in view["learned"]}
                assert set(told) == {"cam_front", "cam_back"}
                assert told["cam_back"]["bpp"] == pytest.approx(8 * told["cam_back"]["bytes"] / (160 * 90), abs=1e-4)
                assert told["cam_back"]["decode"], "the decoder's stages"
                assert not told["cam_front"]["decode"], "nobody looks at it: it is not decoded"
            await ws.send_json({"type": "learned", "camera": ""})

    asyncio.run(asyncio.wait_for(look(), TIMEOUT))
