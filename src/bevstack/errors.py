"""Errors that a user can act on. The command prints them as one line and exits with code 2."""

from __future__ import annotations


class BevstackError(Exception):
    """What went wrong, with which value, and what to do: one line."""


class CalibrationError(BevstackError):
    """A camera's calibration is missing or cannot be right."""


class SourceError(BevstackError):
    """A bag, video, device or folder cannot be read."""


class CheckpointError(BevstackError):
    """Weights do not fit the model that they were given to."""


class EngineError(BevstackError):
    """A network cannot be exported, loaded or run by the chosen engine."""


class BitstreamError(BevstackError):
    """A compressed stream is damaged, truncated, of another version, or larger than the reader's limits."""
