"""Direct assignment: a denser teacher for the same head than FreeAnchor, for training from nothing in little time.

FreeAnchor has to discover which anchor should answer for which object; from random weights that takes many samples. Here
every class owns one anchor size, every heading one or both anchor rotations, and the cells around a true centre are told
what to say: a Gaussian heat map for the class scores (penalty-reduced focal loss, CenterNet, arXiv 1904.07850, equation 1)
and, at the hottest cells, the box itself. Anchor slots that no class owns are silenced once (``silence_unused``) and left
out of the loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from bevstack.bev.config import FastBEVConfig
from bevstack.bev.network import AnchorHead

from .coding import direction_bin, encode

# Mean width and length of each class in nuScenes' training set (metres), in DETECTION_CLASSES order: only used to pick an
# anchor size.
TYPICAL_SIZES = (
    (1.95, 4.6),
    (2.5, 6.9),
    (2.9, 12.3),
    (2.9, 11.1),
    (2.7, 6.4),
    (0.6, 1.7),
    (0.77, 2.1),
    (0.67, 0.73),
    (0.41, 0.41),
    (2.5, 0.5),
)
FREE_HEADING = ("pedestrian", "traffic_cone")  # nearly round from above: both rotations answer
POSITIVE_ANGLE = math.radians(50)  # from an anchor's axis; both rotations answer between 40 and 50 degrees
IGNORE_ANGLE = math.radians(65)
BOX_HEAT = 0.4  # cells at least this hot predict the box


def size_slots(config: FastBEVConfig) -> tuple[int, ...]:
    """Which anchor size each class uses: the nearest in log width and log length."""
    sizes = np.log(np.asarray(config.anchors.sizes)[:, :2])
    return tuple(int(np.argmin(((np.log(wl) - sizes) ** 2).sum(1))) for wl in np.asarray(TYPICAL_SIZES))


@dataclass(frozen=True)
class SampleTargets:
    """What one instant's head should say.

    heat: (K, R, Y, X) float32 in [0, 1]. ignore: same shape, bool. For the P cells that predict a box: ``slot`` (P,) anchor
        of the cell,
    ``cell`` (P,) y * X + x, ``weight`` (P,), ``rows`` (P, 9). ``objects``: how many true boxes there are.
    """

    heat: NDArray[np.float32]
    ignore: NDArray[np.bool_]
    slot: NDArray[np.int64]
    cell: NDArray[np.int64]
    weight: NDArray[np.float32]
    rows: NDArray[np.float32]
    objects: int


def _angle_to_axis(yaw: float, axis: float) -> float:
    return abs((yaw - axis + math.pi / 2) % math.pi - math.pi / 2)


def assign(rows: NDArray[np.float32], labels: NDArray[np.int64], config: FastBEVConfig) -> SampleTargets:
    """Targets of one instant from true rows (N, 9) and labels (N,). Boxes outside the anchors' range are left out."""
    (ny, nx), reach, rotations = config.bev_hw, config.anchors.range_xy, config.anchors.rotations
    cell_x, cell_y = 2 * reach / nx, 2 * reach / ny
    heat = np.zeros((len(config.classes), len(rotations), ny, nx), np.float32)
    ignore = np.zeros(heat.shape, bool)
    slots = size_slots(config)
    found: dict[tuple[int, int], tuple[float, NDArray[np.float32]]] = {}
    objects = 0
    for row, label in zip(rows, labels.tolist()):
        x, y = float(row[0]), float(row[1])
        if not (abs(x) < reach and abs(y) < reach):
            continue
        objects += 1
        sigma = 0.8 + 0.05 * float(max(row[3], row[4]))
        margin = math.ceil(2.5 * sigma / min(cell_x, cell_y))
        cx, cy = min(nx - 1, int((x + reach) / cell_x)), min(ny - 1, int((y + reach) / cell_y))
        xs = np.arange(max(0, cx - margin), min(nx, cx + margin + 1))
        ys = np.arange(max(0, cy - margin), min(ny, cy + margin + 1))
        dx = (xs + 0.5) * cell_x - reach - x
        dy = (ys + 0.5) * cell_y - reach - y
        blob = np.exp(-(dx[None, :] ** 2 + dy[:, None] ** 2) / (2 * sigma * sigma)).astype(np.float32)
        blob[cy - ys[0], cx - xs[0]] = 1.0
        window = (slice(ys[0], ys[-1] + 1), slice(xs[0], xs[-1] + 1))
        for r, axis in enumerate(rotations):
            angle = 0.0 if config.classes[label] in FREE_HEADING else _angle_to_axis(float(row[6]), axis)
            if angle > POSITIVE_ANGLE:
                if angle < IGNORE_ANGLE:
                    ignore[label, r][window] |= blob > 0.1
                continue
            np.maximum(heat[label, r][window], blob, out=heat[label, r][window])
            slot = slots[label] * len(rotations) + r
            for i, j in zip(*np.nonzero(blob >= BOX_HEAT)):
                key, value = (slot, int(ys[i]) * nx + int(xs[j])), float(blob[i, j])
                if key not in found or found[key][0] < value:
                    found[key] = (value, row)
    ignore &= heat < 1.0
    return SampleTargets(
        heat=heat,
        ignore=ignore,
        slot=np.array([k[0] for k in found], np.int64),
        cell=np.array([k[1] for k in found], np.int64),
        weight=np.array([v[0] for v in found.values()], np.float32),
        rows=np.array([v[1] for v in found.values()], np.float32).reshape(-1, 9),
        objects=objects,
    )


