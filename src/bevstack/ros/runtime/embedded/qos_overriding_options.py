"""QoS of a publisher or subscription that users may override through read-only parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ..duration import Duration
from ..messages import message_class
from ..qos import (
    DurabilityPolicy,
    HistoryPolicy,
    InvalidQoSProfileException,
    LivelinessPolicy,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
)

if TYPE_CHECKING:
    from .node import Node


class InvalidQosOverridesError(Exception):
    """The callback refused the overridden profile."""


_ENUMS: dict[QoSPolicyKind, Any] = {
    QoSPolicyKind.HISTORY: HistoryPolicy,
    QoSPolicyKind.RELIABILITY: ReliabilityPolicy,
    QoSPolicyKind.DURABILITY: DurabilityPolicy,
    QoSPolicyKind.LIVELINESS: LivelinessPolicy,
}
_DURATIONS = (QoSPolicyKind.DEADLINE, QoSPolicyKind.LIFESPAN, QoSPolicyKind.LIVELINESS_LEASE_DURATION)


class QoSOverridingOptions:
    """Which policies may be overridden, by parameters `qos_overrides.<topic>.<publisher|subscription>[_<id>].<policy>`."""

    def __init__(
        self,
        policy_kinds: Iterable[QoSPolicyKind],
        *,
        callback: Callable[[QoSProfile], Any] | None = None,
        entity_id: str | None = None,
    ) -> None:
        self._policy_kinds = list(policy_kinds)
        self._callback = callback
        self._entity_id = entity_id

    @property
    def policy_kinds(self) -> Iterable[QoSPolicyKind]:
        """The policies that may be overridden."""
        return self._policy_kinds

    @property
    def callback(self) -> Callable[[QoSProfile], Any] | None:
        """Checks the resulting profile, gives a SetParametersResult."""
        return self._callback

    @property
    def entity_id(self) -> str | None:
        """Tells apart several endpoints of one node on one topic."""
        return self._entity_id

    @classmethod
    def with_default_policies(
        cls, *, callback: Callable[[QoSProfile], Any] | None = None, entity_id: str | None = None
    ) -> QoSOverridingOptions:
        """History, depth and reliability may be overridden."""
        return cls(
            [QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY], callback=callback, entity_id=entity_id
        )


def _to_parameter(kind: QoSPolicyKind, value: Any) -> Any:
    if kind in _ENUMS:
        return value.short_key
    return value.nanoseconds if kind in _DURATIONS else value


def _from_parameter(kind: QoSPolicyKind, value: Any, name: str) -> Any:
    if kind in _ENUMS:
        try:
            return _ENUMS[kind].get_from_short_key(value)
        except KeyError as error:
            raise InvalidQosOverridesError(
                f"parameter '{name}' is '{value}': use one of {', '.join(_ENUMS[kind].short_keys())}"
            ) from error
    return Duration(nanoseconds=value) if kind in _DURATIONS else value


def declare_qos_parameters(
    node: Node, endpoint: str, topic_name: str, profile: QoSProfile, options: QoSOverridingOptions
) -> QoSProfile:
    """Declare the parameters of one endpoint ("publisher" or "subscription") and give the profile with their values.

    Raises `InvalidQosOverridesError` for a value that does not exist or that the callback refuses.
    """
    identity = f"_{options.entity_id}" if options.entity_id else ""
    prefix = f"qos_overrides.{topic_name}.{endpoint}{identity}"
    descriptor_class = message_class("rcl_interfaces/msg/ParameterDescriptor")
    settings = {slot[1:]: getattr(profile, slot[1:]) for slot in QoSProfile.__slots__}
    for kind in options.policy_kinds:
        policy = kind.name.lower()
        name = f"{prefix}.{policy}"
        if node.has_parameter(name):
            parameter = node.get_parameter(name)
        else:
            parameter = node.declare_parameter(
                name,
                _to_parameter(kind, settings[policy]),
                descriptor_class(description=f"{policy} of the {endpoint} on {topic_name}", read_only=True),
            )
        settings[policy] = _from_parameter(kind, parameter.value, name)
    try:
        result = QoSProfile(**settings)
    except InvalidQoSProfileException as error:
        raise InvalidQosOverridesError(f"{prefix}: {error}") from error
    if options.callback is not None:
        verdict = options.callback(result)
        if not verdict.successful:
            raise InvalidQosOverridesError(f"{prefix}: {verdict.reason or 'refused by the callback'}")
    return result
