"""Decoding beyond the golden cases: odd inputs and cost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bevstack.bev.anchors import anchor_rows
from bevstack.bev.config import CONFIGS
from bevstack.bev.decode import decode_maps

M0 = CONFIGS["fastbev-m0"]
ANCHORS = 8


def silent(logit: float = -20.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    y, x = M0.bev_hw
    return (
        np.full((ANCHORS * 10, y, x), logit, np.float32),
        np.zeros((ANCHORS * 9, y, x), np.float32),
        np.zeros((ANCHORS * 2, y, x), np.float32),
    )


def test_nothing_above_the_threshold_gives_no_boxes() -> None:
    found = decode_maps(*silent(), M0)
    assert found.rows.shape == (0, 9)
    assert found.labels.dtype == np.int64


def test_one_anchor_can_be_two_objects() -> None:
    cls, reg, direction = silent()
    cls[3 * 10 + 5, 40, 60] = cls[3 * 10 + 6, 40, 60] = 2.0
    found = decode_maps(cls, reg, direction, M0)
    assert found.labels.tolist() == [5, 6]
    wanted = anchor_rows(M0, np.array([(40 * 100 + 60) * 8 + 3]))
    np.testing.assert_allclose(found.rows[:, :6], np.repeat(wanted[:, :6], 2, axis=0), atol=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1000.0])
def test_endless_and_undefined_boxes_are_dropped(value: float) -> None:
    cls, reg, direction = silent()
    cls[0, 10, 10] = cls[0, 50, 50] = 3.0
    reg[3, 10, 10] = value
    found = decode_maps(cls, reg, direction, M0)
    assert len(found.rows) == 1
    assert np.isfinite(found.rows).all()


def test_undefined_scores_are_never_chosen() -> None:
    cls, reg, direction = silent(np.nan)
    assert len(decode_maps(cls, reg, direction, M0).rows) == 0


def test_every_anchor_alight_stays_within_the_limits() -> None:
    rng = np.random.default_rng(0)
    cls, reg, direction = (rng.standard_normal(m.shape).astype(np.float32) for m in silent())
    for nms in ("scale", "normal"):
        found = decode_maps(cls, 0.1 * reg, direction, replace(M0, post=replace(M0.post, nms=nms)))
        assert 0 < len(found.rows) <= M0.post.max_boxes
        assert (np.diff(found.scores) <= 0).all() or len(found.rows) < M0.post.max_boxes


def test_wrong_shapes_are_refused() -> None:
    cls, reg, direction = silent()
    with pytest.raises(ValueError, match="reg map"):
        decode_maps(cls, cls, direction, M0)
    with pytest.raises(ValueError, match="cls map"):
        decode_maps(cls[:, :50], reg, direction, M0)


def test_a_leading_axis_of_one_is_allowed() -> None:
    maps = silent()
    maps[0][0, 10, 10] = 3.0
    assert len(decode_maps(*(m[None] for m in maps), M0).rows) == 1
