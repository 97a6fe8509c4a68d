"""Every shape and convention of a GiraffeDet rung, stated once. Weights carry this config; engines and nodes read it.

GiraffeDet: arXiv 2202.04256; brief giraffedet. One contract for all rungs: levels P3 to P7 at strides 8 to 128, boxes as
distances to four sides in distributions over ``reg_max`` + 1 bins, scores that are probabilities, inputs that are multiples of
128.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from bevstack.errors import CheckpointError
from bevstack.geometry import DETECTION_CLASSES
from bevstack.nn.superblocks import SuperBlockConfig
from bevstack.nn.widths import scaled, with_width

STRIDES = (8, 16, 32, 64, 128)
MULTIPLE = STRIDES[-1]

# The 80 classes of COCO's detection task, in the order of the published heads.
COCO_CLASSES: tuple[str, ...] = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone",
    "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear",
    "hair drier", "toothbrush",
)  # fmt: skip


@dataclass(frozen=True)
class ImageBackboneConfig:
    """What turns an image into five maps at ``STRIDES``.

    Attributes:
        kind: "s2d" is the space-to-depth chain (brief section 2): two strided 3x3 convolutions of ``stem`` channels, then one
            space-to-depth and 1x1 convolution per level.
        levels: channels of P3..P7.
    """

    kind: Literal["s2d"] = "s2d"
    stem: tuple[int, ...] = (32, 64)
    levels: tuple[int, ...] = (128, 256, 512, 1024, 2048)


@dataclass(frozen=True)
class SearchedImageConfig:
    """A structure that `bevstack search backbone` found, brought to the five levels.

    Attributes:
        structure: gives C3, C4 and C5; a 1x1 convolution brings each to its level's channels.
        levels: channels of P3..P7; P6 and P7 come from the level before by space-to-depth and a 1x1 convolution.
    """

    structure: SuperBlockConfig
    levels: tuple[int, ...] = (64, 128, 256, 256, 256)


@dataclass(frozen=True)
class HeadConfig:
    """GFLv2 head (brief section 4): ``convs`` 3x3 convolutions per tower, ``channels`` wide (a multiple of 32).

    Attributes:
        spare_class: one more class output, which the released weights have and nobody uses.
        quality: hidden channels of the branch that judges a box by the shape of its distributions; ``top`` values per side.
    """

    convs: int = 2
    channels: int = 256
    reg_max: int = 16
    spare_class: bool = False
    quality: int = 64
    top: int = 4


# Classes that compete for one object: a van is a car or a truck, not both. A rider and the bicycle below are two objects.
RIVALS: tuple[frozenset[str], ...] = (
    frozenset({"car", "truck", "trailer", "bus", "construction_vehicle"}),
    frozenset({"bicycle", "motorcycle"}),
)


def rival_groups(classes: Sequence[str]) -> tuple[int, ...]:
    """Per class the number of its group in ``RIVALS``, or -1."""
    return tuple(next((n for n, group in enumerate(RIVALS) if name in group), -1) for name in classes)


@dataclass(frozen=True)
class PostConfig:
    """Post-processing: best ``candidates`` per level, then NMS, then the best ``limit`` of an image.

    Attributes:
        iou: boxes of one class that overlap by more than this are one object.
        rival_iou: the same for boxes of two classes out of one of ``RIVALS``; 1: classes leave each other alone, as published,
            and as average precision wants it.
        inside: of the classes in ``RIVALS``, a box of which more than this share lies inside a better one of its group is a
            part of the same object; 1: off, as published, and as average precision wants it.
    """

    score_threshold: float = 0.05
    candidates: int = 1000
    iou: float = 0.6
    limit: int = 100
    rival_iou: float = 0.7
    inside: float = 0.9


@dataclass(frozen=True)
class GiraffeDetConfig:
    """One rung.

    Attributes:
        depth: paper's depth multiplier; the neck has 2 * depth - 1 layers and an output layer.
        inner: channels inside the neck. ``outputs``: channels of its output layer.
        link: skip links of the neck, "log2n" or "dense".
        activation: "silu" as released; "relu" is fused into convolutions by every engine.
        canvas: (height, width) of the network's input, multiples of 128.
        fit: (longer, shorter) side that images are resized to fit before padding; None: as large as the canvas takes.
        mean, std: RGB, on the scale 0..255.
    """

    name: str
    depth: int
    inner: int
    classes: tuple[str, ...] = DETECTION_CLASSES
    backbone: ImageBackboneConfig | SearchedImageConfig = field(default_factory=ImageBackboneConfig)
    outputs: int = 256
    link: Literal["log2n", "dense"] = "log2n"
    activation: Literal["silu", "relu"] = "silu"
    head: HeadConfig = field(default_factory=HeadConfig)
    canvas: tuple[int, int] = (768, 1280)
    fit: tuple[int, int] | None = None
    post: PostConfig = field(default_factory=PostConfig)
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)

    @property
    def rivals(self) -> tuple[int, ...]:
        """Per class the number of its group in ``RIVALS``, or -1."""
        return rival_groups(self.classes)

    @property
    def layers(self) -> int:
        """Graph layers of the neck, without the output layer."""
        return 2 * self.depth - 1

    @property
    def cls_outputs(self) -> int:
        return len(self.classes) + int(self.head.spare_class)

    def to_json(self) -> str:
        """Canonical JSON: same config, same string."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))

    def digest(self) -> str:
        """First 16 hexadecimal digits of the config's SHA-256."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    @staticmethod
    def from_json(text: str) -> GiraffeDetConfig:
        """Inverse of ``to_json``.

        Raises:
            CheckpointError: if the text is no config of this version.
        """
        try:
            value = _build(GiraffeDetConfig, json.loads(text))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(f"model config inside the weights cannot be read ({error}): re-export the weights") from error
        assert isinstance(value, GiraffeDetConfig)
        return value


_NESTED: dict[str, type] = {"backbone": ImageBackboneConfig, "head": HeadConfig, "post": PostConfig}


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _build(kind: type, values: dict[str, Any]) -> object:
    unknown = sorted(set(values) - {f.name for f in dataclasses.fields(kind)})
    if unknown:
        raise ValueError(f"unknown entries {unknown}")
    parts = {k: _part(k, v) for k, v in values.items()}
    return kind(**parts)


def _part(key: str, value: Any) -> Any:
    if key == "structure":
        return SuperBlockConfig.from_dict(value)
    if key == "backbone" and "structure" in value:
        return _build(SearchedImageConfig, dict(value))
    return _build(_NESTED[key], dict(value)) if key in _NESTED else _tuples(value)


def official(depth: int, width: float, name: str | None = None) -> GiraffeDetConfig:
    """The family's rule: depth and width multipliers as in the paper, COCO classes, the released test size."""
    return GiraffeDetConfig(
        name=name or f"giraffedet-d{depth}",
        depth=depth,
        inner=int(256 * width),
        classes=COCO_CLASSES,
        head=HeadConfig(spare_class=True),
        canvas=(896, 1408),
        fit=(1333, 800),
        post=PostConfig(rival_iou=1.0, inside=1.0),
    )


