"""Direct assignment: a head that says what it is told is decoded into the true boxes, and the loss leads there."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bevstack.bev.anchors import all_anchors
from bevstack.bev.config import CONFIGS
from bevstack.bev.conventions import boxes_from_rows, rows_from_boxes
from bevstack.bev.decode import decode_maps
from bevstack.bev.network import FastBEVNet
from bevstack.geometry import DETECTION_CLASSES, Boxes3D
from bevstack.learn.assignment import TYPICAL_SIZES, DenseAssignmentLoss, SampleTargets, assign, silence_unused, size_slots
from bevstack.learn.coding import direction_bin, encode
from bevstack.learn.nuscenes_metrics import score_detections

CONFIG = CONFIGS["fastbev-micro"]
ANCHORS = torch.from_numpy(all_anchors(CONFIG)).reshape(-1, CONFIG.anchors.per_cell, 9)


def scene(seed: int) -> Boxes3D:
    """Three boxes of each class, far enough from each other that neither cells nor non-maximum suppression merge them."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(10), 3)
    grid = np.stack(np.meshgrid(np.arange(-30, 31, 10.0), np.arange(-30, 31, 10.0)), -1).reshape(-1, 2)
    centre = grid[rng.permutation(len(grid))[: len(labels)]] * 0.6 + rng.uniform(-0.5, 0.5, (len(labels), 2))
    width, length = np.minimum(np.asarray(TYPICAL_SIZES)[labels], 4.0).T
    return Boxes3D(
        center=np.column_stack([centre, np.ones(len(labels))]),
        size=np.column_stack([length, width, rng.uniform(1, 2, len(labels))]),
        yaw=rng.uniform(-math.pi, math.pi, len(labels)),
        velocity=rng.normal(0, 3, (len(labels), 2)),
        label=labels,
    )


def perfect_maps(t: SampleTargets) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Head maps that say exactly what the targets ask for."""
    per_cell, (ny, nx) = CONFIG.anchors.per_cell, CONFIG.bev_hw
    cls = np.full((per_cell, 10, ny, nx), -12.0, np.float32)
    reg = np.zeros((ny * nx, per_cell, 9), np.float32)
    turn = np.zeros((ny * nx, per_cell, 2), np.float32)
    for k, slot in enumerate(size_slots(CONFIG)):
        for r in range(2):
            heat = np.clip(t.heat[k, r], 1e-5, 0.98)
            cls[slot * 2 + r, k] = np.log(heat / (1 - heat))
    rows = torch.from_numpy(t.rows)
    reg[t.cell, t.slot] = encode(ANCHORS[t.cell, t.slot], rows).numpy()
    turn[t.cell, t.slot, direction_bin(rows[:, 6]).numpy()] = 5.0
    shape = (ny, nx, -1)
    return (
        cls.reshape(-1, ny, nx),
        reg.reshape(shape).transpose(2, 0, 1),
        turn.reshape(shape).transpose(2, 0, 1),
    )


def test_perfect_maps_decode_to_the_truth() -> None:
    pairs = []
    for seed in range(3):
        truth = scene(seed)
        targets = assign(rows_from_boxes(truth, CONFIG.ego_from_lidar).astype(np.float32), truth.label, CONFIG)
        assert targets.objects == len(truth)
        found = decode_maps(*perfect_maps(targets), CONFIG)
        pairs.append((boxes_from_rows(found.rows, found.scores, found.labels, CONFIG.ego_from_lidar), truth))
    result = score_detections(pairs)
    assert result.mean_ap > 0.97
    assert result.errors["ATE"] < 0.05
    assert result.errors["AOE"] < 0.05
    assert result.errors["AVE"] < 0.05
    assert result.errors["ASE"] < 0.05


@pytest.mark.parametrize(("yaw", "slots"), [(0.0, 1), (math.pi / 4, 2), (math.pi / 2, 1), (-3 * math.pi / 4, 2)])
def test_heading_chooses_rotations(yaw: float, slots: int) -> None:
    row = np.array([[0.3, 0.4, -1.8, 1.9, 4.5, 1.6, yaw, 0, 0]], np.float32)
    targets = assign(row, np.array([0]), CONFIG)
    assert len(set(targets.slot.tolist())) == slots
    assert sum(float(targets.heat[0, r].max()) == 1.0 for r in range(2)) == slots


def test_round_objects_answer_in_both_rotations_and_outsiders_in_none() -> None:
    person = np.array([[5.0, 5.0, -1.8, 0.7, 0.7, 1.7, 1.1, 0, 0], [60.0, 0, -1.8, 0.7, 0.7, 1.7, 0, 0, 0]], np.float32)
    targets = assign(person, np.array([7, 7]), CONFIG)
    assert targets.objects == 1
    assert (targets.heat[7].max(axis=(1, 2)) == 1.0).all()
    assert not targets.ignore.any()


def test_a_head_alone_learns_one_scene() -> None:
    torch.manual_seed(0)
    truth = scene(5)
    targets = assign(rows_from_boxes(truth, CONFIG.ego_from_lidar).astype(np.float32), truth.label, CONFIG)
    net = FastBEVNet(CONFIG)
    silence_unused(net, CONFIG)
    loss = DenseAssignmentLoss(CONFIG, ANCHORS.reshape(-1, 9))
    bev = torch.zeros(1, 64, 100, 100)
    bev[0, :40] = torch.randn(40, 100, 100)
    bev.requires_grad_()
    optimizer = torch.optim.Adam([bev, *net.bbox_head.parameters()], lr=0.05)
    first = None
    for _ in range(60):
        optimizer.zero_grad()
        total = loss(net.bbox_head, bev, [targets]).total
        total.backward()
        optimizer.step()
        first = first or total.item()
    assert total.item() < 0.15 * first
    with torch.no_grad():
        cls = net.bbox_head(bev)[0].reshape(8, 10, 100, 100)
    used = {(s * 2 + r, k) for k, s in enumerate(size_slots(CONFIG)) for r in range(2)}
    silent = [cls[a, k] for a in range(8) for k in range(len(DETECTION_CLASSES)) if (a, k) not in used]
    assert torch.stack(silent).max() == -12.0
