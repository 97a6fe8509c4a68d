"""One set of ROS names over real rclpy or the embedded runtime. Node code imports ROS names only from here.

BEVSTACK_ROS=auto (default) takes rclpy where it imports, and the embedded runtime otherwise; `rclpy` and `embedded` force one.
RUNTIME says which one runs ("rclpy" or "embedded"), RUNTIME_REASON why.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

from bevstack.errors import BevstackError


def choose_runtime(wanted: str | None = None) -> tuple[str, str]:
    """`("rclpy" | "embedded", reason)` for the value of BEVSTACK_ROS.

    Raises BevstackError for an unknown value, or when rclpy is demanded and does not import.
    """
    value = (os.environ.get("BEVSTACK_ROS", "auto") if wanted is None else wanted).lower() or "auto"
    if value not in ("auto", "rclpy", "embedded"):
        raise BevstackError(f"BEVSTACK_ROS is '{value}': use auto, rclpy or embedded")
    if value == "embedded":
        return "embedded", "BEVSTACK_ROS=embedded"
    try:
        importlib.import_module("rclpy")
    except ImportError as error:
        if value == "rclpy":
            raise BevstackError(
                f"BEVSTACK_ROS=rclpy, but rclpy does not import ({error}): source ROS 2's setup.bash, or unset BEVSTACK_ROS"
            ) from error
        return "embedded", f"rclpy does not import ({error})"
    return "rclpy", "BEVSTACK_ROS=rclpy" if value == "rclpy" else "rclpy imports"


RUNTIME, RUNTIME_REASON = choose_runtime()

if TYPE_CHECKING or RUNTIME == "embedded":
    from .embedded import *  # noqa: F403
    from .embedded import __all__ as _names
else:
    from .native import *  # noqa: F403
    from .native import __all__ as _names

__all__ = [*_names, "RUNTIME", "RUNTIME_REASON", "choose_runtime"]
