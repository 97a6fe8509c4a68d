"""Training of a codec: ``bevstack train codec``; see docs/codec-training.md.

A run lives in one folder (``bevstack.learn.run``), here also with ``validation.csv``, and continues from its checkpoint as if
it had never stopped.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bevstack.codec.config import CODECS, HYPER_STRIDE, STRIDE, CodecConfig
from bevstack.codec.model import CodecNet, spread_plane, to_network
from bevstack.learn.average import AveragedWeights
from bevstack.learn.half import warn_if_emulated
from bevstack.learn.loop import run_steps
from bevstack.learn.run import (
    CsvLog,
    Progress,
    RunFolder,
    TrainingError,
    check_budget,
    check_finite,
    load_checkpoint,
    load_optimizer,
    save_checkpoint,
)
from bevstack.nn.seed import seed_everything

from .crops import CropStream, find_images, read_rgb, split
from .fit import write_fitted
from .half_blocks import half_blocks
from .initial import channel_worth, principal_start
from .soap import Soap
from .validate import Validation
from .widen import can_widen, widen

CELL = STRIDE * HYPER_STRIDE
FIXED = ("model", "init", "optimizer")  # all parts of a run share these


@dataclass(frozen=True)
class CodecTrainOptions:
    """What a run is asked to do.

    Attributes:
        output: the run's folder.
        images: folders of photographs; ``exclude``: shell patterns of file names to leave out.
        minutes: time budget (training time, over all continuations); the learning rate reaches zero with it.
        steps: step budget instead of ``minutes``.
        end: minutes-of-budget share after which the learning rate starts to fall (cosine); before it stays at its peak.
        metric: "mse" or "ms-ssim" (start the latter from weights trained for the former).
        sparsity: weight of the mean absolute gained latent, faded out over the last tenth of the budget.
        visibility: share of steps in which random patches of the latent's residual are lost.
        regions: share of steps with a random rate plane instead of one rate per image.
        colour: share of crops whose saturation and hue are changed.
        hold_out: every n-th image validates.
        init: weights file to start from: of this codec, or of a smaller one that it is the larger form of.
        optimizer: "soap" or "adam".
        amp: residual blocks in bfloat16 (``half_blocks``).
        latent_steps: first steps that leave the transforms at their principal axes and train only gains and entropy model, with
            the error measured on the latent: less than half the cost of a whole step. They use ``latent_batch`` crops. Give 0
            with ``init``, unless its transforms are still at their principal axes.
    """

    output: Path
    images: tuple[Path, ...] = ()
    exclude: tuple[str, ...] = ()
    model: str = "codec-nano"
    config: CodecConfig | None = None
    minutes: float | None = None
    steps: int | None = None
    batch: int = 8
    crop: int = 256
    scales: tuple[float, ...] = (1.0, 0.7, 0.5)
    colour: float = 0.5
    optimizer: Literal["soap", "adam"] = "soap"
    learning_rate: float = 1e-3
    flat: float = 0.3
    latent_steps: int = 3000
    latent_batch: int = 16
    warmup: int = 200
    clip_norm: float = 1.0
    metric: Literal["mse", "ms-ssim"] = "mse"
    sparsity: float = 0.0
    visibility: float = 0.0
    regions: float = 0.1
    ema: float = 0.999
    seed: int = 0
    threads: int | None = None
    amp: bool = False
    hold_out: int = 40
    validate_minutes: float = 8.0
    log_every: int = 50
    checkpoint_minutes: float = 3.0
    resume: bool = False
    init: Path | None = None
    betas: tuple[float, float] = field(default=(0.9, 0.98))

    def network(self) -> CodecConfig:
        if self.config is not None:
            return self.config
        if self.model not in CODECS:
            raise TrainingError(f"no codec is called {self.model!r}: choose one of {', '.join(CODECS)}")
        return CODECS[self.model]


def check_crop(side: int) -> None:
    """
    Raises:
        TrainingError: the side of the crops is no multiple of the codec's cells.
    """
    if side % CELL:
        raise TrainingError(f"--crop {side} is no multiple of {CELL}: choose {max(1, side // CELL) * CELL}")


def learning_rate(step: int, fraction: float, options: CodecTrainOptions) -> float:
    """Linear warm-up, flat, then a cosine to zero at the end of the budget."""
    if step >= options.latent_steps:
        step -= options.latent_steps  # the transforms start here
    warm = min(1.0, (step + 1) / max(1, options.warmup))
    past = max(0.0, (fraction - options.flat) / max(1e-9, 1.0 - options.flat))
    return options.learning_rate * warm * max(1e-3, 0.5 * (1.0 + math.cos(math.pi * min(1.0, past))))


# Adam moves every weight by about the learning rate per step, whatever the weight is worth. The linear layers of the transforms
# start at their optimum and carry coefficients that differ a hundredfold, gains and priors are logarithms and table indices.
FACTORS = {"linear": 0.3, "blocks": 0.5, "entropy": 1.0, "gains": 2.0, "priors": 10.0}


def _kind(name: str) -> str:
    if name == "scales.prior_knots":
        return "priors"
    if name.startswith(("rate.log", "z_log_scale", "scales.")):
        return "gains"
    if name.startswith(("analysis.", "synthesis.")):
        return "blocks" if ".trunk." in name or ".latent." in name else "linear"
    return "entropy"


def parameter_groups(net: CodecNet, rate: float) -> list[dict[str, Any]]:
    """Parameters by kind, each kind with its multiple of the learning rate."""
    groups: dict[str, list[nn.Parameter]] = {kind: [] for kind in FACTORS}
    for name, parameter in net.named_parameters():
        groups[_kind(name)].append(parameter)
    return [{"params": members, "lr": rate, "factor": FACTORS[kind]} for kind, members in groups.items() if members]


def start_from(net: CodecNet, path: Path) -> None:
    """Weights of the same codec, or of a smaller one that ``net`` is the larger form of.

    Raises:
        TrainingError: of another one. CheckpointError: the file cannot be read.
    """
    from bevstack.codec.weights import load_weights

    source = load_weights(path)
    if dataclasses.replace(source.config, name=net.config.name, quantiser=net.config.quantiser) == net.config:
        net.load_state_dict(source.state_dict())
    elif can_widen(source.config, net.config):
        widen(net, source)
    else:
        raise TrainingError(
            f"{path} holds {source.config.name}, and {net.config.name} is not that codec grown: its latent, rates and kinds of "
            "parts must be the same, and nothing smaller; give other weights to --init"
        )


class Trainer:
    """One run's moving parts, on the GPU where there is one."""

    def __init__(self, options: CodecTrainOptions, crops: CropStream | None, device: torch.device | None = None) -> None:
        self.options, self.config = options, options.network()
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        seed_everything(options.seed)
        self.net = CodecNet(self.config)
        if options.init is not None and not options.resume:
            start_from(self.net, options.init)
        elif crops is not None and not options.resume:
            sample = np.concatenate([crops(10_000_000 + i) for i in range(12)])
            principal_start(self.net, torch.from_numpy(sample).permute(0, 3, 1, 2).float())
        self.net = self.net.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if options.amp:
            half_blocks(self.net)
        groups = parameter_groups(self.net, options.learning_rate)
        self.optimizer: torch.optim.Optimizer = (
            Soap(groups, options.learning_rate)
            if options.optimizer == "soap"
            else torch.optim.Adam(groups, betas=options.betas, eps=1e-9)
        )
        self.average = AveragedWeights(self.net, options.ema)
        self.progress = Progress()
        self.worth = channel_worth(self.net)[:, None, None].to(self.device)

    @property
    def latent_only(self) -> bool:
        """Whether the transforms are left alone in this step."""
        return self.progress.step < self.options.latent_steps

    def rates(self, step: int, count: int, side: int) -> Tensor:
        """(N, 1, a, b) rate points of a step: one per image, stratified over the range, or in some steps a random plane."""
        random = np.random.default_rng((self.options.seed, step, 1))
        top = self.config.rate.levels - 1.0
        base = (random.permutation(count) + random.random(count)) / count * (top + 2.0) - 1.0
        cells = side // CELL
        planes = np.broadcast_to(base[:, None, None], (count, cells, cells)).copy()
        if random.random() < self.options.regions:
            for plane in planes:
                inside = np.zeros((cells, cells), bool)
                y, x = random.integers(0, cells, 2)
                inside[y : y + random.integers(1, cells + 1), x : x + random.integers(1, cells + 1)] = True
                shift = random.uniform(4.0, 24.0)
                plane += np.where(inside, shift * 0.5, -shift * 0.5)
        return torch.from_numpy(planes.clip(0.0, top).astype(np.float32))[:, None].to(self.device)

    def visible(self, step: int, count: int, side: int) -> Tensor | None:
        """(N, 1, h, w) zeros where the latent's residual is lost in this step."""
        random = np.random.default_rng((self.options.seed, step, 2))
        if random.random() >= self.options.visibility:
            return None
        rows = side // STRIDE
        mask = np.ones((count, 1, rows, rows), np.float32)
        for image in mask:
            y, x = random.integers(0, rows, 2)
            image[:, y : y + rows // 2, x : x + rows // 2] = 0.0
        return torch.from_numpy(mask).to(self.device)

    def loss(self, pixels: Tensor, r: Tensor, visible: Tensor | None = None) -> tuple[Tensor, dict[str, float]]:
        """Rate-distortion loss, divided by its usual size at each rate point so that all rates count alike."""
        height, width = pixels.shape[-2:]
        if self.latent_only:
            return self._latent_loss(pixels, r, visible)
        out = self.net(pixels, r, visible)
        bpp = (out.bits_y + out.bits_z) / (height * width)
        config = self.config.rate
        weight = config.lambda_min * (config.lambda_max / config.lambda_min) ** (r / (config.levels - 1))
        usual = weight.mean((1, 2, 3)).sqrt() * 7.0
        if self.options.metric == "mse":
            fine = weight.repeat_interleave(CELL, -1).repeat_interleave(CELL, -2)
            distortion = (fine * (out.pixels - pixels).square()).mean((1, 2, 3))
        else:
            from .losses import ms_ssim

            distortion = 1333.0 * weight.mean((1, 2, 3)) * (1.0 - ms_ssim(out.pixels, pixels))
        losses = (distortion + bpp) / usual
        total = losses.mean()
        if self.options.sparsity:
            fade = min(1.0, 10.0 * (1.0 - self.progress.fraction(self.options)))
            total = total + self.options.sparsity * fade * out.latent.abs().mean()
        mse = (out.pixels.detach() - pixels).square().mean((1, 2, 3))
        parts = {
            "loss": float(total.detach()),
            "low": float(losses[r.mean((1, 2, 3)) < 21].detach().mean()),
            "high": float(losses[r.mean((1, 2, 3)) > 42].detach().mean()),
            "bpp": float(bpp.mean().detach()),
            "z_share": float((out.bits_z / (out.bits_y + out.bits_z)).mean().detach()),
            "psnr": float((10 * torch.log10(65025.0 / mse)).mean()),
        }
        return total, parts

    def _latent_loss(self, pixels: Tensor, r: Tensor, visible: Tensor | None) -> tuple[Tensor, dict[str, float]]:
        """As ``loss``, for principal axes: errors of the latent are errors of the picture."""
        with torch.no_grad():
            latent = self.net.analysis(to_network(pixels))
        out = self.net.code(latent, r, visible, synthesise=False)
        area = pixels.shape[-2] * pixels.shape[-1]
        bpp = (out.bits_y + out.bits_z) / area
        config = self.config.rate
        weight = config.lambda_min * (config.lambda_max / config.lambda_min) ** (r / (config.levels - 1))
        error = ((out.decoded - latent) * self.worth).square().sum(1, keepdim=True) / (3 * STRIDE * STRIDE)
        usual = weight.mean((1, 2, 3)).sqrt() * 7.0
        losses = ((spread_plane(weight, *latent.shape[-2:]) * error).mean((1, 2, 3)) + bpp) / usual
        parts = {
            "loss": float(losses.mean().detach()),
            "low": float(losses[r.mean((1, 2, 3)) < 21].detach().mean()),
            "high": float(losses[r.mean((1, 2, 3)) > 42].detach().mean()),
            "bpp": float(bpp.mean().detach()),
            "z_share": float((out.bits_z / (out.bits_y + out.bits_z)).mean().detach()),
            "psnr": float((10 * torch.log10(65025.0 / error.detach().mean((1, 2, 3)))).mean()),
        }
        return losses.mean(), parts

    def step(self, batch: np.ndarray[Any, np.dtype[np.uint8]]) -> dict[str, float]:
        """One optimiser step on (N, S, S, 3) crops.

        Raises:
            TrainingError: if the loss is not finite.
        """
        number = self.progress.step
        rate = learning_rate(number, self.progress.fraction(self.options), self.options)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        self.net.train()
        pixels = torch.from_numpy(batch).to(self.device).permute(0, 3, 1, 2).float()
        self.optimizer.zero_grad(set_to_none=True)
        count, side = batch.shape[0], batch.shape[1]
        total, parts = self.loss(pixels, self.rates(number, count, side), self.visible(number, count, side))
        check_finite(parts["loss"], number)
        total.backward()  # type: ignore[no-untyped-call]
        norm = float(nn.utils.clip_grad_norm_(self.net.parameters(), self.options.clip_norm))
        self.optimizer.step()
        self.average.update(self.net)
        self.progress.step += 1
        return {**parts, "norm": norm, "lr": rate}

    def save(self, path: Path) -> None:
        """Everything, with ``save_checkpoint``."""
        state = {
            "config": self.config.to_json(),
            "net": self.net.state_dict(),
            "average": self.average.state,
            "updates": self.average.updates,
            "optimizer": self.optimizer.state_dict(),
            "progress": dataclasses.asdict(self.progress),
            "worth": self.worth,
            "random": torch.get_rng_state(),
        }
        if self.device.type == "cuda":
            state["random_cuda"] = torch.cuda.get_rng_state(self.device)
        save_checkpoint(state, path)

    def load(self, path: Path) -> None:
        """Continues from ``save``'s file, on this machine's device whichever wrote it (then not to the last bit).

        Raises:
            TrainingError: see ``load_checkpoint``.
        """
        state = load_checkpoint(path, self.config, needs=("progress", "worth"), device=self.device)
        self.net.load_state_dict(state["net"])
        self.average.state, self.average.updates = state["average"], state["updates"]
        load_optimizer(self.optimizer, state["optimizer"])
        self.progress = Progress(**state["progress"])
        self.worth = state["worth"]
        torch.set_rng_state(state["random"].cpu())
        if self.device.type == "cuda" and "random_cuda" in state:
            torch.cuda.set_rng_state(state["random_cuda"].cpu(), self.device)

    def averaged_net(self) -> CodecNet:
        """A copy with the averaged weights and fixed integers, in evaluation mode, on the CPU."""
        net = CodecNet(self.config)
        net.load_state_dict(self.average.state)
        net.update()
        return net.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def train_codec(options: CodecTrainOptions, *, report: Callable[[str], None] = print) -> Path:
    """Runs (or continues) a training run to the end of its budget and writes ``weights.safetensors`` into its folder.

    Raises:
        TrainingError: no budget, unknown model, folder in use, nothing to resume, diverged loss.
        DataError: no usable images.
    """
    check_budget(options)
    check_crop(options.crop)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    options.network()  # a wrong name is said before anything is read
    with RunFolder(options.output, resume=options.resume) as folder:
        folder.check(options, options.network(), FIXED)
        held = split(find_images(options.images, options.exclude), options.hold_out)
        crops = CropStream(
            [read_rgb(p) for p in held.train], options.crop, options.batch, options.seed, options.scales, options.colour
        )
        trainer = Trainer(options, crops)
        warn_if_emulated(options.amp, trainer.device, report)
        if options.resume:
            trainer.load(folder.checkpoint)
        folder.begin(options, trainer.config.to_json(), progress=trainer.progress)
        _run(trainer, crops, Validation([read_rgb(p) for p in held.held_out]), folder, report)
        return write_weights(trainer, folder.weights, crops.images)


def ahead(batch: Callable[[int], NDArray[np.uint8]], step: int, workers: int) -> Iterator[NDArray[np.uint8]]:
    """``batch(step)``, ``batch(step + 1)``, ...; ``workers`` threads prepare the next ones, 0: each is made when asked for."""
    if workers == 0:
        yield from map(batch, itertools.count(step))
    with ThreadPoolExecutor(workers) as pool:
        waiting = deque(pool.submit(batch, step + k) for k in range(2 * workers))
        try:
            for following in itertools.count(step + 2 * workers):
                yield waiting.popleft().result()
                waiting.append(pool.submit(batch, following))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _run(trainer: Trainer, crops: CropStream, validation: Validation, folder: RunFolder, report: Callable[[str], None]) -> None:
    options, progress = trainer.options, trainer.progress
    scores = CsvLog(folder.path / "validation.csv", progress.step)
    validated = time.monotonic() if options.resume else -math.inf

    def validate(finished: bool) -> None:
        nonlocal validated
        if validation.images and (finished or time.monotonic() - validated > 60 * options.validate_minutes):
            report("validation " + scores.write({"step": progress.step, **validation(trainer.averaged_net())}))
            validated = time.monotonic()

    def batch(step: int) -> NDArray[np.uint8]:
        return crops(step, options.latent_batch if step < options.latent_steps else options.batch)

    # A CPU that trains has no core to spare; beside a GPU the others cut crops ahead.
    workers = 0 if trainer.device.type == "cpu" else min(8, os.cpu_count() or 1)
    run_steps(trainer, options, ahead(batch, progress.step, workers), folder, report, between=validate)


def write_weights(trainer: Trainer, path: Path, images: Sequence[NDArray[np.uint8]] = ()) -> Path:
    """The averaged weights as a weights file, see ``fit.write_fitted``.

    Args:
        images: some of the photographs.
    """
    write_fitted(path, trainer.averaged_net(), {**trainer.progress.card()}, images)
    return path
