"""The integer scale net: the same answer whatever carries it out (brief codec-common, section 4)."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from bevstack.codec.config import CODECS  # noqa: E402
from bevstack.codec.integer import IntegerConv, clamp_soft, round_half_up  # noqa: E402
from bevstack.codec.model import CodecNet  # noqa: E402
from bevstack.errors import CheckpointError  # noqa: E402

from .tiny import make_net, tiny_config  # noqa: E402


def reference(net, z: np.ndarray, plane: np.ndarray) -> np.ndarray:
    """The scale net in int64 numpy, by loops over taps: a decoder that another team would write."""

    def conv(x: np.ndarray, layer: IntegerConv) -> np.ndarray:
        weight, bias = (t.detach().numpy().astype(np.int64) for t in layer.integers())
        if layer.depthwise:
            padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
            h, w = x.shape[1:]
            total = sum(weight[:, 0, i, j][:, None, None] * padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3))
        else:
            total = np.einsum("oi,ihw->ohw", weight[:, :, 0, 0], x)
        total = total + bias[:, None, None]
        shift = round(-np.log2(layer.rescale))
        half = 1 << (shift - 1) if shift else 0
        return np.clip((total + half) >> shift, int(layer.low), int(layer.high))

    def shuffle(x: np.ndarray) -> np.ndarray:
        c, h, w = x.shape
        return x.reshape(c // 4, 2, 2, h, w).transpose(0, 3, 1, 4, 2).reshape(c // 4, 2 * h, 2 * w)

    s = net.scales
    x = np.concatenate([np.clip(z, -127, 127), plane[None]]).astype(np.int64)
    x = conv(conv(x, s.enter), s.spread1)
    x = conv(shuffle(conv(x, s.up1)), s.spread2)
    x = conv(shuffle(conv(x, s.up2)), s.spread3)
    usual = s.prior.numpy().astype(np.int64)[plane.astype(np.int64)].transpose(2, 0, 1).repeat(4, 1).repeat(4, 2)
    return np.clip((conv(x, s.leave) + usual + 8) >> 4, 0, int(s.top))


def example(config, a: int = 5, b: int = 7, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    z = np.rint(rng.standard_t(2, (config.hyper.channels, a, b)) * 4).astype(np.float32)
    return z, rng.integers(0, config.rate.levels, (a, b)).astype(np.float32)


@pytest.fixture(scope="module")
def net():
    return make_net(tiny_config())


def test_equals_integer_arithmetic(net):
    z, plane = example(net.config)
    expected = reference(net, z, plane)
    with torch.no_grad():
        found = net.scales(torch.from_numpy(z)[None], torch.from_numpy(plane)[None, None])[0]
    np.testing.assert_array_equal(found.numpy().astype(np.int64), expected)
    assert len(np.unique(expected)) > 10  # the example exercises the range


def test_memory_layout_threads_float64_and_onednn_change_nothing(net):
    z, plane = (torch.from_numpy(a) for a in example(net.config, 9, 13))
    z, plane = z[None], plane[None, None]
    threads = torch.get_num_threads()
    with torch.no_grad():
        expected = net.scales(z, plane)
        layout = net.scales(z.contiguous(memory_format=torch.channels_last), plane)
        double = net.scales(z.double(), plane.double())
        with torch.backends.mkldnn.flags(enabled=False):
            plain = net.scales(z, plane)
        try:
            torch.set_num_threads(2)
            two = net.scales(z, plane)
        finally:
            torch.set_num_threads(threads)
        alone = torch.cat([net.scales(z[..., :9, :], plane[..., :9, :])], 0)
    for other in (layout, double, plain, two, alone):
        assert torch.equal(other.float(), expected)


def test_sums_stay_exact_in_every_family_member():
    for name in ("codec-nano", "codec-small"):
        net = CodecNet(CODECS[name])
        net.scales.check()
        assert all(layer.largest_sum(largest) < 2**24 for layer, largest in net.scales.layers())


def test_a_layer_that_is_not_exact_is_refused(net):
    broken = make_net(tiny_config())
    with torch.no_grad():
        broken.scales.leave.bias.fill_(2.0**14)
    with pytest.raises(CheckpointError, match="2\\^24"):
        broken.update()


def test_largest_weights_and_activations_are_exact():
    layer = IntegerConv(64, 8, 5, 5, 7, 0.0, 2.0**30)
    with torch.no_grad():
        layer.weight.fill_(3.0)
    x = torch.full((1, 64, 2, 2), 255.0)
    assert float(layer(x)[0, 0, 0, 0]) == np.floor(64 * 127 * 255 / 128 + 0.5)


def test_rounding_passes_gradients_and_clamping_lets_values_return():
    x = torch.tensor([0.2, 0.7, 5.0], requires_grad=True)
    round_half_up(x).sum().backward()
    assert x.grad.tolist() == [1, 1, 1]
    y = torch.tensor([-1.0, 2.0], requires_grad=True)
    (clamp_soft(y, 0.0, 1.0) * torch.tensor([1.0, 1.0])).sum().backward()
    # Going down from 2 leads back inside, going down from -1 leads away.
    assert y.grad.tolist() == [0, 1]


def test_ties_round_up():
    assert round_half_up(torch.tensor([0.5, 1.5, -0.5, -1.5])).tolist() == [1, 2, 0, -1]
