"""ATSS and the three losses against the plain definitions; images without boxes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bevstack.detect.config import STRIDES, GiraffeDetConfig
from bevstack.detect.graphs import cell_centres
from bevstack.detect.network import GiraffeDetNet
from bevstack.detect.postprocess import level_cells
from bevstack.learn.detect.assign import ANCHOR, TOP_K, assign, pairwise_iou
from bevstack.learn.detect.losses import GFLLoss, Targets, distribution_focal, giou, quality_focal

CANVAS = (128, 256)


def iou(a: list[float], b: list[float]) -> float:
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(w, 0.0) * max(h, 0.0)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def plain_assignment(boxes: list[list[float]]) -> list[int]:
    """Section 4 of the brief, word for word, on lists."""
    centres, strides = (t.tolist() for t in cell_centres(CANVAS))
    best = [(-1.0, -1)] * len(centres)
    for g, box in enumerate(boxes):
        cx, cy = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        chosen: list[int] = []
        for stride in STRIDES:
            level = [i for i, s in enumerate(strides) if s == stride]
            chosen += sorted(level, key=lambda i: math.hypot(centres[i][0] - cx, centres[i][1] - cy))[:TOP_K]
        half = [ANCHOR / 2 * strides[i] for i in chosen]
        overlaps = [
            iou([centres[i][0] - h, centres[i][1] - h, centres[i][0] + h, centres[i][1] + h], box) for i, h in zip(chosen, half)
        ]
        mean = sum(overlaps) / len(overlaps)
        threshold = mean + math.sqrt(sum((o - mean) ** 2 for o in overlaps) / (len(overlaps) - 1))
        for i, o in zip(chosen, overlaps):
            x, y = centres[i]
            if o >= threshold and min(x - box[0], y - box[1], box[2] - x, box[3] - y) > 0.01 and o > best[i][0]:
                best[i] = (o, g)
    return [g for _, g in best]


def test_assignment_is_the_definition() -> None:
    # Coordinates of no symmetry: no two cells are equally near.
    boxes = [[3.1, 7.3, 61.7, 40.9], [30.3, 20.1, 190.6, 111.2], [100.2, 50.7, 121.9, 88.8], [200.4, 3.3, 213.1, 19.9]]
    centres, strides = cell_centres(CANVAS)
    found = assign(centres, strides, level_cells(CANVAS), torch.tensor(boxes), torch.zeros(0, 4))
    assert found.box.tolist() == plain_assignment(boxes)
    assert set(found.box.tolist()) == {-1, 0, 1, 2, 3}
    assert not found.ignored.any()


def test_regions_to_ignore_silence_their_background_only() -> None:
    centres, strides = cell_centres(CANVAS)
    box = torch.tensor([[3.1, 7.3, 61.7, 40.9]])
    found = assign(centres, strides, level_cells(CANVAS), box, torch.tensor([[0.0, 0.0, 64.0, 64.0]]))
    inside = (centres <= 64).all(1)
    assert torch.equal(found.ignored, inside & (found.box < 0))
    nothing = assign(centres, strides, level_cells(CANVAS), torch.zeros(0, 4), torch.zeros(0, 4))
    assert nothing.box.tolist() == [-1] * len(centres)


def test_overlaps() -> None:
    a, b = torch.tensor([[0.0, 0, 4, 4], [0, 0, 1, 1]]), torch.tensor([[2.0, 0, 6, 4], [3, 3, 5, 4]])
    generalised, plain = giou(a, b)
    assert plain.tolist() == pytest.approx([1 / 3, 0])
    assert generalised.tolist() == pytest.approx([1 / 3, -(20 - 3) / 20])
    assert pairwise_iou(a, b).tolist()[0] == pytest.approx([1 / 3, 1 / 17])


def test_focal_losses_by_hand() -> None:
    p, q = torch.tensor([0.2, 0.2, 0.7]), torch.tensor([0.0, 0.9, 0.7])
    want = [-math.log(0.8) * 0.04, (-0.9 * math.log(0.2) - 0.1 * math.log(0.8)) * 0.49, 0.0]
    assert quality_focal(p, q).tolist() == pytest.approx(want, abs=1e-6)
    logits = torch.tensor([[0.0, 1.0, 2.0, 0.5]])
    log = logits.log_softmax(1)[0]
    assert distribution_focal(logits, torch.tensor([1.25])).tolist() == pytest.approx([float(-0.75 * log[1] - 0.25 * log[2])])


def plain_loss(
    config: GiraffeDetConfig, probability: Tensor, sides: Tensor, targets: list[Targets]
) -> tuple[float, float, float]:
    """Sums over images and cells, one at a time."""
    centres, strides = cell_centres(CANVAS)
    cls = box = dfl = weights = 0.0
    positives = 0
    for n, t in enumerate(targets):
        owner = plain_assignment(t.boxes.tolist())
        for cell, g in enumerate(owner):
            quality = 0.0
            if g >= 0:
                stride = float(strides[cell])
                x, y = (centres[cell] / stride).tolist()
                prob = sides[n, cell].reshape(4, -1).softmax(1)
                d = (prob @ torch.arange(config.head.reg_max + 1.0)).tolist()
                mine, true = [x - d[0], y - d[1], x + d[2], y + d[3]], (t.boxes[g] / stride).tolist()
                quality = iou(mine, true)
                hull = (max(mine[2], true[2]) - min(mine[0], true[0])) * (max(mine[3], true[3]) - min(mine[1], true[1]))
                area = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (mine, true))
                union = area / (1 + quality)
                share = float(probability[n, cell].max())
                box += (1 - quality + (hull - union) / hull) * share
                weights += share
                positives += 1
                for s, value in enumerate([x - true[0], y - true[1], true[2] - x, true[3] - y]):
                    value = min(max(value, 0.0), config.head.reg_max - 0.1)
                    low = int(value)
                    dfl += share / 4 * -math.log(float(prob[s, low])) * (1 - value + low)
                    dfl += share / 4 * -math.log(float(prob[s, low + 1])) * (value - low)
            for k in range(len(config.classes)):
                p = float(probability[n, cell, k])
                q = quality if g >= 0 and int(t.labels[g]) == k else 0.0
                if len(t.unknown) and bool(t.unknown[k]) and q == 0.0:
                    continue
                cls += (-q * math.log(p) - (1 - q) * math.log(1 - p)) * abs(q - p) ** 2
    return cls / max(positives, 1), 2.0 * box / weights, 0.25 * dfl / weights


def test_losses_are_the_sums_of_the_definition(tiny: GiraffeDetConfig) -> None:
    torch.manual_seed(1)
    cells = level_cells(CANVAS)
    shapes = [(CANVAS[0] // s, CANVAS[1] // s) for s in STRIDES]
    scores = [torch.rand(2, 2, h, w) * 0.5 + 0.01 for h, w in shapes]
    logits = [torch.randn(2, 68, h, w) for h, w in shapes]
    targets = [
        Targets(
            torch.tensor([[3.1, 7.3, 61.7, 40.9], [30.3, 20.1, 190.6, 111.2]]),
            torch.tensor([1, 0]),
            torch.zeros(0, 4),
            torch.tensor([False, False]),
        ),
        Targets(torch.tensor([[100.2, 50.7, 121.9, 88.8]]), torch.tensor([0]), torch.zeros(0, 4), torch.tensor([False, True])),
    ]
    found = GFLLoss(tiny, CANVAS)(scores, logits, targets)
    flat = torch.cat([s.flatten(2) for s in scores], 2).transpose(1, 2)
    sides = torch.cat([s.flatten(2) for s in logits], 2).transpose(1, 2)
    assert flat.shape[1] == sum(cells)
    want = plain_loss(tiny, flat, sides, targets)
    assert [float(found.cls), float(found.box), float(found.dfl)] == pytest.approx(want, rel=1e-3)


def test_images_without_boxes_have_finite_gradients(tiny: GiraffeDetConfig) -> None:
    torch.manual_seed(0)
    net = GiraffeDetNet(tiny).train()
    empty = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4), torch.zeros(0, dtype=torch.bool))
    scores, logits = net(torch.randn(2, 3, 128, 128))
    parts = GFLLoss(tiny, (128, 128))(scores, logits, [empty, empty])
    parts.total.backward()  # type: ignore[no-untyped-call]
    assert float(parts.box) == float(parts.dfl) == 0.0
    assert float(parts.cls) > 0
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in net.parameters())
