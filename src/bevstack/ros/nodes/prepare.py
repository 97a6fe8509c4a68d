"""``build_only``: everything that a node's engine keeps on disk is made, for every rung, and the process may end."""

from __future__ import annotations

from typing import Any

from bevstack.engine import HotSwap


def prepare_all(model: str, swap: HotSwap[Any] | None, engine: str, logger: Any) -> bool:
    """Loads the rungs of ``model``'s ladder that do not run yet, one after the other; False, and why, if one cannot be had.

    Args:
        swap: the ladder, its first rung loaded; None: the model has only one size. engine: what runs it, for the log.
        logger: of the node.
    """
    if swap is None or model.startswith("random:"):  # of random weights nothing is kept
        logger.info(f"{model} is ready on {engine}")
        return True
    failures = swap.prepare_others()
    for rung, reason in failures.items():
        logger.error(f"rung {rung} cannot be prepared: {reason}")
    if not failures:
        logger.info(f"{', '.join(swap.rungs)}: ready on {engine}")
    return not failures
