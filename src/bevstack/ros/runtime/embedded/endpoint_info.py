"""What the graph knows about one publisher or subscription."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from ..qos import QoSProfile, qos_profile_unknown


class TopicEndpointTypeEnum(IntEnum):
    """Side of an endpoint."""

    INVALID = 0
    PUBLISHER = 1
    SUBSCRIPTION = 2


class TopicEndpointInfo:
    """Node, type and QoS of one endpoint."""

    __slots__ = (
        "_endpoint_gid",
        "_endpoint_type",
        "_node_name",
        "_node_namespace",
        "_qos_profile",
        "_topic_type",
        "_topic_type_hash",
    )

    def __init__(self, **kwargs: Any) -> None:
        unknown = [key for key in kwargs if f"_{key}" not in self.__slots__]
        assert not unknown, f"Invalid arguments passed to constructor: {unknown}"
        self._node_name: str = kwargs.get("node_name", "")
        self._node_namespace: str = kwargs.get("node_namespace", "")
        self._topic_type: str = kwargs.get("topic_type", "")
        self._topic_type_hash: str = kwargs.get("topic_type_hash", "")
        self._endpoint_type = TopicEndpointTypeEnum(kwargs.get("endpoint_type", TopicEndpointTypeEnum.INVALID))
        self._endpoint_gid: list[int] = kwargs.get("endpoint_gid", [])
        self._qos_profile: QoSProfile = kwargs.get("qos_profile", qos_profile_unknown)

    @property
    def node_name(self) -> str:
        """Name of the node."""
        return self._node_name

    @property
    def node_namespace(self) -> str:
        """Namespace of the node."""
        return self._node_namespace

    @property
    def topic_type(self) -> str:
        """Type, as in `sensor_msgs/msg/Image`."""
        return self._topic_type

    @property
    def topic_type_hash(self) -> str:
        """Hash of the type, `RIHS01_...`."""
        return self._topic_type_hash

    @property
    def endpoint_type(self) -> TopicEndpointTypeEnum:
        """Publisher or subscription."""
        return self._endpoint_type

    @property
    def endpoint_gid(self) -> list[int]:
        """Identifier on the wire, 16 bytes."""
        return self._endpoint_gid

    @property
    def qos_profile(self) -> QoSProfile:
        """Its QoS."""
        return self._qos_profile

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TopicEndpointInfo):
            return False
        return all(getattr(self, slot) == getattr(other, slot) for slot in self.__slots__)

    __hash__ = None  # type: ignore[assignment]  # equal by value

    def __str__(self) -> str:
        return "\n".join(
            [
                f"Node name: {self._node_name}",
                f"Node namespace: {self._node_namespace}",
                f"Topic type: {self._topic_type}",
                f"Topic type hash: {self._topic_type_hash}",
                f"Endpoint type: {self._endpoint_type.name}",
                f"GID: {'.'.join(f'{byte:02x}' for byte in self._endpoint_gid)}",
                f"QoS profile: {self._qos_profile}",
            ]
        )
