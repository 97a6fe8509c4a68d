"""What a wrong calibration costs: mAP of simulated drives whose rig is not where the network is told it is.

The world is rendered from the disturbed rig; the network gets the nominal calibration (the error), and, for comparison, the
true one (what is left after a perfect correction: images that look different from the training's).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from bevstack.bev.temporal import TemporalCache
from bevstack.errors import BevstackError
from bevstack.frames.sim import SimulatedDrive, nuscenes_rig
from bevstack.geometry import Camera

from .evaluate import RATE, EvaluationError, Pair, _open
from .nuscenes_metrics import DetectionResult, score_detections

if TYPE_CHECKING:
    from bevstack.bev import FastBEV
    from bevstack.bev.fastbev import EngineName
    from bevstack.bev.network import FastBEVNet

Kind = Literal["pitch", "roll", "height", "mounts"]
UNITS: dict[str, str] = {"pitch": "deg", "roll": "deg", "height": "m", "mounts": "deg"}


@dataclass(frozen=True)
class Disturbance:
    """How the true rig differs from the nominal one.

    Attributes:
        kind: "pitch", "roll" (the body leans, degrees), "height" (the body is raised, metres), "mounts" (every camera is turned
            about each axis by a normal error of this many degrees, another one in every drive).
        size: degrees or metres.
    """

    kind: Kind
    size: float

    def __str__(self) -> str:
        return f"{self.kind} {self.size:+g} {UNITS[self.kind]}"

    def apply(self, cameras: Mapping[str, Camera], seed: int) -> dict[str, Camera]:
        """The true rig of a drive."""
        if self.kind == "height":
            return {name: camera.carried(height=self.size) for name, camera in cameras.items()}
        angle = np.radians(self.size)
        if self.kind == "mounts":
            errors = np.random.default_rng([seed, 7]).normal(0.0, angle, (len(cameras), 3))
            return {name: camera.turned(*map(float, e)) for (name, camera), e in zip(cameras.items(), errors)}
        return {name: camera.carried(**{self.kind: float(angle)}) for name, camera in cameras.items()}


def parse_disturbances(text: str) -> list[Disturbance]:
    """``pitch=0.5,1 roll=1 height=0.1 mounts=0.25`` as a list.

    Raises:
        BevstackError: an unknown kind or a size that is no number.
    """
    found = []
    for word in text.split():
        kind, _, sizes = word.partition("=")
        if kind not in get_args(Kind) or not sizes:
            raise BevstackError(f"error {word!r}: write kind=size,size with a kind of {', '.join(get_args(Kind))}")
        for size in sizes.split(","):
            try:
                value = float(size)
            except ValueError:
                raise BevstackError(f"error {word!r}: {size!r} is not a number") from None
            if not np.isfinite(value) or abs(value) > 30 or (kind == "mounts" and value < 0):
                raise BevstackError(f"error {word!r}: {size} is out of range (at most 30; mounts is a standard deviation)")
            found.append(Disturbance(kind, value))  # type: ignore[arg-type]
    if not found:
        raise BevstackError("no calibration error given: for example --errors 'pitch=0.5,1 mounts=0.25'")
    return found


@dataclass(frozen=True)
class Loss:
    """Metrics of one disturbance: with the nominal calibration (``told``), and with the true one (``corrected``)."""

    disturbance: Disturbance
    told: DetectionResult
    corrected: DetectionResult

    def to_json(self) -> dict[str, Any]:
        """Plain numbers."""
        return {
            "kind": self.disturbance.kind,
            "size": self.disturbance.size,
            "mAP": self.told.mean_ap,
            "NDS": self.told.nds,
            "mAP_corrected": self.corrected.mean_ap,
            "NDS_corrected": self.corrected.nds,
        }


def evaluate_calibration(
    model: str | Path | FastBEVNet | FastBEV,
    disturbances: Sequence[Disturbance],
    seeds: Sequence[int],
    engine: EngineName = "onnx",
    *,
    seconds: float = 10.0,
    rate: float = RATE,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[DetectionResult, list[Loss]]:
    """(metrics with the right calibration, one ``Loss`` per disturbance), all on the same drives.

    Args:
        model: as ``evaluate_simulated``. seeds: drives. progress: called with (drives done, drives in all).

    Raises:
        EvaluationError: no seeds.
    """
    if not seeds:
        raise EvaluationError("no seeds to score: give at least one, for example --seeds 0-3")
    bev: Any = _open(model, engine, threads)
    nominal = nuscenes_rig(800)
    done, total = 0, len(seeds) * (1 + len(disturbances))

    def score(disturbance: Disturbance | None) -> tuple[DetectionResult, DetectionResult]:
        """As told, and with the true calibration: every instant is rendered once and looked at by both, each with its past."""
        nonlocal done
        pairs: tuple[list[Pair], list[Pair]] = ([], [])
        for seed in seeds:
            true = nominal if disturbance is None else disturbance.apply(nominal, seed)
            pasts = [TemporalCache(bev.config.times), TemporalCache(bev.config.times)]
            with SimulatedDrive(seed, cameras=true, rate=rate, duration=seconds) as drive:
                for instant in drive:
                    assert instant.truth is not None
                    for told, past, found in zip((nominal, true), pasts, pairs):
                        if disturbance is None and found is pairs[1]:
                            continue
                        bev.cache = past
                        frames = {name: replace(frame, camera=told[name]) for name, frame in instant.frames.items()}
                        found.append((bev(replace(instant, frames=frames)), instant.truth))
            done += 1
            if progress is not None:
                progress(done, total)
        first = score_detections(pairs[0])
        return first, score_detections(pairs[1]) if disturbance is not None else first

    base, _ = score(None)
    return base, [Loss(d, *score(d)) for d in disturbances]
