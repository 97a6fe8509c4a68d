"""Services that read and set the levels of loggers: `~/get_logger_levels`, `~/set_logger_levels`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..messages import message_class
from .logging import get_logger_level, set_logger_level

if TYPE_CHECKING:
    from .node import Node


class LoggingService:
    """Started by `Node(..., enable_logger_service=True)`."""

    def __init__(self, node: Node) -> None:
        name = node.get_name()
        node.create_service(message_class("rcl_interfaces/srv/GetLoggerLevels"), f"{name}/get_logger_levels", self._get)
        node.create_service(message_class("rcl_interfaces/srv/SetLoggerLevels"), f"{name}/set_logger_levels", self._set)

    @staticmethod
    def _get(request: Any, response: Any) -> Any:
        level_class = message_class("rcl_interfaces/msg/LoggerLevel")
        response.levels = [level_class(name=name, level=int(get_logger_level(name))) for name in request.names]
        return response

    @staticmethod
    def _set(request: Any, response: Any) -> Any:
        result_class = message_class("rcl_interfaces/msg/SetLoggerLevelsResult")
        results = []
        for level in request.levels:
            try:
                set_logger_level(level.name, level.level)
                results.append(result_class(successful=True))
            except ValueError as error:
                results.append(result_class(successful=False, reason=str(error)))
        response.results = results
        return response
