"""Errors of the page."""

from __future__ import annotations

from bevstack.errors import BevstackError


class ViewerError(BevstackError):
    """The page cannot be served or a picture cannot be written."""
