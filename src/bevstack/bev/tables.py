"""Tables of the lift: which feature cell each voxel reads (brief fast-bev 1.3 and 1.4).

A projection P (3, 4) maps a point (x, y, z, 1) of the *current* virtual LiDAR frame to (u d, v d, d): column and row of one
camera's feature map times the depth d in metres. Past instants are lifted into the current grid by putting the ego motion
between the image's exposure and now into P; nothing is warped. A voxel reads the cell nearest to its projection
(round half to even); it needs d > 0 and a cell inside the map.

Entries are int32 ``(camera * Hf + v) * Wf + u``; ``cameras * Hf * Wf`` (``config.cells``) means that no camera sees the voxel.
Voxels are flat in (x, y, z) order.
Where a network lifts several scales, the voxels of all of them stand one after the other, and so do their cells.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from bevstack.errors import CalibrationError
from bevstack.geometry import Camera, Matrix, invert, transform_points

from .config import FastBEVConfig, Level, VoxelGrid

Table = NDArray[np.int32]
_EYE = np.eye(4)


def camera_projection(camera: Camera, image_matrix: ArrayLike, stride: int, T_camera_lidar: ArrayLike) -> Matrix:
    """(3, 4) projection diag(1/s, 1/s, 1) A K T_camera_lidar of an undistorted camera.

    Args:
        camera: its ``K`` belongs to the original image.
        image_matrix: (3, 3) A, original pixels to network input pixels (``ImageTransform.matrix``, or an augmentation's).
        stride: network input pixels per feature cell.
        T_camera_lidar: (4, 4), current virtual LiDAR frame to the optical frame at the image's exposure.
    """
    shrink = np.diag([1.0 / stride, 1.0 / stride, 1.0])
    return np.asarray(shrink @ np.asarray(image_matrix, np.float64) @ camera.K @ np.asarray(T_camera_lidar, np.float64)[:3])


def lidar_to_camera(
    camera: Camera, config: FastBEVConfig, T_world_ego_now: ArrayLike = _EYE, T_world_ego_image: ArrayLike = _EYE
) -> Matrix:
    """(4, 4) ``T_camera_lidar`` from the LiDAR frame of now to the optical frame at the image's exposure, through the world."""
    motion = invert(T_world_ego_image) @ np.asarray(T_world_ego_now, np.float64)
    return np.asarray(invert(camera.T_ego_camera) @ motion @ config.ego_from_lidar)


def _axis_terms(projections: Matrix, grid: VoxelGrid) -> tuple[Matrix, Matrix, Matrix]:
    """The projection is affine along each axis: (N, n_x, 3), (N, n_y, 3), (N, n_z, 3) whose sums are P (x, y, z, 1)."""
    terms = []
    for axis in range(3):
        points = grid.first[axis] + np.arange(grid.n[axis]) * grid.size[axis]
        terms.append(points[None, :, None] * projections[:, None, :, axis])
    terms[2] = terms[2] + projections[:, None, :, 3]
    return terms[0], terms[1], terms[2]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _fill_table(
    tx: Matrix, ty: Matrix, tz: Matrix, order: NDArray[np.int64], rows: int, columns: int, table: Table
) -> None:  # pragma: no cover  (compiled)
    cameras, nx = tx.shape[0], tx.shape[1]
    ny, nz = ty.shape[1], tz.shape[1]
    sentinel = cameras * rows * columns
    # One pixel wider than the map: cheap rejection without a division, the exact test follows.
    wide, high = columns + 0.5, rows + 0.5
    # Whole columns of voxels are rejected first, by the largest value that each linear test takes along z.
    ahead, right_of_left, left_of_right = np.empty(cameras), np.empty(cameras), np.empty(cameras)
    for c in range(cameras):
        ahead[c] = tz[c, :, 2].max()
        right_of_left[c] = (tz[c, :, 0] + 1.5 * tz[c, :, 2]).max()
        left_of_right[c] = (wide * tz[c, :, 2] - tz[c, :, 0]).max()
    for i in range(nx):
        first = i * ny * nz
        table[first : first + ny * nz] = sentinel
        for index in range(order.shape[0]):  # losers first: a later camera in ``order`` overwrites
            c = order[index]
            xu, xv, xd = tx[c, i, 0], tx[c, i, 1], tx[c, i, 2]
            along_y, along_z = ty[c], tz[c]
            far, left, right = ahead[c], right_of_left[c], left_of_right[c]
            for j in range(ny):
                bu, bd = xu + along_y[j, 0], xd + along_y[j, 2]
                if bd + far <= 0 or bu + 1.5 * bd + left < 0 or wide * bd - bu + right < 0:
                    continue
                bv = xv + along_y[j, 1]
                for k in range(nz):
                    d = bd + along_z[k, 2]
                    if not d > 0.0:
                        continue
                    pu, pv = bu + along_z[k, 0], bv + along_z[k, 1]
                    if pu < -1.5 * d or pu > wide * d or pv < -1.5 * d or pv > high * d:
                        continue
                    u, v = np.rint(pu / d), np.rint(pv / d)
                    if u >= 0 and u < columns and v >= 0 and v < rows:
                        table[first + j * nz + k] = (c * rows + np.int64(v)) * columns + np.int64(u)


def build_table(
    projections: ArrayLike,
    grid: VoxelGrid,
    feature_hw: tuple[int, int],
    overlap: Literal["last", "first"] = "last",
    out: Table | None = None,
) -> Table:
    """Table (V,) of one instant from projections (N, 3, 4). A camera whose projection is all zeros is never referenced.

    Raises:
        CalibrationError: a projection is not finite.
        ValueError: ``out`` has another size.
    """
    p = np.ascontiguousarray(projections, np.float64).reshape(-1, 3, 4)
    if not np.isfinite(p).all():
        raise CalibrationError("a camera projection is not finite: check the cameras' intrinsics and the ego poses")
    table = np.empty(grid.voxels, np.int32) if out is None else out
    if table.shape != (grid.voxels,):
        raise ValueError(f"table has shape {table.shape}; the grid needs ({grid.voxels},)")
    order = np.flatnonzero(np.any(p != 0, axis=(1, 2)))
    _fill_table(*_axis_terms(p, grid), order if overlap == "last" else order[::-1].copy(), *feature_hw, table)
    return table


def grid_points(grid: VoxelGrid) -> Matrix:
    """(V, 3) sample points in the virtual LiDAR frame, (x, y, z) order."""
    axes = [f + np.arange(n) * s for f, n, s in zip(grid.first, grid.n, grid.size)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


def _lens_limit(camera: Camera) -> float:
    """Largest ideal image radius (tan of the angle) at which the lens polynomial still grows: beyond, it folds back."""
    if camera.model == "fisheye":
        return np.inf
    radius = np.linspace(0.0, 12.0, 2401)
    bent = camera.distort(np.stack([radius, np.zeros_like(radius)], axis=1))[:, 0]
    falling = np.flatnonzero(np.diff(bent) <= 0)
    return float(radius[falling[0]]) if falling.size else np.inf


def _distorted_cells(
    camera: Camera, image_matrix: Matrix, stride: int, T_camera_lidar: Matrix, points: Matrix, feature_hw: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(voxel numbers, cells within the camera) of the points that a lens with distortion sees."""
    optical = transform_points(T_camera_lidar, points)
    depth = optical[:, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        near = (depth > 0) & (np.hypot(optical[:, 0], optical[:, 1]) < _lens_limit(camera) * depth)
    voxels = np.flatnonzero(near)
    pixels, _ = camera.project_camera(optical[voxels])
    a = np.asarray(image_matrix, np.float64)
    cells = np.rint((pixels @ a[:2, :2].T + a[:2, 2]) / stride)
    rows, columns = feature_hw
    seen = (cells[:, 0] >= 0) & (cells[:, 0] < columns) & (cells[:, 1] >= 0) & (cells[:, 1] < rows)
    inside = cells[seen].astype(np.int64)
    return voxels[seen], inside[:, 1] * columns + inside[:, 0]


def rig_table(
    cameras: Sequence[Camera | None],
    config: FastBEVConfig,
    *,
    image_matrices: Sequence[Matrix | None] | None = None,
    T_world_ego_now: ArrayLike = _EYE,
    T_world_ego_images: Sequence[ArrayLike] | None = None,
    rectified: bool | Sequence[bool] = True,
    T_lidar_grid: ArrayLike = _EYE,
    out: Table | None = None,
) -> Table:
    """Table (V,) of one instant of a rig, with whatever lenses it has.

    Args:
        cameras: by feature slot, at most ``config.cameras``; None where a camera is missing.
        image_matrices: (3, 3) per slot, original pixels to network input; None: resize and centred crop of the config.
        T_world_ego_now: (4, 4) ego pose of the current instant.
        T_world_ego_images: (4, 4) per slot, ego pose at each image's exposure; None: no motion (the static table).
        rectified: whether distortion was already removed from the images (per slot or for all).
        T_lidar_grid: (4, 4) where the grid lies in the LiDAR frame, if elsewhere than usual: turned, mirrored, scaled
            (augmentation in training).

    Raises:
        CalibrationError: too many cameras, or a projection that is not finite.
    """
    from .preprocess import image_transform

    if len(cameras) > config.cameras:
        raise CalibrationError(f"{len(cameras)} cameras given; {config.name} is laid out for {config.cameras}")
    straight = [rectified] * len(cameras) if isinstance(rectified, bool) else list(rectified)
    views: dict[int, _View] = {}
    for slot, camera in enumerate(cameras):
        if camera is None:
            continue
        given = image_matrices[slot] if image_matrices is not None else None
        matrix = image_transform(camera.width, camera.height, config).matrix if given is None else given
        past = _EYE if T_world_ego_images is None else T_world_ego_images[slot]
        transform = lidar_to_camera(camera, config, _EYE if T_world_ego_images is None else T_world_ego_now, past)
        views[slot] = _View(camera, matrix, transform @ np.asarray(T_lidar_grid, np.float64), straight[slot])
    if not config.coarse:
        return _level_table(views, config, config.levels[0], out)
    table = np.empty(config.voxels, np.int32) if out is None else out
    voxel = cell = 0
    for level in config.levels:
        part = table[voxel : voxel + level.grid.voxels]
        _level_table(views, config, level, part)
        own = config.cameras * int(np.prod(config.level_hw(level)))
        part[:] = np.where(part < own, part + cell, config.cells)
        voxel, cell = voxel + level.grid.voxels, cell + own
    return table


@dataclass(frozen=True)
class _View:
    """A camera, its image's matrix, where the grid lies for it, and whether its image is straight."""

    camera: Camera
    matrix: Matrix
    T_camera_lidar: Matrix
    straight: bool


def _level_table(views: dict[int, _View], config: FastBEVConfig, level: Level, out: Table | None) -> Table:
    """Table of one scale, its cells counted from 0."""
    hw = config.level_hw(level)
    projections = np.zeros((config.cameras, 3, 4))
    bent: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
    points: Matrix | None = None
    for slot, view in views.items():
        if view.camera.distorted and not view.straight:
            points = grid_points(level.grid) if points is None else points
            bent[slot] = _distorted_cells(view.camera, view.matrix, level.stride, view.T_camera_lidar, points, hw)
        else:
            projections[slot] = camera_projection(view.camera, view.matrix, level.stride, view.T_camera_lidar)
    if not bent:
        return build_table(projections, level.grid, hw, config.overlap, out)
    return _mixed_table(projections, bent, config, level, out)


def _mixed_table(
    projections: Matrix,
    bent: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]],
    config: FastBEVConfig,
    level: Level,
    out: Table | None,
) -> Table:
    """Camera by camera, where some lenses are distorted: slower than the compiled table, same rule for overlaps."""
    table = np.empty(level.grid.voxels, np.int32) if out is None else out
    hw = config.level_hw(level)
    per_camera = hw[0] * hw[1]
    table[:] = config.cameras * per_camera
    slots = range(config.cameras) if config.overlap == "last" else range(config.cameras - 1, -1, -1)
    for slot in slots:
        if slot in bent:
            voxels, cells = bent[slot]
            table[voxels] = slot * per_camera + cells
        elif projections[slot].any():
            alone = build_table(projections[slot : slot + 1], level.grid, hw)
            seen = alone < per_camera
            table[seen] = slot * per_camera + alone[seen]
    return table


def calibration_id(cameras: Sequence[Camera | None], rectified: Sequence[bool] | bool = True) -> str:
    """Short hash of everything that the static table depends on besides the config: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    flags = [rectified] * len(cameras) if isinstance(rectified, bool) else list(rectified)
    for camera, flag in zip(cameras, flags):
        if camera is None:
            digest.update(b"-")
            continue
        head = f"{camera.name} {camera.width} {camera.height} {camera.model} {flag}\n"
        digest.update(head.encode())
        for values in (camera.K, camera.T_ego_camera, camera.distortion):
            digest.update(np.ascontiguousarray(values, np.float64).tobytes())
    return digest.hexdigest()[:16]
