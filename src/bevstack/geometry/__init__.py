"""Floor 0: poses, cameras, boxes, overlap. Pure numpy, float64 poses, no framework types."""

from .boxes import BOX_EDGES, Boxes2D, Boxes3D
from .camera import Camera, CameraModel
from .classes import DETECTION_CLASSES
from .pose import (
    Matrix,
    interpolate,
    invert,
    pose,
    quaternion_from_rotation,
    rotation_from_quaternion,
    rotation_rpy,
    rotation_z,
    transform_points,
    yaw_of,
)

__all__ = [
    "BOX_EDGES",
    "DETECTION_CLASSES",
    "Boxes2D",
    "Boxes3D",
    "Camera",
    "CameraModel",
    "Matrix",
    "interpolate",
    "invert",
    "pose",
    "quaternion_from_rotation",
    "rotation_from_quaternion",
    "rotation_rpy",
    "rotation_z",
    "transform_points",
    "yaw_of",
]
