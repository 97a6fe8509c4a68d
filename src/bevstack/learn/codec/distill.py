"""Distillation of decoders: several decoders, one bitstream (brief codec-checkerboard-deform-kd, section 6).

Step 1 is an ordinary training run: the teacher. Step 2 trains a student decoder of the teacher's shape from the teacher's
pictures and features as well as from the originals. Step 3 takes blocks out of it, the least useful ones first, and trains on.
In steps 2 and 3 everything but the synthesis and its conditioning is frozen - analysis, hyper path, scale net, means, gains -
so that every student decodes the teacher's streams: the model id stays, the reconstruction id changes.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bevstack.codec.config import CodecConfig
from bevstack.codec.model import CodecNet, from_network, spread_plane, to_network
from bevstack.codec.rate import knot_weights, lagrange
from bevstack.learn.run import TrainingError

from .crops import CropStream


@dataclass(frozen=True)
class DistillOptions:
    """What a distillation is asked to do.

    Attributes:
        steps: of step 2 and of step 3, each.
        blocks: residual blocks at 1/8 that the smallest student keeps.
        pictures: weight of the error against the teacher's picture; ``features``: of the error of the trunk's features. Both
            fade
            to 0 over the first nine tenths of a step's budget.
    """

    steps: int = 1000
    blocks: int = 2
    batch: int = 8
    learning_rate: float = 5e-4
    pictures: float = 0.5
    features: float = 0.1
    clip_norm: float = 1.0
    seed: int = 0


def fork(teacher: CodecNet) -> CodecNet:
    """A student: the teacher's twin, of which only the synthesis side learns."""
    student = copy.deepcopy(teacher)
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(name.startswith(("synthesis.", "rate.scales.", "rate.shifts.")))
    return student


def without_block(net: CodecNet, number: int) -> CodecNet:
    """A twin without one trunk block of the synthesis; the conditioning in the middle moves to the new middle.

    Raises:
        TrainingError: no such block, or only one left.
    """
    trunk = net.synthesis.trunk
    assert isinstance(trunk, nn.ModuleList)
    if not 0 <= number < len(trunk) or len(trunk) < 2:
        raise TrainingError(f"block {number} cannot be taken out of a synthesis with {len(trunk)} blocks")
    transform = dataclasses.replace(net.config.transform, decoder_blocks=len(trunk) - 1)
    config = dataclasses.replace(net.config, transform=transform)
    small = CodecNet(config)
    state = {}
    for name, value in net.state_dict().items():
        parts = name.split(".")
        if parts[:2] == ["synthesis", "trunk"]:
            if int(parts[2]) == number:
                continue
            parts[2] = str(int(parts[2]) - (int(parts[2]) > number))
        state[".".join(parts)] = value
    small.load_state_dict(state)
    return small.train(net.training)


@dataclass
class Lesson:
    """One batch as the teacher sees it: latent, conditioning weights, its picture and its features."""

    decoded: Tensor
    weights: Tensor
    pixels: Tensor
    stages: list[Tensor]


@torch.no_grad()
def lesson(teacher: CodecNet, pixels: Tensor, r: Tensor) -> Lesson:
    """Codes (N, 3, H, W) grey levels at rate points (N, 1, a, b) with the teacher."""
    teacher.eval()
    latent = teacher.analysis(to_network(pixels))
    decoded = teacher.code(latent, r, synthesise=False).decoded
    weights = knot_weights(r, teacher.config.rate)
    rows = spread_plane(weights, *latent.shape[-2:]) if weights.shape[-2:] != (1, 1) else weights
    stages = _stages(teacher, decoded, rows)
    return Lesson(decoded, rows, _picture(teacher, stages[-1]), stages)


def _stages(net: CodecNet, decoded: Tensor, rows: Tensor) -> list[Tensor]:
    ratio = 2 if rows.shape[-2:] != (1, 1) else 1
    result: list[Tensor] = net.synthesis.features(decoded, net.rate.conditioning(rows, ratio))  # type: ignore[operator]
    return result


def _picture(net: CodecNet, last: Tensor) -> Tensor:
    return from_network(F.pixel_shuffle(net.synthesis.patch(last), 8))  # type: ignore[operator]


