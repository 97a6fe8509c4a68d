"""Head maps to boxes against the published decoding and NMS (golden README 6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bevstack.bev.anchors import all_anchors, anchor_rows
from bevstack.bev.config import CONFIGS, FastBEVConfig
from bevstack.bev.decode import Detections, decode_maps

Arrays = Mapping[str, NDArray[Any]]
CONFIG = CONFIGS["fastbev-m0"]
CASES = [(c, m) for c in ("main", "crowd") for m in ("scale", "normal")]


@pytest.fixture(scope="module")
def recorded(golden: Path) -> Arrays:
    return np.load(golden / "m0_decode.npz")


def with_post(**changes: Any) -> FastBEVConfig:
    return replace(CONFIG, post=replace(CONFIG.post, **changes))


def check(recorded: Arrays, case: str, mode: str, found: Detections) -> None:
    boxes, scores, labels = (recorded[f"{case}.{mode}_nms.{k}"] for k in ("boxes", "scores", "labels"))
    assert found.labels.tolist() == labels.tolist(), "another set of boxes was kept"
    assert float(np.abs(found.rows - boxes).max()) < 1e-4, "boxes differ"
    assert float(np.abs(found.scores - scores).max()) < 1e-5, "scores differ"


@pytest.mark.parametrize(("case", "mode"), CASES)
def test_boxes_scores_and_order(recorded: Arrays, decode_maps_of: Callable[..., Any], case: str, mode: str) -> None:
    check(recorded, case, mode, decode_maps(*decode_maps_of(case), with_post(nms=mode)))


def test_anchors(recorded: Arrays) -> None:
    anchors = all_anchors(CONFIG)
    assert anchors.shape == (80_000, 9)
    np.testing.assert_allclose(anchors[:16], recorded["anchors_first16"], atol=1e-6)
    np.testing.assert_allclose(anchors[-8:], recorded["anchors_last8"], atol=1e-6)
    np.testing.assert_allclose(anchor_rows(CONFIG, recorded["anchor_index"]), recorded["anchor_at_index"], atol=1e-6)


def wrong(what: str) -> FastBEVConfig:
    anchors = CONFIG.anchors
    changed = {
        "anchor turned by pi / 2": replace(CONFIG, anchors=replace(anchors, rotations=(0.0, np.pi / 2))),
        "anchor's z is its centre": replace(CONFIG, anchors=replace(anchors, z=-1.3)),
        "direction offset 0": replace(CONFIG, anchors=replace(anchors, direction_offset=0.0)),
        "no rescaling": with_post(rescale=(1.0,) * 10),
        "circles for all": with_post(kinds=("circle",) * 10),
        "no circle": with_post(kinds=("rotate",) * 10),
        "circle distance not squared": with_post(radius_thresholds=(*CONFIG.post.radius_thresholds[:-1], 4.0)),
        "other threshold": with_post(iou_thresholds=(0.5,) * 10),
        "score threshold 0.1": with_post(score_threshold=0.1),
        "few candidates": with_post(candidates=100),
        "the other mode": with_post(nms="normal"),
    }
    return changed[what]


@pytest.mark.parametrize(
    "what",
    [
        "anchor turned by pi / 2",
        "anchor's z is its centre",
        "direction offset 0",
        "no rescaling",
        "circles for all",
        "no circle",
        "circle distance not squared",
        "other threshold",
        "score threshold 0.1",
        "few candidates",
        "the other mode",
    ],
)
def test_a_wrong_rule_is_noticed(recorded: Arrays, decode_maps_of: Callable[..., Any], what: str) -> None:
    with pytest.raises(AssertionError, match=r"another set|boxes differ"):
        check(recorded, "main", "scale", decode_maps(*decode_maps_of("main"), wrong(what)))


@pytest.mark.parametrize("changes", [{"circle_cap": 500}, {"max_boxes": 1000}])
def test_a_missing_limit_is_noticed(recorded: Arrays, decode_maps_of: Callable[..., Any], changes: dict[str, int]) -> None:
    with pytest.raises(AssertionError, match="another set"):
        check(recorded, "crowd", "scale", decode_maps(*decode_maps_of("crowd"), with_post(**changes)))


def test_a_swapped_half_turn_is_noticed(recorded: Arrays, decode_maps_of: Callable[..., Any]) -> None:
    cls, reg, direction = decode_maps_of("main")
    with pytest.raises(AssertionError, match="boxes differ"):
        check(recorded, "main", "scale", decode_maps(cls, reg, -direction, CONFIG))
