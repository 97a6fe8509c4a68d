"""Fast-BEV in torch on one GPU: half precision, features of the past stay on the device, launches recorded as CUDA graphs.

The images of the next instant go up on a stream of their own while the last instant is computed, if somebody begins the next
before he finishes the last (``FastBEV.overlapped``); what must wait for what stands in ``in_flight``.

Not yet run on a GPU (docs/export.md); on the CPU device, without graphs, it is compared with the other runners.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bevstack.engine.names import EngineMissing
from bevstack.errors import EngineError

from .graphs import BevGraph, ImageGraph, inference_net
from .in_flight import SLOTS, InFlight, Lane, Lanes
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


class _Streams:
    """``Lanes`` of a CUDA device: a stream for uploads, and the one that is current where the runner is made."""

    def __init__(self) -> None:
        self._streams: dict[Lane, torch.cuda.Stream] = {
            "copy": torch.cuda.Stream(),  # type: ignore[no-untyped-call]
            "compute": torch.cuda.current_stream(),
        }

    def event(self) -> torch.cuda.Event:
        return torch.cuda.Event()  # type: ignore[no-untyped-call, no-any-return]

    def on(self, lane: Lane) -> AbstractContextManager[object]:
        return torch.cuda.stream(self._streams[lane])

    def record(self, event: torch.cuda.Event, lane: Lane) -> None:
        event.record(self._streams[lane])  # type: ignore[no-untyped-call]

    def hold(self, lane: Lane, event: torch.cuda.Event) -> None:
        self._streams[lane].wait_event(event)  # type: ignore[no-untyped-call]

    def wait(self, event: torch.cuda.Event) -> None:
        event.synchronize()  # type: ignore[no-untyped-call]


class _AtOnce:
    """``Lanes`` of a device that does everything before it returns: the CPU."""

    def event(self) -> None:
        return None

    def on(self, lane: Lane) -> AbstractContextManager[object]:
        return nullcontext()

    def record(self, event: None, lane: Lane) -> None:
        pass

    def hold(self, lane: Lane, event: None) -> None:
        pass

    def wait(self, event: None) -> None:
        pass


class _Memory:
    """Pinned and device memory of both slots, and where the network reads and writes (``in_flight.Buffers``)."""

    def __init__(self, images: Tensor, tables: Tensor, heads: Sequence[Tensor], pin: bool) -> None:
        self._read_by_network = (images, tables)
        self.heads = list(heads)  # the network's own; replaced at every launch that is not a replay
        self._up = [[torch.zeros(t.shape, dtype=t.dtype, pin_memory=pin) for t in (images, tables)] for _ in range(SLOTS)]
        self._there = [[torch.zeros_like(t) for t in (images, tables)] for _ in range(SLOTS)]
        self._down = [[torch.zeros(t.shape, dtype=t.dtype, pin_memory=pin) for t in heads] for _ in range(SLOTS)]

    def fill(self, slot: int, images: NDArray[np.uint8], tables: Sequence[Table]) -> None:
        """Host: an instant into pinned memory."""
        staged, rows = self._up[slot]
        staged.copy_(torch.from_numpy(np.ascontiguousarray(images)))
        for row, table in zip(rows, tables, strict=True):
            row.copy_(torch.from_numpy(np.ascontiguousarray(table)))

    def send(self, slot: int) -> None:
        for there, here in zip(self._there[slot], self._up[slot]):
            there.copy_(here, non_blocking=True)

    def take(self, slot: int) -> None:
        for read, there in zip(self._read_by_network, self._there[slot]):
            read.copy_(there, non_blocking=True)

    def answer(self, slot: int) -> None:
        for down, head in zip(self._down[slot], self.heads):
            down.copy_(head, non_blocking=True)

    def read(self, slot: int) -> HeadMaps:
        cls, reg, direction = (np.array(down.numpy(), np.float32) for down in self._down[slot])
        return cls, reg, direction


@dataclass(frozen=True)
class _Ticket:
    slot: int
    begun: float  # milliseconds that it took to begin


class CudaRunner:
    """See ``Runner`` and ``Overlapping``. The features that it returns are tokens: empty arrays that name rows on the device.

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
        self.precision = "fp16" if half else "fp32"
        self._device = torch.device(device)
        gpu = self._device.type == "cuda"
        kind = torch.float16 if half else torch.float32
        folded = inference_net(net).to(self._device, kind)
        times, cells, channels = len(config.times), config.cells, config.neck_channels
        images = torch.zeros((config.cameras, *config.image_hw, 3), dtype=torch.uint8, device=self._device)
        tables = torch.full((times, config.voxels), cells, dtype=torch.int32, device=self._device)
        self._maps = [torch.zeros((cells, channels), dtype=kind, device=self._device) for _ in range(times)]
        lift = GpuLift(config.voxels, times, channels, kind, self._device)
        image, bev = _TypedImage(folded, kind), BevGraph(folded)
        with torch.inference_mode():
            self._image = _Recorded(lambda: image(images), gpu and graphs)
            self._bev = _Recorded(lambda: [v.float() for v in bev(lift(self._maps, tables))], gpu and graphs)
            self._memory = _Memory(images, tables, self._bev.result, pin=gpu)
        lanes: Lanes = _Streams() if gpu else _AtOnce()
        self._in_flight: InFlight[HeadMaps] = InFlight(lanes, self._memory)
        self._kept: OrderedDict[int, tuple[Floats, Tensor]] = OrderedDict()

    def __call__(
        self, images: NDArray[np.uint8], tables: Sequence[Table], history: Sequence[Floats | None]
    ) -> tuple[HeadMaps, Floats]:
        """See ``Runner``: begins an instant and waits for it.

        Raises:
            EngineError: a token of another runner, or of an instant that is long gone; or two instants are under way.
        """
        ticket, token = self.begin(images, tables, history)
        return self.finish(ticket), token

    def begin(
        self, images: NDArray[np.uint8], tables: Sequence[Table], history: Sequence[Floats | None]
    ) -> tuple[_Ticket, Floats]:
        """See ``Overlapping``. Images and tables go up through pinned memory; the arrays may be overwritten at once.

        Raises:
            EngineError: see ``__call__``.
        """
        t0 = time.perf_counter()
        past = [None if features is None else self._rows(features) for features in history]
        kept: list[Tensor] = []

        def compute() -> None:
            current: Tensor = self._image()
            self._maps[0].copy_(current)
            for there, rows in zip(self._maps[1:], past, strict=True):
                there.copy_(current if rows is None else rows)
            self._memory.heads = self._bev()
            kept.append(current.clone())

        with torch.inference_mode():
            slot = self._in_flight.begin(lambda slot: self._memory.fill(slot, images, tables), compute)
        token = np.empty((0, kept[0].shape[1]), np.float32)
        self._kept[id(token)] = (token, kept[0])
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return _Ticket(slot, (time.perf_counter() - t0) * 1e3), token

    def finish(self, ticket: _Ticket) -> HeadMaps:
        """See ``Overlapping``. ``timings``: what beginning took, and the wait.

        Raises:
            EngineError: not the oldest instant under way.
        """
        t0 = time.perf_counter()
        heads = self._in_flight.finish(ticket.slot)
        self.timings = {"network": ticket.begun + (time.perf_counter() - t0) * 1e3}
        return heads

    def _rows(self, token: Floats) -> Tensor:
        kept = self._kept.get(id(token))
        if kept is None or kept[0] is not token:
            raise EngineError("features of another engine or of an instant that is long gone: forget the past (reset)")
        return kept[1]

    def close(self) -> None:
        """Frees the network and everything on the device, once that has stopped using it."""
        self._in_flight.drain()
        self._kept.clear()
        del self._image, self._bev, self._maps, self._memory, self._in_flight


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
