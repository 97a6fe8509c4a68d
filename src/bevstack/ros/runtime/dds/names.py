"""ROS names on DDS: topics are `rt/…`, requests `rq/…Request`, replies `rr/…Reply`."""

from __future__ import annotations

from bevstack.ros.runtime.dds.descriptor import ros_type_name


def topic_name(topic: str, *, ros: bool = True) -> str:
    """ "/cam/image_raw" -> "rt/cam/image_raw"; without ROS conventions the bare name."""
    return f"rt{topic}" if ros else topic.lstrip("/")


def request_name(service: str) -> str:
    return f"rq{service}Request"


def reply_name(service: str) -> str:
    return f"rr{service}Reply"


def ros_topic(name: str, type_name: str) -> tuple[str, str] | None:
    """The ROS topic and type behind a DDS topic, None if it is not one."""
    ros_type = ros_type_name(type_name)
    if ros_type is None or not name.startswith("rt/"):
        return None
    return name[2:], ros_type


def ros_service(name: str, type_name: str) -> tuple[str, str] | None:
    """The ROS service and type behind a DDS topic of requests or replies, None if it is not one."""
    ros_type = ros_type_name(type_name)
    if ros_type is None:
        return None
    for prefix, suffix, part in (("rq/", "Request", "_Request"), ("rr/", "Reply", "_Response")):
        if name.startswith(prefix) and name.endswith(suffix) and ros_type.endswith(part):
            return name[2 : -len(suffix)], ros_type[: -len(part)]
    return None
