"""What trainings of several widths have in common: which widths a step teaches, and what stays untaught."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bevstack.learn.run import TrainingError
from bevstack.learn.sandwich import check_widths, narrower_of_step, own_norms, settle, untaught
from bevstack.nn.slimmable import Slimmable


class Net(nn.Module):
    def __init__(self, width: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, round(8 * width), 1)
        self.norm = nn.BatchNorm2d(round(8 * width))
        self.out = nn.Conv2d(round(8 * width), 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.norm(self.conv(x)))


def widths(*shares: float) -> Slimmable[Net]:
    torch.manual_seed(0)
    return Slimmable(Net, shares, lambda name: name == "norm")


def test_every_step_teaches_the_smallest_and_one_in_between_which_its_number_decides() -> None:
    slim = widths(0.25, 0.5, 0.75, 1.0)
    steps = [narrower_of_step(slim, n) for n in range(40)]
    assert all(list(step) == ["between", "smallest"] and step["smallest"] == 0.25 for step in steps)
    assert {step["between"] for step in steps} == {0.5, 0.75}
    torch.manual_seed(5)
    assert steps == [narrower_of_step(slim, n) for n in range(40)]
    assert narrower_of_step(widths(0.5, 1.0), 3) == {"smallest": 0.5}
    check_widths((0.5, 1.0))
    with pytest.raises(TrainingError, match="give at least two"):
        check_widths((1.0, 1.0))


def test_what_is_untaught_learns_again_afterwards_also_after_an_error() -> None:
    layer = nn.Linear(2, 2)
    taught: list[bool] = []

    def fail() -> None:
        with untaught(layer.parameters()):
            taught.extend(p.requires_grad for p in layer.parameters())
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail()
    assert taught == [False, False]
    assert all(p.requires_grad for p in layer.parameters())


def test_statistics_are_taken_where_they_help_and_kept_where_they_do_not() -> None:
    """A width whose statistics are right keeps them bit for bit; one whose statistics are wrong gets those of the batches."""
    torch.manual_seed(1)
    batches = [torch.randn(4, 3, 8, 8) for _ in range(10)]
    for wrong in (False, True):
        old, slim = (widths(0.5, 1.0).eval() for _ in range(2))
        for copy in (old, slim):
            (norm,) = own_norms(copy)
            assert isinstance(norm, nn.BatchNorm2d)
            assert norm.running_mean is not None
            norm.running_mean.fill_(100.0 if wrong else 0.0)
        # The distance is made up so that the answer depends on the statistics alone.
        state = settle(
            old,
            slim,
            iter(batches),
            8,
            lambda batch: batch,
            lambda net, seen: net.norm.running_mean.abs().max() if not net.training else net(seen).sum(),
            lambda answer, wanted, batch: answer,
        )
        mean = own_norms(slim)[0].running_mean
        assert torch.equal(mean, own_norms(old)[0].running_mean) is not wrong
        assert mean.abs().max() < 10.0
        assert all(torch.equal(v, state[k]) for k, v in slim.state_dict().items())