def distillation_loss(
    student: CodecNet, given: Lesson, pixels: Tensor, r: Tensor, options: DistillOptions, fade: float
) -> Tensor:
    """lambda * [MSE(x, s) + a MSE(t, s)] + b sum of relative feature errors, with a and b times ``fade``."""
    stages = _stages(student, given.decoded, given.weights)
    picture = _picture(student, stages[-1])
    config = student.config.rate
    # Errors count by the root of lambda, as in training: all rates alike.
    scale = torch.tensor([math.sqrt(lagrange(float(v), config)) for v in r.mean((1, 2, 3))], dtype=picture.dtype)
    error = (scale * (picture - pixels).square().mean((1, 2, 3))).mean()
    error = error + fade * options.pictures * (scale * (picture - given.pixels).square().mean((1, 2, 3))).mean()
    # The student's k-th stage is held against the teacher's stage at the same share of the depth.
    for number, stage in enumerate(stages):
        twin = given.stages[round((number + 1) / len(stages) * len(given.stages)) - 1]
        size = twin.square().mean()
        error = error + fade * options.features * (stage - twin).square().mean() / size / len(stages)
    return error


def least_useful(student: CodecNet, given: Lesson, pixels: Tensor) -> int:
    """The trunk block whose absence costs least."""
    trunk = student.synthesis.trunk
    assert isinstance(trunk, nn.ModuleList)
    costs = []
    with torch.no_grad():
        for number in range(len(trunk)):
            small = without_block(student, number)
            picture = _picture(small, _stages(small, given.decoded, given.weights)[-1])
            costs.append(float((picture - pixels).square().mean()))
    return costs.index(min(costs))


def _batch(crops: CropStream, step: int, config: CodecConfig, seed: int) -> tuple[Tensor, Tensor]:
    import numpy as np

    pixels = torch.from_numpy(crops(step)).permute(0, 3, 1, 2).float()
    random = np.random.default_rng((seed, step, 3))
    r = random.random(len(pixels)) * (config.rate.levels - 1)
    return pixels, torch.from_numpy(r.astype(np.float32))[:, None, None, None]


def _train(student: CodecNet, teacher: CodecNet, crops: CropStream, first: int, options: DistillOptions) -> list[float]:
    learning = [p for p in student.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(learning, lr=options.learning_rate, betas=(0.9, 0.98))
    losses = []
    for step in range(options.steps):
        share = step / max(1, options.steps)
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * max(1e-3, 0.5 * (1 + math.cos(math.pi * share)))
        pixels, r = _batch(crops, first + step, student.config, options.seed)
        given = lesson(teacher, pixels, r)
        loss = distillation_loss(student, given, pixels, r, options, max(0.0, 1.0 - share / 0.9))
        if not math.isfinite(float(loss.detach())):
            raise TrainingError(
                f"distillation loss is {float(loss.detach())} at step {first + step}: use a lower learning rate"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(learning, options.clip_norm)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def distill(
    teacher: CodecNet, crops: CropStream, options: DistillOptions, report: Callable[[str], None] = print
) -> dict[str, CodecNet]:
    """Steps 2 and 3. Returns the same-size student ("twin") and the shrunk one ("small"); both decode the teacher's streams.

    Raises:
        TrainingError: the student would keep more blocks than the teacher has, or none.
    """
    depth = teacher.config.transform.decoder_blocks
    if not 1 <= options.blocks <= depth:
        raise TrainingError(
            f"a student with {options.blocks} blocks cannot be made of a teacher with {depth}: choose 1 to {depth}"
        )
    twin = fork(teacher)
    losses = _train(twin, teacher, crops, 0, options)
    report(f"twin: loss {_mean(losses[:20]):.4f} -> {_mean(losses[-20:]):.4f}")
    small = fork(twin)
    pixels, r = _batch(crops, 20_000_000, teacher.config, options.seed)
    while small.config.transform.decoder_blocks > options.blocks:
        number = least_useful(small, lesson(teacher, pixels, r), pixels)
        small = fork(without_block(small, number))
        report(f"block {number} taken out, {small.config.transform.decoder_blocks} left")
    losses = _train(small, teacher, crops, options.steps, options)
    report(f"small: loss {_mean(losses[:20]):.4f} -> {_mean(losses[-20:]):.4f}")
    return {"twin": twin.eval(), "small": small.eval()}


def _mean(values: list[float]) -> float:
    return sum(values) / max(1, len(values))
