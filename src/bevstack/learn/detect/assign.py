"""ATSS: which cells learn which box (Zhang et al. 2020; brief giraffedet section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

TOP_K = 9  # candidates per level
ANCHOR = 8  # side of a cell's square, in strides
_INSIDE = 0.01  # pixels that a positive cell's centre lies inside the box


@dataclass(frozen=True)
class Assignment:
    """``box``: (A,) index of the cell's box, -1 for background. ``ignored``: (A,) background cells that learn nothing."""

    box: Tensor
    ignored: Tensor


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """(N, 4) and (M, 4) corners -> (N, M)."""
    low, high = torch.maximum(a[:, None, :2], b[None, :, :2]), torch.minimum(a[:, None, 2:], b[None, :, 2:])
    common = (high - low).clamp(min=0).prod(2)
    area_a, area_b = (a[:, 2:] - a[:, :2]).clamp(min=0).prod(1), (b[:, 2:] - b[:, :2]).clamp(min=0).prod(1)
    return common / (area_a[:, None] + area_b[None] - common).clamp(min=1e-6)


def assign(centres: Tensor, strides: Tensor, cells: Sequence[int], boxes: Tensor, ignore: Tensor) -> Assignment:
    """One image.

    Args:
        centres: (A, 2), ``strides``: (A,), all levels; ``cells``: their number per level.
        boxes: (G, 4) corners. ``ignore``: (I, 4) regions whose cells learn nothing unless they have a box.

    A box's candidates are the ``TOP_K`` cells of each level nearest to its centre. Positive are those whose anchor (a square of
    8 strides) overlaps it by at least mean plus (unbiased) standard deviation over its candidates, with their centre inside the
    box; a cell wanted by several boxes takes the one that overlaps most.
    """
    device, count = centres.device, len(centres)
    left = torch.zeros(count, dtype=torch.bool, device=device)
    if len(ignore):
        inside = (centres[:, None] >= ignore[None, :, :2]) & (centres[:, None] <= ignore[None, :, 2:])
        left = inside.all(2).any(1)
    owner = torch.full((count,), -1, dtype=torch.int64, device=device)
    if not len(boxes):
        return Assignment(owner, left)
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    distance = torch.cdist(centres, middle)
    chosen, start = [], 0
    for n in cells:
        chosen.append(distance[start : start + n].topk(min(TOP_K, n), dim=0, largest=False).indices + start)
        start += n
    index = torch.cat(chosen)  # (C, G)
    half = strides * (ANCHOR / 2)
    anchors = torch.cat([centres - half[:, None], centres + half[:, None]], 1)
    overlaps = pairwise_iou(anchors, boxes)
    candidate = overlaps.gather(0, index)
    threshold = candidate.mean(0) + candidate.std(0)
    point = centres[index]  # (C, G, 2)
    depth = torch.cat([point - boxes[None, :, :2], boxes[None, :, 2:] - point], 2).amin(2)
    positive = (candidate >= threshold) & (depth > _INSIDE)
    best = torch.full((count, len(boxes)), -1.0, device=device)
    best.scatter_(0, index, torch.where(positive, candidate, candidate.new_tensor(-1.0)))
    value, box = best.max(1)
    owner = torch.where(value >= 0, box, owner)
    return Assignment(owner, left & (owner < 0))
