"""Order of channels inside a residual backbone, important ones first: narrower networks use the leading ones.

Cai et al. (arXiv 1908.09791) sort by the L1 norm of the weights that read a channel. Here that norm is multiplied by the scale
of the channel's batch norms, because weights that read a silent channel say nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .layers import BasicBlock, Bottleneck, ConvBN
from .resnet import ResNet


@dataclass
class Stream:
    """Maps that are added to each other, so that their channels have one order: who writes them, who reads them."""

    writers: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = field(default_factory=list)
    readers: list[nn.Conv2d] = field(default_factory=list)

    def importance(self) -> Tensor:
        """(C,) how much each channel moves what is computed from it."""
        read = torch.stack([r.weight.abs().sum((0, 2, 3)) for r in self.readers]).sum(0)
        written = torch.stack([(n.weight.square() + n.bias.square()).sqrt() for _, n in self.writers]).sum(0)
        return read * written

    def reorder(self, order: Tensor) -> None:
        """Puts channel ``order[i]`` at place i, for all writers and readers."""
        for conv, norm in self.writers:
            conv.weight.data = conv.weight.data[order]
            for name in ("weight", "bias", "running_mean", "running_var"):
                getattr(norm, name).data = getattr(norm, name).data[order]
        for reader in self.readers:
            reader.weight.data = reader.weight.data[:, order]


def streams(backbone: ResNet, readers: Sequence[nn.Conv2d]) -> list[Stream]:
    """All streams of a residual backbone. ``readers``: what reads its four outputs, in their order."""
    found: list[Stream] = []
    if backbone.light_stem:
        first, second = backbone.stem
        assert isinstance(first, ConvBN)
        assert isinstance(second, ConvBN)
        found.append(Stream([(first.conv, first.bn)], [second.conv]))
        stream = Stream([(second.conv, second.bn)])
    else:
        stream = Stream([(backbone.conv1, backbone.bn1)])
    for stage, reader in enumerate(readers, start=1):
        for block in getattr(backbone, f"layer{stage}"):
            assert isinstance(block, (BasicBlock, Bottleneck))
            convs, norms = [block.conv1, block.conv2], [block.bn1, block.bn2]
            if isinstance(block, Bottleneck):
                convs.append(block.conv3)
                norms.append(block.bn3)
            stream.readers.append(convs[0])
            found += [Stream([(a, n)], [b]) for a, n, b in zip(convs, norms, convs[1:])]
            if block.downsample is not None:
                assert isinstance(block.downsample, nn.Sequential)
                conv, norm = block.downsample
                assert isinstance(conv, nn.Conv2d)
                assert isinstance(norm, nn.BatchNorm2d)
                stream.readers.append(conv)
                found.append(stream)
                stream = Stream([(conv, norm)])
            stream.writers.append((convs[-1], norms[-1]))
        stream.readers.append(reader)
    found.append(stream)
    return found


@torch.no_grad()
def sort_channels(backbone: ResNet, readers: Sequence[nn.Conv2d]) -> None:
    """Puts the important channels of every stream first, in place; the network computes the same as before."""
    for stream in streams(backbone, readers):
        stream.reorder(stream.importance().argsort(descending=True, stable=True))
