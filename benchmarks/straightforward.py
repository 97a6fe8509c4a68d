"""Fast-BEV as one would write it down first, to measure ours against: used by `benchmarks/bev.py`.

Every step sends the images of all instants through the network in eager torch, projects every voxel into every image again,
and takes the output apart with torch. Nothing is cached, nothing compiled. The boxes are the same (checked on every step).
"""

from __future__ import annotations

import sys
import time
from collections import deque
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bevstack.bev import FastBEV
from bevstack.bev.anchors import all_anchors
from bevstack.bev.conventions import boxes_from_rows
from bevstack.bev.network import FastBEVNet
from bevstack.bev.nms import suppress_class
from bevstack.bev.preprocess import image_transform
from bevstack.bev.tables import camera_projection, grid_points, lidar_to_camera
from bevstack.frames import FrameSet
from bevstack.geometry import Boxes3D


class Straightforward:
    """Same inputs and outputs as ``FastBEV``, for instants exactly as far apart as the network's ages."""

    def __init__(self, net: FastBEVNet, threads: int) -> None:
        torch.set_num_threads(threads)
        self.net, self.config = net.eval(), net.config
        self.anchors = torch.from_numpy(all_anchors(self.config))
        points = grid_points(self.config.grid)
        self.points = torch.from_numpy(np.concatenate([points, np.ones((len(points), 1))], axis=1).T.copy())
        self.past: deque[FrameSet] = deque(maxlen=len(self.config.times))

    def _images(self, instant: FrameSet) -> Tensor:
        mean, std = torch.tensor(self.config.mean), torch.tensor(self.config.std)
        pictures = []
        for frame in instant.frames.values():
            assert frame.image is not None
            transform = image_transform(frame.camera.width, frame.camera.height, self.config)
            rows = self.config.image_hw[0]
            pictures.append(torch.from_numpy(np.ascontiguousarray(frame.image[transform.top : transform.top + rows])))
        return ((torch.stack(pictures).float() - mean) / std).permute(0, 3, 1, 2).contiguous()

    def _lift(self, features: Tensor, now: FrameSet, then: FrameSet) -> Tensor:
        """(C, X, Y, Z) volume of one instant's features (N, C, Hf, Wf): later cameras overwrite."""
        rows, columns = self.config.feature_hw
        volume = torch.zeros(features.shape[1], self.points.shape[1])
        for camera, frame in enumerate(then.frames.values()):
            matrix = image_transform(frame.camera.width, frame.camera.height, self.config).matrix
            if then is now:
                T = lidar_to_camera(frame.camera, self.config)
            else:
                T_image = then.T_world_ego if frame.T_world_ego is None else frame.T_world_ego
                T = lidar_to_camera(frame.camera, self.config, now.T_world_ego, T_image)
            p = torch.from_numpy(camera_projection(frame.camera, matrix, self.config.lift_stride, T)) @ self.points
            u, v, depth = (p[0] / p[2]).round().long(), (p[1] / p[2]).round().long(), p[2]
            valid = (u >= 0) & (v >= 0) & (u < columns) & (v < rows) & (depth > 0)
            volume[:, valid] = features[camera, :, v[valid], u[valid]]
        return volume.reshape(-1, *self.config.grid.n)

    @torch.no_grad()
    def __call__(self, instant: FrameSet) -> Boxes3D:
        """Boxes in the ego frame."""
        self.past.appendleft(instant)
        instants = [self.past[t] if t < len(self.past) else instant for t in range(len(self.config.times))]
        maps = self.net.feature_maps(torch.cat([self._images(i) for i in instants]))
        per_instant = maps.reshape(len(instants), -1, *maps.shape[1:])
        volume = torch.cat([self._lift(per_instant[t], instant, then) for t, then in enumerate(instants)])
        folded = volume.permute(3, 0, 1, 2).reshape(1, -1, *self.config.grid.n[:2])
        return self._boxes(*self.net.head_maps(folded))

    def _boxes(self, cls: Tensor, reg: Tensor, direction: Tensor) -> Boxes3D:
        post, kinds = self.config.post, self.config.anchors.per_cell

        def flat(head: Tensor) -> Tensor:
            return head[0].permute(1, 2, 0).reshape(-1, head.shape[1] // kinds)

        scores, deltas, turns = flat(cls).sigmoid(), flat(reg), flat(direction)
        best = scores.max(dim=1).values.topk(min(post.candidates, len(scores))).indices
        a, d = self.anchors[best], deltas[best]
        diagonal = (a[:, 3] ** 2 + a[:, 4] ** 2).sqrt()
        rows = torch.cat(
            [d[:, :2] * diagonal[:, None] + a[:, :2], d[:, 2:3], d[:, 3:6].exp() * a[:, 3:6], d[:, 6:] + a[:, 6:]], 1
        )
        rows[:, 2] = d[:, 2] * a[:, 5] + a[:, 2] + a[:, 5] / 2 - rows[:, 5] / 2
        offset = self.config.anchors.direction_offset
        rows[:, 6] = (rows[:, 6] - offset).remainder(torch.pi) + offset + torch.pi * turns[best].argmax(1)
        chosen, values = rows.numpy(), scores[best].numpy()
        kept = []
        for label in range(len(self.config.classes)):
            index = np.flatnonzero(values[:, label] > post.score_threshold)
            for i in index[suppress_class(chosen[index], values[index, label], label, post)]:
                kept.append((float(values[i, label]), int(i), label))
        kept = sorted(kept, reverse=True)[: post.max_boxes]
        index, labels = np.array([k[1] for k in kept], int), np.array([k[2] for k in kept], int)
        return boxes_from_rows(chosen[index], [k[0] for k in kept], labels, self.config.ego_from_lidar)


def difference(a: Boxes3D, b: Boxes3D) -> tuple[float, float]:
    """(share of boxes that the other does not have, largest distance in metres and score between those that both have)."""
    worst, matched = 0.0, 0
    for i in range(len(a)):
        same = np.flatnonzero((b.label == a.label[i]) & (np.abs(b.score - a.score[i]) < 1e-3))
        if len(same):
            gap = np.linalg.norm(b.center[same] - a.center[i], axis=1)
            j = int(np.argmin(gap))
            if gap[j] < 1e-2:
                matched += 1
                worst = max(worst, float(gap[j]), float(abs(b.score[same[j]] - a.score[i])))
    return 1.0 - matched / max(1, len(a), len(b)), worst


def versus(ours: FastBEV, net: FastBEVNet, instants: list[FrameSet], threads: int) -> dict[str, Any]:
    """Both paths on the same instants, one after the other on each, so that both meet the same load.

    Raises:
        SystemExit: the two do not find the same boxes.
    """
    plain = Straightforward(net, threads)
    ours.reset()
    mine, theirs, mine_cpu, theirs_cpu = [], [], [], []
    missing, worst, boxes = [], 0.0, 0
    warm = len(net.config.times)  # until the past is whole: both then do all their work
    for number, instant in enumerate(instants):
        start, start_cpu = time.perf_counter(), time.process_time()
        a = ours(instant)
        middle, middle_cpu = time.perf_counter(), time.process_time()
        b = plain(instant)
        end, end_cpu = time.perf_counter(), time.process_time()
        if number < warm:
            continue
        mine.append((middle - start) * 1e3)
        theirs.append((end - middle) * 1e3)
        mine_cpu.append((middle_cpu - start_cpu) * 1e3)
        theirs_cpu.append((end_cpu - middle_cpu) * 1e3)
        lost, gap = difference(a, b)
        missing.append(lost)
        worst, boxes = max(worst, gap), boxes + len(a)
    if np.mean(missing) > 0.01:
        raise SystemExit(f"the paths differ: {np.mean(missing):.1%} of the boxes are not in both")
    return {
        "ours_ms": float(np.median(mine)),
        "straightforward_ms": float(np.median(theirs)),
        "times_faster": float(np.median(theirs) / np.median(mine)),
        "ours_cpu_ms": float(np.median(mine_cpu)),
        "straightforward_cpu_ms": float(np.median(theirs_cpu)),
        "times_less_cpu": float(np.median(theirs_cpu) / np.median(mine_cpu)),
        "best_ours_ms": float(np.min(mine)),
        "best_straightforward_ms": float(np.min(theirs)),
        "instants": len(mine),
        "boxes": boxes,
        "boxes_not_in_both": float(np.mean(missing)),
        "largest_difference": worst,
    }


def confident(net: FastBEVNet) -> FastBEVNet:
    """Random weights see nothing: their class biases are raised until some hundred anchors pass, as after training."""
    with torch.no_grad():
        bias = net.bbox_head.conv_cls.bias
        assert bias is not None
        bias += 1.7
    return net


def at_rate(instants: list[FrameSet], step_s: float) -> list[FrameSet]:
    """The same instants, ``step_s`` apart in time."""
    return [replace(i, stamp=round(k * step_s * 1e9)) for k, i in enumerate(instants)]


if __name__ == "__main__":
    sys.exit("run benchmarks/bev.py")
