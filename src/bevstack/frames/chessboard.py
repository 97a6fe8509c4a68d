"""Calibrating a camera from photographs of a chessboard: ``python -m bevstack.frames.chessboard photos/*.jpg --corners 9x6``.

Zhang's method, as OpenCV implements it; what is added here: photographs that do not help are named with the reason, and the
result is checked on what a calibration is for, that straight rows of corners become straight.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from bevstack.errors import BevstackError, CalibrationError
from bevstack.geometry import Camera

from .calibration import save_camera_info

Points = NDArray[np.float64]
Lens = Literal["plumb_bob", "rational_polynomial", "equidistant"]
_FEWEST = 5


@dataclass(frozen=True)
class ChessboardResult:
    """A calibration and how far it can be trusted.

    Attributes:
        camera: intrinsics; its mounting is the identity, a chessboard knows nothing of it.
        rms: root mean square reprojection error over all corners, pixels.
        errors: the same for each photograph that was used, by name.
        rejected: reason by name for each that was not.
        bend_before, bend_after: root mean square distance of corners from the straight line through their row or column,
            pixels, as photographed and after removing the distortion.
        coverage: share of the image's width and height that the corners span.
    """

    camera: Camera
    rms: float
    errors: dict[str, float]
    rejected: dict[str, str]
    bend_before: float
    bend_after: float
    coverage: tuple[float, float]


def find_corners(image: NDArray[np.uint8], corners: tuple[int, int]) -> Points | None:
    """(N, 2) inner corners of a board in pixels, row by row, to a fraction of a pixel; None if not all of them are seen.

    Args:
        image: (H, W) or (H, W, 3) uint8.
        corners: inner corners per row and per column.
    """
    grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image, dtype=np.uint8)
    found, where = cv2.findChessboardCorners(grey, corners, flags=cv2.CALIB_CB_ADAPTIVE_THRESH | cv2.CALIB_CB_NORMALIZE_IMAGE)
    if not found:
        return None
    # The search window must not reach the neighbouring corner.
    grid = where.reshape(corners[1], corners[0], 2)
    spacing = min(np.linalg.norm(np.diff(grid, axis=axis), axis=2).min() for axis in (0, 1))
    window = int(np.clip(spacing / 3, 2, 11))
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_MAX_ITER, 40, 0.001)
    return np.asarray(cv2.cornerSubPix(grey, where, (window, window), (-1, -1), stop), dtype=np.float64).reshape(-1, 2)


def calibrate(
    photographs: Iterable[tuple[str, NDArray[np.uint8]]],
    corners: tuple[int, int] = (9, 6),
    *,
    name: str = "camera",
    model: Lens = "plumb_bob",
) -> ChessboardResult:
    """Intrinsics and distortion of a camera.

    Args:
        photographs: (name, image) of one camera at one size; ten or more, tilted, with the board in all parts of the image.
        corners: inner corners per row and column.
        name: of the resulting camera.
        model: lens model.

    Raises:
        CalibrationError: fewer than five usable photographs, or a solution that is none.
    """
    seen: dict[str, Points] = {}
    rejected: dict[str, str] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for label, image in photographs:
        where = find_corners(image, corners)
        if where is None:
            rejected[label] = f"not all {corners[0]}x{corners[1]} corners are seen"
            continue
        seen[label], sizes[label] = where, (image.shape[1], image.shape[0])
    if not seen:
        raise CalibrationError(f"{name}: no photograph shows all {corners[0]}x{corners[1]} inner corners: count them again")
    size = max(set(sizes.values()), key=list(sizes.values()).count)
    for label in [label for label in seen if sizes[label] != size]:
        rejected[label] = f"its size is {sizes[label][0]}x{sizes[label][1]}, the others' {size[0]}x{size[1]}"
        del seen[label]
    if len(seen) < _FEWEST:
        count = len(seen) + len(rejected)
        raise CalibrationError(f"{name}: {len(seen)} of {count} photographs are usable, {_FEWEST} are needed")
    K, distortion, errors = _solve(list(seen.values()), corners, size, model)
    camera = Camera(name, *size, K, np.eye(4), distortion, "fisheye" if model == "equidistant" else "pinhole")
    if not (np.isfinite(K).all() and K[0, 0] > 0 and K[1, 1] > 0):
        raise CalibrationError(f"{name}: no solution: take photographs with the board tilted and in all parts of the image")
    points = np.concatenate(list(seen.values()))
    span = np.ptp(points, axis=0) / size
    return ChessboardResult(
        camera,
        float(np.sqrt(np.mean(np.square(errors)))),
        dict(zip(seen, errors, strict=True)),
        rejected,
        bend(list(seen.values()), corners),
        bend([straightened(camera, where) for where in seen.values()], corners),
        (float(span[0]), float(span[1])),
    )


def _solve(
    views: Sequence[Points], corners: tuple[int, int], size: tuple[int, int], model: Lens
) -> tuple[Points, Points, list[float]]:
    """K (3, 3), coefficients, and the reprojection error of each view in pixels."""
    board = np.zeros((corners[0] * corners[1], 3))
    board[:, :2] = np.mgrid[0 : corners[0], 0 : corners[1]].T.reshape(-1, 2)
    projected: list[Points] = []
    try:
        if model == "equidistant":
            flags = _fisheye_flag("CALIB_RECOMPUTE_EXTRINSIC") | _fisheye_flag("CALIB_FIX_SKEW")
            flat, pictures = [board[None]] * len(views), [view[None] for view in views]
            _, K, d, turns, shifts = cv2.fisheye.calibrate(flat, pictures, size, np.eye(3), np.zeros(4), flags=flags)
            for turn, shift in zip(turns, shifts, strict=True):
                projected.append(np.asarray(cv2.fisheye.projectPoints(board[None], turn, shift, K, d)[0]))
        else:
            flags = cv2.CALIB_RATIONAL_MODEL if model == "rational_polynomial" else 0
            flat, pictures = [board.astype(np.float32)] * len(views), [view.astype(np.float32) for view in views]
            _, K, d, turns, shifts = cv2.calibrateCamera(flat, pictures, size, np.eye(3), np.zeros(14), flags=flags)
            for turn, shift in zip(turns, shifts, strict=True):
                projected.append(np.asarray(cv2.projectPoints(board, turn, shift, K, d)[0]))
    except cv2.error as error:
        reason = " ".join(str(error).split())[:120]
        raise CalibrationError(f"OpenCV finds no calibration ({reason}): take other photographs") from None
    errors = [
        float(np.sqrt(np.mean(np.sum((again.reshape(-1, 2) - view) ** 2, axis=1))))
        for again, view in zip(projected, views, strict=True)
    ]
    count = {"plumb_bob": 5, "rational_polynomial": 8, "equidistant": 4}[model]
    return np.asarray(K, dtype=np.float64), np.asarray(d, dtype=np.float64).reshape(-1)[:count], errors


def _fisheye_flag(name: str) -> int:
    """OpenCV 5 has moved the flags (and changed their values)."""
    return int(getattr(cv2.fisheye, name, None) or getattr(cv2, name))


def straightened(camera: Camera, pixels: Points) -> Points:
    """(N, 2) pixels of the distorted image in that of the ideal pinhole camera with the same K."""
    if camera.model == "fisheye":
        flat = cv2.fisheye.undistortPoints(pixels[None], camera.K, camera.distortion, P=camera.K)
    else:
        flat = cv2.undistortPoints(pixels[:, None], camera.K, camera.distortion, P=camera.K)
    return np.asarray(flat, dtype=np.float64).reshape(-1, 2)


def bend(views: Sequence[Points], corners: tuple[int, int]) -> float:
    """Root mean square distance of corners from the best straight line through their row or column, pixels."""
    squares: list[float] = []
    for view in views:
        grid = view.reshape(corners[1], corners[0], 2)
        for line in [*grid, *np.swapaxes(grid, 0, 1)]:
            centred = line - line.mean(axis=0)
            normal = np.linalg.svd(centred)[2][1]
            squares.extend((centred @ normal) ** 2)
    return float(np.sqrt(np.mean(squares)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: calibrate, print what was found, write a camera_info YAML. 0, or 2 with one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m bevstack.frames.chessboard", description="Calibrate from a chessboard.")
    parser.add_argument("photographs", nargs="+", type=Path)
    parser.add_argument("--corners", default="9x6", help="inner corners per row and column, for example 9x6")
    parser.add_argument("--model", default="plumb_bob", choices=["plumb_bob", "rational_polynomial", "equidistant"])
    parser.add_argument("--name", default="camera")
    parser.add_argument("--output", type=Path, help="camera_info YAML to write")
    options = parser.parse_args(arguments)
    try:
        columns, rows = (int(part) for part in options.corners.split("x"))
        result = calibrate(_read(options.photographs), (columns, rows), name=options.name, model=options.model)
        if options.output is not None:
            save_camera_info(result.camera, options.output)
    except (BevstackError, OSError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    K, size = result.camera.K, result.camera
    lines = [f"rejected {label}: {reason}" for label, reason in result.rejected.items()]
    lines += [
        f"{len(result.errors)} photographs of {size.width}x{size.height}, error {result.rms:.2f} pixels",
        f"fx {K[0, 0]:.1f}, fy {K[1, 1]:.1f}, cx {K[0, 2]:.1f}, cy {K[1, 2]:.1f}",
        f"{options.model}: {np.round(result.camera.distortion, 5).tolist()}",
        f"rows of corners bend by {result.bend_before:.2f} pixels, {result.bend_after:.2f} after undistortion",
        f"corners span {result.coverage[0]:.0%} of the width and {result.coverage[1]:.0%} of the height",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _read(paths: Sequence[Path]) -> Iterable[tuple[str, NDArray[np.uint8]]]:
    from .decode import decode

    for path in paths:
        yield path.name, decode(path.read_bytes())


if __name__ == "__main__":
    raise SystemExit(main())
