"""`Duration` with rclpy's names: a signed span of time in whole nanoseconds."""

from __future__ import annotations

from typing import Any

_S_TO_NS = 1_000_000_000
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1

#: What DDS and rmw call "no limit": the largest int64, shown as such by `Duration.__repr__`.
INFINITE_NANOSECONDS = _INT64_MAX


class Duration:
    """A span of time.

    :param seconds: whole or fractional seconds; the fraction is truncated to nanoseconds.
    :param nanoseconds: added to the seconds.
    :raises OverflowError: the sum does not fit 64 bits.
    """

    __slots__ = ("_nanoseconds",)

    def __init__(self, *, seconds: int | float = 0, nanoseconds: int = 0) -> None:
        total = int(seconds * _S_TO_NS) + int(nanoseconds)
        if not _INT64_MIN <= total <= _INT64_MAX:
            raise OverflowError(f"Total nanoseconds value is too large to store in C duration: {total}")
        self._nanoseconds = total

    @property
    def nanoseconds(self) -> int:
        return self._nanoseconds

    def to_msg(self) -> Any:
        """The same span as builtin_interfaces/msg/Duration."""
        from bevstack.ros.runtime.messages import message_class

        seconds, nanoseconds = divmod(self._nanoseconds, _S_TO_NS)
        return message_class("builtin_interfaces/msg/Duration")(sec=seconds, nanosec=nanoseconds)

    @classmethod
    def from_msg(cls, msg: Any) -> Duration:
        """:raises TypeError: `msg` is not a builtin_interfaces/msg/Duration."""
        if type(msg).__name__ != "Duration" or not hasattr(msg, "nanosec"):
            raise TypeError("Must pass a builtin_interfaces.msg.Duration object")
        return cls(seconds=msg.sec, nanoseconds=msg.nanosec)

    def __repr__(self) -> str:
        return f"Duration(nanoseconds={self._nanoseconds})"

    def __str__(self) -> str:
        if self._nanoseconds == INFINITE_NANOSECONDS:
            return "Infinite"
        return f"{self._nanoseconds} nanoseconds"

    def __hash__(self) -> int:
        return hash(self._nanoseconds)

    def __eq__(self, other: object) -> bool:
        return self._nanoseconds == other._nanoseconds if isinstance(other, Duration) else NotImplemented

    def __lt__(self, other: object) -> bool:
        return self._nanoseconds < other._nanoseconds if isinstance(other, Duration) else NotImplemented

    def __le__(self, other: object) -> bool:
        return self._nanoseconds <= other._nanoseconds if isinstance(other, Duration) else NotImplemented

    def __gt__(self, other: object) -> bool:
        return self._nanoseconds > other._nanoseconds if isinstance(other, Duration) else NotImplemented

    def __ge__(self, other: object) -> bool:
        return self._nanoseconds >= other._nanoseconds if isinstance(other, Duration) else NotImplemented


Infinite = Duration(nanoseconds=INFINITE_NANOSECONDS)
