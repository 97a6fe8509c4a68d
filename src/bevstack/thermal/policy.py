"""The governor's policy: which rung each model runs, decided once per period from readings, latencies and evidence."""

from __future__ import annotations

from collections.abc import Sequence

from .bands import BandPolicy
from .calibration import Calibration
from .config import GovernorConfig
from .decision import Decision, Mode, PolicyState, ZoneState
from .rungs import LadderInfo
from .zones import Zone

__all__ = ["Decision", "GovernorConfig", "Mode", "Policy", "PolicyState", "ZoneState"]


class Policy(BandPolicy):
    """Predictive governor with the band policy as its fallback.

    Args:
        ladders: models that share the budget.
        zones: sensors (`zones.discover`); empty governs by latency alone.
        calibration: thermal model; None governs by bands.
        config: limits and times.

    Every model starts at its smallest allowed rung: the caller sets the nodes to `state().rungs` first.
    """

    def __init__(
        self,
        ladders: Sequence[LadderInfo],
        zones: Sequence[Zone],
        *,
        calibration: Calibration | None = None,
        config: GovernorConfig | None = None,
    ) -> None:
        super().__init__(ladders, zones, config=config)
        self.calibration = calibration
        self._trusted = True

    @property
    def model_trusted(self) -> bool:
        """False: the calibrated model is not used (bands govern) until `trust_model` says otherwise."""
        return self._trusted

    def trust_model(self, trusted: bool, why: str = "") -> None:
        """The model check's verdict."""
        self._trusted = trusted
