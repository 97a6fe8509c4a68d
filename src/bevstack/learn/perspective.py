"""Perspective supervision: an auxiliary head on the image features, used in training only.

The lift hands a feature to every voxel of its ray, so the feature itself must say what it belongs to and how far away that
is. A 1x1 convolution on the feature map predicts, for every cell, the class of the object there (or background) and the
logarithm of the distance of that object's centre from the virtual LiDAR's axis; the gradient reaches the image encoder
without the long way through the BEV encoder (the idea of BEVFormer v2, arXiv 2211.10439, in its smallest form). Nothing of
it is needed at inference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from bevstack.bev.config import FastBEVConfig
from bevstack.geometry import Boxes3D, Camera, invert, transform_points

NEAR = 0.3  # metres; corners closer to the lens plane do not project
BACKGROUND_WEIGHT = 0.05


@dataclass(frozen=True)
class PerspectiveTargets:
    """Per feature cell of every camera: ``label`` (N, Hf, Wf) int64 (classes = background), ``log_range`` and ``weight``
    float32."""

    label: NDArray[np.int64]
    log_range: NDArray[np.float32]
    weight: NDArray[np.float32]


def paint(boxes: Boxes3D, cameras: Sequence[Camera], config: FastBEVConfig) -> PerspectiveTargets:
    """Outlines of the boxes in every camera, near over far. ``cameras`` are those of the network's input images
    (``config.image_hw``)."""
    rows, columns = config.feature_hw
    shape = (len(cameras), rows, columns)
    label = np.full(shape, len(config.classes), np.int64)
    log_range = np.zeros(shape, np.float32)
    weight = np.full(shape, BACKGROUND_WEIGHT, np.float32)
    if not len(boxes):
        return PerspectiveTargets(label, log_range, weight)
    ground = transform_points(invert(config.ego_from_lidar), boxes.center)[:, :2]
    log_distance = np.log(np.maximum(1.0, np.hypot(ground[:, 0], ground[:, 1]))).astype(np.float32)
    corners = boxes.corners().reshape(-1, 3)
    mask = np.zeros((rows, columns), np.uint8)
    for c, camera in enumerate(cameras):
        pixels, depth = camera.project(corners)
        pixels, depth = pixels.reshape(-1, 8, 2) / config.lift_stride, depth.reshape(-1, 8)
        distance = np.linalg.norm(boxes.center - camera.T_ego_camera[:3, 3], axis=1)
        for i in np.argsort(-distance):
            ahead = depth[i] > NEAR
            if ahead.sum() < 3:
                continue
            points = pixels[i, ahead]
            low, high = points.min(0), points.max(0)
            if high[0] < 0 or high[1] < 0 or low[0] > columns - 1 or low[1] > rows - 1:
                continue
            mask[:] = 0
            hull = cv2.convexHull(np.clip(points, -4 * columns, 4 * columns).astype(np.float32))
            cv2.fillConvexPoly(mask, np.rint(hull * 16).astype(np.int32), 1, shift=4)
            cells = mask.astype(bool)
            area = int(cells.sum())
            if area:
                label[c][cells] = boxes.label[i]
                log_range[c][cells] = log_distance[i]
                weight[c][cells] = max(0.1, area**-0.5)
    return PerspectiveTargets(label, log_range, weight)


class PerspectiveHead(nn.Module):
    """Features (B, N, C, Hf, Wf) to losses against the targets of B instants."""

    def __init__(self, config: FastBEVConfig) -> None:
        super().__init__()
        self.classes = len(config.classes)
        self.conv = nn.Conv2d(config.neck_channels, self.classes + 2, 1)
        nn.init.normal_(self.conv.weight, std=0.01)
        assert self.conv.bias is not None
        nn.init.zeros_(self.conv.bias)
        with torch.no_grad():
            self.conv.bias[self.classes] = 3.0  # most cells are background

    def forward(self, features: Tensor, targets: Sequence[PerspectiveTargets]) -> Tensor:
        """Scalar: weighted cross-entropy plus twice the weighted L1 error of the log distance on object cells."""
        out = self.conv(features.flatten(0, 1)).permute(0, 2, 3, 1).reshape(-1, self.classes + 2)
        label = torch.from_numpy(np.stack([t.label for t in targets])).reshape(-1)
        weight = torch.from_numpy(np.stack([t.weight for t in targets])).reshape(-1)
        log_range = torch.from_numpy(np.stack([t.log_range for t in targets])).reshape(-1)
        entropy = functional.cross_entropy(out[:, : self.classes + 1], label, reduction="none")
        loss = (entropy * weight).sum() / weight.sum()
        on = torch.nonzero(label < self.classes).squeeze(1)
        if len(on):
            error = torch.abs(out[on, self.classes + 1] + 3.0 - log_range[on])
            loss = loss + 2.0 * (error * weight[on]).sum() / weight[on].sum()
        return loss
