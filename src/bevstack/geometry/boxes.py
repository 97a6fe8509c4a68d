"""Detected or true objects: 3D boxes in the ego frame, 2D boxes in an image."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .classes import DETECTION_CLASSES
from .pose import Matrix, rotation_z, transform_points, yaw_of

# Unit corners: first the four of the floor (front left, rear left, rear right, front right), then the four of the roof.
_CORNERS = 0.5 * np.array(
    [[1, 1, -1], [-1, 1, -1], [-1, -1, -1], [1, -1, -1], [1, 1, 1], [-1, 1, 1], [-1, -1, 1], [1, -1, 1]], dtype=np.float64
)
BOX_EDGES: tuple[tuple[int, int], ...] = (
    (0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7),
)  # fmt: skip


@dataclass(frozen=True)
class Boxes3D:
    """N boxes in the ego frame: x forward, y left, z up; metres, radians, metres per second.

    Attributes:
        center: (N, 3) geometric centre.
        size: (N, 3) length (along the heading), width, height.
        yaw: (N,) heading, anticlockwise from x.
        velocity: (N, 2) over ground, in ego axes.
        score: (N,) in [0, 1]; ones for ground truth.
        label: (N,) int64 index into ``DETECTION_CLASSES``.
        id: (N,) int64 track or object number, -1 when unknown.
    """

    center: Matrix
    size: Matrix
    yaw: Matrix
    velocity: Matrix = field(default_factory=lambda: np.zeros((0, 2)))
    score: Matrix = field(default_factory=lambda: np.zeros(0))
    label: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    id: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def __post_init__(self) -> None:
        n = int(np.asarray(self.center).reshape(-1, 3).shape[0])
        defaults: dict[str, NDArray[np.generic]] = {
            "velocity": np.zeros((n, 2)),
            "score": np.ones(n),
            "label": np.zeros(n, np.int64),
            "id": np.full(n, -1, np.int64),
        }
        shapes = {"center": (n, 3), "size": (n, 3), "velocity": (n, 2)}
        for item in fields(self):
            value = np.asarray(getattr(self, item.name))
            if n and value.size == 0 and item.name in defaults:
                value = defaults[item.name]
            dtype = np.int64 if item.name in ("label", "id") else np.float64
            shape = shapes.get(item.name, (n,))
            if value.size != int(np.prod(shape)):
                raise ValueError(f"Boxes3D.{item.name} has shape {value.shape}; {n} boxes need {shape}")
            object.__setattr__(self, item.name, np.ascontiguousarray(value, dtype=dtype).reshape(shape))

    def __len__(self) -> int:
        return len(self.center)

    @staticmethod
    def empty() -> Boxes3D:
        return Boxes3D(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0))

    def __getitem__(self, index: ArrayLike | slice) -> Boxes3D:
        """Boxes chosen by a mask, an index array or a slice."""
        selection = index if isinstance(index, slice) else np.asarray(index)
        return replace(self, **{f.name: np.atleast_1d(getattr(self, f.name)[selection]) for f in fields(self)})

    def corners(self) -> Matrix:
        """(N, 8, 3) corners in the ego frame: floor front-left, rear-left, rear-right, front-right, then the roof alike."""
        local = _CORNERS[None] * self.size[:, None, :]
        c, s = np.cos(self.yaw)[:, None], np.sin(self.yaw)[:, None]
        x = c * local[..., 0] - s * local[..., 1]
        y = s * local[..., 0] + c * local[..., 1]
        return np.stack([x, y, local[..., 2]], axis=-1) + self.center[:, None, :]

    def transformed(self, transform: ArrayLike) -> Boxes3D:
        """The same boxes in frame a, given ``T_a_b`` (4, 4). Boxes stay upright: only the transform's yaw turns them."""
        t = np.asarray(transform, dtype=np.float64)
        turn = yaw_of(t)
        velocity = self.velocity @ rotation_z(turn)[:2, :2].T
        yaw = np.arctan2(np.sin(self.yaw + turn), np.cos(self.yaw + turn))
        return replace(self, center=transform_points(t, self.center), yaw=yaw, velocity=velocity)


@dataclass(frozen=True)
class Boxes2D:
    """N boxes in one image.

    Attributes:
        xyxy: (N, 4) float32 left, top, right, bottom in pixels of the original image; the top left pixel spans 0 to 1.
        score: (N,) float32 in [0, 1]; ones for ground truth. ``label``: (N,) int64 index into ``classes``.
    """

    xyxy: NDArray[np.float32]
    score: NDArray[np.float32]
    label: NDArray[np.int64]
    classes: tuple[str, ...] = DETECTION_CLASSES

    def __post_init__(self) -> None:
        n = int(np.asarray(self.xyxy).reshape(-1, 4).shape[0])
        dtypes: dict[str, tuple[type, tuple[int, ...]]] = {
            "xyxy": (np.float32, (n, 4)),
            "score": (np.float32, (n,)),
            "label": (np.int64, (n,)),
        }
        for name, (dtype, shape) in dtypes.items():
            value = np.asarray(getattr(self, name))
            if value.size != int(np.prod(shape)):
                raise ValueError(f"Boxes2D.{name} has shape {value.shape}; {n} boxes need {shape}")
            object.__setattr__(self, name, np.ascontiguousarray(value, dtype=dtype).reshape(shape))

    def __len__(self) -> int:
        return len(self.xyxy)

    @staticmethod
    def empty(classes: tuple[str, ...] = DETECTION_CLASSES) -> Boxes2D:
        return Boxes2D(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), classes)

    def __getitem__(self, index: ArrayLike | slice) -> Boxes2D:
        """Boxes chosen by a mask, an index array or a slice."""
        selection = index if isinstance(index, slice) else np.asarray(index)
        score, label = np.atleast_1d(self.score[selection]), np.atleast_1d(self.label[selection])
        return replace(self, xyxy=np.atleast_2d(self.xyxy[selection]), score=score, label=label)

    def names(self) -> list[str]:
        """Class name of each box."""
        return [self.classes[k] for k in self.label]
