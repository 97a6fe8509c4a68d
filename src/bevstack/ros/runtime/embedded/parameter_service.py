"""The six parameter services of a node."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from ..messages import message_class
from ..qos import qos_profile_parameters
from .exceptions import ParameterException
from .parameter import Parameter

if TYPE_CHECKING:
    from .node import Node


class ParameterService:
    """Answers describe, get, get types, list, set and set atomically for one node."""

    def __init__(self, node: Node) -> None:
        self._node_weak_ref = weakref.ref(node)
        for kind, name, callback in (
            ("DescribeParameters", "describe_parameters", self._describe_parameters),
            ("GetParameters", "get_parameters", self._get_parameters),
            ("GetParameterTypes", "get_parameter_types", self._get_parameter_types),
            ("ListParameters", "list_parameters", self._list_parameters),
            ("SetParameters", "set_parameters", self._set_parameters),
            ("SetParametersAtomically", "set_parameters_atomically", self._set_parameters_atomically),
        ):
            node.create_service(
                message_class(f"rcl_interfaces/srv/{kind}"), f"~/{name}", callback, qos_profile=qos_profile_parameters
            )

    def _node(self) -> Node:
        node = self._node_weak_ref()
        if node is None:
            raise ReferenceError("Expected valid node weak reference")
        return node

    def _describe_parameters(self, request: Any, response: Any) -> Any:
        node = self._node()
        try:
            response.descriptors = [node.describe_parameter(name) for name in request.names]
        except ParameterException as error:
            node.get_logger().debug(f"Failed to describe parameters: {error}")
            response.descriptors = []
        return response

    def _get_parameters(self, request: Any, response: Any) -> Any:
        node = self._node()
        try:
            response.values = [node.get_parameter(name).get_parameter_value() for name in request.names]
        except ParameterException as error:
            node.get_logger().debug(f"Failed to get parameters: {error}")
            response.values = []
        return response

    def _get_parameter_types(self, request: Any, response: Any) -> Any:
        node = self._node()
        try:
            response.types = [kind.value for kind in node.get_parameter_types(list(request.names))]
        except ParameterException as error:
            node.get_logger().debug(f"Failed to get parameter types: {error}")
            response.types = []
        return response

    def _list_parameters(self, request: Any, response: Any) -> Any:
        response.result = self._node().list_parameters(list(request.prefixes), int(request.depth))
        return response

    def _set_parameters(self, request: Any, response: Any) -> Any:
        node = self._node()
        result_class = message_class("rcl_interfaces/msg/SetParametersResult")
        results = []
        for message in request.parameters:
            try:
                parameter = Parameter.from_parameter_msg(message)
                results.append(node.set_parameters([parameter])[0])
            except (ParameterException, RuntimeError, TypeError, ValueError) as error:
                results.append(result_class(successful=False, reason=str(error)))
        response.results = results
        return response

    def _set_parameters_atomically(self, request: Any, response: Any) -> Any:
        node = self._node()
        try:
            parameters = [Parameter.from_parameter_msg(message) for message in request.parameters]
            response.result = node.set_parameters_atomically(parameters)
        except (ParameterException, RuntimeError, TypeError, ValueError) as error:
            response.result = message_class("rcl_interfaces/msg/SetParametersResult")(successful=False, reason=str(error))
        return response
