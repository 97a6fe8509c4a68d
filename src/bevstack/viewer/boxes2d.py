"""2D boxes on the page: which belong to the shown picture, and where they and the 3D boxes disagree."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bevstack.geometry import Boxes2D, Boxes3D, Camera
from bevstack.geometry.association import associate
from bevstack.geometry.overlay import Outline
from bevstack.geometry.palette import CLASS_COLOURS, UNKNOWN_COLOUR

_KEPT = 24
# Boxes of two nodes on one picture: their own images may be one apart where a node leaves some out.
_PAIR_NS = 120_000_000
# A longer one and what moves no longer overlaps with itself.
_COMPARE_NS = 60_000_000


@dataclass
class Recent2D:
    """The last 2D results of one camera by exposure stamp. Not thread-safe."""

    results: deque[tuple[int, Boxes2D]] = field(default_factory=lambda: deque(maxlen=_KEPT))

    def keep(self, stamp: int, boxes: Boxes2D) -> None:
        if self.results and stamp < self.results[-1][0]:
            self.results.clear()  # time went back: a bag began again
        self.results.append((stamp, boxes))

    @property
    def newest(self) -> int | None:
        """Stamp of the newest result."""
        return self.results[-1][0] if self.results else None

    def nearest(self, stamp: int) -> tuple[int, Boxes2D] | None:
        """The result that belongs to a picture, None where there is none."""
        best = min(self.results, key=lambda item: abs(item[0] - stamp), default=None)
        return best if best is not None and abs(best[0] - stamp) <= _PAIR_NS else None


def boxes2d_json(
    found: tuple[int, Boxes2D] | None,
    size: tuple[int, int] | None,
    camera: Camera | None,
    boxes3d: Boxes3D | None,
    outlines: Sequence[Outline],
    stamp3d: int,
) -> tuple[list[dict[str, Any]], list[int]]:
    """2D boxes as the page's script wants them, and the 3D boxes that this camera should have seen in 2D but did not.

    A 2D box has ``pair`` (index of its 3D box, or null) and ``flag``: "" agrees or cannot be compared, "alone" has no 3D box,
    "class" is called something else in 3D.

    Args:
        found: stamp and boxes.
        size: (width, height) of the image that they are in; None: not known, nothing can be placed.
        camera: its calibration; None: nothing can be compared.
        boxes3d: those shown; None: none are.
        outlines: ``box_outlines(camera, boxes3d)``.
        stamp3d: exposure that the 3D boxes belong to.
    """
    if found is None or size is None:
        return [], []
    stamp, boxes = found
    flags, pairs, missed = [""] * len(boxes), [None] * len(boxes), []
    if camera is not None and boxes3d is not None and abs(stamp - stamp3d) <= _COMPARE_NS:
        result = associate(camera, boxes, boxes3d, outlines)
        for k, (i, n) in enumerate(result.pairs.tolist()):
            pairs[i] = n
            flags[i] = "class" if k in result.conflicts else ""
        for i in result.only_2d.tolist():
            flags[i] = "alone"
        missed = result.only_3d.tolist()
    width, height = size
    rows = [
        {
            "box": [round(x0 / width, 4), round(y0 / height, 4), round(x1 / width, 4), round(y1 / height, 4)],
            "class": name,
            "colour": CLASS_COLOURS.get("pedestrian" if name == "person" else name, UNKNOWN_COLOUR),
            "score": round(score, 3),
            "pair": pair,
            "flag": flag,
        }
        for (x0, y0, x1, y1), score, name, pair, flag in zip(
            boxes.xyxy.tolist(), boxes.score.tolist(), boxes.names(), pairs, flags
        )
    ]
    return rows, missed
