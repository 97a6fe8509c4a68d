"""GiraffeDet as the rest of the stack sees it: images of any sizes go in, ``Boxes2D`` in their own pixels come out."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from bevstack.engine import Engine
from bevstack.engine.names import EngineName, engine_name
from bevstack.errors import EngineError
from bevstack.geometry import Boxes2D

from .config import GiraffeDetConfig, PostConfig
from .letterbox import Letterbox, as_rgb, check_canvas, letterbox, place
from .nms import class_nms
from .postprocess import boxes_of_image

if TYPE_CHECKING:
    from .network import GiraffeDetNet

DETECTOR_ENGINES: tuple[EngineName, ...] = ("onnx", "onnx-cuda", "torch")


class Detector:
    """One rung, ready to run. From one thread at a time.

    Args:
        model: name of a rung ("giraffedet-nano": its weights are looked up), a weights file, an exported ``.onnx`` graph (needs
            no torch), a network, or a config (random weights from seed 0: for timing).
        engine: "onnx" (exports once, kept in the user's cache), "onnx-cuda" (its CUDA provider) or "torch".
        threads: for the network; None takes the CPUs that this process may use.
        canvas: (height, width) of the network's input instead of the rung's own; multiples of 128.
        post: other post-processing than the rung's own.

    Raises:
        CheckpointError: weights are missing, damaged, or do not fit.
        EngineMissing: this machine lacks what the engine needs.
        EngineError: the engine or an export failed.
        BevstackError: the canvas is no multiple of 128.
    """

    def __init__(
        self,
        model: str | Path | GiraffeDetConfig | GiraffeDetNet = "giraffedet-nano",
        engine: EngineName = "onnx",
        threads: int | None = None,
        *,
        canvas: tuple[int, int] | None = None,
        post: PostConfig | None = None,
    ) -> None:
        self.threads = threads or len(os.sched_getaffinity(0))
        self.engine: str = engine
        if canvas is not None:
            check_canvas(canvas)
        self._network: Engine
        self.config, self.canvas, self._network, self.weights_sha256 = _open(model, engine, self.threads, canvas)
        if post is not None:
            self.config = replace(self.config, post=post)
        self._images = np.zeros((0, *self.canvas, 3), np.uint8)
        self.timings: dict[str, float] = {}
        # Compiled now: the first image must not wait for it.
        class_nms(np.ones((1, 4), np.float32), np.ones(1, np.float32), np.zeros(1, np.int64), 0.5, 1)

    @property
    def rung(self) -> str:
        """Name of the model size, for example "giraffedet-nano"."""
        return self.config.name

    @property
    def classes(self) -> tuple[str, ...]:
        """Names that the labels of the boxes stand for."""
        return self.config.classes

    def letterbox(self, width: int, height: int) -> Letterbox:
        """How an image of this size is brought to the network's input."""
        return letterbox(width, height, self.canvas, self.config.fit)

    def decode_size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) to which images of this size should be decoded: then nothing is resized here."""
        return self.letterbox(width, height).size

    def close(self) -> None:
        """Frees the engine."""
        self._network.close()

    def __call__(self, images: Sequence[NDArray[np.uint8]], sizes: Sequence[tuple[int, int]] | None = None) -> list[Boxes2D]:
        """Boxes of every image, best first. All images run as one batch, whatever their sizes.

        Args:
            images: (H, W, 3) uint8 RGB, or grey (H, W).
            sizes: (width, height) of the original of each image, where ``images`` were decoded smaller; boxes come back in
                pixels of the original.

        ``timings`` afterwards holds milliseconds per stage of this call, in order, and "total".

        Raises:
            BevstackError: an image has no pixels or is no uint8 RGB or grey.
            EngineError: the network failed.
        """
        t0 = time.perf_counter()
        if sizes is not None and len(sizes) != len(images):
            raise EngineError(f"{len(images)} images with {len(sizes)} sizes: give one size for each image")
        if not images:
            self.timings = {"preprocess": 0.0, "network": 0.0, "postprocess": 0.0, "total": 0.0}
            return []
        if len(self._images) < len(images):
            self._images = np.zeros((len(images), *self.canvas, 3), np.uint8)
        batch = self._images[: len(images)]
        boxes = []
        for n, given in enumerate(images):
            image = as_rgb(given)
            width, height = sizes[n] if sizes is not None else (image.shape[1], image.shape[0])
            boxes.append(self.letterbox(width, height))
            place(image, boxes[n], batch[n], self.config.mean)
        t1 = time.perf_counter()
        out = self._network.run({"images": batch})
        t2 = time.perf_counter()
        found = [
            boxes_of_image(out["scores"][n], out["boxes"][n], box, self.config, self.config.post) for n, box in enumerate(boxes)
        ]
        t3 = time.perf_counter()
        self.timings = {
            "preprocess": (t1 - t0) * 1e3,
            "network": (t2 - t1) * 1e3,
            "postprocess": (t3 - t2) * 1e3,
            "total": (t3 - t0) * 1e3,
        }
        return found


def _open(
    model: str | Path | GiraffeDetConfig | GiraffeDetNet, engine: EngineName, threads: int, canvas: tuple[int, int] | None
) -> tuple[GiraffeDetConfig, tuple[int, int], Engine, str]:
    """(config, canvas, engine, hash of the weights)."""
    engine = engine_name(engine, DETECTOR_ENGINES)
    device: Literal["cpu", "cuda"] = "cpu"
    if engine == "torch":
        from bevstack.engine.torch import need_torch, share_cores

        share_cores()
        need_torch()
    elif engine == "onnx-cuda":
        from bevstack.engine.onnx import need_cuda

        need_cuda()
        device = "cuda"
    sha256 = ""
    if isinstance(model, (str, Path)):
        from .weights import find_weights, load_weights, read_info

        path = find_weights(model)
        if path.suffix == ".onnx":
            return _open_graph(path, engine, threads, canvas)
        info = read_info(path)
        size = canvas or info.config.canvas
        if engine != "torch":
            from bevstack.engine.onnx import OnnxEngine

            return info.config, size, OnnxEngine(_graph(info.config, info.sha256, size, path), threads, device), info.sha256
        net, sha256 = load_weights(path), info.sha256
    else:
        net = _network(model)
    size = canvas or net.config.canvas
    if engine != "torch":
        from bevstack.engine.onnx import OnnxEngine

        from .export import export_graph

        return net.config, size, OnnxEngine(export_graph(net, size), threads, device), sha256
    from bevstack.engine.torch import TorchEngine

    from .graphs import OUTPUTS, DetectGraph, inference_net

    return net.config, size, TorchEngine(DetectGraph(inference_net(net), size), ["images"], OUTPUTS, threads), sha256


def _network(model: GiraffeDetConfig | GiraffeDetNet) -> GiraffeDetNet:
    from .network import GiraffeDetNet

    if isinstance(model, GiraffeDetNet):
        return model
    from bevstack.nn.seed import seed_everything

    seed_everything(0)
    return GiraffeDetNet(model).eval()


def _graph(config: GiraffeDetConfig, sha256: str, canvas: tuple[int, int], weights: Path) -> Path | bytes:
    """The exported graph from the cache; exports what is not there. A cache that cannot be written costs only time."""
    from bevstack.engine.files import write_atomically

    from .export import cached_graph_path, export_graph

    path = cached_graph_path(config, sha256, canvas)
    if path.is_file():
        return path
    try:
        from .weights import load_weights

        net = load_weights(weights)
    except ImportError as error:
        raise EngineError(
            f"the first use of {weights.name} exports its graph and needs {error.name}: "
            "pip install 'bevstack[export]', or give a graph exported elsewhere (.onnx)"
        ) from error
    content = export_graph(net, canvas, weights_sha256=sha256)
    try:
        write_atomically(path, content)
    except OSError:
        return content
    return path


def _open_graph(
    path: Path, engine: EngineName, threads: int, canvas: tuple[int, int] | None
) -> tuple[GiraffeDetConfig, tuple[int, int], Engine, str]:
    from bevstack.engine.onnx import OnnxEngine

    from .export import about_graph

    if engine == "torch":
        raise EngineError(f"{path} is an exported graph: it runs with engine onnx, not {engine}")
    loaded = OnnxEngine(path, threads, "cuda" if engine == "onnx-cuda" else "cpu")
    config, size = about_graph(loaded.metadata, str(path))
    if canvas is not None and canvas != size:
        raise EngineError(f"{path} was exported for {size[1]}x{size[0]} pixels, not {canvas[1]}x{canvas[0]}: export it again")
    return config, size, loaded, loaded.metadata.get("weights_sha256", "")
