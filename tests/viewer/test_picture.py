"""The picture of one instant."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from bevstack.frames.types import Frame
from bevstack.geometry import Boxes3D, Camera
from bevstack.geometry.palette import class_rgb
from bevstack.viewer.errors import ViewerError
from bevstack.viewer.picture import birds_eye, camera_tile, compose, write_picture


def near(image: np.ndarray, colour: tuple[int, int, int], tolerance: int = 40) -> np.ndarray:
    return np.all(np.abs(image.astype(int) - colour) < tolerance, axis=-1)


def test_six_cameras_and_the_view_from_above(rig: dict[str, Camera], boxes: Boxes3D, jpeg: bytes, tmp_path: Path) -> None:
    frames = {name: Frame(camera, 0, encoded=jpeg) for name, camera in rig.items()}
    image = compose(frames, boxes, truth=boxes, title="a drive", width=1280)
    assert image.shape[1] == 1280
    assert image.dtype == np.uint8
    path = tmp_path / "deep" / "picture.png"
    write_picture(path, image)
    assert cv2.imread(str(path)).shape == image.shape


def test_the_box_is_drawn_where_it_is_seen(rig: dict[str, Camera], boxes: Boxes3D) -> None:
    camera = rig["cam_front"]
    image = np.full((camera.height, camera.width, 3), 90, np.uint8)
    drawn = near(camera_tile(Frame(camera, 0, image=image), boxes[[0]], camera.width, camera.height), class_rgb(0))
    ys, xs = np.nonzero(drawn)
    pixels, _ = camera.project(boxes[[0]].corners()[0])
    assert xs.min() == pytest.approx(pixels[:, 0].min(), abs=3)
    assert xs.max() == pytest.approx(pixels[:, 0].max(), abs=3)
    assert ys.max() == pytest.approx(pixels[:, 1].max(), abs=3)


def test_ahead_is_up_and_left_is_left() -> None:
    one = Boxes3D(np.array([[30.0, 20.0, 1.0]]), np.array([[4.0, 2.0, 1.5]]), np.array([0.0]))
    ys, xs = np.nonzero(near(birds_eye(one, 400, 400), class_rgb(0)))
    assert ys.mean() < 200 - 60
    assert xs.mean() < 200 - 40


def test_any_number_of_cameras(rig: dict[str, Camera], boxes: Boxes3D, jpeg: bytes) -> None:
    for names in (["cam_front"], ["cam_front", "cam_back"], ["cam_front", "cam_front_left", "cam_front_right", "cam_back"]):
        image = compose({n: Frame(rig[n], 0, encoded=jpeg) for n in names}, Boxes3D.empty(), width=900)
        assert image.shape[1] == 900


def test_nothing_to_draw_is_said(boxes: Boxes3D) -> None:
    with pytest.raises(ViewerError, match="at least one camera"):
        compose({}, boxes)


@pytest.mark.parametrize("name", ["picture.bmp", "picture"])
def test_unknown_ending(name: str, tmp_path: Path) -> None:
    with pytest.raises(ViewerError, match="must end in"):
        write_picture(tmp_path / name, np.zeros((4, 4, 3), np.uint8))


def test_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ViewerError, match="cannot be written"):
        write_picture(tmp_path / "file" / "picture.png", np.zeros((4, 4, 3), np.uint8))
