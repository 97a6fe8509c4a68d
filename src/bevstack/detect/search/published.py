"""Structures whose score and cost are published: MAE-DET-S, M, L, ResNet-50's shape, and the released search's start."""

from __future__ import annotations

from bevstack.nn.superblocks import SuperBlock, SuperBlockConfig


def _strided(stem: int, *blocks: tuple[int, int, int, int]) -> SuperBlockConfig:
    """(out, kernel, layers, bottleneck) of C2..C5."""
    return SuperBlockConfig(stem, tuple(SuperBlock(out, k, 2, layers, m) for out, k, layers, m in blocks))


PUBLISHED = {
    "mae-det-s": _strided(32, (48, 5, 2, 32), (272, 3, 4, 120), (1024, 5, 10, 80), (2048, 3, 10, 240)),
    "mae-det-m": _strided(64, (120, 3, 2, 64), (512, 5, 10, 72), (1632, 5, 10, 112), (2048, 5, 8, 184)),
    "mae-det-l": _strided(80, (144, 3, 2, 80), (608, 5, 12, 88), (1912, 5, 12, 136), (2400, 5, 10, 220)),
}
"""By name (brief mae-det, section 4)."""

START = SuperBlockConfig(
    32,
    (
        SuperBlock(256, 3, 2, 1, 64),
        SuperBlock(512, 3, 2, 1, 128),
        SuperBlock(768, 3, 2, 1, 256),
        SuperBlock(1024, 3, 1, 1, 256),
        SuperBlock(2048, 3, 2, 1, 512),
    ),
)
"""Where the released detection search starts (brief mae-det, section 2.2)."""
