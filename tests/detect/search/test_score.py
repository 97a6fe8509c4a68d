"""Score and cost equal the official evaluator's values (brief mae-det, 1.3)."""

from __future__ import annotations

from math import log

import pytest

from bevstack.detect.search import DETECTION_WEIGHTS, cost, score, stage_entropies
from bevstack.detect.search.published import PUBLISHED, START
from bevstack.nn.superblocks import SuperBlock, SuperBlockConfig

RESNET_50 = SuperBlockConfig(64, tuple(SuperBlock(4 * m, 3, 2, n, m) for m, n in ((64, 3), (128, 4), (256, 6), (512, 3))))

GOLDEN = {
    # name: (parameters, layers, GFLOPs at 480, GMAC and GFLOPs at 1280x800, weighted C3, C4, C5, score)
    "mae-det-s": (21_233_120, 79, 10.993, 48.37, 48.86, 54.9613, 150.1961, 1526.7497, 1731.9070),
    "mae-det-m": (25_843_536, 91, 20.300, 89.32, 90.22, 112.2017, 213.0485, 1789.5327, 2114.7829),
    "mae-det-l": (43_879_552, 109, 34.495, 152.08, 153.31, 134.4775, 258.6509, 2206.2678, 2599.3961),
    "start": (9_639_584, 16, 7.745, 34.04, 34.42, 23.5998, 44.0216, 333.1046, 400.7261),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_official_values(name: str) -> None:
    config = PUBLISHED.get(name, START)
    parameters, layers, at_480, macs, flops, c3, c4, c5, total = GOLDEN[name]
    small, large = cost(config, (480, 480)), cost(config, (800, 1280))
    assert (small.parameters, small.layers) == (parameters, layers)
    assert small.flops / 1e9 == pytest.approx(at_480, abs=5e-4)
    assert large.macs / 1e9 == pytest.approx(macs, abs=5e-3)
    assert large.flops / 1e9 == pytest.approx(flops, abs=5e-3)
    weighted = [w * h for w, h in zip(DETECTION_WEIGHTS, stage_entropies(config))]
    assert weighted == pytest.approx([0, 0, c3, c4, c5], abs=1e-4)
    assert score(config) == pytest.approx(total, abs=1e-4)


def test_resnet_50_shape() -> None:
    # Its stem is 7x7: the closed form differs by that kernel's logarithm in every stage, the counts by its weights.
    stem = 0.5 * log(49 / 9)
    assert score(RESNET_50) + stem * sum(DETECTION_WEIGHTS) == pytest.approx(1174.2983, abs=1e-4)
    extra = 3 * 64 * (49 - 9)
    found = cost(RESNET_50, (480, 480))
    assert found.parameters + extra == 23_508_032
    assert found.layers == 49
    assert (found.flops + extra * 240 * 240) / 1e9 == pytest.approx(19.116, abs=5e-4)


def test_numeric_entropy_of_a_linear_network_agrees() -> None:
    """The definition (brief 1.1): random weights and input, neither norms nor activations nor sums; logarithms add up."""
    import torch

    rows = ((32, 3, 2, 2, 16), (48, 5, 2, 1, 16), (64, 3, 2, 1, 24), (64, 3, 2, 1, 32))
    config = SuperBlockConfig(16, tuple(SuperBlock(*row) for row in rows))
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(2):
        x, total, channels = torch.randn(4, 3, 128, 128, generator=generator), 0.0, 3
        found.append([])

        def conv(out: int, k: int = 1, stride: int = 1) -> None:
            nonlocal x, total, channels
            weight = torch.randn(out, channels, k, k, generator=generator)
            x = torch.nn.functional.conv2d(x, weight, stride=stride, padding=k // 2)
            total += float(x.std().log())
            x, channels = x / x.std(), out

        conv(config.stem, 3, 2)
        found[-1].append(total + log(channels))
        for block in config.blocks:
            for index in range(block.layers):
                conv(block.bottleneck)
                conv(block.bottleneck, block.kernel, block.stride if index == 0 else 1)
                conv(block.out)
            found[-1].append(total + log(channels))
    mean = [sum(values) / 2 for values in zip(*found)]
    # Zero padding at the borders of small maps takes a little away.
    assert mean == pytest.approx(stage_entropies(config), rel=0.05)
