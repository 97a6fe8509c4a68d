"""Hyper path: latent -> hyper latent z, and z -> coding table of every symbol (integers only)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bevstack.errors import CheckpointError

from .blocks import SLOPE
from .config import HYPER_STRIDE, CodecConfig
from .integer import LIMIT, IntegerConv, clamp_soft, round_half_up
from .rate import knot_weights

Z_LIMIT = 127.0
_Z_BITS = 3  # z and the rate plane enter as 1/8 of their integers
_A_BITS = 5  # activations: 0 .. 255 in steps of 1/32
_INDEX_BITS = 7  # of the last layer: a real 1 is 8 tables, in sixteenths of a table
FINE = 16.0  # steps per table index


def compress(y: Tensor) -> Tensor:
    """sign(y) * log(1 + |y|): gained latents span a factor of a thousand over the rates."""
    return y.sign() * torch.log1p(y.abs())


def pad_latent(y: Tensor) -> Tensor:
    """Repeats the last row and column until both sides are multiples of ``HYPER_STRIDE``."""
    h, w = y.shape[-2:]
    return F.pad(y, (0, -w % HYPER_STRIDE, 0, -h % HYPER_STRIDE), mode="replicate")


class HyperAnalysis(nn.Module):
    """Gained latent (N, M, h, w) and rate plane (N, 1, h/4, w/4) -> z before rounding (N, Z, h/4, w/4), sides rounded up."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        width = config.hyper.width
        self.enter = nn.Conv2d(config.latent, width, 1)
        self.down1 = nn.Conv2d(width, width, 3, stride=2, padding=1, groups=width)
        self.mix = nn.Conv2d(width, width, 1)
        self.down2 = nn.Conv2d(width, width, 3, stride=2, padding=1, groups=width)
        self.leave = nn.Conv2d(width + 1, config.hyper.channels, 1)
        with torch.no_grad():
            for down in (self.down1, self.down2):
                down.weight.add_(1.0 / 9.0)

    def forward(self, gained: Tensor, plane: Tensor) -> Tensor:
        x = F.leaky_relu(self.enter(compress(pad_latent(gained))), SLOPE)
        x = F.leaky_relu(self.mix(self.down1(x)), SLOPE)
        x = F.leaky_relu(self.down2(x), SLOPE)
        rate = (plane / 32.0 - 1.0).expand(x.shape[0], -1, *x.shape[-2:])
        result: Tensor = self.leave(torch.cat([x, rate], 1))
        return result


class IntegerScaleNet(nn.Module):
    """z (N, Z, a, b) integers and rate plane (N, 1, a, b) integers 0..63 -> table index (N, M, 4a, 4b), integers in a float
    tensor.

    The only network that parsing depends on. Exact: see ``bevstack.codec.integer``. A table of integers, ``prior``, gives each
    channel its usual index at each rate point; the network adds what z says, in sixteenths of an index. While training,
    ``prior`` is rounded from ``prior_knots``; ``freeze`` fixes it.
    """

    prior: Tensor

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        z, width, top = config.hyper.channels, config.hyper.scale_width, float(config.distribution.count - 1)
        half = max(8, width // 2)

        def conv(inputs: int, outputs: int, weight_bits: int = 7, in_bits: int = _A_BITS) -> IntegerConv:
            return IntegerConv(inputs, outputs, in_bits, _A_BITS, weight_bits, 0.0, 255.0)

        def depthwise(channels: int) -> IntegerConv:
            return IntegerConv(channels, channels, _A_BITS, _A_BITS, 6, 0.0, 255.0, depthwise=True)

        self.enter = conv(z + 1, width, 6, _Z_BITS)
        self.spread1 = depthwise(width)
        self.up1 = conv(width, 4 * width)
        self.spread2 = depthwise(width)
        self.up2 = conv(width, 4 * half)
        self.spread3 = depthwise(half)
        self.leave = IntegerConv(half, config.latent, _A_BITS, _INDEX_BITS, 7, -1024.0, 1024.0)
        self.top, self.rate = top, config.rate
        self.prior_knots = nn.Parameter(torch.full((config.rate.knots, config.latent), 16.0))
        self.register_buffer("prior", torch.zeros(config.rate.levels, config.latent))
        with torch.no_grad():
            self.leave.weight.mul_(0.3)
        self.freeze()

    def _rounded(self) -> Tensor:
        levels = torch.arange(self.rate.levels, dtype=self.prior_knots.dtype, device=self.prior_knots.device)
        weights = knot_weights(levels[:, None, None, None], self.rate)[:, :, 0, 0]
        return clamp_soft(round_half_up(weights @ self.prior_knots * FINE), -1023.0, 2047.0)

    @torch.no_grad()
    def freeze(self) -> None:
        """Writes ``prior`` from the trained knots, once: rounding a float elsewhere could give another integer."""
        self.prior.copy_(self._rounded())

    def check(self) -> None:
        """Raises CheckpointError if a sum could leave the range in which floats are exact."""
        for layer, largest in self.layers():
            bound = layer.largest_sum(largest)
            if bound >= LIMIT:
                raise CheckpointError(f"scale net: a sum may reach {bound:.0f}, above 2^24: train with smaller weights")

    def layers(self) -> list[tuple[IntegerConv, float]]:
        """Every layer with the largest magnitude that can enter it."""
        first = [(self.enter, Z_LIMIT)]
        return first + [(m, 255.0) for m in (self.spread1, self.up1, self.spread2, self.up2, self.spread3, self.leave)]

    def forward(self, z: Tensor, plane: Tensor) -> Tensor:
        x = torch.cat([z.clamp(-Z_LIMIT, Z_LIMIT), plane.expand(z.shape[0], -1, *z.shape[-2:])], 1)
        x = self.spread1(self.enter(x))
        x = self.spread2(F.pixel_shuffle(self.up1(x), 2))
        x = self.spread3(F.pixel_shuffle(self.up2(x), 2))
        prior = self._rounded() if self.training else self.prior.to(x.dtype)
        usual = prior[plane[:, 0].long()].permute(0, 3, 1, 2)
        if usual.shape[-2:] != (1, 1):
            usual = F.interpolate(usual, scale_factor=float(HYPER_STRIDE), mode="nearest")
        return clamp_soft(round_half_up((self.leave(x) + usual) * (1.0 / FINE)), 0.0, self.top)


SCALE_NETS: dict[str, type[nn.Module]] = {"integer-dw": IntegerScaleNet}
