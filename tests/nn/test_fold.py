"""Folded batch norms change nothing but the cost."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bevstack.nn.fold import fold_batch_norms
from bevstack.nn.layers import BasicBlock, Bottleneck, ConvBN, ResidualBlock
from bevstack.nn.resnet import ResNet
from bevstack.nn.seed import seed_everything


def shaken(module: nn.Module) -> nn.Module:
    """Batch norms as after training: no mean is 0, no variance 1."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_()  # type: ignore[union-attr]
            part.running_var.uniform_(0.3, 2.0)  # type: ignore[union-attr]
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias)
    return module.eval()


@pytest.mark.parametrize(
    "make",
    [
        lambda: ConvBN(8, 8),
        lambda: ResidualBlock(8),
        lambda: BasicBlock(8, 16, 2),
        lambda: Bottleneck(8, 4, 2),
        lambda: nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)),
    ],
)
def test_same_outputs_without_norms(make: object) -> None:
    seed_everything(0)
    module = shaken(make())  # type: ignore[operator]
    x = torch.randn(2, 8, 9, 11)
    folded = fold_batch_norms(module)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert any(isinstance(m, nn.BatchNorm2d) for m in module.modules()), "the original is left as it was"
    torch.testing.assert_close(folded(x), module(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("block", "stem"), [("basic", (8,)), ("bottleneck", (8,)), ("basic", (4, 8))])
def test_backbone_strides_and_folding(block: str, stem: tuple[int, ...]) -> None:
    seed_everything(0)
    net = shaken(ResNet(block, stem, (8, 8, 16, 16), (1, 1, 2, 1)))  # type: ignore[arg-type]
    x = torch.randn(1, 3, 64, 96)
    maps = net(x)
    assert [tuple(m.shape[2:]) for m in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    assert [m.shape[1] for m in maps] == net.outputs
    folded = fold_batch_norms(net)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    for a, b in zip(folded(x), maps):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)


def test_seed() -> None:
    first = seed_everything(5).random()
    a = torch.rand(3)
    assert seed_everything(5).random() == first
    assert torch.equal(torch.rand(3), a)
