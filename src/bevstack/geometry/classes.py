"""The ten nuScenes detection classes, in the order that Fast-BEV's heads are trained with."""

from __future__ import annotations

DETECTION_CLASSES: tuple[str, ...] = (
    "car",
    "truck",
    "trailer",
    "bus",
    "construction_vehicle",
    "bicycle",
    "motorcycle",
    "pedestrian",
    "traffic_cone",
    "barrier",
)
