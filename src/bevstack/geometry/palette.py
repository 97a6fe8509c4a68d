"""Colours of the detection classes, for the page, the picture and the debug overlays alike."""

from __future__ import annotations

from .classes import DETECTION_CLASSES

# Chosen to stay apart on asphalt, on a dark and on a light page; neighbours in the list differ in brightness as well as hue.
CLASS_COLOURS: dict[str, str] = {
    "car": "#4da3ff",
    "truck": "#ff9f43",
    "trailer": "#b78bff",
    "bus": "#ff6b6b",
    "construction_vehicle": "#d6a419",
    "bicycle": "#2fd6c3",
    "motorcycle": "#ff6fc8",
    "pedestrian": "#5fd65f",
    "traffic_cone": "#ffe14d",
    "barrier": "#a9bacd",
}
UNKNOWN_COLOUR = "#e6e6e6"


def class_name(label: int) -> str:
    """Name of a class index; ``class <n>`` for an index outside ``DETECTION_CLASSES``."""
    return DETECTION_CLASSES[label] if 0 <= label < len(DETECTION_CLASSES) else f"class {label}"


def class_rgb(label: int) -> tuple[int, int, int]:
    """(red, green, blue) 0..255 of a class index; a light grey for an index outside ``DETECTION_CLASSES``."""
    return colour_of_class(class_name(label))


# Other detectors call the same things by other names (COCO's).
_ALIASES = {"person": "pedestrian"}


def colour_of_class(name: str) -> tuple[int, int, int]:
    """(red, green, blue) 0..255 of a class name; a light grey for a name that has no colour."""
    text = CLASS_COLOURS.get(_ALIASES.get(name, name), UNKNOWN_COLOUR)
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)
