"""Floor 1: camera frames, where they come from, and how they are brought to one instant. Imports without torch."""

from .source import Source, open_source
from .types import Frame, FrameSet

__all__ = ["Frame", "FrameSet", "Source", "open_source"]
