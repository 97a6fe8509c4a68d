"""Folding batch norms into the convolutions before them, for inference."""

from __future__ import annotations

import copy
import re
from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def fold_batch_norms(module: ModuleT) -> ModuleT:
    """A copy in eval mode in which every convolution has taken in its batch norm; same outputs up to rounding.

    Pairs are found by the field's names, (conv, bn) or (conv1, bn1), and by order inside an ``nn.Sequential``.
    """
    folded = copy.deepcopy(module).eval()
    for part in list(folded.modules()):
        children = dict(part.named_children())
        names = list(children)
        for position, name in enumerate(names):
            conv = children[name]
            if not isinstance(conv, nn.Conv2d):
                continue
            if isinstance(part, nn.Sequential):
                partner = names[position + 1] if position + 1 < len(names) else ""
            else:
                match = re.fullmatch(r"conv(\d*)", name)
                partner = f"bn{match.group(1)}" if match else ""
            norm = children.get(partner)
            if isinstance(norm, nn.BatchNorm2d):
                setattr(part, name, fuse_conv_bn_eval(conv, norm))
                setattr(part, partner, nn.Identity())
    return folded
