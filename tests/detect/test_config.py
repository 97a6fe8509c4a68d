"""Configs: round trip, the ladder's costs, class lists."""

from __future__ import annotations

import pytest

from bevstack.detect.complexity import complexity
from bevstack.detect.config import COCO_CLASSES, DETECTORS, MULTIPLE, GiraffeDetConfig
from bevstack.errors import CheckpointError
from bevstack.geometry import DETECTION_CLASSES


@pytest.mark.parametrize("name", sorted(DETECTORS))
def test_a_config_survives_json(name: str) -> None:
    config = DETECTORS[name]
    assert GiraffeDetConfig.from_json(config.to_json()) == config
    assert all(v % MULTIPLE == 0 for v in config.canvas)
    assert config.head.channels % 32 == 0


def test_damaged_configs_are_refused() -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        GiraffeDetConfig.from_json("{")
    with pytest.raises(CheckpointError, match="unknown entries"):
        GiraffeDetConfig.from_json('{"name": "x", "depth": 2, "inner": 8, "heads": 3}')


# What the light rungs are for: about 44, 25, 15, 9 GMAC at 1280x768, and about 2 at 640x384.
@pytest.mark.parametrize(
    ("name", "canvas", "gmac"),
    [("lite-d5", (768, 1280), 44), ("lite-d4", (768, 1280), 25), ("lite-d3", (768, 1280), 15), ("lite-d2", (768, 1280), 9),
     ("nano", (384, 640), 2)],
)  # fmt: skip
def test_light_rungs_cost_what_they_are_for(name: str, canvas: tuple[int, int], gmac: float) -> None:
    assert complexity(DETECTORS[f"giraffedet-{name}"], canvas).macs / 1e9 == pytest.approx(gmac, rel=0.07)


def test_classes() -> None:
    assert len(COCO_CLASSES) == len(set(COCO_CLASSES)) == 80
    assert DETECTORS["giraffedet-d7"].cls_outputs == 81
    assert DETECTORS["giraffedet-nano"].classes == DETECTION_CLASSES
