"""The entropy score of a structure (brief mae-det, section 1.2): no network is built and no image is seen.

With weights and input drawn from N(0, 1), and norms, activations, biases and shortcuts left out, every convolution multiplies
the variance by its fan-in. Log standard deviations therefore add up, and the entropy of a stage's Gaussian features is their
sum up to there, plus the logarithm of its channels. Resolution, shortcuts and activations do not enter: scores compare
structures of one family under one budget, nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log

from bevstack.nn.superblocks import SuperBlockConfig

DETECTION_WEIGHTS = (0.0, 0.0, 1.0, 1.0, 6.0)
"""Of the stages C1..C5 in the published detection searches: C5 counts six times."""


def stage_entropies(config: SuperBlockConfig) -> tuple[float, float, float, float, float]:
    """Entropies of C1 (the stem) to C5, nats up to a constant."""
    total = 0.5 * log(3 * 9)
    entropies = [total + log(config.stem)]
    channels = config.stem
    for group in config.stages:
        for index in group:
            block = config.blocks[index]
            inner = log(block.bottleneck)
            # 1x1 from the block's input, kxk and 1x1 from the bottleneck; only the first block's input differs.
            per_block = inner + log(block.kernel)
            total += 0.5 * log(channels) + 0.5 * (block.layers - 1) * log(block.out) + block.layers * per_block
            channels = block.out
        entropies.append(total + log(channels))
    c1, c2, c3, c4, c5 = entropies
    return c1, c2, c3, c4, c5


def score(config: SuperBlockConfig, weights: Sequence[float] = DETECTION_WEIGHTS) -> float:
    """The weighted sum of the stage entropies.

    Args:
        weights: of C1..C5; more on C3 favours small objects.
    """
    return sum(w * h for w, h in zip(weights, stage_entropies(config)))
