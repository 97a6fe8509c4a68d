"""Training of Fast-BEV in several widths at once: ``bevstack train fastbev --slim``; see docs/slimmable.md.

Steps follow the sandwich rule (``bevstack.learn.sandwich``). What the narrower widths learn from the largest are its lifted
features, which every width must be able to put into the same cache, and its class scores and boxes.

What all widths have in common, the BEV encoder and the head, learns from the labels only and keeps its batch-norm statistics;
so do the norms of the largest width, which start from trained weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bevstack.bev.config import SLIM_WIDTHS
from bevstack.bev.network import AnchorHead, FastBEVNet
from bevstack.bev.slim import is_slim, load_slim, save_slim, slimmable, sort_image_channels
from bevstack.nn.slimmable import Slimmable

from .assignment import SampleTargets
from .average import AveragedWeights
from .perspective import PerspectiveTargets
from .run import TrainingError, check_finite
from .sandwich import check_widths, narrower_of_step, own_norms, settle, untaught
from .simulated import Batch
from .train import Trainer, TrainOptions, start_from

CODE = 9  # numbers that describe a box


@dataclass(frozen=True)
class SlimOptions(TrainOptions):
    """What a run of several widths is asked to do, besides ``TrainOptions``; there, ``init`` may also be a file of several
    widths, and ``freeze`` is about the narrower widths' norms. It comes early: with the statistics of a few instants, which are
    others each time, nothing can follow the largest width, whose statistics stay.

    Attributes:
        widths: shares of the image backbone's channels.
        features, outputs: weights of the distance to the largest width's lifted features and to its head's answers.
    """

    perspective: float = 0.0
    freeze: float = 0.2
    warmup: int = 30
    widths: tuple[float, ...] = SLIM_WIDTHS
    features: float = 2.0
    outputs: float = 1.0


def feature_distance(features: Tensor, wanted: Tensor, targets: Sequence[PerspectiveTargets]) -> Tensor:
    """Scalar: squared distance of (B, N, C, Hf, Wf) features, relative to the variance of those wanted. Cells on objects weigh
    more, as in the perspective loss: small objects are few cells."""
    weight = torch.from_numpy(np.stack([t.weight for t in targets]))
    error = (features.float() - wanted.float()).square().mean(2)
    return (error * weight).sum() / weight.sum() / wanted.float().var().clamp(min=1e-6)


def output_distance(
    head: AnchorHead, bev: Tensor, wanted: Tensor, targets: Sequence[SampleTargets], channels: Tensor
) -> Tensor:
    """Scalar: how far the head's answers on ``bev`` (B, C, X, Y) are from those on ``wanted``.

    Class scores of the ``channels`` in use by the quality focal loss (arXiv 2006.04388, equation 2, beta 2), as a sum over
    cells by the number of objects; box deltas by their absolute difference at the cells that are on objects.
    """
    assert head.conv_cls.bias is not None
    weight, bias = head.conv_cls.weight[channels], head.conv_cls.bias[channels]
    logits = functional.conv2d(bev, weight, bias)
    with torch.no_grad():
        probability = functional.conv2d(wanted, weight, bias).sigmoid()
    entropy = functional.binary_cross_entropy_with_logits(logits, probability, reduction="none")
    objects = max(1, sum(t.objects for t in targets))
    loss = ((logits.sigmoid() - probability).square() * entropy).sum() / objects
    sample = torch.from_numpy(np.concatenate([np.full(len(t.slot), i) for i, t in enumerate(targets)]).astype(np.int64))
    if not len(sample):
        return loss
    slot, cell = (torch.from_numpy(np.concatenate([getattr(t, n) for t in targets])) for n in ("slot", "cell"))
    columns = bev.shape[2]  # x: the head's maps are (Y, X), ``bev`` is (X, Y)
    where, sizes = torch.arange(len(slot)), head.conv_reg.out_channels // CODE

    def deltas(maps: Tensor) -> Tensor:
        rows = maps.permute(0, 2, 3, 1)[sample, cell % columns, cell // columns]
        answers = functional.linear(rows, head.conv_reg.weight.flatten(1), head.conv_reg.bias)
        return answers.reshape(len(slot), sizes, CODE)[where, slot]

    with torch.no_grad():
        aim = deltas(wanted)
    return loss + (deltas(bev) - aim).abs().sum(1).mean()


class SlimTrainer(Trainer):
    """``Trainer`` of all widths. One lane.

    Raises:
        TrainingError: more than one lane, another loss than "dense", fewer than two widths.
    """

    def __init__(self, options: TrainOptions) -> None:
        if not isinstance(options, SlimOptions):
            raise TrainingError("several widths need SlimOptions")
        if options.lanes != 1:
            raise TrainingError(f"lanes is {options.lanes}: several widths are trained in one lane, so leave --lanes out")
        if options.loss != "dense":
            raise TrainingError(f"loss is {options.loss}: several widths are trained with dense")
        check_widths(options.widths)
        self.slim_options = options
        super().__init__(options)
        self.trained = self.slim
        self.own_norms = own_norms(self.slim)
        for norm in self.own_norms:
            assert isinstance(norm, nn.BatchNorm2d)
            norm.momentum = 0.03
        own = [p for norm in self.own_norms for p in norm.parameters()]
        self.parameters = [*self.parameters, *own]
        self.optimizer.add_param_group({"params": own, "weight_decay": 0.0})
        self.average = AveragedWeights(self.slim, options.ema)
        self.common = [*self.net.neck_3d.parameters(), *self.net.bbox_head.parameters()]

    def _build(self) -> FastBEVNet:
        self.slim: Slimmable[FastBEVNet] = slimmable(self.config, self.slim_options.widths)
        return self.slim.full

    def _start(self, weights: Path) -> None:
        """From one width: important channels become the leading ones, and every width starts with their norms."""
        if is_slim(weights):
            self.slim.load_state_dict(load_slim(weights).state_dict())
            return
        start_from(self.slim.full, weights)
        sort_image_channels(self.slim.full)
        self.slim.copy_norms()

    def _set_modes(self, frozen: bool) -> None:
        self.slim.train()
        for layer in self.lanes[0].norms:
            layer.eval()
        for norm in self.own_norms:
            norm.train(not frozen)

    def _lane_step(self, number: int, batch: Batch) -> tuple[float, dict[str, float], Tensor]:
        lane, options = self.lanes[0], self.slim_options
        for parameter in self.parameters:
            parameter.grad = None
        with self.precision():
            features, bev = self.maps(lane.net, batch)
            total, parts, features = self.losses_of(batch, lane, features, bev)
        check_finite(float(total.detach()), self.progress.step)
        total.backward()  # type: ignore[no-untyped-call]
        bev = bev.detach()
        assert self.dense is not None
        with untaught(self.common):
            for label, width in narrower_of_step(self.slim, self.progress.step).items():
                with self.precision():
                    theirs, their_bev = self.maps(self.slim.at(width), batch)
                    near = options.features * feature_distance(theirs, features, batch.perspective)
                    answers = output_distance(self.net.bbox_head, their_bev, bev, batch.targets, self.dense.channels)
                loss = near + options.outputs * answers
                check_finite(float(loss.detach()), self.progress.step)
                loss.backward()  # type: ignore[no-untyped-call]
                parts |= {f"features {label}": float(near.detach()), f"outputs {label}": float(answers.detach())}
        return float(total.detach()), parts, features

    def averaged_slim(self) -> Slimmable[FastBEVNet]:
        """A copy of all widths with the averaged weights, in evaluation mode."""
        slim = slimmable(self.config, self.slim.widths)
        slim.load_state_dict(self.average.state)
        return slim.eval()

    def averaged_net(self) -> FastBEVNet:
        """A copy of the largest width."""
        return self.averaged_slim().extract(self.slim.widths[-1])

    def settle(self, batches: Iterator[Batch], count: int) -> None:
        """The narrower widths' norm statistics with the averaged weights; see ``bevstack.learn.sandwich.settle``."""
        self.average.state = settle(
            self.averaged_slim(),
            self.averaged_slim(),
            batches,
            count,
            self.images,
            lambda net, images: net.image_features(images),
            lambda features, wanted, batch: feature_distance(features, wanted, batch.perspective),
        )

    def write(self, path: Path) -> Path:
        """All widths as one weights file of ``bevstack.bev.slim``."""
        save_slim(path, self.averaged_slim(), self.progress.card())
        return path
