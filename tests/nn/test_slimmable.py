"""Several widths on one set of weights: slicing, sharing, extraction, order of channels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bevstack.nn.channel_order import sort_channels
from bevstack.nn.fpn import TopDownSum
from bevstack.nn.layers import ConvBN
from bevstack.nn.resnet import ResNet
from bevstack.nn.slimmable import Slimmable, leading, narrow_state
from bevstack.nn.widths import scaled, split_width, with_width


class Small(nn.Module):
    """Backbone and neck; the outputs have 8 channels at every width."""

    def __init__(self, width: float, stem: tuple[int, ...] = (16, 16), kind: str = "basic") -> None:
        super().__init__()
        thin = [scaled(c, width) for c in (16, 16, 32, 32)]
        self.backbone = ResNet(
            "basic" if kind == "basic" else "bottleneck", [scaled(c, width) for c in stem], thin, (1, 1, 2, 1)
        )
        self.neck = TopDownSum(self.backbone.outputs, 8)
        self.head = nn.Sequential(nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4))

    def forward(self, images: Tensor) -> Tensor:
        y: Tensor = self.head(self.neck(self.backbone(images)))
        return y


def lively(net: nn.Module) -> None:
    """Norms of a network that has been trained: no two channels alike."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.uniform_(-0.5, 0.5)
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2.0)


@pytest.fixture
def slim() -> Slimmable[Small]:
    torch.manual_seed(0)
    made = Slimmable(Small, (0.5, 1.0, 0.75), lambda name: not name.startswith("head"))
    lively(made)
    return made.eval()


@pytest.fixture
def images() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 3, 64, 64)


def test_names_of_widths() -> None:
    assert with_width("net", 1) == "net@1.0"
    assert split_width("a/net.safetensors@0.75") == ("a/net.safetensors", 0.75)
    assert split_width("user@host") == ("user@host", None)
    assert split_width("net") == ("net", None)
    assert [scaled(c, 0.75) for c in (16, 24, 48, 160, 8)] == [16, 16, 40, 120, 8]
    assert [scaled(c, 0.5) for c in (16, 24, 48, 160, 8)] == [8, 16, 24, 80, 8]


def test_leading_parts_of_concatenations() -> None:
    x = torch.arange(10.0).reshape(1, 10)
    assert leading(x, (1, 4)).flatten().tolist() == [0, 1, 2, 3]
    assert leading(x, (1, 5), ((6, 3), (4, 2))).flatten().tolist() == [0, 1, 2, 6, 7]
    for shape, parts in (((2, 4), None), ((1, 4, 1), None), ((1, 5), ((6, 3), (3, 2)))):
        with pytest.raises(ValueError, match=r"shape|add up"):
            leading(x, shape, parts)


@pytest.mark.parametrize("width", [0.5, 0.75, 1.0])
def test_an_extracted_network_is_the_slimmable_one(slim: Slimmable[Small], images: Tensor, width: float) -> None:
    plain = slim.extract(width)
    assert isinstance(plain, Small)
    assert torch.equal(plain(images), slim.at(width)(images))
    assert all(isinstance(m, nn.Conv2d) for n, m in plain.named_modules() if n.endswith("conv1"))
    before = {k: v.clone() for k, v in slim.tensors().items()}
    for parameter in plain.parameters():
        parameter.data.fill_(7.0)
    assert all(torch.equal(before[k], v) for k, v in slim.tensors().items()), "a copy"


def test_a_narrow_network_is_the_wide_one_with_its_other_channels_silent(slim: Slimmable[Small], images: Tensor) -> None:
    """Without any slicing: the wide network, in which every channel beyond the narrow ones is held at zero."""
    narrow, wide = slim.at(0.5), slim.extract(1.0)
    own = {n: m for n, m in narrow.named_modules() if isinstance(m, nn.BatchNorm2d)}
    for name, module in wide.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            used = own[name].weight.numel()
            for key in ("weight", "bias", "running_mean", "running_var"):
                getattr(module, key).data[:used] = getattr(own[name], key)
            module.weight.data[used:] = 0.0
            module.bias.data[used:] = 0.0
    assert torch.allclose(wide(images), narrow(images), atol=1e-5)
    assert not torch.allclose(slim.at(1.0)(images), narrow(images), atol=1e-2)


def test_weights_are_shared_and_norms_are_not(slim: Slimmable[Small], images: Tensor) -> None:
    slim.train()
    slim.at(0.5)(images).square().mean().backward()
    conv = slim.full.backbone.layer3[0].conv1
    assert conv.weight.grad is not None
    assert bool((conv.weight.grad[:16, :8] != 0).any())
    assert not bool(conv.weight.grad[16:].any() or conv.weight.grad[:, 8:].any()), "channels that are not used do not move"
    first = slim.full.neck.out_conv.bn
    assert first.weight.grad is None
    assert len(list(slim.parameters())) == len({id(p) for p in slim.parameters()})
    stats = [m.running_mean.clone() for m in slim.norms(1.0)]
    slim.at(0.75)(images)
    assert all(torch.equal(a, m.running_mean) for a, m in zip(stats, slim.norms(1.0)))
    assert slim.at(0.5).head[1] is slim.full.head[1], "not private: one for all widths"


def test_state_goes_round(slim: Slimmable[Small], images: Tensor) -> None:
    other = Slimmable(Small, (0.5, 0.75, 1.0), lambda name: not name.startswith("head")).eval()
    other.load_state_dict(other.named_as_state(slim.tensors()))
    for width in slim.widths:
        assert torch.equal(slim.at(width)(images), other.at(width)(images))
    net = Small(0.75)
    tensors = slim.tensors()
    del tensors["0.75/neck.out_conv.bn.weight"]
    state = narrow_state(tensors, net, 0.75, 1.0, lambda name: not name.startswith("head"), {})
    assert set(net.state_dict()) - set(state) == {"neck.out_conv.bn.weight"}, "another width's norm is no stand-in"


def test_what_cannot_be_narrower_is_refused() -> None:
    with pytest.raises(ValueError, match=r"head\.1 is a BatchNorm2d of another width"):
        Slimmable(lambda w: nn.ModuleDict({"head": nn.Sequential(nn.Conv2d(3, int(8 * w), 1), nn.BatchNorm2d(int(8 * w)))}),
                  (0.5, 1.0), lambda name: False)  # fmt: skip
    with pytest.raises(ValueError, match=r"no width 0\.6"):
        Slimmable(Small, (0.5, 1.0), lambda name: not name.startswith("head")).at(0.6)


@pytest.mark.parametrize(("stem", "kind"), [((16, 16), "basic"), ((16, 24), "basic"), ((16,), "bottleneck")])
def test_sorted_channels_compute_the_same(stem: tuple[int, ...], kind: str, images: Tensor) -> None:
    torch.manual_seed(2)
    net = Small(1.0, stem, kind)
    lively(net)
    net.eval()
    before, first = net(images), net.backbone.layer3[0].conv1.weight.clone()
    laterals = [m.conv for m in net.neck.lateral_convs if isinstance(m, ConvBN)]
    sort_channels(net.backbone, laterals)
    assert torch.allclose(net(images), before, atol=1e-4)
    assert not torch.equal(net.backbone.layer3[0].conv1.weight, first)
    read = laterals[3].weight.abs().sum((0, 2, 3))
    half = len(read) // 2
    assert read[:half].mean() > read[half:].mean(), "what is read most comes first"
