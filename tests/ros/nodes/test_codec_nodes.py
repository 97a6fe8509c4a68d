"""Encoder and decoder nodes: images to streams and back, faults that are told, newest wins, bags that play back."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench import PERIOD, Bench, until

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "codec"))

from stand_in import StandIn

from bevstack.codec import bitstream, picture
from bevstack.geometry import Boxes2D
from bevstack.ros import convert
from bevstack.ros.convert2d import detections_from_boxes2d
from bevstack.ros.interfaces import CodecStatus, CompressedImage, Detection2DArray, DiagnosticStatus, Image
from bevstack.ros.nodes import decoder_node, encoder_node
from bevstack.ros.nodes.decoder_node import DecoderNode
from bevstack.ros.nodes.encoder_node import EncoderNode
from bevstack.ros.nodes.regions import region_weights
from bevstack.ros.nodes.worker import NewestOfEach
from bevstack.ros.runtime import Parameter, TransitionCallbackReturn

CAMERAS = ("left", "right")


def picture_of(k: int) -> np.ndarray:
    yy, xx = np.mgrid[:36, :64]
    return np.stack([xx * 3, yy * 5, np.full_like(xx, 10 * k)], -1).astype(np.uint8)


def overrides(**values: Any) -> list[Parameter]:
    return [Parameter(name.replace("__", "."), value=value) for name, value in {"cameras": list(CAMERAS), **values}.items()]


class Ears:
    def __init__(self, bench: Bench, node: str) -> None:
        self.statuses: list[Any] = []
        bench.node.create_subscription(CodecStatus, f"{node}/status", self.statuses.append, 100)


def heard(bench: Bench, kind: Any, topic: str) -> list[Any]:
    messages: list[Any] = []
    bench.node.create_subscription(kind, topic, messages.append, 100)
    return messages


def send(bench: Bench, name: str, k: int) -> None:
    message = convert.compressed_from_rgb(picture_of(k), k * PERIOD, f"{name}_optical_frame", 100)
    bench.publisher(CompressedImage, f"{name}/image_raw/compressed").publish(message)


def start(bench: Bench, node: Any) -> Any:
    bench.add(node)
    bench.start()
    assert node.autostart()
    return node


def encoder(codec: StandIn, **values: Any) -> EncoderNode:
    return EncoderNode(codec=codec, parameter_overrides=overrides(**values))


def test_a_magic_and_a_format_stand_once() -> None:
    assert picture.MAGIC == bitstream.MAGIC
    message = convert.compressed_from_bytes(b"VTC1....", 0, "x")
    assert message.format == picture.FORMAT == "rgb8; vtc1 compressed"


def test_images_to_streams_and_back(bench: Bench) -> None:
    codec = StandIn()
    said, decoded_said = Ears(bench, "encoder_node"), Ears(bench, "decoder_node")
    streams = heard(bench, CompressedImage, "left/image_raw/vtc1")
    shown, jpegs = heard(bench, Image, "left/image_decoded"), heard(bench, CompressedImage, "left/image_decoded/compressed")
    start(bench, encoder(codec, quality=90.0, measure=True))
    decoder = bench.add(DecoderNode(decoder=codec, parameter_overrides=overrides()))
    assert decoder.autostart()
    send(bench, "left", 1)
    until(lambda: shown and jpegs, "a decoded picture")
    stream, status = streams[0], said.statuses[0]
    assert stream.format == "rgb8; vtc1 compressed"
    assert (convert.stamp_to_ns(stream.header.stamp), stream.header.frame_id) == (PERIOD, "left_optical_frame")
    assert bytes(convert.image_bytes(stream)[:4]) == b"VTC1"
    assert (status.camera, status.direction, status.width, status.height) == ("left", "encode", 64, 36)
    assert status.bytes == len(stream.data)
    assert status.bits_per_pixel == pytest.approx(8 * status.bytes / (64 * 36))
    assert status.psnr > 30
    assert list(status.stages) == ["decode", "analysis", "entropy coding", "total"]
    assert (status.frames_in, status.frames_out, status.frames_dropped, status.reason) == (1, 1, 0, "")
    difference = convert.rgb_from_image(shown[0]).astype(int) - picture_of(1)
    assert np.abs(difference).mean() < 12
    assert jpegs[0].format == "jpeg"
    assert convert.stamp_to_ns(jpegs[0].header.stamp) == PERIOD
    told = until(lambda: decoded_said.statuses, "the decoder's status")[0]
    assert (told.direction, told.bytes, told.damaged) == ("decode", status.bytes, 0)
    capture = codec.calls[0]["capture"]
    assert (capture.camera, capture.frame, capture.timestamp_us) == (0, 0, PERIOD // 1000)


def test_live_parameters_count_from_the_next_frame(bench: Bench) -> None:
    codec = StandIn()
    said = Ears(bench, "encoder_node")
    node = start(bench, encoder(codec, quality=20.0))
    send(bench, "left", 1)
    until(lambda: len(said.statuses) == 1, "the first frame")
    assert node.set_parameters([Parameter("max_bytes", value=9000), Parameter("tile", value=256)])[0].successful
    send(bench, "left", 2)
    until(lambda: len(said.statuses) == 2, "the second frame")
    assert codec.calls[0] | {"capture": None} == {"quality": 20.0, "max_bytes": None, "tile": 0, "capture": None}
    assert codec.calls[1] | {"capture": None} == {"quality": None, "max_bytes": 9000, "tile": 256, "capture": None}
    for bad in (Parameter("tile", value=100), Parameter("model.rung", value="codec-huge"), Parameter("cameras", value=["x"])):
        assert not node.set_parameters([bad])[0].successful


def test_faults_are_told_and_the_next_frame_goes_on(bench: Bench) -> None:
    codec = StandIn()
    said = Ears(bench, "encoder_node")
    start(bench, encoder(codec, diagnostic_period=0.05))
    codec.failure = "out of memory"
    send(bench, "left", 1)
    until(lambda: said.statuses, "a status of the lost frame")
    assert "out of memory" in said.statuses[0].reason
    assert (said.statuses[0].frames_out, said.statuses[0].frames_dropped) == (0, 1)
    until(lambda: bench.says(DiagnosticStatus.WARN, "left", "out of memory"), "the reason on /diagnostics")
    codec.failure = ""
    bench.publisher(CompressedImage, "left/image_raw/compressed").publish(CompressedImage(format="jpeg"))
    until(lambda: len(said.statuses) == 2 and "neither JPEG nor PNG" in said.statuses[1].reason, "an empty message")
    send(bench, "left", 2)
    until(lambda: len(said.statuses) == 3, "the next frame")
    assert (said.statuses[2].reason, said.statuses[2].frames_out) == ("", 1)


def test_damaged_streams_are_told(bench: Bench) -> None:
    said = Ears(bench, "decoder_node")
    start(bench, DecoderNode(parameter_overrides=overrides(lazy=False)))
    for data in (b"VTC1 and nothing of sense", b"", b"\xff\xd8\xff"):
        count = len(said.statuses)
        bench.publisher(CompressedImage, "right/image_raw/vtc1").publish(convert.compressed_from_bytes(data, PERIOD, "x"))
        until(lambda count=count: len(said.statuses) == count + 1, "a status of the damaged stream")
        assert said.statuses[-1].reason.startswith("coded frame:")
        assert said.statuses[-1].frames_out == 0


def test_nobody_listens_nothing_is_decoded(bench: Bench) -> None:
    codec = StandIn()
    said = Ears(bench, "decoder_node")
    node = start(bench, DecoderNode(decoder=codec, parameter_overrides=overrides()))
    stream = codec.encode(picture_of(1)).data
    bench.publisher(CompressedImage, "left/image_raw/vtc1").publish(convert.compressed_from_bytes(stream, PERIOD, "x"))
    until(lambda: node._counts["left"].dropped == 1, "the frame is left out")
    assert not said.statuses
    heard(bench, Image, "left/image_decoded")
    bench.publisher(CompressedImage, "left/image_raw/vtc1").publish(convert.compressed_from_bytes(stream, 2 * PERIOD, "x"))
    until(lambda: said.statuses, "now it is decoded")


def test_max_rate_leaves_frames_out_evenly(ros: None) -> None:
    node = EncoderNode(codec=StandIn(), parameter_overrides=overrides(max_rate=3.0))
    try:
        kept = []
        for k in range(40):  # 10 Hz with jitter, then the source begins again
            stamp = k * PERIOD + (k % 3 - 1) * 4_000_000 + 10 * PERIOD if k < 30 else (k - 29) * PERIOD
            message = convert.compressed_from_bytes(b"", stamp, "x")
            if node.wanted("left", message):
                kept.append(k)
        first = [k for k in kept if k < 30]
        assert 9 <= len(first) <= 10
        assert set(np.diff(first)) <= {3, 4}
        assert len(kept) > len(first), "a source that begins again is not waited for"
    finally:
        node.destroy_node()


def test_model_rate_codes_an_even_share(ros: None) -> None:
    node = EncoderNode(codec=StandIn(), parameter_overrides=overrides(model__rate=0.4))
    try:
        message = convert.compressed_from_bytes(b"", 0, "x")
        taken = [k for k in range(50) if node.wanted("left", message)]
        assert taken[0] == 0, "the first frame is not waited for"
        assert len(taken) == 20
        assert set(np.diff(taken)) == {2, 3}
        assert node.set_parameters([Parameter("model.rate", value=1.0)])[0].successful
        assert all(node.wanted("left", message) for _ in range(5))
        assert not node.set_parameters([Parameter("model.rate", value=0.0)])[0].successful
    finally:
        node.destroy_node()


def boxes_of(*rows: tuple[float, float, float, float], score: float = 0.9) -> Boxes2D:
    return Boxes2D(np.array(rows, np.float32), np.full(len(rows), score, np.float32), np.zeros(len(rows), np.int64))


def test_region_weights() -> None:
    weights = region_weights(boxes_of((10.0, 5.0, 20.0, 9.0)), (36, 64), 8.0, 0.5, margin=0.5)
    assert weights is not None
    assert weights.shape == (36, 64)
    assert set(np.unique(weights)) == {0.5, 8.0}
    rows, columns = np.nonzero(weights == 8.0)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (3, 10, 5, 24)
    assert region_weights(boxes_of((-50.0, -50.0, -1.0, -1.0)), (36, 64), 8.0, 0.5) is None, "outside of the picture"
    assert region_weights(boxes_of((1.0, 1.0, 9.0, 9.0), score=0.2), (36, 64), 8.0, 1.0, min_score=0.3) is None
    assert region_weights(Boxes2D.empty(), (36, 64), 8.0, 0.5) is None, "no boxes: the picture as usual"


def test_boxes_make_regions_of_interest(bench: Bench) -> None:
    codec = StandIn()
    said = Ears(bench, "encoder_node")
    values = {"regions_topic_template": "detect_node/{camera}/detections_2d", "regions__margin": 0.0}
    node = start(bench, encoder(codec, **values))

    def detect(name: str, k: int) -> None:
        message = detections_from_boxes2d(boxes_of((8.0, 8.0, 24.0, 16.0)), k * PERIOD, "x")
        bench.publisher(Detection2DArray, f"detect_node/{name}/detections_2d").publish(message)
        until(lambda: node._regions.of(name, k * PERIOD, 0.0) is not None, "the boxes have come")

    def coded(name: str, k: int) -> Any:
        count = len(said.statuses)
        send(bench, name, k)
        until(lambda: len(said.statuses) == count + 1, "a frame")
        return codec.regions[-1]

    assert coded("left", 1) is None, "no boxes yet"
    detect("left", 1)
    weights = coded("left", 2)
    assert weights.shape == (36, 64)
    assert (weights == 8.0).sum() == 16 * 8
    assert (weights == 1.0).sum() == 36 * 64 - 16 * 8
    assert coded("right", 2) is None, "boxes of one camera are not those of another"
    assert node.set_parameters([Parameter("regions.inside", value=4.0)])[0].successful
    assert coded("left", 3).max() == 4.0
    assert coded("left", 30) is None, "boxes that are too old"


def test_what_cannot_be_configured_is_said(bench: Bench) -> None:
    node = bench.add(EncoderNode(parameter_overrides=overrides(model="codec-of-nowhere", diagnostic_period=0.05)))
    bench.start()
    assert not node.autostart()
    assert "codec-of-nowhere" in node.failure
    until(lambda: bench.says(DiagnosticStatus.ERROR, "codec-of-nowhere"), "the error on /diagnostics")
    other = bench.add(EncoderNode("other", codec=StandIn(), parameter_overrides=overrides(output_topic_template="stream")))
    assert other.trigger_configure() == TransitionCallbackReturn.FAILURE
    assert "{camera}" in other.failure


def test_life_is_repeatable(bench: Bench) -> None:
    codec = StandIn()
    said = Ears(bench, "encoder_node")
    node = start(bench, encoder(codec))
    for k in range(2):
        send(bench, "left", k + 1)
        until(lambda k=k: len(said.statuses) == k + 1, "a frame")
        assert node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS


def test_newest_of_each_serves_keys_in_turn() -> None:
    gate, seen = threading.Event(), []

    def work(key: str, item: int) -> None:
        seen.append((key, item))
        gate.wait(10)

    worker: NewestOfEach[int] = NewestOfEach("test", work)
    assert worker.put("a", 1) is None
    until(lambda: seen, "the first item is being worked on")
    assert worker.put("a", 2) is None
    assert worker.put("b", 3) is None
    assert worker.put("a", 4) == 2
    gate.set()
    until(lambda: not worker.busy, "all is done")
    assert seen == [("a", 1), ("a", 4), ("b", 3)]
    assert worker.close()
    assert worker.put("c", 5) == 5


@pytest.mark.parametrize("specs", [encoder_node.PARAMETERS, decoder_node.PARAMETERS])
def test_parameters_are_documented(specs: Any) -> None:
    names = [spec.name for spec in specs]
    assert len(names) == len(set(names))
    assert all(spec.description and not spec.description.endswith(".") for spec in specs)


def test_streams_are_let_out_at_one_offset(bench: Bench) -> None:
    """Frames that were fast to code are published as late after capture as slow ones, in order, and none is lost."""
    times = iter([0.0, 0.1, 0.0, 0.15])

    class Uneven(StandIn):
        def encode(self, *args: Any, **values: Any) -> Any:
            time.sleep(next(times, 0.0))
            return super().encode(*args, **values)

    said = Ears(bench, "encoder_node")
    streams = heard(bench, CompressedImage, "left/image_raw/vtc1")
    node = start(bench, encoder(Uneven(), release_after=0.4))
    for k in range(1, 5):
        send(bench, "left", k)
        until(lambda k=k: len(said.statuses) == k, "the frame's status")  # type: ignore[misc]
    late = sorted(s.latency_ms for s in said.statuses)
    assert late[0] >= 399, late
    assert late[2] < 1.15 * late[1], late
    assert all(s.stage_ms[list(s.stages).index("total")] < 390 for s in said.statuses), "waiting is no work"
    assert node.set_parameters([Parameter("release_after", value=9.0)])[0].successful
    send(bench, "left", 5)
    until(lambda: node._held_back is not None and node._held_back.waiting, "a stream that waits")
    assert not node.idle
    assert len(streams) == 4
    node.trigger_deactivate()
    until(lambda: len(streams) == 5, "the last stream")
    assert [convert.stamp_to_ns(s.header.stamp) for s in streams] == [k * PERIOD for k in range(1, 6)]
