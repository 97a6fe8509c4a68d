"""The whole network of a codec, for training and for export: ``CodecNet``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bevstack.errors import CheckpointError

from .config import HYPER_STRIDE, PIXEL_CENTRE, PIXEL_SCALE, STRIDE, CodecConfig
from .context import MEANS, anchor_mask
from .distribution import gaussian_bits, log_step, scale_of_index
from .hyper import SCALE_NETS, HyperAnalysis
from .integer import clamp_soft, round_half_up
from .rate import RATES, knot_weights
from .transform import TRANSFORMS


@dataclass
class Forward:
    """Result of a training pass over N images.

    Attributes:
        pixels: (N, 3, H, W) reconstruction in grey levels, not rounded, not clamped.
        bits_y, bits_z: (N,) estimated bits.
        latent: (N, M, h, w) gained latent, for sparsity losses.
        decoded: (N, M, h, w) natural latent as the synthesis sees it.
    """

    pixels: Tensor
    bits_y: Tensor
    bits_z: Tensor
    latent: Tensor
    decoded: Tensor


def _disturbed(x: Tensor, training: bool) -> Tensor:
    """What the rate is estimated on: uniform noise in training, the rounding that will happen otherwise."""
    return x + torch.rand_like(x) - 0.5 if training else torch.floor(x + 0.5)


def to_network(pixels: Tensor) -> Tensor:
    """Grey levels 0..255 to the networks' units."""
    return (pixels - PIXEL_CENTRE) / PIXEL_SCALE


def from_network(x: Tensor) -> Tensor:
    """The networks' units to grey levels."""
    return x * PIXEL_SCALE + PIXEL_CENTRE


def spread_plane(plane: Tensor, h: int, w: int) -> Tensor:
    """(N, 1, a, b) values per hyper position -> (N, 1, h, w) per latent position; (N, 1, 1, 1) stays as it is."""
    if plane.shape[-2:] == (1, 1):
        return plane
    return plane.repeat_interleave(HYPER_STRIDE, -1).repeat_interleave(HYPER_STRIDE, -2)[..., :h, :w]


class CodecNet(nn.Module):
    """All networks of a config. Sub-modules: ``analysis``, ``synthesis``, ``hyper``, ``scales``, ``means``, ``rate``.

    What parsing depends on (the bitstream side): ``scales``, ``z_table`` and the coding tables. ``update`` fixes those after
    training.
    """

    z_table: Tensor

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        try:
            analysis, synthesis = TRANSFORMS[config.transform.kind]
            scales, means, rate = SCALE_NETS[config.hyper.kind], MEANS[config.mean.kind], RATES[config.rate.kind]
        except KeyError as error:
            raise CheckpointError(
                f"codec config {config.name!r} asks for an unknown part {error}: this version has none"
            ) from error
        self.analysis = analysis(config)  # type: ignore[call-arg]
        self.synthesis = synthesis(config)  # type: ignore[call-arg]
        self.hyper = HyperAnalysis(config)
        self.scales = scales(config)  # type: ignore[call-arg]
        self.means = means(config)  # type: ignore[call-arg]
        self.rate = rate(config, self.synthesis.conditioned)  # type: ignore[call-arg, arg-type]
        # Hyper latent: zero-mean Gaussians, one table per rate point and channel.
        self.z_log_scale = nn.Parameter(torch.zeros(config.rate.knots, config.hyper.channels))
        self.register_buffer("z_table", torch.zeros(config.rate.levels, config.hyper.channels))

    def z_index(self, weights: Tensor) -> Tensor:
        """Table index of z before rounding, from knot weights (N, K, a, b): (N, Z, a, b)."""
        step, lowest = log_step(self.config.distribution), float(self.config.distribution.lowest)
        index = (torch.einsum("nkhw,kc->nchw", weights, self.z_log_scale) - torch.tensor(lowest).log()) / step
        return clamp_soft(index, 1.0, self.config.distribution.count - 1.0)

    @torch.no_grad()
    def update(self) -> None:
        """Fixes the integers that parsing depends on from the trained parameters. Call once, before saving.

        Raises:
            CheckpointError: if the scale net could leave the exact range.
        """
        levels = torch.arange(self.config.rate.levels, dtype=torch.float32)[:, None, None, None]
        self.z_table.copy_(torch.floor(self.z_index(knot_weights(levels, self.config.rate)) + 0.5)[:, :, 0, 0])
        self.scales.freeze()  # type: ignore[operator]
        self.scales.check()  # type: ignore[operator]

    def latent_size(self, height: int, width: int) -> tuple[int, int]:
        """Latent rows and columns of an image."""
        return -(-height // STRIDE), -(-width // STRIDE)

    def forward(self, pixels: Tensor, r: Tensor, visible: Tensor | None = None) -> Forward:
        """Straight-through rounding for the reconstruction; for the rate, noise in training and rounding in evaluation.

        Args:
            pixels: (N, 3, H, W) grey levels, sides multiples of 64.
            r: (N, 1, a, b) rate points per hyper position, or (N, 1, 1, 1).
            visible: (N, 1, h, w) 0 where the residual is lost; None: all arrive.
        """
        y = self.analysis(to_network(pixels))
        return self.code(y, r, visible)

    def code(self, y: Tensor, r: Tensor, visible: Tensor | None = None, synthesise: bool = True) -> Forward:
        """Everything after the analysis; see ``forward``. Without ``synthesise``, ``pixels`` is empty."""
        config = self.config
        h, w = y.shape[-2:]
        plane = torch.floor(r + 0.5)
        weights = knot_weights(r, config.rate)
        rows = spread_plane(weights, h, w) if weights.shape[-2:] != (1, 1) else weights
        gain, inverse = self.rate.gain(rows), self.rate.inverse(rows)  # type: ignore[operator]
        gained = y * gain
        z = self.hyper(gained, plane)
        z_hat = round_half_up(z)
        z_scale = scale_of_index(self.z_index(weights), config.distribution)
        bits_z = gaussian_bits(_disturbed(z, self.training), z_scale).flatten(1).sum(1)
        index = self.scales(z_hat, plane)[..., :h, :w]
        scale = scale_of_index(index, config.distribution)
        mean, quantised = self._quantise(gained, z_hat, plane, gain, inverse, visible)
        bits_y = gaussian_bits(_disturbed(gained - mean, self.training), scale).flatten(1).sum(1)
        decoded = quantised * inverse
        if not synthesise:
            return Forward(y.new_zeros(0), bits_y, bits_z, gained, decoded)
        ratio = 2 if rows.shape[-2:] != (1, 1) else 1
        out = self.synthesis(decoded, self.rate.conditioning(rows, ratio))  # type: ignore[operator]
        return Forward(from_network(out), bits_y, bits_z, gained, decoded)

    def _quantise(
        self, gained: Tensor, z: Tensor, plane: Tensor, gain: Tensor, inverse: Tensor, visible: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(means, quantised latent), both gained."""
        means: Any = self.means
        h, w = gained.shape[-2:]

        def rounded(mean: Tensor) -> Tensor:
            residual = round_half_up(gained - mean)
            return mean + (residual if visible is None else residual * visible)

        if means.passes == 0:
            zero = torch.zeros_like(gained)
            return zero, rounded(zero)
        features = means.hyper(z, plane)[..., :h, :w]
        first = means.first(features) * gain
        if means.passes == 1:
            return first, rounded(first)
        anchors = anchor_mask(h, w, gained)
        early = rounded(first)
        second = means.second(features, early * anchors * inverse) * gain
        mean = torch.lerp(second, first, anchors)
        return mean, torch.lerp(rounded(second), early, anchors)
