"""Training crops from folders of photographs, decoded once and kept in memory as uint8 at several scales."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bevstack.errors import BevstackError

Image = NDArray[np.uint8]
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff")


class DataError(BevstackError):
    """Training images cannot be found or read."""


def find_images(folders: Sequence[str | Path], exclude: Sequence[str] = ()) -> list[Path]:
    """Image files directly inside the folders, sorted by name; ``exclude`` holds shell patterns of file names.

    Raises:
        DataError: no folder is given, one is missing, or none holds an image.
    """
    if not folders:
        raise DataError("no folder of photographs: give at least one (--images FOLDER)")
    found: list[Path] = []
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise DataError(f"image folder {folder} does not exist: give a folder of photographs")
        found += [p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES]
    found = sorted(
        (p for p in found if not any(fnmatch(p.name, pattern) for pattern in exclude)), key=lambda p: (p.name, str(p))
    )
    if not found:
        raise DataError(f"no images in {', '.join(map(str, folders))}: give a folder with {', '.join(SUFFIXES)} files")
    return found


def read_rgb(path: Path) -> Image:
    """(H, W, 3) RGB.

    Raises:
        DataError: not an image that OpenCV can read.
    """
    import cv2

    image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise DataError(f"{path} is no readable image: remove it or leave it out with --exclude")
    return np.ascontiguousarray(image[..., ::-1])


@dataclass(frozen=True)
class Held:
    """Which images train and which are held out."""

    train: list[Path]
    held_out: list[Path]


def split(paths: Sequence[Path], every: int) -> Held:
    """Every ``every``-th image in name order is held out; 0 holds none out."""
    out = [p for i, p in enumerate(paths) if every and i % every == every // 2]
    return Held([p for p in paths if p not in set(out)], out)


def _energy(image: Image, cell: int = 32) -> NDArray[np.float32]:
    """Mean absolute horizontal and vertical difference of grey levels per ``cell`` x ``cell`` block."""
    grey = image.mean(2, dtype=np.float32)
    strength = np.abs(np.diff(grey, axis=0))[:, :-1] + np.abs(np.diff(grey, axis=1))[:-1]
    h, w = strength.shape[0] // cell, strength.shape[1] // cell
    blocks = strength[: h * cell, : w * cell].reshape(h, cell, w, cell)
    result: NDArray[np.float32] = blocks.mean((1, 3))
    return result


# Luma, blue and red difference of BT.601, whose first row alone sees grey.
_FROM_RGB = np.array([[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]])


def recolour(crop: Image, saturation: float, turn: float) -> Image:
    """Chroma times ``saturation``, its hue turned by ``turn`` radians; grey stays as it is. (H, W, 3) RGB."""
    c, s = saturation * np.cos(turn), saturation * np.sin(turn)
    change = np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])
    matrix = (np.linalg.inv(_FROM_RGB) @ change @ _FROM_RGB).astype(np.float32)
    return np.asarray((crop.astype(np.float32) @ matrix.T + 0.5).clip(0.0, 255.0), np.uint8)


class CropStream:
    """Batches of random crops, a pure function of the step number.

    An image is drawn in proportion to its area times the root of its mean gradient energy; inside it the best of a few random
    places is drawn likewise, so that sky, sand and fog do not dominate. Crops are mirrored at random. A share of them gets
    other colours: landscapes hold few saturated ones, and a codec that has not seen them spends too much on them.

    Args:
        images: (H, W, 3) uint8 each.
        crop: side in pixels; images that are smaller at a scale are left out at that scale.
        scales: sizes that every image is offered at, in (0, 1].
        colour: share of crops with another saturation (0.5 to 2.5 times) and hue.
    """

    def __init__(
        self,
        images: Sequence[Image],
        crop: int = 256,
        batch: int = 8,
        seed: int = 0,
        scales: Sequence[float] = (1.0, 0.7, 0.5),
        colour: float = 0.0,
    ) -> None:
        import cv2

        self.crop, self.batch, self.seed, self.colour = crop, batch, seed, colour
        self.images: list[Image] = []
        for image in images:
            for scale in scales:
                size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
                if min(size) >= crop:
                    self.images.append(
                        image if scale == 1.0 else cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
                    )
        if not self.images:
            raise DataError(f"no image is at least {crop} pixels high and wide: choose a smaller --crop")
        self.maps = [_energy(image) for image in self.images]
        weight = np.array([m.mean() ** 0.5 * image.shape[0] * image.shape[1] for m, image in zip(self.maps, self.images)])
        if not weight.sum() > 0:
            raise DataError("every image is of one colour all over: give photographs")
        self.chance = weight / weight.sum()

    def __call__(self, step: int, batch: int | None = None) -> Image:
        """(batch, crop, crop, 3) uint8 of a step."""
        random = np.random.default_rng((self.seed, step))
        rows = []
        for number in random.choice(len(self.images), batch or self.batch, p=self.chance):
            image, energy = self.images[number], self.maps[number]
            tries = []
            for _ in range(3):
                y = int(random.integers(0, image.shape[0] - self.crop + 1))
                x = int(random.integers(0, image.shape[1] - self.crop + 1))
                part = energy[y // 32 : (y + self.crop) // 32, x // 32 : (x + self.crop) // 32]
                tries.append((float(part.mean()) ** 0.5 + 0.2, y, x))
            chances = np.array([t[0] for t in tries])
            _, y, x = tries[int(random.choice(3, p=chances / chances.sum()))]
            crop = image[y : y + self.crop, x : x + self.crop]
            rows.append(crop[:, ::-1] if random.random() < 0.5 else crop)
        if self.colour > 0.0:
            random = np.random.default_rng((self.seed, step, 1))
            for number, crop in enumerate(rows):
                if random.random() < self.colour:
                    spread = 0.3 if random.random() < 0.7 else np.pi
                    saturation = float(np.exp(random.uniform(np.log(0.5), np.log(2.5))))
                    rows[number] = recolour(crop, saturation, float(random.uniform(-spread, spread)))
        return np.stack(rows)
