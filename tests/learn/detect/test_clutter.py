"""Marks that are no objects: they stay off the boxes and inside the image."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bevstack.learn.detect.clutter import clutter
from bevstack.learn.detect.coco import Labels


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), height=st.integers(32, 300), width=st.integers(32, 300), grey=st.integers(0, 255))
def test_boxes_are_left_as_they_are(seed: int, height: int, width: int, grey: int) -> None:
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), grey, np.uint8)
    before = image.copy()
    corner = rng.uniform(0, 0.6, (3, 2)) * (width, height)
    xyxy = np.concatenate([corner, corner + rng.uniform(0.1, 0.4, (3, 2)) * (width, height)], 1).astype(np.float32)
    out = clutter(image, Labels(xyxy, np.zeros(3, np.int64), np.array([False, True, False])), rng)
    assert out.shape == image.shape
    assert np.array_equal(image, before)
    for x0, y0, x1, y1 in xyxy:
        inside = out[int(np.floor(y0)) : int(np.ceil(y1)), int(np.floor(x0)) : int(np.ceil(x1))]
        assert (inside == grey).all()


def test_an_empty_street_gets_marks() -> None:
    nothing = Labels(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.bool_))
    image = np.full((384, 640, 3), 90, np.uint8)
    changed = [np.mean(clutter(image, nothing, np.random.default_rng(n)) != image) for n in range(40)]
    assert min(changed) > 0
    assert 0.002 < np.mean(changed) < 0.1
    assert np.array_equal(*(clutter(image, nothing, np.random.default_rng(3)) for _ in range(2)))
