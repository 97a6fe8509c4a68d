"""Training of student decoders: ``bevstack train codec-students``; see ``bevstack.learn.codec.distill`` for what they learn.

A run lives in one folder (``bevstack.learn.run``) and continues from its checkpoint as if it had never stopped, in whichever of
its two trainings that was.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bevstack.codec.config import CodecConfig
from bevstack.codec.model import CodecNet
from bevstack.learn.loop import run_steps
from bevstack.learn.run import (
    Progress,
    RunFolder,
    TrainingError,
    check_finite,
    load_checkpoint,
    load_optimizer,
    save_checkpoint,
)
from bevstack.nn.seed import seed_everything

from .crops import CropStream, find_images, read_rgb
from .distill import DistillOptions, distillation_loss, fork, least_useful, lesson, without_block
from .train import check_crop

FIXED = ("steps", "blocks")  # all parts of a run share these: both trainings' schedules hang on them
_JUDGED = 20_000_000  # number of the batch that blocks are judged on; no training comes so far
Lot = tuple[Tensor, Tensor]  # grey levels (N, 3, S, S) and rate points (N, 1, 1, 1)


@dataclass(frozen=True)
class _Pace:
    """Both trainings as one loop."""

    steps: int
    log_every: int
    checkpoint_minutes: float
    minutes: float | None = None


def lot(crops: CropStream, step: int, config: CodecConfig, seed: int) -> Lot:
    """Crops and their rate points, a pure function of the step number."""
    pixels = torch.from_numpy(crops(step)).permute(0, 3, 1, 2).float()
    random = np.random.default_rng((seed, step, 3))
    r = random.random(len(pixels)) * (config.rate.levels - 1)
    return pixels, torch.from_numpy(r.astype(np.float32))[:, None, None, None]


class Students:
    """One run's moving parts: the twin learns in the first ``steps`` steps, the small one, made of it, in as many more.

    Args:
        sha256: of the teacher's tensors.

    Raises:
        TrainingError: the small student would keep more blocks than the teacher has, or none.
    """

    def __init__(self, teacher: CodecNet, sha256: str, crops: CropStream, options: DistillOptions) -> None:
        depth = teacher.config.transform.decoder_blocks
        if not 1 <= options.blocks <= depth:
            raise TrainingError(
                f"a student with {options.blocks} blocks cannot be made of a teacher with {depth}: choose 1 to {depth}"
            )
        self.teacher, self.sha256, self.crops, self.options = teacher, sha256, crops, options
        seed_everything(options.seed)
        self.progress = Progress()
        self.twin = fork(teacher)
        self.small: CodecNet | None = None
        self._learn(self.twin)

    def _learn(self, student: CodecNet) -> None:
        self.student = student
        self.parameters = [p for p in student.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.parameters, lr=self.options.learning_rate, betas=(0.9, 0.98))

    def batch(self) -> Lot:
        """That of the next step."""
        return lot(self.crops, self.progress.step, self.teacher.config, self.options.seed)

    def shrink(self) -> list[int]:
        """From the twin to the small student: takes out the least useful blocks; returns their numbers, one after the other."""
        small, taken = fork(self.twin), []
        pixels, r = lot(self.crops, _JUDGED, self.teacher.config, self.options.seed)
        given = lesson(self.teacher, pixels, r)
        while small.config.transform.decoder_blocks > self.options.blocks:
            taken.append(least_useful(small, given, pixels))
            small = fork(without_block(small, taken[-1]))
        self.small = small
        self._learn(small)
        return taken

    def step(self, batch: Lot, /) -> dict[str, float]:
        """One optimiser step; returns loss, gradient norm and learning rate.

        Raises:
            TrainingError: if the loss is not finite.
        """
        options, number = self.options, self.progress.step
        if number >= options.steps and self.small is None:
            self.shrink()
        pixels, r = batch
        share = number % options.steps / options.steps
        rate = options.learning_rate * max(1e-3, 0.5 * (1.0 + math.cos(math.pi * share)))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        given = lesson(self.teacher, pixels, r)
        loss = distillation_loss(self.student, given, pixels, r, options, max(0.0, 1.0 - share / 0.9))
        check_finite(float(loss.detach()), number)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = float(nn.utils.clip_grad_norm_(self.parameters, options.clip_norm))
        self.optimizer.step()
        self.progress.step += 1
        blocks = float(self.student.config.transform.decoder_blocks)
        return {"loss": float(loss.detach()), "blocks": blocks, "norm": norm, "lr": rate}

    def save(self, path: Path, /) -> None:
        """Everything, with ``save_checkpoint``."""
        state = {
            "config": self.teacher.config.to_json(),
            "teacher": self.sha256,
            "twin": self.twin.state_dict(),
            "small": None if self.small is None else self.small.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": dataclasses.asdict(self.progress),
            "random": torch.get_rng_state(),
        }
        save_checkpoint(state, path)

    def load(self, path: Path) -> None:
        """Continues from ``save``'s file.

        Raises:
            TrainingError: see ``load_checkpoint``; or the students of another teacher.
        """
        state = load_checkpoint(path, self.teacher.config, needs=("twin", "teacher"))
        if state["teacher"] != self.sha256:
            raise TrainingError(
                f"{path.parent} was begun with the teacher {state['teacher'][:16]}..., not {self.sha256[:16]}...: "
                "give the same weights, or choose another folder"
            )
        self.twin.load_state_dict(state["twin"])
        if state["small"] is not None:
            small = fork(self.twin)
            while small.config.transform.decoder_blocks > self.options.blocks:
                small = fork(without_block(small, 0))  # any: the weights follow
            small.load_state_dict(state["small"])
            self.small = small
            self._learn(small)
        load_optimizer(self.optimizer, state["optimizer"])
        self.progress = Progress(**state["progress"])
        torch.set_rng_state(state["random"])


def train_students(options: DistillOptions, *, report: Callable[[str], None] = print) -> dict[str, Path]:
    """Runs (or continues) both trainings and writes the students' weights into the run's folder.

    Returns:
        The files of the same-size student ("twin") and of the shrunk one ("small"); both decode the teacher's streams.

    Raises:
        TrainingError: folder in use, nothing to resume, another teacher, no such number of blocks, diverged loss.
        DataError: no usable images. CheckpointError: the teacher cannot be read.
    """
    from bevstack.codec.weights import find_weights, load_arrays, load_weights, save_weights

    if options.steps < 1:
        raise TrainingError(f"--steps is {options.steps}: give a budget above 0")
    check_crop(options.crop)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    path = find_weights(options.teacher)
    info, _, tables = load_arrays(path)
    with RunFolder(options.output, resume=options.resume) as folder:
        folder.check(options, fixed=FIXED)
        photographs = [read_rgb(p) for p in find_images(options.images, options.exclude)]
        crops = CropStream(photographs, options.crop, options.batch, options.seed)
        students = Students(load_weights(path), info.sha256, crops, options)
        if options.resume:
            students.load(folder.checkpoint)
        folder.begin(options, info.config.to_json(), {"teacher": info.sha256}, students.progress)
        pace = _Pace(2 * options.steps, options.log_every, options.checkpoint_minutes)
        run_steps(students, pace, (students.batch() for _ in itertools.count()), folder, report)
        if students.small is None:
            raise AssertionError("the second training has not begun")
        written = {}
        for name, net in (("twin", students.twin), ("small", students.small)):
            card = {**info.card, "decoder": name, "teacher": info.sha256}
            written[name] = folder.path / f"{net.config.name}-{name}.safetensors"
            save_weights(written[name], net.eval(), card, tables=tables)
        return written
