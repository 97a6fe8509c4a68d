"""FreeAnchor losses against the reference (losses and gradients), and what must break the comparison."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bevstack.bev.anchors import all_anchors
from bevstack.bev.config import CONFIGS
from bevstack.learn.coding import decode, direction_bin, encode, nearest_bev_iou
from bevstack.learn.freeanchor import FreeAnchorOptions, free_anchor_losses

CASES = ("random", "structured")
ANCHORS = torch.from_numpy(all_anchors(CONFIGS["fastbev-m0"]))


@pytest.fixture(scope="module")
def reference(golden: Path) -> dict[str, np.ndarray]:
    path = golden / "losses_m0.npz"
    if not path.is_file():
        pytest.skip(f"no {path.name} in {golden}")
    with np.load(path) as file:
        return dict(file)


def maps(reference: dict[str, np.ndarray], case: str) -> list[torch.Tensor]:
    """Head maps of a case as (1, A, K) leaves (recipe: README of the golden folder, sections 6 and 7)."""
    r = np.random.RandomState(int(reference[f"{case}.seed"]))
    raw = {
        "cls": -3 + r.standard_normal((80, 100, 100)),
        "reg": 0.2 * r.standard_normal((72, 100, 100)),
        "dir": r.standard_normal((16, 100, 100)),
    }
    result = []
    for name, value in raw.items():
        flat = value.reshape(8, -1, 100, 100).transpose(2, 3, 0, 1).reshape(80_000, -1).astype(np.float32)
        if f"{case}.override_anchor" in reference:
            flat[reference[f"{case}.override_anchor"]] = reference[f"{case}.override_{name}"]
        assert flat.sum(dtype=np.float64) == pytest.approx(float(reference[f"{case}.head_{name}_sum"]), rel=1e-9)
        result.append(torch.from_numpy(flat)[None].requires_grad_())
    return result


def truth(reference: dict[str, np.ndarray]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    return [torch.from_numpy(reference["gt_boxes"])], [torch.from_numpy(reference["gt_labels"]).long()]


@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_equal_the_reference(reference: dict[str, np.ndarray], case: str) -> None:
    heads = maps(reference, case)
    bags = [torch.from_numpy(reference["bag_index"]).long()]
    losses = free_anchor_losses(*heads, ANCHORS, *truth(reference), bags=bags)
    assert losses.positive.item() == pytest.approx(float(reference[f"{case}.positive_bag_loss"]), rel=1e-4)
    assert losses.negative.item() == pytest.approx(float(reference[f"{case}.negative_bag_loss"]), rel=1e-4)
    np.testing.assert_allclose(losses.per_box.detach().numpy(), reference[f"{case}.per_gt_positive"], atol=1e-4)
    losses.total.backward()
    for name, head in zip(("cls", "reg", "dir"), heads):
        assert head.grad is not None
        grad = head.grad[0].numpy().reshape(100, 100, -1).transpose(2, 0, 1).reshape(-1)
        norm = float(reference[f"{case}.grad_{name}.norm"])
        assert np.linalg.norm(grad.astype(np.float64)) == pytest.approx(norm, rel=1e-5)
        error = np.abs(grad[reference[f"{case}.grad_{name}.idx"]] - reference[f"{case}.grad_{name}.val"]).max()
        assert error / norm < 1e-5


@pytest.mark.parametrize("case", CASES)
def test_own_bags_agree_where_they_are_unique(reference: dict[str, np.ndarray], case: str) -> None:
    losses = free_anchor_losses(*maps(reference, case), ANCHORS, *truth(reference))
    assert losses.positive.item() == pytest.approx(float(reference[f"{case}.positive_bag_loss"]), rel=1e-2)
    unique = ~reference["bag_tie_at_cut"]
    np.testing.assert_allclose(losses.per_box.detach().numpy()[unique], reference[f"{case}.per_gt_positive"][unique], atol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        {"velocity_weight": 1.0},
        {"smooth_l1_beta": 1.0},
        {"direction_weight": 0.2},
        {"alpha": 0.25},
        {"iou_floor": 0.3},
        {"gamma": 1.0},
    ],
    ids=lambda c: next(iter(c)),
)
def test_wrong_constants_are_noticed(reference: dict[str, np.ndarray], change: dict[str, float]) -> None:
    options = replace(FreeAnchorOptions(), **change)
    bags = [torch.from_numpy(reference["bag_index"]).long()]
    with torch.no_grad():
        losses = free_anchor_losses(*maps(reference, "structured"), ANCHORS, *truth(reference), bags=bags, options=options)
    errors = [
        abs(losses.positive.item() / float(reference["structured.positive_bag_loss"]) - 1),
        abs(losses.negative.item() / float(reference["structured.negative_bag_loss"]) - 1),
    ]
    assert max(errors) > 1e-3


def test_no_object_leaves_only_the_negative_part() -> None:
    cls = torch.zeros(1, 16, 10, requires_grad=True)
    losses = free_anchor_losses(
        cls, torch.zeros(1, 16, 9), torch.zeros(1, 16, 2), ANCHORS[:16], [torch.zeros(0, 9)], [torch.zeros(0, dtype=torch.long)]
    )
    assert losses.positive.item() == 0.0
    assert losses.negative.item() > 0.0
    losses.total.backward()
    assert cls.grad is not None


def test_encode_is_the_inverse_of_decode() -> None:
    generator = torch.Generator().manual_seed(0)
    anchors = ANCHORS[torch.randint(len(ANCHORS), (200,), generator=generator)]
    deltas = 0.5 * torch.randn(200, 9, generator=generator)
    torch.testing.assert_close(encode(anchors, decode(anchors, deltas)), deltas, atol=2e-4, rtol=1e-4)


def test_direction_bins_split_the_circle_at_the_published_offset() -> None:
    yaw = torch.tensor([0.79, 0.78, 0.79 + math.pi, -math.pi / 2, math.pi / 2])
    assert direction_bin(yaw).tolist() == [0, 1, 1, 1, 0]


def test_nearest_overlap_swaps_sides_beyond_45_degrees() -> None:
    box = torch.tensor([[0.0, 0, 0, 2, 4, 1, 0, 0, 0]])
    quarter, slight = box.clone(), box.clone()
    quarter[0, 6], slight[0, 6] = 1.57, 0.7
    assert float(nearest_bev_iou(box, slight)) == pytest.approx(1.0)
    assert float(nearest_bev_iou(box, quarter)) == pytest.approx(4 / 12)
