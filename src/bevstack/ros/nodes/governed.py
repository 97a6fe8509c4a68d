"""The governor's line to one node: what it reports, what was asked of it, and whether that has happened."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from bevstack.ros.interfaces import Message
from bevstack.ros.runtime import Node, Parameter, QoSProfile, messages
from bevstack.thermal.ladder_file import GovernedLadder

_RETRY = 1.0  # seconds between two requests to a node that does not answer
_NOT_BUSY = {"decode", "wait", "publish"}


def busy_ms(stages: Sequence[str], stage_ms: Sequence[float]) -> float:
    """Milliseconds that a model worked on one item: its own sum where it gives one, else all stages that are its own."""
    values = dict(zip(stages, stage_ms))
    if "total" in values:
        return float(values["total"])
    return float(sum(value for name, value in values.items() if name not in _NOT_BUSY))


@dataclass
class Ask:
    """A rung and a rate that a node is to have. ``at``: when it was last told, seconds; None: not yet."""

    rung: str
    rate: float
    at: float | None = None
    answered: bool = False
    confirmed: bool = False


@dataclass
class GovernedNode:
    """One model's node. All methods on the governor's executor thread.

    Args:
        node: the governor. ladder: what is governed.
        clock: monotonic seconds.
        on_trouble: called with (rung, reason) when a rung was refused or never came.
        silent_after: seconds without a status after which the node counts as silent.
        swap_timeout: seconds that a swap may take.
    """

    node: Node
    ladder: GovernedLadder
    clock: Callable[[], float]
    on_trouble: Callable[[str, str], None]
    silent_after: float = 5.0
    swap_timeout: float = 60.0
    running: str = ""
    seen: bool = False
    """It has been alive once."""
    timed_out: str = ""
    """The rung that was given up last; it may still come."""
    asked: Ask | None = None
    _heard: float | None = None
    _since: list[float] = field(default_factory=list)
    _recent: list[float] = field(default_factory=list)
    _future: Any = None
    _sent_at: float = -math.inf
    _rate_known: bool = True
    _was_ready: bool = False

    def __post_init__(self) -> None:
        self.model = self.ladder.info.model
        kind = messages("rcl_interfaces/srv/SetParameters")
        self._request = kind.Request
        self._client = self.node.create_client(kind, f"{self.ladder.node}/set_parameters")
        status = messages(self.ladder.status)
        self.node.create_subscription(status, f"{self.ladder.node}/status", self._on_status, QoSProfile(depth=50))

    def _on_status(self, message: Message) -> None:
        self._heard = self.clock()
        running = str(message.rung if hasattr(message, "rung") else message.model)  # CodecStatus says model
        if running:
            self.running = running
        busy = busy_ms(list(message.stages), list(message.stage_ms))
        # Items of the old rung that come while a swap is under way say nothing about the new one.
        if busy > 0 and (self.asked is None or self.running == self.asked.rung):
            self._since.append(busy)

    @property
    def alive(self) -> bool:
        """Its parameter service is there, or it has reported lately."""
        heard = self._heard is not None and self.clock() - self._heard < self.silent_after
        alive = heard or bool(self._client.service_is_ready())
        self.seen = self.seen or alive
        return alive

    def latencies(self) -> list[float]:
        """Busy times since the last call, ms."""
        taken, self._since = self._since, []
        if taken:
            self._recent = taken
        elif not self.alive:
            self._recent = []
        return taken

    def latency(self) -> float:
        """Median of the items between the last two calls of ``latencies`` that found some, ms; NaN before the first."""
        return float(median(self._recent)) if self._recent else math.nan

    def ask(self, rung: str, rate: float) -> None:
        """The node is to run this from now on; sent at once, and again where the node comes back."""
        if self.asked is not None and (self.asked.rung, self.asked.rate) == (rung, rate):
            return
        if self.asked is None or self.asked.rung != rung:
            self._recent = []
        self.asked = Ask(rung, rate)
        self._sent_at = -math.inf
        self.tend()

    def tend(self) -> None:
        """Once per period: send what has not been sent, look at the answer, notice that the node came back or swapped."""
        ask, now = self.asked, self.clock()
        ready = bool(self._client.service_is_ready())
        if ready and not self._was_ready and ask is not None:
            self.asked = ask = Ask(ask.rung, ask.rate)  # a node that has just started knows nothing
            self._sent_at = -math.inf
            self.running = ""  # what the one before it ran says nothing about this one
        self._was_ready = ready
        if ask is None:
            return
        if self._future is not None:
            self._look_at_answer(ask, now)
        if ask.at is None and self._future is None and ready and now - self._sent_at >= _RETRY:
            self._send(ask, now)
        if ask.answered and not ask.confirmed:
            if self.running == ask.rung:
                ask.confirmed = True
            elif (
                self.running
                and ask.at is not None
                and self._heard is not None
                and self._heard > ask.at
                and now - ask.at > self.swap_timeout
            ):
                ask.confirmed = True
                self.timed_out = ask.rung
                self.on_trouble(ask.rung, f"{self.ladder.node} still runs {self.running} after {self.swap_timeout:g} s")

    def by_hand(self) -> str | None:
        """The rung that somebody else has set on the node, None if it runs what it was asked to."""
        ask = self.asked
        if ask is None or not ask.confirmed or not self.running or self.running == ask.rung:
            return None
        return self.running

    def accept(self, rung: str) -> None:
        """What the node runs is taken as what it was asked to."""
        rate = self.asked.rate if self.asked is not None else 1.0
        self.asked = Ask(rung, rate, self.clock(), True, True)
        self._recent = []

    def _send(self, ask: Ask, now: float) -> None:
        wanted = [Parameter("model.rung", value=ask.rung)]
        if self._rate_known:
            wanted.append(Parameter("model.rate", value=float(ask.rate)))
        request = self._request(parameters=[parameter.to_parameter_msg() for parameter in wanted])
        self._future, self._sent_at = self._client.call_async(request), now

    def _look_at_answer(self, ask: Ask, now: float) -> None:
        if not self._future.done():
            if now - self._sent_at > self.silent_after:  # died in between: it will be told again when it is back
                self._client.remove_pending_request(self._future)
                self._future = None
            return
        future, self._future = self._future, None
        if ask.at is not None or self._sent_at == -math.inf:
            return  # the answer to an older question
        try:
            results = list(future.result().results)
        except Exception as error:  # noqa: BLE001 - a node that dies while it answers must not stop the governor
            self.node.get_logger().warning(f"{self.ladder.node} did not answer: {error}", throttle_duration_sec=10.0)
            return
        if len(results) > 1 and not results[1].successful and self._rate_known:
            self._rate_known = False
            self.node.get_logger().info(f"{self.ladder.node} has no rate to govern: {results[1].reason}")
        ask.at, ask.answered = now, True
        if not results or not results[0].successful:
            ask.confirmed = True
            self.on_trouble(ask.rung, f"{self.ladder.node} refused: {results[0].reason if results else 'no answer'}")
