"""The governor's topic for the page."""

from __future__ import annotations

from bevstack.ros.interfaces import GovernorState, Message
from bevstack.ros.nodes.parameters import Parameters, Spec
from bevstack.ros.runtime import Node, QoSProfile

from .heat import Heat, HeatState, ModelHeat, ZoneHeat

HEAT_PARAMETERS: tuple[Spec, ...] = (
    Spec("governor_node", "governor_node", "name of the node whose temperatures and decisions are shown; empty: none"),
)


class HeatTopics:
    """Feeds ``heat`` from ``<governor_node>/state``."""

    def __init__(self, node: Node, heat: Heat, parameters: Parameters) -> None:
        self._heat = heat
        if parameters["governor_node"]:
            topic = f"{parameters['governor_node']}/state"
            node.create_subscription(GovernorState, topic, self._on_state, QoSProfile(depth=10))

    def _on_state(self, message: Message) -> None:
        self._heat.set_state(state_from_message(message))


def state_from_message(message: Message) -> HeatState:
    """stack_msgs/GovernorState as the page's ``HeatState``; lists that are too short end the list."""
    zones = zip(message.zones, message.celsius, message.health, message.control, message.ceiling, message.predicted,
                message.innovation)  # fmt: skip
    models = zip(message.models, message.nodes, message.alive, message.rungs, message.running, message.rates, message.quality,
                 message.latency, message.expected)  # fmt: skip
    return HeatState(
        mode=message.mode,
        condition=message.condition,
        zones=tuple(
            ZoneHeat(name, float(c), health, bool(control), float(ceiling), float(p), float(i))
            for name, c, health, control, ceiling, p, i in zones
        ),
        models=tuple(
            ModelHeat(model, node, bool(alive), rung, running, float(rate), float(quality), float(latency), float(expected))
            for model, node, alive, rung, running, rate, quality, latency, expected in models
        ),
        time_to_throttle=float(message.time_to_throttle),
        headroom=float(message.headroom),
        decisions=tuple(message.decisions),
        decision_count=int(message.decision_count),
        model_check=message.model_check,
    )
