"""Training of GiraffeDet in several widths at once: ``bevstack train giraffedet --slim``; see docs/slimmable.md.

Steps follow the sandwich rule (``bevstack.learn.sandwich``). What the narrower widths learn from the largest are its five level
maps and its head's answers. The head, which all widths have in common, learns from the labels only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from bevstack.detect.config import SLIM_WIDTHS
from bevstack.detect.network import GiraffeDetNet
from bevstack.detect.slim import is_slim, load_slim, save_slim, slimmable
from bevstack.learn.average import AveragedWeights
from bevstack.learn.processes import Processes
from bevstack.learn.run import TrainingError, check_finite
from bevstack.learn.sandwich import check_widths, narrower_of_step, own_norms, settle, untaught
from bevstack.nn.slimmable import Slimmable

from .losses import Targets
from .train import Batch, Trainer, TrainOptions, start_from


@dataclass(frozen=True)
class SlimOptions(TrainOptions):
    """What a run of several widths is asked to do, besides ``TrainOptions``; there, ``init`` may also be a file of several
    widths, and ``freeze`` is about the narrower widths' norms; see ``bevstack.learn.slim`` for why it comes early.

    Attributes:
        widths: shares of the channels of the backbone and inside the neck.
        maps, outputs: weights of the distance to the largest width's level maps and to its head's answers.
        statistics: batches for the narrower widths' final batch-norm statistics.
    """

    freeze: float = 0.2
    warmup: int = 30
    widths: tuple[float, ...] = SLIM_WIDTHS
    maps: float = 4.0
    outputs: float = 1.0
    statistics: int = 30


def map_distance(maps: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Scalar: squared distance of level maps relative to the variance of those wanted, mean over levels."""
    parts = [(a.float() - b.float()).square().mean() / b.float().var().clamp(min=1e-6) for a, b in zip(maps, wanted)]
    return torch.stack(parts).mean()


def answer_distance(
    answers: tuple[Sequence[Tensor], Sequence[Tensor]], wanted: tuple[Sequence[Tensor], Sequence[Tensor]], objects: int
) -> Tensor:
    """Scalar: how far a head's answers (probabilities and side logits per level) are from those wanted.

    Probabilities by the quality focal loss (arXiv 2006.04388, equation 2, beta 2), as a sum over cells by the number of
    objects; side distributions by cross-entropy, weighted by how sure the wanted answer is that there is an object.
    """
    scores, sides, sure = [], [], []
    for score, logits, aim, aim_logits in zip(*answers, *wanted):
        p, q = score.float().clamp(1e-6, 1 - 1e-6), aim.float().clamp(1e-6, 1 - 1e-6)
        entropy = -(q * p.log() + (1 - q) * (1 - p).log())
        scores.append(((p - q).square() * entropy).sum())
        n, channels, rows, columns = logits.shape
        bins = channels // 4
        log_p = functional.log_softmax(logits.float().reshape(n, 4, bins, rows, columns), 2)
        target = aim_logits.float().reshape(n, 4, bins, rows, columns).softmax(2)
        weight = q.amax(1)
        distance = -(target * (log_p - target.clamp(min=1e-9).log())).sum(2).mean(1)
        sides.append((distance * weight).sum())
        sure.append(weight.sum())
    return torch.stack(scores).sum() / max(1, objects) + torch.stack(sides).sum() / torch.stack(sure).sum().clamp(min=1e-3)


class SlimTrainer(Trainer):
    """``Trainer`` of all widths, in one process.

    Raises:
        TrainingError: several processes, fewer than two widths.
    """

    def __init__(self, options: TrainOptions, processes: Processes | None = None) -> None:
        if not isinstance(options, SlimOptions):
            raise TrainingError("several widths need SlimOptions")
        if processes is not None and processes.count > 1:
            raise TrainingError(f"{processes.count} processes: several widths are trained in one")
        check_widths(options.widths)
        self.slim_options = options
        super().__init__(options, processes)
        self.slim.to(self.processes.device)
        self.trained = self.slim
        self.own_norms = own_norms(self.slim)
        own = [p for norm in self.own_norms for p in norm.parameters()]
        self.optimizer.add_param_group({"params": own, "weight_decay": 0.0})
        self.average = AveragedWeights(self.slim, options.ema)
        self._maps: list[Tensor] = []
        self._answers: tuple[list[Tensor], list[Tensor]] = ([], [])

    def _build(self) -> GiraffeDetNet:
        self.slim: Slimmable[GiraffeDetNet] = slimmable(self.config, self.slim_options.widths)
        return self.slim.full

    def _start(self, net: GiraffeDetNet, weights: Path) -> None:
        if is_slim(weights):
            self.slim.load_state_dict(load_slim(weights).state_dict())
            return
        start_from(net, weights)
        self.slim.copy_norms()

    def _set_modes(self, frozen: bool) -> None:
        """The largest width, which starts from trained weights, keeps its statistics from the start."""
        self.slim.train()
        for layer in (*self.norms, *(self.own_norms if frozen else ())):
            layer.eval()

    def _forward(self, planes: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        maps = self.net.features(planes)
        scores, logits = self.net.bbox_head(maps)
        self._maps = [m.detach() for m in maps]
        self._answers = ([s.detach() for s in scores], [v.detach() for v in logits])
        return scores, logits

    def _after_labels(self, planes: Tensor, targets: list[Targets]) -> dict[str, float]:
        options = self.slim_options
        parts: dict[str, float] = {}
        objects = sum(len(t.boxes) for t in targets)
        with untaught(self.net.bbox_head.parameters()):
            for label, width in narrower_of_step(self.slim, self.progress.step).items():
                with self.precision():
                    maps = self.slim.at(width).features(planes)
                    answers = self.net.bbox_head(maps)
                near = options.maps * map_distance(maps, self._maps)
                far = options.outputs * answer_distance(answers, self._answers, objects)
                check_finite(float((near + far).detach()), self.progress.step)
                self.scaler.scale(near + far).backward()  # type: ignore[no-untyped-call]
                parts |= {f"maps {label}": float(near.detach()), f"outputs {label}": float(far.detach())}
        return parts

    def averaged_slim(self) -> Slimmable[GiraffeDetNet]:
        """A copy of all widths with the averaged weights, on the CPU, in evaluation mode."""
        slim = slimmable(self.config, self.slim.widths)
        slim.load_state_dict(self.average.state)
        return slim.eval()

    def averaged_net(self) -> GiraffeDetNet:
        """A copy of the largest width."""
        return self.averaged_slim().extract(self.slim.widths[-1])

    def settle(self, batches: Iterator[Batch]) -> None:
        """The narrower widths' norm statistics with the averaged weights; see ``bevstack.learn.sandwich.settle``."""
        mean, std = self._mean.cpu(), self._std.cpu()
        self.average.state = settle(
            self.averaged_slim(),
            self.averaged_slim(),
            batches,
            self.slim_options.statistics,
            lambda batch: ((batch.images.float() - mean) / std).permute(0, 3, 1, 2),
            lambda net, planes: net.features(planes),
            lambda maps, wanted, batch: map_distance(maps, wanted),
        )

    def write(self, path: Path) -> Path:
        """All widths as one weights file of ``bevstack.detect.slim``."""
        save_slim(path, self.averaged_slim(), self.progress.card())
        return path
