"""The six networks as graphs with arrays in and out, the same for every engine.

| graph | inputs | outputs |
| --- | --- | --- |
| analysis | ``rgb`` uint8 (1, 16 h, 16 w, 3) | ``latent`` (1, M, h, w), natural |
| hyper | ``gained`` (1, M, h, w), ``plane`` (1, 1, a, b) | ``z`` (1, Z, a, b), rounded |
| scales | ``z``, ``plane`` | ``index`` uint8 (1, M, 4 a, 4 b) |
| first | ``z``, ``plane`` | ``features`` (1, F, 4 a, 4 b), ``mean`` (1, M, 4 a, 4 b), natural |
| second | ``features`` (1, F, h, w), ``decoded`` (1, M, h, w), natural | ``mean`` (1, M, h, w), natural |
| synthesis | ``latent``, ``scale0``, ``shift0``, ... | ``rgb`` uint8 (1, 16 h, 16 w, 3) |
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .graph_names import passes_of
from .model import CodecNet, from_network, to_network


def _last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


class AnalysisGraph(nn.Module):
    def __init__(self, net: CodecNet) -> None:
        super().__init__()
        self.net = net.analysis

    def forward(self, rgb: Tensor) -> Tensor:
        result: Tensor = self.net(to_network(rgb.permute(0, 3, 1, 2).float()))
        return result


class HyperGraph(nn.Module):
    def __init__(self, net: CodecNet) -> None:
        super().__init__()
        self.net = net.hyper

    def forward(self, gained: Tensor, plane: Tensor) -> Tensor:
        return torch.floor(self.net(_last(gained), plane) + 0.5).clamp(-32000.0, 32000.0)


class ScalesGraph(nn.Module):
    def __init__(self, net: CodecNet) -> None:
        super().__init__()
        self.net = net.scales

    def forward(self, z: Tensor, plane: Tensor) -> Tensor:
        result: Tensor = self.net(z, plane)
        return result.to(torch.uint8)


class FirstGraph(nn.Module):
    def __init__(self, net: CodecNet) -> None:
        super().__init__()
        self.net: Any = net.means

    def forward(self, z: Tensor, plane: Tensor) -> tuple[Tensor, Tensor]:
        features = self.net.hyper(_last(z), plane)
        return features, self.net.first(features)


class SecondGraph(nn.Module):
    def __init__(self, net: CodecNet) -> None:
        super().__init__()
        self.net: Any = net.means

    def forward(self, features: Tensor, decoded: Tensor) -> Tensor:
        result: Tensor = self.net.second(_last(features), _last(decoded))
        return result


class SynthesisGraph(nn.Module):
    def __init__(self, net: CodecNet) -> None:
        super().__init__()
        self.net = net.synthesis

    def forward(self, latent: Tensor, *conditioning: Tensor) -> Tensor:
        pairs = list(zip(conditioning[0::2], conditioning[1::2]))
        pixels = from_network(self.net(_last(latent), pairs))
        return torch.floor(pixels.clamp(0.0, 255.0) + 0.5).to(torch.uint8).permute(0, 2, 3, 1)


def graphs(net: CodecNet) -> dict[str, tuple[nn.Module, list[str], list[str]]]:
    """Name -> (module, input names, output names) of the graphs that this model has."""
    stages = len(net.synthesis.conditioned)  # type: ignore[arg-type]
    conditioning = [f"{kind}{k}" for k in range(stages) for kind in ("scale", "shift")]
    result: dict[str, tuple[nn.Module, list[str], list[str]]] = {
        "analysis": (AnalysisGraph(net), ["rgb"], ["latent"]),
        "hyper": (HyperGraph(net), ["gained", "plane"], ["z"]),
        "scales": (ScalesGraph(net), ["z", "plane"], ["index"]),
        "synthesis": (SynthesisGraph(net), ["latent", *conditioning], ["rgb"]),
    }
    passes = passes_of(net.config)
    if passes >= 1:
        result["first"] = (FirstGraph(net), ["z", "plane"], ["features", "mean"])
    if passes == 2:
        result["second"] = (SecondGraph(net), ["features", "decoded"], ["mean"])
    return result
