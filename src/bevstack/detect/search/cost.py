"""What a structure costs on paper: FLOPs as the published searches count them, MACs, parameters, layers."""

from __future__ import annotations

from dataclasses import dataclass

from bevstack.nn.superblocks import SuperBlockConfig


@dataclass(frozen=True)
class Cost:
    """Of one image.

    Attributes:
        flops: as MAE-DET's budget counts (brief mae-det, 1.3): multiply-accumulates, two operations per output element of a
            batch norm, one per element of ReLU, pooling input and projected sum.
        macs: multiply-accumulates of the convolutions alone.
        parameters: with batch norms' scales and shifts.
        layers: convolutions on the longest path; shortcuts do not count.
    """

    flops: int
    macs: int
    parameters: int
    layers: int


def cost(config: SuperBlockConfig, image_hw: tuple[int, int] = (480, 480)) -> Cost:
    """Cost for images of (height, width) pixels. Sizes are rounded up where a stride does not divide them."""
    h, w = -(-image_hw[0] // 2), -(-image_hw[1] // 2)
    pixels, channels = h * w, config.stem
    macs = 27 * channels * pixels
    extra = 3 * channels * pixels
    parameters, layers = 27 * channels + 2 * channels, 1
    for block in config.blocks:
        k2, m, out = block.kernel**2, block.bottleneck, block.out
        before = pixels
        if block.stride == 2:
            h, w = -(-h // 2), -(-w // 2)
            pixels = h * w
            extra += channels * before
        # The first block of a super-block: strided, and its shortcut is projected.
        macs += channels * m * before + (m * m * k2 + m * out + channels * out) * pixels
        extra += 3 * m * before + 3 * m * pixels + 2 * out * pixels + 3 * out * pixels + out * pixels
        rest = block.layers - 1
        macs += rest * (out * m + m * m * k2 + m * out) * pixels
        extra += rest * (6 * m + 3 * out) * pixels
        parameters += channels * m + 2 * m + channels * out + 2 * out
        parameters += rest * (out * m + 2 * m) + block.layers * (m * m * k2 + 2 * m + m * out + 2 * out)
        layers += 3 * block.layers
        channels = out
    return Cost(macs + extra, macs, parameters, layers)
