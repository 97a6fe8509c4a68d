"""nuScenes detection metrics (mAP, NDS and the five true-positive errors) computed by nuscenes-devkit's own functions.

The devkit normally reads a database; here its ``EvalBoxes`` are built in memory from ``Boxes3D``, then filtered and scored
as its ``DetectionEval`` does (configuration ``detection_cvpr_2019``, brief fast-bev section 5). Everything stays in the ego
frame of each instant: the metrics only use distances, relative angles and velocities over ground, which no common rotation
or shift changes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bevstack.errors import BevstackError
from bevstack.geometry import DETECTION_CLASSES, Boxes3D

if TYPE_CHECKING:
    from rich.table import Table

MOVING_SPEED = 0.2  # metres per second; above it an object counts as moving
TP_NAMES = {"trans_err": "ATE", "scale_err": "ASE", "orient_err": "AOE", "vel_err": "AVE", "attr_err": "AAE"}
_CYCLES = ("bicycle", "motorcycle")
_STATIC = ("traffic_cone", "barrier")


class MissingDevkitError(BevstackError):
    """nuscenes-devkit is not installed."""


def attribute_of(name: str, speed: float) -> str:
    """nuScenes attribute of a class at a speed over ground (m/s); "" for cones and barriers."""
    if name in _STATIC:
        return ""
    moving = speed > MOVING_SPEED
    if name in _CYCLES:
        return "cycle.with_rider" if moving else "cycle.without_rider"
    if name == "pedestrian":
        return "pedestrian.moving" if moving else "pedestrian.standing"
    if moving:
        return "vehicle.moving"
    return "vehicle.stopped" if name == "bus" else "vehicle.parked"


@dataclass(frozen=True)
class ClassMetrics:
    """One class: AP by match distance (m), their mean, TP errors (NaN where the class has none), true boxes within range, and
    by match distance the precision at 101 recalls from 0 to 1."""

    name: str
    ap: float
    ap_by_distance: dict[float, float]
    errors: dict[str, float]
    truths: int
    predictions: int
    precision: dict[float, NDArray[np.float64]] = field(default_factory=dict)


@dataclass(frozen=True)
class DetectionResult:
    """Scores of a set of instants. ``errors``: mATE (m), mASE, mAOE (rad), mAVE (m/s), mAAE."""

    mean_ap: float
    nds: float
    errors: dict[str, float]
    classes: tuple[ClassMetrics, ...]
    instants: int
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def absent(self) -> tuple[str, ...]:
        """Classes without a true box: the devkit gives them AP 0, which drags the mean down."""
        return tuple(c.name for c in self.classes if c.truths == 0)

    def to_json(self) -> dict[str, Any]:
        """Plain data; undefined errors become None."""

        def plain(value: float) -> float | None:
            return round(float(value), 6) if math.isfinite(value) else None

        return {
            "mAP": plain(self.mean_ap),
            "NDS": plain(self.nds),
            **{"m" + k: plain(v) for k, v in self.errors.items()},
            "instants": self.instants,
            "absent_classes": list(self.absent),
            "classes": {
                c.name: {
                    "AP": plain(c.ap),
                    "AP_by_distance": {f"{d:g}": plain(v) for d, v in c.ap_by_distance.items()},
                    **{k: plain(v) for k, v in c.errors.items()},
                    "truths": c.truths,
                    "predictions": c.predictions,
                }
                for c in self.classes
            },
            **self.details,
        }

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.to_json(), indent=2) + "\n", encoding="utf-8")

    def table(self, title: str = "") -> Table:
        """One table: a row per class, the means below."""
        from rich.table import Table

        def cell(value: float) -> str:
            return f"{value:.3f}" if math.isfinite(value) else "-"

        table = Table(title=title or None, show_footer=True)
        table.add_column("class", footer=f"NDS {self.nds:.3f}")
        table.add_column("AP", justify="right", footer=f"{self.mean_ap:.3f}")
        distances = list(self.classes[0].ap_by_distance)
        for i, d in enumerate(distances):
            mean = float(np.mean([c.ap_by_distance[d] for c in self.classes]))
            table.add_column(f"AP@{d:g}m", justify="right", footer=f"{mean:.3f}", style="dim" if i % 2 else None)
        for name in TP_NAMES.values():
            table.add_column(name, justify="right", footer=cell(self.errors[name]))
        table.add_column("true", justify="right", footer=str(sum(c.truths for c in self.classes)))
        for c in self.classes:
            values = [c.ap, *c.ap_by_distance.values(), *(c.errors[n] for n in TP_NAMES.values())]
            table.add_row(c.name, *map(cell, values), str(c.truths))
        return table


def _devkit() -> Any:
    """The devkit's modules, imported late: they pull in matplotlib and scikit-learn."""
    try:
        import matplotlib

        matplotlib.use("Agg", force=False)
        from nuscenes.eval.common.data_classes import EvalBoxes
        from nuscenes.eval.detection import algo, constants, data_classes
        from nuscenes.eval.detection.config import config_factory
    except ImportError as error:
        raise MissingDevkitError(
            f"nuScenes metrics need nuscenes-devkit ({error}): "
            "pip install 'bevstack[eval]' && pip install --no-deps nuscenes-devkit"
        ) from error
    return EvalBoxes, algo, constants, data_classes, config_factory


