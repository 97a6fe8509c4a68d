"""Scores the real inference object on drives with known truth: ``bevstack eval fastbev``."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bevstack.bev import FastBEV
from bevstack.bev.mirror import TwoSided
from bevstack.errors import BevstackError
from bevstack.frames import FrameSet
from bevstack.frames.sim import SimulatedDrive
from bevstack.geometry import Boxes3D

from .nuscenes_metrics import DetectionResult, score_detections

if TYPE_CHECKING:
    from bevstack.bev.fastbev import EngineName
    from bevstack.bev.network import FastBEVNet

Pair = tuple[Boxes3D, Boxes3D]
RATE = 2.0  # instants per second, as nuScenes is annotated


class EvaluationError(BevstackError):
    """There is nothing to score."""


Watch = Callable[[FrameSet, Boxes3D], None]


def detect(
    model: FastBEV | TwoSided, instants: Iterable[FrameSet], watch: Watch | None = None
) -> tuple[list[Pair], list[float]]:
    """(predictions, truth) of every instant that has truth, and the milliseconds that the model took. The model starts
    without a past. ``watch`` sees every instant and its boxes."""
    model.reset()
    pairs, times = [], []
    begun: deque[FrameSet] = deque()

    def noted() -> Iterator[FrameSet]:
        for instant in instants:
            begun.append(instant)
            yield instant

    # On a GPU the next instant is read and sent up while this one is computed.
    for boxes in model.overlapped(noted()) if isinstance(model, FastBEV) else map(model, noted()):
        instant = begun.popleft()
        times.append(model.timings["total"])
        if watch is not None:
            watch(instant, boxes)
        if instant.truth is not None:
            pairs.append((boxes, instant.truth))
    return pairs, times


def _open(model: str | Path | FastBEVNet | FastBEV | TwoSided, engine: EngineName, threads: int | None) -> FastBEV | TwoSided:
    return model if isinstance(model, (FastBEV, TwoSided)) else FastBEV(model, engine, threads=threads)


def _details(bev: FastBEV | TwoSided, times: list[float], started: float) -> dict[str, Any]:
    return {
        "model": bev.rung,
        "engine": bev.engine,
        "weights_sha256": bev.weights_sha256,
        "step_ms_median": round(float(np.median(times)), 2),
        "seconds_taken": round(time.monotonic() - started, 1),
    }


def evaluate_simulated(
    model: str | Path | FastBEVNet | FastBEV | TwoSided = "fastbev-nano",
    seeds: Sequence[int] = tuple(range(16)),
    engine: EngineName = "onnx",
    *,
    seconds: float = 10.0,
    rate: float = RATE,
    image_width: int = 800,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    watch: Watch | None = None,
) -> DetectionResult:
    """Metrics on simulated drives of ``seconds`` at ``rate`` instants per second; every drive starts without a past.

    Args:
        model: whatever ``FastBEV`` takes, or one that is already open (then ``engine`` and ``threads`` are ignored).
        seeds: drives. The weights that we ship have never seen seeds below 10000.
        progress: called with (instants done, instants in all). watch: called with every instant and its boxes.

    Raises:
        EvaluationError: no seeds.
    """
    bev = _open(model, engine, threads)
    watches = [watch] if watch is not None else []
    return evaluate_together(
        [bev], seeds, seconds=seconds, rate=rate, image_width=image_width, progress=progress, watches=watches
    )[0]


def evaluate_together(
    models: Sequence[FastBEV | TwoSided],
    seeds: Sequence[int] = tuple(range(16)),
    *,
    seconds: float = 10.0,
    rate: float = RATE,
    image_width: int = 800,
    progress: Callable[[int, int], None] | None = None,
    watches: Sequence[Watch] = (),
) -> list[DetectionResult]:
    """``evaluate_simulated`` of several models on the same pictures, which take longer to draw than to look at.

    Args:
        models: open ones; each gets every instant.
        watches: one per model, or none.

    Raises:
        EvaluationError: no seeds.
    """
    if not seeds:
        raise EvaluationError("no seeds to score: give at least one, for example --seeds 0-15")
    started = time.monotonic()
    pairs: list[list[Pair]] = [[] for _ in models]
    times: list[list[float]] = [[] for _ in models]
    total = len(seeds) * max(1, round(seconds * rate))
    done = 0
    for seed in seeds:
        with SimulatedDrive(seed, rate=rate, duration=seconds, image_width=image_width) as drive:
            for bev in models:
                bev.reset()
            for instant in drive:
                assert instant.truth is not None
                for n, bev in enumerate(models):
                    boxes = bev(instant)
                    times[n].append(bev.timings["total"])
                    pairs[n].append((boxes, instant.truth))
                    if watches:
                        watches[n](instant, boxes)
                done += 1
                if progress is not None:
                    progress(done, total)
    drives = {"data": "simulated drives", "seeds": list(map(int, seeds)), "seconds": seconds, "rate": rate}
    return [
        replace(score_detections(p), details={**drives, **_details(bev, t, started)}) for bev, p, t in zip(models, pairs, times)
    ]


def evaluate_source(
    model: str | Path | FastBEVNet | FastBEV | TwoSided,
    spec: str,
    engine: EngineName = "onnx",
    *,
    split: str = "all",
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    watch: Watch | None = None,
) -> DetectionResult:
    """Metrics on any source that knows the truth: a nuScenes folder, a ``sample.json``, or "sim:seed=...".

    Args:
        split: of a nuScenes folder: "val", "mini_val", ... or "all". Boxes that no LiDAR or radar point lies in do not count.

    Raises:
        EvaluationError: the source has no true boxes.
    """
    from bevstack.frames.nuscenes import NuScenesSource
    from bevstack.frames.source import open_source

    from .nuscenes.samples import split_scenes

    started = time.monotonic()
    bev = _open(model, engine, threads)
    scenes = split_scenes(split)
    options: dict[str, Any] = {} if scenes is None else {"scenes": scenes}
    with open_source(spec, **options) as source:
        if isinstance(source, NuScenesSource):
            source.seen_only = True

        def counted() -> Iterable[FrameSet]:
            for n, instant in enumerate(source, start=1):
                yield instant
                if progress is not None:
                    progress(n, 0)

        pairs, times = detect(bev, counted(), watch)
        name = source.name
    if not pairs:
        raise EvaluationError(f"{spec} has no true boxes: metrics need a nuScenes folder, a sample.json or a simulated drive")
    return replace(score_detections(pairs), details={"data": name, **_details(bev, times, started)})
