"""Fast-BEV as the rest of the stack sees it: a ``FrameSet`` goes in, ``Boxes3D`` in the ego frame come out."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from bevstack.engine.names import EngineName, Precision, engine_name, precision_for
from bevstack.errors import BevstackError, CalibrationError, EngineError
from bevstack.frames import Frame, FrameSet
from bevstack.frames.decode import decode_frame, resize
from bevstack.geometry import Boxes3D, Camera
from bevstack.geometry.overlap import circle_nms, rotated_nms
from bevstack.nn.widths import split_width

from .config import CAMERA_ORDER, FastBEVConfig, PostConfig, VoxelGrid
from .conventions import boxes_from_rows
from .decode import decode_maps
from .gather import Gather
from .preprocess import fit, image_transform
from .tables import Table, build_table, calibration_id, rig_table
from .temporal import Instant, TemporalCache

if TYPE_CHECKING:
    from bevstack.engine import Engine

    from .network import FastBEVNet
    from .runner import HeadMaps, Runner

__all__ = ["EngineName", "FastBEV"]


@dataclass(frozen=True)
class Pending:
    """An instant that was begun (``FastBEV.begin``): its head maps, or the runner's ticket for them; milliseconds of the stages
    so far, and of all that beginning took."""

    maps: HeadMaps | None
    ticket: Any
    stages: Mapping[str, float]
    begun: float


class FastBEV:
    """One rung, ready to run. Keeps the past features it needs; use one object per vehicle, from one thread at a time.

    Args:
        model: name of a rung ("fastbev-nano": its weights are looked up), a weights file, an exported ``.onnx`` graph (needs no
            torch), a network, or a config (random weights from seed 0: for timing).
        engine: "onnx" (exports once, kept in the user's cache), "cpu" (float32 on own kernels, two graphs),
            "torch", "onnx-cuda" (ONNX Runtime's CUDA provider, one graph),
            "tensorrt" (one graph; ONNX Runtime with a warning where TensorRT cannot be used), or "torch-cuda".
        precision: "fp32", "fp16" or "int8" where the engine offers it (``bevstack.engine.names.OFFERED``); "": its own, float32
            except for torch-cuda, and for an exported file the file's. Others than float32 are one graph; INT8 is calibrated on
            simulated drives on first use, which takes minutes, and kept in the user's cache.
        threads: for the network; None takes the CPUs that this process may use.
        split: two graphs with the compiled gather between them, so that image, lift and BEV stages are timed on their own;
            False: one graph with the gather inside. Same boxes.
        cameras: names in slot order, which decides who owns a voxel that several cameras see. None: names of the standard rig
            take their place in ``CAMERA_ORDER``, others follow as they come.
        post: other post-processing than the rung's own.
        exposure: put the ego motion between the instant and each *current* image's exposure into the table as well. Off, as
            released: the current table is static and built once per calibration. History always uses every image's own pose.

    Raises:
        CheckpointError: weights are missing, damaged, or do not fit.
        EngineMissing: this machine lacks what the engine needs.
        EngineError: the engine or an export failed; the engine does not offer this precision.
    """

    def __init__(
        self,
        model: str | Path | FastBEVConfig | FastBEVNet = "fastbev-nano",
        engine: EngineName = "onnx",
        *,
        precision: Precision = "",
        threads: int | None = None,
        split: bool = True,
        cameras: Sequence[str] | None = None,
        post: PostConfig | None = None,
        exposure: bool = False,
    ) -> None:
        self.threads = threads or len(os.sched_getaffinity(0))
        self.engine: str = engine
        self._runner: Runner
        self.config, self._runner, self.weights_sha256 = _open(model, engine, precision, self.threads, split)
        if engine == "tensorrt":  # what it has become, where TensorRT cannot be used
            self.engine = getattr(getattr(self._runner, "engine", None), "name", engine)
        if post is not None:
            self.config = replace(self.config, post=post)
        self._given_order = tuple(cameras) if cameras is not None else None
        self._slots: dict[str, int] = {}
        self._exposure = exposure
        # (width, height) of whole pictures, for a graph that resizes them itself.
        self._source: tuple[int, int] | None = getattr(self._runner, "source", None)
        height, width = self.config.image_hw if self._source is None else self._source[::-1]
        self._images = np.zeros((self.config.cameras, height, width, 3), np.uint8)
        self._static: dict[str, Table] = {}
        self._tables = np.empty((len(self.config.times), self.config.voxels), np.int32)
        self.cache = TemporalCache(self.config.times)
        self.timings: dict[str, float] = {}
        _load_compiled()

    @property
    def rung(self) -> str:
        """Name of the model size, for example "fastbev-nano"."""
        return self.config.name

    @property
    def runner(self) -> Runner:
        """What runs the network, for those who want to look at it more closely (``bevstack.bev.quantize``)."""
        return self._runner

    @property
    def precision(self) -> str:
        """Of the numbers inside the network that is loaded: "fp32", "fp16" or "int8"."""
        return self._runner.precision

    def decode_size(self, camera: Camera) -> tuple[int, int]:
        """(width, height) to which this camera's images should be decoded: then nothing is resized here."""
        if self._source is not None:
            return self._source
        return image_transform(camera.width, camera.height, self.config).resized

    def reset(self) -> None:
        """Forgets the past, for example after a seek in a bag."""
        self.cache.reset()

    def shares_past(self, other: FastBEV) -> bool:
        """Whether features that ``other`` has cached mean the same here: another width of the same weights file."""
        ours, theirs = self.config, other.config
        return (
            self.weights_sha256 != ""
            and self.weights_sha256 == other.weights_sha256
            and (ours.times, ours.cells, ours.neck_channels) == (theirs.times, theirs.cells, theirs.neck_channels)
            and self._given_order == other._given_order
        )

    def take_over(self, other: FastBEV | None) -> None:
        """Goes on with ``other``'s past, tables and camera slots, which are then common to both (only where ``shares_past``
        says yes, and from the thread that runs instants); None: with a past of its own, empty."""
        if other is None:
            self.cache = TemporalCache(self.config.times)
        else:
            self.cache, self._static, self._slots = other.cache, other._static, other._slots

    def close(self) -> None:
        """Frees the engines."""
        self._runner.close()

    def warm_up(self, runs: int = 2) -> None:
        """First runs, on black images: an engine's first run is slow, and a network that answers nonsense is found out here.

        Raises:
            EngineError: the network fails, or its answer is not finite.
        """
        self._images.fill(0)
        self._tables.fill(self.config.cells)
        for _ in range(runs):
            maps, features = self._runner(self._images, list(self._tables), [None] * (len(self.config.times) - 1))
        if not all(np.isfinite(values).all() for values in (*maps, features)):
            raise EngineError(f"{self.rung} answers black images with values that are not finite: its weights are damaged")

    def remember(self, frame_set: FrameSet) -> None:
        """Takes an instant into the past without looking for boxes: only the image network runs where graphs are split."""
        instant = self._prepare(frame_set)
        self.cache.observe(instant.stamp, instant.T_world_ego)
        self._current_table(instant)  # kept by calibration: the first frame then finds it built
        image_features = getattr(self._runner, "image_features", None)
        if image_features is not None:
            features = image_features(self._images)
        else:
            past = self._fill_tables(instant)
            _, features = self._runner(self._images, list(self._tables), [p.features if p else None for p in past])
        self.cache.push(replace(instant, features=features))

    def __call__(self, frame_set: FrameSet) -> Boxes3D:
        """Boxes in the ego frame at ``frame_set.stamp``. Frames may be missing; their directions are then blind.

        ``timings`` afterwards holds milliseconds per stage of this call, in order, and "total".

        Raises:
            CalibrationError: an image does not have the shape that its calibration is for, or there are too many cameras.
            SourceError: an image cannot be decoded.
            EngineError: the network failed.
        """
        return self.finish(self.begin(frame_set))

    @property
    def overlaps(self) -> bool:
        """Whether ``begin`` returns while the network still works: the engine has a device of its own (torch-cuda)."""
        from .runner import Overlapping

        return isinstance(self._runner, Overlapping)

    def begin(self, frame_set: FrameSet) -> Pending:
        """First half of a call: prepares the instant, launches the network and takes the instant into the past. Where
        ``overlaps`` is true another instant may begin before this one is finished (no third); elsewhere all is done here.

        Raises:
            BevstackError: as for a call; or two instants are under way.
        """
        from .runner import Overlapping

        t0 = time.perf_counter()
        instant = self._prepare(frame_set)
        t1 = time.perf_counter()
        past = self._fill_tables(instant)
        t2 = time.perf_counter()
        history = [p.features if p else None for p in past]
        maps: HeadMaps | None = None
        ticket: Any = None
        if isinstance(self._runner, Overlapping):
            ticket, features = self._runner.begin(self._images, list(self._tables), history)
        else:
            maps, features = self._runner(self._images, list(self._tables), history)
        t3 = time.perf_counter()
        self.cache.push(replace(instant, features=features))
        stages = {"preprocess": (t1 - t0) * 1e3, "tables": (t2 - t1) * 1e3}
        if maps is not None:
            stages |= self._runner.timings
        return Pending(maps, ticket, stages, (t3 - t0) * 1e3)

    def finish(self, pending: Pending) -> Boxes3D:
        """Second half of a call, in the order in which instants were begun. ``timings`` are then this instant's, without what
        others took in between.

        Raises:
            EngineError: the network failed, or an older instant was not finished.
        """
        from .runner import Overlapping

        t0 = time.perf_counter()
        maps, stages = pending.maps, dict(pending.stages)
        if maps is None:
            assert isinstance(self._runner, Overlapping)
            maps = self._runner.finish(pending.ticket)
            stages |= self._runner.timings
        t1 = time.perf_counter()
        found = decode_maps(*maps, self.config)
        boxes = boxes_from_rows(found.rows, found.scores, found.labels, self.config.ego_from_lidar)
        t2 = time.perf_counter()
        self.timings = {
            **stages,
            "decode": (t2 - t1) * 1e3,
            "total": pending.begun + (t2 - t0) * 1e3,
        }
        return boxes

    def overlapped(self, instants: Iterable[FrameSet]) -> Iterator[Boxes3D]:
        """Boxes of every instant, in order, as if each were a call; where ``overlaps`` is true, the next instant is fetched,
        prepared and sent to the device while the last one is computed, so boxes come one instant late.

        Raises:
            BevstackError: as for a call. The boxes of the instant before are then lost.
        """
        if not self.overlaps:
            yield from map(self, instants)
            return
        waiting: Pending | None = None
        try:
            for frame_set in instants:
                older, waiting = waiting, self.begin(frame_set)
                if older is not None:
                    yield self.finish(older)
            if waiting is not None:
                last, waiting = waiting, None
                yield self.finish(last)
        finally:
            if waiting is not None:  # broken off: its slot on the device is wanted by others
                self.finish(waiting)

    def _assign(self, names: Iterable[str]) -> None:
        """Gives every camera seen for the first time its slot: first those whose place is known, then the others."""
        new = [n for n in names if n not in self._slots]
        order = self._given_order if self._given_order is not None else CAMERA_ORDER
        for name in sorted(new, key=lambda n: n not in order):  # stable: strangers keep the order in which they came
            if name not in order and self._given_order is not None:
                raise CalibrationError(f"camera {name!r} is not among the configured {list(order)}: add it or drop its frames")
            taken = set(self._slots.values())
            free = [s for s in range(self.config.cameras) if s not in taken]
            if name in order and order.index(name) in free:
                self._slots[name] = order.index(name)
            elif free:
                self._slots[name] = free[0]
            else:
                known = sorted({*self._slots, *new})
                raise CalibrationError(f"{len(known)} cameras ({', '.join(known)}); {self.rung} takes {self.config.cameras}")

    def _prepare(self, frame_set: FrameSet) -> Instant:
        """Fills the image buffer; the instant without its features."""
        count = self.config.cameras
        cameras: list[Camera | None] = [None] * count
        rectified = [True] * count
        poses = np.tile(np.asarray(frame_set.T_world_ego, np.float64), (count, 1, 1))
        self._assign(frame_set.frames)
        for name, frame in frame_set.frames.items():
            slot = self._slots[name]
            shown = self._image(name, frame)
            assert shown.image is not None
            if self._source is not None:
                self._images[slot] = self._whole_picture(name, shown)
            else:
                fit(
                    shown.image,
                    image_transform(shown.camera.width, shown.camera.height, self.config),
                    self.config.resize_filter,
                    self._images[slot],
                )
            cameras[slot], rectified[slot] = shown.camera, shown.rectified
            if frame.T_world_ego is not None:
                poses[slot] = frame.T_world_ego
        if not any(c is not None for c in cameras):
            raise BevstackError("an instant without any camera image: wait for the cameras or check their topics")
        for slot, camera in enumerate(cameras):
            if camera is None:
                self._images[slot] = 0
        return Instant(
            stamp=frame_set.stamp,
            T_world_ego=np.asarray(frame_set.T_world_ego, np.float64),
            cameras=tuple(cameras),
            T_world_ego_images=poses,
            rectified=tuple(rectified),
            calibration=calibration_id(cameras, rectified),
            features=np.zeros((0, self.config.neck_channels), np.float32),
        )

    def _whole_picture(self, name: str, shown: Frame) -> NDArray[np.uint8]:
        """The picture for a graph that resizes it: of the size that the graph is made for, or of another size and its shape."""
        assert self._source is not None
        assert shown.image is not None
        (width, height), camera = self._source, shown.camera
        if abs(camera.width * height - camera.height * width) > max(width, height):
            raise CalibrationError(
                f"{name} has {camera.width}x{camera.height} pixels; this graph resizes pictures of {width}x{height}: export "
                "another one with --camera-size, or one without"
            )
        return resize(shown.image, self._source, self.config.resize_filter)

    def _image(self, name: str, frame: Frame) -> Frame:
        shown = (
            frame if frame.image is not None else decode_frame(frame, self.decode_size(frame.camera), self.config.resize_filter)
        )
        assert shown.image is not None
        height, width = shown.image.shape[:2]
        camera = shown.camera
        if abs(width * camera.height - height * camera.width) > 0.02 * width * camera.height + 2 * camera.height:
            raise CalibrationError(
                f"{name}: image of {width}x{height} has another shape than its calibration's {camera.width}x{camera.height}: "
                "send the camera_info that belongs to it"
            )
        return shown

    def _fill_tables(self, now: Instant) -> list[Instant | None]:
        """Static table for the current instant, fresh ones for the past; returns the past instants, None where missing."""
        self.cache.observe(now.stamp, now.T_world_ego)
        self._tables[0] = self._current_table(now)
        past = self.cache.pick(now.stamp)
        for t, instant in enumerate(past, start=1):
            if instant is None:  # the current instant is repeated
                self._tables[t] = self._tables[0]
                continue
            rig_table(
                instant.cameras,
                self.config,
                T_world_ego_now=now.T_world_ego,
                T_world_ego_images=list(instant.T_world_ego_images),
                rectified=instant.rectified,
                out=self._tables[t],
            )
        return past

    def _current_table(self, now: Instant) -> Table:
        if self._exposure:
            return rig_table(
                now.cameras,
                self.config,
                T_world_ego_now=now.T_world_ego,
                T_world_ego_images=list(now.T_world_ego_images),
                rectified=now.rectified,
            )
        table = self._static.get(now.calibration)
        if table is None:
            if len(self._static) >= 64:  # every set of missing cameras has its own table: bounded all the same
                self._static.clear()
            table = self._static[now.calibration] = rig_table(now.cameras, self.config, rectified=now.rectified)
        return table


def _load_compiled() -> None:
    """Compiles the hot loops, or loads them from numba's cache, now: the first instant must not wait a second for it."""
    grid = VoxelGrid((1, 1, 1), (1.0, 1.0, 1.0))
    table = build_table(np.zeros((1, 3, 4)), grid, (1, 1))
    Gather(1, 1, 1)([np.zeros((1, 1), np.float32)], table[None])
    rotated_nms(np.ones((2, 5)), np.ones(2), 0.5)
    circle_nms(np.ones((2, 2)), np.ones(2), 0.5, 1)


def _open(
    model: str | Path | FastBEVConfig | FastBEVNet, engine: str, precision: str, threads: int, split: bool
) -> tuple[FastBEVConfig, Runner, str]:
    """(config, runner, hash of the weights)."""
    from .runner import onnx_runner, torch_runner

    engine = engine_name(engine)
    wanted: Precision = precision_for(engine, precision)
    if engine in ("torch", "torch-cuda"):
        from bevstack.engine.torch import need_torch, share_cores

        share_cores()
        need_torch()
    if engine == "torch-cuda":
        return _open_torch_cuda(model, half=wanted == "fp16")
    if engine in ("onnx-cuda", "tensorrt") or (engine == "onnx" and (wanted != "fp32" or _is_graph(model))):
        return _open_whole(model, engine, wanted if precision else "", threads)
    if isinstance(model, (str, Path)):
        from .slim import is_slim
        from .weights import find_weights, read_info

        path = find_weights(model)
        if path.suffix == ".onnx":
            raise EngineError(f"{path} is an exported graph: it runs with engine onnx, not {engine}")
        info = read_info(path)
        if engine != "torch":
            graphs = _graphs(info.config, info.sha256, split or engine == "cpu", path)
            shared = f"{info.sha256} bev" if is_slim(path) else ""
            how: Literal["onnx", "cpu"] = "cpu" if engine == "cpu" else "onnx"
            return info.config, onnx_runner(graphs, info.config, threads, shared, engine=how), info.sha256
        from .weights import load_weights

        return info.config, torch_runner(load_weights(path), threads, split), info.sha256
    net = _network(model)
    if engine == "torch":
        return net.config, torch_runner(net, threads, split), ""
    from .export import export_graph

    parts: list[Literal["whole", "image", "bev"]] = ["image", "bev"] if split or engine == "cpu" else ["whole"]
    return (
        net.config,
        onnx_runner(
            [export_graph(net, part) for part in parts], net.config, threads, engine="cpu" if engine == "cpu" else "onnx"
        ),
        "",
    )


def _network(model: FastBEVConfig | FastBEVNet) -> FastBEVNet:
    from .network import FastBEVNet

    if isinstance(model, FastBEVNet):
        return model
    from bevstack.nn.seed import seed_everything

    seed_everything(0)
    return FastBEVNet(model).eval()


def _graphs(config: FastBEVConfig, sha256: str, split: bool, weights: Path) -> list[Path | bytes]:
    """Exported graphs from the cache; exports what is not there. A cache that cannot be written costs only time.

    All widths of one file have the BEV graph of the largest.
    """
    from .export import cached_graph_path, export_graph, write_atomically
    from .weights import read_info

    out: list[Path | bytes] = []
    net: FastBEVNet | None = None
    parts: list[Literal["whole", "image", "bev"]] = ["image", "bev"] if split else ["whole"]
    for part in parts:
        owner = read_info(split_width(weights)[0]).config if part == "bev" else config
        path = cached_graph_path(owner, sha256, part, raw=True)
        if path.is_file():
            out.append(path)
            continue
        if net is None:
            try:
                from .weights import load_weights

                net = load_weights(weights)
            except ImportError as error:
                raise EngineError(
                    f"the first use of {weights.name} exports its graph and needs {error.name}: "
                    "pip install 'bevstack[export]', or give a graph exported elsewhere (.onnx)"
                ) from error
        content = export_graph(net, part, raw=True, weights_sha256=sha256)
        try:
            write_atomically(path, content)
        except OSError:
            out.append(content)
        else:
            out.append(path)
    return out


def _is_graph(model: object) -> bool:
    """Whether this names an exported graph."""
    from .weights import find_weights

    return isinstance(model, (str, Path)) and find_weights(model).suffix == ".onnx"


def _open_torch_cuda(model: str | Path | FastBEVConfig | FastBEVNet, half: bool) -> tuple[FastBEVConfig, Runner, str]:
    """torch on a GPU."""
    from .cuda_runner import CudaRunner
    from .weights import find_weights, load_weights, read_info

    if not isinstance(model, (str, Path)):
        net = _network(model)
        return net.config, CudaRunner(net, half=half), ""
    path = find_weights(model)
    if path.suffix == ".onnx":
        raise EngineError(f"{path} is an exported graph: it runs with engine onnx, onnx-cuda or tensorrt, not torch-cuda")
    return read_info(path).config, CudaRunner(load_weights(path), half=half), read_info(path).sha256


def _open_whole(
    model: str | Path | FastBEVConfig | FastBEVNet, engine: EngineName, precision: Precision, threads: int
) -> tuple[FastBEVConfig, Runner, str]:
    """One graph; ``precision``: "" takes an exported file as it is."""
    from bevstack.engine.onnx import OnnxEngine, need_cuda
    from bevstack.engine.tensorrt import tensorrt_or_onnx, usable

    from .precise import check_graph, precise_graph, precise_network

    device: Literal["cpu", "cuda", "auto"] = "cpu"
    if engine == "onnx-cuda":
        need_cuda()  # before minutes are spent on a graph
        device = "cuda"
    elif engine == "tensorrt" and not usable():
        engine, device = "onnx", "auto"
    graph: Path | bytes
    reduced = precision in ("fp16", "int8")
    if isinstance(model, (str, Path)):
        from .weights import find_weights, read_info

        graph = find_weights(model)
        if graph.suffix != ".onnx":
            info = read_info(graph)
            if reduced:
                graph = precise_graph(graph, info.config, info.sha256, engine, precision)
            else:
                graph = _graphs(info.config, info.sha256, False, graph)[0]
    else:
        from .export import export_graph

        net = _network(model)
        graph = precise_network(net, engine, precision) if reduced else export_graph(net)
    loaded: Engine = tensorrt_or_onnx(graph, threads) if engine == "tensorrt" else OnnxEngine(graph, threads, device)
    check_graph(getattr(loaded, "metadata", {}), precision, str(model))
    return _whole(loaded, str(model))


def _whole(loaded: Engine, label: str) -> tuple[FastBEVConfig, Runner, str]:
    """(config, runner, hash) of a whole graph that an engine has loaded."""
    from .export import config_of_graph
    from .runner import WholeRunner

    metadata: dict[str, str] = getattr(loaded, "metadata", {})
    config = config_of_graph(metadata, label)
    if metadata.get("part") != "whole" or metadata.get("raw") != "true":
        raise EngineError(f"{label} is a part of a graph or takes float images: export the whole graph with uint8 images")
    runner = WholeRunner(loaded, config)
    if "source" in metadata:
        width, height = json.loads(metadata["source"])
        runner.source = (int(width), int(height))
    return config, runner, metadata.get("weights_sha256", "")