def _records(token: str, boxes: Boxes3D, cls: Any, limit: int | None, ranges: dict[str, int], scored: bool) -> list[Any]:
    order: NDArray[np.intp] = np.argsort(-boxes.score, kind="stable")[:limit] if scored else np.arange(len(boxes))
    result = []
    for i in order:
        name = DETECTION_CLASSES[int(boxes.label[i])]
        x, y, z = map(float, boxes.center[i])
        if math.hypot(x, y) >= ranges[name]:
            continue
        length, width, height = map(float, boxes.size[i])
        velocity = (float(boxes.velocity[i, 0]), float(boxes.velocity[i, 1]))
        half = float(boxes.yaw[i]) / 2
        result.append(
            cls(
                sample_token=token,
                translation=(x, y, z),
                size=(width, length, height),
                rotation=(math.cos(half), 0.0, 0.0, math.sin(half)),
                velocity=velocity,
                ego_translation=(x, y, z),
                detection_name=name,
                detection_score=float(boxes.score[i]) if scored else -1.0,
                attribute_name=attribute_of(name, math.hypot(*velocity)),
            )
        )
    return result


def score_detections(
    pairs: Sequence[tuple[Boxes3D, Boxes3D]], *, progress: Callable[[float], None] | None = None
) -> DetectionResult:
    """Score (predictions, truth) of each instant, both in that instant's ego frame.

    Truth that the devkit would drop (nothing visible of it) must already be left out. At most 500 predictions of an instant
    count, the best ones; boxes farther away than their class's range count neither as truth nor as prediction.

    Raises:
        MissingDevkitError: when nuscenes-devkit cannot be imported.
        ValueError: when there is no instant.
    """
    if not pairs:
        raise ValueError("score_detections needs at least one instant")
    eval_boxes, algo, constants, data_classes, config_factory = _devkit()
    config = config_factory("detection_cvpr_2019")
    truths, predictions = eval_boxes(), eval_boxes()
    for i, (predicted, true) in enumerate(pairs):
        token = f"{i:08d}"
        limit = config.max_boxes_per_sample
        predictions.add_boxes(token, _records(token, predicted, data_classes.DetectionBox, limit, config.class_range, True))
        truths.add_boxes(token, _records(token, true, data_classes.DetectionBox, None, config.class_range, False))
    metrics = data_classes.DetectionMetrics(config)
    counts: dict[str, tuple[int, int]] = {}
    curves: dict[str, dict[float, NDArray[np.float64]]] = {name: {} for name in DETECTION_CLASSES}
    for n, name in enumerate(config.class_names):
        # The devkit walks every box of an instant for every prediction; handing it one class at a time changes nothing but
        # the time.
        own_truths, own_predictions = eval_boxes(), eval_boxes()
        for token in truths.sample_tokens:
            own_truths.add_boxes(token, [b for b in truths[token] if b.detection_name == name])
            own_predictions.add_boxes(token, [b for b in predictions[token] if b.detection_name == name])
        counts[name] = len(own_truths.all), len(own_predictions.all)
        at_tp = None
        for distance in config.dist_ths:
            data = algo.accumulate(own_truths, own_predictions, name, config.dist_fcn_callable, distance)
            curves[name][float(distance)] = np.asarray(data.precision, np.float64)
            metrics.add_label_ap(name, distance, algo.calc_ap(data, config.min_recall, config.min_precision))
            if distance == config.dist_th_tp:
                at_tp = data
        for metric in constants.TP_METRICS:
            undefined = (name == "traffic_cone" and metric in ("attr_err", "vel_err", "orient_err")) or (
                name == "barrier" and metric in ("attr_err", "vel_err")
            )
            metrics.add_label_tp(name, metric, math.nan if undefined else algo.calc_tp(at_tp, config.min_recall, metric))
        if progress is not None:
            progress((n + 1) / len(config.class_names))
    classes = tuple(
        ClassMetrics(
            name=name,
            ap=float(metrics.mean_dist_aps[name]),
            ap_by_distance={float(d): float(metrics.get_label_ap(name, d)) for d in config.dist_ths},
            errors={short: float(metrics.get_label_tp(name, long)) for long, short in TP_NAMES.items()},
            truths=counts[name][0],
            predictions=counts[name][1],
            precision=curves[name],
        )
        for name in DETECTION_CLASSES
    )
    errors = {TP_NAMES[k]: float(v) for k, v in metrics.tp_errors.items()}
    return DetectionResult(float(metrics.mean_ap), float(metrics.nd_score), errors, classes, len(pairs))
