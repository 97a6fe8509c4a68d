"""Losses of GFLv2 (brief giraffedet section 4): quality focal, GIoU, distribution focal. Float32, on probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from bevstack.detect.config import GiraffeDetConfig
from bevstack.detect.graphs import cell_centres
from bevstack.detect.postprocess import level_cells

from .assign import assign

GIOU_WEIGHT, DFL_WEIGHT = 2.0, 0.25
_EPS = 1e-6


@dataclass(frozen=True)
class Targets:
    """One image's boxes on the canvas: ``boxes`` (G, 4), ``labels`` (G,), ``ignore`` (I, 4), ``unknown`` (K,) classes."""

    boxes: Tensor
    labels: Tensor
    ignore: Tensor
    unknown: Tensor


@dataclass(frozen=True)
class Losses:
    """Weighted parts; ``positives``: cells that learned a box (mean over processes)."""

    cls: Tensor
    box: Tensor
    dfl: Tensor
    positives: float

    @property
    def total(self) -> Tensor:
        return self.cls + self.box + self.dfl


def giou(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Generalised IoU and IoU of corresponding rows (N, 4)."""
    low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    common = (high - low).clamp(min=0).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - common
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(1)
    iou = common / union.clamp(min=_EPS)
    return iou - (hull - union) / hull.clamp(min=_EPS), iou


def quality_focal(probability: Tensor, target: Tensor, beta: float = 2.0) -> Tensor:
    """BCE(p, q) * |q - p|^beta per entry; with q = 0 the factor is p^beta."""
    p = probability.clamp(_EPS, 1.0 - _EPS)
    bce = -(target * p.log() + (1.0 - target) * (1.0 - p).log())
    return bce * (target - probability).abs().pow(beta)


def distribution_focal(logits: Tensor, target: Tensor) -> Tensor:
    """(M, bins) logits, (M,) targets in [0, bins - 1) -> (M,): cross-entropy to both neighbours, weighted by nearness."""
    low = target.long()
    share = target - low
    return (
        cross_entropy(logits, low, reduction="none") * (1.0 - share) + cross_entropy(logits, low + 1, reduction="none") * share
    )


class GFLLoss:
    """Losses of a batch on one canvas (height, width)."""

    def __init__(self, config: GiraffeDetConfig, canvas: tuple[int, int], device: torch.device | str = "cpu") -> None:
        self.config, self.cells = config, level_cells(canvas)
        centres, strides = cell_centres(canvas)
        self.centres, self.strides = centres.to(device), strides.to(device)
        self.project = torch.arange(config.head.reg_max + 1, dtype=torch.float32, device=device)

    def __call__(
        self,
        scores: Sequence[Tensor],
        logits: Sequence[Tensor],
        targets: Sequence[Targets],
        mean: Callable[[Tensor], Tensor] | None = None,
    ) -> Losses:
        """Head outputs per level (see ``GFLHead``) and one ``Targets`` per image. Images without boxes are legal.

        Args:
            mean: brings the normalisers to their mean over all processes (distributed training); None: there is one process.
        """
        bins, reg_max = self.config.head.reg_max + 1, self.config.head.reg_max
        probability = torch.cat([s.float().flatten(2) for s in scores], 2).transpose(1, 2)  # (N, A, K)
        sides = torch.cat([r.float().flatten(2) for r in logits], 2).transpose(1, 2)  # (N, A, 4 * bins)
        probability, sides = probability.contiguous(), sides.contiguous()
        quality = torch.zeros_like(probability)
        weight = torch.ones_like(probability)
        rows, truths, labels = [], [], []
        for n, t in enumerate(targets):
            found = assign(self.centres, self.strides, self.cells, t.boxes, t.ignore)
            weight[n, found.ignored] = 0.0
            if len(t.unknown):
                weight[n, :, : len(t.unknown)] *= (~t.unknown).float()
            cell = torch.nonzero(found.box >= 0)[:, 0]
            rows.append(n * len(self.centres) + cell)
            truths.append(t.boxes[found.box[cell]])
            labels.append(t.labels[found.box[cell]])
        row, truth, label = torch.cat(rows), torch.cat(truths), torch.cat(labels)
        flat = probability.reshape(-1, probability.shape[2])
        side = sides.view(-1, 4, bins)[row]
        cell = row % len(self.centres)
        stride = self.strides[cell][:, None]
        centre, truth = self.centres[cell] / stride, truth / stride
        distance = side.softmax(2) @ self.project
        box = torch.cat([centre - distance[:, :2], centre + distance[:, 2:]], 1)
        generalised, iou = giou(box, truth)
        quality.view(-1, flat.shape[1])[row, label] = iou.detach().clamp(0.0, 1.0)
        weight.view(-1, flat.shape[1])[row, label] = 1.0
        share = flat.detach()[row].amax(1) if len(row) else flat.new_zeros(0)
        totals = torch.stack([flat.new_tensor(float(len(row))), share.sum()])
        if mean is not None:
            totals = mean(totals)
        # The released normalisers have no lower bound: a batch without boxes would divide by zero. The weights keep theirs near
        # zero: with a bound of 1, boxes learn next to nothing as long as all scores of a small batch are low.
        positives, importance = totals[0].clamp(min=1.0), totals[1].clamp(min=_EPS)
        target = torch.cat([centre - truth[:, :2], truth[:, 2:] - centre], 1).clamp(0.0, reg_max - 0.1)
        dfl = distribution_focal(side.reshape(-1, bins), target.reshape(-1)).reshape(-1, 4).mean(1)
        return Losses(
            cls=(quality_focal(probability, quality) * weight).sum() / positives,
            box=GIOU_WEIGHT * ((1.0 - generalised) * share).sum() / importance,
            dfl=DFL_WEIGHT * (dfl * share).sum() / importance,
            positives=float(positives),
        )
