"""Slimmable networks: several widths of one network on one set of weights (Yu et al., arXiv 1812.08928).

A narrower network uses the leading channels of the widest one's weights; only its norms are its own, because the statistics of
a sum over fewer channels differ. There is no switch that is thrown: ``Slimmable.at`` hands out one network per width, each with
the methods of the ordinary one, and all of them read, and in training move, the same tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

NetT = TypeVar("NetT", bound=nn.Module)
# (channels in the widest network, channels used) of each map of a concatenation, in order.
Parts = tuple[tuple[int, int], ...]
NORMS = (nn.BatchNorm2d, nn.GroupNorm)


def leading(tensor: Tensor, shape: Sequence[int], parts: Parts | None = None) -> Tensor:
    """The leading corner of ``tensor`` that has ``shape``; of dimension 1, where it reads a concatenation, the leading channels
    of each of its ``parts``.

    Raises:
        ValueError: the tensor is too small, or has other dimensions.
    """
    if tensor.dim() != len(shape) or any(n > m for n, m in zip(shape, tensor.shape)):
        raise ValueError(f"a tensor of shape {tuple(tensor.shape)} has no leading part of shape {tuple(shape)}")
    if parts is not None:
        if sum(full for full, _ in parts) != tensor.shape[1] or sum(used for _, used in parts) != shape[1]:
            raise ValueError(f"parts {parts} do not add up to {tensor.shape[1]} and {shape[1]} channels")
        pieces, first = [], 0
        for full, used in parts:
            pieces.append(tensor[:, first : first + used])
            first += full
        tensor = torch.cat(pieces, 1)
    return tensor[tuple(slice(0, n) for n in shape)]


class SlicedConv2d(nn.Module):
    """A convolution with the leading channels of another one's weights.

    Args:
        shared: the convolution whose weights are used; it stays their owner.
        own: a convolution of the narrower shape; only its shape and stride are used.
        parts: of its input, where that is a concatenation.
    """

    def __init__(self, shared: nn.Conv2d, own: nn.Conv2d, parts: Parts | None = None) -> None:
        super().__init__()
        if shared.groups != 1 or own.groups != 1:
            raise ValueError("grouped convolutions have no leading input channels: only groups=1 can be made narrower")
        self._shared = (shared,)  # in a tuple: not a part of this module, so its weights are counted and saved once
        self._shape, self._parts = tuple(own.weight.shape), parts
        self.stride, self.padding, self.dilation = own.stride, own.padding, own.dilation
        leading(shared.weight, self._shape, parts)

    @property
    def weight(self) -> Tensor:
        """The part of the shared weight; gradients flow to the whole."""
        return leading(self._shared[0].weight, self._shape, self._parts)

    @property
    def bias(self) -> Tensor | None:
        bias = self._shared[0].bias
        return None if bias is None else bias[: self._shape[0]]

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation)


def _narrowed(net: NetT, full: NetT, private: Callable[[str], bool], parts: Mapping[str, Parts]) -> NetT:
    """Makes ``net`` use ``full``'s tensors, in place. Its norms that are ``private`` stay its own."""
    for name, module in list(net.named_modules()):
        held = list(module.parameters(recurse=False))
        if not held or (isinstance(module, NORMS) and private(name)):
            continue
        shared = full.get_submodule(name)
        parent, _, child = name.rpartition(".")
        owner = net.get_submodule(parent)
        if [p.shape for p in held] == [p.shape for p in shared.parameters(recurse=False)] and name not in parts:
            if any(True for _ in module.children()):
                raise ValueError(f"{name} holds weights and other modules: it cannot be shared")
            setattr(owner, child, shared)
        elif isinstance(module, nn.Conv2d) and isinstance(shared, nn.Conv2d):
            setattr(owner, child, SlicedConv2d(shared, module, parts.get(name)))
        else:
            raise ValueError(
                f"{name} is a {type(module).__name__} of another width: only convolutions and private norms can be"
            )
    return net


