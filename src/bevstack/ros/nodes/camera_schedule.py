"""Which camera's image is worked on: a rate limit per camera, and an order among those that wait."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from .parameters import ParameterValueError


def named_numbers(entries: Sequence[str], cameras: Sequence[str], what: str) -> dict[str, float]:
    """``["cam_front=10", "cam_back=2.5"]`` to a mapping.

    Raises:
        ParameterValueError: no such camera, or no number from 0 on.
    """
    found: dict[str, float] = {}
    for entry in entries:
        name, _, text = entry.partition("=")
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if name.strip() not in cameras or not 0.0 <= value < 1e6:
            raise ParameterValueError(
                f"{what} {entry!r}: write camera=number with one of {', '.join(cameras)} and a number that is not negative"
            )
        found[name.strip()] = value
    return found


class CameraSchedule:
    """Not thread-safe: one lock around it.

    Args:
        cameras: in the order of their importance, the most important first.
        rates: most images per second of a camera; 0 or missing: all.
        priorities: higher goes first; missing: 0. Equal ones go in the order of ``cameras``.
        patience: seconds after which a waiting image goes first whatever its priority, so that no camera is forgotten.
    """

    def __init__(
        self,
        cameras: Sequence[str],
        rates: Mapping[str, float] | None = None,
        priorities: Mapping[str, float] | None = None,
        patience: float = 1.0,
    ) -> None:
        self.cameras = tuple(cameras)
        self.rates: Mapping[str, float] = rates or {}
        self.priorities: Mapping[str, float] = priorities or {}
        self.patience = patience
        self.share = 1.0
        """Of the images that the rates admit, above 0 to 1, evenly spread."""
        self._due: dict[str, int] = {}
        self._credit: dict[str, float] = {}
        self._place = {name: n for n, name in enumerate(cameras)}

    def admit(self, name: str, stamp: int) -> bool:
        """Whether the camera's rate and ``share`` let this exposure (nanoseconds) through."""
        rate = self.rates.get(name, 0.0)
        if rate > 0:
            period = round(1e9 / rate)
            due = self._due.get(name)
            # A tenth of a period of slack: stamps jitter. A clock that jumps back (a bag begins again) starts anew.
            if due is not None and due - 2 * period < stamp < due - period // 10:
                return False
            late = due is None or stamp - due > period or stamp <= due - 2 * period
            self._due[name] = (stamp if late or due is None else due) + period
        credit = self._credit.get(name, 1.0 - self.share) + self.share
        admitted = credit >= 1.0 - 1e-9
        self._credit[name] = credit - 1.0 if admitted else credit
        return admitted

    def order(self, waiting: Iterable[tuple[str, float]], now: float) -> list[str]:
        """Cameras in the order in which they go, from (name, monotonic seconds since which it waits)."""

        def key(item: tuple[str, float]) -> tuple[bool, float, float, int]:
            name, since = item
            overdue = now - since > self.patience
            return (
                not overdue,
                since if overdue else 0.0,
                -self.priorities.get(name, 0.0),
                self._place.get(name, len(self._place)),
            )

        return [name for name, _ in sorted(waiting, key=key)]
