"""GiraffeDet in torch (arXiv 2202.04256; brief giraffedet), one class for every rung. Names equal the released checkpoints'.

Shapes: N images, level maps (N, C, H / stride, W / stride) for P3..P7.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d, pixel_unshuffle

from bevstack.nn.searched import SearchedBackbone

from .config import STRIDES, GiraffeDetConfig, HeadConfig, ImageBackboneConfig, SearchedImageConfig
from .graph import LEVELS, Node, giraffe_graph


def activation(kind: str) -> nn.Module:
    return nn.SiLU(inplace=True) if kind == "silu" else nn.ReLU(inplace=True)


class ConvAct(nn.Module):
    """Convolution without bias, batch norm, activation."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, act: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-5)
        self.act = activation(act)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.bn(self.conv(x)))
        return y


class Focus(nn.Module):
    """Space-to-depth by 2 (channel c * 4 + 2 * dy + dx), then a 1x1 ``ConvAct``: (N, C, H, W) -> (N, outputs, H/2, W/2)."""

    def __init__(self, inputs: int, outputs: int, act: str) -> None:
        super().__init__()
        self.conv = ConvAct(4 * inputs, outputs, 1, 1, act)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(pixel_unshuffle(x, 2))
        return y


class S2DChain(nn.Module):
    """The space-to-depth chain (brief section 2): (N, 3, H, W) -> P3..P7 with ``outputs`` channels."""

    def __init__(self, config: ImageBackboneConfig, act: str) -> None:
        super().__init__()
        self.outputs = list(config.levels)
        self.conv1 = ConvAct(3, config.stem[0], 3, 2, act)
        self.conv2 = ConvAct(config.stem[0], config.stem[1], 3, 2, act)
        channels = config.stem[1]
        for stride, width in zip(STRIDES, config.levels):
            setattr(self, f"focus_{stride}x", Focus(channels, width, act))
            channels = width

    def forward(self, images: Tensor) -> list[Tensor]:
        x: Tensor = self.conv2(self.conv1(images))
        maps = []
        for stride in STRIDES:
            x = getattr(self, f"focus_{stride}x")(x)
            maps.append(x)
        return maps


class SearchedLevels(nn.Module):
    """A searched backbone (``body``): (N, 3, H, W) -> P3..P7 with ``outputs`` channels."""

    def __init__(self, config: SearchedImageConfig, act: str) -> None:
        super().__init__()
        self.outputs = list(config.levels)
        self.body = SearchedBackbone(config.structure)
        c3_to_c5 = config.structure.outputs[1:]
        self.lateral = nn.ModuleList(ConvAct(c, out, 1, 1, act) for c, out in zip(c3_to_c5, config.levels))
        self.further = nn.ModuleList(Focus(a, b, act) for a, b in pairwise(config.levels[2:]))

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = [lateral(c) for lateral, c in zip(self.lateral, self.body(images)[1:])]
        for further in self.further:
            maps.append(further(maps[-1]))
        return maps


def image_backbone(config: ImageBackboneConfig | SearchedImageConfig, act: str) -> S2DChain | SearchedLevels:
    """Module with ``outputs`` (channels of P3..P7) that maps normalised images to the five levels."""
    return SearchedLevels(config, act) if isinstance(config, SearchedImageConfig) else S2DChain(config, act)


