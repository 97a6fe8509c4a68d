"""Simulated drives: a seeded street world, seen by a rig, with the truth."""

from .bag import truth_json, write_bag
from .drive import MIN_VISIBLE_PIXELS, MIN_VISIBLE_SHARE, TRUTH_RANGE, SimulatedDrive
from .rig import nuscenes_rig, overhead_rig
from .styles import STYLES, Style
from .world import World

__all__ = [
    "MIN_VISIBLE_PIXELS",
    "MIN_VISIBLE_SHARE",
    "STYLES",
    "TRUTH_RANGE",
    "SimulatedDrive",
    "Style",
    "World",
    "nuscenes_rig",
    "overhead_rig",
    "truth_json",
    "write_bag",
]
