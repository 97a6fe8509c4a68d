"""The weights that ship: whole, described by their card, and better than chance on a drive that they were not trained on."""

from __future__ import annotations

import time

import numpy as np
import pytest

from bevstack.detect import DETECTORS, Detector
from bevstack.detect.ladder import available, load_ladder
from bevstack.detect.weights import find_weights, load_weights, read_info
from bevstack.errors import CheckpointError
from bevstack.frames.sim import SimulatedDrive
from bevstack.geometry import Boxes2D
from bevstack.geometry.association import overlaps

NAME = "giraffedet-nano"


@pytest.fixture(scope="module", autouse=True)
def bundled() -> None:
    try:
        find_weights(NAME)
    except CheckpointError as error:
        pytest.skip(f"no bundled detector here: {error}")


def test_file_and_card_agree() -> None:
    path = find_weights(NAME)
    info = read_info(path)
    assert load_weights(path).config == DETECTORS[NAME]
    card = path.with_suffix(".md")
    if not card.is_file():
        pytest.skip("the weights found are not the checkout's: no card beside them")
    assert info.sha256 in card.read_text(encoding="utf-8")
    assert set(info.card) >= {"data", "metrics", "steps"}
    assert NAME in available(NAME)


def test_the_ladder_goes_down_into_the_widths() -> None:
    """Narrower networks of another file are rungs below: the boxes are of the same classes."""
    try:
        find_weights("giraffedet-slim@0.5")
    except CheckpointError as error:
        pytest.skip(f"no bundled widths here: {error}")
    below = ["giraffedet-slim@0.5", "giraffedet-slim@0.75", "giraffedet-slim@1.0"]
    assert list(available(NAME))[:4] == [*below, NAME]
    ladder = load_ladder(NAME, "onnx", threads=1)
    image = np.zeros((90, 160, 3), np.uint8)
    try:
        assert ladder.rung == NAME
        ladder.swap.request("giraffedet-slim@0.5")
        until = time.monotonic() + 60.0
        while ladder.rung == NAME and time.monotonic() < until:
            assert len(ladder([image])) == 1
        assert ladder.rung == "giraffedet-slim@0.5"
        assert ladder.classes == DETECTORS[NAME].classes
    finally:
        ladder.close()


def test_finds_what_is_there() -> None:
    from bevstack.learn.detect.simulated import true_boxes

    detector = Detector(NAME, "torch", 1)
    found: list[Boxes2D] = []
    shares = []
    with SimulatedDrive(4, duration=8.0, rate=1.0, image_width=640) as drive:
        for t in (2.0, 6.0):
            for name, image in drive.render_instant(t).items():
                labels = true_boxes(drive, t, drive.cameras[name])
                boxes = detector([image])[0]
                found.append(boxes[boxes.score > 0.3])
                large = ~labels.ignore & ((labels.xyxy[:, 3] - labels.xyxy[:, 1]) > 40) & (labels.label == 0)
                iou, _ = overlaps(labels.xyxy[large], found[-1].xyxy)
                shares += iou.max(axis=1, initial=0.0).tolist()
    assert len(shares) >= 3
    assert np.mean(np.array(shares) > 0.5) > 0.5  # more than half of the large cars have a box
    assert np.mean([len(b) for b in found]) < 30


def test_a_larger_input_for_all_rungs() -> None:
    ladder = load_ladder("random:giraffedet-nano", "torch", threads=1, canvas=(128, 256))
    try:
        assert ladder.decode_size(512, 256) == (256, 128)
        assert ladder([np.zeros((256, 512, 3), np.uint8)])
    finally:
        ladder.close()
