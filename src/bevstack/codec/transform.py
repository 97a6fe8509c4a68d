"""Analysis and synthesis transforms: pixels to latent and back. ``TRANSFORMS`` names them; a config chooses one.

Contract of a pair (brief codec-common, section 8), both rate-independent except for the gains they are given:

* analysis: (N, 3, 16 h, 16 w) network pixels -> (N, M, h, w) natural latent;
* synthesis: natural latent, list of conditioning (scale, shift) pairs -> (N, 3, 16 h, 16 w) network pixels. ``conditioned``
  names
  the width of each conditioned stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import blocks
from .config import PATCH, CodecConfig

Conditioning = Sequence[tuple[Tensor, Tensor]]


class Analysis(Protocol):
    """See the module's contract."""

    def __call__(self, pixels: Tensor) -> Tensor: ...


def strided(conv: nn.Conv2d, x: Tensor, stride: int) -> Tensor:
    """A 1x1 layer over pixel-unshuffled ``x``, computed as one convolution with a stride: nothing is moved in memory."""
    outputs, inputs = conv.weight.shape[:2]
    weight = conv.weight.reshape(outputs, inputs // (stride * stride), stride, stride)
    return F.conv2d(x, weight, conv.bias, stride=stride)


class ResidualDepthwiseAnalysis(nn.Module):
    """8x8 patches -> trunk at 1/8 -> 2x2 stride 2 -> latent at 1/16, residual blocks at both resolutions."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        t = config.transform
        self.patch = nn.Conv2d(3 * PATCH * PATCH, t.channels, 1)
        self.trunk = blocks(t.encoder_blocks, t.channels, t.encoder_inner)
        self.down = nn.Conv2d(4 * t.channels, config.latent, 1)
        self.latent = blocks(t.encoder_latent_blocks, config.latent, t.latent_inner)

    def forward(self, pixels: Tensor) -> Tensor:
        x = strided(self.patch, pixels, PATCH)
        for block in self.trunk:
            x = block(x)
        x = strided(self.down, x, 2)
        for block in self.latent:
            x = block(x)
        return x


class ResidualDepthwiseSynthesis(nn.Module):
    """Mirror of the analysis, with more blocks and with channel scale and shift by rate before the trunk and in its middle."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        t = config.transform
        self.latent = blocks(t.decoder_latent_blocks, config.latent, t.latent_inner)
        self.up = nn.Conv2d(config.latent, 4 * t.channels, 1)
        self.trunk = blocks(t.decoder_blocks, t.channels, t.decoder_inner)
        self.patch = nn.Conv2d(t.channels, 3 * PATCH * PATCH, 1)
        self.conditioned = (t.channels, t.channels)
        self._at = (0, t.decoder_blocks // 2)

    def features(self, latent: Tensor, conditioning: Conditioning) -> list[Tensor]:
        """Trunk features after every block at 1/8, before the patches: what a student decoder is taught with."""
        x = latent
        for block in self.latent:
            x = block(x)
        x = F.pixel_shuffle(self.up(x), 2)
        stages = []
        for number, block in enumerate(self.trunk):
            for place, (scale, shift) in zip(self._at, conditioning):
                if place == number:
                    x = x * scale + shift
            x = block(x)
            stages.append(x)
        return stages

    def forward(self, latent: Tensor, conditioning: Conditioning) -> Tensor:
        return F.pixel_shuffle(self.patch(self.features(latent, conditioning)[-1]), PATCH)


TRANSFORMS: dict[str, tuple[type[nn.Module], type[nn.Module]]] = {
    "resdw8": (ResidualDepthwiseAnalysis, ResidualDepthwiseSynthesis),
}
