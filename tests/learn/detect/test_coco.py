"""COCO files: round trip, other people's files, bad files; samples cut from them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bevstack.detect.config import COCO_CLASSES, GiraffeDetConfig
from bevstack.errors import SourceError
from bevstack.geometry import DETECTION_CLASSES
from bevstack.learn.detect.coco import CocoWriter, Labels, class_mapping, read_coco
from bevstack.learn.detect.data import AugmentOptions, BatchIndex, DataSpec, TrainingSet, vary


def test_what_is_written_is_read(tmp_path: Path) -> None:
    unknown = np.array([False, True, False])
    labels = Labels(np.array([[1, 2, 30.5, 40], [0, 0, 5, 5]], np.float32), np.array([2, 0]), np.array([False, True]), unknown)
    writer = CocoWriter(tmp_path, ("a", "b", "c"), "test")
    writer.add("x/one.jpg", b"bytes", (50, 60), labels, [0.5, 0.25])
    data = read_coco(writer.save())
    image = data.images[0]
    assert data.classes == ("a", "b", "c")
    assert image.path.read_bytes() == b"bytes"
    assert image.size == (60, 50)
    for name in ("xyxy", "label", "ignore", "unknown"):
        assert np.array_equal(getattr(image.labels, name), getattr(labels, name)), name


def test_other_label_spaces() -> None:
    mapping = class_mapping(COCO_CLASSES, DETECTION_CLASSES)
    named = {COCO_CLASSES[a]: DETECTION_CLASSES[b] for a, b in mapping.items()}
    assert named == {
        "person": "pedestrian", "bicycle": "bicycle", "car": "car", "motorcycle": "motorcycle", "bus": "bus", "truck": "truck",
    }  # fmt: skip
    back = class_mapping(DETECTION_CLASSES, COCO_CLASSES)
    assert {(b, a) for a, b in mapping.items()} == set(back.items())


def content() -> dict[str, list[dict[str, object]]]:
    return {
        "images": [{"id": 7, "file_name": "a.jpg", "width": 10, "height": 8}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 90, "bbox": [1, 1, 4, 4]}],
        "categories": [{"id": 90, "name": "person"}, {"id": 3, "name": "car"}],
    }


def test_categories_are_mapped_by_name_and_absent_ones_are_unknown(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps(content()))
    assert read_coco(file).classes == ("car", "person")
    data = read_coco(file, tmp_path / "images", DETECTION_CLASSES)
    labels = data.images[0].labels
    assert labels.label.tolist() == [DETECTION_CLASSES.index("pedestrian")]
    known = {DETECTION_CLASSES[k] for k in np.flatnonzero(~labels.unknown)}
    assert known == {"car", "pedestrian"}
    assert data.images[0].path == tmp_path / "images" / "a.jpg"
    with pytest.raises(SourceError, match="none of its categories"):
        read_coco(file, None, ("boat",))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("images", None, "no list 'images'"),
        ("annotations", [{"id": 1, "image_id": 8, "category_id": 3, "bbox": [0, 0, 1, 1]}], "not listed"),
        ("annotations", [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [0, 0, 1]}], "not enough values"),
        ("annotations", [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [0, 0, 1, "nan"]}], "has box"),
        ("categories", [{"id": 1}], "KeyError 'name'"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path: Path, key: str, value: object, message: str) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps({**content(), key: value}))
    with pytest.raises(SourceError, match=message):
        read_coco(file)
    file.write_text("[")
    with pytest.raises(SourceError, match="cannot be read as JSON"):
        read_coco(file)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.tuples(st.integers(60, 500), st.integers(60, 500)))
def test_samples_keep_boxes_on_their_objects(tiny: GiraffeDetConfig, seed: int, size: tuple[int, int]) -> None:
    width, height = size
    image = np.zeros((height, width, 3), np.uint8)
    x0, y0, x1, y1 = width // 4, height // 3, width // 4 + 30, height // 3 + 24
    image[y0:y1, x0:x1] = 255
    labels = Labels(np.array([[x0, y0, x1, y1]], np.float32), np.array([1]), np.array([False]))
    sample = vary(image, labels, (128, 128), tiny, AugmentOptions(colour=0.0, clutter=0.0), np.random.default_rng(seed))
    assert sample.image.shape == (128, 128, 3)
    rows, columns = np.nonzero((sample.image > 180).all(2))
    if len(sample.labels) == 0 or sample.labels.ignore[0] or len(rows) < 9:
        return
    seen = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    assert np.abs(sample.labels.xyxy[0] - seen).max() <= 2.5


def test_a_larger_canvas_stands_for_inference_at_that_size(tiny: GiraffeDetConfig) -> None:
    labels = Labels(np.array([[100, 60, 180, 120]], np.float32), np.array([1]), np.array([False]))
    image, plain = np.zeros((240, 320, 3), np.uint8), AugmentOptions(scale=(1.0, 1.0), colour=0.0, clutter=0.0)
    config = replace(tiny, canvas=(256, 256))
    widths = []
    for canvas in ((128, 128), (256, 256), (512, 512), (512, 256)):
        found = (vary(image, labels, canvas, config, plain, np.random.default_rng(n)).labels for n in range(20))
        widths.append(max(float(b[2] - b[0]) for f in found for b in f.xyxy))
    assert widths == pytest.approx([64, 64, 128, 64], abs=0.1)  # 80 pixels of 320, on 256 or 512


def test_samples_depend_on_their_number_only(tiny: GiraffeDetConfig, folder: Path) -> None:
    sets = [TrainingSet(tiny, [DataSpec(folder / "coco.json")], seed=5) for _ in range(2)]
    for n in (3, 1, 2):
        sets[0].sample(n, (128, 128))
    a, b = (s.sample(7, (128, 128)) for s in sets)
    assert np.array_equal(a.image, b.image)
    assert np.array_equal(a.labels.xyxy, b.labels.xyxy)
    assert not np.array_equal(a.image, sets[0].sample(8, (128, 128)).image)


def test_processes_share_the_samples_of_a_step() -> None:
    sizes = [(128, 128), (128, 256)]
    whole = BatchIndex(4, sizes, 0)
    parts = [BatchIndex(2, sizes, 0, rank=r, world=2) for r in range(2)]
    assert whole.at(5) == parts[0].at(5) + parts[1].at(5)
    assert {key[1] for step in range(20) for key in whole.at(step)} == set(sizes)
    assert next(iter(BatchIndex(4, sizes, 0, start=5))) == whole.at(5)


def test_specs() -> None:
    assert DataSpec.parse("a.json") == DataSpec(Path("a.json"))
    assert DataSpec.parse("img:a.json@0.5") == DataSpec(Path("a.json"), Path("img"), 0.5)
    for bad in ("a.json@x", "a.json@0", "a.json@-1"):
        with pytest.raises(SourceError, match="positive number"):
            DataSpec.parse(bad)
