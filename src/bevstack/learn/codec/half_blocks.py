"""Half precision where a codec's training spends its time: inside the residual blocks of its transforms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bevstack.codec.blocks import DepthwiseBlock
from bevstack.codec.model import CodecNet


def half_blocks(net: CodecNet) -> None:
    """Makes the blocks of analysis and synthesis compute their layers in bfloat16, which needs no loss scaling.

    What a block adds to is float32, as are the linear layers around the blocks (they carry the picture), everything that rates
    and table indices come from, the weights and the optimiser. So the error is that of corrections, not of the picture.
    """
    for part in (net.analysis, net.synthesis):
        for block in part.modules():
            if isinstance(block, DepthwiseBlock):
                _in_half(block)


def _in_half(block: nn.Module) -> None:
    inner: Any = block.forward

    def forward(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            result: Tensor = inner(x)
        return result

    block.forward = forward  # type: ignore[method-assign]
