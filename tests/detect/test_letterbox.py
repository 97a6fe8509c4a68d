"""Images of any size and shape to the canvas, and boxes back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bevstack.detect.letterbox import as_rgb, letterbox, place
from bevstack.errors import BevstackError

SIDES = st.integers(1, 5000)
CANVAS = st.tuples(st.sampled_from([128, 384, 768, 896]), st.sampled_from([128, 640, 1280, 1408]))


@given(width=SIDES, height=SIDES, canvas=CANVAS, fit=st.sampled_from([None, (1333, 800), (200, 100)]))
def test_boxes_come_back(width: int, height: int, canvas: tuple[int, int], fit: tuple[int, int] | None) -> None:
    box = letterbox(width, height, canvas, fit)
    assert 1 <= box.size[0] <= canvas[1]
    assert 1 <= box.size[1] <= canvas[0]
    if fit is not None:
        assert max(box.size) <= max(fit[0], 1) + 0.5
        assert min(box.size) <= max(fit[1], 1) + 0.5
    given_boxes = np.array([[0, 0, width, height], [width / 4, height / 4, width / 2, height / 2]], np.float32)
    assert box.to_image(box.to_canvas(given_boxes)) == pytest.approx(given_boxes, rel=1e-4, abs=1e-3)
    beyond = box.to_image(np.array([[-50, -50, 99999, 99999]], np.float32))
    assert beyond.tolist() == [[0, 0, width, height]]


def test_the_aspect_ratio_is_kept_and_the_canvas_used() -> None:
    assert letterbox(1600, 900, (384, 640)).size == (640, 360)
    assert letterbox(900, 1600, (384, 640)).size == (216, 384)
    assert letterbox(1920, 1080, (896, 1408), (1333, 800)).size == (1333, 750)
    assert letterbox(640, 480, (896, 1408), (1333, 800)).size == (1067, 800)


def test_padding_is_the_mean_and_lies_right_and_below() -> None:
    out = np.zeros((128, 256, 3), np.uint8)
    place(np.full((50, 200, 3), 9, np.uint8), letterbox(200, 50, (128, 256)), out, (123.675, 116.28, 103.53))
    assert np.all(out[:64] == 9)
    assert np.all(out[64:] == [124, 116, 104])


@pytest.mark.parametrize(("canvas", "hint"), [((720, 1280), "1280x768"), ((800, 1280), "1280x896"), ((0, 128), "128x128")])
def test_a_canvas_that_is_no_multiple_is_refused(canvas: tuple[int, int], hint: str) -> None:
    with pytest.raises(BevstackError, match=f"use {hint}"):
        letterbox(100, 100, canvas)


def test_only_pictures_are_taken() -> None:
    assert as_rgb(np.zeros((4, 5), np.uint8)).shape == (4, 5, 3)
    with pytest.raises(BevstackError, match="uint8"):
        as_rgb(np.zeros((4, 5, 3), np.float32))  # type: ignore[arg-type]
    with pytest.raises(BevstackError, match="shape"):
        as_rgb(np.zeros((4, 5, 4), np.uint8))
    with pytest.raises(BevstackError, match="at least one"):
        letterbox(0, 10, (128, 128))
