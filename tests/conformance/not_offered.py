"""What rclpy has and the embedded runtime deliberately has not, with the reason."""

from __future__ import annotations

_WAIT_SET = "belongs to rcl wait sets; the embedded executor is told what is ready and has none"
_HANDLE = "type of rclpy's C++ layer, which does not exist here"
_INTROSPECTION = "service introspection is a debugging aid of rcl; record the requests in the client or service instead"

#: "Class" or "function" -> reason
NAMES: dict[str, str] = {
    "Waitable": _WAIT_SET,
    "NumberOfEntities": _WAIT_SET,
    "SignalHandlerGuardCondition": "signals wake executors through the context",
    "ClockHandle": _HANDLE,
    "ContextHandle": _HANDLE,
    "DestroyableType": _HANDLE,
    "DurationType": _HANDLE,
    "TimeHandle": _HANDLE,
    "TimeJumpDictionary": _HANDLE,
    "TypeDescriptionService": "types are looked up by their hash; `ros2 topic` tools do not need the service",
    "ServiceIntrospectionState": _INTROSPECTION,
    "CallerId": "internal to rclpy's logger",
    "LoggingFilter": "internal to rclpy's logger",
    "Once": "internal to rclpy's logger",
    "SkipFirst": "internal to rclpy's logger",
    "Throttle": "internal to rclpy's logger",
    "get_filters_from_kwargs": "internal to rclpy's logger",
}

#: "Class.member" -> reason
MEMBERS: dict[str, str] = {
    "Client.configure_introspection": _INTROSPECTION,
    "Service.configure_introspection": _INTROSPECTION,
    "Node.add_waitable": _WAIT_SET,
    "Node.remove_waitable": _WAIT_SET,
    "Node.waitables": _WAIT_SET,
    "EventHandler.add_future": _WAIT_SET,
    "EventHandler.add_to_wait_set": _WAIT_SET,
    "EventHandler.execute": _WAIT_SET,
    "EventHandler.get_num_entities": _WAIT_SET,
    "EventHandler.is_ready": _WAIT_SET,
    "EventHandler.remove_future": _WAIT_SET,
    "EventHandler.take_data": _WAIT_SET,
    "InvalidParameterTypeException.Parameter": "an import that stands in the body of rclpy's class",
    "Duration.get_c_duration": _HANDLE,
    "QoSProfile.get_c_qos_profile": _HANDLE,
}
MEMBERS.update({key.replace("Node.", "LifecycleNode."): reason for key, reason in MEMBERS.items() if key.startswith("Node.")})
MEMBERS.update(
    {key.replace("EventHandler.", "QoSEventHandler."): reason for key, reason in MEMBERS.items() if "EventHandler." in key}
)

#: Members that are written otherwise on purpose: "Class.member" -> reason
DIFFERENT: dict[str, str] = {
    "QoSEventHandler.__init__": "alias of EventHandler, so it shows EventHandler's arguments",
}
