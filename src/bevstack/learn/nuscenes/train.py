"""The published recipe (brief fast-bev, section 4), on one process or on many: ``bevstack train fastbev --data``.

All instants of a sample go through the image network and all take part in the gradient; FreeAnchor losses; AdamW with a lower
rate for the backbone, linear warm-up, poly schedule, gradient clipping. Options: half precision, averaged weights, frozen stem,
synchronised batch norms, TensorBoard. Started by ``torchrun`` the batch is shared between its processes; losses are divided by
the objects of the whole batch, so that many processes do what one would.

The run folder is that of ``bevstack.learn.run``.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

from bevstack.bev.anchors import all_anchors
from bevstack.bev.config import CONFIGS, FastBEVConfig
from bevstack.bev.network import FastBEVNet
from bevstack.bev.weights import save_weights
from bevstack.nn.seed import seed_everything

from ..average import AveragedWeights
from ..freeanchor import free_anchor_losses
from ..half import warn_if_emulated
from ..processes import Processes, joined
from ..run import (
    CsvLog,
    Means,
    Progress,
    RunFolder,
    TrainingError,
    check_finite,
    load_checkpoint,
    load_optimizer,
    save_checkpoint,
)
from ..stop import StopSignals, ignore_interrupts, stopped
from ..train import start_from
from .samples import DrivePool, MixedPool, NuScenesPool, Pool, SampleSet, TrainingSample, split_scenes

FIXED = ("model", "init", "freeze_stem")  # all parts of a run share these


@dataclass(frozen=True)
class RecipeOptions:
    """What a run is asked to do; defaults are the published ones for 32 samples per step.

    Attributes:
        output: the run's folder. ``model``: name in ``CONFIGS``; ignored when ``config`` is given.
        data: nuScenes folder; None: simulated drives only. ``split``: official name, or "all".
        mix: share of samples from simulated drives.
        steps: budget; the schedule ends with it. ``batch``: samples per step, over all processes.
        schedule: "poly" falls linearly to 0; "cosine".
        backbone_rate: factor on the backbone's learning rate.
        freeze_stem: stem and first stage keep their weights, as published (for a pretrained backbone).
        norms: "train"; "sync" over processes (GPUs only); "backbone": the backbone's keep their statistics, as published;
            "frozen": all of them do.
        ema: decay of the averaged weights; 0: none, as published.
        amp: "fp16" (with a loss scale) on a GPU, or "bf16".
        workers: processes per process that load samples.
        checkpoint_steps: how often everything is saved.
    """

    output: Path
    model: str = "fastbev-m0"
    config: FastBEVConfig | None = None
    data: Path | None = None
    version: str | None = None
    split: str = "train"
    mix: float = 0.0
    steps: int = 77_000
    batch: int = 32
    learning_rate: float = 4e-4
    weight_decay: float = 0.01
    warmup: int = 1000
    warmup_ratio: float = 1e-6
    schedule: Literal["poly", "cosine"] = "poly"
    clip_norm: float = 35.0
    backbone_rate: float = 0.1
    freeze_stem: bool = False
    norms: Literal["train", "sync", "backbone", "frozen"] = "train"
    ema: float = 0.0
    amp: Literal["off", "fp16", "bf16"] = "off"
    balance: bool = True
    augment: bool = True
    seed: int = 0
    first_drive: int = 10_000
    workers: int = 4
    log_every: int = 50
    checkpoint_steps: int = 500
    tensorboard: bool = False
    resume: bool = False
    init: Path | None = None

    def network(self) -> FastBEVConfig:
        if self.config is not None:
            return self.config
        if self.model not in CONFIGS:
            raise TrainingError(f"no model is called {self.model!r}: choose one of {', '.join(CONFIGS)}")
        return CONFIGS[self.model]

    def pool(self) -> Pool:
        """Where samples come from.

        Raises:
            TrainingError: a share that makes no sense.
        """
        if not 0.0 <= self.mix <= 1.0:
            raise TrainingError(f"mix is {self.mix}: give the share of simulated samples, 0 to 1")
        if self.data is None or self.mix == 1.0:
            return DrivePool(self.first_drive)
        real = NuScenesPool(self.data, self.version, split_scenes(self.split), self.balance, self.seed)
        len(real)  # reads the tables now, once, before workers are started: faults in them are reported at once
        return MixedPool(real, DrivePool(self.first_drive), self.mix) if self.mix > 0 else real


def rate(step: int, options: RecipeOptions) -> float:
    """Learning rate of a step: the schedule times a linear warm-up from ``warmup_ratio``."""
    progress = min(1.0, step / max(1, options.steps))
    base = 1.0 - progress if options.schedule == "poly" else 0.5 * (1.0 + float(np.cos(np.pi * progress)))
    warm = min(1.0, step / max(1, options.warmup))
    return options.learning_rate * base * (options.warmup_ratio + (1.0 - options.warmup_ratio) * warm)


class Recipe:
    """One run's moving parts in one process."""

    def __init__(self, options: RecipeOptions, processes: Processes | None = None) -> None:
        self.options, self.processes = options, processes or Processes()
        self.config = options.network()
        if options.batch % self.processes.count:
            raise TrainingError(
                f"a batch of {options.batch} cannot be shared by {self.processes.count} processes: give a multiple"
            )
        seed_everything(options.seed)
        device = self.processes.device
        net = FastBEVNet(self.config)
        if options.init is not None and not options.resume:
            start_from(net, options.init)
        if options.norms == "sync" and self.processes.count > 1:
            if device.type != "cuda":
                raise TrainingError("norms=sync needs GPUs: on CPUs choose train, backbone or frozen")
            net = nn.SyncBatchNorm.convert_sync_batchnorm(net)  # type: ignore[no-untyped-call]
        self.net = net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._freeze()
        self.module: nn.Module = self.net
        if self.processes.count > 1:
            # Norms differ between processes while they train, as published; the first process's are what is saved.
            self.module = DistributedDataParallel(self.net, broadcast_buffers=False)
        self.optimizer = torch.optim.AdamW(self._groups(), lr=options.learning_rate)
        self.scaler = torch.amp.GradScaler(device.type, enabled=options.amp == "fp16" and device.type == "cuda")
        self.average = AveragedWeights(self.net, options.ema) if options.ema > 0 else None
        self.anchors = torch.from_numpy(all_anchors(self.config)).to(device)
        self._mean = torch.tensor(self.config.mean, device=device)
        self._std = torch.tensor(self.config.std, device=device)
        self.step_number = 0

    def _freeze(self) -> None:
        if self.options.freeze_stem:
            for name, parameter in self.net.backbone.named_parameters():
                if name.startswith(("conv1.", "bn1.", "stem.", "layer1.")):
                    parameter.requires_grad_(False)

    def _groups(self) -> list[dict[str, Any]]:
        backbone = [p for p in self.net.backbone.parameters() if p.requires_grad]
        known = {id(p) for p in self.net.backbone.parameters()}
        others = [p for p in self.net.parameters() if p.requires_grad and id(p) not in known]
        decay = self.options.weight_decay
        return [
            {"params": others, "weight_decay": decay, "factor": 1.0},
            {"params": backbone, "weight_decay": decay, "factor": self.options.backbone_rate},
        ]

    def _train_mode(self) -> None:
        self.module.train()
        still = {"backbone": self.net.backbone, "frozen": self.net}.get(self.options.norms)
        for part in still.modules() if still is not None else ():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.eval()

    def _cast(self) -> contextlib.AbstractContextManager[Any]:
        kind = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(self.options.amp)
        if kind is None or (kind is torch.float16 and self.processes.device.type != "cuda"):
            return contextlib.nullcontext()
        return torch.autocast(self.processes.device.type, dtype=kind)

    def losses(self, samples: list[TrainingSample]) -> dict[str, Tensor]:
        """FreeAnchor's two losses of this process's samples, scaled so that the mean over processes is that of the batch."""
        device, kinds = self.processes.device, self.config.anchors.per_cell
        pixels = torch.from_numpy(np.stack([s.images for s in samples])).to(device, non_blocking=True)
        images = ((pixels.float() - self._mean) / self._std).permute(0, 1, 4, 2, 3)
        tables = torch.from_numpy(np.stack([s.tables for s in samples])).to(device, non_blocking=True)
        with self._cast():
            maps = self.module(images, tables)

        def flat(value: Tensor) -> Tensor:
            b, c, ny, nx = value.shape
            return value.float().reshape(b, kinds, c // kinds, ny, nx).permute(0, 3, 4, 1, 2).reshape(b, -1, c // kinds)

        cls, reg, direction = (flat(m) for m in maps)
        rows = [torch.from_numpy(s.rows).to(device) for s in samples]
        labels = [torch.from_numpy(s.labels).to(device) for s in samples]
        free = free_anchor_losses(cls, reg, direction, self.anchors, rows, labels)
        own = len(free.per_box)
        everywhere = self.processes.total(float(own))
        # Sums of this process over the objects of the whole batch, times the processes that DDP takes the mean over.
        share = self.processes.count * max(1, own) / max(1.0, everywhere)
        return {"positive": free.positive * share, "negative": free.negative * share}

    def step(self, samples: list[TrainingSample]) -> dict[str, float]:
        """One optimiser step on this process's share of a batch.

        Raises:
            TrainingError: if the loss is not finite.
        """
        self._train_mode()
        now = rate(self.step_number, self.options)
        for group in self.optimizer.param_groups:
            group["lr"] = now * group["factor"]
        self.optimizer.zero_grad(set_to_none=True)
        parts = self.losses(samples)
        total = torch.stack(list(parts.values())).sum()
        value = self.processes.total(float(total.detach())) / self.processes.count
        check_finite(value, self.step_number)
        self.scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimizer)
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = float(nn.utils.clip_grad_norm_(trained, self.options.clip_norm))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update(self.net)
        self.step_number += 1
        means = {k: self.processes.total(float(v.detach())) / self.processes.count for k, v in parts.items()}
        return {"loss": value, **means, "norm": norm, "lr": now}

    def save(self, path: Path) -> None:
        """Everything, with ``save_checkpoint``."""
        state = {
            "config": self.config.to_json(),
            "step": self.step_number,
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": None if self.average is None else self.average.state,
            "updates": 0 if self.average is None else self.average.updates,
            "random": torch.get_rng_state(),
        }
        save_checkpoint(state, path)

    def load(self, path: Path) -> None:
        """Continues from ``save``'s file.

        Raises:
            TrainingError: see ``load_checkpoint``.
        """
        state = load_checkpoint(path, self.config, needs=("step", "scaler"))
        self.net.load_state_dict(state["net"])
        load_optimizer(self.optimizer, state["optimizer"])
        if state["scaler"]:  # empty where there was no half precision on a GPU before
            self.scaler.load_state_dict(state["scaler"])
        if self.average is not None and state["average"] is not None:
            self.average.state = {k: v.to(self.processes.device) for k, v in state["average"].items()}
            self.average.updates = state["updates"]
        elif self.average is not None:  # averaged from here on
            self.average = AveragedWeights(self.net, self.options.ema)
        torch.set_rng_state(state["random"])
        self.step_number = state["step"]

    def result(self) -> FastBEVNet:
        """The averaged network, or the trained one where there is no average; evaluation mode, on the CPU."""
        net = FastBEVNet(self.config)
        state = self.net.state_dict() if self.average is None else self.average.state
        net.load_state_dict({k: v.cpu() for k, v in state.items()})
        return net.eval()


