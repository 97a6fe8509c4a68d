"""Pseudo-labels: a YOLOX graph read in both of its layouts, tiles, what is sure and what is doubtful, other graphs refused."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from bevstack.errors import EngineError, SourceError
from bevstack.geometry import DETECTION_CLASSES, Boxes2D
from bevstack.learn.detect.coco import read_coco
from bevstack.learn.detect.teacher import (
    PseudoLabelOptions,
    YoloxTeacher,
    bonnets,
    image_files,
    labels_of,
    open_teacher,
    tiled,
    write_pseudo_labels,
)

onnx = pytest.importorskip("onnx", reason="writing a test graph needs onnx")
SIDE = 64  # 64 + 16 + 4 cells


def graph(path: Path, rows: np.ndarray) -> Path:
    """An ONNX file that answers ``rows`` (A, 5 + K) to any image of SIDE x SIDE."""
    value = onnx.numpy_helper.from_array(rows[None].astype(np.float32), "rows")
    nodes = [
        onnx.helper.make_node("ReduceSum", ["images"], ["sum"], keepdims=0),
        onnx.helper.make_node("Constant", [], ["zero"], value_float=0.0),
        onnx.helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
        onnx.helper.make_node("Add", ["rows", "nothing"], ["output"]),
    ]
    info = onnx.helper.make_tensor_value_info
    inputs = [info("images", onnx.TensorProto.FLOAT, [1, 3, SIDE, SIDE])]
    outputs = [info("output", onnx.TensorProto.FLOAT, [1, *rows.shape])]
    model = onnx.helper.make_graph(nodes, "test", inputs, outputs, [value])
    onnx.save(onnx.helper.make_model(model, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def rows(entries: dict[int, list[float]]) -> np.ndarray:
    out = np.zeros((84, 7), np.float32)
    for cell, values in entries.items():
        out[cell] = values
    return out


def test_both_layouts_of_a_yolox_graph(tmp_path: Path) -> None:
    # Cell 9 of stride 8 is at (1, 1): offset (0.5, 0.25), size e^0 and e^ln2 cells.
    raw = graph(tmp_path / "raw.onnx", rows({9: [0.5, 0.25, 0.0, np.log(2), 0.9, 0.1, 0.8]}))
    done = graph(tmp_path / "done.onnx", rows({9: [12, 10, 8, 16, 0.9, 0.1, 0.8], 80: [60, 60, 4, 4, 0.9, 0.9, 0]}))
    image = np.zeros((2 * SIDE, SIDE, 3), np.uint8)  # half the size on the graph's canvas
    for path, count in ((raw, 2), (done, 3)):
        teacher = YoloxTeacher(path, ("a", "b"), threads=1)
        boxes = teacher(image)
        best = boxes[boxes.label == 1]
        assert best.xyxy[0] == pytest.approx(2 * np.array([8, 2, 16, 18]), abs=1e-3)
        assert best.score[0] == pytest.approx(0.72)
        assert len(boxes) == count
        assert np.all(boxes.xyxy <= [SIDE, 2 * SIDE] * 2)


def test_other_graphs_are_refused(tmp_path: Path) -> None:
    short = graph(tmp_path / "short.onnx", rows({})[:80])
    with pytest.raises(EngineError, match="YOLOX layout for 64x64 and 2 classes"):
        YoloxTeacher(short, ("a", "b"), threads=1)(np.zeros((SIDE, SIDE, 3), np.uint8))
    with pytest.raises(EngineError, match="does not exist"):
        open_teacher(tmp_path / "none.onnx")


class Sees:
    """Finds white squares, but none smaller than a thirtieth of what it is shown."""

    classes = ("car", "train")

    def __init__(self) -> None:
        self.shown: list[tuple[int, int]] = []

    def __call__(self, image: np.ndarray) -> Boxes2D:
        self.shown.append(image.shape[:2])
        count, _, stats, _ = cv2.connectedComponentsWithStats((image[..., 0] > 200).astype(np.uint8))
        found = [(x, y, x + w, y + h) for x, y, w, h, _ in stats[1:count] if w * 30 >= image.shape[1]]
        xyxy = np.array(found, np.float32).reshape(-1, 4)
        return Boxes2D(xyxy, np.full(len(found), 0.9, np.float32), np.zeros(len(found), np.int64), self.classes)


def test_tiles_show_small_objects_and_leave_cut_ones_to_others() -> None:
    image = np.zeros((700, 1800, 3), np.uint8)
    truth = [(100, 100, 130, 130), (630, 300, 650, 330), (1000, 350, 1100, 450), (1770, 640, 1800, 700)]
    for x0, y0, x1, y1 in truth:
        image[y0:y1, x0:x1] = 255
    teacher = Sees()
    assert len(teacher(image)) == 1
    found = tiled(teacher, image, 640)
    wide = [b for b in truth if b[2] - b[0] >= 640 / 30]
    assert sorted(map(tuple, found.xyxy.tolist())) == wide
    assert max(s for s in teacher.shown[3:]) <= (640, 640)


def test_sure_and_doubtful_boxes() -> None:
    boxes = Boxes2D(
        np.array([[0, 0, 9, 9]] * 4, np.float32),
        np.array([0.9, 0.2, 0.05, 0.9], np.float32),
        np.array([0, 0, 0, 1]),
        ("car", "train"),
    )
    labels, scores = labels_of(boxes, PseudoLabelOptions(sure=0.4, doubtful=0.1))
    assert labels.ignore.tolist() == [False, True]  # the third is noise, and we know no trains
    assert scores == pytest.approx([0.9, 0.2])
    assert {DETECTION_CLASSES[k] for k in np.flatnonzero(~labels.unknown)} == {"car"}
    labels, _ = labels_of(boxes, PseudoLabelOptions(absent=("trailer",)))
    assert {DETECTION_CLASSES[k] for k in np.flatnonzero(~labels.unknown)} == {"car", "trailer"}
    with pytest.raises(SourceError, match="class 'boat' is to be taken as absent"):
        labels_of(boxes, PseudoLabelOptions(absent=("boat",)))


def test_one_label_for_one_object() -> None:
    rows = [(10, 10, 110, 60), (10, 10, 108, 60), (60, 20, 100, 55), (200, 10, 260, 60), (15, 12, 30, 58)]
    names = ("truck", "car", "car", "car", "person")
    boxes = Boxes2D(
        np.array(rows, np.float32), np.array([0.9, 0.8, 0.7, 0.6, 0.5], np.float32), np.arange(5), names
    )  # a class each
    labels, scores = labels_of(boxes, PseudoLabelOptions())
    assert scores == pytest.approx([0.9, 0.7, 0.6, 0.5])  # the second names the first again
    assert [DETECTION_CLASSES[k] for k in labels.label] == ["truck", "car", "car", "pedestrian"]
    assert labels.ignore.tolist() == [False, True, False, False]  # the third lies in the truck: perhaps a part of it


def test_the_bonnet_of_the_own_car_is_no_car(tmp_path: Path) -> None:
    w, h, names = 200, 100, ("car", "bus", "person")
    rows = [(0, 70, 199, 99), (2, 40, 190, 100), (0, 5, 200, 100), (0, 70, 150, 99), (0, 60, 199, 90), (0, 70, 199, 99)]
    boxes = Boxes2D(np.array(rows, np.float32), np.full(6, 0.8, np.float32), np.array([0, 1, 1, 0, 0, 2]), names)
    # Not those: a bus just ahead, a car at the left, a car across the road, and a person.
    assert bonnets(boxes, w, h).tolist() == [True, True, False, False, False, False]

    class Own:
        classes = ("car",)

        def __call__(self, image: NDArray[np.uint8]) -> Boxes2D:
            return Boxes2D(np.array([[0, 70, 199, 99]], np.float32), np.array([0.9], np.float32), np.array([0]), self.classes)

    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((h, w, 3), np.uint8))
    for keep in (False, True):
        file = write_pseudo_labels([tmp_path / "a.png"], tmp_path, Own(), PseudoLabelOptions(keep_bonnet=keep))
        assert len(read_coco(file, None, DETECTION_CLASSES).images[0].labels) == int(keep)


def test_labels_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    image = np.zeros((100, 120, 3), np.uint8)
    image[20:60, 30:80] = 255
    cv2.imwrite(str(tmp_path / "images" / "a.png"), image)
    cv2.imwrite(str(tmp_path / "images" / "b.png"), 0 * image)
    files = image_files(tmp_path / "images")
    data = read_coco(write_pseudo_labels(files, tmp_path / "labels", Sees()), None, DETECTION_CLASSES)
    assert [i.path.resolve() for i in data.images] == files
    assert [i.labels.xyxy.tolist() for i in data.images] == [[[30, 20, 80, 60]], []]
    assert data.images[1].labels.unknown[DETECTION_CLASSES.index("bus")]
    with pytest.raises(SourceError, match="no images"):
        image_files(tmp_path / "labels")
    files[0].write_bytes(b"no picture")
    with pytest.raises(SourceError, match="no readable image"):
        write_pseudo_labels(files, tmp_path / "labels", Sees())


def test_yolox_nano_finds_the_truck(shared: Path) -> None:
    model = shared / "data/weights_2d/yolox_nano_coco80.onnx"
    front = sorted((shared / "data/nuscenes/scene0061_sample").glob("*CAM_FRONT__*.jpg"))
    if not model.is_file() or not front:
        pytest.skip("the shared folder has no detector or no nuScenes sample")
    boxes = YoloxTeacher(model, threads=1)(cv2.imread(str(front[0]))[..., ::-1])
    trucks = boxes[(boxes.label == boxes.classes.index("truck")) & (boxes.score > 0.5)]
    assert len(trucks) >= 1