class _NormedConv(nn.Module):
    """3x3 convolution and batch norm, no activation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.conv(x))
        return y


class _AfterCombine(nn.Module):
    """1x1 (no norm), activation, 3x3, batch norm. Convolutions keep torch's default initialisation, as released."""

    def __init__(self, inputs: int, outputs: int, act: str) -> None:
        super().__init__()
        self.conv1x1 = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.act = activation(act)
        self.conv = _NormedConv(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(self.act(self.conv1x1(x)))
        return y


class FusionNode(nn.Module):
    """Inputs of any level -> one map: resample (nearest up, 3x3 max pooling down), concatenate, ``after_combine``."""

    def __init__(self, node: Node, inputs: int, outputs: int, act: str) -> None:
        super().__init__()
        self.resample = tuple(s.resample for s in node.inputs)
        self.after_combine = _AfterCombine(inputs, outputs, act)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        parts = []
        for how, x in zip(self.resample, maps):
            if how == "up":
                x = interpolate(x, scale_factor=2.0, mode="nearest")
            elif how == "down":
                x = max_pool2d(x, 3, 2, 1)
            parts.append(x)
        y: Tensor = self.after_combine(torch.cat(parts, 1) if len(parts) > 1 else parts[0])
        return y


class _Nodes(nn.Module):
    def __init__(self, nodes: Sequence[FusionNode]) -> None:
        super().__init__()
        self.fnode = nn.ModuleList(nodes)


class _Cell(nn.Module):
    def __init__(self, nodes: Sequence[FusionNode]) -> None:
        super().__init__()
        self.giraffeNeck = _Nodes(nodes)


class GFPN(nn.Module):
    """Generalised feature pyramid (brief section 3): P3..P7 of any widths -> P3..P7 of ``outputs`` channels."""

    def __init__(self, inputs: Sequence[int], config: GiraffeDetConfig) -> None:
        super().__init__()
        self.graph = giraffe_graph(config.layers, config.link)
        widths = dict(enumerate(inputs))
        nodes = []
        for node in self.graph:
            width = config.outputs if node.layer == config.layers else config.inner
            nodes.append(FusionNode(node, sum(widths[s.node] for s in node.inputs), width, config.activation))
            widths[node.number] = width
        self.cell = _Cell(nodes)
        last = {s.node: n for n, node in enumerate(self.graph) for s in node.inputs}
        self._done: list[list[int]] = [[k for k, v in last.items() if v == n] for n in range(len(self.graph))]

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        known = dict(enumerate(maps))
        outputs = []
        for node, module, done in zip(self.graph, self.cell.giraffeNeck.fnode, self._done):
            y = module([known[s.node] for s in node.inputs])
            known[node.number] = y
            if node.number >= LEVELS + len(self.graph) - LEVELS:
                outputs.append(y)
            for number in done:  # nobody reads it any more
                del known[number]
        return outputs


class _NormedTower(nn.Module):
    """3x3 convolution, group norm, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.gn = nn.GroupNorm(32, outputs)
        nn.init.normal_(self.conv.weight, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.gn(self.conv(x))
        return y.relu_()


class _Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class _Integral(nn.Module):
    """Expected bin of a distribution."""

    project: Tensor

    def __init__(self, reg_max: int) -> None:
        super().__init__()
        self.register_buffer("project", torch.linspace(0, reg_max, reg_max + 1))


def _full_precision(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """Switches autocast off, where it is on: probabilities lose too much in half precision."""
    mixed = x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)
    return torch.autocast(x.device.type, enabled=False) if mixed else contextlib.nullcontext()


class GFLHead(nn.Module):
    """GFLv2 (brief section 4), shared by all levels: class probabilities times quality, and side distributions as logits."""

    def __init__(self, inputs: int, outputs: int, config: HeadConfig) -> None:
        super().__init__()
        self.bins, self.top = config.reg_max + 1, config.top
        widths = [inputs, *[config.channels] * config.convs]
        self.cls_convs = nn.ModuleList(_NormedTower(a, b) for a, b in pairwise(widths))
        self.reg_convs = nn.ModuleList(_NormedTower(a, b) for a, b in pairwise(widths))
        self.gfl_cls = nn.Conv2d(config.channels, outputs, 3, padding=1)
        self.gfl_reg = nn.Conv2d(config.channels, 4 * self.bins, 3, padding=1)
        self.scales = nn.ModuleList(_Scale() for _ in STRIDES)
        self.reg_conf = nn.Sequential(
            nn.Conv2d(4 * (config.top + 1), config.quality, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(config.quality, 1, 1),
            nn.Sigmoid(),
        )
        self.integral = _Integral(config.reg_max)
        for conv in (self.gfl_cls, self.gfl_reg, self.reg_conf[0], self.reg_conf[2]):
            assert isinstance(conv, nn.Conv2d)
            assert conv.bias is not None
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)
        assert self.gfl_cls.bias is not None
        nn.init.constant_(self.gfl_cls.bias, -math.log(99.0))  # every cell starts at probability 0.01

    def level(self, x: Tensor, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """One level's map -> probabilities (N, K, H, W), side logits (N, 4 * bins, H, W), their softmax (N, 4, bins, H, W)."""
        cls, reg = x, x
        for conv in self.cls_convs:
            cls = conv(cls)
        for conv in self.reg_convs:
            reg = conv(reg)
        logits: Tensor = self.scales[index](self.gfl_reg(reg))
        classes: Tensor = self.gfl_cls(cls)
        with _full_precision(logits):
            logits = logits.float()
            n, _, h, w = logits.shape
            prob = logits.reshape(n, 4, self.bins, h, w).softmax(2)
            top = prob.topk(self.top, 2).values
            shape = torch.cat([top, top.mean(2, keepdim=True)], 2)
            quality = self.reg_conf(shape.reshape(n, 4 * (self.top + 1), h, w))
            scores = classes.float().sigmoid() * quality
        return scores, logits, prob

    def forward(self, levels: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Level maps -> per level: probabilities (N, K, H, W) and side logits (N, 4 * bins, H, W)."""
        results = [self.level(x, index) for index, x in enumerate(levels)]
        return [r[0] for r in results], [r[1] for r in results]


class GiraffeDetNet(nn.Module):
    """Normalised images (N, 3, H, W), H and W multiples of 128 -> per level probabilities and side logits."""

    def __init__(self, config: GiraffeDetConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = image_backbone(config.backbone, config.activation)
        self.neck = GFPN(self.backbone.outputs, config)
        self.bbox_head = GFLHead(config.outputs, config.cls_outputs, config.head)

    def features(self, images: Tensor) -> list[Tensor]:
        """P3..P7 after the neck."""
        out: list[Tensor] = self.neck(self.backbone(images))
        return out

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """See ``GFLHead.forward``."""
        out: tuple[list[Tensor], list[Tensor]] = self.bbox_head(self.features(images))
        return out
