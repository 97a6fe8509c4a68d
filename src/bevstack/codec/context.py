"""Means of the gained latent. They shape the symbols but never the parsing: symbol = round(y - mean), y_hat = symbol +
mean (a dependent quantiser: level * step + mean).

Contract (``MEANS``): ``passes`` is 1 or 2; ``hyper(z, plane)`` gives features (N, F, 4a, 4b); ``first(features)`` the means of
pass 1 and, where there is a second pass, ``second(features, decoded)`` those of pass 2, from what pass 1 decoded (zero
elsewhere). All means are natural (the caller multiplies by the gain), as is ``decoded``.

The checkerboard (He et al. 2021; brief codec-checkerboard-deform-kd, section 4): positions with even row + column come first,
the others second, with parameter networks of their own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import SLOPE
from .config import CodecConfig


def anchor_mask(h: int, w: int, like: Tensor) -> Tensor:
    """(h, w) ones where row + column is even."""
    rows = torch.arange(h, device=like.device)[:, None]
    columns = torch.arange(w, device=like.device)[None, :]
    return ((rows + columns + 1) % 2).to(like.dtype)


class HyperFeatures(nn.Module):
    """z (N, Z, a, b) and rate plane (N, 1, a, b) -> (N, F, 4a, 4b)."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        width = config.mean.features
        self.enter = nn.Conv2d(config.hyper.channels + 1, width, 1)
        self.spread1 = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.up1 = nn.Conv2d(width, 4 * width, 1)
        self.spread2 = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.up2 = nn.Conv2d(width, 4 * width, 1)
        self.spread3 = nn.Conv2d(width, width, 3, padding=1, groups=width)
        with torch.no_grad():
            for spread in (self.spread1, self.spread2, self.spread3):
                spread.weight[:, :, 1, 1] += 1.0

    def forward(self, z: Tensor, plane: Tensor) -> Tensor:
        rate = (plane / 32.0 - 1.0).expand(z.shape[0], -1, *z.shape[-2:])
        x = F.leaky_relu(self.enter(torch.cat([z / 8.0, rate], 1)), SLOPE)
        x = F.leaky_relu(F.pixel_shuffle(self.up1(self.spread1(x)), 2), SLOPE)
        x = F.leaky_relu(F.pixel_shuffle(self.up2(self.spread2(x)), 2), SLOPE)
        result: Tensor = F.leaky_relu(self.spread3(x), SLOPE)
        return result


def _parameters(inputs: int, hidden: int, latent: int) -> nn.Sequential:
    """Two 1x1 layers, the last one small at first."""
    last = nn.Conv2d(hidden, latent, 1)
    with torch.no_grad():
        last.weight.mul_(0.1)
    return nn.Sequential(nn.Conv2d(inputs, hidden, 1), nn.LeakyReLU(SLOPE), last)


class HyperMeans(nn.Module):
    """One pass, from the hyper latent alone."""

    passes = 1

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.features = HyperFeatures(config)
        self.anchors = _parameters(config.mean.features, config.mean.hidden, config.latent)

    def hyper(self, z: Tensor, plane: Tensor) -> Tensor:
        result: Tensor = self.features(z, plane)
        return result

    def first(self, features: Tensor) -> Tensor:
        result: Tensor = self.anchors(features)
        return result


class CheckerboardMeans(HyperMeans):
    """Two passes. The second sees hyper features, mixed context features, and each channel's own neighbours."""

    passes = 2

    def __init__(self, config: CodecConfig) -> None:
        super().__init__(config)
        mean = config.mean
        self.squeeze = nn.Conv2d(config.latent, mean.context, 1)
        self.around = nn.Conv2d(mean.context, mean.context, 3, padding=1, groups=mean.context)
        self.others = _parameters(mean.features + mean.context, mean.hidden, config.latent)
        self.neighbours = nn.Conv2d(config.latent, config.latent, 3, padding=1, groups=config.latent, bias=False)
        nn.init.zeros_(self.neighbours.weight)
        with torch.no_grad():
            self.around.weight.add_(0.25)

    def second(self, features: Tensor, decoded: Tensor) -> Tensor:
        context = F.leaky_relu(self.around(self.squeeze(decoded)), SLOPE)
        result: Tensor = self.others(torch.cat([features, context], 1)) + self.neighbours(decoded)
        return result


class NoMeans(nn.Module):
    """All means are 0."""

    passes = 0

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()


MEANS: dict[str, type[nn.Module]] = {"none": NoMeans, "hyper": HyperMeans, "checkerboard": CheckerboardMeans}
