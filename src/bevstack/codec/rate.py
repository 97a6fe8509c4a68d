"""Variable rate: one network, any rate point r in [0, levels - 1].

Gains are stored at a few knots and interpolated linearly over r - their logarithm for the latent (brief codec-ivr, variant B),
the values themselves for the decoder's channel conditioning (as in InterpCA). r may differ per position: a region of interest
is a rate plane. ``knot_weights`` is all there is to interpolation, for scalars and planes alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .config import CodecConfig, RateConfig


def knot_weights(r: Tensor, config: RateConfig) -> Tensor:
    """(N, 1, h, w) rate points -> (N, knots, h, w) weights of the knots: two neighbours share 1, the others have 0."""
    position = r.clamp(0.0, config.levels - 1.0) * ((config.knots - 1) / (config.levels - 1))
    knots = torch.arange(config.knots, device=r.device, dtype=r.dtype)[:, None, None]
    return (1.0 - (position - knots).abs()).clamp(min=0.0)


def lagrange(r: float, config: RateConfig) -> float:
    """lambda of a rate point."""
    share = r / (config.levels - 1)
    return config.lambda_min * (config.lambda_max / config.lambda_min) ** share


class GainRate(nn.Module):
    """Gain vectors for the latent, inverse gains, and (scale, shift) for the synthesis' conditioned stages.

    Args:
        conditioned: widths of the conditioned stages.
    """

    def __init__(self, config: CodecConfig, conditioned: Sequence[int]) -> None:
        super().__init__()
        self.config = config.rate
        knots = config.rate.knots
        logs = torch.empty(knots, config.latent)
        for k in range(knots):
            # One quantisation step is where a Lagrangian coder of orthonormal coefficients would put it: sqrt(26 / lambda)
            # grey levels.
            value = lagrange(k * (config.rate.levels - 1) / (knots - 1), config.rate)
            logs[k] = 0.5 * math.log(value / 26.0) + math.log(64.0)
        self.log_gain = nn.Parameter(logs)
        self.log_inverse = nn.Parameter(-logs.clone())
        self.scales = nn.ParameterList(nn.Parameter(torch.ones(knots, width)) for width in conditioned)
        self.shifts = nn.ParameterList(nn.Parameter(torch.zeros(knots, width)) for width in conditioned)

    @staticmethod
    def _mix(weights: Tensor, table: Tensor) -> Tensor:
        return torch.einsum("nkhw,kc->nchw", weights, table)

    def gain(self, weights: Tensor) -> Tensor:
        """(N, M, h, w) factor from natural to gained latents."""
        return self._mix(weights, self.log_gain).exp()

    def inverse(self, weights: Tensor) -> Tensor:
        """(N, M, h, w) factor back; learned on its own, not exactly one over the gain."""
        return self._mix(weights, self.log_inverse).exp()

    def conditioning(self, weights: Tensor, spatial: int = 1) -> list[tuple[Tensor, Tensor]]:
        """(scale, shift) per conditioned stage. ``spatial``: positions of the stage per position of ``weights`` and axis."""
        if spatial != 1 and weights.shape[-2:] != (1, 1):
            weights = weights.repeat_interleave(spatial, -1).repeat_interleave(spatial, -2)
        return [(self._mix(weights, a), self._mix(weights, b)) for a, b in zip(self.scales, self.shifts)]


RATES: dict[str, type[nn.Module]] = {"gain": GainRate}
