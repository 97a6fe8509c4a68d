"""Training of a GiraffeDet rung: ``bevstack train giraffedet``; several processes with torchrun.

A run lives in one folder (``bevstack.learn.run``) and continues from its checkpoint as if it had never stopped: weights,
averaged weights, optimiser, gradient scale, and the position in the data, which is a pure function of the step number.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from bevstack.detect.config import DETECTORS, GiraffeDetConfig
from bevstack.detect.letterbox import check_canvas
from bevstack.detect.network import GiraffeDetNet
from bevstack.learn.average import AveragedWeights
from bevstack.learn.half import warn_if_emulated
from bevstack.learn.loop import run_steps
from bevstack.learn.processes import Processes, joined
from bevstack.learn.run import (
    Progress,
    RunFolder,
    TrainingError,
    check_budget,
    check_finite,
    load_checkpoint,
    load_optimizer,
    save_checkpoint,
)
from bevstack.learn.stop import ignore_interrupts
from bevstack.nn.seed import seed_everything

from .data import AugmentOptions, BatchIndex, DataSpec, Sample, TrainingSet
from .losses import GFLLoss, Targets
from .widen import can_widen, widen

FIXED = ("model", "widths", "init", "optimizer")  # all parts of a run share these


@dataclass(frozen=True)
class TrainOptions:
    """What a run is asked to do.

    Attributes:
        output: the run's folder. ``data``: labelled sets.
        model: name in ``DETECTORS``; ignored when ``config`` is given.
        minutes: time budget over all continuations; the learning rate reaches its end with it. ``steps``: budget instead.
        batch: images per step and process.
        canvases: (height, width) of the training images, one drawn per step; empty: the rung's own.
        optimizer: "adamw" with a cosine, or "sgd", the published recipe: momentum 0.9, rate divided by ten at 90 % and 97 %.
        freeze: share of the budget after which batch norms keep their statistics; 1: never.
        ema: decay of the averaged weights, which are what a run produces.
        init: weights file to start from: tensors of the same name and shape are taken, a narrower backbone is widened.
        amp: half precision; None: where there is a GPU.
        workers: processes that prepare images; 0: none.
    """

    output: Path
    data: tuple[DataSpec, ...] = ()
    model: str = "giraffedet-nano"
    config: GiraffeDetConfig | None = None
    minutes: float | None = None
    steps: int | None = None
    batch: int = 8
    canvases: tuple[tuple[int, int], ...] = ()
    augment: AugmentOptions = dataclasses.field(default_factory=AugmentOptions)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    warmup: int = 100
    clip_norm: float = 10.0
    freeze: float = 0.8
    ema: float = 0.998
    seed: int = 0
    init: Path | None = None
    amp: bool | None = None
    workers: int = 0
    threads: int | None = None
    log_every: int = 20
    checkpoint_minutes: float = 4.0
    resume: bool = False

    def network(self) -> GiraffeDetConfig:
        if self.config is not None:
            return self.config
        if self.model not in DETECTORS:
            raise TrainingError(f"no detector is called {self.model!r}: choose one of {', '.join(DETECTORS)}")
        return DETECTORS[self.model]

    def sizes(self) -> tuple[tuple[int, int], ...]:
        return self.canvases or (self.network().canvas,)


def learning_rate(step: int, fraction: float, options: TrainOptions) -> float:
    """Linear warm-up over ``warmup`` steps from a tenth, then half a cosine down to 1 % ("adamw") or two steps ("sgd")."""
    warm = min(1.0, 0.1 + 0.9 * (step + 1) / max(1, options.warmup))
    if options.optimizer == "sgd":
        return options.learning_rate * warm * (1.0 if fraction < 0.9 else 0.1 if fraction < 0.97 else 0.01)
    return options.learning_rate * warm * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * fraction)))


@dataclass(frozen=True)
class Batch:
    """``images`` (N, H, W, 3) uint8 and one ``Targets`` per image."""

    images: Tensor
    targets: list[Targets]

    @staticmethod
    def of(samples: Sequence[Sample]) -> Batch:
        images = torch.from_numpy(np.stack([s.image for s in samples]))
        targets = []
        for s in samples:
            learned, ignored = ~s.labels.ignore, s.labels.ignore
            targets.append(
                Targets(
                    torch.from_numpy(s.labels.xyxy[learned]),
                    torch.from_numpy(s.labels.label[learned]),
                    torch.from_numpy(s.labels.xyxy[ignored]),
                    torch.from_numpy(np.asarray(s.labels.unknown)),
                )
            )
        return Batch(images, targets)

    def to(self, device: torch.device) -> Batch:
        if device.type == "cpu":
            return self
        targets = [
            Targets(*(v.to(device, non_blocking=True) for v in (t.boxes, t.labels, t.ignore, t.unknown))) for t in self.targets
        ]
        return Batch(self.images.to(device, non_blocking=True), targets)


class _Samples(Dataset[Sample]):
    def __init__(self, data: TrainingSet) -> None:
        self._data = data

    def __getitem__(self, key: tuple[int, tuple[int, int]]) -> Sample:
        return self._data.sample(*key)


def batches(data: TrainingSet, index: BatchIndex, workers: int, pin: bool) -> Iterator[Batch]:
    """Endless batches in the order of ``index``, prepared ahead by ``workers`` processes (0: made here)."""
    if workers == 0:
        return (Batch.of([data.sample(*key) for key in keys]) for keys in index)
    loader: DataLoader[Any] = DataLoader(
        _Samples(data),
        batch_sampler=index,
        num_workers=workers,
        collate_fn=Batch.of,
        pin_memory=pin,
        persistent_workers=True,
        worker_init_fn=ignore_interrupts,
    )
    return iter(loader)


class Trainer:
    """One run's moving parts. ``step(batch)`` trains on one batch; ``save`` and ``load`` move everything to and from a file."""

    def __init__(self, options: TrainOptions, processes: Processes | None = None) -> None:
        self.options, self.config = options, options.network()
        self.processes = processes or Processes()
        device = self.processes.device
        seed_everything(options.seed)
        net = self._build()
        self.trained: nn.Module = net  # what is saved and averaged
        shorten(net)
        if options.init is not None and not options.resume:
            self._start(net, options.init)
        net = net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._wrapped: nn.Module = net
        if self.processes.count > 1:
            if device.type == "cuda":
                net = nn.SyncBatchNorm.convert_sync_batchnorm(net)  # type: ignore[no-untyped-call]
            self._wrapped = nn.parallel.DistributedDataParallel(net, device_ids=[device] if device.type == "cuda" else None)
        self.net: GiraffeDetNet = net
        self.norms = [m for m in net.modules() if isinstance(m, (nn.BatchNorm2d, nn.SyncBatchNorm))]
        decayed = [p for p in net.parameters() if p.ndim > 1]
        plain = [p for p in net.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": options.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.AdamW(groups, lr=options.learning_rate, betas=(0.9, 0.98))
            if options.optimizer == "adamw"
            else torch.optim.SGD(groups, lr=options.learning_rate, momentum=0.9)
        )
        self.amp = device.type == "cuda" if options.amp is None else options.amp
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.amp and device.type == "cuda")
        self.average = AveragedWeights(net, options.ema)
        self.progress = Progress()
        self._losses: dict[tuple[int, int], GFLLoss] = {}
        self._mean = torch.tensor(self.config.mean, device=device)
        self._std = torch.tensor(self.config.std, device=device)

    def _build(self) -> GiraffeDetNet:
        return GiraffeDetNet(self.config)

    def _start(self, net: GiraffeDetNet, weights: Path) -> None:
        start_from(net, weights)

    def _set_modes(self, frozen: bool) -> None:
        """Training mode; norms keep their statistics once they are ``frozen``."""
        self._wrapped.train()
        for norm in self.norms:
            norm.train(not frozen)

    def _forward(self, planes: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        out: tuple[list[Tensor], list[Tensor]] = self._wrapped(planes)
        return out

    def _after_labels(self, planes: Tensor, targets: list[Targets]) -> dict[str, float]:
        """Between the backward pass of the labels and the step: other losses; their parts for the log."""
        return {}

    def losses(self, canvas: tuple[int, int]) -> GFLLoss:
        """The losses for a canvas, made once."""
        if canvas not in self._losses:
            self._losses[canvas] = GFLLoss(self.config, canvas, self.processes.device)
        return self._losses[canvas]

    def precision(self) -> torch.autocast:
        """Context of forward passes."""
        device = self.processes.device.type
        return torch.autocast(device, torch.float16 if device == "cuda" else torch.bfloat16, enabled=self.amp)

    def step(self, batch: Batch) -> dict[str, float]:
        """One optimiser step; returns the loss parts, the gradient norm and the learning rate.

        Raises:
            TrainingError: if the loss is not finite.
        """
        options, device = self.options, self.processes.device
        fraction = self.progress.fraction(options)
        rate = learning_rate(self.progress.step, fraction, options)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self._set_modes(fraction >= options.freeze)
        batch = batch.to(device)
        planes = ((batch.images.float() - self._mean) / self._std).permute(0, 3, 1, 2)
        self.optimizer.zero_grad(set_to_none=True)
        with self.precision():
            scores, logits = self._forward(planes)
        canvas = (int(batch.images.shape[1]), int(batch.images.shape[2]))
        parts = self.losses(canvas)(scores, logits, batch.targets, self.processes.mean)
        check_finite(float(parts.total.detach()), self.progress.step)
        self.scaler.scale(parts.total).backward()  # type: ignore[no-untyped-call]
        others = self._after_labels(planes, batch.targets)
        self.scaler.unscale_(self.optimizer)
        norm_value = float(nn.utils.clip_grad_norm_(self.trained.parameters(), options.clip_norm))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.average.update(self.trained)
        self.progress.step += 1
        values = {
            k: float(v.detach()) for k, v in (("loss", parts.total), ("cls", parts.cls), ("box", parts.box), ("dfl", parts.dfl))
        }
        return {**values, **others, "positives": parts.positives, "norm": norm_value, "lr": rate}

    def save(self, path: Path) -> None:
        """Everything, with ``save_checkpoint``."""
        state = {
            "config": self.config.to_json(),
            "net": self.trained.state_dict(),
            "average": self.average.state,
            "updates": self.average.updates,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "progress": dataclasses.asdict(self.progress),
        }
        save_checkpoint(state, path)

    def load(self, path: Path) -> None:
        """Continues from ``save``'s file.

        Raises:
            TrainingError: see ``load_checkpoint``.
        """
        state = load_checkpoint(path, self.config, needs=("progress", "scaler"), device=self.processes.device)
        self.trained.load_state_dict(state["net"])
        self.average.state, self.average.updates = state["average"], state["updates"]
        load_optimizer(self.optimizer, state["optimizer"])
        if state["scaler"]:  # empty where there was no half precision on a GPU before
            self.scaler.load_state_dict(state["scaler"])
        self.progress = Progress(**state["progress"])

    def averaged_net(self) -> GiraffeDetNet:
        """A copy of the network with the averaged weights, on the CPU, in evaluation mode."""
        net = GiraffeDetNet(self.config)
        net.load_state_dict(self.average.state)
        return net.eval()

    def settle(self, batches: Iterator[Batch]) -> None:
        """At the end: what the averaged weights still need; batch norms are averaged like weights, so nothing."""

    def write(self, path: Path) -> Path:
        """The averaged weights as a weights file."""
        return write_weights(self, path)


@torch.no_grad()
def shorten(net: GiraffeDetNet) -> None:
    """Lets a new head expect sides of three strides, not of eight.

    A class learns the overlap of its cell's box with the true one, and a box is weighted by its class: with boxes far too large
    neither gets going. The published schedule has the time to wait for that; a short run has not.
    """
    bias = net.bbox_head.gfl_reg.bias
    assert bias is not None
    bias.copy_(-torch.arange(net.bbox_head.bins, dtype=torch.float32).repeat(4) / 3.0)


def start_from(net: GiraffeDetNet, weights: Path) -> int:
    """Copies tensors of the same name and shape from another weights file; returns how many. A rung that differs only by a
    wider backbone is set to compute the same as the file's (``widen``).

    Raises:
        TrainingError: none fits. CheckpointError: the file cannot be read.
    """
    from bevstack.detect.weights import load_weights

    source = load_weights(weights)
    own, other = net.state_dict(), source.state_dict()
    if can_widen(source.config, net.config):
        widen(net, source)
        return len(other)
    fitting = {k: v for k, v in other.items() if k in own and own[k].shape == v.shape}
    if not fitting:
        raise TrainingError(f"{weights} has no tensor that fits {net.config.name}: start from a rung of the same widths")
    net.load_state_dict({**own, **fitting})
    return len(fitting)


def train_giraffedet(
    options: TrainOptions,
    *,
    report: Callable[[str], None] = print,
    make: Callable[[TrainOptions, Processes], Trainer] = Trainer,
) -> Path:
    """Runs (or continues) a training run to the end of its budget and writes ``weights.safetensors`` into its folder.

    Args:
        make: the trainer, for other ways to train the same thing (``bevstack.learn.detect.slim``).

    Raises:
        TrainingError: no budget, unknown model, folder in use, nothing to resume, diverged loss.
        SourceError: labelled data that cannot be read.
    """
    check_budget(options)
    for canvas in options.sizes():
        check_canvas(canvas)
        if options.batch * canvas[0] * canvas[1] <= 128 * 128:  # the coarsest map has one cell in all
            raise TrainingError("one image of 128x128 pixels is too little for batch norms: give a larger --batch or --size")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    with joined() as processes, RunFolder(options.output, resume=options.resume, first=processes.first) as folder:
        folder.check(options, options.network(), FIXED)
        data = TrainingSet(options.network(), options.data, options.seed, options.augment)
        torch.set_flush_denormal(True)  # for the run only: others in this process may need denormal numbers
        try:
            trainer = make(options, processes)
            warn_if_emulated(trainer.amp, processes.device, report)
            if options.resume:
                trainer.load(folder.checkpoint)
            about = {"processes": str(processes.count), "device": str(processes.device)}
            folder.begin(options, trainer.config.to_json(), about, trainer.progress)
            _run(trainer, data, folder, report)
            if folder.first:
                trainer.write(folder.weights)
            return folder.weights
        finally:
            torch.set_flush_denormal(False)


def _run(trainer: Trainer, data: TrainingSet, folder: RunFolder, report: Callable[[str], None]) -> None:
    options, processes = trainer.options, trainer.processes
    start = trainer.progress.step
    index = BatchIndex(options.batch, options.sizes(), options.seed, start, processes.rank, processes.count)
    stream = batches(data, index, options.workers, processes.device.type == "cuda")

    def clock(seconds: float) -> float:
        return seconds if options.minutes is None else processes.total(seconds) / processes.count

    run_steps(trainer, options, stream, folder, report, clock=clock)
    if folder.first:
        trainer.settle(stream)


def write_weights(trainer: Trainer, path: Path) -> Path:
    """The averaged weights as a weights file of ``bevstack.detect.weights``."""
    from bevstack.detect.weights import save_weights

    save_weights(path, trainer.averaged_net(), trainer.progress.card())
    return path
