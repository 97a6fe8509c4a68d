"""The embedded runtime: rclpy's names, arguments, defaults, exceptions and behaviour where no ROS is installed.

What rclpy has and this has not is listed in `tests/conformance/not_offered.py`. The difference that matters most to a node's
author: a message published to a subscription of the same process arrives as the same object, so treat messages as read-only
once they are published or received.
"""

from __future__ import annotations

from ..duration import Duration as Duration
from ..messages import install_finder, message_class
from ..qos import (
    DurabilityPolicy,
    HistoryPolicy,
    LivelinessPolicy,
    QoSCompatibility,
    QoSPolicyKind,
    QoSPresetProfiles,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
    qos_profile_default,
    qos_profile_parameter_events,
    qos_profile_parameters,
    qos_profile_sensor_data,
    qos_profile_services_default,
    qos_profile_system_default,
)
from ..serialization import deserialize_message, serialize_message
from . import diagnostic_updater, exceptions, message_filters, tf2
from .callback_groups import CallbackGroup, MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from .client import Client
from .clock import Clock, ClockChange, ClockType, JumpThreshold, ROSClock, Time, TimeJump
from .context import Context, get_default_context
from .event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
from .exceptions import InvalidHandle, RCLError
from .executors import Executor, ExternalShutdownException, MultiThreadedExecutor, SingleThreadedExecutor
from .guard_condition import GuardCondition
from .init import (
    create_node,
    get_global_executor,
    get_rmw_implementation_identifier,
    init,
    ok,
    shutdown,
    spin,
    spin_once,
    spin_until_future_complete,
    try_shutdown,
)
from .lifecycle import LifecycleNode, LifecyclePublisher, LifecycleState, State, TransitionCallbackReturn
from .logging import LoggingSeverity, get_logger
from .node import Node
from .parameter import Parameter, parameter_value_to_python
from .publisher import Publisher
from .qos_overriding_options import QoSOverridingOptions
from .service import Service
from .signals import SignalHandlerOptions, install_signal_handlers, uninstall_signal_handlers
from .subscription import Subscription
from .task import Future, Task
from .timer import Rate, Timer

ParameterDescriptor = message_class("rcl_interfaces/msg/ParameterDescriptor")
FloatingPointRange = message_class("rcl_interfaces/msg/FloatingPointRange")
IntegerRange = message_class("rcl_interfaces/msg/IntegerRange")
SetParametersResult = message_class("rcl_interfaces/msg/SetParametersResult")
messages = message_class

install_finder()

__all__ = [
    "CallbackGroup",
    "Client",
    "Clock",
    "ClockChange",
    "ClockType",
    "Context",
    "DurabilityPolicy",
    "Duration",
    "Executor",
    "ExternalShutdownException",
    "FloatingPointRange",
    "Future",
    "GuardCondition",
    "HistoryPolicy",
    "IntegerRange",
    "InvalidHandle",
    "JumpThreshold",
    "LifecycleNode",
    "LifecyclePublisher",
    "LifecycleState",
    "LivelinessPolicy",
    "LoggingSeverity",
    "MultiThreadedExecutor",
    "MutuallyExclusiveCallbackGroup",
    "Node",
    "Parameter",
    "ParameterDescriptor",
    "Publisher",
    "PublisherEventCallbacks",
    "QoSCompatibility",
    "QoSOverridingOptions",
    "QoSPolicyKind",
    "QoSPresetProfiles",
    "QoSProfile",
    "RCLError",
    "ROSClock",
    "Rate",
    "ReentrantCallbackGroup",
    "ReliabilityPolicy",
    "Service",
    "SetParametersResult",
    "SignalHandlerOptions",
    "SingleThreadedExecutor",
    "State",
    "Subscription",
    "SubscriptionEventCallbacks",
    "Task",
    "Time",
    "TimeJump",
    "Timer",
    "TransitionCallbackReturn",
    "create_node",
    "deserialize_message",
    "diagnostic_updater",
    "exceptions",
    "get_default_context",
    "get_global_executor",
    "get_logger",
    "get_rmw_implementation_identifier",
    "init",
    "install_signal_handlers",
    "message_filters",
    "messages",
    "ok",
    "parameter_value_to_python",
    "qos_check_compatible",
    "qos_profile_default",
    "qos_profile_parameter_events",
    "qos_profile_parameters",
    "qos_profile_sensor_data",
    "qos_profile_services_default",
    "qos_profile_system_default",
    "serialize_message",
    "shutdown",
    "spin",
    "spin_once",
    "spin_until_future_complete",
    "tf2",
    "try_shutdown",
    "uninstall_signal_handlers",
]
