"""Floor 1: camera frames, where they come from, and how they are brought to one instant. Imports without torch."""

from .types import Frame, FrameSet

__all__ = ["Frame", "FrameSet"]
