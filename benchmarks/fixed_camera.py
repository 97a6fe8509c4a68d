"""Vehicles in the video of a fixed camera: a detector against background subtraction.

Usage: python benchmarks/fixed_camera.py VIDEO [--model giraffedet-nano] [--every 5] [--score 0.3]

Nobody labelled the video, but the camera stands still: what differs from the median picture is a vehicle (shadows, only darker,
are left out; the exposure, which follows the cars, is taken off first). Counted as found: a vehicle class whose box overlaps by
more than half. Boxes may include a soft shadow.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from bevstack.detect.detector import Detector
from bevstack.learn.detect.assign import pairwise_iou

VEHICLES = {"car", "truck", "trailer", "bus", "construction_vehicle"}
BRIGHTER, COLOURED, OTHER = 28, 22, 70  # grey levels from the background that make a pixel a vehicle's
LEAST = 1500  # pixels of a vehicle


def frames_of(path: Path) -> list[NDArray[np.uint8]]:
    """All pictures, (H, W, 3) uint8 RGB."""
    video, frames = cv2.VideoCapture(str(path)), []
    while (read := video.read())[0]:
        frames.append(np.ascontiguousarray(read[1][..., ::-1]).astype(np.uint8))
    return frames


def moving(frame: NDArray[np.uint8], background: NDArray[np.int16]) -> NDArray[np.float32]:
    """(N, 4) boxes of what is not background, pixels."""
    change = frame.astype(np.int16) - background
    change -= np.median(change, (0, 1)).astype(np.int16)  # a bright car makes the camera darken all the rest
    colour = np.abs(change - change.mean(2, keepdims=True)).max(2)
    mask = (change.max(2) > BRIGHTER) | (colour > COLOURED) | (np.abs(change).max(2) > OTHER)
    solid = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    solid = cv2.morphologyEx(solid, cv2.MORPH_CLOSE, np.ones((25, 25), np.uint8))
    found = cv2.connectedComponentsWithStats(solid)[2][1:]
    return np.array([(x, y, x + w, y + h) for x, y, w, h, area in found if area > LEAST], np.float32).reshape(-1, 4)


def main() -> int:
    """Prints one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path)
    parser.add_argument("--model", default="giraffedet-nano")
    parser.add_argument("--every", type=int, default=5)
    parser.add_argument("--score", type=float, default=0.3)
    args = parser.parse_args()
    frames = frames_of(args.video)
    if not frames:
        print(f"{args.video} has no pictures that can be read: give a video file")
        return 2
    background = np.median(np.stack(frames[::6]), 0).astype(np.int16)
    detector = Detector(args.model, threads=1)
    there = found = as_car = others = 0
    for frame in frames[:: args.every]:
        true, boxes = moving(frame, background), detector([frame])[0]
        boxes = boxes[boxes.score > args.score]
        overlap = pairwise_iou(torch.from_numpy(boxes.xyxy), torch.from_numpy(true)).numpy()
        taken = set[int]()
        there += len(true)
        for row, name in zip(overlap, boxes.names()):
            best = int(row.argmax()) if len(row) else -1
            if best >= 0 and best not in taken and name in VEHICLES and row[best] > 0.5:
                taken.add(best)
                found, as_car = found + 1, as_car + int(name == "car")
            else:
                others += 1
    print(f"{args.model}: {there} vehicles, {found} found, {as_car} of them as cars; {others} other boxes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
