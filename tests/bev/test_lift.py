"""Torch lift and compiled gather: same volume, channel order, gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bevstack.bev.gather import Gather
from bevstack.bev.lift import fold_height, lift_rows


def scene(times: int = 3, batch: int = 2) -> tuple[list[torch.Tensor], torch.Tensor, tuple[int, int, int]]:
    torch.manual_seed(0)
    n = (5, 4, 3)
    features = [torch.randn(batch, 6, 7, 3, 4) for _ in range(times)]
    tables = torch.randint(0, 6 * 3 * 4 + 1, (batch, times, 60), dtype=torch.int32)
    return features, tables, n


def test_channel_order_is_height_then_time_then_feature() -> None:
    features, tables, n = scene()
    volume = fold_height([lift_rows(f, tables[:, t]) for t, f in enumerate(features)], n)
    assert volume.shape == (2, 3 * 3 * 7, 5, 4)
    for b, x, y, z, t in ((0, 0, 0, 0, 0), (1, 4, 3, 2, 2), (1, 2, 1, 0, 1), (0, 3, 2, 1, 2)):
        cell = int(tables[b, t, (x * 4 + y) * 3 + z])
        first = z * 3 * 7 + t * 7
        mine = volume[b, first : first + 7, x, y]
        if cell == 72:
            assert not mine.any()
        else:
            camera, rest = divmod(cell, 12)
            v, u = divmod(rest, 4)
            assert torch.equal(mine, features[t][b, camera, :, v, u])


def test_every_voxel_sends_its_gradient_to_its_cell() -> None:
    features, tables, n = scene(times=1, batch=1)
    maps = features[0].requires_grad_()
    fold_height([lift_rows(maps, tables[:, 0])], n).sum().backward()
    counts = np.bincount(tables[0, 0].numpy(), minlength=73)[:72]
    assert maps.grad is not None
    grad = maps.grad[0].permute(0, 2, 3, 1).reshape(72, 7).numpy()
    np.testing.assert_allclose(grad, np.repeat(counts[:, None], 7, axis=1))


@pytest.mark.parametrize("threads", [1, 3])
def test_gather_equals_the_torch_lift(threads: int) -> None:
    features, tables, n = scene(batch=1)
    rows = [f[0].permute(0, 2, 3, 1).reshape(72, 7).contiguous().numpy() for f in features]
    gather = Gather(60, 3, 7, threads)
    volume = gather(rows, tables[0].numpy())
    wanted = fold_height([lift_rows(f, tables[:, t]) for t, f in enumerate(features)], n)
    mine = torch.from_numpy(volume).reshape(5, 4, -1).permute(2, 0, 1)
    assert torch.equal(mine, wanted[0])
    assert gather(rows[::-1], tables[0].numpy()) is volume  # the buffer is reused
    gather.close()


def test_entries_outside_the_rows_give_zeros_not_memory() -> None:
    gather = Gather(4, 1, 2)
    table = np.array([[0, 5, -1, 2**31 - 1]], np.int32)
    volume = gather([np.ones((5, 2), np.float32)], table)
    assert volume[:, 0].tolist() == [[1, 1], [0, 0], [0, 0], [0, 0]]


def test_wrong_shapes_are_refused() -> None:
    gather = Gather(4, 2, 2)
    table = np.zeros((2, 4), np.int32)
    with pytest.raises(ValueError, match="1 instants"):
        gather([np.ones((5, 2), np.float32)], table)
    with pytest.raises(ValueError, match="float64"):
        gather([np.ones((5, 2)), np.ones((5, 2))], table)  # type: ignore[list-item]
