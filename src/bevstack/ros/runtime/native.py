"""The names of the embedded runtime, taken from real ROS 2 packages.

Nothing happens here but importing: `tests/conformance/test_selection.py` checks that both runtimes offer the same names.
"""

# ruff: noqa: F401 - re-exported

from __future__ import annotations

import importlib
from typing import Any

import diagnostic_updater
import message_filters
import tf2_ros as tf2
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy import (
    SignalHandlerOptions,
    create_node,
    exceptions,
    get_default_context,
    get_global_executor,
    get_rmw_implementation_identifier,
    init,
    install_signal_handlers,
    ok,
    shutdown,
    spin,
    spin_once,
    spin_until_future_complete,
    try_shutdown,
    uninstall_signal_handlers,
)
from rclpy._rclpy_pybind11 import RCLError
from rclpy.callback_groups import CallbackGroup, MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.client import Client
from rclpy.clock import Clock, ClockChange, ClockType, JumpThreshold, ROSClock, TimeJump
from rclpy.context import Context
from rclpy.duration import Duration
from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
from rclpy.exceptions import InvalidHandle
from rclpy.executors import Executor, ExternalShutdownException, MultiThreadedExecutor, SingleThreadedExecutor
from rclpy.guard_condition import GuardCondition
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher, LifecycleState, State, TransitionCallbackReturn
from rclpy.logging import LoggingSeverity, get_logger
from rclpy.node import Node
from rclpy.parameter import Parameter, parameter_value_to_python
from rclpy.publisher import Publisher
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    LivelinessPolicy,
    QoSCompatibility,
    QoSPolicyKind,
    QoSPresetProfiles,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
    qos_profile_parameter_events,
    qos_profile_parameters,
    qos_profile_sensor_data,
    qos_profile_services_default,
    qos_profile_system_default,
)
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.serialization import deserialize_message, serialize_message
from rclpy.service import Service
from rclpy.subscription import Subscription
from rclpy.task import Future, Task
from rclpy.time import Time
from rclpy.timer import Rate, Timer

from bevstack.errors import BevstackError

qos_profile_default = QoSPresetProfiles.DEFAULT.value


def messages(name: str) -> Any:
    """Class of a message or service: `messages("sensor_msgs/msg/Image")`.

    Raises BevstackError when its package is not installed.
    """
    package, kind, cls = name.split("/")
    try:
        return getattr(importlib.import_module(f"{package}.{kind}"), cls)
    except (ImportError, AttributeError) as error:
        raise BevstackError(
            f"'{name}' is not installed ({error}): install ros-$ROS_DISTRO-{package.replace('_', '-')}, or source its workspace"
        ) from error


_HELPERS = ("Any", "BevstackError", "annotations", "importlib")
__all__ = [_name for _name in dir() if not _name.startswith("_") and _name not in _HELPERS]
