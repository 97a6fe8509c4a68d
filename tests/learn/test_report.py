"""The page of an evaluation: what counts as a good instant, what is kept, what is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bevstack.errors import BevstackError
from bevstack.frames import FrameSet
from bevstack.geometry import Boxes3D
from bevstack.learn.nuscenes_metrics import score_detections
from bevstack.learn.report import Gallery, instant_score, write_report

pytest.importorskip("nuscenes", reason="nuscenes-devkit is not installed: pip install --no-deps nuscenes-devkit")


def boxes(*places: tuple[float, float], score: float = 0.9, label: int = 0) -> Boxes3D:
    n = len(places)
    centers = np.array([(x, y, 0.8) for x, y in places]).reshape(n, 3)
    return Boxes3D(centers, np.full((n, 3), 2.0), np.zeros(n), np.zeros((n, 2)), np.full(n, score), np.full(n, label))


@pytest.mark.parametrize(
    ("found", "true", "f1"),
    [
        (boxes((5, 0), (9, 3)), boxes((5, 0), (9, 3)), 1.0),
        (boxes((6.9, 0)), boxes((5, 0)), 1.0),
        (boxes((7.1, 0)), boxes((5, 0)), 0.0),
        (boxes((5, 0), (5.1, 0)), boxes((5, 0)), 2 / 3),  # the second box of the same object is a false alarm
        (boxes((5, 0), label=3), boxes((5, 0)), 0.0),
        (boxes((5, 0), score=0.1), boxes((5, 0)), 0.0),
        (boxes(), boxes((5, 0), (9, 3)), 0.0),
        (boxes(), boxes(), 1.0),
    ],
)
def test_f1_of_an_instant(found: Boxes3D, true: Boxes3D, f1: float) -> None:
    assert instant_score(found, true) == pytest.approx(f1)


@given(st.lists(st.integers(0, 8), min_size=1, max_size=30))
def test_the_gallery_keeps_the_extremes(hits: list[int]) -> None:
    gallery = Gallery(3)
    truth = boxes(*((10.0 * k, 0.0) for k in range(8)))
    for stamp, n in enumerate(hits):
        gallery(FrameSet(stamp, {}, truth=truth), truth[np.arange(n)])
    expected = sorted(2 * n / (8 + n) for n in hits)
    assert [m.f1 for m in gallery.worst()] == pytest.approx(expected[:3])
    assert [m.f1 for m in gallery.best()] == pytest.approx(expected[::-1][:3])


def test_the_page(tmp_path: Path) -> None:
    gallery, pairs = Gallery(1), []
    truth = boxes((5, 0), (15, 3))
    for stamp, found in enumerate([truth, boxes((5, 0)), boxes()]):
        gallery(FrameSet(stamp, {}, truth=truth), found)
        pairs.append((found, truth))
    result = score_detections(pairs)
    assert result.classes[0].precision[2.0].shape == (101,)
    titles = []

    def picture(instant: FrameSet, found: Boxes3D, title: str) -> np.ndarray:
        titles.append((instant.stamp, len(found)))
        return np.full((20, 40, 3), 90, np.uint8)

    page = write_report(result, tmp_path / "report", gallery, picture)
    assert titles == [(0, 2), (2, 0)]
    text = page.read_text()
    assert f"mAP {result.mean_ap:.3f}" in text
    for name in ("curves.png", "best_1.png", "worst_1.png"):
        assert name in text
        assert (page.parent / name).stat().st_size > 0
    (tmp_path / "file").write_text("")
    with pytest.raises(BevstackError, match="cannot be written"):
        write_report(result, tmp_path / "file" / "report", gallery, picture)
