"""Names and QoS that all nodes share (REP-2003; image_pipeline's sibling rule for camera_info)."""

from __future__ import annotations

from bevstack.ros.runtime import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

LATCHED = frozenset(("/tf_static", "/robot_description", "/map"))
"""Topics that are latched by convention, whatever a bag or a publisher says about its QoS."""


def info_topic(base_image_topic: str) -> str:
    """camera_info beside the base image topic: ``/cam/image_raw`` -> ``/cam/camera_info``."""
    folder, _, _ = base_image_topic.rpartition("/")
    return f"{folder}/camera_info" if folder or base_image_topic.startswith("/") else "camera_info"


def optical_frame(camera: str) -> str:
    """Frame of a camera's images: z forward, x right, y down (REP-103)."""
    return f"{camera}_optical_frame"


def sensor_qos(reliability: str = "best_effort", depth: int = 5) -> QoSProfile:
    """Sensor data: volatile, keep last; best effort unless told otherwise, so that it matches every publisher."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliability == "reliable" else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.VOLATILE,
    )


def latched_qos(depth: int = 1) -> QoSProfile:
    """Facts that late comers must get: reliable, transient local."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
    )
