"""Several widths trained at once: what their training has in common for every network; see docs/slimmable.md.

Every step follows the sandwich rule (Yu and Huang, arXiv 1903.05134): the largest width learns from the labels; the smallest,
and one in between drawn at random, learn from the largest as it is at that moment (in-place distillation). What is learned, and
how far two answers are apart, stand in each trainer's own module.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from bevstack.nn.slimmable import Slimmable

from .run import TrainingError

NetT = TypeVar("NetT", bound=nn.Module)
BatchT = TypeVar("BatchT")
AnswerT = TypeVar("AnswerT")


def check_widths(widths: Sequence[float]) -> None:
    """
    Raises:
        TrainingError: fewer than two.
    """
    if len(set(widths)) < 2:
        raise TrainingError(f"widths are {widths}: give at least two")


def narrower_of_step(slim: Slimmable[NetT], step: int) -> dict[str, float]:
    """The widths that learn from the largest in a step, by what the log calls them: one in between, if there is any, and
    the smallest. The step's number decides, so that a continued run draws the same."""
    smallest, *between = slim.widths[:-1]
    if not between:
        return {"smallest": smallest}
    chosen = torch.randint(len(between), (), generator=torch.Generator().manual_seed(step))
    return {"between": between[int(chosen)], "smallest": smallest}


def own_norms(slim: Slimmable[NetT]) -> list[nn.Module]:
    """The norms that the narrower widths have for themselves."""
    return [norm for width in slim.widths[:-1] for norm in slim.norms(width)]


@contextlib.contextmanager
def untaught(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """What is common to all widths learns from the labels only: not from what happens here."""
    kept = list(parameters)
    for parameter in kept:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in kept:
            parameter.requires_grad_(True)


@torch.no_grad()
def settle(
    old: Slimmable[NetT],
    slim: Slimmable[NetT],
    batches: Iterator[BatchT],
    count: int,
    pixels: Callable[[BatchT], Tensor],
    answer: Callable[[NetT, Tensor], AnswerT],
    distance: Callable[[AnswerT, AnswerT, BatchT], Tensor],
) -> dict[str, Tensor]:
    """The narrower widths' norm statistics for averaged weights: plain means over ``count`` fresh batches, for every width that
    they bring nearer to the largest on a quarter as many further ones.

    Args:
        old, slim: two copies of the averaged weights, in evaluation mode; ``slim`` is changed.
        pixels: a batch as the networks see it. ``answer``: what a network makes of it.
        distance: of an answer and the one that is wanted.

    Returns:
        A copy of ``slim``'s state.
    """
    narrower = slim.widths[:-1]
    for norm in own_norms(slim):
        if isinstance(norm, nn.BatchNorm2d):
            norm.reset_running_stats()
            norm.momentum = None  # cumulative mean
            norm.train()
    for _, batch in zip(range(count), batches):
        seen = pixels(batch)
        for width in narrower:
            answer(slim.at(width), seen)
    slim.eval()
    apart = {width: [0.0, 0.0] for width in narrower}
    for _, batch in zip(range(max(1, count // 4)), batches):
        seen = pixels(batch)
        wanted = answer(slim.full, seen)
        for width in narrower:
            for n, candidate in enumerate((old, slim)):
                apart[width][n] += float(distance(answer(candidate.at(width), seen), wanted, batch))
    for width in narrower:
        if apart[width][0] < apart[width][1]:
            for new, kept in zip(slim.norms(width), old.norms(width)):
                new.load_state_dict(kept.state_dict())
    return {k: v.clone() for k, v in slim.state_dict().items()}
