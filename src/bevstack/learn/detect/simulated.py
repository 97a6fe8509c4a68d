"""Simulated drives as labelled images: true 2D boxes, and folders in COCO's format."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bevstack.frames.sim import SimulatedDrive, overhead_rig
from bevstack.frames.sim.jpeg import encode_jpeg
from bevstack.frames.sim.rig import SPREAD
from bevstack.geometry import DETECTION_CLASSES, Boxes3D, Camera

from .coco import CocoWriter, Labels

View = Literal["vehicle", "overhead"]
_VEHICLES = [DETECTION_CLASSES.index(c) for c in ("car", "truck", "trailer", "bus", "construction_vehicle")]

MIN_PIXELS = 24  # visible pixels of a labelled object
MIN_SIDE = 3.0  # pixels
MIN_SHARE = 0.1  # of the box's pixels that show the object
MIN_VISIBLE = 0.2  # of the box that the whole object would have inside the image
MAX_SHARE = 0.4  # of an image from above: a roof that fills more is a grey plane, and asphalt would be learned as one


def true_boxes(drive: SimulatedDrive, t: float, camera: Camera, truth: Boxes3D | None = None) -> Labels:
    """Boxes around what is seen of every object in one undistorted camera, ``t`` seconds after the start.

    The box is tight around the visible pixels, as in COCO, not the hull of the projected 3D box: an object that is half hidden
    has a box of its visible half. Objects of which too little is seen (``MIN_PIXELS``, ``MIN_SIDE``, ``MIN_SHARE``,
    ``MIN_VISIBLE``), or that are not in ``truth``, are marked ``ignore``.

    Args:
        truth: the objects to label; default: ``drive.truth(t)``, those that the drive's own rig sees, within the range of the
            3D truth.
    """
    mask: NDArray[np.int32] = drive.object_mask(t, camera)
    if truth is None:
        truth = drive.truth(t)
    labelled = dict(zip(truth.id.tolist(), truth.label.tolist()))
    whole = dict(zip(truth.id.tolist(), _whole_areas(truth, camera)))
    rows, columns = np.nonzero(mask >= 0)
    ids = mask[rows, columns]
    order = np.argsort(ids, kind="stable")
    ids, rows, columns = ids[order], rows[order], columns[order]
    found, first = np.unique(ids, return_index=True)
    xyxy, label, ignore = [], [], []
    for number, start, stop in zip(found.tolist(), first.tolist(), [*first[1:].tolist(), len(ids)]):
        x, y = columns[start:stop], rows[start:stop]
        box = (float(x.min()), float(y.min()), float(x.max()) + 1.0, float(y.max()) + 1.0)
        width, height = box[2] - box[0], box[3] - box[1]
        pixels = stop - start
        small = pixels < MIN_PIXELS or min(width, height) < MIN_SIDE or pixels < MIN_SHARE * width * height
        small = small or width * height < MIN_VISIBLE * whole.get(number, 0.0)
        xyxy.append(box)
        label.append(labelled.get(number, int(drive.world.label[number])))
        ignore.append(small or number not in labelled)
    return Labels(np.array(xyxy, np.float32).reshape(-1, 4), np.array(label, np.int64), np.array(ignore, np.bool_))


def _whole_areas(truth: Boxes3D, camera: Camera) -> list[float]:
    """Pixels of the projected 3D boxes inside the image, as if nothing stood before them; 0 if partly behind the camera."""
    pixels, depth = camera.project(truth.corners().reshape(-1, 3))
    corners = np.clip(pixels, 0.0, [camera.width, camera.height]).reshape(-1, 8, 2)
    ahead = np.asarray((depth > 0.1).reshape(-1, 8).all(1)).tolist()
    return [float(np.prod(c.max(0) - c.min(0))) if a else 0.0 for c, a in zip(corners, ahead)]


def write_simulated(
    folder: Path,
    seeds: Iterable[int],
    *,
    instants: int = 8,
    width: int = 640,
    seconds: float = 24.0,
    view: View = "vehicle",
    curved: bool = False,
    spread: float = SPREAD,
    along: bool = False,
    report: Callable[[str], None] | None = None,
) -> Path:
    """Images of simulated drives and ``coco.json`` in ``folder``; returns the JSON's path.

    Args:
        instants: per drive, evenly spread over ``seconds``; each gives one image per camera of the default rig.
        width: of the images, pixels.
        view: "vehicle": the cameras of the default rig. "overhead": as many above the road, each looking down at an object or
            (one in six) at a random place; another rig at every instant. Objects that fill more than ``MAX_SHARE`` of the
            image are marked ``ignore``.
        curved: see ``World``. ``spread``: see ``overhead_rig``. ``along``: from above, look along the objects' headings.
    """
    writer = CocoWriter(folder, DETECTION_CLASSES, "simulated drives (bevstack.frames.sim)")
    for seed in seeds:
        with SimulatedDrive(seed, duration=seconds, rate=1.0, image_width=width, curved=curved) as drive:
            for n in range(instants):
                t = seconds * (n + 0.5) / instants
                truth = drive.truth(t) if view == "vehicle" else drive.objects(t)
                cameras = drive.cameras if view == "vehicle" else _overhead(truth, (seed, n), width, spread, along)
                for name, image in drive.render_instant(t, cameras).items():
                    labels = true_boxes(drive, t, cameras[name], truth)
                    if view == "overhead":
                        sides = labels.xyxy[:, 2:] - labels.xyxy[:, :2]
                        labels = replace(labels, ignore=labels.ignore | (sides.prod(1) > MAX_SHARE * width * image.shape[0]))
                    writer.add(f"{seed:05d}/{n:02d}_{name}.jpg", encode_jpeg(image, 92, name), image.shape[:2], labels)
        writer.save()  # after every drive: what is there can be used already
        if report is not None:
            report(f"seed {seed}: {writer.images} images, {writer.boxes} boxes")
    return writer.save()


def _overhead(objects: Boxes3D, key: tuple[int, int], width: int, spread: float, along: bool) -> dict[str, Camera]:
    """Six cameras from above: four look at vehicles, one at any object, one anywhere near the road."""
    rng = np.random.default_rng((0x0EAD, *key))
    where = np.column_stack([objects.center[:, :2], objects.yaw])
    vehicles = where[np.isin(objects.label, _VEHICLES)]
    anywhere = np.column_stack([rng.uniform((-15.0, -8.0), (40.0, 8.0), (6, 2)), np.zeros(6)])
    pools = [vehicles] * 4 + [where, anywhere]
    targets = np.array([pool[rng.integers(len(pool))] if len(pool) else place for pool, place in zip(pools, anywhere)])
    return overhead_rig(targets[:, :2], rng, width, spread=spread, headings=targets[:, 2] if along else None)


def draw(image: NDArray[np.uint8], labels: Labels, classes: tuple[str, ...] = DETECTION_CLASSES) -> NDArray[np.uint8]:
    """A copy of the image with its boxes, ignored ones in grey: to look at data."""
    import cv2

    from bevstack.geometry.palette import class_rgb

    out = image.copy()
    for box, label, ignore in zip(labels.xyxy, labels.label, labels.ignore):
        colour = (128, 128, 128) if ignore else class_rgb(int(label))
        x0, y0, x1, y1 = (round(float(v)) for v in box)
        cv2.rectangle(out, (x0, y0), (x1 - 1, y1 - 1), colour, 1)
    return out
