"""Marks that are no objects: a street's paint, specks, patches and cracks, drawn into training images between the boxes.

Simulated asphalt is clean; a detector that has seen no other takes a bright speck for a cone and half an arrow for a person.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from .coco import Labels

MARKS = (2, 24)  # per image, both included
_SUB = 3  # fractional bits of the drawn corners


def clutter(image: NDArray[np.uint8], labels: Labels, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A copy of ``image`` (H, W, 3) with marks wherever no box, learned or left out, is touched.

    Specks of a few pixels, strokes as of lane lines and cracks, polygons as of arrows and letters, dull patches: white, yellow,
    or the surroundings in another shade. None has a contact shadow, volume or several colours, as objects have.
    """
    height, width = image.shape[:2]
    out = image.copy()
    boxes = labels.xyxy
    for _ in range(int(rng.integers(MARKS[0], MARKS[1] + 1))):
        place = rng.uniform(0.0, 1.0, 2) * (width, height)
        outline = place + _outline(rng)
        low, high = outline.min(0) - 2.0, outline.max(0) + 2.0
        if np.any((low < boxes[:, 2:]).all(1) & (high > boxes[:, :2]).all(1)):
            continue
        x0, y0 = (int(v) for v in np.clip(np.floor(low), 0, (width - 1, height - 1)))
        x1, y1 = (int(v) for v in np.clip(np.ceil(high), 1, (width, height)))
        part = out[y0:y1, x0:x1]
        mask = np.zeros(part.shape[:2], np.uint8)
        corners = np.round((outline - (x0, y0)) * 2**_SUB).astype(np.int32)
        cv2.fillPoly(mask, [corners], 255, cv2.LINE_AA, _SUB)
        alpha = mask[..., None].astype(np.float32) / 255.0 * float(rng.uniform(0.5, 1.0))
        colour = _colour(part.reshape(-1, 3).mean(0), rng)
        part[:] = np.round(part + alpha * (colour - part)).astype(np.uint8)
    return out


def _outline(rng: np.random.Generator) -> NDArray[np.float64]:
    """(N, 2) corners around the mark's place, pixels."""
    kind = rng.random()
    if kind < 0.45:  # a speck: a small ellipse
        return _ellipse(np.exp(rng.uniform(np.log(0.7), np.log(3.5), 2)), rng)
    if kind < 0.75:  # a stroke, narrower at one end
        along, half = (
            float(np.exp(rng.uniform(np.log(8.0), np.log(160.0)))),
            float(np.exp(rng.uniform(np.log(0.6), np.log(6.0)))),
        )
        far = half * float(rng.uniform(0.6, 1.0))
        return _turned(np.array([[-along / 2, -half], [along / 2, -far], [along / 2, far], [-along / 2, half]]), rng)
    if kind < 0.9:  # a polygon of painted signs
        n = int(rng.integers(3, 8))
        angles = np.sort(rng.uniform(0.0, 2 * np.pi, n))
        radii = float(np.exp(rng.uniform(np.log(5.0), np.log(45.0)))) * rng.uniform(0.35, 1.0, n)
        flat = np.stack([radii * np.cos(angles), radii * np.sin(angles) * float(rng.uniform(0.3, 1.0))], 1)
        return _turned(flat, rng)
    return _ellipse(np.exp(rng.uniform(np.log(8.0), np.log(60.0), 2)), rng)  # a stain


def _ellipse(axes: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    a = np.linspace(0.0, 2 * np.pi, 16, endpoint=False)
    return _turned(np.stack([axes[0] * np.cos(a), axes[1] * np.sin(a)], 1), rng)


def _turned(points: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    a = float(rng.uniform(0.0, 2 * np.pi))
    return points @ np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])


def _colour(around: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float32]:
    """White or yellow paint under the light of the place, or the ground in another shade."""
    kind = rng.random()
    light = float(np.clip(around.mean() * 2.2, 60.0, 255.0))
    if kind < 0.45:
        colour = light * rng.uniform(0.8, 1.0) * np.ones(3)
    elif kind < 0.55:
        colour = light * np.array([0.95, 0.72, 0.2])
    else:
        colour = around * rng.uniform(0.35, 1.5)
    return np.clip(colour, 0.0, 255.0).astype(np.float32)
