"""GiraffeDet on a ladder: the rung may change between two batches of images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bevstack.engine import HotSwap, SwapEvent
from bevstack.engine.names import EngineMissing, EngineName, engine_name, or_onnx
from bevstack.errors import CheckpointError, EngineError
from bevstack.geometry import Boxes2D
from bevstack.nn.widths import first_rung, split_width

from .config import DETECTORS, GiraffeDetConfig

if TYPE_CHECKING:
    from .detector import Detector

RANDOM = "random:"


def family(name: str) -> tuple[str, ...]:
    """Names of all rungs with the classes of rung ``name``, smallest first: they can stand in for each other, since a detector
    keeps nothing from one image to the next. Widths of one network are rungs as any others."""
    classes = DETECTORS[name].classes
    return tuple(sorted((n for n, c in DETECTORS.items() if c.classes == classes), key=lambda n: _size(DETECTORS[n])))


def _size(config: GiraffeDetConfig) -> tuple[int, int, int, bool]:
    # Of two as large as each other the one that was trained for this size alone is the better one.
    return config.depth, config.canvas[0] * config.canvas[1], config.inner, split_width(config.name)[1] is None


def available(model: str) -> dict[str, str]:
    """The rungs of ``model``'s family that can be loaded here, smallest first: rung name to what loads it.

    ``model``: name of bundled weights, ``random:`` and a name (untrained: for measuring a machine), or the path of a file: a
    ladder of one. A file of several widths, by name or path, is a ladder of its widths.

    Raises:
        CheckpointError: ``model`` itself is not there.
    """
    from .slim import is_slim, rungs_of
    from .weights import find_weights, read_info

    if model.startswith(RANDOM):
        name = model.removeprefix(RANDOM)
        if name not in DETECTORS:
            raise CheckpointError(f"model {model!r}: there is no {name!r}, only {', '.join(DETECTORS)}")
        return {other: RANDOM + other for other in family(name)}
    path = find_weights(model)
    if path.suffix != ".onnx" and is_slim(path):
        return rungs_of(path)
    if model not in DETECTORS:
        return {read_info(path).config.name if path.suffix == ".safetensors" else path.stem: model}
    found = {}
    for other in family(model):
        try:
            find_weights(other)
        except CheckpointError:
            continue
        found[other] = other
    return found


def load_detector(model: str, engine: str, threads: int | None = None, canvas: tuple[int, int] | None = None) -> Detector:
    """The detector of an entry of ``available``.

    ``engine`` may be any of the stack's engines: "tensorrt" and "torch-cuda", which want a fixed number of images, mean the GPU
    here, that is "onnx-cuda"; "cpu" wants one, too. ONNX Runtime on the CPU takes over, with a warning, where the machine lacks
    what is needed.

    Raises:
        BevstackError: no such weights, a damaged checkpoint, an unknown engine.
    """
    from .detector import Detector

    given = DETECTORS[model.removeprefix(RANDOM)] if model.startswith(RANDOM) else model

    def make(name: EngineName) -> Detector:
        if name == "cpu":
            raise EngineMissing("it runs networks with a fixed number of images")
        return Detector(given, "onnx-cuda" if name in ("tensorrt", "torch-cuda") else name, threads, canvas=canvas)

    return or_onnx(engine_name(engine), make)


class DetectorLadder:
    """Called as ``Detector`` is, from one thread at a time; ``swap.request`` may come from any thread.

    Args:
        load: makes the detector of a rung, by name.
        rungs: names, smallest first.
        rung: the first one.
        resident: rungs that stay loaded.
        on_event: see ``HotSwap``.

    Raises:
        RungError: ``rung`` is not among ``rungs``.
        BevstackError: the first rung cannot be loaded.
    """

    def __init__(
        self,
        load: Callable[[str], Detector],
        rungs: Sequence[str],
        rung: str,
        *,
        resident: Iterable[str] = (),
        on_event: Callable[[SwapEvent], None] | None = None,
    ) -> None:
        self._swap = HotSwap(load, rungs, rung, warm_up=_warm_up, resident=resident, on_event=on_event)
        self._last = self._swap.active

    @property
    def swap(self) -> HotSwap[Detector]:
        """The ladder itself: ``request``, ``state``, ``rungs``."""
        return self._swap

    @property
    def rung(self) -> str:
        """Name of the rung that worked on the last batch."""
        return self._last.rung

    @property
    def engine(self) -> str:
        """What runs that rung's network."""
        return self._last.engine

    @property
    def classes(self) -> tuple[str, ...]:
        """Names that the labels stand for, the same on all rungs."""
        return self._last.classes

    @property
    def timings(self) -> Mapping[str, float]:
        """See ``Detector``."""
        return self._last.timings

    def decode_size(self, width: int, height: int) -> tuple[int, int]:
        """See ``Detector``. Images decoded for the rung before a swap are resized once more, none is lost."""
        return self._swap.active.decode_size(width, height)

    def close(self) -> None:
        """Frees all rungs."""
        self._swap.close()

    def __call__(self, images: Sequence[NDArray[np.uint8]], sizes: Sequence[tuple[int, int]] | None = None) -> list[Boxes2D]:
        """See ``Detector``. A rung that fails in its first batches is taken back, and the one before runs the same batch."""
        self._last = self._swap.current()
        try:
            return self._last(images, sizes)
        except EngineError as error:
            before = self._swap.reject(str(error))
            if before is None:
                raise
            self._last = before
            return before(images, sizes)


def _warm_up(model: Detector, rung: str) -> None:
    """The first run of an engine takes longest: it is not a camera's."""
    model([np.zeros((*model.canvas, 3), np.uint8)])


def load_ladder(
    model: str,
    engine: str,
    *,
    rung: str = "",
    threads: int | None = None,
    canvas: tuple[int, int] | None = None,
    resident: bool = False,
    on_event: Callable[[SwapEvent], None] | None = None,
) -> DetectorLadder:
    """The rungs of ``model``'s family that are there, with ``rung`` (empty: ``model`` itself) running, all on inputs of
    ``canvas`` (height, width), None: on their own.

    Raises:
        BevstackError: as ``load_detector``; or there is no such rung.
    """
    sources = available(model)
    first = rung or first_rung(model.removeprefix(RANDOM), sources)

    def load(name: str) -> Detector:
        return load_detector(sources[name], engine, threads, canvas)

    return DetectorLadder(load, list(sources), first, resident=list(sources) if resident else (), on_event=on_event)
