"""A board's temperatures as a picture: cells coloured from cold to hot, chips and blocks named, a scale beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .elliptic import PlanError
from .floorplan import Floorplan, Rect
from .plan import Plan

# Dark blue, violet, red, orange, pale yellow: brightness rises all the way, so that it also reads in grey.
_COLOURS = np.array([[20, 20, 70], [90, 30, 120], [190, 45, 85], [245, 130, 40], [252, 240, 170]], np.float64)
_INK, _PAPER, _GREY = (235, 235, 235), (24, 26, 30), (150, 155, 165)


def colours(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.uint8]:
    """(..., 3) RGB for values between ``low`` and ``high``."""
    at = np.clip((values - low) / max(high - low, 1e-9), 0.0, 1.0) * (len(_COLOURS) - 1)
    i = np.minimum(at.astype(int), len(_COLOURS) - 2)
    return np.round(_COLOURS[i] + (at - i)[..., None] * (_COLOURS[i + 1] - _COLOURS[i])).astype(np.uint8)


def draw(plan: Plan, board: Floorplan, width: int = 900) -> NDArray[np.uint8]:
    """(H, W, 3) RGB."""
    import cv2

    rows, columns = board.shape
    scale = max(1, width // columns)
    low, high = float(plan.field.min()), float(plan.field.max())
    field = colours(plan.field, low, high)
    image = np.ascontiguousarray(np.kron(field, np.ones((scale, scale, 1), np.uint8)))
    for chip in board.chips:
        _frame(image, chip.rect, scale, _GREY, 1)
        x, y = chip.rect.columns[0] * scale + 4, chip.rect.rows[0] * scale + 14
        cv2.putText(image, chip.name, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, _GREY, 1, cv2.LINE_AA)
    for block, budget in zip(board.blocks, plan.budgets):
        _frame(image, block.rect, scale, _INK, 2)
        x, y = block.rect.columns[0] * scale + 4, block.rect.rows[0] * scale + 16
        for k, text in enumerate((block.name, f"{budget.power:.1f} W", f"{budget.celsius:.1f} C")):
            place = (x, y + 16 * k)
            shadow = (place[0] + 1, place[1] + 1)
            cv2.putText(image, text, shadow, cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
            cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
    bar = np.empty((rows * scale, 90, 3), np.uint8)
    bar[:] = _PAPER
    ramp = colours(np.linspace(high, low, rows * scale), low, high)
    bar[:, 12:30] = ramp[:, None]
    for share in np.linspace(0, 1, 5):
        y = round(share * (rows * scale - 14)) + 11
        text = f"{high - share * (high - low):.0f} C"
        cv2.putText(bar, text, (36, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, _INK, 1, cv2.LINE_AA)
    return np.ascontiguousarray(np.concatenate([image, bar], axis=1))


def write(path: Path, image: NDArray[np.uint8]) -> None:
    """PNG or JPEG, by the name's ending.

    Raises:
        PlanError: another ending, or a place that cannot be written.
    """
    import cv2

    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise PlanError(f"picture {path}: the name must end in .png or .jpg")
    done, data = cv2.imencode(path.suffix.lower(), image[:, :, ::-1])
    try:
        path.write_bytes(data.tobytes() if done else b"")
    except OSError as error:
        raise PlanError(f"picture {path} cannot be written: {error.strerror}") from None


def _frame(image: NDArray[np.uint8], rect: Rect, scale: int, colour: tuple[int, int, int], thick: int) -> None:
    import cv2

    first = (rect.columns[0] * scale, rect.rows[0] * scale)
    last = (rect.columns[1] * scale - 1, rect.rows[1] * scale - 1)
    cv2.rectangle(image, first, last, colour, thick)
