"""The network cut for inference: normalisation, folded norms and decoding inside; fixed canvas, any batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bevstack.nn.fold import fold_batch_norms

from .config import STRIDES
from .network import Focus, GiraffeDetNet

OUTPUTS = ("scores", "boxes")


class FoldedFocus(nn.Module):
    """``Focus`` as one 2x2 convolution of stride 2: the same numbers without moving pixels into channels first."""

    def __init__(self, focus: Focus) -> None:
        super().__init__()
        old = focus.conv.conv
        inputs = old.in_channels // 4
        self.conv = nn.Conv2d(inputs, old.out_channels, 2, 2, bias=old.bias is not None)
        with torch.no_grad():
            self.conv.weight.copy_(old.weight.reshape(old.out_channels, inputs, 2, 2))
            if old.bias is not None and self.conv.bias is not None:
                self.conv.bias.copy_(old.bias)
        self.bn, self.act = focus.conv.bn, focus.conv.act

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.bn(self.conv(x)))
        return y


def inference_net(net: GiraffeDetNet) -> GiraffeDetNet:
    """A copy in eval mode with batch norms folded and space-to-depth turned into strided convolutions."""
    folded = fold_batch_norms(net)
    for part in list(folded.modules()):
        for name, child in list(part.named_children()):
            if isinstance(child, Focus):
                setattr(part, name, FoldedFocus(child))
    return folded


def cell_centres(canvas: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """(A, 2) x, y in canvas pixels and (A,) strides of all cells, P3 to P7, rows first: cell (y, x) lies at (x, y) * stride."""
    centres, strides = [], []
    for stride in STRIDES:
        rows, columns = canvas[0] // stride, canvas[1] // stride
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        centres.append(torch.stack([x, y], -1).reshape(-1, 2).float() * stride)
        strides.append(torch.full((rows * columns,), float(stride)))
    return torch.cat(centres), torch.cat(strides)


class DetectGraph(nn.Module):
    """(N, H, W, 3) uint8 RGB -> scores (N, A, K) and boxes (N, A, 4) in canvas pixels, A cells of P3 to P7.

    Args:
        net: ``inference_net``'s result. ``canvas``: (H, W).
    """

    mean: Tensor
    scale: Tensor
    centres: Tensor
    strides: Tensor

    def __init__(self, net: GiraffeDetNet, canvas: tuple[int, int]) -> None:
        super().__init__()
        self.net = net
        centres, strides = cell_centres(canvas)
        self.register_buffer("mean", torch.tensor(net.config.mean).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", 1.0 / torch.tensor(net.config.std).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("centres", centres, persistent=False)
        self.register_buffer("strides", strides[:, None], persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        planes = (images.permute(0, 3, 1, 2).to(torch.float32) - self.mean) * self.scale
        head, classes = self.net.bbox_head, len(self.net.config.classes)
        scores, distances = [], []
        for index, level in enumerate(self.net.features(planes)):
            score, _, prob = head.level(level, index)
            scores.append(score[:, :classes].flatten(2))
            distances.append((prob * head.integral.project[:, None, None]).sum(2).flatten(2))
        distance = torch.cat(distances, 2).transpose(1, 2) * self.strides
        boxes = torch.cat([self.centres - distance[..., :2], self.centres + distance[..., 2:]], -1)
        return torch.cat(scores, 2).transpose(1, 2), boxes
