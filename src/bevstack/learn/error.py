"""What trainers raise."""

from __future__ import annotations

from bevstack.errors import BevstackError


class TrainingError(BevstackError):
    """A run cannot start, continue or be read."""
