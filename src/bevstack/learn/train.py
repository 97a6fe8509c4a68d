"""Training of a Fast-BEV rung on simulated drives: ``bevstack train fastbev``; see docs/training.md.

A run lives in one folder (``bevstack.learn.run``) and continues from its checkpoint as if it had never stopped: weights,
averaged weights, optimiser, random state, cached history features and the position in the data stream, which is a pure function
of the step number.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from bevstack.bev.anchors import all_anchors
from bevstack.bev.config import CONFIGS, FastBEVConfig
from bevstack.bev.network import FastBEVNet
from bevstack.nn.seed import seed_everything

from .assignment import DenseAssignmentLoss, silence_unused
from .average import AveragedWeights
from .freeanchor import free_anchor_losses
from .half import warn_if_emulated
from .loop import run_steps
from .perspective import PerspectiveHead
from .run import (
    Progress,
    RunFolder,
    TrainingError,
    check_budget,
    check_finite,
    load_checkpoint,
    load_optimizer,
    save_checkpoint,
)
from .simulated import Batch, DriveStream, StreamOptions

# All parts of a run share these: the network and its losses, and what the cached features of the past belong to.
FIXED = ("model", "widths", "init", "loss", "perspective", "batch", "clip", "drives", "seed", "first_drive")


@dataclass(frozen=True)
class TrainOptions:
    """What a run is asked to do.

    Attributes:
        model: name in ``CONFIGS``; ignored when ``config`` is given.
        output: the run's folder.
        minutes: time budget (training time, over all continuations); the learning rate reaches its end with it.
        steps: step budget instead of ``minutes``.
        batch: instants per step, each of another drive.
        clip: instants in a row of one drive.
        loss: "dense" (``bevstack.learn.assignment``) or "freeanchor" (the published one).
        perspective: weight of the auxiliary image-plane loss; 0 leaves it out.
        lanes: threads that share every batch; 1 for exact repeatability on any machine. ``threads``: torch threads inside an
            operation.
        freeze: share of the budget after which batch norms keep their statistics, so that the network ends in the state in
            which it will be used: the few, similar instants of a step give poor ones.
        drives: how many drives take turns (``bevstack.learn.simulated``).
        ema: decay of the averaged weights, which are what a run produces.
        init: weights file to start from instead of random weights; any rung whose tensors have the same names and shapes, for
            example one with another image size.
        amp: forward passes in bfloat16, which processors that have it compute in half the time; weights stay float32.
    """

    output: Path
    model: str = "fastbev-nano"
    config: FastBEVConfig | None = None
    minutes: float | None = None
    steps: int | None = None
    batch: int = 4
    clip: int = 10
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    warmup: int = 150
    clip_norm: float = 10.0
    loss: Literal["dense", "freeanchor"] = "dense"
    perspective: float = 1.0
    freeze: float = 0.55
    drives: int = 16
    ema: float = 0.998
    seed: int = 0
    first_drive: int = 10_000
    lanes: int = 1
    threads: int | None = None
    workers: int = 1
    log_every: int = 20
    checkpoint_minutes: float = 4.0
    resume: bool = False
    init: Path | None = None
    amp: bool = False

    def network(self) -> FastBEVConfig:
        if self.config is not None:
            return self.config
        if self.model not in CONFIGS:
            raise TrainingError(f"no model is called {self.model!r}: choose one of {', '.join(CONFIGS)}")
        return CONFIGS[self.model]


def learning_rate(step: int, fraction: float, options: TrainOptions) -> float:
    """Linear warm-up over ``warmup`` steps times half a cosine over the budget, down to 1 % of the peak."""
    warm = min(1.0, (step + 1) / max(1, options.warmup))
    return options.learning_rate * warm * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * fraction)))


class _Lane:
    """One thread's view of the model: its own modules and gradients, everybody's parameters.

    Splitting a batch over threads that meet once a step, instead of splitting every operation, keeps both cores busy also
    when other programs want them: an operation that waits for a thread which is not running costs more than the operation.
    """

    def __init__(self, net: FastBEVNet, perspective: PerspectiveHead | None) -> None:
        self.net, self.perspective = net, perspective
        self.parameters = list(net.parameters())
        if perspective is not None:
            self.parameters += list(perspective.parameters())
        self.norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm in self.norms:
            norm.momentum = 0.03  # few instants a step, all alike: a longer memory than the usual 0.1

    def twin(self) -> _Lane:
        other = _Lane(copy.deepcopy(self.net), copy.deepcopy(self.perspective))
        for theirs, ours in zip(other.parameters, self.parameters):
            theirs.data = ours.data  # the optimiser works in place
        return other


class Trainer:
    """One run's moving parts. ``step(batch)`` trains on one batch; ``save`` and ``load`` move everything to and from a file."""

    def __init__(self, options: TrainOptions) -> None:
        self.options = options
        self.config = options.network()
        seed_everything(options.seed)
        self.net = self._build().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.trained: nn.Module = self.net  # what is saved and averaged
        anchors = torch.from_numpy(all_anchors(self.config))
        self.anchors = anchors
        self.dense: DenseAssignmentLoss | None = None
        if options.loss == "dense":
            silence_unused(self.net, self.config)
            self.dense = DenseAssignmentLoss(self.config, anchors)
        if options.init is not None and not options.resume:
            self._start(options.init)
        self.perspective = PerspectiveHead(self.config) if options.perspective > 0 else None
        self.lanes = [_Lane(self.net, self.perspective)]
        self.lanes += [self.lanes[0].twin() for _ in range(options.lanes - 1)]
        self._pool = ThreadPoolExecutor(options.lanes) if options.lanes > 1 else None
        self.parameters = self.lanes[0].parameters
        decayed = [p for p in self.parameters if p.ndim > 1]
        plain = [p for p in self.parameters if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": options.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=options.learning_rate, betas=(0.9, 0.98))
        self.average = AveragedWeights(self.net, options.ema)
        self.progress = Progress()
        self.frozen = False
        self.history: dict[int, list[Tensor]] = {}
        mean, std = np.asarray(self.config.mean, np.float32), np.asarray(self.config.std, np.float32)
        self._mean, self._std = torch.from_numpy(mean), torch.from_numpy(std)

    def _build(self) -> FastBEVNet:
        return FastBEVNet(self.config)

    def _start(self, weights: Path) -> None:
        start_from(self.net, weights)

    def images(self, batch: Batch) -> Tensor:
        """(B*N, 3, H, W) normalised, stored channels-last."""
        flat = torch.from_numpy(batch.images).flatten(0, 1)
        return ((flat.float() - self._mean) / self._std).permute(0, 3, 1, 2)

    def past(self, features: Tensor, batch: Batch) -> list[Tensor]:
        """Features of every instant that is lifted, current first; a drive that has no past yet repeats the current frame."""
        result = [features]
        for back in batch.lookback:  # (B,) steps back that each sample uses for this age, 0: repeat
            maps = []
            for sample, (slot, steps) in enumerate(zip(batch.slots, back.tolist())):
                maps.append(features[sample].detach() if steps == 0 else self.history[slot][steps - 1])
            result.append(torch.stack(maps))
        return result

    def remember(self, batch: Batch, features: Tensor) -> None:
        keep = max(1, DriveStream.depth(self.config))
        for slot, own in zip(batch.slots, features.detach().float()):
            self.history[slot] = [own.clone(), *self.history.get(slot, [])][:keep]

    def losses(self, batch: Batch, lane: _Lane | None = None) -> tuple[Tensor, dict[str, float], Tensor]:
        """Total loss, its parts, and the image features of a batch."""
        lane = lane or self.lanes[0]
        features, bev = self.maps(lane.net, batch)
        return self.losses_of(batch, lane, features, bev)

    def maps(self, net: FastBEVNet, batch: Batch) -> tuple[Tensor, Tensor]:
        """Image features (B, N, C, Hf, Wf) of a batch, and what the head gets (B, C', X, Y)."""
        features = net.image_features(self.images(batch))
        bev: Tensor = net.neck_3d(net.lift(self.past(features, batch), torch.from_numpy(batch.tables)))
        return features, bev

    def losses_of(self, batch: Batch, lane: _Lane, features: Tensor, bev: Tensor) -> tuple[Tensor, dict[str, float], Tensor]:
        """See ``losses``, from the maps."""
        parts: dict[str, Tensor] = {}
        if self.dense is not None:
            dense = self.dense(lane.net.bbox_head, bev, batch.targets)
            parts |= {"heat": dense.heat, "box": dense.box, "turn": dense.direction}
        else:
            kinds = self.config.anchors.per_cell

            def flat(maps: Tensor) -> Tensor:
                b, c, ny, nx = maps.shape
                return maps.reshape(b, kinds, c // kinds, ny, nx).permute(0, 3, 4, 1, 2).reshape(b, -1, c // kinds)

            cls, reg, direction = lane.net.bbox_head(bev)
            rows = [torch.from_numpy(r) for r in batch.rows]
            labels = [torch.from_numpy(v) for v in batch.labels]
            free = free_anchor_losses(flat(cls), flat(reg), flat(direction), self.anchors, rows, labels)
            parts |= {"positive": free.positive, "negative": free.negative}
        if lane.perspective is not None:
            parts["perspective"] = self.options.perspective * lane.perspective(features, batch.perspective)
        total = torch.stack(list(parts.values())).sum()
        return total, {k: float(v.detach()) for k, v in parts.items()}, features.detach()

    def precision(self) -> torch.autocast:
        """Context of forward passes and losses."""
        return torch.autocast("cpu", torch.bfloat16, enabled=self.options.amp)

    def _lane_step(self, number: int, batch: Batch) -> tuple[float, dict[str, float], Tensor]:
        lane = self.lanes[number]
        for parameter in lane.parameters:
            parameter.grad = None
        with self.precision():
            total, parts, features = self.losses(batch, lane)
        check_finite(float(total.detach()), self.progress.step)
        (total / len(self.lanes)).backward()  # type: ignore[no-untyped-call]
        return float(total.detach()), parts, features

    def step(self, batch: Batch) -> dict[str, float]:
        """One optimiser step; returns the loss parts, the gradient norm and the learning rate.

        Raises:
            TrainingError: if the loss is not finite.
        """
        rate = learning_rate(self.progress.step, self.progress.fraction(self.options), self.options)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        frozen = self.progress.fraction(self.options) >= self.options.freeze
        if frozen and not self.frozen:
            self.copy_statistics()
        self.frozen = frozen
        self._set_modes(frozen)
        shares = batch.split(len(self.lanes))
        if self._pool is None:
            results = [self._lane_step(0, shares[0])]
        else:
            results = list(self._pool.map(self._lane_step, range(len(shares)), shares))
            for lane in self.lanes[1:]:
                for ours, theirs in zip(self.parameters, lane.parameters):
                    if theirs.grad is not None:
                        ours.grad = theirs.grad if ours.grad is None else ours.grad.add_(theirs.grad)
        self.remember(batch, torch.cat([features for _, _, features in results]))
        norm = float(nn.utils.clip_grad_norm_(self.parameters, self.options.clip_norm))
        self.optimizer.step()
        self.average.update(self.trained)
        self.progress.step += 1
        means = {k: sum(parts[k] for _, parts, _ in results) / len(results) for k in results[0][1]}
        return {"loss": sum(total for total, _, _ in results) / len(results), **means, "norm": norm, "lr": rate}

    def _set_modes(self, frozen: bool) -> None:
        """Training mode; norms keep their statistics once they are ``frozen``."""
        for lane in self.lanes:
            lane.net.train()
            for layer in lane.norms:
                layer.train(not frozen)

    def copy_statistics(self) -> None:
        """Gives every lane the first one's batch-norm statistics; from then on they stay as they are."""
        for lane in self.lanes[1:]:
            for ours, theirs in zip(self.lanes[0].norms, lane.norms):
                theirs.load_state_dict(ours.state_dict())

    def save(self, path: Path) -> None:
        """Everything, with ``save_checkpoint``."""
        state = {
            "config": self.config.to_json(),
            "net": self.trained.state_dict(),
            "perspective": None if self.perspective is None else self.perspective.state_dict(),
            "average": self.average.state,
            "updates": self.average.updates,
            "optimizer": self.optimizer.state_dict(),
            "progress": dataclasses.asdict(self.progress),
            "history": self.history,
            "random": torch.get_rng_state(),
        }
        save_checkpoint(state, path)

    def load(self, path: Path) -> None:
        """Continues from ``save``'s file.

        Raises:
            TrainingError: see ``load_checkpoint``.
        """
        state = load_checkpoint(path, self.config, needs=("progress", "history"))
        self.trained.load_state_dict(state["net"])
        if self.perspective is not None and state["perspective"] is not None:
            self.perspective.load_state_dict(state["perspective"])
        self.average.state, self.average.updates = state["average"], state["updates"]
        load_optimizer(self.optimizer, state["optimizer"])
        self.progress = Progress(**state["progress"])
        self.history = state["history"]
        torch.set_rng_state(state["random"])

    def averaged_net(self) -> FastBEVNet:
        """A copy of the network with the averaged weights, in evaluation mode."""
        net = FastBEVNet(self.config)
        net.load_state_dict(self.average.state)
        return net.eval()

    def settle(self, batches: Iterator[Batch], count: int) -> None:
        """Final batch-norm statistics of the averaged weights, from ``count`` fresh batches; none where they are frozen."""
        if not self.frozen:
            recompute_statistics(self, batches, count)

    def write(self, path: Path) -> Path:
        """The averaged weights as a weights file."""
        return write_weights(self, path)


def start_from(net: FastBEVNet, weights: Path) -> None:
    """Copies another rung's tensors into ``net``.

    Raises:
        TrainingError: names or shapes differ.
        CheckpointError: the file cannot be read.
    """
    from bevstack.bev.weights import load_weights

    try:
        net.load_state_dict(load_weights(weights).state_dict())
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise TrainingError(f"{weights} does not fit {net.config.name}: {reason}") from error


@torch.no_grad()
def recompute_statistics(trainer: Trainer, batches: Iterator[Batch], count: int) -> None:
    """Replaces the averaged weights' batch-norm statistics by the plain mean over ``count`` fresh batches."""
    net = FastBEVNet(trainer.config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    net.load_state_dict(trainer.average.state)
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative mean
    net.train()
    live, trainer.net = trainer.net, net
    try:
        for _, batch in zip(range(count), batches):
            features = net.image_features(trainer.images(batch))
            net.head_maps(net.lift(trainer.past(features, batch), torch.from_numpy(batch.tables)))
            trainer.remember(batch, features)
    finally:
        trainer.net = live
    trainer.average.state = {k: v.clone() for k, v in net.state_dict().items()}


def train_fastbev(
    options: TrainOptions,
    *,
    report: Callable[[str], None] = print,
    statistics: int = 60,
    make: Callable[[TrainOptions], Trainer] = Trainer,
) -> Path:
    """Runs (or continues) a training run to the end of its budget and writes ``weights.safetensors`` into its folder.

    Args:
        make: the trainer, for other ways to train the same thing (``bevstack.learn.slim``).
        report: receives one line per log entry.
        statistics: batches for the final batch-norm statistics of the averaged weights.

    Raises:
        TrainingError: no budget, unknown model, folder in use, nothing to resume, diverged loss.
    """
    check_budget(options)
    threads = options.threads or (1 if options.lanes > 1 else None)
    if threads is not None:
        torch.set_num_threads(threads)
    with RunFolder(options.output, resume=options.resume) as folder:
        folder.check(options, options.network(), FIXED)
        trainer = make(options)
        warn_if_emulated(options.amp, torch.device("cpu"), report)
        if options.resume:
            trainer.load(folder.checkpoint)
        folder.begin(options, trainer.config.to_json(), progress=trainer.progress)
        _run(trainer, folder, statistics, report)
        return trainer.write(folder.weights)


def _run(trainer: Trainer, folder: RunFolder, statistics: int, report: Callable[[str], None]) -> None:
    options = trainer.options
    stream_options = StreamOptions(
        batch=options.batch,
        drives=options.drives,
        clip=options.clip,
        seed=options.seed,
        first_drive=options.first_drive,
        workers=options.workers,
    )
    with DriveStream(trainer.config, stream_options, start=trainer.progress.step) as stream:
        batches = iter(stream)
        run_steps(trainer, options, batches, folder, report)
        if statistics:
            trainer.settle(batches, statistics)


def write_weights(trainer: Trainer, path: Path) -> Path:
    """The averaged weights as a weights file of ``bevstack.bev.weights``."""
    from bevstack.bev.weights import save_weights

    save_weights(path, trainer.averaged_net(), trainer.progress.card())
    return path
