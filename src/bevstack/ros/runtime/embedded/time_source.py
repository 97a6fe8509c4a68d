"""Simulated time: while the parameter `use_sim_time` is true, clocks follow `/clock`."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from ..messages import message_class
from ..qos import QoSProfile, ReliabilityPolicy
from .callback_groups import ReentrantCallbackGroup
from .clock import ClockType, ROSClock, Time
from .parameter import Parameter

if TYPE_CHECKING:
    from .node import Node
    from .subscription import Subscription

CLOCK_TOPIC = "/clock"
USE_SIM_TIME_NAME = "use_sim_time"


class TimeSource:
    """Drives ROS clocks from `/clock`."""

    def __init__(self, *, node: Node | None = None) -> None:
        self._clock_sub: Subscription | None = None
        self._node_weak_ref: weakref.ref[Node] | None = None
        self._associated_clocks: list[ROSClock] = []
        self._last_time_set = Time(clock_type=ClockType.ROS_TIME)
        self._ros_time_is_active = False
        if node is not None:
            self.attach_node(node)

    @property
    def ros_time_is_active(self) -> bool:
        """True while clocks follow `/clock`."""
        return self._ros_time_is_active

    @ros_time_is_active.setter
    def ros_time_is_active(self, enabled: bool) -> None:
        if self._ros_time_is_active == enabled:
            return
        self._ros_time_is_active = enabled
        for clock in self._associated_clocks:
            clock._set_ros_time_is_active(enabled)
        if enabled:
            self._subscribe_to_clock_topic()
        else:
            self._unsubscribe()

    def _get_node(self) -> Node | None:
        return None if self._node_weak_ref is None else self._node_weak_ref()

    def _subscribe_to_clock_topic(self) -> None:
        node = self._get_node()
        if self._clock_sub is None and node is not None:
            self._clock_sub = node.create_subscription(
                message_class("rosgraph_msgs/msg/Clock"),
                CLOCK_TOPIC,
                self.clock_callback,
                QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT),
                # Time must go on while a callback of the node waits for it.
                callback_group=ReentrantCallbackGroup(),
            )

    def _unsubscribe(self) -> None:
        node = self._get_node()
        if self._clock_sub is not None and node is not None:
            node.destroy_subscription(self._clock_sub)
        self._clock_sub = None

    def attach_node(self, node: Node) -> None:
        """Follow the node's `use_sim_time`; declares it if need be. Raises TypeError for anything but a node."""
        from .node import Node

        if not isinstance(node, Node):
            raise TypeError("Node must be of type rclpy.node.Node")
        if self._node_weak_ref is not None:
            self.detach_node()
        self._node_weak_ref = weakref.ref(node)
        if not node.has_parameter(USE_SIM_TIME_NAME):
            node.declare_parameter(USE_SIM_TIME_NAME, False)
        parameter = node.get_parameter(USE_SIM_TIME_NAME)
        if parameter.type_ is Parameter.Type.BOOL:
            self.ros_time_is_active = parameter.value
        elif parameter.type_ is not Parameter.Type.NOT_SET:
            node.get_logger().error(f"Invalid type for parameter '{USE_SIM_TIME_NAME}' {parameter.type_!r} should be bool")
        node.add_on_set_parameters_callback(self._check_parameters)
        node.add_post_set_parameters_callback(self._on_parameters)

    def detach_node(self) -> None:
        """Follow no node any more."""
        node = self._get_node()
        self._unsubscribe()
        if node is not None:
            node.remove_on_set_parameters_callback(self._check_parameters)
            node.remove_post_set_parameters_callback(self._on_parameters)
        self._node_weak_ref = None

    def attach_clock(self, clock: ROSClock) -> None:
        """Drive this clock too. Raises TypeError for anything but a ROS clock."""
        if not isinstance(clock, ROSClock):
            raise TypeError("Only clocks with type ROS_TIME can be attached.")
        if self._last_time_set.nanoseconds:
            clock.set_ros_time_override(self._last_time_set)
        clock._set_ros_time_is_active(self.ros_time_is_active)
        self._associated_clocks.append(clock)

    def clock_callback(self, msg: Any) -> None:
        """Take the time of a rosgraph_msgs/msg/Clock."""
        self._last_time_set = Time.from_msg(msg.clock)
        for clock in self._associated_clocks:
            clock.set_ros_time_override(self._last_time_set)

    def _check_parameters(self, parameters: list[Parameter]) -> Any:
        result = message_class("rcl_interfaces/msg/SetParametersResult")
        for parameter in parameters:
            if parameter.name == USE_SIM_TIME_NAME and parameter.type_ is not Parameter.Type.BOOL:
                return result(successful=False, reason=f"{USE_SIM_TIME_NAME} parameter set to something besides a bool")
        return result(successful=True)

    def _on_parameters(self, parameters: list[Parameter]) -> None:
        for parameter in parameters:
            if parameter.name == USE_SIM_TIME_NAME:
                self.ros_time_is_active = bool(parameter.value)