@dataclass(frozen=True)
class DenseLosses:
    """Scalars to add up, already weighted."""

    heat: Tensor
    box: Tensor
    direction: Tensor

    @property
    def total(self) -> Tensor:
        return self.heat + self.box + self.direction


class DenseAssignmentLoss(nn.Module):
    """Losses of a head against ``SampleTargets``.

    Args:
        config: the model's.
        anchors: (A, 9) in flat order ((y * X + x) * sizes + size) * rotations + rotation.
        class_weights: (K,) factors on the heat loss; ones when None.
    """

    anchors: Tensor
    channels: Tensor
    class_weights: Tensor
    code_weights: Tensor

    def __init__(self, config: FastBEVConfig, anchors: Tensor, class_weights: Tensor | None = None) -> None:
        super().__init__()
        self.config = config
        per_cell, rotations, classes = config.anchors.per_cell, len(config.anchors.rotations), len(config.classes)
        slots = size_slots(config)
        channels = [(slots[k] * rotations + r) * classes + k for k in range(classes) for r in range(rotations)]
        weights = torch.ones(classes) if class_weights is None else class_weights
        self.register_buffer("anchors", anchors.reshape(-1, per_cell, 9), persistent=False)
        self.register_buffer("channels", torch.tensor(channels), persistent=False)
        self.register_buffer("class_weights", weights.float(), persistent=False)
        # x and y are counted in metres below; velocity in m/s.
        self.register_buffer("code_weights", torch.tensor([1.0, 1.0, 0.5, 1.0, 1.0, 0.5, 1.5, 0.3, 0.3]), persistent=False)

    def forward(self, head: AnchorHead, bev: Tensor, targets: list[SampleTargets]) -> DenseLosses:
        """``bev`` (B, C, X, Y) is what the head gets. Only the outputs that the loss looks at are computed: the class
        channels that are in use, and the box and direction channels of the cells that predict a box."""
        classes, rotations = len(self.config.classes), len(self.config.anchors.rotations)
        per_cell = self.config.anchors.per_cell
        assert head.conv_cls.bias is not None
        maps = functional.conv2d(bev, head.conv_cls.weight[self.channels], head.conv_cls.bias[self.channels]).transpose(2, 3)
        batch, _, ny, nx = maps.shape
        logits = maps.reshape(batch, classes, rotations, ny, nx)
        heat = torch.from_numpy(np.stack([t.heat for t in targets]))
        keep = torch.from_numpy(~np.stack([t.ignore for t in targets]))
        positive = heat == 1.0
        objects = max(1, sum(t.objects for t in targets))
        log_p, log_not = functional.logsigmoid(logits), functional.logsigmoid(-logits)
        p = torch.sigmoid(logits)
        cold = (1 - heat) ** 4 * keep
        loss = -torch.where(positive, (1 - p) ** 2 * log_p, cold * p**2 * log_not)
        heat_loss = (loss * self.class_weights[:, None, None, None]).sum() / objects

        sample = torch.from_numpy(np.concatenate([np.full(len(t.slot), i) for i, t in enumerate(targets)]).astype(np.int64))
        slot = torch.from_numpy(np.concatenate([t.slot for t in targets]))
        cell = torch.from_numpy(np.concatenate([t.cell for t in targets]))
        weight = torch.from_numpy(np.concatenate([t.weight for t in targets]))
        rows = torch.from_numpy(np.concatenate([t.rows for t in targets]))
        if not len(slot):
            zero = (head.conv_reg.weight.sum() + head.conv_dir_cls.weight.sum()) * 0.0
            return DenseLosses(heat_loss, zero, zero)
        features = bev.permute(0, 2, 3, 1)[sample, cell % nx, cell // nx]
        which = torch.arange(len(slot))
        reg = functional.linear(features, head.conv_reg.weight.flatten(1), head.conv_reg.bias)
        turns = functional.linear(features, head.conv_dir_cls.weight.flatten(1), head.conv_dir_cls.bias)
        deltas = reg.reshape(len(slot), per_cell, 9)[which, slot]
        turns = turns.reshape(len(slot), per_cell, 2)[which, slot]
        anchors = self.anchors[cell, slot]
        difference = deltas - encode(anchors, rows)
        diagonal = torch.sqrt(anchors[:, 3] ** 2 + anchors[:, 4] ** 2)[:, None]
        error = torch.cat(
            [difference[:, :2] * diagonal, difference[:, 2:6], torch.sin(difference[:, 6:7]), difference[:, 7:]], 1
        )
        smooth = functional.smooth_l1_loss(error, torch.zeros_like(error), beta=0.2, reduction="none")
        total = weight.sum()
        box_loss = ((smooth * self.code_weights).sum(1) * weight).sum() / total
        turn_loss = (functional.cross_entropy(turns, direction_bin(rows[:, 6]), reduction="none") * weight).sum() / total
        return DenseLosses(heat_loss, box_loss, 0.2 * turn_loss)


def silence_unused(net: nn.Module, config: FastBEVConfig) -> None:
    """Sets the class channels that no (class, anchor size) pair uses to a constant, very low score; done once, before
    training."""
    conv = net.get_submodule("bbox_head.conv_cls")
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    rotations, classes = len(config.anchors.rotations), len(config.classes)
    slots = size_slots(config)
    unused = torch.ones(config.anchors.per_cell * classes, dtype=torch.bool)
    for k in range(classes):
        for r in range(rotations):
            unused[(slots[k] * rotations + r) * classes + k] = False
    with torch.no_grad():
        conv.weight[unused] = 0.0
        conv.bias[unused] = -12.0
