"""Codec nodes with a real codec (small, untrained): figures that agree everywhere, damage, foreign models, regions."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench import PERIOD, Bench, until
from typer.testing import CliRunner

pytest.importorskip("torch", reason="making test weights needs torch")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "codec"))
from tiny import make_net, photograph, tiny_config

from bevstack.cli.codec import codec_app
from bevstack.codec.bitstream import read_layout
from bevstack.codec.codec import ImageCodec
from bevstack.codec.picture import Decoders
from bevstack.codec.weights import save_weights
from bevstack.geometry import Boxes2D
from bevstack.ros import convert
from bevstack.ros.convert2d import detections_from_boxes2d
from bevstack.ros.interfaces import CodecStatus, CompressedImage, Detection2DArray, DiagnosticStatus, Image
from bevstack.ros.nodes.decoder_node import DecoderNode
from bevstack.ros.nodes.encoder_node import EncoderNode
from bevstack.ros.runtime import Parameter
from bevstack.viewer.learned import LearnedStreams
from bevstack.viewer.learned_topics import status_from_message
from bevstack.viewer.received import Picture

WIDTH, HEIGHT = 200, 130


def weights_of(folder: Path, name: str, seed: int) -> Path:
    path = folder / f"{name}.safetensors"
    save_weights(path, make_net(tiny_config(), seed=seed), {"what": "test"})
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return weights_of(tmp_path_factory.mktemp("codec"), "codec-tiny", seed=0)


@pytest.fixture(scope="module")
def codec(weights: Path) -> Iterator[ImageCodec]:
    made = ImageCodec(weights, "onnx")
    yield made
    made.close()


def overrides(**values: Any) -> list[Parameter]:
    given = {"cameras": ["front"], "image_transport": "raw", "diagnostic_period": 0.05, **values}
    return [Parameter(name.replace("__", "."), value=value) for name, value in given.items()]


def heard(bench: Bench, kind: Any, topic: str) -> list[Any]:
    messages: list[Any] = []
    bench.node.create_subscription(kind, topic, messages.append, 100)
    return messages


def start(bench: Bench, *nodes: Any) -> None:
    for node in nodes:
        bench.add(node)
    bench.start()
    assert all(node.autostart() for node in nodes)


def send(bench: Bench, k: int, rgb: np.ndarray) -> None:
    bench.publisher(Image, "front/image_raw").publish(convert.image_from_rgb(rgb, k * PERIOD, "front_optical_frame"))


def stream_of(message: Any) -> bytes:
    return bytes(convert.image_bytes(message))


def test_figures_agree_between_stream_nodes_page_and_command(bench: Bench, codec: ImageCodec, tmp_path: Path) -> None:
    """bytes, bits per pixel, size and rate point: CodecStatus of both nodes, the page, ``bevstack codec info``."""
    streams, pictures = heard(bench, CompressedImage, "front/image_raw/vtc1"), heard(bench, Image, "front/image_decoded")
    told = {name: heard(bench, CodecStatus, f"{name}/status") for name in ("encoder_node", "decoder_node")}
    encoder = EncoderNode(codec=codec, parameter_overrides=overrides(quality=63.0, measure=True, tile=64))
    decoder = DecoderNode(decoder=Decoders(codec.path), parameter_overrides=overrides())
    start(bench, encoder, decoder)
    rgb = photograph(HEIGHT, WIDTH)
    send(bench, 1, rgb)
    until(lambda: all(told.values()) and pictures, "both nodes have told")
    data = stream_of(streams[0])
    file = tmp_path / "frame.vtc"
    file.write_bytes(data)
    result = CliRunner().invoke(codec_app, ["info", str(file), "--json"])
    assert result.exit_code == 0, result.output
    info = json.loads(result.output)
    coded, decoded = told["encoder_node"][0], told["decoder_node"][0]
    for status in (coded, decoded):
        assert status.bytes == info["bytes"] == len(data)
        assert f"{status.width}x{status.height}" == info["size"] == f"{WIDTH}x{HEIGHT}"
        assert status.bits_per_pixel == pytest.approx(info["bits per pixel"], abs=5e-5)
        assert status.rate_point == info["rate point"] > 1
        assert convert.stamp_to_ns(status.header.stamp) == PERIOD
    assert info["tiles"] == 12
    assert info["capture"] == f"camera 0, frame 0, {PERIOD // 1000} us since 1970"
    assert info["damage"] == "none"

    page = LearnedStreams(lambda camera, stamp: Picture(stamp, rgb))
    for status in (coded, decoded):
        page.set_status(status_from_message(status))
    page.add_decoded("front", Picture(PERIOD, convert.rgb_from_image(pictures[0])))
    shown, triple = page.json()[0], page.triple("front")
    assert shown["bytes"] == info["bytes"]
    assert shown["bpp"] == info["bits per pixel"]
    assert shown["rate_point"] == pytest.approx(info["rate point"], abs=0.005)
    assert triple is not None
    assert shown["psnr"] == pytest.approx(triple.psnr, abs=0.006), "the encoder's own measure is what the page measures"


def test_damage_and_foreign_streams_are_told_and_the_next_frame_comes(
    bench: Bench, codec: ImageCodec, weights: Path, tmp_path: Path
) -> None:
    told, pictures = heard(bench, CodecStatus, "decoder_node/status"), heard(bench, Image, "front/image_decoded")
    start(bench, DecoderNode(parameter_overrides=overrides(model=str(weights), lazy=False)))
    good = codec.encode(photograph(HEIGHT, WIDTH), quality=80, tile=64).data
    layout = read_layout(good)
    hit = bytearray(good)
    hit[layout.start + sum(e.length for e in layout.entries[:2]) + 3] ^= 1
    foreign = ImageCodec(weights_of(tmp_path, "other", seed=3), "onnx").encode(photograph(HEIGHT, WIDTH)).data

    def sent(data: bytes) -> Any:
        count = len(told)
        message = convert.compressed_from_bytes(data, (count + 1) * PERIOD, "front_optical_frame")
        bench.publisher(CompressedImage, "front/image_raw/vtc1").publish(message)
        until(lambda: len(told) == count + 1, "a status")
        return told[-1]

    status = sent(bytes(hit))
    assert (status.damaged, status.frames_out) == (1, 1)
    assert "tile 1" in status.reason
    until(lambda: bench.says(DiagnosticStatus.WARN, "front", "tile 1"), "the lost tile on /diagnostics")
    assert len(pictures) == 1, "the picture is shown all the same"

    status = sent(foreign)
    assert (status.frames_out, status.frames_dropped) == (1, 1)
    assert "decode it with the weights that it was made with" in status.reason
    until(lambda: bench.says(DiagnosticStatus.WARN, "front", "made by model"), "the foreign model on /diagnostics")

    status = sent(good[: layout.start // 2])
    assert status.frames_dropped == 2
    until(lambda: bench.says(DiagnosticStatus.WARN, "front", status.reason[:40]), "the cut header on /diagnostics")

    status = sent(good[: layout.start + 5])
    assert "nothing can be shown" in status.reason

    status = sent(good)
    assert (status.reason, status.damaged, status.frames_out) == ("", 0, 2)
    assert np.array_equal(convert.rgb_from_image(pictures[-1]), codec.decode(good).rgb)


def test_a_stream_of_a_huge_picture_is_refused_unread(bench: Bench, codec: ImageCodec, weights: Path) -> None:
    """A header with valid check sums may claim anything."""
    told = heard(bench, CodecStatus, "decoder_node/status")
    start(bench, DecoderNode(parameter_overrides=overrides(model=str(weights), lazy=False, max_megapixels=0.05)))
    data = codec.encode(photograph(300, 200), quality=10).data
    bench.publisher(CompressedImage, "front/image_raw/vtc1").publish(convert.compressed_from_bytes(data, PERIOD, "x"))
    until(lambda: told, "a status")
    assert "200 x 300" in told[0].reason
    assert told[0].frames_out == 0


def test_nodes_work_in_a_namespace(bench: Bench, codec: ImageCodec, weights: Path) -> None:
    """All names are relative: one vehicle's streams are not another's."""
    pictures = heard(bench, Image, "/car1/front/image_decoded")
    others = heard(bench, CompressedImage, "/front/image_raw/vtc1")
    encoder = EncoderNode(codec=codec, namespace="/car1", parameter_overrides=overrides())
    start(bench, encoder, DecoderNode(namespace="/car1", parameter_overrides=overrides(model=str(weights))))
    message = convert.image_from_rgb(photograph(HEIGHT, WIDTH), PERIOD, "front_optical_frame")
    bench.publisher(Image, "/car1/front/image_raw").publish(message)
    until(lambda: pictures, "a picture")
    assert not others
    topics = {name for name, _ in bench.node.get_topic_names_and_types() if "status" in name}
    assert {"/car1/encoder_node/status", "/car1/decoder_node/status"} <= topics


def test_regions_move_quality_to_the_boxes(bench: Bench, codec: ImageCodec) -> None:
    """At a fixed size, the part within a box gains and the rest pays."""
    rgb = photograph(192, 256, seed=5)
    plain = codec.encode(rgb, quality=40)
    streams = heard(bench, CompressedImage, "front/image_raw/vtc1")
    values = {"max_bytes": len(plain.data), "regions_topic_template": "boxes", "regions__outside": 0.5}
    node = EncoderNode(codec=codec, parameter_overrides=overrides(**values))
    start(bench, node)
    boxes = Boxes2D(np.array([[70.0, 70.0, 120.0, 120.0]]), np.array([0.9]), np.array([0]))
    bench.publisher(Detection2DArray, "boxes").publish(detections_from_boxes2d(boxes, PERIOD, "x"))
    until(lambda: node._regions.of("front", PERIOD, 0.0) is not None, "the boxes have come")
    send(bench, 2, rgb)
    until(lambda: streams, "a stream")
    data = stream_of(streams[0])
    assert len(data) <= len(plain.data)

    def error(picture: np.ndarray) -> float:
        return float(np.square(picture[70:120, 70:120].astype(float) - rgb[70:120, 70:120]).mean())

    assert error(codec.decode(data).rgb) < 0.9 * error(codec.decode(plain.data).rgb)
