"""Networks that lift several scales: tables, the two ways of fusing, the exported graph, the published counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from bevstack.bev import FastBEV
from bevstack.bev.complexity import complexity
from bevstack.bev.config import CONFIGS, BackboneConfig, EncoderConfig, FastBEVConfig, Level, VoxelGrid
from bevstack.bev.network import FastBEVNet
from bevstack.bev.runner import torch_runner
from bevstack.bev.tables import rig_table
from bevstack.frames.sim import SimulatedDrive, nuscenes_rig

SMALL = replace(
    CONFIGS["fastbev-r50"],
    name="small",
    image_hw=(64, 176),
    backbone=BackboneConfig("basic", (8,), (8, 8, 8, 16), (1, 1, 1, 1)),
    neck_channels=8,
    grid=VoxelGrid((24, 24, 2), (4.0, 4.0, 1.5)),
    coarse=(Level(8, VoxelGrid((18, 18, 2), (16 / 3, 16 / 3, 1.5))), Level(16, VoxelGrid((12, 12, 2), (8.0, 8.0, 1.5)))),
    times=(0.0, 0.5),
    encoder=EncoderConfig("m2bev", fuse=16, channels=8, layers=1),
)


def test_the_published_configuration_has_its_published_size() -> None:
    """Brief fast-bev, sections 1.5, 3 and 8."""
    config = CONFIGS["fastbev-r50"]
    assert complexity(config).parameters == 37_854_376
    with torch.device("meta"):
        state = FastBEVNet(config).state_dict()
    assert len(state) == 506
    shapes = [tuple(state[f"neck_fuse_{k}.weight"].shape) for k in range(3)]
    assert shapes == [(64, 256, 3, 3), (64, 192, 3, 3), (64, 128, 3, 3)]
    assert tuple(state["neck_3d.fuse.weight"].shape) == (256, 4608, 1, 1)
    assert config.voxels == 6 * (200**2 + 150**2 + 100**2)
    assert config.cells == 6 * (64 * 176 + 32 * 88 + 16 * 44)


def test_one_scale_is_written_as_before_and_several_are_read_back() -> None:
    assert "coarse" not in CONFIGS["fastbev-m0"].to_json()
    assert FastBEVConfig.from_json(SMALL.to_json()) == SMALL


def test_tables_of_all_scales_stand_one_after_the_other() -> None:
    cameras = list(nuscenes_rig(800).values())
    table = rig_table(cameras, SMALL)
    voxel = cell = 0
    for level in SMALL.levels:
        alone = replace(SMALL, lift_stride=level.stride, grid=level.grid, coarse=())
        own = rig_table(cameras, alone)
        wanted = np.where(own < alone.cells, own + cell, SMALL.cells)
        np.testing.assert_array_equal(table[voxel : voxel + level.grid.voxels], wanted)
        assert (own < alone.cells).mean() > 0.5
        voxel, cell = voxel + level.grid.voxels, cell + alone.cells
    assert (voxel, cell) == (len(table), SMALL.cells)
    bent = [replace(c, distortion=np.array([1e-9, 0, 0, 0])) for c in cameras]  # by the slower way for lenses
    other = rig_table(bent, SMALL, rectified=False)
    assert (other != table).mean() < 0.01


@pytest.mark.parametrize("split", [True, False])
def test_training_and_inference_agree(split: bool) -> None:
    """In training the coarse volumes are enlarged and then fused, at inference fused and then enlarged."""
    torch.manual_seed(0)
    net = FastBEVNet(SMALL).eval()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 6, *SMALL.image_hw, 3), dtype=np.uint8)
    tables = rng.integers(0, SMALL.cells + 1, (2, SMALL.voxels)).astype(np.int32)
    runner = torch_runner(net, 1, split=split)
    _, past = runner(images[1], list(tables), [None])
    found, features = runner(images[0], list(tables), [past])
    assert features.shape == (SMALL.cells, SMALL.neck_channels)
    mean, std = torch.tensor(SMALL.mean), torch.tensor(SMALL.std)
    pixels = ((torch.from_numpy(images).float() - mean) / std).permute(0, 1, 4, 2, 3).reshape(1, 12, 3, *SMALL.image_hw)
    with torch.no_grad():
        wanted = net(pixels, torch.from_numpy(tables)[None])
    for a, b in zip(found, wanted):
        np.testing.assert_allclose(a, b[0].numpy(), atol=1e-4 * float(b.std()) + 1e-5)
    assert float(np.abs(runner(images[0], list(tables), [None])[0][0] - found[0]).max()) > 1e-4, "the past is used"


def test_the_exported_graph_runs_on_drives() -> None:
    torch.manual_seed(0)
    net = FastBEVNet(SMALL).eval()
    with torch.no_grad():
        net.bbox_head.conv_cls.weight.normal_(std=0.5)
        assert net.bbox_head.conv_cls.bias is not None
        net.bbox_head.conv_cls.bias.fill_(-2.0)
    models = [FastBEV(net, "torch", threads=1), FastBEV(net, "onnx", threads=1, split=False)]
    with SimulatedDrive(900_000, rate=2.0, duration=1.0, image_width=200, density=0.2) as drive:
        for instant in drive:
            a, b = (model(instant) for model in models)
            assert len(a) == len(b) > 5
            np.testing.assert_allclose(a.score, b.score, atol=1e-4)
            np.testing.assert_allclose(a.center, b.center, atol=1e-2)


def test_the_simulated_trainer_refuses_it_in_one_line() -> None:
    with torch.device("meta"), pytest.raises(ValueError, match="small lifts several scales"):
        FastBEVNet(SMALL).image_features(torch.zeros(6, 3, *SMALL.image_hw))