class Slimmable(nn.Module, Generic[NetT]):
    """Networks of several widths on one set of weights.

    Args:
        build: makes the ordinary network of a width.
        widths: shares of the channels, any order; the largest owns the weights.
        private: which norms, by their names in the network, every width has for itself. Other norms are shared, so their
            channels must not depend on the width.
        parts: for a width, the inputs of convolutions that read concatenations, by name.
    """

    def __init__(
        self,
        build: Callable[[float], NetT],
        widths: Sequence[float],
        private: Callable[[str], bool],
        parts: Callable[[float], Mapping[str, Parts]] = lambda width: {},
    ) -> None:
        super().__init__()
        self.widths = tuple(sorted(set(widths)))
        self._build, self._private, self._parts = build, private, parts
        self.full = build(self.widths[-1])
        self.names: dict[float, tuple[str, ...]] = {}
        # Narrower networks are no sub-modules: what they share would be counted once for each.
        self._narrower: dict[float, NetT] = {}
        self.own = nn.ModuleDict()
        for width in self.widths[:-1]:
            net = _narrowed(build(width), self.full, private, parts(width))
            norms = {n: m for n, m in net.named_modules() if isinstance(m, NORMS) and private(n)}
            self.names[width] = tuple(norms)
            self.own[_key(width)] = nn.ModuleList(norms.values())
            self._narrower[width] = net
        self.copy_norms()

    def at(self, width: float) -> NetT:
        """The network of a width, on the shared weights.

        Raises:
            ValueError: there is no such width.
        """
        if width == self.widths[-1]:
            return self.full
        if width not in self._narrower:
            raise ValueError(f"there is no width {width}: choose one of {', '.join(map(str, self.widths))}")
        return self._narrower[width]

    def norms(self, width: float) -> list[nn.Module]:
        """The norms that this width has for itself."""
        named = self.at(width).named_modules()
        return [m for n, m in named if isinstance(m, NORMS) and self._private(n)]

    def train(self, mode: bool = True) -> Slimmable[NetT]:
        """All widths."""
        super().train(mode)
        for net in self._narrower.values():
            net.train(mode)
        return self

    @torch.no_grad()
    def copy_norms(self) -> None:
        """Gives every narrower width the leading channels of the widest one's norms, as a start."""
        for width, names in self.names.items():
            for name, norm in zip(names, self._own(width)):
                source = self.full.get_submodule(name).state_dict()
                norm.load_state_dict({k: leading(source[k], v.shape) for k, v in norm.state_dict().items()})

    def _own(self, width: float) -> Iterator[nn.Module]:
        norms = self.own[_key(width)]
        assert isinstance(norms, nn.ModuleList)
        return iter(norms)

    def tensors(self) -> dict[str, Tensor]:
        """What a file holds: the widest network's tensors by their names, own norms as ``0.5/name``."""
        found = dict(self.full.state_dict())
        for width, names in self.names.items():
            for name, norm in zip(names, self._own(width)):
                found |= {f"{width}/{name}.{k}": v for k, v in norm.state_dict().items()}
        return found

    def named_as_state(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What ``tensors`` returned, under this module's own state-dict names. Strange names stay as they are."""
        names = {name: f"full.{name}" for name in self.full.state_dict()}
        for width, own in self.names.items():
            for index, name in enumerate(own):
                for key in self.full.get_submodule(name).state_dict():
                    names[f"{width}/{name}.{key}"] = f"own.{_key(width)}.{index}.{key}"
        return {names.get(name, name): value for name, value in tensors.items()}

    def extract(self, width: float) -> NetT:
        """An ordinary network of one width with copies of its tensors, in eval mode: for export, engines, files."""
        self.at(width)
        net = self._build(width)
        state = narrow_state(self.tensors(), net, width, self.widths[-1], self._private, self._parts(width))
        net.load_state_dict(state)
        return net.eval()


def _key(width: float) -> str:
    return str(width).replace(".", "_")  # a dot would part the name


def narrow_state(
    tensors: Mapping[str, Tensor],
    net: nn.Module,
    width: float,
    widest: float,
    private: Callable[[str], bool],
    parts: Mapping[str, Parts],
) -> dict[str, Tensor]:
    """State dict of the ordinary network ``net`` of a width, out of ``Slimmable.tensors``. What is not there is left out.

    Raises:
        ValueError: a tensor is smaller than this width needs.
    """
    own = {n for n, m in net.named_modules() if isinstance(m, NORMS) and private(n)} if width != widest else set()
    state = {}
    for name, wanted in net.state_dict().items():
        module = name.rpartition(".")[0]
        source = f"{width}/{name}" if module in own else name
        if source not in tensors:
            continue
        try:
            state[name] = leading(tensors[source], wanted.shape, parts.get(module) if wanted.dim() > 1 else None).clone()
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    return state