def with_backbone(config: GiraffeDetConfig, structure: SuperBlockConfig) -> GiraffeDetConfig:
    """The rung with a searched backbone; the five levels keep their widths, so neck and head stay as they are."""
    return replace(config, name=f"{config.name}-searched", backbone=SearchedImageConfig(structure, config.backbone.levels))


_LITE = ImageBackboneConfig("s2d", (32, 64), (64, 128, 256, 256, 256))


def _lite(depth: int, inner: int, outputs: int, convs: int) -> GiraffeDetConfig:
    return GiraffeDetConfig(
        name=f"giraffedet-lite-d{depth}",
        depth=depth,
        inner=inner,
        outputs=outputs,
        backbone=_LITE,
        activation="relu",
        head=HeadConfig(convs=convs, channels=outputs),
    )


_NANO = replace(
    _lite(2, 64, 64, 1),
    name="giraffedet-nano",
    canvas=(384, 640),
    backbone=ImageBackboneConfig("s2d", (24, 48), (64, 96, 128, 128, 128)),
)


def narrow(config: GiraffeDetConfig, width: float) -> GiraffeDetConfig:
    """``config`` with a share of the channels in the backbone and inside the neck; ``NAME@WIDTH``. What the head reads keeps
    its channels.

    Raises:
        ValueError: a searched backbone; those have one width.
    """
    b = config.backbone
    if not isinstance(b, ImageBackboneConfig):
        raise ValueError(f"{config.name} has a searched backbone: only space-to-depth chains come in several widths")
    thin = replace(b, stem=tuple(scaled(c, width) for c in b.stem), levels=tuple(scaled(c, width) for c in b.levels))
    return replace(config, name=with_width(config.name, width), backbone=thin, inner=scaled(config.inner, width))


SLIM = replace(_NANO, name="giraffedet-slim")  # all widths in one weights file: bevstack.detect.slim
SLIM_WIDTHS = (0.5, 0.75, 1.0)

# D7 and D11 are released. The widths of the larger members stand in a picture only; 0.7 is the released members' width.
DETECTORS: dict[str, GiraffeDetConfig] = {
    c.name: c
    for c in (
        _NANO,
        *(narrow(SLIM, width) for width in SLIM_WIDTHS),
        _lite(2, 64, 64, 1),
        _lite(3, 64, 96, 1),
        _lite(4, 80, 96, 2),
        _lite(5, 96, 128, 2),
        *(official(depth, 0.7) for depth in (7, 11, 14, 16, 25, 29)),
    )
}
