"""The GPU's lift and runner: on the CPU device against the others everywhere, and on a GPU where there is one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from bevstack.bev import FastBEV
from bevstack.bev.config import CONFIGS, BackboneConfig, EncoderConfig, FastBEVConfig, VoxelGrid
from bevstack.bev.cuda_runner import CudaRunner
from bevstack.bev.gather import Gather
from bevstack.bev.lift_gpu import GpuLift, has_kernel
from bevstack.bev.network import FastBEVNet
from bevstack.bev.runner import torch_runner
from bevstack.errors import EngineError

SMALL = replace(
    CONFIGS["fastbev-m0"],
    name="small",
    image_hw=(64, 96),
    backbone=BackboneConfig("basic", (8,), (8, 8, 8, 16), (1, 1, 1, 1)),
    neck_channels=8,
    grid=VoxelGrid((20, 20, 2), (5.0, 5.0, 1.5)),
    encoder=EncoderConfig("m2bev", fuse=16, channels=8, layers=1),
)
GPU = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU"))


def inputs(config: FastBEVConfig, seed: int) -> tuple[Any, list[Any]]:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (config.cameras, *config.image_hw, 3), dtype=np.uint8)
    return images, list(rng.integers(0, config.cells + 1, (len(config.times), config.grid.voxels)).astype(np.int32))


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize(("channels", "dtype"), [(64, torch.float16), (12, torch.float32), (1, torch.float32)])
def test_the_lift_copies_what_the_compiled_gather_copies(device: str, channels: int, dtype: torch.dtype) -> None:
    if device == "cuda":
        assert has_kernel(), "Triton comes with torch for CUDA"
    rng = np.random.default_rng(0)
    voxels, times, cells = 1003, 3, 200
    tables = rng.integers(-2, cells + 3, (times, voxels)).astype(np.int32)  # some outside, on both sides
    maps = [rng.integers(-99, 99, (cells, channels)).astype(np.float32) for _ in range(times)]
    wanted = Gather(voxels, times, channels)(maps, tables)
    lift = GpuLift(voxels, times, channels, dtype, device)
    lift.volume.fill_(7.0)
    found = lift([torch.from_numpy(m).to(device, dtype) for m in maps], torch.from_numpy(tables).to(device))
    np.testing.assert_array_equal(found.float().cpu().numpy(), wanted)


def test_shapes_that_do_not_fit_are_refused() -> None:
    lift = GpuLift(10, 2, 4, torch.float32, "cpu")
    tables = torch.zeros((2, 10), dtype=torch.int32)
    with pytest.raises(ValueError, match="1 instants"):
        lift([torch.zeros(5, 4)], tables)
    with pytest.raises(ValueError, match="features of instant 1"):
        lift([torch.zeros(5, 4), torch.zeros(5, 3)], tables)


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_the_runner_agrees_with_torch_also_in_the_past(device: str) -> None:
    torch.manual_seed(0)
    net = FastBEVNet(SMALL).eval()
    ours, theirs = CudaRunner(net, device, half=device == "cuda"), torch_runner(net, 1, split=True)
    tolerance = 1e-3 if device == "cpu" else 3e-2
    past_ours: list[Any] = []
    past_theirs: list[Any] = []
    for seed in range(4):
        images, tables = inputs(SMALL, seed)
        history_ours = [*past_ours, None, None, None][:3]
        history_theirs = [*past_theirs, None, None, None][:3]
        found, token = ours(images, tables, history_ours)
        wanted, features = theirs(images, tables, history_theirs)
        for a, b in zip(found, wanted):
            assert a.shape == b.shape
            assert float(np.abs(a - b).max()) < tolerance * max(1.0, float(np.abs(b).max()))
        past_ours, past_theirs = [token, *past_ours], [features, *past_theirs]
    swapped = ours(images, tables, [past_ours[2], past_ours[1], past_ours[3]])[0]
    assert any(float(np.abs(a - b).max()) > 0 for a, b in zip(swapped, found)), "the past is used"
    with pytest.raises(EngineError, match="forget the past"):
        ours(images, tables, [features, None, None])
    ours.close()


def test_without_a_gpu_it_is_said_in_one_line() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(EngineError, match="no CUDA GPU is available to torch"):
        FastBEV(SMALL, "torch-cuda")
