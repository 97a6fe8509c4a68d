"""Fast-BEV in torch on one GPU: half precision, features of the past stay on the device, launches recorded as CUDA graphs.

Not yet run on a GPU (docs/export.md); on the CPU device, without graphs, it is compared with the other runners.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bevstack.engine.names import EngineMissing
from bevstack.errors import EngineError

from .graphs import BevGraph, ImageGraph, inference_net
from .lift_gpu import GpuLift
from .network import FastBEVNet
from .runner import Floats, HeadMaps
from .tables import Table

logger = logging.getLogger("bevstack.bev")
KEPT = 64  # instants whose features are kept; the temporal cache holds far fewer


class _Recorded:
    """A function of fixed buffers: run once to warm up, then recorded and replayed where that is possible."""

    def __init__(self, work: Callable[[], Any], record: bool) -> None:
        self._work = work
        self.result: Any = work()
        self._graph: Any = None
        if not record:
            return
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                work()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self.result = work()
        except RuntimeError as error:
            logger.warning("CUDA cannot record the network (%s): it is launched each time", " ".join(str(error).split())[:120])
            self.result = work()
            return
        self._graph = graph

    def __call__(self) -> Any:
        if self._graph is None:
            self.result = self._work()
        else:
            self._graph.replay()
        return self.result


class CudaRunner:
    """See ``bevstack.bev.runner.Runner``. The features that it returns are tokens: empty arrays that name rows on the device.

    Args:
        device: "cuda", or "cpu" for tests.
        half: float16 inside; else float32.
        graphs: record the launches (GPU only).

    Raises:
        EngineMissing: there is no GPU.
    """

    def __init__(self, net: FastBEVNet, device: str = "cuda", *, half: bool = True, graphs: bool = True) -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise EngineMissing("no CUDA GPU is available to torch: use engine onnx or torch")
        config = net.config
        self.timings: dict[str, float] = {}
        self._device = torch.device(device)
        gpu = self._device.type == "cuda"
        kind = torch.float16 if half else torch.float32
        folded = inference_net(net).to(self._device, kind)
        times, cells, channels = len(config.times), config.cells, config.neck_channels
        self._staged = torch.zeros((config.cameras, *config.image_hw, 3), dtype=torch.uint8, pin_memory=gpu)
        self._staged_tables = torch.zeros((times, config.voxels), dtype=torch.int32, pin_memory=gpu)
        self._images = torch.zeros_like(self._staged, device=self._device)
        self._tables = torch.full_like(self._staged_tables, cells, device=self._device)
        self._maps = [torch.zeros((cells, channels), dtype=kind, device=self._device) for _ in range(times)]
        lift = GpuLift(config.voxels, times, channels, kind, self._device)
        image, bev = _TypedImage(folded, kind), BevGraph(folded)
        with torch.inference_mode():
            self._image = _Recorded(lambda: image(self._images), gpu and graphs)
            self._bev = _Recorded(lambda: bev(lift(self._maps, self._tables)), gpu and graphs)
        self._kept: OrderedDict[int, tuple[Floats, Tensor]] = OrderedDict()

    def __call__(
        self, images: NDArray[np.uint8], tables: Sequence[Table], history: Sequence[Floats | None]
    ) -> tuple[HeadMaps, Floats]:
        """See ``Runner``. Images and tables go up through pinned memory.

        Raises:
            EngineError: a token of another runner, or of an instant that is long gone.
        """
        t0 = time.perf_counter()
        with torch.inference_mode():
            self._staged.copy_(torch.from_numpy(np.ascontiguousarray(images)))
            self._images.copy_(self._staged, non_blocking=True)
            for row, table in zip(self._staged_tables, tables):
                row.copy_(torch.from_numpy(np.ascontiguousarray(table)))
            self._tables.copy_(self._staged_tables, non_blocking=True)
            current: Tensor = self._image()
            self._maps[0].copy_(current)
            for t, past in enumerate(history, start=1):
                self._maps[t].copy_(current if past is None else self._rows(past))
            heads = [value.float().cpu().numpy() for value in self._bev()]  # waits for the device
            token = np.empty((0, current.shape[1]), np.float32)
            self._kept[id(token)] = (token, current.clone())
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self.timings = {"network": (time.perf_counter() - t0) * 1e3}
        return (heads[0], heads[1], heads[2]), token

    def _rows(self, token: Floats) -> Tensor:
        kept = self._kept.get(id(token))
        if kept is None or kept[0] is not token:
            raise EngineError("features of another engine or of an instant that is long gone: forget the past (reset)")
        return kept[1]

    def close(self) -> None:
        """Frees the network and everything on the device."""
        self._kept.clear()
        del self._image, self._bev, self._maps


class _TypedImage(ImageGraph):
    """The image graph with normalisation in float32 and the network in its own type."""

    def __init__(self, net: FastBEVNet, kind: torch.dtype) -> None:
        super().__init__(net, raw=False)
        device = next(net.parameters()).device
        self.to(device)
        self.mean, self.scale, self.kind = self.mean.float(), self.scale.float(), kind

    def forward(self, images: Tensor) -> Tensor:
        planes = (images.to(torch.float32).permute(0, 3, 1, 2) - self.mean) * self.scale
        return super().forward(planes.to(self.kind).contiguous(memory_format=torch.channels_last))
