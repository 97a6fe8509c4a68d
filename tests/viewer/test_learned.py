"""Learned streams on the page: what is kept, which pictures belong together, what is subscribed to."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest

from bevstack.viewer.learned import MAX_WIDTH, LearnedStreams, StreamStatus, make_triple
from bevstack.viewer.received import Picture
from bevstack.viewer.state import PageState

SECOND = 1_000_000_000


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def grey(value: int, height: int = 90, width: int = 160) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def coded(stamp: int, size: int = 1000, **more: Any) -> StreamStatus:
    return StreamStatus("front", "encode", stamp, "codec-nano", "onnx", 160, 90, size, 8 * size / (160 * 90), **more)


def test_rates_of_fast_and_slow_streams() -> None:
    clock = Clock()
    streams = LearnedStreams(lambda *_: None, clock=clock)
    for k in range(21):
        clock.now = 100 + 0.1 * k
        streams.set_status(coded(k))
    shown = streams.json()[0]
    assert shown["rate"] == pytest.approx(10.0, abs=0.01)
    assert shown["kbps"] == pytest.approx(80.0, abs=0.1)
    for k in range(3):
        clock.now = 200 + 5.0 * k
        streams.set_status(coded(100 + k))
    shown = streams.json()[0]
    assert shown["rate"] == pytest.approx(0.2)
    assert shown["kbps"] == pytest.approx(1.6)
    clock.now += 4.0
    assert streams.json()[0]["age"] == 4.0
    clock.now += 60.0
    assert streams.json()[0]["kbps"] is None


def test_a_lost_frame_keeps_the_figures_and_tells_why() -> None:
    streams = LearnedStreams(lambda *_: None)
    streams.set_status(coded(1, frames_in=1, frames_out=1))
    streams.set_status(StreamStatus("front", "encode", 2, frames_in=2, frames_out=1, frames_dropped=1, reason="no memory"))
    shown = streams.json()[0]
    assert (shown["bytes"], shown["stamp"], shown["frames_dropped"], shown["reason"]) == (1000, "1", 1, "no memory")


def test_where_only_the_receiver_is_seen_its_figures_count() -> None:
    clock = Clock()
    streams = LearnedStreams(lambda *_: None, clock=clock)
    for k in range(5):
        clock.now += 0.5
        streams.set_status(StreamStatus("front", "decode", k, "codec-nano", "onnx", 160, 90, 500, 0.3, damaged=k // 4))
    shown = streams.json()[0]
    assert (shown["bytes"], shown["bpp"], shown["damaged"], shown["stamp"]) == (500, 0.3, 1, "4")
    assert shown["rate"] == pytest.approx(2.0)


def test_pictures_of_one_instant_belong_together() -> None:
    """The original of a coded frame is held, however many images come before its picture does."""
    state = PageState()
    for k in range(60):
        state.add_picture("front", Picture(k, grey(100 + k)))
        if k == 7:
            state.learned.set_status(coded(7))
    assert state.picture_of("front", 7) is None, "the page itself has forgotten it"
    state.learned.add_decoded("front", Picture(30, grey(0)))
    state.learned.add_decoded("front", Picture(7, grey(109)))
    triple = state.learned.triple("front")
    assert triple is not None
    assert triple.stamp == 7
    assert triple.psnr == pytest.approx(20 * np.log10(255 / 2))
    pixels = [
        cv2.imdecode(np.frombuffer(data, np.uint8), 1)[40, 80, 0]
        for data in (triple.original, triple.decoded, triple.difference)
    ]
    assert pixels == [107, 109, 16]
    assert state.learned.triple("front") is triple, "made once for all browsers"
    assert state.learned.triple("nobody") is None


def test_what_cannot_be_compared_gives_nothing() -> None:
    assert make_triple(Picture(1, grey(1)), Picture(1, grey(1, 45, 80))) is None
    assert make_triple(Picture(1, b"no picture"), Picture(1, grey(1))) is None
    wide = make_triple(Picture(1, grey(9, 900, 1600)), Picture(1, grey(9, 900, 1600)))
    assert wide is not None
    assert np.isinf(wide.psnr)
    assert cv2.imdecode(np.frombuffer(wide.difference, np.uint8), 1).shape == (360, MAX_WIDTH, 3)


@pytest.fixture
def ros(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A runtime of this process alone."""
    monkeypatch.setenv("BEVSTACK_WIRE", "off")
    from bevstack.ros import runtime

    runtime.init(args=[])
    yield runtime
    if runtime.ok():
        runtime.shutdown()


@pytest.mark.parametrize("transport", ["raw", "compressed"])
def test_only_cameras_that_are_looked_at_are_subscribed_to(ros: Any, transport: str) -> None:
    pytest.importorskip("aiohttp", reason="the page needs aiohttp: pip install 'bevstack[view]'")
    from bevstack.ros import convert, interfaces
    from bevstack.viewer.node import ViewerNode

    names = ["front", "back"]
    overrides = {"port": 0, "cameras": names, "decoded_transport": transport}
    viewer = ViewerNode(parameter_overrides=[ros.Parameter(k, value=v) for k, v in overrides.items()])
    source = ros.Node("source")
    kind, suffix = (interfaces.Image, "") if transport == "raw" else (interfaces.CompressedImage, "/compressed")
    outputs = {name: source.create_publisher(kind, f"{name}/image_decoded{suffix}", 10) for name in names}
    originals = source.create_publisher(interfaces.CompressedImage, "front/image_raw/compressed", 10)
    statuses = source.create_publisher(interfaces.CodecStatus, "encoder_node/status", 10)
    executor = ros.SingleThreadedExecutor()
    executor.add_node(viewer)
    executor.add_node(source)

    def spin(done: Any) -> None:
        deadline = time.monotonic() + 20.0
        while not done():
            assert time.monotonic() < deadline
            executor.spin_once(timeout_sec=0.02)

    def listeners() -> list[int]:
        return [outputs[name].get_subscription_count() for name in names]

    try:
        assert listeners() == [0, 0]
        viewer._learned.show({"front", "stranger"})
        assert listeners() == [1, 0]
        originals.publish(convert.compressed_from_rgb(grey(90), 5, "front_optical_frame", 95))
        spin(lambda: viewer.state.picture_of("front", 5) is not None)
        header = convert.header(5, "front_optical_frame")
        statuses.publish(
            interfaces.CodecStatus(header=header, camera="front", direction="encode", bytes=77, width=160, height=90)
        )
        made = convert.image_from_rgb if transport == "raw" else convert.compressed_from_rgb
        outputs["front"].publish(made(grey(94), 5, "front_optical_frame"))
        spin(lambda: viewer.state.learned.triple("front") is not None)
        assert viewer.state.learned.triple("front").psnr == pytest.approx(36.1, abs=0.2)
        assert viewer.state.learned.json()[0]["bytes"] == 77
        viewer._learned.show(set())
        assert listeners() == [0, 0]
    finally:
        executor.shutdown()
        viewer.destroy_node()
        source.destroy_node()
