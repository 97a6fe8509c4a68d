"""Augmentation as published (brief fast-bev, section 4): every image on its own, and the bird's-eye view as a whole.

An image's augmentation is one matrix from original to input pixels, which goes into its projection; that of the view is one
matrix on the LiDAR frame, which goes into the boxes and, inverted, under the grid. The grid itself never moves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from bevstack.bev.config import FastBEVConfig
from bevstack.bev.preprocess import image_transform
from bevstack.frames.decode import resize
from bevstack.geometry import Boxes3D, Matrix

REFERENCE_WIDTH = 1600  # of the cameras that the published scale offsets are for


@dataclass(frozen=True)
class ImageRanges:
    """Ranges of the draw; the published ones. ``scale``: added to the factor input width / 1600; ``crop``: of the input's size;
    ``turn``: degrees."""

    scale: tuple[float, float] = (-0.06, 0.11)
    crop: tuple[float, float] = (-0.05, 0.05)
    flip: float = 0.5
    turn: tuple[float, float] = (-5.4, 5.4)


@dataclass(frozen=True)
class ViewRanges:
    """``flip_x``, ``flip_y``: chances; ``turn``: radians; ``shift``: standard deviation, metres."""

    flip_x: float = 0.5
    flip_y: float = 0.5
    turn: tuple[float, float] = (-0.3925, 0.3925)
    scale: tuple[float, float] = (0.95, 1.05)
    shift: float = 0.05


@dataclass(frozen=True)
class ImageAugmentation:
    """One image's draw: resize to ``resized`` (w, h), then ``warp`` (3, 3) from resized to input pixels.

    Pixel centres lie at integers in ``warp``; the resize is corner-aligned, u' = s u, as everywhere here.
    """

    source: tuple[int, int]
    resized: tuple[int, int]
    warp: Matrix

    @property
    def matrix(self) -> Matrix:
        """(3, 3) original pixels to input pixels, for ``rig_table``'s ``image_matrices``."""
        scale = np.diag([self.resized[0] / self.source[0], self.resized[1] / self.source[1], 1.0])
        return np.asarray(self.warp @ scale)

    def apply(self, image: NDArray[np.uint8], config: FastBEVConfig) -> NDArray[np.uint8]:
        """(H, W, 3) of any size of the source -> (*image_hw, 3); black where there is nothing, nearest pixel where turned."""
        small = resize(image, self.resized, config.resize_filter)
        height, width = config.image_hw
        warped = cv2.warpAffine(small, self.warp[:2], (width, height), flags=cv2.INTER_NEAREST, borderValue=(0, 0, 0))
        return np.asarray(warped, np.uint8)


def draw_image(
    source: tuple[int, int], config: FastBEVConfig, rng: np.random.Generator | None, ranges: ImageRanges | None = None
) -> ImageAugmentation:
    """Augmentation of an image of ``source`` (width, height); without ``rng`` the plain resize and centred crop."""
    height, width = config.image_hw
    plain = image_transform(*source, config)
    if rng is None:
        return ImageAugmentation(source, plain.resized, _shift(0.0, -plain.top))
    r = ranges or ImageRanges()
    factor = width / source[0] + rng.uniform(*r.scale) * REFERENCE_WIDTH / source[0]
    resized = (max(1, round(source[0] * factor)), max(1, round(source[1] * factor)))
    left = (resized[0] - width) / 2 + rng.uniform(*r.crop) * width
    top = (resized[1] - height) / 2 + rng.uniform(*r.crop) * height
    warp = _shift(-round(left), -round(top))
    if rng.random() < r.flip:
        warp = np.array([[-1.0, 0.0, width - 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]) @ warp
    angle = np.radians(rng.uniform(*r.turn))
    centre = _shift((width - 1) / 2, (height - 1) / 2)
    turn = np.array([[np.cos(angle), np.sin(angle), 0.0], [-np.sin(angle), np.cos(angle), 0.0], [0.0, 0.0, 1.0]])
    return ImageAugmentation(source, resized, centre @ turn @ np.linalg.inv(centre) @ warp)


def _shift(x: float, y: float) -> Matrix:
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def draw_view(rng: np.random.Generator | None, ranges: ViewRanges | None = None) -> Matrix:
    """(4, 4) from the LiDAR frame to the augmented one; without ``rng`` the identity."""
    result = np.eye(4)
    if rng is None:
        return result
    r = ranges or ViewRanges()
    flips = np.array([-1.0 if rng.random() < r.flip_x else 1.0, -1.0 if rng.random() < r.flip_y else 1.0, 1.0])
    angle, scale = rng.uniform(*r.turn), rng.uniform(*r.scale)
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    result[:3, :3] = scale * turn @ np.diag(flips)
    result[:3, 3] = rng.normal(0.0, r.shift, 3)
    return result


def move_boxes(boxes: Boxes3D, view: Matrix) -> Boxes3D:
    """Boxes of the LiDAR frame under ``draw_view``'s matrix: places, sizes, headings and velocities."""
    linear = view[:3, :3]
    scale = float(np.cbrt(abs(np.linalg.det(linear))))
    heading = np.stack([np.cos(boxes.yaw), np.sin(boxes.yaw)], axis=1) @ linear[:2, :2].T
    return replace(
        boxes,
        center=boxes.center @ linear.T + view[:3, 3],
        size=boxes.size * scale,
        yaw=np.arctan2(heading[:, 1], heading[:, 0]),
        velocity=boxes.velocity @ linear[:2, :2].T,
    )
