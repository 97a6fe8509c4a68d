"""A larger codec begins where a smaller one ended."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.codec.tiny import make_net, photograph, tiny_config

from bevstack.codec.config import CODECS, CodecConfig
from bevstack.codec.model import CodecNet
from bevstack.codec.weights import save_weights
from bevstack.learn.codec.train import CodecTrainOptions, Trainer
from bevstack.learn.codec.widen import can_widen, name_in_larger, widen
from bevstack.learn.run import TrainingError

SMALL = tiny_config()
LARGE = replace(
    SMALL,
    name="codec-larger",
    transform=replace(
        SMALL.transform,
        channels=40,
        encoder_inner=20,
        decoder_inner=24,
        encoder_blocks=2,
        decoder_blocks=5,
        latent_inner=16,
        decoder_latent_blocks=3,
    ),
    hyper=replace(SMALL.hyper, channels=12, width=20, scale_width=24),
    mean=replace(SMALL.mean, features=24, hidden=40, context=16),
)


def pictures() -> torch.Tensor:
    return torch.from_numpy(photograph(128, 192, 3)).permute(2, 0, 1)[None].float()


@pytest.fixture(scope="module")
def source() -> CodecNet:
    net: CodecNet = make_net(SMALL)
    with torch.no_grad():  # everything that is zero or one at first would hide a mistake
        for name, parameter in net.named_parameters():
            if name.startswith("rate.s") or name.endswith("bias"):
                parameter.add_(0.05 * torch.randn_like(parameter))
    net.update()
    return net.eval()


@pytest.fixture(scope="module")
def grown(source: CodecNet) -> CodecNet:
    torch.manual_seed(5)
    net = CodecNet(LARGE)
    widen(net, source)
    return net.eval()


@pytest.mark.parametrize("rate", [0.0, 20.5, 63.0])
def test_pictures_and_bits_are_the_smaller_ones(source: CodecNet, grown: CodecNet, rate: float) -> None:
    plane = torch.full((1, 1, 2, 3), rate)
    plane[..., 1] = min(63.0, rate + 7)
    with torch.no_grad():
        a, b = (net(pictures(), plane) for net in (source, grown))
    assert (a.pixels - b.pixels).abs().max() < 0.02
    assert (a.decoded - b.decoded).abs().max() < 1e-3
    assert torch.allclose(a.bits_y, b.bits_y, rtol=1e-4)
    assert torch.allclose(a.bits_z, b.bits_z, rtol=0.01, atol=1.0)


def test_the_integers_of_parsing_are_the_smaller_ones(source: CodecNet, grown: CodecNet) -> None:
    z = torch.randint(-9, 10, (1, SMALL.hyper.channels, 2, 3)).float()
    more = torch.cat([z, torch.zeros(1, LARGE.hyper.channels - SMALL.hyper.channels, 2, 3)], 1)
    plane = torch.full((1, 1, 2, 3), 30.0)
    with torch.no_grad():
        assert torch.equal(source.scales(z, plane), grown.scales(more, plane))
    assert torch.equal(source.z_table, grown.z_table[:, : SMALL.hyper.channels])


def test_what_is_new_learns(source: CodecNet) -> None:
    net = CodecNet(LARGE)
    widen(net, source)
    net.train()
    out = net(pictures(), torch.full((1, 1, 2, 3), 40.0))
    ((out.pixels - pictures()).square().mean() + 1e-3 * (out.bits_y.mean() + out.bits_z.mean())).backward()
    new, dead = dict(net.named_parameters()), []
    for name, old in source.named_parameters():
        gradient = new[name_in_larger(name, SMALL, LARGE)].grad
        if old.dim() == 4 and gradient is not None and gradient.shape[1] > old.shape[1]:  # how old channels read new ones
            dead += [] if gradient[: len(old), old.shape[1] :].abs().max() > 0 else [name]
    assert dead == []


def test_what_can_grow() -> None:
    assert can_widen(SMALL, LARGE)
    assert not can_widen(LARGE, SMALL)
    assert not can_widen(SMALL, replace(SMALL, name="other"))  # nothing grows: such weights are taken as they are
    assert can_widen(CODECS["codec-nano"], CODECS["codec-small"])
    assert can_widen(CODECS["codec-small"], CODECS["codec-base"])
    for other in (
        replace(LARGE, latent=64),
        replace(LARGE, mean=replace(LARGE.mean, kind="hyper")),
        replace(LARGE, mean=replace(LARGE.mean, context=4)),
        replace(LARGE, rate=replace(LARGE.rate, knots=9)),
    ):
        assert not can_widen(SMALL, other)


def _begin(path: Path, config: CodecConfig) -> Trainer:
    return Trainer(CodecTrainOptions(path.parent / "run", config=config, steps=1, latent_steps=0, init=path), None)


def test_a_run_starts_from_smaller_weights(source: CodecNet, tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    save_weights(path, source, {})
    net = _begin(path, LARGE).net.eval()
    with torch.no_grad():
        a, b = (n(pictures(), torch.full((1, 1, 1, 1), 33.0)) for n in (source, net))
    assert (a.pixels - b.pixels).abs().mean() < 0.5  # the file holds half precision
    other = replace(LARGE, name="codec-other", latent=64)
    with pytest.raises(TrainingError, match=r"small\.safetensors holds codec-tiny, and codec-other is not that codec grown"):
        _begin(path, other)
