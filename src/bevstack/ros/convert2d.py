"""Between vision_msgs' 2D detections and ``Boxes2D``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bevstack.geometry import DETECTION_CLASSES, Boxes2D

from .convert import header
from .interfaces import Detection2D, Detection2DArray, Message, ObjectHypothesisWithPose


def detections_from_boxes2d(boxes: Boxes2D, stamp: int, frame_id: str) -> Message:
    """Boxes of one image to vision_msgs/Detection2DArray, in pixels of the original image.

    Args:
        boxes: N boxes.
        stamp: exposure of the image, nanoseconds.
        frame_id: the image's frame.
    """
    head = header(stamp, frame_id)
    detections = []
    for (left, top, right, bottom), score, name in zip(boxes.xyxy.tolist(), boxes.score.tolist(), boxes.names()):
        hypothesis = ObjectHypothesisWithPose()
        hypothesis.hypothesis.class_id = name
        hypothesis.hypothesis.score = float(score)
        detection = Detection2D(header=head, results=[hypothesis])
        box = detection.bbox
        box.center.position.x, box.center.position.y = (left + right) / 2, (top + bottom) / 2
        box.size_x, box.size_y = right - left, bottom - top
        detections.append(detection)
    return Detection2DArray(header=head, detections=detections)


def boxes2d_from_detections(message: Message, classes: Sequence[str] = DETECTION_CLASSES) -> Boxes2D:
    """vision_msgs/Detection2DArray to boxes. Of several hypotheses the best scored counts; rotation is ignored.

    Class names that are not in ``classes`` are added behind them, so that no box loses its name. Boxes whose numbers are not
    finite are left out.
    """
    names = {name: index for index, name in enumerate(classes)}
    rows, scores, labels = [], [], []
    for detection in message.detections:
        best = max(detection.results, key=lambda r: r.hypothesis.score, default=None)
        centre, w, h = detection.bbox.center.position, detection.bbox.size_x, detection.bbox.size_y
        row = (centre.x - w / 2, centre.y - h / 2, centre.x + w / 2, centre.y + h / 2)
        score = 1.0 if best is None else best.hypothesis.score
        if not np.isfinite([*row, score]).all():
            continue
        rows.append(row)
        scores.append(score)
        labels.append(names.setdefault("" if best is None else best.hypothesis.class_id, len(names)))
    if not rows:
        return Boxes2D.empty(tuple(classes))
    return Boxes2D(np.asarray(rows, np.float32), np.asarray(scores, np.float32), np.asarray(labels, np.int64), tuple(names))
