"""FreeAnchor losses of the published Fast-BEV head (brief fast-bev, section 1.6; FreeAnchor, arXiv 1909.02466).

No anchor is assigned by hand. Every true box owns a *bag* of the anchors that overlap it most; the positive loss asks that
at least one of them is confident and well placed, the negative loss pushes all anchors down except where their predicted box
already covers an object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .coding import decode, direction_bin, encode, nearest_bev_iou


@dataclass(frozen=True)
class FreeAnchorOptions:
    """Constants of the published configuration."""

    bag: int = 25  # anchors per true box
    alpha: float = 0.5  # weight of the positive part; 1 - alpha is the negative part's
    gamma: float = 2.0  # focusing of the negative part
    iou_floor: float = 0.5  # overlap from which a prediction counts as covering an object
    smooth_l1_beta: float = 1.0 / 9.0
    box_weight: float = 0.8
    direction_weight: float = 0.8
    velocity_weight: float = 0.2


@dataclass(frozen=True)
class FreeAnchorLosses:
    """``positive`` and ``negative``: scalars to add up. ``per_box`` (G,): the positive term of every true box of the batch."""

    positive: Tensor
    negative: Tensor
    per_box: Tensor

    @property
    def total(self) -> Tensor:
        return self.positive + self.negative


def choose_bags(anchors: Tensor, boxes: Tensor, size: int) -> Tensor:
    """(G, size) int64: the anchors (A, 9) of highest nearest-BEV overlap with each box (G, 9). Ties have no defined order."""
    return torch.topk(nearest_bev_iou(boxes, anchors), size, dim=1, sorted=False).indices


def _box_loss(deltas: Tensor, targets: Tensor, options: FreeAnchorOptions) -> Tensor:
    """(...,) weighted SmoothL1 sum over the nine codes; yaw enters as sin(prediction - target), split so that each side has
    a gradient."""
    predicted_yaw, target_yaw = deltas[..., 6:7], targets[..., 6:7]
    ours = torch.cat([deltas[..., :6], torch.sin(predicted_yaw) * torch.cos(target_yaw), deltas[..., 7:]], dim=-1)
    theirs = torch.cat([targets[..., :6], torch.cos(predicted_yaw) * torch.sin(target_yaw), targets[..., 7:]], dim=-1)
    weights = deltas.new_tensor([1.0] * 7 + [options.velocity_weight] * 2)
    loss = functional.smooth_l1_loss(ours, theirs, beta=options.smooth_l1_beta, reduction="none")
    return options.box_weight * (loss * weights).sum(-1)


def covering_probability(anchors: Tensor, deltas: Tensor, boxes: Tensor, labels: Tensor, classes: int, floor: float) -> Tensor:
    """(A, classes) how surely each predicted box already covers an object of each class, 0 where its overlap is below
    ``floor``."""
    iou = nearest_bev_iou(boxes, decode(anchors, deltas))
    best = iou.max(dim=1, keepdim=True).values.clamp(min=floor + 1e-6)
    cover = ((iou - floor) / (best - floor)).clamp(0, 1)
    result = anchors.new_zeros((classes, len(anchors)))
    return result.scatter_reduce(0, labels[:, None].expand_as(cover), cover, "amax").t()


def free_anchor_losses(
    cls: Tensor,
    reg: Tensor,
    direction: Tensor,
    anchors: Tensor,
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    *,
    bags: Sequence[Tensor] | None = None,
    options: FreeAnchorOptions | None = None,
) -> FreeAnchorLosses:
    """Losses of a batch.

    Args:
        cls: (N, A, K) class logits.
        reg: (N, A, 9) deltas.
        direction: (N, A, 2) direction logits.
        anchors: (A, 9).
        boxes: per sample (G, 9) true boxes in the model's convention (``bevstack.learn.coding``).
        labels: per sample (G,) int64.
        bags: per sample (G, bag) anchor indices, instead of choosing them.
        options: constants; the published ones when None.
    """
    options = options or FreeAnchorOptions()
    probability = torch.sigmoid(cls)
    cover = torch.zeros_like(probability)
    terms = []
    for i, (truth, label) in enumerate(zip(boxes, labels, strict=True)):
        if not len(truth):
            continue
        with torch.no_grad():
            cover[i] = covering_probability(anchors, reg[i], truth, label, cls.shape[-1], options.iou_floor)
            bag = choose_bags(anchors, truth, options.bag) if bags is None else bags[i]
            targets = encode(anchors[bag], truth[:, None].expand(-1, bag.shape[1], -1))
            wanted = direction_bin(truth[:, None, 6].expand(-1, bag.shape[1]))
        p_class = probability[i][bag, label[:, None]]
        turn = functional.cross_entropy(direction[i][bag].transpose(1, 2), wanted, reduction="none")
        p_box = torch.exp(-(_box_loss(reg[i][bag], targets, options) + options.direction_weight * turn))
        p = p_class * p_box
        weight = 1 / (1 - p).clamp(
            min=1e-12
        )  # mean-max: nearly the mean while all are bad, nearly the maximum once one is good
        likelihood = ((weight / weight.sum(1, keepdim=True)) * p).sum(1).clamp(0, 1)
        terms.append(-options.alpha * torch.log(likelihood).clamp(min=-100))
    per_box = torch.cat(terms) if terms else cls.sum() * torch.zeros(0, dtype=cls.dtype, device=cls.device)
    count = len(per_box)
    wrong = (probability * (1 - cover)).clamp(0, 1)
    negative = (1 - options.alpha) * (wrong**options.gamma * -torch.log(1 - wrong).clamp(min=-100)).sum()
    return FreeAnchorLosses(per_box.sum() / max(1, count), negative / max(1, count * options.bag), per_box)
