"""Floor 2: GiraffeDet, boxes per camera image. Importing the package needs no torch; see ``Detector``."""

from typing import TYPE_CHECKING

from .config import DETECTORS, GiraffeDetConfig, PostConfig

if TYPE_CHECKING:
    from .detector import Detector

__all__ = ["DETECTORS", "Detector", "GiraffeDetConfig", "PostConfig"]


def __getattr__(name: str) -> object:
    if name == "Detector":  # numba and OpenCV only where boxes are wanted
        from .detector import Detector

        return Detector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
