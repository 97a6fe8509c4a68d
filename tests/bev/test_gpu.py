"""The GPU's lift and runner: on the CPU device against the others everywhere, and on a GPU where there is one."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
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
from bevstack.frames import FrameSet
from bevstack.frames.sim import SimulatedDrive

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


def overlapping(net: FastBEVNet, device: str) -> FastBEV:
    model = FastBEV(net, "torch", threads=1)
    model._runner = CudaRunner(net, device, half=False)
    return model


@pytest.fixture(scope="module")
def drive() -> list[FrameSet]:
    with SimulatedDrive(4, rate=2.0, duration=3.0, image_width=200, density=0.3) as source:
        return list(source)


def lively() -> FastBEVNet:
    """A network that finds things, and other things in every instant."""
    torch.manual_seed(0)
    net = FastBEVNet(SMALL).eval()
    with torch.no_grad():
        net.bbox_head.conv_cls.weight.normal_(std=0.5)
        assert net.bbox_head.conv_cls.bias is not None
        net.bbox_head.conv_cls.bias.fill_(-3.0)
    return net


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_overlapped_instants_are_the_same_as_one_after_the_other(device: str, drive: list[FrameSet]) -> None:
    model = overlapping(lively(), device)
    assert model.overlaps
    wanted = [model(instant) for instant in drive]
    assert len(drive) == 6
    assert all(len(boxes) > 3 for boxes in wanted)
    assert any(not np.array_equal(a.score, b.score) for a, b in pairwise(wanted))
    model.reset()
    read: list[int] = []
    answered: list[int] = []

    def source() -> Any:
        for number, instant in enumerate(drive):
            read.append(number - len(answered))
            yield instant

    for boxes, same in zip(model.overlapped(source()), wanted, strict=True):
        answered.append(len(boxes))
        tolerance = 0.0 if device == "cpu" else 1e-4
        np.testing.assert_allclose(boxes.center, same.center, atol=tolerance)
        np.testing.assert_allclose(boxes.score, same.score, atol=tolerance)
        assert {"preprocess", "tables", "network", "decode", "total"} == set(model.timings)
    assert read == [0, 1, 1, 1, 1, 1], "each is read, and sent up, while the one before it is computed"
    model.close()


def test_what_is_broken_off_leaves_the_device_free(drive: list[FrameSet]) -> None:
    model = overlapping(lively(), "cpu")
    wanted = [len(model(instant)) for instant in drive]
    model.reset()
    stream = model.overlapped(drive)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    model.reset()

    def ends_badly() -> Any:
        yield from drive[:2]
        raise EngineError("the disk is gone")

    with pytest.raises(EngineError, match="the disk is gone"):
        list(model.overlapped(ends_badly()))
    model.reset()
    assert [len(model(instant)) for instant in drive] == wanted
    begun = [model.begin(instant) for instant in drive[:2]]
    with pytest.raises(EngineError, match="2 instants are under way"):
        model.begin(drive[2])
    model.reset()
    with pytest.raises(EngineError, match="order in which they were begun"):
        model.finish(begun[1])
    assert len(model.finish(begun[0])) == wanted[0], "begun with the past of the instants before, which is none but the others"
    model.close()


def test_an_engine_on_the_host_takes_one_instant_after_the_other(drive: list[FrameSet]) -> None:
    model = FastBEV(lively(), "torch", threads=1)
    assert not model.overlaps
    stream = model.overlapped(iter(drive[:2]))
    first = next(stream)
    assert len(model.cache) == 1, "nothing is held back"
    pending = model.begin(drive[1])
    second = model.finish(pending)
    model.reset()
    for boxes, instant in ((first, drive[0]), (second, drive[1])):
        np.testing.assert_array_equal(model(instant).score, boxes.score)
    model.close()


def test_without_a_gpu_it_is_said_in_one_line() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(EngineError, match="no CUDA GPU is available to torch"):
        FastBEV(SMALL, "torch-cuda")
