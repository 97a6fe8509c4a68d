"""Backbones that a search can change: a stem and super-blocks of identical residual blocks, as plain data (no torch).

The structure of MAE-DET (arXiv 2111.13336; brief mae-det, sections 2.1 and 3). ``bevstack.nn.searched`` builds the network;
``bevstack.detect.search`` scores and finds structures.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bevstack.errors import BevstackError

FORMAT = "bevstack-backbone-1"


class BackboneError(BevstackError):
    """A backbone structure that cannot be built, or a file that holds none."""


@dataclass(frozen=True)
class SuperBlock:
    """``layers`` bottleneck blocks 1x1 -> kxk -> 1x1; the first of them has the stride.

    Attributes:
        out: channels of every block's output.
        kernel: of the middle convolution, odd.
        stride: 1 or 2.
        layers: blocks.
        bottleneck: channels inside the blocks.
    """

    out: int
    kernel: int
    stride: int
    layers: int
    bottleneck: int


@dataclass(frozen=True)
class SuperBlockConfig:
    """A residual image backbone with four outputs, at strides 4, 8, 16 and 32.

    Attributes:
        stem: channels of the 3x3 stride-2 convolution at the start.
        blocks: super-blocks; four of them have stride 2. An output is the last map of its stride.

    Raises:
        BackboneError: a structure that is no such backbone.
    """

    stem: int
    blocks: tuple[SuperBlock, ...]

    def __post_init__(self) -> None:
        numbers = [self.stem, *(v for b in self.blocks for v in (b.out, b.kernel, b.layers, b.bottleneck))]
        if any(not isinstance(v, int) or isinstance(v, bool) or not 0 < v <= 1 << 16 for v in numbers):
            raise BackboneError(f"backbone {self.label}: widths, kernels and layers must be whole numbers from 1 to {1 << 16}")
        for block in self.blocks:
            if block.kernel % 2 == 0 or block.stride not in (1, 2):
                raise BackboneError(
                    f"backbone {self.label}: a block has kernel {block.kernel} and stride {block.stride}; "
                    "kernels must be odd and strides 1 or 2"
                )
        if [b.stride for b in self.blocks].count(2) != 4 or self.blocks[0].stride != 2:
            raise BackboneError(
                f"backbone {self.label}: strides are {[b.stride for b in self.blocks]}; the first block and three more must "
                "have stride 2, so that outputs lie at strides 4, 8, 16 and 32"
            )

    @property
    def label(self) -> str:
        """One line for people: stem | channels k kernel L layers b bottleneck | ..., ``s1`` where a block keeps the size."""
        parts = (f"{b.out} {'s1 ' if b.stride == 1 else ''}k{b.kernel} L{b.layers} b{b.bottleneck}" for b in self.blocks)
        return " | ".join((str(self.stem), *parts))

    @property
    def stages(self) -> tuple[tuple[int, ...], ...]:
        """Indices of the super-blocks of C2, C3, C4, C5."""
        groups: list[list[int]] = []
        for index, block in enumerate(self.blocks):
            if block.stride == 2:
                groups.append([])
            groups[-1].append(index)
        return tuple(map(tuple, groups))

    @property
    def outputs(self) -> tuple[int, ...]:
        """Channels of C2, C3, C4, C5."""
        return tuple(self.blocks[group[-1]].out for group in self.stages)

    @staticmethod
    def from_dict(values: Any) -> SuperBlockConfig:
        """From the plain form that ``dataclasses.asdict`` gives.

        Raises:
            BackboneError: anything else.
        """
        try:
            return SuperBlockConfig(values["stem"], tuple(SuperBlock(**block) for block in values["blocks"]))
        except (TypeError, KeyError, IndexError, AttributeError) as error:
            raise BackboneError(
                f"no backbone structure ({' '.join(str(error).split())[:100]}): expected stem and blocks, each with out, "
                "kernel, stride, layers, bottleneck"
            ) from error


def save_backbone(path: str | Path, config: SuperBlockConfig, found: dict[str, Any] | None = None) -> None:
    """Writes a structure as JSON; ``found`` says how it came about and stands beside it.

    Raises:
        BackboneError: the file cannot be written.
    """
    content = {"format": FORMAT, "backbone": asdict(config), "search": found or {}}
    target = Path(path)
    partial = target.with_name(f".{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(content, indent=1) + "\n")
        partial.replace(target)
    except OSError as error:
        raise BackboneError(f"backbone cannot be written to {target}: {error.strerror}") from error


def load_backbone(path: str | Path) -> SuperBlockConfig:
    """The structure of a file that ``bevstack search backbone`` wrote.

    Raises:
        BackboneError: no such file, or another kind of file.
    """
    try:
        content = json.loads(Path(path).read_text())
    except OSError as error:
        raise BackboneError(f"backbone {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise BackboneError(f"backbone {path} is no JSON ({error}): make one with `bevstack search backbone`") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise BackboneError(f"{path} is no {FORMAT} file: make one with `bevstack search backbone`")
    return SuperBlockConfig.from_dict(content.get("backbone"))
