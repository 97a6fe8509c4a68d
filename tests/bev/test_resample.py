"""Resizing inside the graph: the same pictures as Pillow and OpenCV make, and the same boxes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from bevstack.bev import FastBEV
from bevstack.bev.config import CONFIGS, BackboneConfig, EncoderConfig, VoxelGrid
from bevstack.bev.export import export_graph
from bevstack.bev.graphs import Shrink
from bevstack.bev.network import FastBEVNet
from bevstack.bev.preprocess import fit, image_transform
from bevstack.bev.resample import resize_matrix
from bevstack.engine.tensorrt_operators import problems
from bevstack.errors import BevstackError, CalibrationError, EngineError
from bevstack.frames.sim import SimulatedDrive

TINY = replace(
    CONFIGS["fastbev-micro"],
    name="tiny",
    image_hw=(32, 88),
    backbone=BackboneConfig("basic", (8, 8), (8, 8, 8, 16), (1, 1, 1, 1)),
    neck_channels=8,
    grid=VoxelGrid((26, 26, 2), (4.0, 4.0, 1.5)),
    encoder=EncoderConfig("pyramid", fuse=8, channels=8, deep=8, outputs=8),
)


def picture(width: int, height: int) -> Any:
    """Noise, edges and slopes."""
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), (3, 3), 0)
    image[height // 3 : height // 2, width // 4 : width // 2] = (255, 0, 90)
    image[:, -20:] = np.linspace(0, 255, height).astype(np.uint8)[:, None, None]
    return image


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("fastbev-m0", (1600, 900)),
        ("fastbev-m0", (1280, 960)),
        ("fastbev-m0", (1600, 400)),
        ("fastbev-micro", (1600, 900)),
        ("fastbev-micro", (800, 450)),
    ],
)
def test_pictures_are_those_of_the_preprocessing(name: str, size: tuple[int, int]) -> None:
    config = CONFIGS[name]
    image = picture(*size)
    wanted = np.zeros((*config.image_hw, 3), np.uint8)
    fit(image, image_transform(*size, config), config.resize_filter, wanted)
    found = Shrink(config, size)(torch.from_numpy(image[None]).float())[0].permute(1, 2, 0).numpy()
    difference = np.abs(found - wanted)
    assert difference.max() <= 2.0  # Pillow rounds between its two passes, too
    assert difference.mean() < 0.2
    # It would be noticed if another filter were taken.
    other = cv2.resize(image, image_transform(*size, config).resized, interpolation=cv2.INTER_LINEAR)
    top = image_transform(*size, config).top
    if top >= 0:
        assert np.abs(other[top : top + config.image_hw[0]].astype(float) - wanted).max() > 10


def test_weights_of_every_pixel_add_up() -> None:
    for source, target, how in ((1600, 704, "bicubic"), (900, 396, "bicubic"), (450, 198, "area"), (100, 150, "bicubic")):
        matrix = resize_matrix(source, target, how)  # type: ignore[arg-type]
        assert matrix.shape == (target, source)
        np.testing.assert_allclose(matrix.sum(1), 1.0, atol=1e-6)
    with pytest.raises(ValueError, match="cannot enlarge"):
        resize_matrix(100, 150, "area")


def test_a_graph_that_resizes_finds_the_same_boxes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = FastBEVNet(TINY).eval()
    with torch.no_grad():
        net.bbox_head.conv_cls.weight.normal_(std=0.3)
        assert net.bbox_head.conv_cls.bias is not None
        net.bbox_head.conv_cls.bias.fill_(-2.0)
    graph = export_graph(net, source=(200, 112))
    assert problems(graph) == []
    file = tmp_path / "whole.onnx"
    file.write_bytes(graph)
    plain, inside = FastBEV(net, threads=1), FastBEV(file, threads=1)
    with SimulatedDrive(900_000, rate=2.0, duration=1.0, image_width=200, density=0.2) as drive:
        camera = next(iter(drive.cameras.values()))
        assert (camera.width, camera.height) == (200, 112)
        assert inside.decode_size(camera) == (200, 112)
        for instant in drive:
            a, b = plain(instant), inside(instant)
            assert len(a) > 10
            assert abs(len(a) - len(b)) <= 0.05 * len(a)
            assert np.abs(np.sort(a.score)[-10:] - np.sort(b.score)[-10:]).max() < 0.02
    name, frame = next(iter(instant.frames.items()))
    square = replace(frame, camera=replace(frame.camera, height=200), image=np.zeros((200, 200, 3), np.uint8), encoded=None)
    with pytest.raises(CalibrationError, match=r"this graph resizes pictures of 200x112: export another one"):
        inside(replace(instant, frames={name: square}))


def test_sizes_that_make_no_sense_are_refused() -> None:
    from bevstack.cli.models import parse_size

    net = FastBEVNet(TINY).eval()
    with pytest.raises(EngineError, match="pictures of 40x30 cannot be resized"):
        export_graph(net, source=(40, 30))
    with pytest.raises(EngineError, match="give uint8 images"):
        export_graph(net, raw=False, source=(400, 300))
    assert parse_size("1600x900") == (1600, 900)
    for text in ("1600", "0x3", "ax4", "3x-4"):
        with pytest.raises(BevstackError, match="write WIDTHxHEIGHT"):
            parse_size(text)
