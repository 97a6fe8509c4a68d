"""Backbones of super-blocks: names, counts, sizes, and what the config refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bevstack.nn.superblocks import BackboneError, SuperBlock, SuperBlockConfig, load_backbone, save_backbone

_ROWS = ((16, 3, 2, 1, 8), (24, 5, 2, 2, 8), (32, 3, 2, 1, 16), (32, 3, 1, 1, 8), (48, 3, 2, 1, 16))
SMALL = SuperBlockConfig(8, tuple(SuperBlock(*row) for row in _ROWS))


def test_released_names_and_counts() -> None:
    import torch

    from bevstack.detect.search.published import PUBLISHED
    from bevstack.nn.searched import SearchedBackbone

    with torch.device("meta"):
        net = SearchedBackbone(PUBLISHED["mae-det-s"])
    state = net.state_dict()
    assert sum(p.numel() for p in net.parameters()) == 21_233_120
    assert len(state) == 498
    for name in (
        "block_list.0.conv1.weight",
        "block_list.0.bn1.running_var",
        "block_list.1.block_list.0.conv2.conv1.weight",
        "block_list.4.block_list.9.conv3.bn1.weight",
        "block_list.3.block_list.0.residual_proj.conv1.weight",
    ):
        assert name in state
    assert "block_list.3.block_list.1.residual_proj.conv1.weight" not in state
    assert state["block_list.4.block_list.0.residual_proj.conv1.weight"].shape == (2048, 1024, 1, 1)


@pytest.mark.parametrize("hw", [(64, 96), (200, 328), (33, 47)])
def test_maps_have_the_strides_rounded_up(hw: tuple[int, int]) -> None:
    import torch

    from bevstack.nn.searched import SearchedBackbone

    net = SearchedBackbone(SMALL).eval()
    maps = net(torch.zeros(2, 3, *hw))

    def half(n: int, times: int) -> int:
        return n if times == 0 else half(-(-n // 2), times - 1)

    assert [tuple(m.shape) for m in maps] == [
        (2, c, half(hw[0], s), half(hw[1], s)) for c, s in zip((16, 24, 32, 48), (2, 3, 4, 5))
    ]
    assert SMALL.outputs == (16, 24, 32, 48)


def test_shortcut_averages_only_what_lies_inside() -> None:
    import torch

    from bevstack.nn.searched import SearchedBlock

    block = SearchedBlock(4, SuperBlock(4, 3, 2, 1, 8), True).eval()
    assert block.residual_proj is not None
    torch.nn.init.zeros_(block.conv3.conv1.weight)
    torch.nn.init.dirac_(block.residual_proj.conv1.weight)
    out = block(torch.ones(1, 4, 5, 7))
    assert torch.allclose(out, torch.ones_like(out), atol=1e-4)


def test_torch_and_onnx_runtime_agree_on_odd_sizes() -> None:
    import torch

    from bevstack.detect.search.programs import backbone_program, to_onnx, to_torch
    from bevstack.engine.onnx import OnnxEngine

    program = backbone_program(SMALL, (66, 94))
    image = np.random.default_rng(0).standard_normal((1, 3, 66, 94), np.float32)
    with torch.inference_mode():
        expected = to_torch(program)(torch.from_numpy(image)).numpy()
    found = OnnxEngine(to_onnx(program), 1).run({"image": image})["out"]
    assert found.shape == expected.shape == (1, 48, 3, 3)
    assert np.abs(found - expected).max() < 1e-4


@pytest.mark.parametrize(
    "blocks",
    [
        (SuperBlock(16, 3, 2, 1, 8),) * 3,
        (SuperBlock(16, 4, 2, 1, 8),) * 4,
        (SuperBlock(16, 3, 3, 1, 8),) * 4,
        (SuperBlock(0, 3, 2, 1, 8),) * 4,
        (SuperBlock(16, 3, 1, 1, 8), *(SuperBlock(16, 3, 2, 1, 8),) * 4),
    ],
)
def test_impossible_structures_are_refused(blocks: tuple[SuperBlock, ...]) -> None:
    with pytest.raises(BackboneError):
        SuperBlockConfig(16, blocks)


def test_file_round_trip_and_bad_files(tmp_path: Path) -> None:
    save_backbone(tmp_path / "b.json", SMALL, {"seed": 1})
    assert load_backbone(tmp_path / "b.json") == SMALL
    good = json.loads((tmp_path / "b.json").read_text())
    for content in ("", "[]", "{}", json.dumps({**good, "backbone": {"stem": 8}}), json.dumps({**good, "backbone": None})):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(BackboneError):
            load_backbone(tmp_path / "bad.json")
    with pytest.raises(BackboneError, match="cannot be read"):
        load_backbone(tmp_path / "none.json")


def test_fast_bev_takes_a_searched_backbone() -> None:
    from dataclasses import replace

    import torch

    from bevstack.bev.config import CONFIGS, FastBEVConfig
    from bevstack.bev.network import FastBEVNet

    config = replace(CONFIGS["fastbev-micro"], name="searched", backbone=SMALL, image_hw=(96, 264))
    assert FastBEVConfig.from_json(config.to_json()) == config
    net = FastBEVNet(config).eval()
    with torch.inference_mode():
        maps = net.feature_maps(torch.zeros(1, 3, 96, 264))
    assert tuple(maps.shape[-2:]) == config.feature_hw


def test_giraffedet_takes_a_searched_backbone() -> None:
    from dataclasses import replace

    import torch

    from bevstack.detect import DETECTORS, GiraffeDetConfig
    from bevstack.detect.config import SearchedImageConfig
    from bevstack.detect.network import GiraffeDetNet

    config = replace(DETECTORS["giraffedet-nano"], name="searched", backbone=SearchedImageConfig(SMALL, (32, 48, 64, 64, 64)))
    assert GiraffeDetConfig.from_json(config.to_json()) == config
    net = GiraffeDetNet(config).eval()
    with torch.inference_mode():
        levels = net.backbone(torch.zeros(1, 3, 128, 256))
        scores, _ = net(torch.zeros(1, 3, 128, 256))
    assert [tuple(m.shape) for m in levels] == [
        (1, c, 128 // s, 256 // s) for c, s in zip((32, 48, 64, 64, 64), (8, 16, 32, 64, 128))
    ]
    assert [tuple(m.shape[2:]) for m in scores] == [(128 // s, 256 // s) for s in (8, 16, 32, 64, 128)]
