"""Raw head maps to boxes, exactly as published (brief fast-bev 1.6), touching only anchors that can matter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .anchors import anchor_rows
from .config import FastBEVConfig, PostConfig
from .nms import suppress_class

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Detections:
    """``rows`` (N, 9) in the model's convention (see ``bevstack.bev.conventions``), ``scores`` (N,), ``labels`` (N,) int64.

    By class, then descending score; if more than ``max_boxes`` were found, descending score over everything.
    """

    rows: Floats
    scores: Floats
    labels: NDArray[np.int64]


def decode_rows(anchors: Floats, deltas: Floats) -> Floats:
    """Boxes (N, 9) from anchors (N, 9) and regression outputs (N, 9): offsets in anchor diagonals and heights, log sizes."""
    rows = np.empty_like(anchors)
    diagonal = np.sqrt(anchors[:, 3] ** 2 + anchors[:, 4] ** 2)
    rows[:, 0] = deltas[:, 0] * diagonal + anchors[:, 0]
    rows[:, 1] = deltas[:, 1] * diagonal + anchors[:, 1]
    with np.errstate(over="ignore"):  # an untrained head may ask for endless boxes: they are dropped by the caller
        rows[:, 3:6] = np.exp(deltas[:, 3:6]) * anchors[:, 3:6]
    centre = deltas[:, 2] * anchors[:, 5] + anchors[:, 2] + anchors[:, 5] / 2
    rows[:, 2] = centre - rows[:, 5] / 2
    rows[:, 6:] = deltas[:, 6:] + anchors[:, 6:]
    return rows


def _sigmoid(logits: Floats) -> Floats:
    with np.errstate(over="ignore"):
        return (np.float32(1.0) / (np.float32(1.0) + np.exp(-logits))).astype(np.float32)


def _candidates(best: Floats, config: PostConfig) -> NDArray[np.int64]:
    """Flat (kind, cell) positions of the ``candidates`` best anchors above the threshold. NaN logits are never chosen."""
    threshold = config.score_threshold
    # A little below the threshold's logit: the exact comparison is made on scores.
    floor = np.log(threshold / (1.0 - threshold)) - 1e-3 if threshold > 0 else -np.inf
    chosen = np.flatnonzero(best > floor)
    if len(chosen) > config.candidates:
        chosen = chosen[np.argpartition(-best[chosen], config.candidates - 1)[: config.candidates]]
    return chosen


def decode_maps(cls: Floats, reg: Floats, direction: Floats, config: FastBEVConfig) -> Detections:
    """One instant's head maps to detections.

    Args:
        cls: (A * K, Y, X) logits, ``reg``: (A * 9, Y, X), ``direction``: (A * 2, Y, X) logits; a leading axis of 1 is allowed.

    Raises:
        ValueError: if a map's size is not the config's.
    """
    post, kinds, classes = config.post, config.anchors.per_cell, len(config.classes)
    cells = config.bev_hw[0] * config.bev_hw[1]
    maps = []
    for name, value, width in (("cls", cls, classes), ("reg", reg, config.anchors.code_size), ("dir", direction, 2)):
        if value.size != kinds * width * cells:
            raise ValueError(f"{name} map has shape {value.shape}; {config.name} needs ({kinds * width}, {config.bev_hw})")
        maps.append(np.ascontiguousarray(value, np.float32).reshape(kinds, width, cells))
    logits, deltas, directions = maps
    best = logits.max(axis=1).reshape(-1)
    kind, cell = np.divmod(_candidates(best, post), cells)
    rows = decode_rows(anchor_rows(config, cell * kinds + kind), deltas[kind, :, cell])
    turned = directions[kind, 1, cell] > directions[kind, 0, cell]
    offset, half_turn = np.float32(config.anchors.direction_offset), np.float32(np.pi)
    rows[:, 6] = np.mod(rows[:, 6] - offset, half_turn) + offset + half_turn * turned
    return _suppress(rows, _sigmoid(logits[kind, :, cell]), post)


def _suppress(rows: Floats, scores: Floats, post: PostConfig) -> Detections:
    """Multi-label: an anchor may yield a box of every class above the threshold."""
    sound = np.isfinite(rows).all(axis=1)
    found_rows, found_scores, found_labels = [], [], []
    for label in range(scores.shape[1]):
        index = np.flatnonzero((scores[:, label] > post.score_threshold) & sound)
        if not len(index):
            continue
        keep = index[suppress_class(rows[index], scores[index, label], label, post)]
        found_rows.append(rows[keep])
        found_scores.append(scores[keep, label])
        found_labels.append(np.full(len(keep), label, np.int64))
    if not found_rows:
        return Detections(np.zeros((0, 9), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    out = Detections(np.concatenate(found_rows), np.concatenate(found_scores), np.concatenate(found_labels))
    if len(out.scores) > post.max_boxes:
        order = np.argsort(-out.scores, kind="stable")[: post.max_boxes]
        out = Detections(out.rows[order], out.scores[order], out.labels[order])
    return out
