"""The message classes that our nodes use, from whichever runtime is there.

One place, so that the runtime's finder is installed before the first message package is imported, whatever order an import
sorter likes. The names are values of type Any: message classes are generated at run time (rosidl or rosbags) and have no stubs.
"""

from __future__ import annotations

from typing import Any

from bevstack.ros.runtime import messages

Message = Any
"""Annotation for an instance of any message class."""

BuiltinDuration: Any = messages("builtin_interfaces/msg/Duration")
BuiltinTime: Any = messages("builtin_interfaces/msg/Time")
DiagnosticArray: Any = messages("diagnostic_msgs/msg/DiagnosticArray")
DiagnosticStatus: Any = messages("diagnostic_msgs/msg/DiagnosticStatus")
KeyValue: Any = messages("diagnostic_msgs/msg/KeyValue")
Point: Any = messages("geometry_msgs/msg/Point")
TransformStamped: Any = messages("geometry_msgs/msg/TransformStamped")
Odometry: Any = messages("nav_msgs/msg/Odometry")
Clock: Any = messages("rosgraph_msgs/msg/Clock")
CameraInfo: Any = messages("sensor_msgs/msg/CameraInfo")
CompressedImage: Any = messages("sensor_msgs/msg/CompressedImage")
Image: Any = messages("sensor_msgs/msg/Image")
CodecStatus: Any = messages("stack_msgs/msg/CodecStatus")
Temperature: Any = messages("sensor_msgs/msg/Temperature")
GovernorState: Any = messages("stack_msgs/msg/GovernorState")
PipelineStatus: Any = messages("stack_msgs/msg/PipelineStatus")
ColorRGBA: Any = messages("std_msgs/msg/ColorRGBA")
Bool: Any = messages("std_msgs/msg/Bool")
Header: Any = messages("std_msgs/msg/Header")
TFMessage: Any = messages("tf2_msgs/msg/TFMessage")
Detection2D: Any = messages("vision_msgs/msg/Detection2D")
Detection2DArray: Any = messages("vision_msgs/msg/Detection2DArray")
Detection3D: Any = messages("vision_msgs/msg/Detection3D")
Detection3DArray: Any = messages("vision_msgs/msg/Detection3DArray")
ObjectHypothesisWithPose: Any = messages("vision_msgs/msg/ObjectHypothesisWithPose")
Marker: Any = messages("visualization_msgs/msg/Marker")
MarkerArray: Any = messages("visualization_msgs/msg/MarkerArray")
