"""The node by which the command sees a run: its statuses, its boxes, and the instant worth a picture."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bevstack.frames.calibration import guess_camera
from bevstack.frames.types import Frame
from bevstack.geometry import Boxes2D, Boxes3D
from bevstack.ros.interfaces import CodecStatus, Message
from bevstack.ros.runtime import QoSProfile
from bevstack.viewer.learned_topics import status_from_message
from bevstack.viewer.node import OBSERVER_PARAMETERS, ObserverNode
from bevstack.viewer.state import Status

from .statistics import Statistics

_SAME_MOMENT_NS = 60_000_000


@dataclass(frozen=True)
class Moment:
    """One instant: frames (compressed, by reference), boxes in the ego frame, truth where the source knows it.

    ``flat``: 2D boxes by camera, in pixels of its image.
    """

    stamp: int
    frames: dict[str, Frame]
    boxes: Boxes3D
    truth: Boxes3D | None = None
    flat: Mapping[str, Boxes2D] = field(default_factory=dict)


class MonitorNode(ObserverNode):
    """Adds up ``statistics`` and keeps the ``best`` instant: the one with the most certain boxes.

    Parameters: ``OBSERVER_PARAMETERS``.
    """

    def __init__(self, node_name: str = "monitor", **kwargs: Any) -> None:
        self.statistics = Statistics()
        self.best: Moment | None = None
        self._best_score = -1.0
        self.seconds_of_source = 0.0
        self._first_stamp: int | None = None
        self.progress = threading.Event()
        """Set with every instant; the command clears it."""
        super().__init__(node_name, specs=OBSERVER_PARAMETERS, **kwargs)
        self.create_subscription(CodecStatus, "encoder_node/status", self._on_coded, QoSProfile(depth=100))

    def take_status(self, status: Status) -> None:
        super().take_status(status)
        self.statistics.add(status)
        self._advance(status.stamp)

    def _advance(self, stamp: int) -> None:
        if self._first_stamp is None:
            self._first_stamp = stamp
        self.seconds_of_source = (stamp - self._first_stamp) / 1e9
        self.progress.set()

    def _on_coded(self, message: Message) -> None:
        status = status_from_message(message)
        self.statistics.add_coded(status)
        if not self.statistics.status.instants_in:  # nobody looks for boxes: time goes on with the streams
            self._advance(status.stamp)

    def take_boxes(self, stamp: int, boxes: Boxes3D) -> None:
        super().take_boxes(stamp, boxes)
        self.statistics.add_boxes(boxes, self.state.truth_of(stamp))
        score = float(boxes.score.sum())
        if score <= self._best_score or self.flat_only:
            return
        pictures, truth = self.state.instant(stamp)
        frames = {}
        for name, picture in pictures.items():
            camera = self._rig.camera(name)
            if camera is not None:
                frames[name] = picture.frame(camera)
        if frames:
            flat = {name: found for name in frames if (found := self.state.boxes2d_of(name, stamp)) is not None}
            self.best, self._best_score = Moment(stamp, frames, boxes, truth, flat), score

    @property
    def flat_only(self) -> bool:
        """Nobody looks for 3D boxes: the 2D node's statuses are followed."""
        return bool(self._p["bev_node"] == self._p["detect_node"])

    def take_boxes2d(self, name: str, stamp: int, boxes: Boxes2D) -> None:
        super().take_boxes2d(name, stamp, boxes)
        self.statistics.add_boxes2d(boxes)
        if not self.flat_only:
            if self.best is not None and abs(self.best.stamp - stamp) < _SAME_MOMENT_NS and name in self.best.frames:
                self.best = replace(self.best, flat={**self.best.flat, name: boxes})
            return
        if name == next(iter(self._rig.names)):
            self._judge(stamp)

    def _judge(self, stamp: int) -> None:
        """Keep the moment if it has more certain 2D boxes than the best so far; other cameras' are those nearest to it."""
        pictures, _ = self.state.instant(stamp)
        flat = {name: boxes for name in pictures if (boxes := self.state.boxes2d_of(name, stamp)) is not None}
        score = float(sum(boxes.score.sum() for boxes in flat.values()))
        if score <= self._best_score:
            return
        frames = {}
        for name, picture in pictures.items():
            camera = self._rig.camera(name)
            if camera is None and picture.size is not None:
                camera = guess_camera(name, *picture.size)
            if camera is not None:
                frames[name] = picture.frame(camera)
        if frames:
            self.best, self._best_score = Moment(stamp, frames, Boxes3D.empty(), None, flat), score

    def take_velocity(self, stamp: int, velocity: NDArray[np.float64]) -> None:
        super().take_velocity(stamp, velocity)
        if self.best is not None and self.best.stamp == stamp and len(self.best.boxes) == len(velocity):
            self.best = replace(self.best, boxes=replace(self.best.boxes, velocity=velocity))