class _Numbered(Dataset[TrainingSample]):
    """What a loader's workers need: sample ``n`` by its number."""

    def __init__(self, samples: SampleSet) -> None:
        self.samples = samples

    def __getitem__(self, number: int) -> TrainingSample:
        return self.samples[number]


def _as_they_are(samples: list[TrainingSample]) -> list[TrainingSample]:
    return samples


def batches(options: RecipeOptions, samples: SampleSet, processes: Processes, start: int) -> Iterator[list[TrainingSample]]:
    """This process's share of every batch from step ``start`` to the end."""
    share = options.batch // processes.count
    numbers = [
        list(range(step * options.batch + processes.rank * share, step * options.batch + (processes.rank + 1) * share))
        for step in range(start, options.steps)
    ]
    if options.workers == 0:
        yield from ([samples[n] for n in listed] for listed in numbers)
        return
    loader: DataLoader[TrainingSample] = DataLoader(
        _Numbered(samples),
        batch_sampler=numbers,
        num_workers=options.workers,
        collate_fn=_as_they_are,
        worker_init_fn=ignore_interrupts,
    )
    yield from loader


def _board(options: RecipeOptions) -> Any:
    """TensorBoard's writer.

    Raises:
        TrainingError: the package is missing.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise TrainingError("--tensorboard needs the package tensorboard: pip install 'bevstack[tensorboard]'") from None
    return SummaryWriter(str(options.output / "tensorboard"))  # type: ignore[no-untyped-call]


def train_recipe(
    options: RecipeOptions,
    *,
    pool: Pool | None = None,
    report: Callable[[str], None] = print,
    progress: Callable[[int, int], None] | None = None,
) -> Path | None:
    """Runs (or continues) a run to its last step and writes ``weights.safetensors``.

    Args:
        pool: other samples than those the options name.
        report: receives one line per log entry. progress: called with (steps done, steps in all).

    Returns:
        The weights file; None in all processes but the first.

    Raises:
        TrainingError: unknown model, folder in use, nothing to resume, diverged loss, missing package.
        BevstackError: the data cannot be read.
    """
    if options.steps < 1:
        raise TrainingError(f"--steps is {options.steps}: give a budget above 0")
    with joined() as processes, RunFolder(options.output, resume=options.resume, first=processes.first) as folder:
        folder.check(options, options.network(), FIXED)
        recipe = Recipe(options, processes)
        warn_if_emulated(options.amp == "bf16", processes.device, report)
        samples = SampleSet(pool or options.pool(), recipe.config, options.seed, options.augment)
        board = _board(options) if options.tensorboard and folder.first else None
        about = {"processes": str(processes.count), "device": str(processes.device)}
        if options.resume:
            recipe.load(folder.checkpoint)
        folder.begin(options, recipe.config.to_json(), about, Progress(recipe.step_number))
        log = CsvLog(folder.log, recipe.step_number) if folder.first else None
        means = Means()
        began = time.monotonic()
        with StopSignals() as stop:
            for batch in batches(options, samples, processes, recipe.step_number):
                parts = recipe.step(batch)
                now = time.monotonic()
                means.add({**parts, "seconds": now - began})
                began, step = now, recipe.step_number
                if log is None:
                    continue
                if progress is not None:
                    progress(step, options.steps)
                last = step == options.steps
                if step % options.log_every == 0 or last:
                    row = means.take()
                    report(log.write({"step": step, **row}))
                    if board is not None:
                        for name, value in row.items():
                            board.add_scalar(name, value, step)
                if step % options.checkpoint_steps == 0 or last or stop.received:
                    recipe.save(folder.checkpoint)
                if stop.received and not last:
                    report(stopped(step, folder.checkpoint))
                    stop.leave()
        if board is not None:
            board.close()
        if not folder.first:
            return None
        card = {"steps": str(recipe.step_number), "recipe": "published", "data": str(options.data or "simulated drives")}
        save_weights(folder.weights, recipe.result(), card)
        return folder.weights
