"""Runs one instant through engines: one graph, or two graphs with the compiled gather between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from bevstack.engine import Engine
from bevstack.errors import EngineError

from .config import FastBEVConfig
from .gather import Gather
from .tables import Table

if TYPE_CHECKING:
    from .network import FastBEVNet

Floats = NDArray[np.float32]
HeadMaps = tuple[Floats, Floats, Floats]


def precision_of(metadata: Mapping[str, str]) -> str:
    """ "fp32", "fp16" or "int8", of an exported graph's metadata."""
    return metadata.get("precision", "fp32").partition("-")[0]


class Runner(Protocol):
    """``timings``: milliseconds per stage of the last call, in order. ``precision``: of the numbers inside the network."""

    timings: dict[str, float]

    @property
    def precision(self) -> str:
        """ "fp32", "fp16" or "int8": what the loaded network says of itself, not what was asked for."""

    def __call__(
        self, images: NDArray[np.uint8], tables: Sequence[Table], history: Sequence[Floats | None]
    ) -> tuple[HeadMaps, Floats]:
        """(N, H, W, 3) images, T tables (V,), T - 1 cached features (cells, C), None where missing -> head maps, features."""

    def close(self) -> None:
        """Frees the engines."""


@runtime_checkable
class Overlapping(Protocol):
    """A runner on a device of its own, which can begin an instant before the last one is finished. Two may be under way."""

    def begin(self, images: NDArray[np.uint8], tables: Sequence[Table], history: Sequence[Floats | None]) -> tuple[Any, Floats]:
        """Launches an instant: a ticket, and its features, which the next instant may have as its past already.

        Raises:
            EngineError: two are under way.
        """

    def finish(self, ticket: Any) -> HeadMaps:
        """Head maps of the oldest instant under way."""


class WholeRunner:
    """One graph with the gather inside. ``engine`` may be exchanged for another with the same inputs and outputs.

    ``source``: (width, height) of the pictures that the graph resizes itself; None: it takes images of the network's size.
    """

    def __init__(self, engine: Engine, config: FastBEVConfig) -> None:
        self.timings: dict[str, float] = {}
        self.source: tuple[int, int] | None = None
        self.engine, self._cells = engine, config.cells
        self._tables = np.empty((len(config.times), config.voxels), np.int32)
        self._unused = np.zeros((config.cells, config.neck_channels), np.float32)

    @property
    def precision(self) -> str:
        """See ``Runner``: from the graph's metadata."""
        return precision_of(getattr(self.engine, "metadata", {}))

    def __call__(
        self, images: NDArray[np.uint8], tables: Sequence[Table], history: Sequence[Floats | None]
    ) -> tuple[HeadMaps, Floats]:
        start = time.perf_counter()
        inputs: dict[str, NDArray[np.generic]] = {"images": images, "tables": self._tables}
        self._tables[0] = tables[0]
        for t, features in enumerate(history, start=1):
            np.add(tables[t], 0 if features is None else t * (self._cells + 1), out=self._tables[t])
            inputs[f"history{t}"] = self._unused if features is None else features
        out = self.engine.run(inputs)
        self.timings = {"network": (time.perf_counter() - start) * 1e3}
        return (out["cls"], out["reg"], out["dir"]), out["features"]

    def close(self) -> None:
        self.engine.close()


class SplitRunner:
    """Image graph, compiled gather into a buffer that is made once, BEV graph: three stages that can be timed."""

    precision = "fp32"  # halves are exported in float32 only

    def __init__(self, image: Engine, bev: Engine, config: FastBEVConfig, threads: int = 1) -> None:
        self.timings: dict[str, float] = {}
        self._image, self._bev = image, bev
        self._gather = Gather(config.voxels, len(config.times), config.neck_channels, threads)
        self._tables = np.empty((len(config.times), config.voxels), np.int32)

    def image_features(self, images: NDArray[np.uint8]) -> Floats:
        """(N, H, W, 3) images of one instant -> feature rows (cells, C)."""
        return self._image.run({"images": images})["features"]

    def __call__(
        self, images: NDArray[np.uint8], tables: Sequence[Table], history: Sequence[Floats | None]
    ) -> tuple[HeadMaps, Floats]:
        t0 = time.perf_counter()
        features = self.image_features(images)
        t1 = time.perf_counter()
        for row, table in zip(self._tables, tables):
            row[:] = table
        maps = [features, *(features if past is None else past for past in history)]
        volume = self._gather(maps, self._tables)
        t2 = time.perf_counter()
        out = self._bev.run({"volume": volume})
        t3 = time.perf_counter()
        self.timings = {"image": (t1 - t0) * 1e3, "lift": (t2 - t1) * 1e3, "bev": (t3 - t2) * 1e3}
        return (out["cls"], out["reg"], out["dir"]), features

    def close(self) -> None:
        self._image.close()
        self._bev.close()
        self._gather.close()


def torch_runner(net: FastBEVNet, threads: int, split: bool) -> Runner:
    """Eager torch with folded batch norms."""
    from bevstack.engine.torch import TorchEngine

    from .graphs import WHOLE_OUTPUTS, BevGraph, ImageGraph, WholeGraph, history_names, inference_net

    folded, config = inference_net(net), net.config
    if not split:
        names = ["images", "tables", *history_names(len(config.times))]
        return WholeRunner(TorchEngine(WholeGraph(folded, True), names, WHOLE_OUTPUTS, threads), config)
    image = TorchEngine(ImageGraph(folded, True), ["images"], ["features"], threads)
    return SplitRunner(image, TorchEngine(BevGraph(folded), ["volume"], WHOLE_OUTPUTS[:3], threads), config, threads)


def onnx_runner(
    graphs: Sequence[Path | bytes],
    config: FastBEVConfig,
    threads: int,
    shared: str = "",
    *,
    engine: Literal["onnx", "cpu"] = "onnx",
) -> Runner:
    """ONNX Runtime on one whole graph, or on an image and a BEV graph; these two also on ``bevstack.engine.cpu``.

    Args:
        shared: name of weights of several widths: runners of one name have the BEV graph, which is the same, in common.

    Raises:
        EngineError: a graph that cannot be loaded.
    """
    from bevstack.engine.cpu import CpuEngine
    from bevstack.engine.onnx import OnnxEngine
    from bevstack.engine.shared import SharedEngine

    kind: Callable[[Path | bytes, int], Engine] = CpuEngine if engine == "cpu" else OnnxEngine
    engines: list[Engine] = [kind(graphs[0], threads)]
    for graph in graphs[1:]:
        make = partial(kind, graph, threads)
        engines.append(SharedEngine((shared, threads, engine), make) if shared else make())
    if len(engines) == 1:
        return WholeRunner(engines[0], config)
    if len(engines) != 2:
        raise EngineError(f"{len(engines)} graphs given: one whole graph or an image and a BEV graph are needed")
    return SplitRunner(engines[0], engines[1], config, threads)
