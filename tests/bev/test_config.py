"""Rungs: shapes, counts, JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bevstack.bev.anchors import all_anchors
from bevstack.bev.complexity import complexity
from bevstack.bev.config import CONFIGS, FastBEVConfig
from bevstack.bev.network import FastBEVNet
from bevstack.errors import CheckpointError

# Brief fast-bev, sections 2.1, 3 and 8: parameters, 2D and 3D GMAC, checkpoint entries.
PUBLISHED = {
    "fastbev-m0": (15_445_160, 52.9, 82.3, 232),
    "fastbev-m1": (15_445_160, 82.9, 82.3, 232),
    "fastbev-m2": (29_063_912, 92.7, 117.4, 364),
    "fastbev-m3": (36_442_536, 92.7, 245.2, 400),
    "fastbev-m4": (38_850_216, 162.1, 383.1, 502),
    "fastbev-m5": (38_850_216, 413.7, 383.1, 502),
}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_released_rungs_have_the_published_size(name: str) -> None:
    parameters, image, bev, entries = PUBLISHED[name]
    found = complexity(CONFIGS[name])
    assert found.parameters == parameters
    assert found.image / 1e9 == pytest.approx(image, abs=0.06)
    assert found.bev / 1e9 == pytest.approx(bev, abs=0.06)
    with torch.device("meta"):
        assert len(FastBEVNet(CONFIGS[name]).state_dict()) == entries


def test_m0_has_the_official_names_and_shapes(shared: Path) -> None:
    lines = (shared / "briefs" / "fastbev-m0-state-dict.txt").read_text().split("\n")
    listed = dict(line.split() for line in lines if line.strip())
    with torch.device("meta"):
        state = FastBEVNet(CONFIGS["fastbev-m0"]).state_dict()
    assert {k: "x".join(map(str, v.shape)) or "scalar" for k, v in state.items()} == listed


def test_variants_of_the_released_rungs() -> None:
    f4, f1, r101 = (complexity(CONFIGS[f"fastbev-{name}"]) for name in ("m0", "m0-f1", "r101"))
    assert f4.parameters - f1.parameters == 256 * (1024 - 256)  # brief, section 3: fuse is 256x256 with one instant
    assert f4.image == f1.image
    # torchvision's ResNets without their classifiers: 23,508,032 and 42,500,160 parameters.
    assert r101.parameters - complexity(CONFIGS["fastbev-m4"]).parameters == 42_500_160 - 23_508_032
    assert CONFIGS["fastbev-r101"].feature_hw == (225, 400)


def test_the_light_rungs_are_light_and_differ_in_their_images_only() -> None:
    micro, nano = CONFIGS["fastbev-micro"], CONFIGS["fastbev-nano"]
    assert complexity(micro).total < 2.5e9
    assert complexity(nano).total < 4e9
    assert replace(nano, name=micro.name, image_hw=micro.image_hw) == micro


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_json_round_trip(name: str) -> None:
    config = CONFIGS[name]
    again = FastBEVConfig.from_json(config.to_json())
    assert again == config
    assert again.digest() == config.digest()
    assert len({c.digest() for c in CONFIGS.values()}) == len(CONFIGS)


@given(st.one_of(st.text(), st.binary().map(lambda b: b.decode("latin1"))))
def test_foreign_json_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        FastBEVConfig.from_json(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [{"surprise": 1}, {"grid": {"m": 3}}, {"backbone": 5}])
def test_configs_of_another_version_are_refused(change: dict[str, object]) -> None:
    values = {**json.loads(CONFIGS["fastbev-micro"].to_json()), **change}
    with pytest.raises(CheckpointError, match="cannot be read"):
        FastBEVConfig.from_json(json.dumps(values))


@pytest.mark.parametrize(
    ("name", "count", "first", "step"), [("fastbev-m0", 80_000, -49.5, 1.0), ("fastbev-m4", 125_000, -49.6, 0.8)]
)
def test_anchors(name: str, count: int, first: float, step: float) -> None:
    anchors = all_anchors(CONFIGS[name])
    assert anchors.shape == (count, 9)
    np.testing.assert_allclose(anchors[0], [first, first, -1.8, 0.866, 2.5981, 1, 0, 0, 0], atol=1e-5)
    np.testing.assert_allclose(anchors[1], [first, first, -1.8, 0.866, 2.5981, 1, 1.57, 0, 0], atol=1e-5)
    assert anchors[8, 0] == pytest.approx(first + step, abs=1e-4)
    np.testing.assert_allclose(anchors[-1], [-first, -first, -1.8, 0.4, 0.4, 1, 1.57, 0, 0], atol=1e-4)
