"""Integer network layers, carried out in floating point without a single rounding error.

Weights, activations and biases are integers held in float tensors. Every product and every partial sum stays below 2^24, so
float32 adds them exactly, in whatever order a machine prefers; the re-scaling is a power of two, which is exact as well; then
comes ``floor``. The result is the same on every machine, with any thread count, memory layout, engine, and in float64 (brief
codec-common, section 4). Only 1x1 and depthwise convolutions are used: libraries may compute 3x3 convolutions by Winograd's
method, which is not exact.

Training goes through the same code: rounding passes gradients straight through.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LIMIT = float(1 << 24)
WEIGHT_MAX = 127.0


class _Round(torch.autograd.Function):
    """floor(x + 0.5), gradient 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.floor(x + 0.5)

    @staticmethod
    def backward(ctx: Any, *grad: Any) -> Any:
        return grad[0]


class _Clamp(torch.autograd.Function):
    """clamp(x, low, high); outside, the gradient passes only where a step along it leads back inside."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float, leak: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.limits = (low, high, leak)
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = grads
        (x,) = ctx.saved_tensors
        low, high, leak = ctx.limits
        blocked = ((x < low) & (grad > 0)) | ((x > high) & (grad < 0))
        return torch.where(blocked, grad * leak, grad), None, None, None


def round_half_up(x: Tensor) -> Tensor:
    """floor(x + 0.5) with a straight-through gradient in training. ``x + 0.5`` must be exact: true for k / 2^s below 2^22."""
    if torch.is_grad_enabled() and x.requires_grad:
        result: Tensor = _Round.apply(x)  # type: ignore[no-untyped-call]
        return result
    return torch.floor(x + 0.5)


def clamp_soft(x: Tensor, low: float, high: float, leak: float = 0.0) -> Tensor:
    """clamp whose gradient, in training, lets values come back from outside."""
    if torch.is_grad_enabled() and x.requires_grad:
        result: Tensor = _Clamp.apply(x, low, high, leak)  # type: ignore[no-untyped-call]
        return result
    return x.clamp(low, high)


class IntegerConv(nn.Module):
    """1x1 or depthwise 3x3 convolution on integers, with requantisation: (N, in, H, W) integers -> (N, out, H, W) integers.

    Real value of an activation = integer * 2^-in_bits; of a weight = integer * 2^-weight_bits, integers within +-127; the
    output is ``floor(sum * 2^-shift + 1/2)`` limited to ``low .. high``, shift = in_bits + weight_bits - out_bits.

    Args:
        depthwise: 3x3, one filter per channel, zero padding; starts as the identity.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        in_bits: int,
        out_bits: int,
        weight_bits: int,
        low: float,
        high: float,
        depthwise: bool = False,
    ) -> None:
        super().__init__()
        self.depthwise = depthwise
        self.weight_scale, self.bias_scale = 2.0**weight_bits, 2.0 ** (weight_bits + in_bits)
        self.rescale = 2.0 ** (out_bits - in_bits - weight_bits)
        self.low, self.high = low, high
        shape = (outputs, 1, 3, 3) if depthwise else (outputs, inputs, 1, 1)
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.zeros(outputs))
        if depthwise:
            nn.init.normal_(self.weight, std=0.05)
            with torch.no_grad():
                self.weight[:, :, 1, 1] += 1.0
        else:
            nn.init.normal_(self.weight, std=(1.5 / inputs) ** 0.5)

    def integers(self) -> tuple[Tensor, Tensor]:
        """Weight and bias as the integers that are used."""
        weight = clamp_soft(round_half_up(self.weight * self.weight_scale), -WEIGHT_MAX, WEIGHT_MAX)
        return weight, round_half_up(self.bias * self.bias_scale)

    def largest_sum(self, largest_input: float) -> float:
        """Bound on the magnitude of any partial sum, bias included."""
        weight, bias = self.integers()
        return float((weight.abs().flatten(1).sum(1) * largest_input + bias.abs()).max().detach())

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.integers()
        weight, bias = weight.to(x.dtype), bias.to(x.dtype)
        groups = weight.shape[0] if self.depthwise else 1
        total = F.conv2d(x, weight, None, padding=1 if self.depthwise else 0, groups=groups) + bias[:, None, None]
        return clamp_soft(round_half_up(total * self.rescale), self.low, self.high)
